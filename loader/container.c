/*
 * loader/container.c - opens a container: header, both copies of the index, blobs, table.
 */
#include "loader/container_private.h"

#include "base/size.h"

#include <inttypes.h>
#include <lz4.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

const char *const hs_blob_name[HS_BLOB_COUNT] = {"config", "generation", "tokenizer", "tokenizer_config", "template"};

uint64_t hs_hash(const void *data, uint64_t bytes)
{
    return XXH3_64bits(data, bytes);
}

/* ---- header page ---------------------------------------------------------------------------- */

static void put(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

void hs_header_encode(const hs_header *h, uint8_t *page)
{
    memset(page, 0, HS_HEADER_BYTES);
    memcpy(page, hs_container_magic, 8);
    put(page + 8, h->version, 4);
    put(page + 12, HS_HEADER_BYTES, 4);
    put(page + 16, h->file_bytes, 8);
    put(page + 24, h->index_offset, 8);
    put(page + 32, h->index_bytes, 8);
    put(page + 40, h->index_hash, 8);
    put(page + 48, h->tail_offset, 8);
    put(page + 56, hs_hash(page, 56), 8);
}

hlwq_status hs_header_decode(hs_header *h, const uint8_t *page, const char *path, hlwq_error *err)
{
    if (memcmp(page, hs_container_magic, 8) != 0)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s is not a .hlwq container: its first bytes are wrong", path);
    *h = (hs_header){
        .version = (uint32_t)get(page + 8, 4),
        .file_bytes = get(page + 16, 8),
        .index_offset = get(page + 24, 8),
        .index_bytes = get(page + 32, 8),
        .index_hash = get(page + 40, 8),
        .tail_offset = get(page + 48, 8),
    };
    if (h->version > HS_CONTAINER_VERSION || h->version == 0)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s has format version %u, this program reads up to version %d", path,
                       h->version, HS_CONTAINER_VERSION);
    if (get(page + 56, 8) != hs_hash(page, 56) || get(page + 12, 4) != HS_HEADER_BYTES)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: the header is damaged, its checksum is wrong", path);
    for (int i = 64; i < HS_HEADER_BYTES; i++)
        if (page[i])
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: the header is damaged, byte %d should be zero", path, i);
    return HLWQ_OK;
}

bool hs_container_is(const char *path)
{
    hs_file f;
    uint8_t magic[8];
    if (hs_file_open(&f, path, NULL) != HLWQ_OK)
        return false;
    bool is = f.bytes >= HS_HEADER_BYTES && hs_file_read(&f, 0, magic, 8, path, NULL) == HLWQ_OK &&
              memcmp(magic, hs_container_magic, 8) == 0;
    hs_file_close(&f);
    return is;
}

/* ---- opening -------------------------------------------------------------------------------- */

static hlwq_status read_header(hs_container *c, hs_header *h, hlwq_error *err)
{
    uint8_t page[HS_HEADER_BYTES];
    if (c->file.bytes < HS_HEADER_BYTES)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s is too short for a .hlwq container: %" PRIu64 " bytes", c->path,
                       c->file.bytes);
    HS_TRY(hs_file_read(&c->file, 0, page, sizeof page, c->path, err));
    HS_TRY(hs_header_decode(h, page, c->path, err));
    if (h->file_bytes != c->file.bytes)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s is truncated or has grown: %" PRIu64 " bytes, its header says %" PRIu64, c->path,
                       c->file.bytes, h->file_bytes);
    uint64_t head_end, tail_end;
    if (h->index_bytes == 0 || h->index_bytes > HS_INDEX_MAX || h->index_offset != HS_HEADER_BYTES ||
        !hs_add_u64(h->index_offset, h->index_bytes, &head_end) ||
        !hs_add_u64(h->tail_offset, h->index_bytes, &tail_end) || head_end > h->tail_offset ||
        tail_end != h->file_bytes)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: index of %" PRIu64 " bytes at %" PRIu64 " and %" PRIu64
                       " does not fit the file of %" PRIu64,
                       c->path, h->index_bytes, h->index_offset, h->tail_offset, h->file_bytes);
    return HLWQ_OK;
}

/* Both copies, compared; *text in the arena. */
static hlwq_status read_index(hs_container *c, const hs_header *h, char **text, hlwq_error *err)
{
    void *p, *tail;
    HS_TRY(hs_arena_alloc(&c->arena, h->index_bytes + 1, &p, err));
    HS_TRY(hs_file_read(&c->file, h->index_offset, p, h->index_bytes, c->path, err));
    if (hs_hash(p, h->index_bytes) != h->index_hash)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: the index is damaged, its checksum is wrong", c->path);
    HS_TRY(hs_mem_alloc(c->arena.mem, HS_MEM_TABLE, h->index_bytes, "index", &tail, err));
    hlwq_status st = hs_file_read(&c->file, h->tail_offset, tail, h->index_bytes, c->path, err);
    if (st == HLWQ_OK && memcmp(p, tail, h->index_bytes) != 0)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: the two copies of the index differ, the end of the file is damaged",
                     c->path);
    hs_mem_free(c->arena.mem, tail);
    *text = p;
    return st;
}

static hlwq_status read_blob(hs_container *c, int which, const hs_blob_range *b, hlwq_error *err)
{
    void *out, *stored;
    HS_TRY(hs_arena_alloc(&c->arena, b->bytes + 1, &out, err));
    HS_TRY(hs_mem_alloc(c->arena.mem, HS_MEM_IO, b->stored, "blob", &stored, err));
    hlwq_status st = hs_file_read(&c->file, b->offset, stored, b->stored, c->path, err);
    if (st == HLWQ_OK && hs_hash(stored, b->stored) != b->hash)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: %s at %" PRIu64 " is damaged, its checksum is wrong", c->path,
                     hs_blob_name[which], b->offset);
    if (st == HLWQ_OK && !b->lz4)
        memcpy(out, stored, b->bytes);
    if (st == HLWQ_OK && b->lz4 && LZ4_decompress_safe(stored, out, (int)b->stored, (int)b->bytes) != (int)b->bytes)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: %s does not expand to its %" PRIu64 " bytes", c->path,
                     hs_blob_name[which], b->bytes);
    hs_mem_free(c->arena.mem, stored);
    if (st == HLWQ_OK) {
        c->blob[which] = out;
        c->blob_bytes[which] = b->bytes;
    }
    return st;
}

static hlwq_status read_config(hs_container *c, const hs_log *log, hlwq_error *err)
{
    char what[4096];
    hs_config *config = &c->table.config;
    snprintf(what, sizeof what, "%s (config)", c->path);
    if (!c->blob[HS_BLOB_CONFIG])
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s has no config", c->path);
    HS_TRY(hs_config_parse(config, c->blob[HS_BLOB_CONFIG], c->blob_bytes[HS_BLOB_CONFIG], what, log, err));
    c->generation = hs_generation_default();
    snprintf(what, sizeof what, "%s (generation)", c->path);
    if (c->blob[HS_BLOB_GENERATION])
        HS_TRY(hs_generation_parse(config, &c->generation, c->blob[HS_BLOB_GENERATION],
                                   c->blob_bytes[HS_BLOB_GENERATION], what, err));
    return HLWQ_OK;
}

static hlwq_status open_parts(hs_container *c, const char *path, const hs_log *log, hlwq_error *err)
{
    char *copy, *text = NULL;
    hs_header h;
    hs_index *index = NULL;
    hs_blob_range blob[HS_BLOB_COUNT] = {{0}};
    HS_TRY(hs_arena_text(&c->arena, path, strlen(path), &copy, err));
    c->path = copy;
    HS_TRY(hs_file_open(&c->file, path, err));
    HS_TRY(read_header(c, &h, err));
    HS_TRY(read_index(c, &h, &text, err));
    hlwq_status st =
        hs_index_parse(&index, c, text, h.index_bytes, h.index_offset + h.index_bytes, h.tail_offset, blob, err);
    for (int b = 0; b < HS_BLOB_COUNT && st == HLWQ_OK; b++)
        if (blob[b].present)
            st = read_blob(c, b, &blob[b], err);
    if (st == HLWQ_OK)
        st = read_config(c, log, err);
    if (st == HLWQ_OK)
        st = hs_index_groups(index, err);
    hs_index_free(index);
    return st;
}

hlwq_status hs_container_open(hs_container *c, hs_mem *mem, const char *path, const hs_log *log, hlwq_error *err)
{
    *c = (hs_container){.file.fd = -1};
    hs_arena_init(&c->arena, mem, HS_MEM_TABLE);
    hlwq_status st = open_parts(c, path, log, err);
    if (st != HLWQ_OK)
        hs_container_close(c);
    return st;
}

void hs_container_close(hs_container *c)
{
    if (!c->arena.mem)
        return;
    hs_file_close(&c->file);
    hs_arena_close(&c->arena);
    *c = (hs_container){.file.fd = -1};
}

uint64_t hs_container_offset(const hs_container *c, uint32_t group, uint32_t extent)
{
    const hs_group *g = &c->table.group[group];
    return g->file_offset + extent * g->bytes;
}

hlwq_status hs_container_verify(const hs_container *c, uint32_t group, uint32_t extent, const void *data,
                                hlwq_error *err)
{
    const hs_group *g = &c->table.group[group];
    uint64_t got = hs_hash(data, g->bytes);
    if (got == g->xxh[extent])
        return HLWQ_OK;
    return hs_fail(err, HLWQ_ERR_FORMAT,
                   "%s: extent %u of %s (layer %u) at %" PRIu64 " is damaged: checksum %016" PRIx64
                   ", recorded %016" PRIx64,
                   c->path, extent, hs_group_kind_name(g->kind), g->layer, hs_container_offset(c, group, extent), got,
                   g->xxh[extent]);
}
