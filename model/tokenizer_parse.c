/*
 * model/tokenizer_parse.c - tokenizer.json, distrusted.
 */
#include "model/tokenizer_private.h"

#include "base/json.h"
#include "base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { ID_MAX = 1 << 24, TOKEN_BYTES_MAX = 1 << 16, ADDED_MAX = 1 << 16, ADDED_BYTES_MAX = 1024 };

typedef struct parsing {
    hs_tokenizer *t;
    const hs_json *root, *config; /* config NULL if absent */
    const char *what;
    uint32_t limit; /* ids are below */
    char *buffer;   /* TOKEN_BYTES_MAX * 2 + 2: raw bytes of one token or a pair of them */
    hlwq_error *err;
} parsing;

/* ---- tokens by their bytes ------------------------------------------------------------------ */

static uint64_t hash_bytes(const char *text, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a, then mixed */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001B3u;
    return h ^ h >> 29;
}

static uint32_t *slot_of(const hs_tokenizer *t, const char *text, size_t bytes)
{
    uint32_t i = (uint32_t)hash_bytes(text, bytes) & t->table_mask;
    while (t->table[i]) {
        const hs_token *k = &t->token[t->table[i] - 1];
        if (k->bytes == bytes && memcmp(k->text, text, bytes) == 0)
            break;
        i = (i + 1) & t->table_mask;
    }
    return &t->table[i];
}

int32_t hs_tokens_find(const hs_tokenizer *t, const char *text, size_t bytes)
{
    return (int32_t)*slot_of(t, text, bytes) - 1;
}

/* ---- the printable alphabet ----------------------------------------------------------------- */

/* The byte that a character of GPT-2's alphabet stands for, -1 if it is none. */
static int byte_of(uint32_t c)
{
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF))
        return (int)c;
    if (c < 0x100 || c >= 0x100 + 68)
        return -1;
    c -= 0x100;
    return c < 33 ? (int)c : c < 67 ? (int)(c - 33 + 127) : 0xAD;
}

/* Raw bytes of a token as the file spells it; false if it has another character. Never longer than the spelling. */
static bool raw_bytes(const char *text, size_t bytes, char *out, uint32_t *n)
{
    *n = 0;
    for (size_t i = 0; i < bytes;) {
        unsigned char a = (unsigned char)text[i];
        uint32_t c = a;
        if (a >= 0x80) { /* the alphabet ends at U+0143: two bytes */
            if (a < 0xC2 || a > 0xDF || i + 1 >= bytes)
                return false;
            c = (a & 0x1Fu) << 6 | ((unsigned char)text[i + 1] & 0x3Fu);
            i++;
        }
        i++;
        int b = byte_of(c);
        if (b < 0)
            return false;
        out[(*n)++] = (char)b;
    }
    return true;
}

/* ---- vocabulary and merges ------------------------------------------------------------------ */

static hlwq_status check_id(const parsing *p, const hs_json *id, const char *token, uint32_t *out)
{
    if (hs_json_type_of(id) != HS_JSON_INTEGER || hs_json_int(id) < 0 || hs_json_int(id) >= (int64_t)p->limit)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: token \"%.100s\" has the id %" PRId64 ", out of range 0..%u",
                       p->what, token, hs_json_type_of(id) == HS_JSON_INTEGER ? hs_json_int(id) : -1, p->limit - 1);
    *out = (uint32_t)hs_json_int(id);
    return HLWQ_OK;
}

/* Largest id + 1 over everything, before anything of that size is allocated. */
static hlwq_status count_ids(const parsing *p, const hs_json *vocab, uint32_t *count)
{
    *count = 0;
    for (hs_json_iter *it = hs_json_first(vocab); it; it = hs_json_next(vocab, it)) {
        uint32_t id = 0;
        HS_TRY(check_id(p, hs_json_value(it), hs_json_key(it, NULL), &id));
        *count = id + 1 > *count ? id + 1 : *count;
    }
    /* A sparse vocabulary would make a small file ask for a large table. */
    if (*count > 16 * hs_json_count(vocab) + 65536)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: the vocabulary has %zu tokens, but ids up to %u", p->what,
                       hs_json_count(vocab), *count - 1);
    return HLWQ_OK;
}

static hlwq_status set_token(const parsing *p, uint32_t id, const char *text, uint32_t bytes, bool special)
{
    hs_tokenizer *t = p->t;
    char *copy;
    if (t->token[id].text)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: id %u is a duplicate, two tokens have it", p->what, id);
    HS_TRY(hs_arena_text(&t->arena, text, bytes, &copy, p->err));
    t->token[id] = (hs_token){copy, bytes, special};
    return HLWQ_OK;
}

static hlwq_status read_vocab(const parsing *p, const hs_json *vocab)
{
    hs_tokenizer *t = p->t;
    uint32_t size = 16;
    void *mem;
    while (size < 2 * hs_json_count(vocab))
        size *= 2;
    HS_TRY(hs_arena_array(&t->arena, size, sizeof(uint32_t), &mem, p->err));
    t->table = mem;
    t->table_mask = size - 1;
    for (hs_json_iter *it = hs_json_first(vocab); it; it = hs_json_next(vocab, it)) {
        size_t bytes;
        uint32_t n, id = (uint32_t)hs_json_int(hs_json_value(it));
        const char *key = hs_json_key(it, &bytes);
        if (bytes == 0 || bytes > TOKEN_BYTES_MAX)
            return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: token %u has %zu bytes, limit 1..%d", p->what, id, bytes,
                           TOKEN_BYTES_MAX);
        bool spelled = raw_bytes(key, bytes, p->buffer, &n);
        /* Added tokens may stand in the vocabulary as their own text; they are never merged to. */
        HS_TRY(set_token(p, id, spelled ? p->buffer : key, spelled ? n : (uint32_t)bytes, false));
        if (!spelled)
            continue;
        uint32_t *slot = slot_of(t, t->token[id].text, n);
        if (*slot)
            return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: tokens %u and %u are the same bytes", p->what, *slot - 1, id);
        *slot = id + 1;
    }
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        t->byte_id[b] = hs_tokens_find(t, &c, 1);
        if (t->byte_id[b] < 0)
            return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: the vocabulary has no token for the byte 0x%02x", p->what, b);
    }
    return HLWQ_OK;
}

/* "a b", or ["a", "b"]. */
static bool merge_halves(const hs_json *m, const char **a, size_t *a_bytes, const char **b, size_t *b_bytes)
{
    if (hs_json_type_of(m) == HS_JSON_STRING) {
        size_t n;
        const char *s = hs_json_string(m, &n), *space = memchr(s, ' ', n);
        if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - s)))
            return false;
        *a = s;
        *a_bytes = (size_t)(space - s);
        *b = space + 1;
        *b_bytes = n - *a_bytes - 1;
        return true;
    }
    const hs_json *x = hs_json_at(m, 0), *y = hs_json_at(m, 1);
    if (hs_json_count(m) != 2 || hs_json_type_of(x) != HS_JSON_STRING || hs_json_type_of(y) != HS_JSON_STRING)
        return false;
    *a = hs_json_string(x, a_bytes);
    *b = hs_json_string(y, b_bytes);
    return true;
}

static hlwq_status read_merges(const parsing *p, const hs_json *merges)
{
    hs_tokenizer *t = p->t;
    size_t n = hs_json_count(merges);
    if (hs_json_type_of(merges) != HS_JSON_ARRAY || n > ID_MAX)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: \"merges\" is not an array of at most %d rules", p->what, ID_MAX);
    HS_TRY(hs_merges_init(&t->merges, (uint32_t)n, &t->arena, p->err));
    for (size_t i = 0; i < n; i++) {
        const char *a, *b;
        size_t a_bytes, b_bytes;
        uint32_t a_raw, b_raw;
        if (!merge_halves(hs_json_at(merges, i), &a, &a_bytes, &b, &b_bytes))
            return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: merge %zu is not a pair of tokens", p->what, i);
        int32_t left = -1, right = -1, result = -1;
        if (a_bytes <= TOKEN_BYTES_MAX && b_bytes <= TOKEN_BYTES_MAX && raw_bytes(a, a_bytes, p->buffer, &a_raw) &&
            raw_bytes(b, b_bytes, p->buffer + a_raw, &b_raw)) {
            left = hs_tokens_find(t, p->buffer, a_raw);
            right = hs_tokens_find(t, p->buffer + a_raw, b_raw);
            result = hs_tokens_find(t, p->buffer, a_raw + b_raw);
        }
        if (left < 0 || right < 0 || result < 0)
            return hs_fail(p->err, HLWQ_ERR_FORMAT,
                           "%s: merge %zu (\"%.*s\", \"%.*s\") names or makes a token that is not in the vocabulary",
                           p->what, i, (int)hs_min_u64(a_bytes, 60), a, (int)hs_min_u64(b_bytes, 60), b);
        hs_merges_add(&t->merges, left, right, result, (uint32_t)i);
    }
    return HLWQ_OK;
}

/* ---- added tokens --------------------------------------------------------------------------- */

static hlwq_status add_added(const parsing *p, uint32_t id, const hs_json *entry)
{
    hs_tokenizer *t = p->t;
    const char *text = NULL;
    bool special = false;
    HS_TRY(hs_json_take_string(entry, "content", HS_REQUIRED, &text, p->what, p->err));
    HS_TRY(hs_json_take_bool(entry, "special", HS_OPTIONAL, &special, p->what, p->err));
    size_t bytes = strlen(text);
    if (bytes == 0 || bytes > ADDED_BYTES_MAX)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: added token %u has %zu bytes, limit 1..%d", p->what, id, bytes,
                       ADDED_BYTES_MAX);
    for (uint32_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == (int32_t)id || (t->added[i].bytes == bytes && memcmp(t->added[i].text, text, bytes) == 0))
            return HLWQ_OK; /* tokenizer_config.json repeats those of tokenizer.json */
    char *copy;
    HS_TRY(hs_arena_text(&t->arena, text, bytes, &copy, p->err));
    t->token[id] = (hs_token){copy, (uint32_t)bytes, special};
    t->added[t->n_added++] = (hs_added){copy, (uint32_t)bytes, (int32_t)id};
    return HLWQ_OK;
}

static int by_first_then_length(const void *x, const void *y)
{
    const hs_added *a = x, *b = y;
    int d = (unsigned char)*a->text - (unsigned char)*b->text;
    if (d)
        return d;
    if (a->bytes != b->bytes)
        return a->bytes > b->bytes ? -1 : 1;
    return memcmp(a->text, b->text, a->bytes);
}

/* Id of one entry of either file: a member "id", or the key of the decoder's object. */
static hlwq_status decoder_id(const parsing *p, const char *key, uint32_t *id)
{
    char *end;
    unsigned long v = strtoul(key, &end, 10);
    if (*key < '0' || *key > '9' || *end || v >= p->limit)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: added token id \"%.40s\" is out of range 0..%u", p->what, key,
                       p->limit - 1);
    *id = (uint32_t)v;
    return HLWQ_OK;
}

static hlwq_status read_added(const parsing *p, const hs_json *list, const hs_json *decoder)
{
    hs_tokenizer *t = p->t;
    for (size_t i = 0; i < hs_json_count(list); i++) {
        uint32_t id = 0;
        const hs_json *e = hs_json_at(list, i);
        HS_TRY(check_id(p, hs_json_get(e, "id"), "added", &id));
        HS_TRY(add_added(p, id, e));
    }
    for (hs_json_iter *it = hs_json_first(decoder); it; it = hs_json_next(decoder, it)) {
        uint32_t id = 0;
        HS_TRY(decoder_id(p, hs_json_key(it, NULL), &id));
        HS_TRY(add_added(p, id, hs_json_value(it)));
    }
    qsort(t->added, t->n_added, sizeof *t->added, by_first_then_length);
    for (uint32_t i = 0, at = 0; i <= 256; i++) {
        while (at < t->n_added && (unsigned char)*t->added[at].text < i)
            at++;
        t->added_start[i] = at;
    }
    return HLWQ_OK;
}

/* Room for every id of all three lists. */
static hlwq_status make_room(const parsing *p, const hs_json *vocab, const hs_json *list, const hs_json *decoder)
{
    hs_tokenizer *t = p->t;
    void *mem;
    uint32_t count = 0, id = 0;
    size_t added = hs_json_count(list) + hs_json_count(decoder);
    if (added > ADDED_MAX)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: %zu added tokens, limit %d", p->what, added, ADDED_MAX);
    HS_TRY(count_ids(p, vocab, &count));
    uint32_t top = count + 65536; /* added tokens follow the vocabulary closely */
    for (size_t i = 0; i < hs_json_count(list); i++) {
        HS_TRY(check_id(p, hs_json_get(hs_json_at(list, i), "id"), "added", &id));
        count = id + 1 > count ? id + 1 : count;
    }
    for (hs_json_iter *it = hs_json_first(decoder); it; it = hs_json_next(decoder, it)) {
        HS_TRY(decoder_id(p, hs_json_key(it, NULL), &id));
        count = id + 1 > count ? id + 1 : count;
    }
    if (count > top)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: an added token has the id %u, far above the vocabulary", p->what,
                       count - 1);
    HS_TRY(hs_arena_array(&t->arena, count, sizeof(hs_token), &mem, p->err));
    t->token = mem;
    t->n_tokens = count;
    HS_TRY(hs_arena_array(&t->arena, added, sizeof(hs_added), &mem, p->err));
    t->added = mem;
    return HLWQ_OK;
}

/* ---- normaliser and pattern ----------------------------------------------------------------- */

static bool type_is(const hs_json *node, const char *type)
{
    const hs_json *t = hs_json_get(node, "type");
    return hs_json_type_of(t) == HS_JSON_STRING && strcmp(hs_json_string(t, NULL), type) == 0;
}

static const char *type_text(const hs_json *node)
{
    const hs_json *t = hs_json_get(node, "type");
    return hs_json_type_of(t) == HS_JSON_STRING ? hs_json_string(t, NULL) : "?";
}

static hlwq_status read_normalizer(const parsing *p)
{
    const hs_json *n = hs_json_get(p->root, "normalizer");
    if (hs_json_type_of(n) <= HS_JSON_NULL)
        return HLWQ_OK;
    if (!type_is(n, "NFC"))
        return hs_fail(p->err, HLWQ_ERR_UNSUPPORTED, "%s: normalizer \"%.60s\" is not supported, only NFC", p->what,
                       type_text(n));
    p->t->nfc = true;
    return HLWQ_OK;
}

static hlwq_status open_splitter(const parsing *p, const char *pattern)
{
    return hs_splitter_open(&p->t->splitter, pattern, p->what, p->err);
}

/* ByteLevel alone splits by GPT-2's pattern; Sequence [Split, ByteLevel] by its own. */
static hlwq_status read_pre_tokenizer(const parsing *p)
{
    const hs_json *pre = hs_json_get(p->root, "pre_tokenizer"), *list = hs_json_get(pre, "pretokenizers");
    bool use_regex = true, prefix = false;
    const hs_json *level = type_is(pre, "Sequence") ? hs_json_at(list, 1) : pre;
    if (!type_is(level, "ByteLevel"))
        return hs_fail(p->err, HLWQ_ERR_UNSUPPORTED,
                       "%s: pre_tokenizer \"%.60s\" is not supported, only ByteLevel, alone or after Split", p->what,
                       type_text(pre));
    HS_TRY(hs_json_take_bool(level, "use_regex", HS_OPTIONAL, &use_regex, p->what, p->err));
    HS_TRY(hs_json_take_bool(level, "add_prefix_space", HS_OPTIONAL, &prefix, p->what, p->err));
    if (prefix)
        return hs_fail(p->err, HLWQ_ERR_UNSUPPORTED, "%s: add_prefix_space true is not supported", p->what);
    if (level == pre)
        return use_regex ? open_splitter(p, hs_pattern_gpt2)
                         : hs_fail(p->err, HLWQ_ERR_UNSUPPORTED,
                                   "%s: a ByteLevel pre_tokenizer without a pattern is not supported", p->what);
    const hs_json *split = hs_json_at(list, 0), *regex = hs_json_get(hs_json_get(split, "pattern"), "Regex");
    const char *behavior = "Isolated";
    bool invert = false;
    HS_TRY(hs_json_take_string(split, "behavior", HS_OPTIONAL, &behavior, p->what, p->err));
    HS_TRY(hs_json_take_bool(split, "invert", HS_OPTIONAL, &invert, p->what, p->err));
    if (hs_json_count(list) != 2 || !type_is(split, "Split") || hs_json_type_of(regex) != HS_JSON_STRING ||
        strcmp(behavior, "Isolated") != 0 || invert || use_regex)
        return hs_fail(
            p->err, HLWQ_ERR_UNSUPPORTED,
            "%s: this pre_tokenizer sequence is not supported, only an isolated Split by a pattern, then ByteLevel",
            p->what);
    return open_splitter(p, hs_json_string(regex, NULL));
}

/* ---- all of it ------------------------------------------------------------------------------ */

static hlwq_status parse_all(const parsing *p)
{
    const hs_json *model = hs_json_get(p->root, "model"), *vocab = hs_json_get(model, "vocab");
    const hs_json *list = hs_json_get(p->root, "added_tokens"),
                  *decoder = hs_json_get(p->config, "added_tokens_decoder");
    if (hs_json_type_of(list) != HS_JSON_ARRAY)
        list = NULL;
    if (hs_json_type_of(decoder) != HS_JSON_OBJECT)
        decoder = NULL;
    if (hs_json_type_of(model) != HS_JSON_OBJECT || (hs_json_get(model, "type") && !type_is(model, "BPE")))
        return hs_fail(p->err, HLWQ_ERR_UNSUPPORTED, "%s: tokenizer model \"%.60s\" is not supported, only BPE",
                       p->what, type_text(model));
    if (hs_json_type_of(vocab) != HS_JSON_OBJECT || hs_json_count(vocab) == 0)
        return hs_fail(p->err, HLWQ_ERR_FORMAT, "%s: the tokenizer has no vocabulary", p->what);
    bool fallback = false;
    HS_TRY(hs_json_take_bool(model, "ignore_merges", HS_OPTIONAL, &p->t->ignore_merges, p->what, p->err));
    HS_TRY(hs_json_take_bool(model, "byte_fallback", HS_OPTIONAL, &fallback, p->what, p->err));
    if (fallback)
        return hs_fail(p->err, HLWQ_ERR_UNSUPPORTED, "%s: byte_fallback true is not supported", p->what);
    HS_TRY(read_normalizer(p));
    HS_TRY(read_pre_tokenizer(p));
    HS_TRY(make_room(p, vocab, list, decoder));
    HS_TRY(read_vocab(p, vocab));
    HS_TRY(read_merges(p, hs_json_get(model, "merges")));
    return read_added(p, list, decoder);
}

static hlwq_status parse_texts(hs_tokenizer *t, const char *text, size_t bytes, const char *config_text,
                               size_t config_bytes, uint32_t vocab_limit, const char *what, hlwq_error *err)
{
    hs_json *root = NULL, *config = NULL;
    char *buffer = malloc(2 * TOKEN_BYTES_MAX + 2);
    hlwq_status st = buffer ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a tokenizer");
    if (st == HLWQ_OK && bytes > HS_TOKENIZER_MAX)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: %zu bytes, limit %u", what, bytes, HS_TOKENIZER_MAX);
    if (st == HLWQ_OK)
        st = hs_json_parse(text, bytes, what, &root, err);
    if (st == HLWQ_OK && config_text)
        st = hs_json_parse(config_text, config_bytes, what, &config, err);
    if (st == HLWQ_OK) {
        parsing p = {t, root, config, what, vocab_limit ? vocab_limit : ID_MAX, buffer, err};
        st = parse_all(&p);
    }
    hs_json_free(config);
    hs_json_free(root);
    free(buffer);
    return st;
}

hlwq_status hs_tokenizer_parse(hs_tokenizer **tokenizer, hs_mem *mem, const char *text, size_t bytes,
                               const char *config_text, size_t config_bytes, uint32_t vocab_limit, const char *what,
                               hlwq_error *err)
{
    void *p;
    *tokenizer = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TOKENIZER, sizeof(hs_tokenizer), "tokenizer", &p, err));
    hs_tokenizer *t = p;
    t->mem = mem;
    hs_arena_init(&t->arena, mem, HS_MEM_TOKENIZER);
    hlwq_status st = parse_texts(t, text, bytes, config_text, config_bytes, vocab_limit, what, err);
    if (st != HLWQ_OK) {
        hs_tokenizer_free(t);
        return st;
    }
    *tokenizer = t;
    return HLWQ_OK;
}

void hs_tokenizer_free(hs_tokenizer *t)
{
    if (!t)
        return;
    hs_splitter_close(t->splitter);
    hs_arena_close(&t->arena);
    hs_mem_free(t->mem, t);
}
