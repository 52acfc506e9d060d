/*
 * base/text.h - a string that grows, and JSON written into it.
 *
 * Allocation failure is remembered instead of reported at each call: append freely, then look at
 * `failed` (or take the text, which is NULL then).
 */
#ifndef HS_BASE_TEXT_H
#define HS_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct hs_text {
    char *data; /* zero-terminated once anything was appended */
    size_t bytes, capacity;
    bool failed;
} hs_text;

void hs_text_add(hs_text *text, const char *data, size_t bytes);
void hs_text_format(hs_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string with quotes: ", \ and control characters escaped, broken UTF-8 as U+FFFD. */
void hs_text_json(hs_text *text, const char *data, size_t bytes);

/* The text, owned by the caller (free); NULL if an allocation failed. *text is empty afterwards. */
char *hs_text_take(hs_text *text);
void hs_text_close(hs_text *text);

#endif
