/*
 * offload/store_decode.c - rows of a container as fp32, a few at a time: for comparisons.
 */
#include "offload/store_decode.h"

#include "base/size.h"

#include <inttypes.h>

/* The bytes of one plane that belong to those rows. */
static hlwq_status read_plane(const hs_container *c, uint64_t at, uint64_t row_bytes, uint64_t first, uint64_t rows,
                              uint8_t *out, hlwq_error *err)
{
    if (row_bytes == 0)
        return HLWQ_OK;
    return hs_file_read(&c->file, at + first * row_bytes, out, rows * row_bytes, c->path, err);
}

typedef struct decoding {
    const hs_part *part;
    const hs_codebook *book;
    const uint8_t *data;
    uint64_t rows;
    const uint32_t *order;
    const float *factor;
    float *column, *out; /* scratch, [threads][cols]; [rows][cols] */
} decoding;

static void decode_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    const decoding *d = user;
    const uint32_t cols = d->part->cols;
    float *column = d->column + (size_t)worker * cols;
    for (uint32_t r = first; r < last; r++) {
        if (hs_dtype_packed(d->part->dtype))
            hs_decode_row(d->part->dtype, d->book, d->data, d->rows, cols, r, column);
        else
            hs_to_f32(column, d->data + (size_t)r * cols * hs_dtype_bytes(d->part->dtype), d->part->dtype, cols);
        for (uint32_t c = 0; c < cols; c++)
            d->out[(size_t)r * cols + (d->order ? d->order[c] : c)] = d->factor ? column[c] * d->factor[c] : column[c];
    }
}

/* `data`: room for the planes of the rows, the order, the factors, and a row for each thread. */
static hlwq_status decode(const hs_container *c, uint64_t at, const hs_part *part, const hs_codebook *book,
                          const hs_planes *q, uint64_t first, uint64_t rows, hs_pool *pool, uint8_t *data, float *out,
                          hlwq_error *err)
{
    const hs_planes *p = &part->planes;
    const uint64_t cols = part->cols, n = p->blocks, groups = p->groups;
    uint8_t *order = data + q->bytes, *factor = order + hs_align_up(cols * 4, 64);
    bool packed = hs_dtype_packed(part->dtype);
    uint64_t low = packed ? n * p->low_block : cols * hs_dtype_bytes(part->dtype);
    HS_TRY(read_plane(c, at + p->low, low, first, rows, data + q->low, err));
    HS_TRY(read_plane(c, at + p->high, packed ? n * p->high_block : 0, first, rows, data + q->high, err));
    HS_TRY(read_plane(c, at + p->norms, packed ? groups * 2 : 0, first, rows, data + q->norms, err));
    HS_TRY(read_plane(c, at + p->zeros, p->zeros_bytes ? groups : 0, first, rows, data + q->zeros, err));
    HS_TRY(read_plane(c, at + p->order, p->order_bytes, 0, 1, order, err));
    HS_TRY(read_plane(c, at + p->factor, p->factor_bytes, 0, 1, factor, err));
    const uint32_t *to = p->order_bytes ? (const uint32_t *)(const void *)order : NULL;
    for (uint64_t k = 0; to && k < cols; k++)
        if (to[k] >= cols)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: %s: entry %" PRIu64 " of its order is %u, there are %u inputs",
                           c->path, hs_role_name(part->role), k, to[k], part->cols);
    decoding d = {.part = part,
                  .book = book,
                  .data = data,
                  .rows = rows,
                  .order = to,
                  .factor = p->factor_bytes ? (const float *)(const void *)factor : NULL,
                  .column = (float *)(void *)(factor + hs_align_up(cols * 4, 64)),
                  .out = out};
    if (pool)
        hs_pool_run(pool, (uint32_t)rows, 16, decode_some, &d);
    else
        decode_some(&d, 0, (uint32_t)rows, 0);
    return HLWQ_OK;
}

hlwq_status hs_store_decode(const hs_container *c, hs_mem *mem, uint32_t group, uint32_t extent, const hs_part *part,
                            const hs_codebook *book, uint64_t first, uint64_t rows, hs_pool *pool, float *out,
                            hlwq_error *err)
{
    hs_planes q;
    void *data;
    if (!hs_planes_of(part->dtype, rows, part->cols, &q))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: %s is too large", c->path, hs_role_name(part->role));
    const uint64_t line = hs_align_up((uint64_t)part->cols * 4, 64), threads = pool ? hs_pool_threads(pool) : 1;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, q.bytes + line * (2 + threads), "rows", &data, err));
    hlwq_status st = decode(c, hs_container_offset(c, group, extent) + part->offset, part, book, &q, first, rows, pool,
                            data, out, err);
    hs_mem_free(mem, data);
    return st;
}
