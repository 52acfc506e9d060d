/*
 * loader/container_write.c - writes a container front to back; the index goes in last, into room kept for it.
 *
 * The size of the index does not depend on the checksums in it (16 digits each), so it is known before the first
 * extent.
 */
#include "loader/container_private.h"

#include "base/size.h"
#include "base/text.h"

#include <assert.h>
#include <inttypes.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hs_container_writer {
    hs_mem *mem;
    hs_arena arena;
    hs_output out;
    hs_table table; /* groups copied: file_offset and xxh are ours */
    hs_blob_range blob[HS_BLOB_COUNT];
    const char *provenance;
    uint64_t index_bytes, tail_offset;
    uint32_t group, extent; /* next to be appended */
    uint64_t piece_bytes;   /* of it, what is there */
    XXH3_state_t hash;      /* of that */
};

/* ---- the index ------------------------------------------------------------------------------ */

static void write_parts(hs_text *t, const hs_group *g)
{
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const hs_part *p = &g->part[i];
        char format[HS_FORMAT_TEXT];
        hs_part_format(format, p);
        hs_text_format(t, "%s\n  {\"name\":\"%s\",\"dtype\":\"%s\",\"rows\":%u,\"cols\":%u,\"offset\":%" PRIu64,
                       i ? "," : "", hs_role_name(p->role), format, p->rows, p->cols, p->offset);
        if (hs_dtype_rotated(p->dtype))
            hs_text_format(t, ",\"book\":%u", p->book);
        hs_text_add(t, "}", 1);
    }
}

static void write_books(hs_text *t, const hs_table *table)
{
    for (uint32_t i = 0; i < table->n_books; i++) {
        const hs_levels *b = &table->book[i];
        hs_text_format(t, "%s\n {\"bits\":%u,\"levels\":[", i ? "," : "", b->bits);
        for (uint32_t k = 0; k < 1u << b->bits; k++)
            hs_text_format(t, "%s%.9g", k ? "," : "", (double)b->level[k]);
        hs_text_add(t, "]}", 2);
    }
}

static void write_index(const hs_container_writer *w, hs_text *t)
{
    const hs_table *table = &w->table;
    const char *comma = "";
    hs_text_format(t, "{\"version\":%d,\"provenance\":", HS_CONTAINER_VERSION);
    hs_text_json(t, w->provenance, strlen(w->provenance));
    hs_text_format(t, ",\"mtp\":%s,\"tied\":%s,\n\"blobs\":{", table->has_mtp ? "true" : "false",
                   table->config.tied ? "true" : "false");
    for (int b = 0; b < HS_BLOB_COUNT; b++) {
        const hs_blob_range *r = &w->blob[b];
        if (!r->present)
            continue;
        hs_text_format(t,
                       "%s\n \"%s\":{\"offset\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"stored\":%" PRIu64
                       ",\"lz4\":%s,\"xxh3\":\"%016" PRIx64 "\"}",
                       comma, hs_blob_name[b], r->offset, r->bytes, r->stored, r->lz4 ? "true" : "false", r->hash);
        comma = ",";
    }
    hs_text_format(t, "},\n\"books\":[");
    write_books(t, table);
    hs_text_format(t, "],\n\"groups\":[");
    for (uint32_t i = 0; i < table->n_groups; i++) {
        const hs_group *g = &table->group[i];
        hs_text_format(t,
                       "%s\n {\"kind\":\"%s\",\"layer\":%u,\"count\":%u,\"offset\":%" PRIu64 ",\"bytes\":%" PRIu64
                       ",\"parts\":[",
                       i ? "," : "", hs_group_kind_name(g->kind), g->layer, g->count, g->file_offset, g->bytes);
        write_parts(t, g);
        hs_text_format(t, "],\n  \"xxh3\":\"");
        for (uint32_t e = 0; e < g->count; e++)
            hs_text_format(t, "%016" PRIx64, g->xxh[e]);
        hs_text_add(t, "\"}", 2);
    }
    hs_text_format(t, "]}\n");
}

static hlwq_status index_text(const hs_container_writer *w, hs_text *t, hlwq_error *err)
{
    *t = (hs_text){0};
    write_index(w, t);
    if (!t->failed && t->bytes <= HS_INDEX_MAX)
        return HLWQ_OK;
    hlwq_status st = t->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the index")
                               : hs_fail(err, HLWQ_ERR_FORMAT, "index of %zu bytes, limit %u", t->bytes, HS_INDEX_MAX);
    hs_text_close(t);
    return st;
}

/* ---- creating ------------------------------------------------------------------------------- */

/* Compressed where that is smaller; *data is lent or malloc'ed (*owned). */
static void pack_blob(const char *text, uint64_t bytes, const char **data, char **owned, hs_blob_range *r)
{
    int bound = bytes <= LZ4_MAX_INPUT_SIZE ? LZ4_compressBound((int)bytes) : 0;
    *owned = bound > 0 ? malloc((size_t)bound) : NULL;
    int n = *owned ? LZ4_compress_default(text, *owned, (int)bytes, bound) : 0;
    bool smaller = n > 0 && (uint64_t)n < bytes;
    *data = smaller ? *owned : text;
    *r = (hs_blob_range){.bytes = bytes, .stored = smaller ? (uint64_t)n : bytes, .present = true, .lz4 = smaller};
    r->hash = hs_hash(*data, r->stored);
}

static hlwq_status copy_table(hs_container_writer *w, const hs_table *table, hlwq_error *err)
{
    void *p;
    w->table = *table;
    HS_TRY(hs_arena_array(&w->arena, table->n_groups, sizeof(hs_group), &p, err));
    w->table.group = p;
    memcpy(p, table->group, table->n_groups * sizeof(hs_group));
    for (uint32_t g = 0; g < table->n_groups; g++) {
        HS_TRY(hs_arena_array(&w->arena, table->group[g].count, sizeof(uint64_t), &p, err));
        w->table.group[g].xxh = p;
    }
    return HLWQ_OK;
}

/*
 * Offsets of everything.  Numbers in the index have more digits the further things lie, and things lie further the
 * longer the index is, so it is laid out until its size no longer changes.
 */
static hlwq_status lay_out(hs_container_writer *w, hlwq_error *err)
{
    for (int round = 0; round < 8; round++) {
        uint64_t at = HS_HEADER_BYTES + w->index_bytes;
        for (int b = 0; b < HS_BLOB_COUNT; b++)
            if (w->blob[b].present) {
                w->blob[b].offset = at = hs_align_up(at, 64);
                at += w->blob[b].stored;
            }
        for (uint32_t g = 0; g < w->table.n_groups; g++) {
            hs_group *group = &w->table.group[g];
            group->file_offset = at = hs_align_up(at, HS_EXTENT_ALIGN);
            at += group->bytes * group->count;
        }
        w->tail_offset = at;
        hs_text t;
        HS_TRY(index_text(w, &t, err));
        uint64_t bytes = t.bytes;
        hs_text_close(&t);
        if (bytes <= w->index_bytes)
            return HLWQ_OK; /* what is left over is filled with spaces */
        w->index_bytes = hs_align_up(bytes + 64, 64);
    }
    return hs_fail(err, HLWQ_ERR_FORMAT, "the index does not settle on a size");
}

static hlwq_status write_zeros_to(hs_container_writer *w, uint64_t offset, hlwq_error *err)
{
    static const uint8_t zero[HS_EXTENT_ALIGN];
    while (w->out.bytes < offset)
        HS_TRY(hs_output_write(&w->out, zero, hs_min_u64(sizeof zero, offset - w->out.bytes), err));
    return HLWQ_OK;
}

static hlwq_status write_blobs(hs_container_writer *w, const char *const *data, hlwq_error *err)
{
    for (int b = 0; b < HS_BLOB_COUNT; b++)
        if (w->blob[b].present) {
            HS_TRY(write_zeros_to(w, w->blob[b].offset, err));
            HS_TRY(hs_output_write(&w->out, data[b], w->blob[b].stored, err));
        }
    return HLWQ_OK;
}

static hlwq_status create(hs_container_writer *w, const char *path, const char *partial, bool overwrite,
                          const hs_table *table, const hs_container_blobs *blobs, hlwq_error *err)
{
    const char *data[HS_BLOB_COUNT] = {0};
    char *owned[HS_BLOB_COUNT] = {0}, *copy;
    const char *provenance = blobs->provenance ? blobs->provenance : "";
    HS_TRY(hs_arena_text(&w->arena, provenance, strlen(provenance), &copy, err));
    w->provenance = copy;
    HS_TRY(copy_table(w, table, err));
    HS_TRY(partial ? hs_output_resume(&w->out, path, partial, overwrite, err)
                   : hs_output_open(&w->out, path, overwrite, err));
    for (int b = 0; b < HS_BLOB_COUNT; b++)
        if (blobs->data[b])
            pack_blob(blobs->data[b], blobs->bytes[b], &data[b], &owned[b], &w->blob[b]);
    hlwq_status st = lay_out(w, err);
    if (st == HLWQ_OK)
        st = write_zeros_to(w, HS_HEADER_BYTES + w->index_bytes, err); /* room for header and index */
    if (st == HLWQ_OK)
        st = write_blobs(w, data, err);
    for (int b = 0; b < HS_BLOB_COUNT; b++)
        free(owned[b]);
    return st;
}

static hlwq_status open_writer(hs_container_writer **out, hs_mem *mem, const char *path, const char *partial,
                               bool overwrite, const hs_table *table, const hs_container_blobs *blobs, hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, sizeof(hs_container_writer), "container writer", &p, err));
    hs_container_writer *w = p;
    w->mem = mem;
    w->out.fd = -1;
    hs_arena_init(&w->arena, mem, HS_MEM_TABLE);
    hlwq_status st = create(w, path, partial, overwrite, table, blobs, err);
    if (st != HLWQ_OK) {
        (partial ? hs_container_leave : hs_container_drop)(w);
        return st;
    }
    *out = w;
    return HLWQ_OK;
}

hlwq_status hs_container_create(hs_container_writer **out, hs_mem *mem, const char *path, bool overwrite,
                                const hs_table *table, const hs_container_blobs *blobs, hlwq_error *err)
{
    return open_writer(out, mem, path, NULL, overwrite, table, blobs, err);
}

static void step(hs_container_writer *w)
{
    if (++w->extent == w->table.group[w->group].count) {
        w->extent = 0;
        w->group++;
    }
}

uint64_t hs_container_extents(const hs_table *table)
{
    uint64_t n = 0;
    for (uint32_t g = 0; g < table->n_groups; g++)
        n += table->group[g].count;
    return n;
}

hlwq_status hs_container_resume(hs_container_writer **out, hs_mem *mem, const char *path, const char *partial,
                                bool overwrite, const hs_table *table, const hs_container_blobs *blobs,
                                const uint64_t *hash, uint64_t finished, hlwq_error *err)
{
    HS_TRY(open_writer(out, mem, path, partial, overwrite, table, blobs, err));
    hs_container_writer *w = *out;
    assert(finished <= hs_container_extents(table));
    for (uint64_t i = 0; i < finished; i++) {
        hs_group *g = &w->table.group[w->group];
        g->xxh[w->extent] = hash[i];
        w->out.bytes = g->file_offset + (w->extent + 1) * g->bytes;
        step(w);
    }
    hlwq_status st = hs_output_end(&w->out, err);
    if (st != HLWQ_OK) {
        hs_container_leave(w);
        *out = NULL;
    }
    return st;
}

uint64_t hs_container_total_bytes(const hs_container_writer *w)
{
    return w->tail_offset + w->index_bytes;
}

/* ---- filling and finishing ------------------------------------------------------------------ */

hlwq_status hs_container_append(hs_container_writer *w, const void *extent, bool zeros, hlwq_error *err)
{
    assert(w->group < w->table.n_groups && w->piece_bytes == 0);
    hs_group *g = &w->table.group[w->group];
    HS_TRY(write_zeros_to(w, g->file_offset + w->extent * g->bytes, err));
    if (zeros)
        HS_TRY(hs_output_skip(&w->out, g->bytes, err));
    else
        HS_TRY(hs_output_write(&w->out, extent, g->bytes, err));
    /* Extents of zeros are all alike, and many. */
    g->xxh[w->extent] = zeros && w->extent ? g->xxh[w->extent - 1] : hs_hash(extent, g->bytes);
    step(w);
    return HLWQ_OK;
}

hlwq_status hs_container_append_piece(hs_container_writer *w, const void *piece, uint64_t bytes, hlwq_error *err)
{
    assert(w->group < w->table.n_groups && bytes <= w->table.group[w->group].bytes - w->piece_bytes);
    hs_group *g = &w->table.group[w->group];
    if (w->piece_bytes == 0) {
        HS_TRY(write_zeros_to(w, g->file_offset + w->extent * g->bytes, err));
        XXH3_64bits_reset(&w->hash);
    }
    HS_TRY(hs_output_write(&w->out, piece, bytes, err));
    XXH3_64bits_update(&w->hash, piece, bytes);
    w->piece_bytes += bytes;
    if (w->piece_bytes == g->bytes) {
        g->xxh[w->extent] = XXH3_64bits_digest(&w->hash);
        w->piece_bytes = 0;
        step(w);
    }
    return HLWQ_OK;
}

static hlwq_status finish(hs_container_writer *w, hlwq_error *err)
{
    uint8_t page[HS_HEADER_BYTES];
    hs_text t;
    if (w->group != w->table.n_groups)
        return hs_fail(err, HLWQ_ERR_ARG, "the container lacks extents: group %u of %u is not complete", w->group,
                       w->table.n_groups);
    HS_TRY(index_text(w, &t, err));
    assert(t.bytes <= w->index_bytes);
    while (t.bytes < w->index_bytes && !t.failed)
        hs_text_add(&t, " ", 1);
    hlwq_status st = t.failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the index") : HLWQ_OK;
    if (st == HLWQ_OK) {
        hs_header h = {HS_CONTAINER_VERSION, hs_container_total_bytes(w),     HS_HEADER_BYTES,
                       w->index_bytes,       hs_hash(t.data, w->index_bytes), w->tail_offset};
        hs_header_encode(&h, page);
        st = write_zeros_to(w, w->tail_offset, err);
    }
    if (st == HLWQ_OK)
        st = hs_output_write(&w->out, t.data, w->index_bytes, err);
    if (st == HLWQ_OK)
        st = hs_output_rewrite(&w->out, HS_HEADER_BYTES, t.data, w->index_bytes, err);
    if (st == HLWQ_OK)
        st = hs_output_rewrite(&w->out, 0, page, sizeof page, err);
    hs_text_close(&t);
    return st;
}

hlwq_status hs_container_commit(hs_container_writer *w, hlwq_error *err)
{
    hlwq_status st = finish(w, err);
    if (st == HLWQ_OK)
        st = hs_output_commit(&w->out, err);
    hs_container_drop(w);
    return st;
}

hlwq_status hs_container_sync(hs_container_writer *w, uint64_t *hash, hlwq_error *err)
{
    HS_TRY(hs_output_sync(&w->out, err));
    for (uint32_t g = 0; g < w->table.n_groups; g++) {
        memcpy(hash, w->table.group[g].xxh, w->table.group[g].count * sizeof *hash);
        hash += w->table.group[g].count;
    }
    return HLWQ_OK;
}

void hs_container_leave(hs_container_writer *w)
{
    if (w)
        hs_output_leave(&w->out);
    hs_container_drop(w);
}

void hs_container_drop(hs_container_writer *w)
{
    if (!w)
        return;
    hs_output_drop(&w->out);
    hs_arena_close(&w->arena);
    hs_mem_free(w->mem, w);
}
