/*
 * model/bpe.c - short pieces by scanning, long ones with a heap over a linked list.
 *
 * A heap entry is a pair as it was when it was pushed; it is stale, and skipped, once either side has changed.
 */
#include "model/bpe.h"

#include <stdlib.h>
#include <string.h>

enum { SHORT_PIECE = 24 };

typedef struct hs_bpe_node {
    int32_t id; /* -1 = merged away */
    uint32_t before, after;
} hs_bpe_node;

typedef struct hs_bpe_pair {
    uint32_t rank, at; /* order: rank, then position */
    int32_t left, right, result;
} hs_bpe_pair;

/* ---- merge table ---------------------------------------------------------------------------- */

static uint32_t hash(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

hlwq_status hs_merges_init(hs_merges *m, uint32_t n, hs_arena *arena, hlwq_error *err)
{
    void *p;
    uint32_t size = 16;
    while (size < 2 * (uint64_t)n && size < 1u << 30)
        size *= 2;
    HS_TRY(hs_arena_array(arena, size, sizeof(hs_merge), &p, err));
    *m = (hs_merges){p, size - 1, 0};
    for (uint32_t i = 0; i < size; i++)
        m->slot[i].left = -1;
    return HLWQ_OK;
}

static hs_merge *place(const hs_merges *m, int32_t left, int32_t right)
{
    uint32_t i = hash(left, right) & m->mask;
    while (m->slot[i].left >= 0 && (m->slot[i].left != left || m->slot[i].right != right))
        i = (i + 1) & m->mask;
    return &m->slot[i];
}

bool hs_merges_add(hs_merges *m, int32_t left, int32_t right, int32_t result, uint32_t rank)
{
    hs_merge *s = place(m, left, right);
    if (s->left >= 0)
        return false;
    *s = (hs_merge){left, right, result, rank};
    m->n++;
    return true;
}

const hs_merge *hs_merges_find(const hs_merges *m, int32_t left, int32_t right)
{
    const hs_merge *s = place(m, left, right);
    return s->left >= 0 ? s : NULL;
}

/* ---- short pieces --------------------------------------------------------------------------- */

static size_t merge_short(const hs_merges *m, int32_t *ids, size_t n)
{
    for (;;) {
        const hs_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const hs_merge *s = hs_merges_find(m, ids[i], ids[i + 1]);
            if (s && (!best || s->rank < best->rank)) {
                best = s;
                at = i;
            }
        }
        if (!best)
            return n;
        ids[at] = best->result;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

/* ---- long pieces ---------------------------------------------------------------------------- */

static bool sooner(hs_bpe_pair a, hs_bpe_pair b)
{
    return a.rank < b.rank || (a.rank == b.rank && a.at < b.at);
}

static void push(hs_bpe_pair *heap, size_t *n, hs_bpe_pair p)
{
    size_t i = (*n)++;
    while (i && sooner(p, heap[(i - 1) / 2])) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = p;
}

static hs_bpe_pair pop(hs_bpe_pair *heap, size_t *n)
{
    hs_bpe_pair top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= *n)
            break;
        if (c + 1 < *n && sooner(heap[c + 1], heap[c]))
            c++;
        if (!sooner(heap[c], last))
            break;
        heap[i] = heap[c];
        i = c;
    }
    heap[i] = last;
    return top;
}

static void push_pair(const hs_merges *m, hs_bpe_work *w, size_t *heap_n, uint32_t at)
{
    const hs_bpe_node *a = &w->node[at];
    if (a->after == UINT32_MAX)
        return;
    const hs_merge *s = hs_merges_find(m, a->id, w->node[a->after].id);
    if (s)
        push(w->heap, heap_n, (hs_bpe_pair){s->rank, at, s->left, s->right, s->result});
}

static bool reserve(hs_bpe_work *w, size_t n)
{
    if (n <= w->capacity)
        return true;
    hs_bpe_node *node = realloc(w->node, n * sizeof *node);
    if (node)
        w->node = node;
    hs_bpe_pair *heap = realloc(w->heap, 3 * n * sizeof *heap); /* each merge pushes at most two more */
    if (heap)
        w->heap = heap;
    if (!node || !heap)
        return false;
    w->capacity = n;
    return true;
}

void hs_bpe_work_close(hs_bpe_work *w)
{
    free(w->node);
    free(w->heap);
    *w = (hs_bpe_work){0};
}

size_t hs_bpe_merge(const hs_merges *m, hs_bpe_work *w, int32_t *ids, size_t n)
{
    if (n <= SHORT_PIECE)
        return merge_short(m, ids, n);
    if (n >= UINT32_MAX / 4 || !reserve(w, n))
        return SIZE_MAX;
    size_t heap_n = 0;
    for (size_t i = 0; i < n; i++)
        w->node[i] = (hs_bpe_node){ids[i], i ? (uint32_t)i - 1 : UINT32_MAX, i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX};
    for (size_t i = 0; i < n; i++)
        push_pair(m, w, &heap_n, (uint32_t)i);
    while (heap_n) {
        hs_bpe_pair p = pop(w->heap, &heap_n);
        hs_bpe_node *a = &w->node[p.at];
        if (a->id != p.left || a->after == UINT32_MAX || w->node[a->after].id != p.right)
            continue; /* stale */
        hs_bpe_node *b = &w->node[a->after];
        a->id = p.result;
        b->id = -1;
        a->after = b->after;
        if (a->after != UINT32_MAX)
            w->node[a->after].before = p.at;
        push_pair(m, w, &heap_n, p.at);
        if (a->before != UINT32_MAX)
            push_pair(m, w, &heap_n, a->before);
    }
    size_t out = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = w->node[i].after)
        ids[out++] = w->node[i].id;
    return out;
}
