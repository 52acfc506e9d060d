/*
 * loader/formats/gptq.h - GPTQ checkpoints, version 1 and 2, of 2, 3, 4 or 8 bits.
 *
 * A linear module M with `in` inputs and `out` outputs is M.qweight I32 [in * bits / 32, out], fields along the inputs;
 * M.qzeros I32 [groups, out * bits / 32], fields along the outputs; M.scales [groups, out]; M.g_idx I32 [in], the
 * group of each input.  Bits and groups come from these shapes, never from the config, whose `dynamic` overrides them.
 */
#ifndef HS_LOADER_FORMATS_GPTQ_H
#define HS_LOADER_FORMATS_GPTQ_H

#include "loader/formats/int_groups.h"

/* The logical tensor of `qweight`; the others NULL where the file has none. */
hlwq_status hs_gptq_tensor(hs_hf *hf, const hs_int_config *config, const hs_raw *qweight, const hs_raw *qzeros,
                           const hs_raw *scales, const hs_raw *g_idx, hs_tensor *out, hlwq_error *err);

#endif
