/*
 * app/marks.c - marks in requests, and texts put back in the place of marks.
 */
#define _GNU_SOURCE
#include "app/marks.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { INDEX = 8, MARK = APP_NONCE + INDEX, PROMPT_MAX = 256 << 20 };

hlwq_status app_marks_open(app_marks *m, hlwq_error *err)
{
    unsigned char random[APP_NONCE / 2];
    *m = (app_marks){0};
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return hs_fail(err, HLWQ_ERR_IO, "the system gives no random bytes");
    for (size_t i = 0; i < sizeof random; i++) {
        m->nonce[2 * i] = (char)('A' + (random[i] & 15));
        m->nonce[2 * i + 1] = (char)('A' + (random[i] >> 4));
    }
    return HLWQ_OK;
}

void app_marks_close(app_marks *m)
{
    free(m->mark);
    free(m->plain);
    *m = (app_marks){0};
}

/* Bytes of the white space character at `s`, as Python's strip() sees it; 0 if it is none. */
static size_t space(const unsigned char *s, size_t left)
{
    if (left && (*s == ' ' || (*s >= 9 && *s <= 13) || (*s >= 0x1C && *s <= 0x1F)))
        return 1;
    if (left >= 2 && s[0] == 0xC2 && (s[1] == 0x85 || s[1] == 0xA0))
        return 2;
    if (left < 3)
        return 0;
    unsigned c = (unsigned)s[0] << 16 | (unsigned)s[1] << 8 | s[2];
    bool is = c == 0xE19A80 || (c >= 0xE28080 && c <= 0xE2808A) || c == 0xE280A8 || c == 0xE280A9 || c == 0xE280AF ||
              c == 0xE2819F || c == 0xE38080;
    return is ? 3 : 0;
}

static app_mark core(const char *text)
{
    size_t begin = 0, end = strlen(text), n;
    while ((n = space((const unsigned char *)text + begin, end - begin)))
        begin += n;
    for (bool more = true; more;) {
        more = false;
        for (size_t k = 1; !more && k <= 3 && k <= end - begin; k++)
            if (space((const unsigned char *)text + end - k, k) == k) {
                end -= k;
                more = true;
            }
    }
    return (app_mark){.text = text + begin, .bytes = end - begin};
}

hlwq_status app_marks_add(app_marks *m, hs_text *request, const char *text, bool escaped, hlwq_error *err)
{
    if (m->n == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 32;
        app_mark *more = realloc(m->mark, capacity * sizeof *more);
        if (!more)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the messages");
        m->mark = more;
        m->capacity = capacity;
    }
    hs_text t = {0};
    app_mark p = m->mark[m->n] = core(text);
    m->mark[m->n].escaped = escaped;
    hs_text_add(&t, text, (size_t)(p.text - text));
    if (p.bytes) {
        hs_text_add(&t, m->nonce, APP_NONCE);
        for (int shift = 4 * (INDEX - 1); shift >= 0; shift -= 4)
            hs_text_format(&t, "%c", (int)('A' + (m->n >> shift & 15)));
    }
    hs_text_format(&t, "%s", p.text + p.bytes);
    request->failed |= t.failed;
    if (!t.failed)
        hs_text_json(request, t.data, t.bytes);
    hs_text_close(&t);
    m->n++;
    return request->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the messages") : HLWQ_OK;
}

static hlwq_status add_span(app_marks *m, size_t begin, size_t end, hlwq_error *err)
{
    if (m->n_plain == m->plain_capacity) {
        size_t capacity = m->plain_capacity ? 2 * m->plain_capacity : 32;
        hlwq_span *more = realloc(m->plain, capacity * sizeof *more);
        if (!more)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the prompt");
        m->plain = more;
        m->plain_capacity = capacity;
    }
    m->plain[m->n_plain++] = (hlwq_span){begin, end};
    return HLWQ_OK;
}

static void add_text(hs_text *out, const app_mark *p)
{
    hs_text t = {0};
    if (!p->escaped) {
        hs_text_add(out, p->text, p->bytes);
        return;
    }
    hs_text_json(&t, p->text, p->bytes); /* without its quotes */
    out->failed |= t.failed;
    if (!t.failed)
        hs_text_add(out, t.data + 1, t.bytes - 2);
    hs_text_close(&t);
}

hlwq_status app_marks_fill(app_marks *m, const char *prompt, size_t bytes, hs_text *out, hlwq_error *err)
{
    const char *at = prompt, *end = prompt + bytes, *mark;
    while ((mark = memmem(at, (size_t)(end - at), m->nonce, APP_NONCE))) {
        size_t index = 0;
        if (end - mark < MARK)
            return hs_fail(err, HLWQ_ERR_ARG, "the chat template cuts texts in pieces");
        for (int i = APP_NONCE; i < MARK; i++)
            index = index << 4 | (size_t)((mark[i] - 'A') & 15);
        if (index >= m->n || !m->mark[index].bytes)
            return hs_fail(err, HLWQ_ERR_ARG, "the chat template changes texts");
        app_mark *p = &m->mark[index];
        hs_text_add(out, at, (size_t)(mark - at));
        size_t begin = out->bytes;
        if (p->bytes > PROMPT_MAX || begin > PROMPT_MAX - p->bytes)
            return hs_fail(err, HLWQ_ERR_ARG, "the prompt is longer than %d bytes", PROMPT_MAX);
        add_text(out, p);
        HS_TRY(add_span(m, begin, out->bytes, err));
        p->found = true;
        at = mark + MARK;
    }
    hs_text_add(out, at, (size_t)(end - at));
    return out->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the prompt") : HLWQ_OK;
}
