/*
 * model/convert_compare.c - the weights of a finished file against those it was made from, tensor by tensor.
 *
 * Where the file keeps what the source has, every weight must be the same.  Where weights were coded anew, the error of
 * each kind of matrix must be what codes of that width make of weights that a rotation has mixed, with room above it:
 * this finds what was damaged or mistaken, it is no measure of quality.
 */
#include "model/convert_write.h"

#include "base/size.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>

#define PIECE (4u << 20) /* bytes of fp32 rows of either side */
enum { ROWS = 32 };      /* of which there is a multiple: what fields of packed integers ask for */

typedef struct kind {
    uint64_t tensors, weights, different;
    double error, whole, largest; /* sums of squares; of one weight */
    double bound;                 /* relative, of the root of the mean square; 0 = exact */
    hs_dtype from, to;
} kind;

typedef struct comparison {
    hs_store *a, *b; /* source, result */
    hs_pool *pool;
    float *x, *y;
    kind kind[2][HS_ROLE_COUNT]; /* by whether they are exact */
    const hlwq_convert_options *o;
    uint64_t done, total;
} comparison;

/* Relative errors of Lloyd-Max codes of a Gaussian are .343 .186 .098 .050 .026; integers depend on the largest. */
static double bound_of(hs_dtype to)
{
    static const double rotated[] = {0.45, 0.25, 0.14, 0.075, 0.045};
    if (hs_dtype_rotated(to))
        return rotated[hs_dtype_bits(to) - 2];
    if (hs_dtype_int4(to))
        return 0.25;
    return to == HS_BF16 ? 0x1p-8 : to == HS_F16 ? 0x1p-10 : 0x1p-20; /* plain ones that were narrowed or computed */
}

/* Whether one holds the other's numbers as they are. */
static bool is_exact(const hs_part *a, const hs_part *b)
{
    return (a->dtype == b->dtype || b->dtype == HS_F32) && !(hs_dtype_packed(b->dtype) && a->dtype != b->dtype);
}

static hlwq_status compare_rows(comparison *c, uint32_t g, uint32_t e, uint32_t part, kind *k, hlwq_error *err)
{
    const hs_part *p = &hs_store_table(c->a)->group[g].part[part], *q = &hs_store_table(c->b)->group[g].part[part];
    const uint64_t step = hs_max_u64(1, PIECE / ((uint64_t)p->cols * sizeof(float)) / ROWS) * ROWS;
    for (uint64_t first = 0; first < p->rows; first += step) {
        const uint64_t rows = hs_min_u64(step, p->rows - first);
        HS_TRY(hs_store_rows(c->a, g, e, p, first, rows, c->pool, c->x, err));
        HS_TRY(hs_store_rows(c->b, g, e, q, first, rows, c->pool, c->y, err));
        double error = 0, whole = 0, largest = 0;
        for (uint64_t i = 0; i < rows * p->cols; i++) {
            double d = fabs((double)c->x[i] - (double)c->y[i]);
            largest = d <= largest ? largest : d; /* not a number stays */
            error += d * d;
            whole += (double)c->x[i] * (double)c->x[i];
            k->different += c->x[i] != c->y[i];
        }
        k->largest = largest <= k->largest ? k->largest : largest;
        k->error += error;
        k->whole += whole;
    }
    k->weights += (uint64_t)p->rows * p->cols;
    k->tensors++;
    return HLWQ_OK;
}

static hlwq_status judge(const comparison *c, const kind *k, const char *name, hlwq_error *err)
{
    if (k->bound == 0 && k->different)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: %s: %llu of %llu weights are not those of %s, which it should hold exactly; the largest "
                       "difference is %g",
                       c->o->output, name, (unsigned long long)k->different, (unsigned long long)k->weights,
                       c->o->source, k->largest);
    if (k->bound > 0 && !(k->error <= k->bound * k->bound * k->whole))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: %s: the error is %.3g of the weights of %s, the bound for %s is %.3g",
                       c->o->output, name, sqrt(k->error / fmax(k->whole, 1e-300)), c->o->source, hs_dtype_name(k->to),
                       k->bound);
    return HLWQ_OK;
}

static hlwq_status compare_part(comparison *c, uint32_t g, uint32_t e, uint32_t i, hlwq_error *err)
{
    const hs_group *group = &hs_store_table(c->a)->group[g];
    const hs_part *p = &group->part[i], *q = &hs_store_table(c->b)->group[g].part[i];
    if (p->role != q->role || p->rows != q->rows || p->cols != q->cols)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s has other parts than %s", c->o->output, c->o->source);
    const bool exact = is_exact(p, q);
    kind one = {.bound = exact ? 0 : bound_of(q->dtype), .from = p->dtype, .to = q->dtype}, *all;
    HS_TRY(compare_rows(c, g, e, i, &one, err));
    char name[256];
    hs_part_name(name, sizeof name, group, e, p->role);
    /* A single tensor may be odd; a kind is not.  What should be exact is told by its own name. */
    if (exact)
        HS_TRY(judge(c, &one, name, err));
    all = &c->kind[exact][p->role];
    all->bound = one.bound > all->bound ? one.bound : all->bound;
    all->from = one.from;
    all->to = one.to;
    all->tensors++;
    all->weights += one.weights;
    all->error += one.error;
    all->whole += one.whole;
    all->largest = one.largest <= all->largest ? all->largest : one.largest;
    return HLWQ_OK;
}

static hlwq_status compare_all(comparison *c, hlwq_error *err)
{
    const hs_table *t = hs_store_table(c->a), *u = hs_store_table(c->b);
    if (t->n_groups != u->n_groups)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s has %u groups of weights, %s has %u", c->o->output, u->n_groups,
                       c->o->source, t->n_groups);
    for (uint32_t g = 0; g < t->n_groups; g++)
        c->total += u->group[g].bytes * u->group[g].count;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        if (t->group[g].count != u->group[g].count || t->group[g].n_parts != u->group[g].n_parts)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s has other groups of weights than %s", c->o->output, c->o->source);
        for (uint32_t e = 0; e < t->group[g].count; e++) {
            for (uint32_t i = 0; i < t->group[g].n_parts; i++)
                HS_TRY(compare_part(c, g, e, i, err));
            c->done += u->group[g].bytes;
            if (c->o->progress && !c->o->progress(c->o->user, c->done, c->total))
                return hs_fail(err, HLWQ_ERR_CANCELLED, "the comparison was stopped; %s is complete", c->o->output);
        }
    }
    return HLWQ_OK;
}

/* A line for each kind that was coded anew, one for all that is exact. */
static hlwq_status say(const comparison *c, const hs_log *log, hlwq_error *err)
{
    uint64_t tensors = 0, weights = 0;
    hlwq_status st = HLWQ_OK;
    for (int r = 0; r < HS_ROLE_COUNT; r++) {
        const kind *same = &c->kind[1][r], *k = &c->kind[0][r];
        tensors += same->tensors;
        weights += same->weights;
        if (!k->tensors)
            continue;
        hs_log_line(log, HLWQ_LOG_INFO, "%-28s %6llu tensors %4s as %-6s relative error %.3e, largest %.3e, bound %.3g",
                    hs_role_name((hs_role)r), (unsigned long long)k->tensors, hs_dtype_name(k->from),
                    hs_dtype_name(k->to), sqrt(k->error / fmax(k->whole, 1e-300)), k->largest, k->bound);
        if (st == HLWQ_OK)
            st = judge(c, k, hs_role_name((hs_role)r), err);
    }
    hs_log_line(log, HLWQ_LOG_INFO, "%llu tensors with %llu weights are the source's, every weight",
                (unsigned long long)tensors, (unsigned long long)weights);
    return st;
}

static uint64_t widest(const hs_table *t)
{
    uint64_t most = 1;
    for (uint32_t g = 0; g < t->n_groups; g++)
        for (uint32_t i = 0; i < t->group[g].n_parts; i++)
            most = hs_max_u64(most, t->group[g].part[i].cols);
    return most;
}

hlwq_status hs_convert_compare(const hlwq_convert_options *o, hs_mem *mem, hs_pool *pool, const hs_log *log,
                               hlwq_error *err)
{
    comparison c = {.pool = pool, .o = o};
    void *p = NULL;
    const hs_log quiet = {0};
    hlwq_status st = hs_store_open(&c.a, mem, o->source, NULL, &quiet, err);
    if (st == HLWQ_OK)
        st = hs_store_open(&c.b, mem, o->output, NULL, &quiet, err);
    if (st == HLWQ_OK) {
        uint64_t bytes = hs_max_u64(PIECE, widest(hs_store_table(c.a)) * ROWS * sizeof(float));
        st = hs_mem_alloc(mem, HS_MEM_IO, 2 * bytes, "rows to compare", &p, err);
        c.x = p;
        c.y = c.x + (st == HLWQ_OK ? bytes / sizeof(float) : 0);
    }
    if (st == HLWQ_OK)
        st = compare_all(&c, err);
    if (st == HLWQ_OK)
        st = say(&c, log, err);
    hs_mem_free(mem, p);
    hs_store_close(c.b);
    hs_store_close(c.a);
    return st;
}
