/*
 * model/vocab.c - sorts the texts; neighbours then share their beginnings, and the tree is written in one pass.
 */
#include "model/vocab.h"

#include "model/tokenizer_private.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    const char *text;
    uint32_t bytes;
    int32_t id;
} entry;

static int by_text(const void *x, const void *y)
{
    const entry *a = x, *b = y;
    int d = memcmp(a->text, b->text, a->bytes < b->bytes ? a->bytes : b->bytes);
    if (d)
        return d;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static uint32_t shared_bytes(const entry *a, const entry *b)
{
    uint32_t n = 0;
    while (n < a->bytes && n < b->bytes && a->text[n] == b->text[n])
        n++;
    return n;
}

/* Bytes that no text has: constraints have other uses for them (model/json_schema.h). */
static bool never_text(const hs_token *k)
{
    return memchr(k->text, 0xFE, k->bytes) || memchr(k->text, 0xFF, k->bytes);
}

/* The texts in order, each once; of equal ones the lowest id. `list` has room for every id. */
static uint32_t collect(entry *list, const hs_tokenizer *t)
{
    uint32_t n = 0, kept = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        const hs_token *k = &t->token[id];
        bool usable = k->text && !k->special && k->bytes <= HS_VOCAB_TOKEN_MAX && !never_text(k);
        list[id] = (entry){k->text, usable ? k->bytes : 0, (int32_t)id};
    }
    for (uint32_t i = 0; i < t->n_added; i++)
        if (t->added[i].id >= 0 && (uint32_t)t->added[i].id < t->n_tokens)
            list[t->added[i].id].bytes = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++)
        if (list[id].bytes)
            list[n++] = list[id];
    qsort(list, n, sizeof *list, by_text);
    for (uint32_t i = 0; i < n; i++)
        if (!kept || list[kept - 1].bytes != list[i].bytes ||
            memcmp(list[kept - 1].text, list[i].text, list[i].bytes) != 0)
            list[kept++] = list[i];
    return kept;
}

static void build(hs_vocab *v, const entry *list, uint32_t n)
{
    uint32_t open[HS_VOCAB_TOKEN_MAX + 1], depth = 0, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t shared = i ? shared_bytes(&list[i - 1], &list[i]) : 0;
        for (; depth > shared; depth--)
            v->node[open[depth]].end = at;
        for (; depth < list[i].bytes; depth++) {
            v->node[at] =
                (hs_vocab_node){.token = -1, .depth = (uint16_t)(depth + 1), .byte = (uint8_t)list[i].text[depth]};
            open[depth + 1] = at++;
        }
        v->node[at - 1].token = list[i].id;
        v->present[list[i].id / 64] |= UINT64_C(1) << list[i].id % 64;
        v->longest = list[i].bytes > v->longest ? list[i].bytes : v->longest;
    }
    for (; depth > 0; depth--)
        v->node[open[depth]].end = at;
}

hlwq_status hs_vocab_open(hs_vocab **out, hs_mem *mem, const hs_tokenizer *t, hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TOKENIZER, (uint64_t)t->n_tokens * sizeof(entry), "vocabulary", &p, err));
    entry *list = p;
    uint32_t n = collect(list, t);
    uint64_t nodes = 0, words = (t->n_tokens + 63) / 64;
    static_assert(sizeof(hs_vocab_node) <= 16, "two words for a node");
    for (uint32_t i = 0; i < n; i++)
        nodes += list[i].bytes - (i ? shared_bytes(&list[i - 1], &list[i]) : 0);
    hlwq_status st = hs_mem_alloc(mem, HS_MEM_TOKENIZER, sizeof(hs_vocab) + (words + nodes * 2) * sizeof(uint64_t),
                                  "vocabulary tree", &p, err);
    if (st == HLWQ_OK) {
        hs_vocab *v = p;
        v->mem = mem;
        v->present = (uint64_t *)(void *)(v + 1);
        v->node = (hs_vocab_node *)(void *)(v->present + words);
        v->n_nodes = (uint32_t)nodes;
        v->n_tokens = t->n_tokens;
        build(v, list, n);
        *out = v;
    }
    hs_mem_free(mem, list);
    return st;
}

void hs_vocab_close(hs_vocab *v)
{
    if (v)
        hs_mem_free(v->mem, v);
}
