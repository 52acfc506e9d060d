/*
 * offload/store_ints.c - integers in groups into parts, a piece of rows at a time.
 */
#include "offload/store_ints.h"

#include "base/fields.h"
#include "base/size.h"
#include "kernels/int4.h"
#include "offload/store_rows.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (8u << 20)
enum { TILE = 16 }; /* rows whose words are brought together: a cache line of each of a transposed matrix */

typedef struct job {
    const hs_tensor *t;
    const hs_part *part;
    const hs_codebook *book;
    hs_int_rows rows;
    uint64_t first;           /* row of the piece in the part */
    const uint32_t *group_of; /* [cols] */
    const uint32_t *order;    /* [cols] of an ordered part */
    uint32_t words;           /* of a row */
    uint32_t *tile;           /* scratch, [threads][TILE][words] */
    uint8_t *code;            /* scratch, [threads][cols] */
    float *row;               /* scratch, [threads][cols] */
    uint8_t *out;
    hlwq_status status[HS_STORE_WORKERS]; /* by worker */
} job;

/* The groups of one row.  The file's are whole multiples of the part's, so column k is in group k / ints.group. */
static void pack_groups(const job *j, uint64_t r, uint8_t *zero_of)
{
    const hs_planes *p = &j->part->planes;
    const uint32_t width = hs_dtype_group(j->part->dtype);
    for (uint32_t g = 0; g < p->groups; g++) {
        uint64_t column = (uint64_t)g * width, at = (j->first + r) * p->groups + g;
        uint16_t scale = 0;
        uint8_t zero = HS_INT4_ZERO;
        if (column < j->part->cols) {
            uint64_t from = r * j->t->ints.groups + column / j->t->ints.group;
            scale = hs_f32_to_f16(j->rows.scale[from]);
            zero = j->rows.zero[from];
        }
        memcpy(j->out + p->norms + at * 2, &scale, 2);
        if (p->zeros_bytes)
            j->out[p->zeros + at] = zero;
        zero_of[g % (HS_BLOCK / width)] = zero; /* of the last block, which may have columns to fill */
    }
}

/* `rows` has row r of the piece as its row number `at`. */
static void pack_row(const job *j, const hs_int_rows *rows, uint64_t at, uint64_t r, uint8_t *code)
{
    const hs_planes *p = &j->part->planes;
    const uint32_t width = hs_dtype_group(j->part->dtype), cols = j->part->cols;
    uint8_t zero_of[2], *low = j->out + p->low + (j->first + r) * p->blocks * p->low_block;
    uint32_t b = 0;
    pack_groups(j, r, zero_of);
    if (!j->order &&
        rows->word_stride == 1) { /* whole blocks: 8 words hold the low nibbles, the next 8 the high ones */
        const uint32_t *word = rows->word + at * rows->row_stride;
        for (; b < cols / HS_BLOCK; b++)
            for (uint32_t i = 0; i < 8; i++) {
                const uint64_t eight = hs_zip_nibbles(word[16 * b + i], word[16 * b + 8 + i]);
                memcpy(low + (size_t)b * p->low_block + 8 * i, &eight, 8);
            }
    }
    if (b == p->blocks)
        return;
    hs_int_codes(j->t, rows, at, code);
    for (; b < p->blocks; b++) {
        uint8_t block[HS_BLOCK];
        for (uint32_t i = 0; i < HS_BLOCK; i++) {
            uint64_t k = (uint64_t)b * HS_BLOCK + i;
            block[i] = k >= cols ? zero_of[i / width] : code[j->order ? j->order[k] : k];
        }
        hs_int4_pack_block(block, low + (size_t)b * p->low_block);
    }
}

static hlwq_status widen_row(const job *j, uint64_t r, const uint8_t *code, float *row)
{
    const uint64_t cols = j->part->cols, at = r * j->t->ints.groups;
    for (uint64_t c = 0; c < cols; c++) {
        uint64_t g = at + j->group_of[c];
        row[c] = j->rows.scale[g] * (float)((int32_t)code[c] - (int32_t)j->rows.zero[g]);
    }
    if (hs_dtype_packed(j->part->dtype))
        return hs_encode_rows(j->part->dtype, j->book, row, j->first + r, 1, j->part->rows, cols, j->out, NULL);
    memcpy(j->out + (j->first + r) * cols * sizeof(float), row, cols * sizeof(float));
    return HLWQ_OK;
}

/* Words [word][row] of n rows from `r` on to [row][word]. */
static hs_int_rows turn(const job *j, uint64_t r, uint32_t n, uint32_t *tile)
{
    const uint32_t *from = j->rows.word + r * j->rows.row_stride;
    for (uint32_t w = 0; w < j->words; w++)
        for (uint32_t i = 0; i < n; i++)
            tile[(size_t)i * j->words + w] = from[w * j->rows.word_stride + i];
    return (hs_int_rows){.word = tile, .row_stride = j->words, .word_stride = 1};
}

static void make_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    job *j = user;
    uint8_t *code = j->code + (size_t)worker * j->part->cols;
    float *row = j->row + (size_t)worker * j->part->cols;
    const bool packs = hs_dtype_int4(j->t->dtype) && hs_dtype_int4(j->part->dtype), turns = j->rows.word_stride > 1;
    hs_int_rows rows = j->rows;
    for (uint32_t r = first; r < last && j->status[worker] == HLWQ_OK; r++) {
        const uint32_t n = turns ? (r - first) % TILE : r;
        if (turns && n == 0)
            rows = turn(j, r, last - r < TILE ? last - r : TILE, j->tile + (size_t)worker * TILE * j->words);
        if (packs) {
            pack_row(j, &rows, n, r, code);
            continue;
        }
        hs_int_codes(j->t, &rows, n, code);
        j->status[worker] = widen_row(j, r, code, row);
    }
}

/* Columns by group, those of one group as they stand in the file; without an index, as they are. */
static void sort_columns(const hs_tensor *t, const uint32_t *group_of, uint32_t *order, uint32_t *start)
{
    uint32_t cols = (uint32_t)t->dim[1];
    memset(start, 0, (t->ints.groups + 1) * sizeof *start);
    for (uint32_t c = 0; c < cols; c++)
        start[group_of[c] + 1]++;
    for (uint32_t g = 0; g < t->ints.groups; g++)
        start[g + 1] += start[g];
    for (uint32_t c = 0; c < cols; c++)
        order[start[group_of[c]]++] = c;
}

static hlwq_status make_pieces(const hs_hf *hf, job *j, uint64_t from, uint64_t step, void *buffer, hs_pool *pool,
                               hlwq_error *err)
{
    for (uint64_t first = 0; first < j->part->rows; first += step) {
        uint64_t rows = hs_min_u64(step, j->part->rows - first);
        j->first = first;
        HS_TRY(hs_hf_read_ints(hf, j->t, from + first, rows, buffer, &j->rows, err));
        hlwq_status st = hs_store_run(pool, rows, make_some, j, j->status);
        if (st != HLWQ_OK)
            return hs_fail(err, st, "%s: %s cannot be coded as %s: a weight is not finite or too large", hf->dir,
                           j->t->name, hs_dtype_name(j->part->dtype));
    }
    return HLWQ_OK;
}

hlwq_status hs_store_ints(const hs_hf *hf, hs_shelf *shelf, const hs_source *source, const hs_part *part,
                          const hs_codebook *book, hs_pool *pool, uint8_t *out, hlwq_error *err)
{
    const hs_tensor *t = source->tensor;
    assert(source->first_row + part->rows <= t->dim[0] && t->dim[1] == part->cols);
    assert(!hs_dtype_int4(t->dtype) || !t->ints.ordered || part->ordered || !hs_dtype_int4(part->dtype));
    const uint64_t cols = part->cols, threads = pool ? hs_pool_threads(pool) : 1;
    uint64_t step = hs_max_u64(1, PIECE / hs_hf_ints_bytes(t, 32)) * 32;
    step = hs_min_u64(step, hs_align_up(part->rows, 32));
    const uint64_t read = hs_align_up(hs_hf_ints_bytes(t, step), 64), index = hs_align_up(cols * 4, 64);
    const uint64_t words = hs_ceil_div(cols * t->ints.bits, 32), tile = threads * TILE * words * 4;
    const uint64_t row = hs_align_up(threads * cols * sizeof(float), 64),
                   start = hs_align_up((uint64_t)t->ints.groups * 4 + 4, 64);
    uint64_t got;
    void *p;
    HS_TRY(
        hs_shelf_take(shelf, read + 2 * index + start + row + tile + threads * cols, "transfer buffer", &p, &got, err));
    uint8_t *at = p;
    uint32_t *group_of = (uint32_t *)(void *)(at + read), *order = (uint32_t *)(void *)(at + read + index);
    job *j = calloc(1, sizeof *j);
    hlwq_status st =
        j ? hs_hf_read_index(hf, t, group_of, err) : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to load a tensor");
    if (st == HLWQ_OK) {
        *j = (job){.t = t, .part = part, .book = book, .group_of = group_of, .out = out};
        j->row = (float *)(void *)(at + read + 2 * index);
        j->words = (uint32_t)words;
        j->tile = (uint32_t *)(void *)(at + read + 2 * index + row + start);
        j->code = at + read + 2 * index + row + start + tile;
        if (part->ordered) {
            sort_columns(t, group_of, order, (uint32_t *)(void *)(at + read + 2 * index + row));
            memcpy(out + part->planes.order, order, part->planes.order_bytes);
            j->order = order;
        }
        st = make_pieces(hf, j, source->first_row, step, p, pool, err);
    }
    free(j);
    hs_shelf_give(shelf, p, got);
    return st;
}
