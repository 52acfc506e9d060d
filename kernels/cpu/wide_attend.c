/*
 * kernels/cpu/wide_attend.c - attention over pages, bit for bit that of ref.c; compiled for AVX2 and AVX-512.
 *
 * All query heads of a KV head go through a page together, eight of them in registers at a time (AVX2: four), so a key
 * or value is read and turned into fp32 once for all.  What binds is then the products: head_dim for a score and as
 * many for a value, for each query head (docs/kv.md has the arithmetic).  Everything else runs beside them: the order
 * of the contract is one chain of fma a lane and query, and there are enough of those.
 */
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/ops.h"
#include "kernels/numeric.h"

#include <assert.h>
#include <math.h>

#if defined(__AVX512F__)
#define INSTALL hs_cpu_attend_avx512_install
enum { QUERIES = 8, SUMS = 16 };
#else
#define INSTALL hs_cpu_attend_avx2_install
enum { QUERIES = 4, SUMS = 8 };
#endif

enum { LANES = 16, WIDE = 2 * LANES, HALVES = LANES / HS_VEC };

/* Codes that are read several times are turned into a page of fp32 first: by many tokens, or by heads in turn. */
enum { WIDEN_FROM = 4 };

static inline bool widens(uint32_t tokens, uint32_t group)
{
    return tokens >= WIDEN_FROM || group > QUERIES;
}

/* Some query heads of one token, and what they see of a page. */
typedef struct tile {
    uint32_t count, dim, seen;
    float scale;
    const float *q;   /* [dim / 16][count][16] */
    float *weight;    /* [64][count], and room for 16 more */
    float old[LANES]; /* factors of what was and of what comes, by query */
    float new[LANES];
    float *state; /* [count][2 + dim] */
    bool first;   /* page: nothing was */
    hs_rows k, v;
    const char *fetch, *fetch_end; /* what is left to ask for */
} tile;

/* ---- rows ----------------------------------------------------------------------------------- */

/* 16 values from weight 64 upper + 16 i of a block on, less its norm. */
HS_INLINE v16 coded_lanes(hs_dtype dtype, const uint8_t *low, const uint8_t *high, const float *level, uint32_t i,
                          uint32_t upper)
{
    if (dtype == HS_I8)
        return v16_int8(low + 64 * upper + LANES * i);
    if (dtype == HS_Q4)
        return v16_pick(level, v16_nibbles(low + LANES * i, 4 * (int)upper));
    v16i code = v16_pairs(low + 8 * i, 4 * (int)upper);
    return v16_pick(level, dtype == HS_Q3 ? v16_add_signs(code, high + 4 * i, (int)upper) : code);
}

/* hs_kv_decode. `dtype` is a constant wherever this is called. */
HS_INLINE void decode_blocks(hs_dtype dtype, const uint8_t *page, const hs_kv_planes *p, size_t first, uint32_t n,
                             float *u)
{
    uint32_t low_bytes = hs_kv_low_bytes(dtype), high_bytes = hs_kv_high_bytes(dtype);
    const uint8_t *low = page + p->low + first * low_bytes, *high = page + p->high + first * high_bytes;
    const uint16_t *norms = (const uint16_t *)(const void *)(page + p->norms) + first;
    float level[16] = {0};
    if (dtype != HS_I8)
        hs_kv_levels(dtype, level);
    for (uint32_t b = 0; b < n; b++, u += HS_BLOCK, low += low_bytes, high += high_bytes) {
        v16 norm = v16_set(hs_half(norms[b]) * (dtype == HS_I8 ? 0.125f : 1.0f));
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t upper = 0; upper < 2; upper++)
                v16_store(u + 64 * upper + LANES * i, v16_mul(coded_lanes(dtype, low, high, level, i, upper), norm));
    }
}

static void load_coded(float *u, const uint8_t *page, const hs_kv_planes *p, size_t first, uint32_t n)
{
    switch (p->dtype) {
    case HS_I8: decode_blocks(HS_I8, page, p, first, n, u); return;
    case HS_Q4: decode_blocks(HS_Q4, page, p, first, n, u); return;
    case HS_Q3: decode_blocks(HS_Q3, page, p, first, n, u); return;
    default: decode_blocks(HS_Q2, page, p, first, n, u);
    }
}

/*
 * The next page is asked for while one is computed on, from its first byte to its last and evenly: a burst fills the
 * queue of misses, and all waits.
 */
HS_INLINE const char *fetch_lines(const tile *t, const char *at, uint32_t lines)
{
    for (uint32_t i = 0; i < lines && at < t->fetch_end; i++, at += 64)
        _mm_prefetch(at, _MM_HINT_T1);
    return at;
}

/* Bytes of a row of a head: the lines that are its due. */
HS_INLINE uint32_t row_bytes(hs_dtype dtype, uint32_t dim)
{
    return dtype == HS_F32   ? 4 * dim
           : dtype == HS_F16 ? 2 * dim
                             : (hs_kv_low_bytes(dtype) + hs_kv_high_bytes(dtype) + 2) * (dim / HS_BLOCK);
}

/* ---- scores --------------------------------------------------------------------------------- */

/* Of `count` queries with the next SUMS / count keys from j on, to weight[j ..][count]. */
HS_INLINE void score_keys(hs_dtype dtype, uint32_t count, tile *t, uint32_t j)
{
    const bool coded = dtype != HS_F32 && dtype != HS_F16;
    const uint32_t keys = SUMS / count, lanes_c = HS_VEC / 4; /* vec_sums puts a[lanes_c e + c] in lane 4 c + e */
    const uint32_t groups = coded ? 8 : t->dim / LANES, blocks = coded ? t->k.blocks : 1;
    hs_vec sum[SUMS];
    for (uint32_t i = 0; i < SUMS; i++)
        sum[i] = vec_zero();
    const char *fetch = t->fetch;
    if (coded)
        fetch = fetch_lines(t, fetch, (keys * row_bytes(dtype, t->dim) + 63) / 64);
    for (uint32_t half = 0; half < HALVES; half++) {
        hs_vec a[SUMS];
        for (uint32_t i = 0; i < SUMS; i++)
            a[i] = vec_zero();
        const float *q = t->q + HS_VEC * half;
        for (uint32_t b = 0; b < blocks; b++)
            for (uint32_t g = 0; g < groups; g++, q += LANES * count) {
                hs_vec key[SUMS];
                if (!coded && half == 0)
                    fetch = fetch_lines(t, fetch, (keys * (dtype == HS_F32 ? 64 : 32) + 63) / 64);
                for (uint32_t k = 0; k < keys; k++)
                    key[k] = coded ? hs_row_lanes(dtype, &t->k, j + k, b, g % 4, g / 4, half)
                                   : hs_row_lanes(dtype, &t->k, j + k, 0, g, 0, half);
                for (uint32_t h = 0; h < count; h++) {
                    hs_vec x = vec_load(q + LANES * h);
                    vec_keep(x);
                    for (uint32_t k = 0; k < keys; k++) {
                        uint32_t to = k * count + h, i = lanes_c * (to % 4) + to / 4;
                        a[i] = vec_fma(x, key[k], a[i]);
                    }
                }
            }
        for (uint32_t i = 0; i < SUMS; i++)
            sum[i] = half ? vec_add(sum[i], a[i]) : a[i]; /* AVX2: lanes l and l + 8 */
    }
    t->fetch = fetch;
    vec_store(t->weight + j * count, vec_mul(vec_sums(sum), vec_set(t->scale)));
}

HS_INLINE void score_tile(hs_dtype dtype, uint32_t count, tile *t)
{
    for (uint32_t j = 0; j < t->seen; j += SUMS / count)
        score_keys(dtype, count, t, j);
}

/* ---- weights -------------------------------------------------------------------------------- */

/* Scores to weights; their maximum and sum go into the states. */
static void weigh(tile *t)
{
    uint32_t n = t->seen * t->count;
    float top[2 * LANES] = {0}, sums[LANES];
    for (uint32_t i = n; i < ((n + LANES - 1) & ~(LANES - 1u)); i++)
        t->weight[i] = -INFINITY;
    v16 m = v16_set(-INFINITY), sum = v16_zero();
    for (uint32_t i = 0; i < n; i += LANES)
        m = v16_max(v16_load(t->weight + i), m);
    for (uint32_t width = LANES / 2; width >= t->count; width /= 2) { /* the largest of lanes of the same query */
        v16_store(top, m);
        m = v16_max(v16_load(top + width), m);
    }
    v16_store(top, m);
    for (uint32_t i = t->count; i < LANES; i++)
        top[i] = top[i - t->count];
    m = v16_load(top);
    for (uint32_t i = 0; i < n; i += LANES)
        v16_store(t->weight + i, v16_exp(v16_sub(v16_load(t->weight + i), m)));
    for (uint32_t i = 0; i < n; i += t->count)
        sum = v16_add(sum, v16_load(t->weight + i));
    size_t pitch = 2 + (size_t)t->dim;
    if (!t->first) {
        float was[2 * LANES];
        for (uint32_t h = 0; h < LANES; h++) {
            was[h] = t->state[(h % t->count) * pitch];
            was[LANES + h] = t->state[(h % t->count) * pitch + 1];
        }
        v16 larger = v16_max(v16_load(was), m), new = v16_exp(v16_sub(m, larger));
        v16 old = v16_exp(v16_sub(v16_load(was), larger));
        m = larger;
        sum = v16_fma(v16_load(was + LANES), old, v16_mul(sum, new));
        v16_store(t->old, old);
        v16_store(t->new, new);
    }
    v16_store(top, m);
    v16_store(sums, sum);
    for (uint32_t h = 0; h < t->count; h++) {
        t->state[h * pitch] = top[h];
        t->state[h * pitch + 1] = sums[h];
    }
}

/* ---- values --------------------------------------------------------------------------------- */

/* Columns d and e of the values, weighted, into the states. */
HS_INLINE void fold_columns(uint32_t count, const tile *t, uint32_t d, uint32_t e, hs_vec (*a)[2])
{
    for (uint32_t h = 0; h < count; h++)
        for (uint32_t i = 0; i < 2; i++) {
            float *acc = t->state + h * (2 + (size_t)t->dim) + 2 + (i ? e : d);
            hs_vec part = a[h][i];
            if (!t->first)
                part = vec_fma(vec_load(acc), vec_set(t->old[h]), vec_mul(part, vec_set(t->new[h])));
            vec_store(acc, part);
        }
}

/* Two strips of columns at a time: of a coded block the two that share their bytes. */
HS_INLINE void value_tile(hs_dtype dtype, uint32_t count, tile *t)
{
    const bool coded = dtype != HS_F32 && dtype != HS_F16;
    for (uint32_t p = 0; p < t->dim / WIDE; p++)
        for (uint32_t half = 0; half < HALVES; half++) {
            uint32_t b = coded ? p / 4 : 0, g = coded ? p % 4 : 2 * p;
            hs_vec a[QUERIES][2];
            for (uint32_t h = 0; h < count; h++)
                a[h][0] = a[h][1] = vec_zero();
            const float *weight = t->weight;
            const char *fetch = t->fetch;
            for (uint32_t j = 0; j < t->seen; j++, weight += count) {
                if (half == 0 && (!coded || j % (dtype == HS_I8 ? 2 : 4) == 0))
                    fetch = fetch_lines(t, fetch, dtype == HS_F32 || dtype == HS_I8 ? 2 : 1);
                hs_vec x = hs_row_lanes(dtype, &t->v, j, b, g, 0, half);
                hs_vec y = hs_row_lanes(dtype, &t->v, j, b, coded ? g : g + 1, coded, half);
                for (uint32_t h = 0; h < count; h++) {
                    hs_vec w = vec_set(weight[h]);
                    a[h][0] = vec_fma(w, x, a[h][0]);
                    a[h][1] = vec_fma(w, y, a[h][1]);
                }
            }
            t->fetch = fetch;
            uint32_t d = HS_BLOCK * b + LANES * g + HS_VEC * half;
            fold_columns(count, t, d, d + (coded ? HS_BLOCK / 2 : LANES), a);
        }
}

/* ---- forms ---------------------------------------------------------------------------------- */

#define FORM(name, dtype)                                                                                              \
    static void score_##name(tile *t)                                                                                  \
    {                                                                                                                  \
        switch (t->count) {                                                                                            \
        case 8: score_tile(dtype, QUERIES < 8 ? 4 : 8, t); break;                                                      \
        case 4: score_tile(dtype, 4, t); break;                                                                        \
        case 2: score_tile(dtype, 2, t); break;                                                                        \
        default: score_tile(dtype, 1, t);                                                                              \
        }                                                                                                              \
    }                                                                                                                  \
    static void value_##name(tile *t)                                                                                  \
    {                                                                                                                  \
        switch (t->count) {                                                                                            \
        case 8: value_tile(dtype, QUERIES < 8 ? 4 : 8, t); break;                                                      \
        case 4: value_tile(dtype, 4, t); break;                                                                        \
        case 2: value_tile(dtype, 2, t); break;                                                                        \
        default: value_tile(dtype, 1, t);                                                                              \
        }                                                                                                              \
    }

FORM(f32, HS_F32)
FORM(f16, HS_F16)
FORM(i8, HS_I8)
FORM(q4, HS_Q4)
#if !defined(__AVX512F__)
FORM(q3, HS_Q3)
FORM(q2, HS_Q2)
#else
#define score_q3 score_q4
#define score_q2 score_q4
#define value_q3 value_q4
#define value_q2 value_q4
#endif

typedef void (*tile_fn)(tile *t);

static tile_fn score_of(hs_dtype d)
{
    return d == HS_F32   ? score_f32
           : d == HS_F16 ? score_f16
           : d == HS_I8  ? score_i8
           : d == HS_Q4  ? score_q4
           : d == HS_Q3  ? score_q3
                         : score_q2;
}

static tile_fn value_of(hs_dtype d)
{
    return d == HS_F32   ? value_f32
           : d == HS_F16 ? value_f16
           : d == HS_I8  ? value_i8
           : d == HS_Q4  ? value_q4
           : d == HS_Q3  ? value_q3
                         : value_q2;
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* One attend call. */
typedef struct call {
    const hs_kv_view *kv;
    uint32_t kv_heads, kv_head, dim, group, coded;
    bool widen;
    float level[2][LANES]; /* of the codes of K and of V */
    float *keys, *values;  /* [64][dim]: of a page that is turned into fp32; or in the first, tables of a coded one */
} call;

static hs_rows coded_rows(const call *c, uint32_t page, const hs_kv_planes *p, float *room)
{
    uint32_t blocks = c->dim / HS_BLOCK;
    size_t first = (size_t)c->kv_head * HS_GRID * blocks;
    const uint8_t *at = c->kv->coded[page];
    if (c->widen) {
        load_coded(room, at, p, first, HS_GRID * blocks);
        return (hs_rows){.dtype = HS_F32, .low = (const uint8_t *)room, .pitch = c->dim * sizeof(float)};
    }
    return (hs_rows){.dtype = p->dtype,
                     .low = at + p->low + first * hs_kv_low_bytes(p->dtype),
                     .high = at + p->high + first * hs_kv_high_bytes(p->dtype),
                     .norms = at + p->norms + 2 * first,
                     .pitch = (size_t)blocks * hs_kv_low_bytes(p->dtype),
                     .table = room,
                     .blocks = blocks};
}

static hs_rows plain_rows(const call *c, uint32_t page, bool values)
{
    size_t size = c->kv->dtype == HS_F32 ? 4 : 2, row = (size_t)c->kv_heads * c->dim * size;
    const uint8_t *at = c->kv->page[page];
    return (hs_rows){.dtype = c->kv->dtype,
                     .low = at + (values ? HS_GRID * row : 0) + c->kv_head * (size_t)c->dim * size,
                     .pitch = row};
}

/* The tables of a coded page's blocks. */
static void lay_tables(const hs_rows *r, const float *level, float *table)
{
    float norm[LANES];
    for (uint32_t i = 0; i < HS_GRID * r->blocks; i += LANES) {
        v16 these = v16_half(r->norms + 2 * i);
        if (r->dtype == HS_I8) {
            v16_store(table + i, v16_mul(these, v16_set(0.125f)));
            continue;
        }
        v16_store(norm, these);
        for (uint32_t l = 0; l < LANES; l++, table += HS_TABLE_FLOATS) {
            v16_store(table, v16_mul(v16_load(level), v16_set(norm[l])));
            hs_order_codes(r->dtype, r->low + (size_t)(i + l) * hs_kv_low_bytes(r->dtype),
                           r->high + (size_t)(i + l) * hs_kv_high_bytes(r->dtype), table + LANES);
        }
    }
}

static uint32_t tile_size(uint32_t heads)
{
    return heads >= 8 && QUERIES >= 8 ? 8 : heads >= 4 ? 4 : heads >= 2 ? 2 : 1;
}

/* Queries as tiles read them; rotated for coded pages. `room` holds one. */
static void wide_attend_lay(uint32_t heads, uint32_t group, uint32_t dim, const float *q, size_t q_head_stride,
                            bool rotate, float *tiles, float *room)
{
    for (uint32_t h = 0, count; h < heads; h += count) {
        count = tile_size(group - h % group);
        for (uint32_t i = 0; i < count; i++) {
            memcpy(room, q + (h + i) * q_head_stride, dim * sizeof *room);
            if (rotate)
                hs_kv_rotate(room, dim);
            for (uint32_t d = 0; d < dim; d += LANES)
                v16_store(tiles + (size_t)h * dim + ((size_t)d * count + i * LANES), v16_load(room + d));
        }
    }
}

/* All query heads of a token that share the page's rows. */
static void attend_heads(const call *c, const float *q, float scale, tile *t, float *states)
{
    tile_fn score = score_of(t->k.dtype), value = value_of(t->v.dtype);
    t->scale = scale;
    for (uint32_t h = 0; h < c->group; h += t->count) {
        t->count = tile_size(c->group - h);
        t->q = q + (size_t)h * c->dim;
        t->state = states + h * (2 + (size_t)c->dim);
        if (t->k.blocks)
            lay_tables(&t->k, c->level[0], c->keys);
        score(t);
        weigh(t);
        if (t->v.blocks) /* where those of the keys were: they must stay in the first cache */
            lay_tables(&t->v, c->level[1], c->keys);
        value(t);
    }
}

static void begin(call *c)
{
    const hs_kv_planes *p[2] = {&c->kv->layout.k, &c->kv->layout.v};
    for (int i = 0; c->coded && i < 2; i++)
        if (p[i]->dtype != HS_I8)
            hs_kv_levels(p[i]->dtype, c->level[i]);
}

/* The page's keys and values of c->kv_head. */
static void open_page(const call *c, uint32_t page, tile *t)
{
    const hs_kv_layout *l = &c->kv->layout;
    t->k = page < c->coded ? coded_rows(c, page, &l->k, c->keys) : plain_rows(c, page, false);
    t->v = page < c->coded ? coded_rows(c, page, &l->v, c->widen ? c->values : c->keys) : plain_rows(c, page, true);
}

static void wide_attend(const hs_kv_view *kv, uint32_t kv_heads, uint32_t kv_head, uint32_t head_dim, uint32_t group,
                        uint32_t first, uint32_t n, const float *q, size_t q_stride, size_t q_head_stride, float *out,
                        size_t out_stride, float scale, float *scratch)
{
    if (head_dim % WIDE) {
        hs_cpu_ref_fma.attend(kv, kv_heads, kv_head, head_dim, group, first, n, q, q_stride, q_head_stride, out,
                              out_stride, scale, scratch);
        return;
    }
    float *keys = scratch, *values = keys + (size_t)HS_GRID * head_dim, *states = values + (size_t)HS_GRID * head_dim;
    float weight[HS_GRID * QUERIES + LANES], *tiles = hs_attend_rotated(scratch, head_dim, group);
    size_t state_floats = 2 + (size_t)head_dim;
    uint32_t last = first + n - 1, coded = kv->coded ? hs_kv_coded_count(last) : 0;
    call c = {kv, kv_heads, kv_head, head_dim, group, coded, widens(n, group), {{0}}, keys, values};
    assert(n <= HS_ATTEND_TOKENS && (!coded || first / HS_GRID == last / HS_GRID));
    if (!hs_attend_resume(kv, last, n, group, head_dim, out, out_stride, states))
        return;
    begin(&c);
    tile t = {.dim = head_dim, .weight = weight};
    for (uint32_t b = kv->from; b < hs_attend_end(kv, last); b++) {
        for (uint32_t i = 0; coded && b == coded && i < n * group; i++)
            hs_kv_rotate(states + i * state_floats + 2, head_dim);
        for (uint32_t i = 0; (b == kv->from || b == coded) && i < n; i++)
            wide_attend_lay(group, group, head_dim, q + i * q_stride, q_head_stride, b < coded,
                            tiles + (size_t)i * group * head_dim, keys);
        open_page(&c, b, &t);
        t.first = b == 0;
        for (uint32_t i = 0; i < n; i++) {
            if (first + i < b * HS_GRID)
                continue;
            uint32_t seen = first + i - b * HS_GRID + 1;
            t.seen = seen < HS_GRID ? seen : HS_GRID;
            attend_heads(&c, tiles + (size_t)i * group * head_dim, scale, &t, states + i * group * state_floats);
        }
    }
    if (hs_attend_pause(kv, last, n, group, head_dim, out, out_stride, states))
        return;
    for (uint32_t i = 0; i < n * group; i++) {
        const float *st = states + i * state_floats;
        v16 sum = v16_set(st[1]);
        for (uint32_t d = 0; d < head_dim; d += LANES)
            v16_store(out + i / group * out_stride + (size_t)(i % group) * head_dim + d,
                      v16_div(v16_load(st + 2 + d), sum));
    }
}

/* ---- one token, pages by themselves --------------------------------------------------------- */

static void wide_attend_pages(const hs_kv_view *kv, uint32_t kv_heads, uint32_t head_dim, uint32_t group,
                              uint32_t position, uint32_t from, uint32_t end, const float *rotated, const float *plain,
                              float scale, float *part, float *scratch)
{
    float weight[HS_GRID * QUERIES + LANES];
    uint32_t coded = kv->coded ? hs_kv_coded_count(position) : 0;
    float *values = scratch + (size_t)HS_GRID * head_dim;
    call c = {kv, kv_heads, 0, head_dim, group, coded, widens(1, group), {{0}}, scratch, values};
    size_t plain_bytes = 2 * (size_t)HS_GRID * kv_heads * head_dim * (kv->dtype == HS_F32 ? 4 : 2);
    tile t = {.dim = head_dim, .weight = weight, .first = true};
    begin(&c);
    for (uint32_t b = from; b < end; b++) {
        uint32_t seen = position - b * HS_GRID + 1;
        t.seen = seen < HS_GRID ? seen : HS_GRID;
        const char *next = b + 1 > position / HS_GRID ? NULL : b + 1 < coded ? kv->coded[b + 1] : kv->page[b + 1];
        t.fetch = next;
        t.fetch_end = next ? next + (b + 1 < coded ? kv->layout.bytes : plain_bytes) : NULL;
        for (c.kv_head = 0; c.kv_head < kv_heads; c.kv_head++) {
            open_page(&c, b, &t);
            attend_heads(&c, (b < coded ? rotated : plain) + (size_t)c.kv_head * group * head_dim, scale, &t, part);
            part += group * (2 + (size_t)head_dim);
        }
    }
}

static void wide_attend_fold(const float *part, uint32_t head_dim, bool first, float *state, float *acc)
{
    if (first) {
        memcpy(state, part, 2 * sizeof *state);
        memcpy(acc, part + 2, head_dim * sizeof *acc);
        return;
    }
    float top = state[0] > part[0] ? state[0] : part[0], old = hs_exp(state[0] - top), new = hs_exp(part[0] - top);
    state[0] = top;
    state[1] = fmaf(state[1], old, part[1] * new);
    for (uint32_t d = 0; d < head_dim; d += LANES)
        v16_store(acc + d, v16_fma(v16_load(acc + d), v16_set(old), v16_mul(v16_load(part + 2 + d), v16_set(new))));
}

void INSTALL(hs_cpu_ops *ops)
{
    ops->attend = wide_attend;
    ops->attend_lay = wide_attend_lay;
    ops->attend_pages = wide_attend_pages;
    ops->attend_fold = wide_attend_fold;
}
