/*
 * model/prefix.h - states to go back to, so that a text that shares its beginning with an earlier one is read from
 * there.
 *
 * A DeltaNet state cannot be taken back, so marks are copies of it, made where the next text will part from this one.
 * Keys and values are not copied: those before a mark stay in its session's own pages until the session goes back
 * behind it, which drops the mark; only the newest pages of a coded cache, whose places are used again, are.  Another
 * session that needs them copies them from there.
 *
 * Marks live in a budget of bytes, charged to the engine's memory; the least recently used one makes room.
 */
#ifndef HS_MODEL_PREFIX_H
#define HS_MODEL_PREFIX_H

#include "model/session.h"

/* Bytes of one mark; and of what `asked` (hlwq_engine_options.prefix_bytes) stands for within `ram_bytes` (0 = no cap).
 */
uint64_t hs_mark_bytes(const hs_config *config, hs_kv_format kv);
uint64_t hs_prefix_bytes(uint64_t asked, uint64_t mark_bytes, uint64_t ram_bytes);

/* A mark as a file has it. */
typedef struct hs_mark_view {
    uint32_t n; /* 0 = there is none */
    bool whole;
    const uint8_t *image;
    uint64_t bytes; /* of it */
} hs_mark_view;

/* The session's own mark that is furthest on. */
hs_mark_view hs_prefix_last(const hlwq_session *s);

/* Bytes of the image of a mark at n; and a mark there, whose image the caller fills in: NULL if there is no room. */
uint64_t hs_prefix_image_bytes(const hlwq_session *s, uint32_t n);
uint8_t *hs_prefix_add(hlwq_session *s, uint32_t n, bool whole);

/* Drops the marks of a session behind position n: it goes back there. */
void hs_prefix_cut(hlwq_session *s, uint32_t n);

#endif
