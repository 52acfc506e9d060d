/*
 * model/synth.c - containers of real geometry with random weights, so that speed can be measured without a download.
 *
 * One extent in memory at a time.  Codes are random bits, norms give every matrix rows of unit gain; what the model
 * says is noise, but every byte is read and every operation done as in the model it is like.
 */
#include "model/engine.h"

#include "base/text.h"
#include "kernels/int4.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct geometry {
    const char *name;
    uint32_t hidden, layers, q_heads, kv_heads, v_heads, intermediate, experts, used, expert_width;
} geometry;

/* The released sizes; head_dim 256, 16 key heads and linear heads of 128 in all of them. */
static const geometry known[] = {
    {"9b", 4096, 32, 16, 4, 32, 12288, 0, 0, 0},
    {"27b", 5120, 64, 24, 4, 48, 17408, 0, 0, 0},
    {"35b-a3b", 2048, 40, 16, 2, 32, 0, 256, 8, 512},
};

enum { VOCAB = 248320 };

hlwq_synth_options hlwq_synth_options_default(void)
{
    return (hlwq_synth_options){.bits = 5};
}

static hlwq_status find_geometry(const char *name, const geometry **g, hlwq_error *err)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (name && strcmp(name, known[i].name) == 0) {
            *g = &known[i];
            return HLWQ_OK;
        }
    return hs_fail(err, HLWQ_ERR_ARG, "\"%s\" is none of the known geometries: 9b, 27b, 35b-a3b", name ? name : "");
}

static void write_config(hs_text *t, const geometry *g, uint32_t layers, uint32_t vocab, bool mtp)
{
    hs_text_format(
        t,
        "{\"model_type\":\"%s\",\"vocab_size\":%u,\"hidden_size\":%u,\"num_hidden_layers\":%u,"
        "\"num_attention_heads\":%u,\"num_key_value_heads\":%u,\"head_dim\":256,\"linear_num_key_heads\":16,"
        "\"linear_num_value_heads\":%u,\"linear_key_head_dim\":128,\"linear_value_head_dim\":128,"
        "\"linear_conv_kernel_dim\":4,\"full_attention_interval\":4,\"rms_norm_eps\":1e-6,"
        "\"max_position_embeddings\":262144,\"tie_word_embeddings\":false,"
        "\"mtp_num_hidden_layers\":%u,"
        "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000000,\"partial_rotary_factor\":0.25},",
        g->experts ? "qwen3_5_moe_text" : "qwen3_5_text", vocab, g->hidden, layers, g->q_heads, g->kv_heads, g->v_heads,
        mtp ? 1 : 0);
    if (g->experts)
        hs_text_format(t,
                       "\"num_experts\":%u,\"num_experts_per_tok\":%u,\"moe_intermediate_size\":%u,"
                       "\"shared_expert_intermediate_size\":%u}",
                       g->experts, g->used, g->expert_width, g->expert_width);
    else
        hs_text_format(t, "\"intermediate_size\":%u}", g->intermediate);
}

/* The table's codebook of so many bits. */
static uint32_t book_of(hs_table *t, uint32_t bits)
{
    for (uint32_t i = 0; i < t->n_books; i++)
        if (t->book[i].bits == bits)
            return i;
    t->book[t->n_books].bits = bits;
    hs_book_levels(HS_BOOK_CONVERGED, bits, t->book[t->n_books].level);
    return t->n_books++;
}

static void pack(hs_table *t, hs_part *p, hs_dtype dtype)
{
    p->dtype = dtype;
    if (hs_dtype_rotated(dtype))
        p->book = book_of(t, hs_dtype_bits(dtype));
}

static hlwq_status build_table(hs_table *t, hs_arena *arena, const hs_text *config, const hlwq_synth_options *o,
                               hlwq_error *err)
{
    hs_config c;
    HS_TRY(hs_config_parse(&c, config->data, config->bytes, "synth", NULL, err));
    hs_dtype matrix;
    HS_TRY(hs_matrix_format(&matrix, o->format, o->bits, err));
    HS_TRY(hs_schema_build(t, &c, o->mtp, arena, err));
    for (uint32_t g = 0; g < t->n_groups; g++) {
        for (uint32_t i = 0; i < t->group[g].n_parts; i++) {
            hs_part *p = &t->group[g].part[i];
            switch (hs_role_class_of(p->role)) {
            case HS_CLASS_MATRIX: pack(t, p, matrix); break;
            case HS_CLASS_EMBED: pack(t, p, hs_dtype_of_bits(o->embed_bits ? o->embed_bits : 6)); break;
            case HS_CLASS_HEAD: pack(t, p, hs_dtype_of_bits(o->head_bits ? o->head_bits : 6)); break;
            case HS_CLASS_SMALL_MATRIX: p->dtype = HS_BF16; break;
            default: break;
            }
        }
        HS_TRY(hs_group_place(&t->group[g], err));
    }
    return HLWQ_OK;
}

/* ---- filling -------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

typedef struct fill {
    uint8_t *out;
    uint64_t bytes, seed;
} fill;

enum { FILL_BAND = 1 << 16 };

static void fill_bands(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    fill *f = user;
    uint64_t end = (uint64_t)last * FILL_BAND < f->bytes ? (uint64_t)last * FILL_BAND : f->bytes;
    (void)worker;
    for (uint64_t i = (uint64_t)first * FILL_BAND; i < end; i += 8) {
        uint64_t v = mix(f->seed + i);
        memcpy(f->out + i, &v, end - i < 8 ? end - i : 8);
    }
}

static void random_bytes(hs_pool *pool, uint8_t *out, uint64_t bytes, uint64_t seed)
{
    fill f = {out, bytes, seed};
    hs_pool_run(pool, (uint32_t)((bytes + FILL_BAND - 1) / FILL_BAND), 1, fill_bands, &f);
}

/* In [-1, 1). */
static float centred(uint64_t seed)
{
    return (float)((double)(mix(seed) >> 11) * 0x1p-52 - 1.0);
}

static float vector_value(hs_role role, uint64_t seed)
{
    float u = centred(seed);
    switch (role) {
    case HS_DELTA_NORM: return 1.0f; /* the only norm that is not zero-centred */
    case HS_CONV: return 0.5f * u;
    case HS_A_LOG: return u;
    case HS_DT_BIAS: return u - 2.0f;
    default: return 0.0f;
    }
}

static void fill_part(hs_pool *pool, const hs_part *p, uint8_t *out, uint64_t seed)
{
    uint64_t n = (uint64_t)p->rows * p->cols;
    if (hs_dtype_packed(p->dtype)) {
        random_bytes(pool, out + p->planes.low, p->planes.low_bytes, seed);
        random_bytes(pool, out + p->planes.high, p->planes.high_bytes, seed ^ 0x5555);
        /*
         * Rows of length one. A block of 128 out of cols has the norm sqrt(128 / cols), if its random codes are evenly
         * spread; integers less 8 have a mean square of 21.5.
         */
        float even = sqrtf((float)HS_BLOCK / (float)p->cols) * 0.6f, integers = 1.0f / sqrtf(21.5f * (float)p->cols);
        uint16_t norm = hs_f32_to_f16(hs_dtype_int4(p->dtype) ? integers : even);
        for (uint64_t i = 0; i < p->planes.norms_bytes; i += 2)
            memcpy(out + p->planes.norms + i, &norm, 2);
        memset(out + p->planes.zeros, HS_INT4_ZERO, p->planes.zeros_bytes);
    } else if (p->dtype == HS_BF16) {
        float scale = 1.7f / sqrtf((float)p->cols);
        for (uint64_t i = 0; i < n; i++) {
            uint16_t h = hs_f32_to_bf16(centred(seed + i) * scale);
            memcpy(out + 2 * i, &h, 2);
        }
    } else {
        for (uint64_t i = 0; i < n; i++) {
            float v = vector_value(p->role, seed + i);
            memcpy(out + 4 * i, &v, 4);
        }
    }
}

static hlwq_status write_extents(hs_container_writer *w, const hs_table *t, hs_mem *mem, hs_pool *pool,
                                 const hlwq_synth_options *o, hlwq_error *err)
{
    uint64_t largest = 0, total = 0, done = 0;
    void *extent;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        largest = t->group[g].bytes > largest ? t->group[g].bytes : largest;
        total += t->group[g].bytes * t->group[g].count;
    }
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, largest, "extent", &extent, err));
    hlwq_status st = HLWQ_OK;
    for (uint32_t g = 0; g < t->n_groups && st == HLWQ_OK; g++)
        for (uint32_t e = 0; e < t->group[g].count && st == HLWQ_OK; e++) {
            const hs_group *group = &t->group[g];
            if (!o->dry || e == 0)
                memset(extent, 0, group->bytes);
            for (uint32_t i = 0; i < group->n_parts && !o->dry; i++)
                fill_part(pool, &group->part[i], (uint8_t *)extent + group->part[i].offset,
                          mix(o->seed ^ mix((uint64_t)g << 40 | (uint64_t)e << 8 | i)));
            st = hs_container_append(w, extent, o->dry, err);
            done += group->bytes;
            if (st == HLWQ_OK && o->progress && !o->progress(o->user, done, total))
                st = hs_fail(err, HLWQ_ERR_CANCELLED, "synth was stopped; nothing was written");
        }
    hs_mem_free(mem, extent);
    return st;
}

static hlwq_status synth(const hlwq_synth_options *o, const geometry *g, hs_mem *mem, hs_arena *arena, hs_pool *pool,
                         hs_text *config, hlwq_error *err)
{
    hs_table t;
    hs_container_writer *w;
    char provenance[128];
    uint32_t layers = o->layers ? o->layers : g->layers;
    write_config(config, g, layers, o->vocab ? o->vocab : VOCAB, o->mtp);
    if (config->failed)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a config");
    HS_TRY(build_table(&t, arena, config, o, err));
    snprintf(provenance, sizeof provenance, "%s weights in the geometry of %s, %u layers", o->dry ? "no" : "random",
             g->name, layers);
    hs_container_blobs blobs = {.provenance = provenance};
    blobs.data[HS_BLOB_CONFIG] = config->data;
    blobs.bytes[HS_BLOB_CONFIG] = config->bytes;
    HS_TRY(hs_container_create(&w, mem, o->output, o->overwrite, &t, &blobs, err));
    hlwq_status st = write_extents(w, &t, mem, pool, o, err);
    if (st != HLWQ_OK) {
        hs_container_drop(w);
        return st;
    }
    return hs_container_commit(w, err);
}

hlwq_status hlwq_synth(const hlwq_synth_options *o, hlwq_error *err)
{
    const geometry *g = NULL;
    if (!o->output)
        return hs_fail(err, HLWQ_ERR_ARG, "synth needs an output");
    HS_TRY(find_geometry(o->like, &g, err));
    const uint32_t outer[] = {o->head_bits, o->embed_bits};
    for (int i = 0; i < 2; i++)
        if (outer[i] && (outer[i] < 2 || outer[i] > 6))
            return hs_fail(err, HLWQ_ERR_ARG, "%s is %u, but must be 2..6", i ? "--embed-bits" : "--head-bits",
                           outer[i]);
    if (!o->format && !o->bits)
        return hs_fail(err, HLWQ_ERR_ARG, "--bits is 0, but synth has no source whose precision it could keep");
    hs_mem *mem = hs_mem_open(0);
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for synth");
    hs_arena arena;
    hs_text config = {0};
    hs_pool *pool = NULL;
    hs_arena_init(&arena, mem, HS_MEM_TABLE);
    hlwq_status st = hs_pool_open(o->threads, &pool, err);
    if (st == HLWQ_OK)
        st = synth(o, g, mem, &arena, pool, &config, err);
    hs_pool_close(pool);
    hs_text_close(&config);
    hs_arena_close(&arena);
    hs_mem_close(mem);
    return st;
}
