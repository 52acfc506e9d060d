/*
 * loader/formats/eoq.h - EOQ v3: rotated codes behind AWQ scales.
 *
 * A layer L is L.packed U8, a bit stream of plain indexes (lowest bit first, as far as is known: the store looks);
 * L.norms F16, one a block of 128 in row-major order; and L.awq_scales F16 [in], which the weights were multiplied by
 * before.  Shapes are those of config.json.  Levels are in the metadata of a shard's header ("centroids", a JSON text),
 * in a tensor "centroids" or in eoq_metadata.json; without them they are the author's book A.
 */
#ifndef HS_LOADER_FORMATS_EOQ_H
#define HS_LOADER_FORMATS_EOQ_H

#include "loader/hf_private.h"

/* The logical tensor of `packed`, one of the `n` of `raw`; `awq` may be NULL. */
hlwq_status hs_eoq3_tensor(hs_hf *hf, const hs_raw *raw, uint32_t n, const hs_raw *packed, const hs_raw *norms,
                           const hs_raw *awq, hs_tensor *out, hlwq_error *err);

#endif
