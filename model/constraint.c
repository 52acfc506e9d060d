/*
 * model/constraint.c - a grammar, what follows it, and the vocabulary that it is followed over.
 *
 * How much memory one takes is known only while it is followed.  All constraints of a tokenizer share one budget, which
 * an engine may have set aside within its own; its limits (model/grammar.h, model/matcher_private.h) keep one small.
 */
#include "model/constraint.h"

#include "model/engine.h"
#include "model/grammar_json.h"
#include "model/json_schema.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    TEXT_MAX = 1 << 20,
    SHARE_BYTES = 16 << 20, /* grammars up to their limits, states */
    SHARE_PER_TOKEN = 192   /* the vocabulary as a tree, and what was found out about it for some hundred places */
};

struct hlwq_constraint {
    hs_mem *mem;
    const hs_tokenizer *tokenizer;
    const hs_vocab *vocab;
    hs_grammar grammar;
    hs_matcher *matcher;
    uint64_t *allowed;
    int32_t tag[2]; /* tokens that stand for the bytes of tag_byte; -1 = none */
};

static const uint8_t tag_byte[2] = {HS_CALL_OPEN_BYTE, HS_CALL_CLOSE_BYTE};
static const char *const tag_text[2] = {HS_CALL_OPEN, HS_CALL_CLOSE};

/* The tokenizer's vocabulary as a tree, made when it is first asked for; constraints may be opened on several threads.
 */
static hlwq_status find_vocab(const hlwq_tokenizer *lent, const hs_vocab **vocab, hlwq_error *err)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    hlwq_tokenizer *t = (hlwq_tokenizer *)(uintptr_t)lent; /* never a constant object: they are allocated */
    hlwq_status st = HLWQ_OK;
    pthread_mutex_lock(&lock);
    if (!t->vocab) {
        t->vocab_mem = t->vocab_mem ? t->vocab_mem : hs_mem_open(0);
        st = t->vocab_mem ? hs_vocab_open(&t->vocab, t->vocab_mem, t->inner, err)
                          : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a constraint");
    }
    *vocab = t->vocab;
    pthread_mutex_unlock(&lock);
    return st;
}

hlwq_status hs_constraints_reserve(hlwq_tokenizer *t, hs_mem *budget, hlwq_error *err)
{
    uint64_t bytes = SHARE_BYTES + (uint64_t)SHARE_PER_TOKEN * hs_tokenizer_count(t->inner);
    HS_TRY(hs_mem_charge(budget, HS_MEM_OTHER, bytes, "constraints", err));
    t->vocab_mem = hs_mem_open(bytes);
    if (!t->vocab_mem) {
        hs_mem_discharge(budget, HS_MEM_OTHER, bytes);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for constraints");
    }
    hs_mem_set_option(t->vocab_mem, NULL);
    t->vocab_budget = budget;
    return HLWQ_OK;
}

void hs_constraints_forget(hlwq_tokenizer *t)
{
    hs_vocab_close(t->vocab);
    if (t->vocab_budget)
        hs_mem_discharge(t->vocab_budget, HS_MEM_OTHER, hs_mem_cap_bytes(t->vocab_mem));
    if (t->vocab_mem)
        hs_mem_close(t->vocab_mem);
    t->vocab = NULL;
    t->vocab_mem = t->vocab_budget = NULL;
}

/* Whether there are tokens for the tags of a call; else they are written as text. */
static bool find_tags(hlwq_constraint *c)
{
    for (int i = 0; i < 2; i++)
        c->tag[i] = hs_tokenizer_id(c->tokenizer, tag_text[i]);
    if (c->tag[0] >= 0 && c->tag[1] >= 0)
        return true;
    c->tag[0] = c->tag[1] = -1;
    return false;
}

static hlwq_status build(hlwq_constraint *c, hlwq_constraint_kind kind, const char *text, size_t bytes, hlwq_error *err)
{
    hs_json *root = NULL;
    const char *what = kind == HLWQ_CONSTRAINT_GRAMMAR ? "grammar"
                       : kind == HLWQ_CONSTRAINT_TOOLS ? "tools"
                                                       : "JSON schema";
    uint32_t depth = kind == HLWQ_CONSTRAINT_GRAMMAR ? HS_GRAMMAR_JSON_DEPTH
                     : kind == HLWQ_CONSTRAINT_TOOLS ? HS_TOOLS_DEPTH
                                                     : HS_SCHEMA_DEPTH;
    hs_grammar_init(&c->grammar, c->mem, depth, c->vocab->longest, err);
    if (kind == HLWQ_CONSTRAINT_JSON_OBJECT) {
        hs_json_object(&c->grammar);
    } else {
        if (bytes > TEXT_MAX)
            return hs_fail(err, HLWQ_ERR_ARG, "%s: %zu bytes, limit %d", what, bytes, TEXT_MAX);
        if (hs_json_parse(text, bytes, what, &root, err) != HLWQ_OK)
            return err ? err->status = HLWQ_ERR_ARG : HLWQ_ERR_ARG;
        if (kind == HLWQ_CONSTRAINT_GRAMMAR)
            hs_grammar_json(&c->grammar, root);
        else if (kind == HLWQ_CONSTRAINT_CALL)
            hs_json_call(&c->grammar, root);
        else if (kind == HLWQ_CONSTRAINT_TOOLS)
            hs_json_tools(&c->grammar, root, find_tags(c));
        else
            hs_json_schema(&c->grammar, root);
        hs_json_free(root);
    }
    HS_TRY(hs_grammar_close_off(&c->grammar, what));
    return hs_matcher_open(&c->matcher, c->mem, &c->grammar, c->vocab, err);
}

hlwq_status hlwq_constraint_open(const hlwq_tokenizer *tokenizer, hlwq_constraint_kind kind, const char *text,
                                 size_t bytes, hlwq_constraint **constraint, hlwq_error *err)
{
    *constraint = NULL;
    hlwq_constraint *c = calloc(1, sizeof *c);
    hlwq_error unused;
    if (!c)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a constraint");
    c->tokenizer = tokenizer->inner;
    c->tag[0] = c->tag[1] = -1;
    hlwq_status st = find_vocab(tokenizer, &c->vocab, err);
    c->mem = tokenizer->vocab_mem;
    if (st == HLWQ_OK)
        st = build(c, kind, text, bytes, err ? err : &unused);
    if (st == HLWQ_OK) {
        void *p;
        st = hs_mem_alloc(c->mem, HS_MEM_OTHER, hs_matcher_words(c->matcher) * sizeof(uint64_t), "constraint", &p, err);
        c->allowed = st == HLWQ_OK ? p : NULL;
    }
    c->grammar.err = NULL;
    if (st != HLWQ_OK)
        hlwq_constraint_close(c);
    else
        *constraint = c;
    return st;
}

void hlwq_constraint_close(hlwq_constraint *c)
{
    if (!c)
        return;
    hs_matcher_close(c->matcher);
    if (c->mem)
        hs_mem_free(c->mem, c->allowed);
    if (c->grammar.mem)
        hs_grammar_free(&c->grammar);
    free(c);
}

uint32_t hs_constraint_start(const hlwq_constraint *c)
{
    return hs_matcher_start(c->matcher);
}

bool hs_constraint_complete(const hlwq_constraint *c, uint32_t place)
{
    return hs_matcher_complete(c->matcher, place);
}

bool hs_constraint_over(const hlwq_constraint *c, uint32_t place)
{
    return hs_matcher_over(c->matcher, place);
}

uint32_t hs_constraint_tokens(const hlwq_constraint *c)
{
    return c->vocab->n_tokens;
}

static void allow(hlwq_constraint *c, int32_t id)
{
    if (id >= 0 && (uint32_t)id < c->vocab->n_tokens)
        c->allowed[id / 64] |= UINT64_C(1) << id % 64;
}

/* After the byte that stands for a tag; HS_MATCH_DEAD if that may not come. */
static hlwq_status feed_tag(hlwq_constraint *c, int i, uint32_t *place, hlwq_error *err)
{
    return hs_matcher_feed(c->matcher, place, (const char *)&tag_byte[i], 1, err);
}

hlwq_status hs_constraint_allowed(hlwq_constraint *c, uint32_t place, const int32_t *stop, uint32_t n_stop,
                                  const uint64_t **allowed, hlwq_error *err)
{
    HS_TRY(hs_matcher_mask(c->matcher, place, c->allowed, err));
    for (int i = 0; i < 2 && c->tag[i] >= 0; i++) {
        uint32_t next = place;
        HS_TRY(feed_tag(c, i, &next, err));
        if (next != HS_MATCH_DEAD)
            allow(c, c->tag[i]);
    }
    for (uint32_t i = 0; i < n_stop && hs_constraint_complete(c, place); i++)
        allow(c, stop[i]);
    *allowed = c->allowed;
    return HLWQ_OK;
}

/* The tag that `text` begins with, where one is a token; -1. */
static int tag_at(const hlwq_constraint *c, const char *text, size_t bytes)
{
    for (int i = 0; i < 2 && c->tag[i] >= 0; i++)
        if (bytes >= strlen(tag_text[i]) && memcmp(text, tag_text[i], strlen(tag_text[i])) == 0)
            return i;
    return -1;
}

hlwq_status hs_constraint_follow(hlwq_constraint *c, uint32_t *place, const char *text, size_t bytes, hlwq_error *err)
{
    uint32_t next = *place;
    for (size_t i = 0; i < bytes && next != HS_MATCH_DEAD;) {
        uint32_t after = next;
        int tag = tag_at(c, text + i, bytes - i);
        if (tag >= 0)
            HS_TRY(feed_tag(c, tag, &after, err));
        if (tag < 0 || after == HS_MATCH_DEAD) { /* text like any other, such as within an argument */
            HS_TRY(hs_matcher_feed(c->matcher, &next, text + i++, 1, err));
            continue;
        }
        next = after;
        i += strlen(tag_text[tag]);
    }
    if (next == HS_MATCH_DEAD)
        return hs_fail(err, HLWQ_ERR_ARG, "no text of the constraint goes on with the %zu bytes that are there", bytes);
    *place = next;
    return HLWQ_OK;
}

hlwq_status hs_constraint_advance(hlwq_constraint *c, uint32_t *place, int32_t id, hlwq_error *err)
{
    size_t bytes;
    uint32_t next = *place;
    const char *text = hs_tokenizer_bytes(c->tokenizer, id, &bytes);
    if (id >= 0 && (id == c->tag[0] || id == c->tag[1]))
        HS_TRY(feed_tag(c, id == c->tag[1], &next, err));
    else if (id < 0 || (uint32_t)id >= c->vocab->n_tokens || !(c->vocab->present[id / 64] >> id % 64 & 1))
        next = HS_MATCH_DEAD;
    else
        HS_TRY(hs_matcher_feed(c->matcher, &next, text, bytes, err));
    if (next == HS_MATCH_DEAD)
        return hs_fail(err, HLWQ_ERR_ARG, "token %d is not one that the constraint allows here", id);
    *place = next;
    return HLWQ_OK;
}
