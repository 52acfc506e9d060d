/*
 * offload/store_wide.c - rows of foreign formats into parts, a piece at a time.
 */
#include "offload/store_wide.h"

#include "base/size.h"
#include "offload/store_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (8u << 20)

typedef struct job {
    const hs_source *source;
    const hs_part *part;
    const hs_codebook *book;
    const uint8_t *raw;
    uint64_t step, first; /* bytes of a row of raw; its row in the part */
    float *row;           /* scratch, [threads][rows_together + 1][cols] */
    uint8_t *out;
    hlwq_status status[HS_STORE_WORKERS]; /* by worker */
} job;

/* Rows that are encoded at a time. */
static uint32_t rows_together(uint32_t cols)
{
    return cols < HS_ENCODE_FLOATS ? HS_ENCODE_FLOATS / cols : 1;
}

static bool is_finite(const float *row, uint32_t n)
{
    uint32_t odd = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &row[i], sizeof bits);
        odd |= (bits & 0x7F800000u) == 0x7F800000u; /* whole vectors at a time, unlike sums of floats */
    }
    return !odd;
}

static void make_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    job *j = user;
    const uint32_t cols = j->part->cols, together = rows_together(cols);
    float *row = j->row + (size_t)worker * (together + 1) * cols;
    for (uint32_t r = first, n; r < last && j->status[worker] == HLWQ_OK; r += n) {
        n = last - r < together ? last - r : together;
        for (uint32_t i = 0; i < n; i++) /* which needs room for one row behind it */
            hs_hf_widen(j->source, j->first + r + i, j->raw + (r + i) * j->step, row + (size_t)i * cols);
        if (!is_finite(row, n * cols))
            j->status[worker] = HLWQ_ERR_FORMAT;
        else if (hs_dtype_packed(j->part->dtype))
            j->status[worker] =
                hs_encode_rows(j->part->dtype, j->book, row, j->first + r, n, j->part->rows, cols, j->out, NULL);
        else
            memcpy(j->out + (j->first + r) * cols * sizeof(float), row, (size_t)n * cols * sizeof(float));
    }
}

static hlwq_status make_pieces(const hs_hf *hf, job *j, uint64_t rows_each, uint8_t *raw, hs_pool *pool,
                               hlwq_error *err)
{
    const hs_tensor *t = j->source->tensor;
    for (uint64_t first = 0; first < j->part->rows; first += rows_each) {
        uint64_t rows = hs_min_u64(rows_each, j->part->rows - first);
        j->first = first;
        HS_TRY(hs_hf_read_wide(hf, j->source, first, rows, raw, err));
        hlwq_status st = hs_store_run(pool, rows, make_some, j, j->status);
        if (st != HLWQ_OK)
            return hs_fail(err, st, "%s: tensor %s: a scale or a weight is not finite, or too large",
                           hf->path[t->data.file], t->name);
    }
    return HLWQ_OK;
}

hlwq_status hs_store_wide(const hs_hf *hf, hs_shelf *shelf, const hs_source *source, const hs_part *part,
                          const hs_codebook *book, hs_pool *pool, uint8_t *out, hlwq_error *err)
{
    const uint64_t threads = pool ? hs_pool_threads(pool) : 1, step = hs_hf_wide_bytes(source->tensor, part->cols);
    const uint64_t rows = hs_max_u64(1, hs_min_u64(part->rows, PIECE / step)), raw = hs_align_up(rows * step, 64);
    uint64_t got;
    void *p;
    HS_TRY(hs_shelf_take(shelf, raw + threads * (rows_together(part->cols) + 1) * part->cols * sizeof(float),
                         "transfer buffer", &p, &got, err));
    job *j = calloc(1, sizeof *j);
    hlwq_status st = j ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to load a tensor");
    if (j) {
        *j = (job){.source = source,
                   .part = part,
                   .book = book,
                   .raw = p,
                   .step = step,
                   .row = (float *)(void *)((uint8_t *)p + raw),
                   .out = out};
        st = make_pieces(hf, j, rows, p, pool, err);
    }
    free(j);
    hs_shelf_give(shelf, p, got);
    return st;
}
