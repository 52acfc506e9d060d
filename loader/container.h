/*
 * loader/container.h - the .hlwq container: one file, the same bytes on disk and in memory.
 *
 * docs/format.md has every byte.  Header page, JSON index, blobs (config, tokenizer, template: lz4 where
 * smaller), extents at 4 KiB boundaries, and a copy of the index at the end.  Hostile until checked: reading
 * an index allocates no more than a small multiple of the file's size.
 */
#ifndef HS_LOADER_CONTAINER_H
#define HS_LOADER_CONTAINER_H

#include "base/file.h"
#include "loader/schema.h"

enum { HS_CONTAINER_VERSION = 1 };
#define HS_INDEX_MAX (256u << 20)
#define HS_BLOB_MAX (64u << 20)

typedef enum hs_blob {
    HS_BLOB_CONFIG,
    HS_BLOB_GENERATION,
    HS_BLOB_TOKENIZER,
    HS_BLOB_TOKENIZER_CONFIG,
    HS_BLOB_TEMPLATE,
    HS_BLOB_COUNT
} hs_blob;

typedef struct hs_container {
    hs_arena arena;
    const char *path;
    hs_file file;
    hs_table table; /* groups with file offsets, checksums, dtypes, books */
    hs_generation generation;
    char *blob[HS_BLOB_COUNT]; /* expanded, zero-terminated; NULL where absent */
    uint64_t blob_bytes[HS_BLOB_COUNT];
    const char *provenance; /* one line: what it was made from */
} hs_container;

/* True if the file starts with the container's magic. */
bool hs_container_is(const char *path);

/* Opens and checks header, index (both copies) and blobs; reads no extent. On failure *c is closed. */
hlwq_status hs_container_open(hs_container *c, hs_mem *mem, const char *path, const hs_log *log, hlwq_error *err);
void hs_container_close(hs_container *c); /* idempotent for zeroed structs */

/* Byte offset of an extent in the file. */
uint64_t hs_container_offset(const hs_container *c, uint32_t group, uint32_t extent);

/* HLWQ_ERR_FORMAT naming the file, extent and offset if the checksum of `data` is not the recorded one. */
hlwq_status hs_container_verify(const hs_container *c, uint32_t group, uint32_t extent, const void *data,
                                hlwq_error *err);

/*
 * Writing: open with a placed table (dtypes, books, offsets in extents), append each extent in table order, commit.
 * The file appears under its name only at commit.
 */
typedef struct hs_container_writer hs_container_writer;

typedef struct hs_container_blobs {
    const char *data[HS_BLOB_COUNT]; /* NULL = absent */
    uint64_t bytes[HS_BLOB_COUNT];
    const char *provenance;
} hs_container_blobs;

hlwq_status hs_container_create(hs_container_writer **w, hs_mem *mem, const char *path, bool overwrite,
                                const hs_table *table, const hs_container_blobs *blobs, hlwq_error *err);
/*
 * The same in a file of the caller's that becomes `path` at commit and stays when the writer is left: the first
 * `finished` extents are in it already, `hash` has their checksums.
 */
hlwq_status hs_container_resume(hs_container_writer **w, hs_mem *mem, const char *path, const char *partial,
                                bool overwrite, const hs_table *table, const hs_container_blobs *blobs,
                                const uint64_t *hash, uint64_t finished, hlwq_error *err);
/*
 * The next extent: group.bytes bytes, in order of groups, then of extents.  `zeros`: that is all it holds, as all its
 * group's do, and it need not take room on the disk.
 */
hlwq_status hs_container_append(hs_container_writer *w, const void *extent, bool zeros, hlwq_error *err);

/* The next piece of the next extent, which is complete when all its bytes are there. */
hlwq_status hs_container_append_piece(hs_container_writer *w, const void *piece, uint64_t bytes, hlwq_error *err);
uint64_t hs_container_total_bytes(const hs_container_writer *w); /* of the finished file */
/* Closes w whether or not it works. Fails if extents are missing. */
hlwq_status hs_container_commit(hs_container_writer *w, hlwq_error *err);
void hs_container_drop(hs_container_writer *w); /* NULL is fine */

/* What was appended is on the disk; its checksums so far, [all extents of the table]. */
hlwq_status hs_container_sync(hs_container_writer *w, uint64_t *hash, hlwq_error *err);
void hs_container_leave(hs_container_writer *w); /* closes, the partial file stays; NULL is fine */

/* Extents of all groups. */
uint64_t hs_container_extents(const hs_table *table);

#endif
