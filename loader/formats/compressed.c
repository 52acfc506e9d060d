/*
 * loader/formats/compressed.c - checks the tensors of a module against each other.
 */
#include "loader/formats/compressed.h"

#include "base/size.h"

#include <inttypes.h>
#include <string.h>

/* out and in of the module. */
static hlwq_status read_shape(const hs_hf *hf, const hs_int_config *config, const hs_raw *p, const hs_raw *shape,
                              uint64_t dim[2], hlwq_error *err)
{
    const uint32_t bits = config->bits == 8 ? 8 : 4; /* only used where no shape is stored */
    int64_t value[2] = {(int64_t)p->entry.dim[0], (int64_t)(p->entry.dim[1] * (32 / bits))};
    if (shape) {
        if (shape->entry.dtype != HS_I64 || shape->entry.rank != 1 || shape->entry.dim[0] != 2)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is not I64 [2]", hf->path[shape->file],
                           shape->entry.name);
        HS_TRY(hs_file_read(&hf->file[shape->file], shape->entry.offset, value, 16, hf->path[shape->file], err));
    }
    for (int i = 0; i < 2; i++) {
        if (value[i] < 1 || value[i] > INT32_MAX)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: dimension %d is %" PRId64 ", should be 1 to %d",
                           hf->path[p->file], p->entry.name, i, value[i], INT32_MAX);
        dim[i] = (uint64_t)value[i];
    }
    return HLWQ_OK;
}

/* Inputs of a group: of the sizes that the config has, the one that gives that many. */
static uint32_t group_size(const hs_int_config *c, uint64_t in, uint64_t groups)
{
    if (groups == 1)
        return (uint32_t)in;
    for (uint32_t i = 0; i < c->n_sizes; i++)
        if (hs_ceil_div(in, c->size[i]) == groups)
            return c->size[i];
    return in % groups == 0 ? (uint32_t)(in / groups) : 0;
}

static hlwq_status check_types(const hs_hf *hf, const hs_raw *p, const hs_raw *s, const hs_raw *z, const hs_raw *g,
                               hlwq_error *err)
{
    if (!s)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s of the compressed-tensors format has no weight_scale beside it",
                       hf->path[p->file], p->entry.name);
    if (p->entry.dtype != HS_I32 || p->entry.rank != 2 || !hs_dtype_float(s->entry.dtype) || s->entry.rank != 2 ||
        (z && (z->entry.dtype != HS_I32 || z->entry.rank != 2)) ||
        (g && (g->entry.dtype != HS_I32 || g->entry.rank != 1)))
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s of the compressed-tensors format and its companions are not matrices of I32 "
                       "and of BF16 scales",
                       hf->path[p->file], p->entry.name);
    return HLWQ_OK;
}

hlwq_status hs_compressed_tensor(hs_hf *hf, const hs_int_config *config, const hs_raw *p, const hs_raw *s,
                                 const hs_raw *shape, const hs_raw *z, const hs_raw *g, hs_tensor *t, hlwq_error *err)
{
    uint64_t dim[2] = {0};
    HS_TRY(check_types(hf, p, s, z, g, err));
    HS_TRY(read_shape(hf, config, p, shape, dim, err));
    const uint64_t out = dim[0], in = dim[1], words = p->entry.dim[1], groups = s->entry.dim[1];
    const uint64_t bits = words <= in ? hs_max_u64(1, 32 * words / in) : 0;
    if (p->entry.dim[0] != out)
        return hs_int_wrong(hf, p, "the number of outputs", p->entry.dim[0], out, err);
    if (bits < 2 || bits > 8 || hs_ceil_div(in * bits, 32) != words)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: %" PRIu64 " words for %" PRIu64 " inputs are not codes of 2 to 8 bits",
                       hf->path[p->file], p->entry.name, words, in);
    if (s->entry.dim[0] != out)
        return hs_int_wrong(hf, s, "the number of outputs", s->entry.dim[0], out, err);
    if (groups < 1 || groups > in)
        return hs_int_wrong(hf, s, "the number of groups", groups, in, err);
    if (z && z->entry.dim[0] != hs_ceil_div(out * bits, 32))
        return hs_int_wrong(hf, z, "the number of words in a column", z->entry.dim[0], hs_ceil_div(out * bits, 32),
                            err);
    if (z && z->entry.dim[1] != groups)
        return hs_int_wrong(hf, z, "the number of groups", z->entry.dim[1], groups, err);
    if (g && g->entry.dim[0] != in)
        return hs_int_wrong(hf, g, "the number of inputs", g->entry.dim[0], in, err);
    *t = (hs_tensor){.encoding = HS_ENC_COMPRESSED,
                     .rank = 2,
                     .dim = {out, in},
                     .name = p->entry.name,
                     .data = {p->file, p->entry.offset, p->entry.bytes},
                     .norms = {s->file, s->entry.offset, s->entry.bytes},
                     .ints = {.bits = (uint32_t)bits,
                              .groups = (uint32_t)groups,
                              .group = group_size(config, in, groups),
                              .scale = s->entry.dtype}};
    if (z)
        t->ints.zeros = (hs_range){z->file, z->entry.offset, z->entry.bytes};
    if (g)
        t->ints.index = (hs_range){g->file, g->entry.offset, g->entry.bytes};
    else if (t->ints.group == 0)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: %" PRIu64 " groups of %" PRIu64 " inputs fit no group_size of the config",
                       hf->path[s->file], s->entry.name, groups, in);
    return hs_int_settle(hf, t, err);
}
