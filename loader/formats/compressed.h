/*
 * loader/formats/compressed.h - compressed-tensors checkpoints, "pack-quantized" integers.
 *
 * A linear module M is M.weight_packed I32 [out, ceil(in * bits / 32)], fields along the inputs, each the code plus
 * 2^(bits-1); M.weight_scale [out, groups]; M.weight_shape I64 [2], out and in, where the writer has it;
 * M.weight_zero_point I32 [ceil(out * bits / 32), groups], fields along the outputs; M.weight_g_idx I32 [in].
 */
#ifndef HS_LOADER_FORMATS_COMPRESSED_H
#define HS_LOADER_FORMATS_COMPRESSED_H

#include "loader/formats/int_groups.h"

/* The logical tensor of `packed`; shape, zero and g_idx may be NULL. */
hlwq_status hs_compressed_tensor(hs_hf *hf, const hs_int_config *config, const hs_raw *packed, const hs_raw *scale,
                                 const hs_raw *shape, const hs_raw *zero, const hs_raw *g_idx, hs_tensor *out,
                                 hlwq_error *err);

#endif
