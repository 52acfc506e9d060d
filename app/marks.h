/*
 * app/marks.h - texts that nobody vouches for, kept out of the template's sight.
 *
 * Each is replaced by a mark, 20 letters that 80 random bits choose (so no text and no template can hold them by
 * design) and 8 that say which text it is.  A prompt is rendered with the marks; then each mark is exchanged for its
 * text, and the stretches that came from texts are known, to be tokenised as plain.  White space around a text stays
 * around its mark, so that templates trim what they would have trimmed; an empty text gets no mark.
 */
#ifndef HS_APP_MARKS_H
#define HS_APP_MARKS_H

#include "base/error.h"
#include "base/text.h"

enum { APP_NONCE = 20 };

typedef struct app_mark {
    const char *text; /* lent; without the white space around it */
    size_t bytes;
    bool escaped; /* the template writes it inside a JSON string */
    bool found;
} app_mark;

typedef struct app_marks {
    char nonce[APP_NONCE + 1]; /* A to P: no filter that escapes or trims changes them */
    app_mark *mark;
    size_t n, capacity;
    hlwq_span *plain; /* [n_plain]: stretches of the filled prompt that are texts, in order */
    size_t n_plain, plain_capacity;
} app_marks;

hlwq_status app_marks_open(app_marks *marks, hlwq_error *err);
void app_marks_close(app_marks *marks);

/* Writes `text`, which must live on, into `request` as a JSON string with a mark in its place. */
hlwq_status app_marks_add(app_marks *marks, hs_text *request, const char *text, bool escaped, hlwq_error *err);

/* The rendered prompt with texts in the place of marks, appended to `out`. HLWQ_ERR_ARG where a mark was damaged. */
hlwq_status app_marks_fill(app_marks *marks, const char *prompt, size_t bytes, hs_text *out, hlwq_error *err);

#endif
