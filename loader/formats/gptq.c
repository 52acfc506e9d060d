/*
 * loader/formats/gptq.c - checks the four tensors of a module against each other.
 */
#include "loader/formats/gptq.h"

#include <inttypes.h>
#include <string.h>

static hlwq_status check_types(const hs_hf *hf, const hs_raw *w, const hs_raw *z, const hs_raw *s, const hs_raw *g,
                               hlwq_error *err)
{
    const char *missing = !z ? "qzeros" : !s ? "scales" : !g ? "g_idx" : NULL;
    if (missing)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s of the GPTQ format has no %s beside it",
                       hf->path[w->file], w->entry.name, missing);
    if (w->entry.dtype != HS_I32 || w->entry.rank != 2 || z->entry.dtype != HS_I32 || z->entry.rank != 2 ||
        g->entry.dtype != HS_I32 || g->entry.rank != 1 || !hs_dtype_float(s->entry.dtype) || s->entry.rank != 2)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s of the GPTQ format and its qzeros, g_idx and scales are not matrices of I32, "
                       "a vector of I32 and a matrix of F16",
                       hf->path[w->file], w->entry.name);
    return HLWQ_OK;
}

hlwq_status hs_gptq_tensor(hs_hf *hf, const hs_int_config *config, const hs_raw *w, const hs_raw *z, const hs_raw *s,
                           const hs_raw *g, hs_tensor *t, hlwq_error *err)
{
    if (*config->method && strcmp(config->method, "gptq") != 0)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is named as in GPTQ, but the config says \"%s\"",
                       hf->path[w->file], w->entry.name, config->method);
    HS_TRY(check_types(hf, w, z, s, g, err));
    const uint64_t words = w->entry.dim[0], out = w->entry.dim[1], in = g->entry.dim[0], groups = s->entry.dim[0];
    if (in < 1 || out < 1 || in > INT32_MAX || out > INT32_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: %" PRIu64 " inputs and %" PRIu64 " outputs, should be 1 to %d",
                       hf->path[w->file], w->entry.name, in, out, INT32_MAX);
    const uint64_t bits = words <= in ? 32 * words / in : 0;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: %" PRIu64 " rows of words for the %" PRIu64
                       " inputs of g_idx are not codes of 2, 3, 4 or 8 bits",
                       hf->path[w->file], w->entry.name, words, in);
    if (words * 32 != bits * in)
        return hs_int_wrong(hf, g, "the number of inputs", in, words * 32 / bits, err);
    if (groups < 1 || groups > in)
        return hs_int_wrong(hf, s, "the number of groups", groups, in, err);
    if (s->entry.dim[1] != out)
        return hs_int_wrong(hf, s, "the number of outputs", s->entry.dim[1], out, err);
    if (z->entry.dim[0] != groups)
        return hs_int_wrong(hf, z, "the number of groups", z->entry.dim[0], groups, err);
    if (z->entry.dim[1] * 32 != out * bits)
        return hs_int_wrong(hf, z, "the number of words in a row", z->entry.dim[1], out * bits / 32, err);
    *t = (hs_tensor){.encoding = HS_ENC_GPTQ,
                     .rank = 2,
                     .dim = {out, in},
                     .name = w->entry.name,
                     .data = {w->file, w->entry.offset, w->entry.bytes},
                     .norms = {s->file, s->entry.offset, s->entry.bytes},
                     .ints = {.bits = (uint32_t)bits,
                              .groups = (uint32_t)groups,
                              .scale = s->entry.dtype,
                              .less_one = config->less_one,
                              .zeros = {z->file, z->entry.offset, z->entry.bytes},
                              .index = {g->file, g->entry.offset, g->entry.bytes}}};
    return hs_int_settle(hf, t, err);
}
