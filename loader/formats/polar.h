/*
 * loader/formats/polar.h - HLWQ checkpoints whose codes lie apart: PolarEngine's, and the int8 variant.
 *
 * A matrix P.weight is P.codes, or P.codes_packed, [out, bytes]; P.norms F16 [out, nb]; and its levels F32 [2^bits],
 * P.ct_scaled (divided by sqrt(128)) or P.ct.  What a row of codes is, its length says: nb * 128 bytes one a byte,
 * nb * 64 nibbles in half-block order, nb * 80 five bits from the lowest up.  The int8 variant has P with its dots as
 * "__", then "__codes" I8 and "__norms" F16, and no levels.
 */
#ifndef HS_LOADER_FORMATS_POLAR_H
#define HS_LOADER_FORMATS_POLAR_H

#include "loader/hf_private.h"

/* The logical tensor of `codes`; norms and levels NULL where the file has none. */
hlwq_status hs_polar_tensor(hs_hf *hf, const hs_raw *codes, const hs_raw *norms, const hs_raw *levels, hs_tensor *out,
                            hlwq_error *err);

/* The same for the int8 variant, whose width polar_config.json has under the parameter's name. */
hlwq_status hs_polar_dunder_tensor(hs_hf *hf, const hs_raw *codes, const hs_raw *norms, const char *parameter,
                                   hs_tensor *out, hlwq_error *err);

#endif
