/*
 * loader/safetensors.h - the header of a safetensors file: names, types, shapes, byte ranges; all hostile until
 * checked.
 */
#ifndef HS_LOADER_SAFETENSORS_H
#define HS_LOADER_SAFETENSORS_H

#include "base/arena.h"
#include "base/dtype.h"

#define HS_SAFETENSORS_HEADER_MAX (100u << 20)
enum { HS_SAFETENSORS_RANK_MAX = 8, HS_SAFETENSORS_NAME_MAX = 1024 };

typedef struct hs_st_entry {
    const char *name;
    hs_dtype dtype;
    uint32_t rank;
    uint64_t dim[HS_SAFETENSORS_RANK_MAX];
    uint64_t offset, bytes; /* offset from the start of the file */
} hs_st_entry;

/*
 * `header` are the bytes after the 8-byte length; file_bytes the size of the whole file.  Entries come in order of
 * offset; every range is inside the file, has exactly the bytes its shape asks for, and overlaps no other; the last one
 * ends where the file ends.  Holes between tensors are let pass: nobody reads them.
 */
hlwq_status hs_safetensors_parse(const char *header, uint64_t header_bytes, uint64_t file_bytes, const char *path,
                                 hs_arena *arena, hs_st_entry **entry, uint32_t *n, hlwq_error *err);

/* The same; *centroids becomes the text of that name in the header's metadata, if it has one. */
hlwq_status hs_safetensors_parse_noted(const char *header, uint64_t header_bytes, uint64_t file_bytes, const char *path,
                                       hs_arena *arena, hs_st_entry **entry, uint32_t *n, const char **centroids,
                                       hlwq_error *err);

/* "[32, 64]" */
void hs_shape_text(char *out, size_t capacity, const uint64_t *dim, uint32_t rank);

#endif
