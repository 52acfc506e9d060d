/*
 * model/lookup.h - drafts from the text itself: what followed when its last tokens stood there before.
 */
#ifndef HS_MODEL_LOOKUP_H
#define HS_MODEL_LOOKUP_H

#include <stdint.h>

enum { HS_LOOKUP_MIN = 2, HS_LOOKUP_MAX = 8 };

/*
 * The longest end of text [n] of at least HS_LOOKUP_MIN tokens that also stands earlier, the latest such place: its
 * length, with *at where its continuation begins; 0 if there is none.
 */
uint32_t hs_lookup(const int32_t *text, uint32_t n, uint32_t *at);

#endif
