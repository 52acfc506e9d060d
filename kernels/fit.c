/*
 * kernels/fit.c - sixteen rows at a time, one a lane; rows do not see each other.
 *
 * e = w - q, in the rotated basis.  First pass: weight k is coded from t_k = w_k + sum over i < k of e_i M_ik, which
 * minimises the sum of D_k (t_k - q_k)^2 front to back.  Then g = e H is kept up to date: the best value of code k, the
 * others held, is the level nearest to q_k + g_k / H_kk; the best norm of a block moves by (g.c) / (c H c).
 */
#include "kernels/fit.h"

#include "kernels/gram.h"
#include "kernels/int4.h"
#include "kernels/lanes.h"
#include "kernels/numeric.h"

#include <assert.h>
#include <stdlib.h>

#define INVERSE_SQRT_128 0x1.6a09e6p-4f

enum { NORM_TRIES = 4, WORKERS = 256 };

/* Of one worker: sixteen rows in hand. */
typedef struct rows16 {
    hs_lanes *w;    /* [n] what to come near to */
    hs_lanes *e;    /* [n] what is left */
    hs_lanes *g;    /* [n] e H; before that, room */
    hs_lanes *norm; /* [groups] as fp16 holds them; weights are levels times it and job.unit */
    uint8_t *code;  /* [n][16] */
    float *row;     /* [n] */
} rows16;

typedef struct job {
    const hs_fit *fit;
    const hs_codebook *book;
    hs_codebook integers; /* -8..7 */
    float unit;           /* 1 / sqrt(128) of the rotation, or 1 */
    uint32_t n, blocks;
    uint32_t group, groups; /* weights that share a norm; how many such a row has */
    hs_planes planes;
    uint8_t *scratch;
    uint64_t worker_bytes;
    hlwq_status status[WORKERS];
    double *left, *whole; /* by sixteen rows, so that the order of adding is fixed */
} job;

static uint32_t padded(uint32_t cols)
{
    return (cols + HS_BLOCK - 1) / HS_BLOCK * HS_BLOCK;
}

static uint64_t worker_bytes(uint32_t n)
{
    uint64_t bytes = (uint64_t)n * (3 * sizeof(hs_lanes) + HS_LANES + sizeof(float)) + n / 64 * sizeof(hs_lanes);
    return (bytes + 63) / 64 * 64;
}

static uint64_t groups_of(uint64_t rows)
{
    return (rows + HS_LANES - 1) / HS_LANES;
}

uint64_t hs_fit_scratch_bytes(uint32_t cols, uint32_t threads)
{
    return worker_bytes(padded(cols)) * threads;
}

static rows16 rows_of(const job *j, uint32_t worker)
{
    uint8_t *at = j->scratch + worker * j->worker_bytes;
    rows16 r;
    r.w = (hs_lanes *)(void *)at;
    r.e = r.w + j->n;
    r.g = r.e + j->n;
    r.norm = r.g + j->n;
    r.row = (float *)(void *)(r.norm + j->groups);
    r.code = (uint8_t *)(r.row + j->n);
    return r;
}

/* ---- reading and writing -------------------------------------------------------------------- */

/* Weights of rows first.. in the basis of their codes, zero past the last row. */
static hlwq_status load(const job *j, rows16 *r, uint32_t first)
{
    const hs_matrix *m = j->fit->source;
    memset(r->w, 0, j->n * sizeof *r->w);
    for (uint32_t lane = 0; lane < HS_LANES && first + lane < m->rows; lane++) {
        float *plain = (float *)(void *)r->g;
        hs_to_f32(plain, m->low + (size_t)(first + lane) * m->cols * hs_dtype_bytes(m->dtype), m->dtype, m->cols);
        for (uint32_t i = 0; i < m->cols; i++) {
            if (!(fabsf(plain[i]) <= 3e38f))
                return HLWQ_ERR_FORMAT;
            if (j->fit->column)
                plain[i] *= j->fit->column[i];
        }
        if (hs_dtype_rotated(j->fit->dtype))
            hs_gram_rotate(plain, m->cols, 1.0f, r->row);
        else
            hs_gram_pad(plain, m->cols, 1.0f, r->row);
        for (uint32_t i = 0; i < j->n; i++)
            r->w[i][lane] = r->row[i];
    }
    return HLWQ_OK;
}

static hlwq_status store(const job *j, const rows16 *r, uint32_t first)
{
    const hs_planes *p = &j->planes;
    uint8_t *part = j->fit->part;
    for (uint32_t lane = 0; lane < HS_LANES && first + lane < j->fit->source->rows; lane++)
        for (uint32_t b = 0; b < j->blocks; b++) {
            uint8_t code[HS_BLOCK];
            uint64_t at = (uint64_t)(first + lane) * j->blocks + b;
            for (uint32_t i = 0; i < HS_BLOCK; i++)
                code[i] = r->code[((size_t)b * HS_BLOCK + i) * HS_LANES + lane];
            if (hs_dtype_rotated(j->fit->dtype))
                hs_pack_block(j->fit->dtype, code, part + p->low + at * p->low_block,
                              part + p->high + at * p->high_block);
            else
                hs_int4_pack_block(code, part + p->low + at * p->low_block);
        }
    for (uint32_t lane = 0; lane < HS_LANES && first + lane < j->fit->source->rows; lane++)
        for (uint32_t g = 0; g < j->groups; g++) {
            uint16_t norm = hs_f32_to_f16(r->norm[g][lane]);
            if ((norm & 0x7c00) == 0x7c00)
                return HLWQ_ERR_FORMAT;
            memcpy(part + p->norms + ((uint64_t)(first + lane) * j->groups + g) * 2, &norm, 2);
        }
    return HLWQ_OK;
}

/* ---- what to come near to ------------------------------------------------------------------- */

/*
 * w += (W shift' + wanted) H^-1, by way of H = M D M'.  From here on the best codes for the outputs that are wanted are
 * those nearest to w in the sense of H.
 */
HS_WIDE_CLONES static void make_up(const job *j, rows16 *r, uint32_t first)
{
    const hs_fit *f = j->fit;
    uint32_t n = j->n, rows = f->source->rows;
    for (uint32_t k = 0; k < n; k++) {
        hs_lanes b = {0};
        if (f->shift)
            hs_lanes_dot(&b, f->shift + (size_t)k * n, r->w, 0, n);
        if (f->wanted)
            for (uint32_t lane = 0; lane < HS_LANES && first + lane < rows; lane++)
                b[lane] += f->wanted[(size_t)(first + lane) * n + k];
        r->g[k] = b;
    }
    for (uint32_t k = n; k-- > 0;) /* z M' = b */
        hs_lanes_subtract(r->g, f->t + (size_t)k * n, &r->g[k], 0, k);
    for (uint32_t k = 0; k < n; k++)
        r->g[k] /= f->d[k];
    for (uint32_t k = 0; k < n; k++) { /* y M = z / D */
        hs_lanes s = {0};
        hs_lanes_dot(&s, f->t + (size_t)k * n, r->g, 0, k);
        r->g[k] -= s;
    }
    for (uint32_t k = 0; k < n; k++)
        r->w[k] += r->g[k];
}

/* ---- the first pass ------------------------------------------------------------------------- */

/* A norm as the file will have it. */
static float storable(float norm)
{
    return hs_half(hs_f32_to_f16(norm));
}

/* The value of the norm that is best for the nearest codes at s, and what their errors then cost. */
static double improved(const job *j, const hs_lanes *v, const float *weight, uint32_t lane, float *s)
{
    double vv = 0, vc = 0, cc = 0;
    for (uint32_t i = 0; i < j->group; i++) {
        double c = j->book->level[hs_nearest_level(j->book, v[i][lane] / *s)];
        vv += (double)weight[i] * v[i][lane] * v[i][lane];
        vc += weight[i] * v[i][lane] * c;
        cc += weight[i] * c * c;
    }
    if (!(vc > 0))
        return vv;
    *s = (float)(vc / cc);
    return vv - vc * vc / cc;
}

/* Levels that reach further down than up: the side with the largest weight is down, as far as that is, or less. */
static float integer_norm(const job *j, const hs_lanes *v, const float *weight, uint32_t lane)
{
    float low = 0, high = 0, best = 0;
    double least = INFINITY;
    for (uint32_t i = 0; i < j->group; i++) {
        low = fminf(low, v[i][lane]);
        high = fmaxf(high, v[i][lane]);
    }
    float full = (-low >= high ? low : high) / -HS_INT4_ZERO;
    for (int part = 16; part >= 10 && fabsf(full) > 1e-12f; part--) { /* cutting off a few may serve the others */
        float s = full * (float)part / 16.0f;
        double cost = INFINITY;
        for (int turn = 0; turn < 2; turn++)
            cost = improved(j, v, weight, lane, &s);
        if (cost < least) {
            least = cost;
            best = s;
        }
    }
    return best;
}

/* Norm of one lane's group v: least squares for the nearest codes, some times over. */
static float first_norm(const job *j, const hs_lanes *v, const float *weight, uint32_t lane)
{
    double square = 0;
    float s;
    if (j->book == &j->integers)
        s = integer_norm(j, v, weight, lane);
    else {
        for (uint32_t i = 0; i < j->group; i++)
            square += (double)v[i][lane] * v[i][lane];
        s = (float)sqrt(square / j->group);
        for (int turn = 0; turn < NORM_TRIES && s > 1e-12f; turn++)
            improved(j, v, weight, lane, &s);
    }
    s = storable(s / j->unit);
    return fabsf(s) > 1e-6f ? s : storable(1e-6f);
}

HS_WIDE_CLONES static void first_pass(const job *j, rows16 *r)
{
    const hs_fit *f = j->fit;
    const hs_codebook *book = j->book;
    for (uint32_t g = 0; g < j->groups; g++) {
        uint32_t from = g * j->group;
        for (uint32_t k = from; k < from + j->group; k++) {
            hs_lanes t = r->w[k];
            hs_lanes_dot(&t, f->t + (size_t)k * j->n, r->e, 0, from);
            r->g[k] = t;
        }
        for (uint32_t lane = 0; lane < HS_LANES; lane++)
            r->norm[g][lane] = first_norm(j, r->g + from, f->d + from, lane);
        for (uint32_t k = from; k < from + j->group; k++) {
            hs_lanes t = r->g[k];
            hs_lanes_dot(&t, f->t + (size_t)k * j->n, r->e, from, k);
            for (uint32_t lane = 0; lane < HS_LANES; lane++) {
                float s = r->norm[g][lane] * j->unit;
                uint8_t code = hs_nearest_level(book, t[lane] / s);
                r->code[(size_t)k * HS_LANES + lane] = code;
                r->e[k][lane] = r->w[k][lane] - book->level[code] * s;
            }
        }
    }
}

/* ---- and what comes after it ---------------------------------------------------------------- */

/* g = e H, and e H e' by lane. */
HS_WIDE_CLONES static void gradient(const job *j, rows16 *r, hs_lanes *out)
{
    hs_lanes cost = {0};
    for (uint32_t k = 0; k < j->n; k++) {
        hs_lanes g = {0};
        hs_lanes_dot(&g, j->fit->h + (size_t)k * j->n, r->e, 0, j->n);
        r->g[k] = g;
        cost += g * r->e[k];
    }
    *out = cost;
}

/* Group by group, the norm that is best for its codes. */
HS_WIDE_CLONES static void refit_norms(const job *j, rows16 *r)
{
    uint32_t n = j->n, group = j->group;
    hs_lanes c[HS_BLOCK];
    for (uint32_t b = 0; b < j->groups; b++) {
        uint32_t from = b * group;
        for (uint32_t i = 0; i < group; i++)
            for (uint32_t lane = 0; lane < HS_LANES; lane++)
                c[i][lane] = j->book->level[r->code[(size_t)(from + i) * HS_LANES + lane]] * j->unit;
        hs_lanes gc = {0}, chc = {0}, move;
        for (uint32_t i = 0; i < group; i++) {
            hs_lanes hc = {0};
            hs_lanes_dot(&hc, j->fit->h + (size_t)(from + i) * n + from, c, 0, group);
            gc += r->g[from + i] * c[i];
            chc += hc * c[i];
        }
        for (uint32_t lane = 0; lane < HS_LANES; lane++) {
            float was = r->norm[b][lane], want = was;
            if (chc[lane] > 0)
                want = storable(was + gc[lane] / chc[lane]);
            if (!(want / was > 0.5f && want / was < 2.0f))
                want = was;
            r->norm[b][lane] = want;
            move[lane] = want - was;
        }
        for (uint32_t i = 0; i < group; i++) {
            hs_lanes step = move * c[i];
            r->e[from + i] -= step;
            hs_lanes_subtract(r->g, j->fit->h + (size_t)(from + i) * n, &step, 0, n);
        }
    }
}

/* Each code in turn, the best where the others are what they are. */
HS_WIDE_CLONES static void change_codes(const job *j, rows16 *r)
{
    uint32_t n = j->n;
    const hs_codebook *book = j->book;
    for (uint32_t k = 0; k < n; k++) {
        float hkk = j->fit->h[(size_t)k * n + k];
        hs_lanes step = {0};
        bool any = false;
        for (uint32_t lane = 0; lane < HS_LANES; lane++) {
            float s = r->norm[k / j->group][lane] * j->unit;
            uint8_t *code = &r->code[(size_t)k * HS_LANES + lane];
            float now = book->level[*code];
            uint8_t want = hs_nearest_level(book, now + r->g[k][lane] / (hkk * s));
            if (want == *code)
                continue;
            step[lane] = (book->level[want] - now) * s;
            *code = want;
            any = true;
        }
        if (!any)
            continue;
        r->e[k] -= step;
        hs_lanes_subtract(r->g, j->fit->h + (size_t)k * n, &step, 0, n);
    }
}

/* w H w' of what was to be come near to. */
HS_WIDE_CLONES static void whole(const job *j, const rows16 *r, hs_lanes *out)
{
    hs_lanes cost = {0};
    for (uint32_t k = 0; k < j->n; k++) {
        hs_lanes g = {0};
        hs_lanes_dot(&g, j->fit->h + (size_t)k * j->n, r->w, 0, j->n);
        cost += g * r->w[k];
    }
    *out = cost;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static hlwq_status fit_sixteen(job *j, uint32_t group, uint32_t worker)
{
    rows16 r = rows_of(j, worker);
    uint32_t first = group * HS_LANES;
    HS_TRY(load(j, &r, first));
    if (j->fit->shift || j->fit->wanted)
        make_up(j, &r, first);
    hs_lanes all, left;
    whole(j, &r, &all);
    first_pass(j, &r);
    for (uint32_t i = 0; i < j->fit->sweeps; i++) {
        gradient(j, &r, &left); /* anew: what was kept up to date has gathered rounding */
        refit_norms(j, &r);
        change_codes(j, &r);
    }
    if (j->fit->sweeps) {
        gradient(j, &r, &left);
        refit_norms(j, &r);
    }
    gradient(j, &r, &left);
    for (uint32_t lane = 0; lane < HS_LANES; lane++) {
        j->left[group] += left[lane];
        j->whole[group] += all[lane];
    }
    return store(j, &r, first);
}

static void fit_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    job *j = user;
    for (uint32_t group = first; group < last && j->status[worker] == HLWQ_OK; group++)
        j->status[worker] = fit_sixteen(j, group, worker);
}

/* The levels -8..7 as if they were a codebook's. */
static void integer_levels(hs_codebook *book)
{
    *book = (hs_codebook){.bits = 4, .reach = 16.0f};
    for (int i = 0; i < 16; i++) {
        book->level[i] = (float)(i - HS_INT4_ZERO);
        book->bound[i] = i < 15 ? book->level[i] + 0.5f : NAN;
    }
    hs_codebook_cells(book);
}

hlwq_status hs_fit_matrix(const hs_fit *fit, hs_pool *pool, void *scratch, hs_fit_error *error, hlwq_error *err)
{
    const hs_matrix *m = fit->source;
    uint32_t groups = (uint32_t)groups_of(m->rows);
    job *j = calloc(1, sizeof *j);
    double *sums = calloc(2 * (size_t)groups, sizeof *sums);
    hlwq_status st = j && sums ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to fit a matrix");
    if (st == HLWQ_OK) {
        uint32_t n = padded(m->cols);
        *j = (job){.fit = fit, .n = n, .blocks = n / HS_BLOCK, .scratch = scratch, .worker_bytes = worker_bytes(n)};
        j->group = hs_dtype_rotated(fit->dtype) ? HS_BLOCK : hs_dtype_group(fit->dtype);
        j->groups = n / j->group;
        j->unit = hs_dtype_rotated(fit->dtype) ? INVERSE_SQRT_128 : 1.0f;
        j->book = hs_dtype_rotated(fit->dtype) ? fit->book : &j->integers;
        integer_levels(&j->integers);
        j->left = sums;
        j->whole = sums + groups;
        bool fits = hs_planes_of(fit->dtype, m->rows, m->cols, &j->planes);
        assert(fits && hs_pool_threads(pool) <= WORKERS);
        (void)fits;
        if ((double)groups * n * n < 3e5) /* waking threads costs more */
            fit_some(j, 0, groups, 0);
        else
            hs_pool_run(pool, groups, 1, fit_some, j);
        *error = (hs_fit_error){0};
        for (uint32_t g = 0; g < groups; g++) {
            error->left += j->left[g];
            error->whole += j->whole[g];
        }
        for (uint32_t i = 0; i < WORKERS; i++)
            if (j->status[i] != HLWQ_OK)
                st = hs_fail(err, j->status[i], "a weight is not finite, or a block's norm is more than fp16 holds");
    }
    free(sums);
    free(j);
    return st;
}
