/*
 * loader/hf_tensors.c - from file tensors to the parameters of the model, under canonical names.
 */
#include "loader/formats/compressed.h"
#include "loader/formats/eoq.h"
#include "loader/formats/gptq.h"
#include "loader/formats/hlwq_packed.h"
#include "loader/formats/polar.h"
#include "loader/formats/wide.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_raw_name(const void *a, const void *b)
{
    return strcmp(((const hs_raw *)a)->entry.name, ((const hs_raw *)b)->entry.name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const hs_tensor *)a)->name, ((const hs_tensor *)b)->name);
}

static bool begins(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

const char *hs_hf_canonical(const char *name)
{
    static const char *const prefix[] = {"model.language_model.", "model."};
    for (int i = 0; i < 2; i++)
        if (begins(name, prefix[i]))
            return name + strlen(prefix[i]);
    return name;
}

/* Endings that no plain tensor has: formats that are not read, or companions without the tensor they belong to. */
static hlwq_status refuse_foreign(const hs_hf *hf, const hs_raw *r, hlwq_error *err)
{
    static const char *const suffix[][3] = {
        {".qzeros", "GPTQ", ".qweight"},
        {".weight_scale", "compressed-tensors or scaled FP8", ".weight_packed"},
        {".weight_scale_inv", "block-scaled FP8", ".weight of FP8"},
        {".absmax", "bitsandbytes", NULL},
        {".biases", "MLX", NULL},
        {".ct_scaled", "PolarEngine", ".codes"},
        {".ct", "PolarEngine", ".codes"},
        {".norms", "PolarEngine or EOQ", ".codes or .packed"},
        {".codes", "EOQ", ".scales"},
        {".packed", "EOQ v3", ".norms"},
        {".awq_scales", "EOQ v3", ".packed"},
        {"__codes", "HLWQ int8", "__norms"},
        {"__norms", "HLWQ", "__packed or __codes"},
        {"__meta", "HLWQ", "__packed"},
    };
    const char *name = r->entry.name;
    size_t base;
    if (begins(name, "language_model.model.")) /* its norms have 1 added: right shapes, wrong numbers */
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is of the MLX format, which this version does not read",
                       hf->path[r->file], name);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        if (!hs_hf_ends(name, suffix[i][0], &base))
            continue;
        if (!suffix[i][2])
            return hs_fail(err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s is of the %s format, which this version does not read", hf->path[r->file],
                           name, suffix[i][1]);
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s of the %s format has no %s beside it",
                       hf->path[r->file], name, suffix[i][1], suffix[i][2]);
    }
    return HLWQ_OK;
}

const hs_raw *hs_hf_raw(const hs_raw *raw, uint32_t n, const char *base, size_t base_bytes, const char *suffix)
{
    char name[HS_SAFETENSORS_NAME_MAX + 24];
    hs_raw key = {.entry = {.name = name}};
    snprintf(name, sizeof name, "%.*s%s", (int)base_bytes, base, suffix);
    return bsearch(&key, raw, n, sizeof *raw, by_raw_name);
}

bool hs_hf_ends(const char *name, const char *suffix, size_t *base)
{
    size_t n = strlen(name), s = strlen(suffix);
    if (n <= s || strcmp(name + n - s, suffix) != 0)
        return false;
    *base = n - s;
    return true;
}

hlwq_status hs_hf_book(hs_hf *hf, const hs_levels *levels, uint32_t *book, hlwq_error *err)
{
    for (uint32_t i = 0; i < hf->n_books; i++)
        if (hf->book[i].bits == levels->bits && hf->book[i].author == levels->author &&
            memcmp(hf->book[i].level, levels->level, sizeof levels->level) == 0) {
            *book = i;
            return HLWQ_OK;
        }
    if (hf->n_books == sizeof hf->book / sizeof *hf->book)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: more than %zu different codebooks", hf->dir,
                       sizeof hf->book / sizeof *hf->book);
    hf->book[hf->n_books] = *levels;
    *book = hf->n_books++;
    return HLWQ_OK;
}

static hlwq_status plain_tensor(const hs_hf *hf, const hs_raw *r, hs_tensor *t, hlwq_error *err)
{
    const hs_st_entry *e = &r->entry;
    if (e->rank > 4)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has %u dimensions, limit 4", hf->path[r->file], e->name,
                       e->rank);
    *t = (hs_tensor){
        .dtype = e->dtype, .encoding = HS_ENC_PLAIN, .rank = e->rank, .data = {r->file, e->offset, e->bytes}};
    memcpy(t->dim, e->dim, e->rank * sizeof *t->dim);
    return HLWQ_OK;
}

/* ---- families ------------------------------------------------------------------------------- */

typedef enum family { PLAIN, GPTQ, COMPRESSED, PACKED, DUNDER, POLAR, EOQ3, EOQ, FP8 } family;

/* What a file tensor's ending says: whose it is, if the tensor with the second ending is there. */
static const struct {
    const char *suffix, *main;
    family of;
} ending[] = {
    {".qweight", ".qweight", GPTQ},
    {".qzeros", ".qweight", GPTQ},
    {".scales", ".qweight", GPTQ},
    {".g_idx", ".qweight", GPTQ},
    {".weight_packed", ".weight_packed", COMPRESSED},
    {".weight_scale", ".weight_packed", COMPRESSED},
    {".weight_shape", ".weight_packed", COMPRESSED},
    {".weight_zero_point", ".weight_packed", COMPRESSED},
    {".weight_g_idx", ".weight_packed", COMPRESSED},
    {"__packed", "__packed", PACKED},
    {"__norms", "__packed", PACKED},
    {"__meta", "__packed", PACKED},
    {"__codes", "__codes", DUNDER},
    {"__norms", "__codes", DUNDER},
    {".codes", ".scales", EOQ}, /* before PolarEngine's, which has norms instead */
    {".scales", ".codes", EOQ},
    {".weight", ".weight_scale_inv", FP8},
    {".weight_scale_inv", ".weight", FP8},
    {".codes", ".codes", POLAR},
    {".norms", ".codes", POLAR},
    {".ct_scaled", ".codes", POLAR},
    {".ct", ".codes", POLAR},
    {".codes_packed", ".codes_packed", POLAR},
    {".norms", ".codes_packed", POLAR},
    {".ct_scaled", ".codes_packed", POLAR},
    {".ct", ".codes_packed", POLAR},
    {".packed", ".packed", EOQ3},
    {".norms", ".packed", EOQ3},
    {".awq_scales", ".packed", EOQ3},
};

typedef struct module {
    const hs_raw *raw; /* all of them, sorted */
    uint32_t n;
    const hs_raw *main; /* the tensor that stands for the parameter */
    size_t base;        /* what its name has before the ending */
    family of;
} module;

/* False for a file tensor that is only a companion of another. */
static bool find_module(const hs_raw *raw, uint32_t n, uint32_t i, module *m)
{
    const char *name = raw[i].entry.name;
    *m = (module){raw, n, &raw[i], strlen(name), PLAIN};
    for (size_t k = 0; k < sizeof ending / sizeof *ending; k++) {
        size_t base;
        if (!hs_hf_ends(name, ending[k].suffix, &base) || !hs_hf_raw(raw, n, name, base, ending[k].main))
            continue;
        m->of = ending[k].of;
        m->base = base;
        if (m->of == EOQ || m->of == FP8) /* told by the companion, not by the ending of their own */
            return strcmp(ending[k].suffix, m->of == EOQ ? ".codes" : ".weight") == 0;
        return strcmp(ending[k].suffix, ending[k].main) == 0;
    }
    return true;
}

static const hs_raw *beside(const module *m, const char *suffix)
{
    return hs_hf_raw(m->raw, m->n, m->main->entry.name, m->base, suffix);
}

/* Parameters whose own name has no ".weight". */
static bool fused_experts(const char *name)
{
    size_t base;
    return hs_hf_ends(name, ".mlp.experts.gate_up_proj", &base) || hs_hf_ends(name, ".mlp.experts.down_proj", &base);
}

/* The parameter's name in the checkpoint: "__" stands for dots where there are none; modules have a weight. */
static void parameter_name(const module *m, char name[HS_SAFETENSORS_NAME_MAX + 16])
{
    size_t base;
    snprintf(name, HS_SAFETENSORS_NAME_MAX + 16, "%.*s", (int)m->base, m->main->entry.name);
    if ((m->of == PACKED || m->of == DUNDER) && !strchr(name, '.')) {
        char *to = name;
        for (const char *from = name; *from; from++, to++) {
            *to = *from;
            if (from[0] == '_' && from[1] == '_') {
                *to = '.';
                from++;
            }
        }
        *to = 0;
    }
    if (m->of == EOQ3 && !fused_experts(name) && !hs_hf_ends(name, ".weight", &base))
        strcat(name, ".weight");
    bool is_module = m->of == GPTQ || m->of == COMPRESSED || m->of == POLAR || m->of == FP8;
    if (is_module && !hs_hf_ends(name, ".weight", &base)) /* some exporters write M.weight.weight_packed */
        strcat(name, ".weight");
}

static hlwq_status read_module(hs_hf *hf, const hs_int_config *config, const module *m, const char *name, hs_tensor *t,
                               hlwq_error *err)
{
    const hs_raw *levels = beside(m, ".ct_scaled");
    switch (m->of) {
    case GPTQ:
        return hs_gptq_tensor(hf, config, m->main, beside(m, ".qzeros"), beside(m, ".scales"), beside(m, ".g_idx"), t,
                              err);
    case COMPRESSED:
        return hs_compressed_tensor(hf, config, m->main, beside(m, ".weight_scale"), beside(m, ".weight_shape"),
                                    beside(m, ".weight_zero_point"), beside(m, ".weight_g_idx"), t, err);
    case PACKED: return hs_hlwq_packed_tensor(hf, m->main, beside(m, "__norms"), beside(m, "__meta"), t, err);
    case DUNDER: return hs_polar_dunder_tensor(hf, m->main, beside(m, "__norms"), name, t, err);
    case POLAR: return hs_polar_tensor(hf, m->main, beside(m, ".norms"), levels ? levels : beside(m, ".ct"), t, err);
    case EOQ3: return hs_eoq3_tensor(hf, m->raw, m->n, m->main, beside(m, ".norms"), beside(m, ".awq_scales"), t, err);
    case EOQ: return hs_eoq_tensor(hf, m->main, beside(m, ".scales"), t, err);
    case FP8: return hs_fp8_tensor(hf, m->main, beside(m, ".weight_scale_inv"), t, err);
    default: break;
    }
    HS_TRY(refuse_foreign(hf, m->main, err));
    return plain_tensor(hf, m->main, t, err);
}

/* Sets *made false for file tensors that are only a companion of another. */
static hlwq_status make_tensor(hs_hf *hf, const hs_int_config *config, const hs_raw *raw, uint32_t n, uint32_t i,
                               hs_tensor *t, bool *made, hlwq_error *err)
{
    char name[HS_SAFETENSORS_NAME_MAX + 16], *copy;
    module m;
    *made = find_module(raw, n, i, &m);
    if (!*made)
        return HLWQ_OK;
    parameter_name(&m, name);
    HS_TRY(read_module(hf, config, &m, name, t, err));
    const char *short_name = hs_hf_canonical(name);
    HS_TRY(hs_arena_text(&hf->arena, short_name, strlen(short_name), &copy, err));
    if (t->encoding == HS_ENC_HLWQ)
        hs_hlwq_slice_name(copy);
    t->name = copy;
    return HLWQ_OK;
}

/* ---- what to call it ------------------------------------------------------------------------ */

/* "PolarEngine Q3 Q5", if any matrix is of that kind. */
static hlwq_status name_rotated(hs_hf *hf, hlwq_error *err)
{
    const char *name = NULL;
    bool width[7] = {false}, awq = false;
    char text[120], *copy;
    for (uint32_t i = 0; i < hf->n_tensors; i++)
        if (hf->tensor[i].encoding == HS_ENC_HLWQ) {
            width[hs_dtype_bits(hf->tensor[i].dtype)] = true;
            awq = awq || hf->tensor[i].awq.bytes;
            if (!name || hf->tensor[i].packing == HS_PACK_HALVES) /* a notebook's nibbles say which notebook */
                name = hf->tensor[i].family;
        }
    if (!name)
        return HLWQ_OK;
    int n = snprintf(text, sizeof text, "%s", name);
    for (uint32_t b = 2; b <= 6; b++)
        if (width[b])
            n += snprintf(text + n, sizeof text - (size_t)n, " Q%u", b);
    if (awq)
        snprintf(text + n, sizeof text - (size_t)n, ", AWQ scales");
    HS_TRY(hs_arena_text(&hf->arena, text, strlen(text), &copy, err));
    hf->format = copy;
    return HLWQ_OK;
}

/* Formats whose matrices are widened: says so, since memory grows. */
static void name_widened(hs_hf *hf, const hs_log *log)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < hf->n_tensors; i++)
        if (hs_tensor_widened(&hf->tensor[i])) {
            hf->format = hf->tensor[i].family;
            n++;
        }
    if (n)
        hs_log_line(log, HLWQ_LOG_WARN, "%s: %u matrices of %s have no packed form here and are dequantised", hf->dir,
                    n, hf->format);
}

hlwq_status hs_hf_name_format(hs_hf *hf, const hs_log *log, hlwq_error *err)
{
    HS_TRY(hs_int_describe(hf, log, &hf->format, err));
    if (!hf->format)
        HS_TRY(name_rotated(hf, err));
    if (!hf->format)
        name_widened(hf, log);
    if (hf->format)
        return HLWQ_OK;
    uint64_t bytes[HS_DTYPE_COUNT] = {0};
    hs_dtype most = HS_F32;
    for (uint32_t i = 0; i < hf->n_tensors; i++)
        bytes[hf->tensor[i].dtype] += hf->tensor[i].data.bytes;
    for (int d = 0; d < HS_DTYPE_COUNT; d++)
        if (bytes[d] > bytes[most])
            most = (hs_dtype)d;
    hf->format = hs_dtype_name(most);
    return HLWQ_OK;
}

bool hs_hf_skipped(const char *name)
{
    size_t base;
    return begins(name, "model.visual.") || begins(name, "visual.") || begins(name, "model__visual__") ||
           hs_hf_ends(name, "rotary_emb.inv_freq", &base) || strcmp(name, "centroids") == 0;
}

hlwq_status hs_hf_list_tensors(hs_hf *hf, const hs_raw *unsorted, uint32_t n, const hs_log *log, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_arena_array(&hf->arena, n, sizeof(hs_raw), &p, err));
    hs_raw *raw = p;
    if (n)
        memcpy(raw, unsorted, n * sizeof *raw);
    qsort(raw, n, sizeof *raw, by_raw_name);
    HS_TRY(hs_arena_array(&hf->arena, n, sizeof(hs_tensor), &p, err));
    hf->tensor = p;
    hs_int_config config;
    HS_TRY(hs_int_config_read(hf, &config, err));
    for (uint32_t i = 0; i < n; i++) {
        const char *name = raw[i].entry.name;
        if (i && strcmp(name, raw[i - 1].entry.name) == 0)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is a duplicate, it is also in %s",
                           hf->path[raw[i].file], name, hf->path[raw[i - 1].file]);
        if (hs_hf_skipped(name)) {
            hf->n_skipped++;
            hf->skipped_bytes += raw[i].entry.bytes;
            continue;
        }
        bool made;
        HS_TRY(make_tensor(hf, &config, raw, n, i, &hf->tensor[hf->n_tensors], &made, err));
        hf->n_tensors += made;
    }
    if (hf->n_skipped)
        hs_log_line(log, HLWQ_LOG_INFO, "%s: %u vision tensors (%.1f MiB) are skipped", hf->dir, hf->n_skipped,
                    (double)hf->skipped_bytes / 1048576.0);
    qsort(hf->tensor, hf->n_tensors, sizeof *hf->tensor, by_name);
    for (uint32_t i = 1; i < hf->n_tensors; i++)
        if (strcmp(hf->tensor[i].name, hf->tensor[i - 1].name) == 0)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is a duplicate under two prefixes", hf->dir,
                           hf->tensor[i].name);
    HS_TRY(hs_hf_name_format(hf, log, err));
    return hs_hlwq_check_config(hf, err);
}

const hs_tensor *hs_hf_find(const hs_hf *hf, const char *name)
{
    hs_tensor key = {.name = name};
    return hf->n_tensors ? bsearch(&key, hf->tensor, hf->n_tensors, sizeof key, by_name) : NULL;
}
