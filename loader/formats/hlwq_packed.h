/*
 * loader/formats/hlwq_packed.h - the bit-packed HLWQ checkpoints ("hlwq-q5" and its kin).
 *
 * A parameter P is three file tensors: P__packed U8, a big-endian bit stream of out * nb * 128 codes; P__norms F16
 * [out, nb]; P__meta I64 [out, nb, 128, codes, in], older files without the last.  No levels are stored.  PQ-multi is
 * the same with the dots of P written as "__", and plain tensors in a file of their own.
 */
#ifndef HS_LOADER_FORMATS_HLWQ_PACKED_H
#define HS_LOADER_FORMATS_HLWQ_PACKED_H

#include "loader/hf_private.h"

#define HS_POLAR_CONFIG_MAX (16u << 20)

/* Makes the logical tensor of `packed` (its name ends __packed); dim[1] is 0 where the file does not say. */
hlwq_status hs_hlwq_packed_tensor(hs_hf *hf, const hs_raw *packed, const hs_raw *norms, const hs_raw *meta,
                                  hs_tensor *out, hlwq_error *err);

/*
 * polar_config.json, where there is one: every packed tensor must have the width that `bits` or `format` ("hlwq-q5")
 * states, and blocks are of 128.  Nothing to do without packed tensors.
 */
hlwq_status hs_hlwq_check_config(hs_hf *hf, hlwq_error *err);

/* polar_config.json in *root, which stays the hf's; NULL if there is none. */
hlwq_status hs_polar_config(hs_hf *hf, const hs_json **root, char **path, hlwq_error *err);

/* Canonical form of an expert slice: "...gate_up_proj_e3" whatever side of ".weight" the suffix stands on. */
void hs_hlwq_slice_name(char *name);

#endif
