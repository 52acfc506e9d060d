/*
 * offload/lower.c - steps of ordinary memory that are used as a ring, a file before them, two windows above.
 *
 * Row r has place r % memory_rows.  Rows come down when the backend has done all that was asked for, and what is copied
 * up is awaited by its stages: so whenever a row comes down nothing is read from below any more.
 */
#include "offload/lower.h"

#include "base/size.h"

#include <assert.h>
#include <string.h>

struct hs_lower {
    hs_mem *mem;
    hs_backend *backend;
    hs_lower_options o;
    hs_room room;
    hs_spill *file;     /* NULL = none */
    uint8_t *file_data; /* what it gave last: pages file_from..file_end-1 of file_layer; end 0 = nothing */
    uint32_t file_layer, file_from, file_end;
    uint32_t filed, rows; /* in the file; in all */
    uint32_t steps;       /* of memory, that there are */
    uint8_t **step;       /* [places / step_rows]: [layers][rows of the step] pages each */
    uint8_t *bounce;      /* a page; with a file */
    void *window;         /* two of them, above, of window_pages */
    uint32_t window_pages;
    uint32_t turn;            /* the next one */
    uint64_t free_at[2];      /* the mark after which nothing reads a window */
    uint64_t copy, file_copy; /* the last one up; that of the file's memory */
    uint64_t down_bytes, up_bytes;
};

static uint32_t steps_of(const hs_lower_options *o, uint32_t rows)
{
    return (uint32_t)hs_ceil_div(rows, o->step_rows);
}

uint64_t hs_lower_copy_bytes = 1 << 20; /* a bus is at its rate with these, and they are soon there */

/* A power of two: as many windows are one of the file. */
static uint32_t window_pages(uint64_t page_bytes)
{
    uint32_t n = HS_SPILL_WINDOW;
    while (n > 1 && n / 2 * page_bytes >= hs_lower_copy_bytes)
        n /= 2;
    return n;
}

uint64_t hs_lower_window_bytes(uint64_t page_bytes)
{
    return 2 * window_pages(page_bytes) * page_bytes;
}

enum { STEP_EXTRA = 2 * 4096 /* what the allocator adds */ };

uint64_t hs_lower_bytes(const hs_lower_options *o)
{
    uint64_t steps = steps_of(o, o->memory_rows);
    return sizeof(hs_lower) + steps * (sizeof(uint8_t *) + STEP_EXTRA) +
           (o->dir ? hs_spill_bytes(o->page_bytes) + o->page_bytes : 0);
}

/* ---- memory --------------------------------------------------------------------------------- */

static uint32_t step_rows(const hs_lower *l, uint32_t step)
{
    uint32_t left = l->o.memory_rows - step * l->o.step_rows;
    return left < l->o.step_rows ? left : l->o.step_rows;
}

static uint64_t step_bytes(const hs_lower *l, uint32_t step)
{
    return step_rows(l, step) * l->o.layers * l->o.page_bytes;
}

/* Where a row that is in memory has its page. */
static uint8_t *page_of(const hs_lower *l, uint32_t layer, uint32_t row)
{
    uint32_t place = row % l->o.memory_rows, step = place / l->o.step_rows;
    assert(step < l->steps);
    return l->step[step] + ((uint64_t)layer * step_rows(l, step) + place % l->o.step_rows) * l->o.page_bytes;
}

static hlwq_status take_step(hs_lower *l, hlwq_error *err)
{
    void *p;
    uint64_t bytes = step_bytes(l, l->steps);
    if (l->room.take)
        HS_TRY(l->room.take(l->room.user, bytes, err));
    hlwq_status st = hs_mem_alloc(l->mem, HS_MEM_KV, bytes, "keys and values", &p, err);
    if (st != HLWQ_OK) {
        if (l->room.give)
            l->room.give(l->room.user, bytes);
        return st;
    }
    l->backend->ops->lend(l->backend, p, bytes);
    l->step[l->steps++] = p;
    return HLWQ_OK;
}

static void give_step(hs_lower *l)
{
    uint64_t bytes = step_bytes(l, --l->steps);
    l->backend->ops->take_back(l->backend, l->step[l->steps]);
    hs_mem_free(l->mem, l->step[l->steps]);
    if (l->room.give)
        l->room.give(l->room.user, bytes);
}

/* ---- life ----------------------------------------------------------------------------------- */

static hlwq_status open_parts(hs_lower *l, hlwq_error *err)
{
    const hs_lower_options *o = &l->o;
    void *p;
    HS_TRY(hs_mem_alloc(l->mem, HS_MEM_KV, steps_of(o, o->memory_rows) * sizeof *l->step, "KV page table", &p, err));
    l->step = p;
    HS_TRY(l->backend->ops->alloc(l->backend, HS_MEM_KV, hs_lower_window_bytes(o->page_bytes),
                                  "keys and values that come up", &l->window, err));
    if (!o->dir)
        return HLWQ_OK;
    HS_TRY(hs_mem_alloc(l->mem, HS_MEM_IO, o->page_bytes, "keys and values from the file", &p, err));
    l->bounce = p;
    return hs_spill_open(&l->file, l->mem, o->dir, o->layers, o->rows, o->page_bytes, err);
}

hlwq_status hs_lower_open(hs_lower **out, hs_mem *mem, hs_backend *backend, const hs_lower_options *options,
                          hlwq_error *err)
{
    void *p;
    *out = NULL;
    assert(options->memory_rows && options->step_rows && (options->dir || options->memory_rows >= options->rows));
    HS_TRY(hs_mem_alloc(mem, HS_MEM_KV, sizeof(hs_lower), "rows of keys and values", &p, err));
    hs_lower *l = p;
    *l = (hs_lower){.mem = mem, .backend = backend, .o = *options};
    l->window_pages = window_pages(options->page_bytes);
    hlwq_status st = open_parts(l, err);
    if (st != HLWQ_OK) {
        hs_lower_close(l);
        return st;
    }
    l->o.dir = NULL; /* the caller's */
    *out = l;
    return HLWQ_OK;
}

void hs_lower_close(hs_lower *l)
{
    if (!l)
        return;
    if (l->copy)
        (void)l->backend->ops->uploaded(l->backend, l->copy, true);
    while (l->steps)
        give_step(l);
    hs_spill_close(l->file);
    l->backend->ops->free(l->backend, l->window);
    hs_mem_free(l->mem, l->bounce);
    hs_mem_free(l->mem, l->step);
    hs_mem_free(l->mem, l);
}

void hs_lower_set_room(hs_lower *l, const hs_room *room)
{
    l->room = *room;
}

uint32_t hs_lower_memory_rows(const hs_lower *l)
{
    return l->o.memory_rows;
}

hs_lower_stats hs_lower_get_stats(const hs_lower *l)
{
    hs_lower_stats s = {.down_bytes = l->down_bytes, .up_bytes = l->up_bytes};
    if (l->file)
        s.file = hs_spill_get_stats(l->file);
    return s;
}

/* ---- down and back -------------------------------------------------------------------------- */

hlwq_status hs_lower_take(hs_lower *l, void *const *page, hlwq_error *err)
{
    hs_backend *be = l->backend;
    assert(l->rows < l->o.rows);
    if (l->rows - l->filed == l->o.memory_rows) {
        for (uint32_t i = 0; i < l->o.layers; i++)
            HS_TRY(hs_spill_put(l->file, i, l->filed, 0, page_of(l, i, l->filed), l->o.page_bytes, err));
        l->filed++;
        l->file_end = 0; /* there is more of it now */
    }
    while (l->rows % l->o.memory_rows / l->o.step_rows >= l->steps)
        HS_TRY(take_step(l, err));
    for (uint32_t i = 0; i < l->o.layers; i++)
        HS_TRY(be->ops->get(be, page_of(l, i, l->rows), page[i], l->o.page_bytes, err));
    l->down_bytes += l->o.layers * l->o.page_bytes;
    l->rows++;
    return HLWQ_OK;
}

static hlwq_status bring(hs_lower *l, uint32_t row, void *const *page, hlwq_error *err)
{
    hs_backend *be = l->backend;
    for (uint32_t i = 0; i < l->o.layers; i++) {
        const uint8_t *from = l->bounce;
        if (row >= l->filed)
            from = page_of(l, i, row);
        else
            HS_TRY(hs_spill_get(l->file, i, row, 0, l->bounce, l->o.page_bytes, err));
        HS_TRY(be->ops->put(be, page[i], from, l->o.page_bytes, err));
    }
    return HLWQ_OK;
}

hlwq_status hs_lower_cut(hs_lower *l, uint32_t rows, void *const *page, hlwq_error *err)
{
    assert(rows <= l->rows && (rows || !page));
    if (page)
        HS_TRY(bring(l, rows - 1, page, err));
    l->rows = rows;
    l->filed = l->filed < rows ? l->filed : rows;
    l->file_end = 0;
    uint32_t keep = l->filed ? l->steps : steps_of(&l->o, rows); /* without a file rows are in their first places */
    while (l->steps > keep)
        give_step(l);
    return HLWQ_OK;
}

hlwq_status hs_lower_put(hs_lower *l, uint32_t layer, uint32_t row, uint64_t offset, const void *data, uint64_t bytes,
                         hlwq_error *err)
{
    assert(row < l->rows && offset + bytes <= l->o.page_bytes);
    l->file_end = 0;
    if (row < l->filed)
        return hs_spill_put(l->file, layer, row, offset, data, bytes, err);
    if (l->copy)
        (void)l->backend->ops->uploaded(l->backend, l->copy, true);
    memcpy(page_of(l, layer, row) + offset, data, bytes);
    return HLWQ_OK;
}

hlwq_status hs_lower_get(hs_lower *l, uint32_t layer, uint32_t row, uint64_t offset, void *out, uint64_t bytes,
                         hlwq_error *err)
{
    assert(row < l->rows && offset + bytes <= l->o.page_bytes);
    if (row < l->filed)
        return hs_spill_get(l->file, layer, row, offset, out, bytes, err);
    memcpy(out, page_of(l, layer, row) + offset, bytes);
    return HLWQ_OK;
}

/* ---- up ------------------------------------------------------------------------------------- */

static hlwq_status upload(hs_lower *l, uint8_t *to, const uint8_t *from, uint64_t bytes, uint64_t after,
                          hlwq_error *err)
{
    l->up_bytes += bytes;
    return l->backend->ops->upload(l->backend, to, from, bytes, after, &l->copy, err);
}

/*
 * A window of the file is several of these.  Its memory is filled again when the next but one is asked for: what was
 * copied from it must be done.
 */
static hlwq_status from_file(hs_lower *l, uint32_t layer, uint32_t from, uint32_t *end, uint8_t *to, uint64_t after,
                             hlwq_error *err)
{
    uint32_t first = from - from % HS_SPILL_WINDOW;
    if (l->file_layer != layer || l->file_from != first || from >= l->file_end) {
        if (l->file_copy)
            (void)l->backend->ops->uploaded(l->backend, l->file_copy, true);
        l->file_end = 0;
        HS_TRY(hs_spill_window(l->file, layer, first, l->filed, end, &l->file_data, err));
        l->file_layer = layer;
        l->file_from = first;
        l->file_end = *end;
    }
    *end = l->file_end - from < l->window_pages ? l->file_end : from + l->window_pages;
    HS_TRY(upload(l, to, l->file_data + (from - first) * l->o.page_bytes, (*end - from) * l->o.page_bytes, after, err));
    l->file_copy = l->copy;
    return HLWQ_OK;
}

/* Pages of neighbouring rows lie one after another within a step. */
static hlwq_status from_memory(hs_lower *l, uint32_t layer, uint32_t from, uint32_t end, uint8_t *to, uint64_t after,
                               hlwq_error *err)
{
    for (uint32_t r = from, n; r < end; r += n) {
        const uint8_t *first = page_of(l, layer, r);
        for (n = 1; r + n < end && page_of(l, layer, r + n) == first + n * l->o.page_bytes; n++)
            continue;
        HS_TRY(upload(l, to + (r - from) * l->o.page_bytes, first, n * l->o.page_bytes, after, err));
    }
    return HLWQ_OK;
}

hlwq_status hs_lower_window(hs_lower *l, uint32_t layer, uint32_t from, uint32_t *end, uint8_t **data, hlwq_error *err)
{
    hs_backend *be = l->backend;
    uint32_t i = l->turn;
    assert(from < l->rows);
    HS_TRY(be->ops->mark(be, &l->free_at[1 - i], err)); /* stages that read the other one have been asked for */
    l->turn = 1 - i;
    *data = (uint8_t *)l->window + i * (l->window_pages * l->o.page_bytes);
    if (from < l->filed) {
        HS_TRY(from_file(l, layer, from, end, *data, l->free_at[i], err));
    } else {
        *end = l->rows - from < l->window_pages ? l->rows : from + l->window_pages;
        HS_TRY(from_memory(l, layer, from, *end, *data, l->free_at[i], err));
    }
    return be->ops->await(be, l->copy, err);
}
