/*
 * model/quantize_awq.c - a scale for each input of matrices that read the same (activation-aware weights, EOQ v3's
 * kind).
 *
 * The weights of input c are multiplied by s_c before they are rotated and coded, and the input is divided by it when
 * the file runs.  s_c = (mean square of x_c / the largest)^alpha, as fp16: weights of inputs that are small shrink, and
 * with them the error they leave in blocks that they share.  alpha is the one of sixteen whose rounded weights have the
 * least error e H e' in the outputs, over some rows of all the matrices; 0, no scales, is one of them and wins ties.
 */
#include "model/quantize.h"

#include "base/size.h"
#include "kernels/lanes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ALPHA_STEP 0.05
#define SCALE_LEAST 0x1p-12 /* far from where fp16 has few bits left */
#define INVERSE_SQRT_128 0x1.6a09e6p-4f

enum { ALPHAS = HS_LANES, ROWS_LOOKED_AT = 64 };

/* ---- which scales --------------------------------------------------------------------------- */

typedef struct search {
    hs_quantize *q;
    const hs_fit_target *target;
    uint32_t n_targets, n;     /* n: inputs, padded */
    const float *column;       /* [ALPHAS][n] the scales */
    double (*cost)[2][ALPHAS]; /* of each row looked at: what is left, and all of it */
    uint8_t *room;             /* of each worker: room_bytes */
    uint64_t room_bytes;
    hlwq_status status[256];
} search;

static uint32_t rows_of(const hs_fit_target *t)
{
    return t->source->rows < ROWS_LOOKED_AT ? t->source->rows : ROWS_LOOKED_AT;
}

/* Mean squares of the inputs themselves, from their products in the rotated basis: the diagonal of R h R. */
static void mean_squares(const hs_reads *r, float *out)
{
    static const float unit = INVERSE_SQRT_128;
    for (uint32_t b = 0; b < r->n; b += HS_BLOCK) {
        float block[HS_BLOCK][HS_BLOCK];
        for (uint32_t i = 0; i < HS_BLOCK; i++) {
            memcpy(block[i], r->h + (size_t)(b + i) * r->n + b, sizeof block[i]);
            hs_wht(block[i], HS_BLOCK);
        }
        for (uint32_t k = 0; k < HS_BLOCK; k++) {
            float across[HS_BLOCK];
            for (uint32_t i = 0; i < HS_BLOCK; i++)
                across[i] = block[i][k];
            hs_wht(across, HS_BLOCK);
            out[b + k] = fmaxf(across[k] * unit * unit, 0.0f);
        }
    }
}

/* Scales of every alpha, as fp16 holds them; inputs that are there for the padding have 1. */
static void make_scales(const hs_reads *r, uint32_t cols, const float *square, float *column)
{
    double largest = 0;
    for (uint32_t c = 0; c < cols; c++)
        largest = fmax(largest, square[c]);
    for (uint32_t a = 0; a < ALPHAS; a++)
        for (uint32_t c = 0; c < r->n; c++) {
            double s = c < cols && largest > 0 ? pow(square[c] / largest, a * ALPHA_STEP) : 1.0;
            column[(size_t)a * r->n + c] = hs_f16_to_f32(hs_f32_to_f16((float)fmax(s, SCALE_LEAST)));
        }
}

/* A row's errors in the rotated basis, an alpha a lane. */
static hlwq_status round_row(search *s, const hs_fit_target *t, uint32_t row, uint8_t *room, hs_lanes *e, hs_lanes *all)
{
    const hs_matrix *m = t->source;
    const hs_part *part = hs_group_find(t->group, t->role);
    const hs_codebook *book = hs_store_book(s->q->result, part->book);
    float *w = (float *)(void *)room, *v = w + s->n, *turned = v + s->n;
    uint8_t *coded = (uint8_t *)(turned + s->n);
    hs_to_f32(w, m->low + (size_t)row * m->cols * hs_dtype_bytes(m->dtype), m->dtype, m->cols);
    for (uint32_t a = 0; a < ALPHAS; a++) {
        const float *column = s->column + (size_t)a * s->n;
        for (uint32_t c = 0; c < m->cols; c++)
            v[c] = w[c] * column[c];
        HS_TRY(hs_encode_rows(part->dtype, book, v, 0, 1, 1, m->cols, coded, NULL));
        hs_decode_row(part->dtype, book, coded, 1, m->cols, 0, v);
        for (uint32_t c = 0; c < m->cols; c++)
            v[c] = v[c] / column[c] - w[c];
        hs_gram_rotate(v, m->cols, 1.0f, turned);
        for (uint32_t c = 0; c < s->n; c++)
            e[c][a] = turned[c];
    }
    hs_gram_rotate(w, m->cols, 1.0f, turned);
    for (uint32_t c = 0; c < s->n; c++)
        all[c] = turned[c] - (hs_lanes){0};
    return HLWQ_OK;
}

HS_WIDE_CLONES static void cost_of(const float *h, uint32_t n, const hs_lanes *e, double out[ALPHAS])
{
    hs_lanes sum = {0};
    for (uint32_t k = 0; k < n; k++) {
        hs_lanes g = {0};
        hs_lanes_dot(&g, h + (size_t)k * n, e, 0, n);
        sum += g * e[k];
    }
    for (uint32_t a = 0; a < ALPHAS; a++)
        out[a] = sum[a];
}

static void look_at_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    search *s = user;
    uint8_t *room = s->room + worker * s->room_bytes;
    hs_lanes *e = (hs_lanes *)(void *)room, *all = e + s->n;
    for (uint32_t i = first; i < last && s->status[worker] == HLWQ_OK; i++) {
        uint32_t k = i;
        const hs_fit_target *t = s->target;
        for (; k >= rows_of(t); t++)
            k -= rows_of(t);
        const uint32_t row = (uint32_t)((uint64_t)k * t->source->rows / rows_of(t));
        s->status[worker] = round_row(s, t, row, (uint8_t *)(all + s->n), e, all);
        cost_of(s->q->reads.h, s->n, e, s->cost[i][0]);
        cost_of(s->q->reads.h, s->n, all, s->cost[i][1]);
    }
}

/* The alpha with the least left over; in round mode, what it leaves is what will be said. */
static uint32_t best_alpha(const search *s, uint32_t rows)
{
    double least = INFINITY;
    uint32_t best = 0;
    for (uint32_t a = 0; a < ALPHAS; a++) {
        double sum = 0;
        for (uint32_t i = 0; i < rows; i++)
            sum += s->cost[i][0][a];
        if (sum < least) {
            least = sum;
            best = a;
        }
    }
    hs_quantize *q = s->q;
    for (uint32_t t = 0, i = 0; t < s->n_targets; t++)
        for (uint32_t k = 0; k < rows_of(&s->target[t]); k++, i++)
            if (q->o->awq == HLWQ_AWQ_ROUND) {
                q->error[s->target[t].role] += s->cost[i][0][best];
                q->whole[s->target[t].role] += s->cost[i][1][best];
            }
    return best;
}

static hlwq_status choose(search *s, float *square, uint32_t *alpha, hlwq_error *err)
{
    const uint32_t cols = s->target->source->cols, threads = hs_pool_threads(s->q->pool);
    uint32_t rows = 0;
    hs_planes planes;
    mean_squares(&s->q->reads, square);
    make_scales(&s->q->reads, cols, square, s->q->reads.scales);
    s->column = s->q->reads.scales;
    for (uint32_t t = 0; t < s->n_targets; t++)
        rows += rows_of(&s->target[t]);
    if (!hs_planes_of(HS_Q6, 1, cols, &planes)) /* the widest */
        return hs_fail(err, HLWQ_ERR_FORMAT, "a matrix of %u inputs is too wide", cols);
    s->room_bytes = hs_align_up(2 * s->n * sizeof(hs_lanes) + 3 * s->n * sizeof(float) + planes.bytes, 64);
    HS_TRY(hs_quantize_take(s->q, threads, s->room_bytes, "rows to round", &s->room, err));
    hlwq_status st = hs_quantize_take(s->q, rows, sizeof *s->cost, "errors of rows", &s->cost, err);
    if (st == HLWQ_OK) {
        hs_pool_run(s->q->pool, rows, 1, look_at_some, s);
        for (uint32_t i = 0; i < threads && st == HLWQ_OK; i++)
            if (s->status[i] != HLWQ_OK)
                st = hs_fail(err, s->status[i], "a weight is not finite, or a block's norm is more than fp16 holds");
        *alpha = best_alpha(s, rows);
        hs_mem_free(s->q->mem, s->cost);
    }
    hs_mem_free(s->q->mem, s->room);
    return st;
}

/* ---- and what they change ------------------------------------------------------------------- */

/* What is read, once it is divided by the scales: T h T, T the division in the rotated basis. */
static void divide_inputs(hs_quantize *q)
{
    hs_reads *r = &q->reads;
    hs_gram_scale(r->h, r->n, r->n, r->factor);
    hs_gram_transpose(r->h, r->n);
    hs_gram_scale(r->h, r->n, r->n, r->factor);
    hs_gram_mirror(r->h, r->n); /* equal to the bit */
    hs_gram_scale(r->shift, r->n, r->n, r->factor);
    hs_gram_transpose(r->shift, r->n);
    hs_gram_scale(r->shift, r->n, r->n, r->factor);
    hs_gram_transpose(r->shift, r->n);
    hs_gram_scale(r->wanted, q->calib.config->hidden, r->n, r->factor);
}

hlwq_status hs_quantize_scale(hs_quantize *q, const hs_fit_target *target, uint32_t n, hlwq_error *err)
{
    hs_reads *r = &q->reads;
    search *s = calloc(1, sizeof *s);
    uint32_t alpha = 0;
    if (!s)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to quantize");
    hs_gram_mirror(r->h, r->n);
    *s = (search){.q = q, .target = target, .n_targets = n, .n = r->n};
    hlwq_status st = choose(s, r->factor, &alpha, err);
    free(s);
    HS_TRY(st);
    memcpy(r->column, r->scales + (size_t)alpha * r->n, r->n * sizeof(float));
    for (uint32_t c = 0; c < r->n; c++)
        r->factor[c] = 1.0f / r->column[c];
    if (alpha)
        divide_inputs(q);
    for (uint32_t i = 0; i < n; i++) {
        const hs_part *p = hs_group_find(target[i].group, target[i].role);
        memcpy(target[i].extent + p->offset + p->planes.factor, r->factor, p->planes.factor_bytes);
        q->alpha[target[i].role] += alpha * ALPHA_STEP;
        q->alphas[target[i].role]++;
    }
    return HLWQ_OK;
}

/* ---- rounded, not fitted -------------------------------------------------------------------- */

typedef struct rounding {
    const hs_matrix *source;
    const hs_part *part;
    const hs_codebook *book;
    const float *column;
    float *row; /* of each worker: cols */
    uint8_t *out;
    hlwq_status status[256];
} rounding;

static void round_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    rounding *j = user;
    const hs_matrix *m = j->source;
    float *row = j->row + (size_t)worker * m->cols;
    for (uint32_t r = first; r < last && j->status[worker] == HLWQ_OK; r++) {
        hs_to_f32(row, m->low + (size_t)r * m->cols * hs_dtype_bytes(m->dtype), m->dtype, m->cols);
        for (uint32_t c = 0; c < m->cols; c++)
            row[c] *= j->column[c];
        j->status[worker] = hs_encode_rows(j->part->dtype, j->book, row, r, 1, m->rows, m->cols, j->out, NULL);
    }
}

hlwq_status hs_quantize_round(hs_quantize *q, const hs_fit_target *target, hlwq_error *err)
{
    const hs_part *part = hs_group_find(target->group, target->role);
    const uint32_t threads = hs_pool_threads(q->pool);
    rounding *j = calloc(1, sizeof *j);
    if (!j)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to quantize");
    *j = (rounding){.source = target->source,
                    .part = part,
                    .book = hs_store_book(q->result, part->book),
                    .column = q->reads.column,
                    .out = target->extent + part->offset};
    hlwq_status st = hs_quantize_take(q, threads, target->source->cols * sizeof(float), "rows to round", &j->row, err);
    if (st == HLWQ_OK)
        hs_pool_run(q->pool, target->source->rows, 16, round_some, j);
    for (uint32_t i = 0; i < threads && st == HLWQ_OK; i++)
        if (j->status[i] != HLWQ_OK)
            st = hs_fail(err, j->status[i], "a weight is not finite, or a block's norm is more than fp16 holds");
    hs_mem_free(q->mem, j->row);
    free(j);
    return st;
}
