/*
 * kernels/cpu/ops.h - the inner loops of the CPU backend as a table, so that a faster set can replace the plain one.
 *
 * Every set gives the same bits as ref.c.  None of them allocates, locks or splits work: the backend does.
 */
#ifndef HS_KERNELS_CPU_OPS_H
#define HS_KERNELS_CPU_OPS_H

#include "kernels/backend.h"

#include <string.h>

/* The forms of 8-bit activations that packed matrices are multiplied with. */
typedef enum hs_q8_form {
    HS_Q8_ROTATED, /* Q2..Q6: a scale and a sum for each block */
    HS_Q8_FLAT,    /* INT4: for each half of a block */
    HS_Q8_FORMS
} hs_q8_form;

static inline hs_q8_form hs_q8_form_of(hs_dtype packed)
{
    return hs_dtype_rotated(packed) ? HS_Q8_ROTATED : HS_Q8_FLAT;
}

/* Scales, and sums, of a block. */
static inline uint32_t hs_q8_scales(hs_q8_form form)
{
    return form == HS_Q8_FLAT ? 2 : 1;
}

/* Rows of activations as the matrix kernels take them; a NULL part is not needed by the caller. */
typedef struct hs_act {
    uint32_t cols, blocks;
    const float *x;     /* [n][cols] */
    const int8_t *q;    /* [n][blocks * 128], in the form that the matrix needs */
    const float *scale; /* [n][blocks][hs_q8_scales of the form] */
    const int32_t *sum; /* the same: of q */
} hs_act;

typedef struct hs_cpu_ops {
    const char *name;

    /* One row: WHT per block of 128 (the last padded with zeros), q8. */
    void (*q8)(const float *x, uint32_t cols, int8_t *q, float *scale, int32_t *sum);

    /* The same without WHT, each half of a block by itself: those past the end have scale and sum zero. */
    void (*q8_flat)(const float *x, uint32_t cols, int8_t *q, float *scale, int32_t *sum);

    /* y[t][r] for rows first..last-1 and tokens token[0..n-1] (NULL = 0..n-1) of `a`; y row stride in floats. Packed.
     */
    void (*gemm)(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first, uint32_t last,
                 float *y, size_t stride);

    /* The same for F32, F16 and BF16 weights, from the fp32 activations. */
    void (*gemm_plain)(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                       uint32_t last, float *y, size_t stride);

    /* The same from dequantised fp32 weights; `row` is scratch, see hs_exact_row. Packed types only. */
    void (*gemm_exact)(const hs_matrix *w, const hs_act *a, const uint32_t *token, uint32_t n, uint32_t first,
                       uint32_t last, float *y, size_t stride, float *row);

    /* y = x / rms(x) * (1 + w) */
    void (*rms_norm)(const float *x, const float *w, uint32_t n, float eps, float *y);

    /* y = x * scale / sqrt(sum(x^2) + eps): eps is inside the root and not divided. */
    void (*l2_norm)(const float *x, uint32_t n, float eps, float scale, float *y);

    /* y = w * (o / rms(o)) * silu(z) */
    void (*gated_norm)(const float *o, const float *w, const float *z, uint32_t n, float eps, float *y);

    /* h = silu(gate) * up */
    void (*swiglu)(const float *gate, const float *up, uint32_t n, float *h);

    /* o *= sigmoid(g) */
    void (*gate)(float *o, const float *g, uint32_t n);

    /* Pairs (j, j + rotary_dims / 2) by the angle whose cosines and then sines are in `table`. */
    void (*rotate)(float *v, const float *table, uint32_t rotary_dims);

    void (*to_half)(uint16_t *h, const float *x, uint32_t n);

    /* x += p[0] y[0] + p[1] y[1] + ..: summed from zero in this order, then added. */
    void (*combine)(float *x, const float *const *y, const float *p, uint32_t count, uint32_t n);

    /*
     * Causal convolution of n tokens on channels first..last-1, then SiLU; c and y [n][channels], w [channels][taps];
     * updates state [taps - 1][channels].
     */
    void (*conv)(const float *c, const float *w, uint32_t taps, uint32_t channels, uint32_t first, uint32_t last,
                 uint32_t n, float *state, float *y);

    /* One head, one token: S <- exp(g) S; d = beta (v - S^T k); S <- S + k d^T; o = S^T q. */
    void (*delta_step)(float *s, const float *q, const float *k, const float *v, float g, float beta, uint32_t k_dim,
                       uint32_t v_dim, float *o, float *scratch);

    /* One head, n <= HS_GRID tokens at stride floats apart, chunked form. scratch: hs_delta_chunk_floats. */
    void (*delta_chunk)(float *s, const float *q, const float *k, const float *v, const float *g, const float *beta,
                        size_t qk_stride, size_t v_stride, size_t g_stride, uint32_t n, uint32_t k_dim, uint32_t v_dim,
                        float *o, size_t o_stride, float *scratch);

    /*
     * Attention of queries q [n][group][head_dim] (token stride, then head) at positions first.. over one kv head:
     * for each, every position up to its own.  out as q.  scratch: hs_attend_floats.  With coded pages, all of
     * first..first + n - 1 lie between two multiples of HS_GRID.  Pages in parts: kv->from, end and carry.
     */
    void (*attend)(const hs_kv_view *kv, uint32_t kv_heads, uint32_t kv_head, uint32_t head_dim, uint32_t group,
                   uint32_t first, uint32_t n, const float *q, size_t q_stride, size_t q_head_stride, float *out,
                   size_t out_stride, float scale, float *scratch);

    /*
     * The same of one token over pages from..end-1 by themselves, for all heads: maximum, sum and weighted values
     * [2 + head_dim] of each page and query head to part, so that pages may be read by any thread; attend_fold takes
     * them into a query's state (maximum, sum) and acc in ascending order.  Queries [heads][head_dim] as attend_lay
     * puts them, rotated (for coded pages; may be NULL without) and plain.  room: head_dim floats; scratch: as
     * attend's. NULL = only attend; needs head_dim % 32 == 0.
     */
    void (*attend_lay)(uint32_t heads, uint32_t group, uint32_t head_dim, const float *q, size_t q_head_stride,
                       bool rotate, float *tiles, float *room);
    void (*attend_pages)(const hs_kv_view *kv, uint32_t kv_heads, uint32_t head_dim, uint32_t group, uint32_t position,
                         uint32_t from, uint32_t end, const float *rotated, const float *plain, float scale,
                         float *part, float *scratch);
    void (*attend_fold)(const float *part, uint32_t head_dim, bool first, float *state, float *acc);

    /* The `used` largest of l [experts], ties by lower id; softmax over them. */
    void (*top_k)(const float *l, uint32_t experts, uint32_t used, int32_t *id, float *weight);
} hs_cpu_ops;

static inline size_t hs_delta_chunk_floats(uint32_t k_dim, uint32_t v_dim)
{
    return (size_t)HS_GRID * (2 * HS_GRID + 2 * (size_t)v_dim + k_dim + 2);
}

/* Tokens that one attend call may take. */
enum { HS_ATTEND_TOKENS = 16 };

static inline size_t hs_attend_floats(uint32_t head_dim, uint32_t group)
{
    return 2 * (size_t)HS_GRID * head_dim + HS_GRID + head_dim +
           (size_t)HS_ATTEND_TOKENS * group * (2 + 2 * (size_t)head_dim);
}

/* The queries of one attend call, rotated: [n][group][head_dim], the last part of its scratch. */
static inline float *hs_attend_rotated(float *scratch, uint32_t head_dim, uint32_t group)
{
    return scratch + hs_attend_floats(head_dim, group) - (size_t)HS_ATTEND_TOKENS * group * head_dim;
}

/* Where an attend call stops, before the page of this number. */
static inline uint32_t hs_attend_end(const hs_kv_view *kv, uint32_t last)
{
    return kv->end && kv->end <= last / HS_GRID ? kv->end : last / HS_GRID + 1;
}

/*
 * Between two parts of the pages, the state of a query (maximum, sum, acc [head_dim]) lies in carry and in its output.
 * resume: false if all was done before. pause: true if something is left to do.
 */
static inline bool hs_attend_resume(const hs_kv_view *kv, uint32_t last, uint32_t n, uint32_t group, uint32_t head_dim,
                                    const float *out, size_t out_stride, float *state)
{
    for (uint32_t i = 0; kv->from && kv->from <= last / HS_GRID && i < n * group; i++, state += 2 + head_dim) {
        memcpy(state, kv->carry + (size_t)i * 2, 2 * sizeof *state);
        memcpy(state + 2, out + i / group * out_stride + (size_t)(i % group) * head_dim, head_dim * sizeof *state);
    }
    return kv->from <= last / HS_GRID;
}

static inline bool hs_attend_pause(const hs_kv_view *kv, uint32_t last, uint32_t n, uint32_t group, uint32_t head_dim,
                                   float *out, size_t out_stride, const float *state)
{
    if (hs_attend_end(kv, last) > last / HS_GRID)
        return false;
    for (uint32_t i = 0; i < n * group; i++, state += 2 + head_dim) {
        memcpy(kv->carry + (size_t)i * 2, state, 2 * sizeof *state);
        memcpy(out + i / group * out_stride + (size_t)(i % group) * head_dim, state + 2, head_dim * sizeof *state);
    }
    return true;
}

/* Row r of a packed matrix as fp32 [cols] in the order of the inputs. Scratch of cols floats, of 2 cols where ordered.
 */
static inline void hs_exact_row(const hs_matrix *w, uint32_t r, float *row)
{
    float *columns = w->order ? row + w->cols : row;
    hs_decode_row(w->dtype, w->book, w->low, w->rows, w->cols, r, columns);
    for (uint32_t c = 0; w->factor && c < w->cols; c++)
        columns[c] *= w->factor[c];
    if (!w->order)
        return;
    memset(row, 0, w->cols * sizeof *row); /* a damaged order may leave some out */
    for (uint32_t c = 0; c < w->cols; c++)
        row[hs_input_of(w, c)] = columns[c];
}

/* One row in a form. */
static inline void hs_q8_row(const hs_cpu_ops *ops, hs_q8_form form, const float *x, uint32_t cols, int8_t *q,
                             float *scale, int32_t *sum)
{
    (form == HS_Q8_ROTATED ? ops->q8 : ops->q8_flat)(x, cols, q, scale, sum);
}

/* Plain C, built for any x86-64, and again for machines with AVX2 and FMA. */
extern const hs_cpu_ops hs_cpu_ref_base, hs_cpu_ref_fma;

/* Replace the entries that have a faster form with the same bits. */
void hs_cpu_avx2_install(hs_cpu_ops *ops);
void hs_cpu_wide_avx2_install(hs_cpu_ops *ops);
void hs_cpu_mixer_avx2_install(hs_cpu_ops *ops);
void hs_cpu_attend_avx2_install(hs_cpu_ops *ops);
void hs_cpu_avx512_install(hs_cpu_ops *ops);
void hs_cpu_wide_avx512_install(hs_cpu_ops *ops);
void hs_cpu_mixer_avx512_install(hs_cpu_ops *ops);
void hs_cpu_attend_avx512_install(hs_cpu_ops *ops);

/* The set `want` names; NULL = what HLWQ_CPU names, else the best that the machine has. */
hlwq_status hs_cpu_choose(hs_cpu_ops *ops, const char *want, hlwq_error *err);

#endif
