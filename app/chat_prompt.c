/*
 * app/chat_prompt.c - marks, rendering, and texts put back in the place of marks.
 */
#define _GNU_SOURCE
#include "app/chat_prompt.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { NONCE = 20, INDEX = 8, MARK = NONCE + INDEX, PROMPT_MAX = 256 << 20 };

typedef struct piece {
    const char *text; /* without the white space around it */
    size_t bytes;
    bool found;
} piece;

typedef struct rendering {
    char nonce[NONCE + 1]; /* A to P: no filter that escapes or trims changes them */
    piece *piece;          /* [2 * messages]: text, reasoning */
    hs_text *out;
    hlwq_span *plain;
    size_t n, capacity;
} rendering;

/* ---- marks ----------------------------------------------------------------------------------- */

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

static piece core(const char *text)
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
    return (piece){text + begin, end - begin, false};
}

static hlwq_status make_nonce(rendering *r, hlwq_error *err)
{
    unsigned char random[NONCE / 2];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return hs_fail(err, HLWQ_ERR_IO, "the system gives no random bytes");
    for (size_t i = 0; i < sizeof random; i++) {
        r->nonce[2 * i] = (char)('A' + (random[i] & 15));
        r->nonce[2 * i + 1] = (char)('A' + (random[i] >> 4));
    }
    return HLWQ_OK;
}

/* `text` as a JSON string with a mark in the place of its core. */
static void add_marked(rendering *r, hs_text *request, const char *text, size_t index)
{
    hs_text t = {0};
    piece p = r->piece[index] = core(text);
    hs_text_add(&t, text, (size_t)(p.text - text));
    if (p.bytes) {
        hs_text_add(&t, r->nonce, NONCE);
        for (int shift = 4 * (INDEX - 1); shift >= 0; shift -= 4)
            hs_text_format(&t, "%c", (int)('A' + (index >> shift & 15)));
    }
    hs_text_format(&t, "%s", p.text + p.bytes);
    request->failed |= t.failed;
    if (!t.failed)
        hs_text_json(request, t.data, t.bytes);
    hs_text_close(&t);
}

static hlwq_status make_request(rendering *r, const chat_talk *talk, chat_think think, bool opens, hs_text *request,
                                hlwq_error *err)
{
    hs_text_format(request, "{\"messages\":[");
    for (size_t i = 0; i < talk->n; i++) {
        const chat_message *m = &talk->message[i];
        hs_text_format(request, "%s{\"role\":\"%s\",\"content\":", i ? "," : "", chat_role_name(m->role));
        add_marked(r, request, m->text, 2 * i);
        if (m->reasoning) {
            hs_text_format(request, ",\"reasoning_content\":");
            add_marked(r, request, m->reasoning, 2 * i + 1);
        }
        hs_text_format(request, "}");
    }
    hs_text_format(request, "],\"add_generation_prompt\":%s", opens ? "true" : "false");
    if (think != CHAT_THINK_AUTO)
        hs_text_format(request, ",\"enable_thinking\":%s", think == CHAT_THINK_ON ? "true" : "false");
    hs_text_format(request, "}");
    return request->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the messages") : HLWQ_OK;
}

/* ---- texts back in the place of marks -------------------------------------------------------- */

static hlwq_status add_span(rendering *r, size_t begin, size_t end, hlwq_error *err)
{
    if (r->n == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 32;
        hlwq_span *more = realloc(r->plain, capacity * sizeof *more);
        if (!more)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the prompt");
        r->plain = more;
        r->capacity = capacity;
    }
    r->plain[r->n++] = (hlwq_span){begin, end};
    return HLWQ_OK;
}

static hlwq_status fill(rendering *r, const char *prompt, size_t bytes, size_t pieces, hlwq_error *err)
{
    const char *at = prompt, *end = prompt + bytes, *mark;
    while ((mark = memmem(at, (size_t)(end - at), r->nonce, NONCE))) {
        size_t index = 0;
        if (end - mark < MARK)
            return hs_fail(err, HLWQ_ERR_ARG, "the chat template cuts texts in pieces");
        for (int i = NONCE; i < MARK; i++)
            index = index << 4 | (size_t)((mark[i] - 'A') & 15);
        if (index >= pieces || !r->piece[index].bytes)
            return hs_fail(err, HLWQ_ERR_ARG, "the chat template changes texts");
        piece *p = &r->piece[index];
        hs_text_add(r->out, at, (size_t)(mark - at));
        if (p->bytes > PROMPT_MAX || r->out->bytes > PROMPT_MAX - p->bytes)
            return hs_fail(err, HLWQ_ERR_ARG, "the prompt is longer than %d bytes", PROMPT_MAX);
        HS_TRY(add_span(r, r->out->bytes, r->out->bytes + p->bytes, err));
        hs_text_add(r->out, p->text, p->bytes);
        p->found = true;
        at = mark + MARK;
    }
    hs_text_add(r->out, at, (size_t)(end - at));
    return r->out->failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the prompt") : HLWQ_OK;
}

static hlwq_status render(rendering *r, const hlwq_template *chat, const chat_talk *talk, chat_think think, bool opens,
                          hlwq_error *err)
{
    hs_text request = {0};
    char *prompt = NULL;
    size_t bytes = 0;
    hlwq_status st = make_nonce(r, err);
    if (st == HLWQ_OK)
        st = make_request(r, talk, think, opens, &request, err);
    if (st == HLWQ_OK)
        st = hlwq_template_apply(chat, request.data, request.bytes, &prompt, &bytes, err);
    if (st == HLWQ_OK)
        st = fill(r, prompt, bytes, 2 * talk->n, err);
    const piece *last = talk->n ? &r->piece[2 * (talk->n - 1)] : NULL;
    if (st == HLWQ_OK && last && last->bytes && !last->found)
        st = hs_fail(err, HLWQ_ERR_ARG, "the chat template leaves out the last message, or changes its letters");
    hlwq_free(prompt);
    hs_text_close(&request);
    return st;
}

hlwq_status chat_prompt_text(const hlwq_template *chat, const chat_talk *talk, chat_think think, bool opens,
                             hs_text *text, hlwq_span **plain, size_t *n, hlwq_error *err)
{
    rendering r = {.out = text, .piece = calloc(2 * talk->n + 1, sizeof *r.piece)};
    *plain = NULL;
    *n = 0;
    hlwq_status st =
        r.piece ? render(&r, chat, talk, think, opens, err) : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the prompt");
    free(r.piece);
    if (st != HLWQ_OK) {
        free(r.plain);
        hs_text_close(text);
        return st;
    }
    *plain = r.plain;
    *n = r.n;
    return HLWQ_OK;
}

/* ---- ids ------------------------------------------------------------------------------------- */

hlwq_status chat_prompt_ids(const hlwq_template *chat, const hlwq_tokenizer *tokenizer, const chat_talk *talk,
                            chat_think think, int32_t **ids, size_t *count, hlwq_error *err)
{
    hs_text text = {0};
    hlwq_span *plain;
    size_t n;
    *ids = NULL;
    *count = 0;
    HS_TRY(chat_prompt_text(chat, talk, think, true, &text, &plain, &n, err));
    hlwq_status st = hlwq_tokenize_prompt(tokenizer, text.data, text.bytes, plain, n, ids, count, err);
    if (st == HLWQ_OK && !*count)
        st = hs_fail(err, HLWQ_ERR_ARG, "the chat template makes nothing of the messages");
    free(plain);
    hs_text_close(&text);
    return st;
}

int32_t chat_token(const hlwq_tokenizer *tokenizer, const char *text)
{
    int32_t *ids, id = -1;
    size_t n;
    if (hlwq_tokenize(tokenizer, text, strlen(text), true, &ids, &n, NULL) != HLWQ_OK)
        return -1;
    if (n == 1)
        id = ids[0];
    hlwq_free(ids);
    return id;
}

/* Whether skipping special tokens leaves nothing of it. */
static bool is_special(const hlwq_tokenizer *tokenizer, int32_t id)
{
    char *text;
    size_t bytes = 1;
    if (hlwq_detokenize(tokenizer, &id, 1, true, &text, &bytes, NULL) != HLWQ_OK)
        return false;
    hlwq_free(text);
    return bytes == 0;
}

int32_t chat_prompt_end(const hlwq_template *chat, const hlwq_tokenizer *tokenizer)
{
    chat_talk talk = {0};
    hs_text text = {0};
    hlwq_span *plain = NULL;
    size_t n = 0, count = 0;
    int32_t *ids = NULL, id = -1;
    if (chat_talk_add(&talk, CHAT_USER, "question", NULL, NULL) == HLWQ_OK &&
        chat_talk_add(&talk, CHAT_ASSISTANT, "answer", NULL, NULL) == HLWQ_OK &&
        chat_prompt_text(chat, &talk, CHAT_THINK_AUTO, false, &text, &plain, &n, NULL) == HLWQ_OK && n) {
        size_t from = plain[n - 1].end;
        if (hlwq_tokenize(tokenizer, text.data + from, text.bytes - from, true, &ids, &count, NULL) == HLWQ_OK &&
            count && is_special(tokenizer, ids[0]))
            id = ids[0];
    }
    hlwq_free(ids);
    free(plain);
    hs_text_close(&text);
    chat_talk_close(&talk);
    return id;
}
