/*
 * model/tokenizer.c - the parsed tokenizer.json, encoding and decoding.
 *
 * Tokens are kept as raw bytes: the file's printable alphabet (GPT-2's map of bytes to characters) is undone once,
 * while parsing, and added tokens are kept as their text.
 */
#include "model/tokenizer.h"

#include "base/size.h"
#include "model/tokenizer_private.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- encoding ------------------------------------------------------------------------------- */

typedef struct encoding {
    const hs_tokenizer *t;
    int32_t *ids;
    size_t n, capacity;
    hs_bpe_work work;
    hs_split_work *split;
} encoding;

static hlwq_status reserve(encoding *e, size_t more, hlwq_error *err)
{
    if (more <= e->capacity - e->n)
        return HLWQ_OK;
    size_t capacity = e->capacity ? e->capacity : 64;
    while (capacity < e->n + more)
        capacity *= 2;
    int32_t *p = realloc(e->ids, capacity * sizeof *p);
    if (!p)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %zu tokens", e->n + more);
    e->ids = p;
    e->capacity = capacity;
    return HLWQ_OK;
}

static hlwq_status encode_piece(void *user, const char *piece, size_t bytes, hlwq_error *err)
{
    encoding *e = user;
    const hs_tokenizer *t = e->t;
    HS_TRY(reserve(e, bytes, err));
    if (t->ignore_merges) {
        int32_t whole = hs_tokens_find(t, piece, bytes);
        if (whole >= 0) {
            e->ids[e->n++] = whole;
            return HLWQ_OK;
        }
    }
    int32_t *ids = e->ids + e->n;
    for (size_t i = 0; i < bytes; i++)
        ids[i] = t->byte_id[(unsigned char)piece[i]];
    size_t n = hs_bpe_merge(&t->merges, &e->work, ids, bytes);
    if (n == SIZE_MAX)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to encode a piece of %zu bytes", bytes);
    e->n += n;
    return HLWQ_OK;
}

/* Valid UTF-8 without added tokens. */
static hlwq_status encode_valid(encoding *e, const char *text, size_t bytes, hlwq_error *err)
{
    char *nfc = NULL;
    size_t nfc_bytes = 0;
    if (bytes == 0)
        return HLWQ_OK;
    if (e->t->nfc)
        HS_TRY(hs_nfc(text, bytes, &nfc, &nfc_bytes, err));
    hlwq_status st =
        hs_splitter_run(e->t->splitter, e->split, nfc ? nfc : text, nfc ? nfc_bytes : bytes, encode_piece, e, err);
    free(nfc);
    return st;
}

/* Invalid bytes are pieces of their own: byte tokens, so that any bytes survive the round trip. */
static hlwq_status encode_segment(encoding *e, const char *text, size_t bytes, hlwq_error *err)
{
    while (bytes) {
        size_t good = hs_utf8_valid(text, bytes), bad = good;
        while (bad < bytes && hs_utf8_valid(text + bad, hs_min_u64(4, bytes - bad)) == 0)
            bad++;
        HS_TRY(encode_valid(e, text, good, err));
        if (bad > good)
            HS_TRY(encode_piece(e, text + good, bad - good, err));
        text += bad;
        bytes -= bad;
    }
    return HLWQ_OK;
}

/* The longest added token that starts at text, NULL if none; candidates of one first byte, longest first. */
static const hs_added *added_at(const hs_tokenizer *t, const char *text, size_t bytes)
{
    uint32_t first = (unsigned char)*text;
    for (uint32_t i = t->added_start[first]; i < t->added_start[first + 1]; i++) {
        const hs_added *a = &t->added[i];
        if (a->bytes <= bytes && memcmp(a->text, text, a->bytes) == 0)
            return a;
    }
    return NULL;
}

/* What lies between two added tokens is encoded as one text, whether spans begin or end in it or not. */
static hlwq_status encode_all(encoding *e, const char *text, size_t bytes, const hlwq_span *plain, size_t n,
                              hlwq_error *err)
{
    size_t from = 0;
    for (size_t at = 0, span = 0; at < bytes;) {
        size_t edge = span < n ? plain[span].begin : bytes;
        if (at == edge) {
            at = plain[span++].end;
            continue;
        }
        const hs_added *a = added_at(e->t, text + at, edge - at);
        if (!a) {
            at++;
            continue;
        }
        HS_TRY(encode_segment(e, text + from, at - from, err));
        HS_TRY(reserve(e, 1, err));
        e->ids[e->n++] = a->id;
        at += a->bytes;
        from = at;
    }
    return encode_segment(e, text + from, bytes - from, err);
}

static hlwq_status check_spans(size_t bytes, const hlwq_span *plain, size_t n, hlwq_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (plain[i].begin > plain[i].end || plain[i].end > bytes || (i && plain[i].begin < plain[i - 1].end))
            return hs_fail(err, HLWQ_ERR_ARG, "span %zu, bytes %zu to %zu of %zu, is out of order", i, plain[i].begin,
                           plain[i].end, bytes);
    return HLWQ_OK;
}

hlwq_status hs_tokenizer_encode_prompt(const hs_tokenizer *t, const char *text, size_t bytes, const hlwq_span *plain,
                                       size_t n, int32_t **ids, size_t *count, hlwq_error *err)
{
    encoding e = {.t = t};
    *ids = NULL;
    *count = 0;
    HS_TRY(check_spans(bytes, plain, n, err));
    hlwq_status st = reserve(&e, 1, err);
    if (st == HLWQ_OK)
        st = hs_split_work_open(&e.split, t->splitter, err);
    if (st == HLWQ_OK)
        st = encode_all(&e, text, bytes, plain, n, err);
    hs_split_work_close(e.split);
    hs_bpe_work_close(&e.work);
    if (st != HLWQ_OK) {
        free(e.ids);
        return st;
    }
    *ids = e.ids;
    *count = e.n;
    return HLWQ_OK;
}

hlwq_status hs_tokenizer_encode(const hs_tokenizer *t, const char *text, size_t bytes, bool special, int32_t **ids,
                                size_t *count, hlwq_error *err)
{
    const hlwq_span all = {0, bytes};
    return hs_tokenizer_encode_prompt(t, text, bytes, &all, special ? 0 : 1, ids, count, err);
}

typedef struct piece_call {
    hs_piece_fn fn;
    void *user;
} piece_call;

static hlwq_status call_piece(void *user, const char *piece, size_t bytes, hlwq_error *err)
{
    piece_call *c = user;
    (void)err;
    c->fn(c->user, piece, bytes);
    return HLWQ_OK;
}

hlwq_status hs_tokenizer_split(const hs_tokenizer *t, const char *text, size_t bytes, hs_piece_fn fn, void *user,
                               hlwq_error *err)
{
    piece_call c = {fn, user};
    if (hs_utf8_valid(text, bytes) != bytes)
        return hs_fail(err, HLWQ_ERR_ARG, "the text is not UTF-8");
    hs_split_work *w;
    HS_TRY(hs_split_work_open(&w, t->splitter, err));
    hlwq_status st = hs_splitter_run(t->splitter, w, text, bytes, call_piece, &c, err);
    hs_split_work_close(w);
    return st;
}

/* ---- decoding ------------------------------------------------------------------------------- */

uint32_t hs_tokenizer_count(const hs_tokenizer *t)
{
    return t->n_tokens;
}

const char *hs_tokenizer_bytes(const hs_tokenizer *t, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || (uint32_t)id >= t->n_tokens || !t->token[id].text)
        return NULL;
    *bytes = t->token[id].bytes;
    return t->token[id].text;
}

bool hs_tokenizer_is_special(const hs_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->n_tokens && t->token[id].special;
}

int32_t hs_tokenizer_id(const hs_tokenizer *t, const char *token)
{
    for (uint32_t i = 0; i < t->n_added; i++)
        if (strlen(token) == t->added[i].bytes && memcmp(token, t->added[i].text, t->added[i].bytes) == 0)
            return t->added[i].id;
    return -1;
}

/* What may follow the bytes held: the length of the character and the range of its next byte; 0 = none. */
static uint32_t expect(const unsigned char *held, uint32_t n, unsigned char *low, unsigned char *high)
{
    unsigned char a = held[0];
    uint32_t length = a >= 0xC2 && a <= 0xDF ? 2 : a >= 0xE0 && a <= 0xEF ? 3 : a >= 0xF0 && a <= 0xF4 ? 4 : 0;
    *low = 0x80;
    *high = 0xBF;
    if (n == 1) {
        *low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80;
        *high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    }
    return length;
}

static const char replacement[] = "\xEF\xBF\xBD";

size_t hs_utf8_feed(hs_utf8_stream *s, const char *in, size_t bytes, char *out)
{
    size_t n = 0;
    if (!in && bytes == 0) { /* flush */
        if (s->n) {
            memcpy(out, replacement, 3);
            n = 3;
        }
        s->n = 0;
        return n;
    }
    for (size_t i = 0; i < bytes;) {
        unsigned char c = (unsigned char)in[i], low, high;
        if (s->n == 0) {
            i++;
            if (c < 0x80) {
                out[n++] = (char)c;
            } else if (expect(&c, 1, &low, &high)) {
                s->held[s->n++] = c;
            } else {
                memcpy(out + n, replacement, 3);
                n += 3;
            }
            continue;
        }
        uint32_t length = expect(s->held, s->n, &low, &high);
        if (c < low || c > high) { /* the piece held is hopeless; c starts anew */
            memcpy(out + n, replacement, 3);
            n += 3;
            s->n = 0;
            continue;
        }
        s->held[s->n++] = c;
        i++;
        if (s->n == length) {
            memcpy(out + n, s->held, length);
            n += length;
            s->n = 0;
        }
    }
    return n;
}
