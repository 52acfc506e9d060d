/*
 * loader/container_private.h - the header page and names that reader and writer share.
 */
#ifndef HS_LOADER_CONTAINER_PRIVATE_H
#define HS_LOADER_CONTAINER_PRIVATE_H

#include "loader/container.h"

enum { HS_HEADER_BYTES = 4096 };

/* First bytes of the file; a text-mode transfer or a stripped high bit would show. */
static const uint8_t hs_container_magic[8] = {0x89, 'H', 'L', 'W', 'Q', '\r', '\n', 0x1A};

/* The header page, decoded. */
typedef struct hs_header {
    uint32_t version;
    uint64_t file_bytes;
    uint64_t index_offset, index_bytes, index_hash;
    uint64_t tail_offset; /* of the copy of the index */
} hs_header;

void hs_header_encode(const hs_header *h, uint8_t *page);

/* Checks magic, version and the header's own hash. `path` is for sentences. */
hlwq_status hs_header_decode(hs_header *h, const uint8_t *page, const char *path, hlwq_error *err);

/* XXH3-64. */
uint64_t hs_hash(const void *data, uint64_t bytes);

extern const char *const hs_blob_name[HS_BLOB_COUNT];

/* Reads the index text into c->table (whose config the blobs have set), and blob ranges. */
typedef struct hs_blob_range {
    uint64_t offset, bytes, stored, hash;
    bool present, lz4;
} hs_blob_range;

typedef struct hs_index hs_index;

/* Step one: parse and list the blobs. Step two, once the config is known: the groups. */
hlwq_status hs_index_parse(hs_index **index, hs_container *c, const char *text, uint64_t bytes, uint64_t data_offset,
                           uint64_t data_end, hs_blob_range *blob, hlwq_error *err);
hlwq_status hs_index_groups(hs_index *index, hlwq_error *err);
void hs_index_free(hs_index *index); /* NULL is fine */

#endif
