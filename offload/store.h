/*
 * offload/store.h - a model on disk, whatever its form, as extents that can be loaded one at a time.
 *
 * A container's extents are read as they are.  A Hugging Face directory's are made on the way in: rows copied,
 * widened, repacked from HLWQ bit streams, or quantised where a precision plan asks for it.
 */
#ifndef HS_OFFLOAD_STORE_H
#define HS_OFFLOAD_STORE_H

#include "base/log.h"
#include "base/threads.h"
#include "kernels/hlwq.h"
#include "loader/container.h"
#include "loader/hf.h"

/* What convert wants of each class of matrix: a packed type, or any other for "as stored". */
typedef struct hs_precision {
    hs_dtype matrix, head, embed;
    /* Of each matrix by itself, instead of `matrix`; NULL = all alike. */
    hs_dtype (*choose)(void *user, const hs_group *group, const hs_part *part);
    void *user;
    bool scaled; /* matrices of layers that are coded get room for factors of their inputs, which are 1 */
} hs_precision;

typedef struct hs_store hs_store;

/* `precision` NULL = everything as stored. `mem` must outlive the store. */
hlwq_status hs_store_open(hs_store **store, hs_mem *mem, const char *path, const hs_precision *precision,
                          const hs_log *log, hlwq_error *err);
void hs_store_close(hs_store *store); /* NULL is fine */

/* The MTP head will be used; call before anything is planned. False if there is none. */
bool hs_store_use_drafts(hs_store *store);

const hs_table *hs_store_table(const hs_store *store);
const hs_generation *hs_store_generation(const hs_store *store);
const hs_codebook *hs_store_book(const hs_store *store, uint32_t i); /* of hs_table.book[i] */
/* One number for everything that its logits depend on: for a container by its checksums, for a directory by the names,
 * places and times of its files. */
uint64_t hs_store_fingerprint(const hs_store *store);

const char *hs_store_path(const hs_store *store);
bool hs_store_is_container(const hs_store *store);
const char *hs_store_format(const hs_store *store);     /* "BF16", "HLWQ packed Q5", "GPTQ 4 bit, group 64, ..." */
const char *hs_store_provenance(const hs_store *store); /* one line or NULL */
uint32_t hs_store_skipped(const hs_store *store);       /* vision tensors left out */

/* A text that came with the model, zero-terminated; NULL if it has none. */
const char *hs_store_blob(const hs_store *store, hs_blob blob, uint64_t *bytes);

/* Containers: where an extent lies in the file, and whether `data` has its checksum. */
uint64_t hs_store_extent_offset(const hs_store *store, uint32_t group, uint32_t extent);
hlwq_status hs_store_check(const hs_store *store, uint32_t group, uint32_t extent, const void *data, hlwq_error *err);

int hs_store_file(const hs_store *store); /* the descriptor of a container */

/* HLWQ_ERR_IO if a container was cut short or written to since it was opened. */
hlwq_status hs_store_unchanged(const hs_store *store, hlwq_error *err);

/* Transfer buffers of up to so many bytes in all stay allocated: for one who loads many extents. */
void hs_store_keep_buffers(hs_store *store, uint64_t bytes);

/*
 * What hs_store_ahead asks for is read past the page cache into `bytes` of windows where that is of use and there is
 * memory for them; and what was read that way since the last call.
 */
void hs_store_read_ahead(hs_store *store, uint64_t bytes);
void hs_store_ahead_tally(hs_store *store, uint64_t *bytes, uint64_t *ns);

/*
 * Whether an extent is one plain matrix, as embeddings are, and can be had in pieces; and such a piece, bytes
 * offset..offset + bytes - 1 of the extent, its padding included.
 */
bool hs_store_has_pieces(const hs_store *store, uint32_t group, uint32_t extent);
hlwq_status hs_store_load_piece(const hs_store *store, uint32_t group, uint32_t extent, uint64_t offset, uint64_t bytes,
                                uint8_t *out, hlwq_error *err);

/* What an extent is made of will be read; how many bytes that are, about. 0 for one that can be had in pieces. */
uint64_t hs_store_ahead(const hs_store *store, uint32_t group, uint32_t extent);

/*
 * Rows first..first + rows - 1 of a part as fp32 [rows][cols], inputs in their own order and factors applied.  `part`
 * is one of the table's.  Of GPTQ and compressed-tensors directories `first` is a multiple of 32.
 */
hlwq_status hs_store_rows(hs_store *store, uint32_t group, uint32_t extent, const hs_part *part, uint64_t first,
                          uint64_t rows, hs_pool *pool, float *out, hlwq_error *err);

/* One extent, group.bytes bytes at `out` (64-byte aligned). `pool` may be NULL. */
hlwq_status hs_store_load(hs_store *store, uint32_t group, uint32_t extent, hs_pool *pool, bool verify, void *out,
                          hlwq_error *err);

#endif
