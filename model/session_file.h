/*
 * model/session_file.h - the file of a session: sections of bytes, packed and checksummed, and what they belong to.
 *
 * docs/sessions.md has every byte.  Knows nothing of networks: it says whether a file is whole and whose it is, and
 * hands out its sections in order.  Everything read is hostile.
 */
#ifndef HS_MODEL_SESSION_FILE_H
#define HS_MODEL_SESSION_FILE_H

#include "base/file.h"

enum {
    HS_SESSION_VERSION = 1,
    HS_SESSION_HEADER = 128,
    HS_SESSION_BLOCK = 256 << 10, /* most bytes of a block before packing */
    HS_SESSION_SECTIONS_MAX = 256
};

/* Kinds of sections. A reader leaves out unknown ones that are marked optional, and refuses the others. */
typedef enum hs_section {
    HS_SECTION_END,
    HS_SECTION_TOKENS, /* int32 each */
    HS_SECTION_IMAGE,  /* model/image.h */
    HS_SECTION_LOGITS, /* of the last token */
    HS_SECTION_SAMPLER,
    HS_SECTION_TEXT, /* bytes of a character that is not complete yet */
    HS_SECTION_NOTE, /* the program's own */
    HS_SECTION_MARK, /* a state to go back to: its position, then its image */
    HS_SECTION_COUNT
} hs_section;

/* What a session only makes sense with. All of it must be equal. */
typedef struct hs_session_identity {
    uint64_t model;   /* hs_store_fingerprint */
    uint32_t numeric; /* HS_NUMERIC_VERSION */
    uint32_t device;  /* 0 the CPU, 1 a card; +16 exact */
    uint32_t kv;      /* hlwq_kv */
    uint32_t page;    /* HS_KV_PAGE */
    uint32_t vocab, layers, kv_width;
    uint64_t state_bytes;
} hs_session_identity;

typedef struct hs_session_writer {
    hs_mem *mem;
    hs_output out;
    uint8_t *raw, *packed;
    uint32_t section, block, held;
    uint64_t left; /* of the section */
} hs_session_writer;

/* Whether the file begins as one. */
bool hs_session_file_is(const char *path);

/* Bytes that either end takes while it works. */
uint64_t hs_session_file_bytes(void);

/* The file gets its name at commit. Each section holds the bytes that begin promised. */
hlwq_status hs_session_create(hs_session_writer *w, hs_mem *mem, const char *path, const hs_session_identity *identity,
                              uint32_t positions, hlwq_error *err);
hlwq_status hs_session_begin(hs_session_writer *w, hs_section kind, bool optional, uint64_t bytes, hlwq_error *err);
hlwq_status hs_session_put(hs_session_writer *w, const void *data, uint64_t bytes, hlwq_error *err);

/* Room in the writer's own buffer, never zero while the section is not full; and that it was filled. */
void *hs_session_room(hs_session_writer *w, uint64_t *bytes);
hlwq_status hs_session_filled(hs_session_writer *w, uint64_t bytes, hlwq_error *err);

hlwq_status hs_session_commit(hs_session_writer *w, hlwq_error *err); /* closes w, also on failure */
void hs_session_drop(hs_session_writer *w);                           /* idempotent */

typedef struct hs_session_reader {
    hs_mem *mem;
    hs_file file;
    const char *path; /* lent */
    uint8_t *raw, *packed;
    uint64_t at;
    uint32_t section, block;
    uint64_t left;   /* of the section */
    uint32_t tokens; /* how many the session has seen */
} hs_session_reader;

/* Refused where it is not a session, newer, damaged, or another model's, device's or --kv's. */
hlwq_status hs_session_open_file(hs_session_reader *r, hs_mem *mem, const char *path,
                                 const hs_session_identity *identity, hlwq_error *err);
void hs_session_close_file(hs_session_reader *r); /* idempotent */

/* The next section that this program knows, HS_SECTION_END after the last; what was not read of the one before is
 * checked all the same. */
hlwq_status hs_session_section(hs_session_reader *r, hs_section *kind, uint64_t *bytes, hlwq_error *err);

/* The next block of it, valid until the next call; *bytes 0 at its end. */
hlwq_status hs_session_block(hs_session_reader *r, const void **data, uint64_t *bytes, hlwq_error *err);

/* Exactly `bytes` bytes, for sections that fit one block. */
hlwq_status hs_session_take(hs_session_reader *r, void *out, uint64_t bytes, hlwq_error *err);

/* Back to the first section. */
void hs_session_rewind(hs_session_reader *r);

#endif
