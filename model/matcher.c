/*
 * model/matcher.c - stacks, states, and what a byte does to them. The masks are in matcher_mask.c.
 */
#include "model/matcher_private.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static hlwq_status too_large(hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_BUDGET,
                   "following the constraint needs more than %u states; a schema with fewer alternatives may do",
                   MATCH_STACKS_MAX);
}

/* Room for `n` items in *array; what is new is zero. */
static hlwq_status grow(hs_matcher *m, void **array, uint64_t have, uint64_t n, uint64_t *capacity, size_t item)
{
    if (n <= *capacity)
        return HLWQ_OK;
    uint64_t more = *capacity ? 2 * *capacity : 256;
    while (more < n)
        more *= 2;
    void *p;
    HS_TRY(hs_mem_alloc(m->mem, HS_MEM_OTHER, more * item, "constraint", &p, m->err));
    if (have)
        memcpy(p, *array, have * item);
    hs_mem_free(m->mem, *array);
    *array = p;
    *capacity = more;
    return HLWQ_OK;
}

#define GROW(m, field, have, n)                                                                                        \
    do {                                                                                                               \
        void *grown = (m)->field.item;                                                                                 \
        hlwq_status grow_status = grow(m, &grown, have, n, &(m)->field.capacity, sizeof *(m)->field.item);             \
        (m)->field.item = grown;                                                                                       \
        if (grow_status != HLWQ_OK)                                                                                    \
            return grow_status;                                                                                        \
    } while (0)

/* ---- stacks ---------------------------------------------------------------------------------- */

static uint32_t mix(uint32_t a, uint32_t b)
{
    uint64_t x = ((uint64_t)a << 32 | b) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(x >> 32) ^ (uint32_t)x;
}

/* Doubles a table of numbers + 1 and puts `n` items into it again. */
static hlwq_status rehash(hs_matcher *m, uint32_t **table, uint32_t *mask, uint32_t n,
                          uint32_t (*hash)(const hs_matcher *m, uint32_t i))
{
    uint32_t size = *table ? 2 * (*mask + 1) : 1024;
    void *p;
    HS_TRY(hs_mem_alloc(m->mem, HS_MEM_OTHER, (uint64_t)size * sizeof **table, "constraint", &p, m->err));
    hs_mem_free(m->mem, *table);
    *table = p;
    *mask = size - 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = hash(m, i) & *mask;
        while ((*table)[at])
            at = (at + 1) & *mask;
        (*table)[at] = i + 1;
    }
    return HLWQ_OK;
}

static uint32_t stack_hash(const hs_matcher *m, uint32_t i)
{
    return mix(m->stack.item[i].node, m->stack.item[i].below);
}

static hlwq_status intern_stack(hs_matcher *m, uint32_t node, uint32_t below, uint32_t *id)
{
    if (2 * (m->n_stacks + 1) > m->stack_mask + 1 || !m->stack_table)
        HS_TRY(rehash(m, &m->stack_table, &m->stack_mask, m->n_stacks, stack_hash));
    uint32_t at = mix(node, below) & m->stack_mask;
    for (; m->stack_table[at]; at = (at + 1) & m->stack_mask) {
        const match_stack *s = &m->stack.item[m->stack_table[at] - 1];
        if (s->node == node && s->below == below) {
            *id = m->stack_table[at] - 1;
            return HLWQ_OK;
        }
    }
    if (m->n_stacks >= MATCH_STACKS_MAX)
        return too_large(m->err);
    GROW(m, stack, m->n_stacks, m->n_stacks + 1);
    uint32_t depth = below <= MATCH_UNKNOWN ? 0 : m->stack.item[below].depth + 1;
    m->stack.item[m->n_stacks] = (match_stack){.node = node, .below = below, .depth = (uint16_t)depth};
    m->stack_table[at] = m->n_stacks + 1;
    *id = m->n_stacks++;
    return HLWQ_OK;
}

/* ---- states ---------------------------------------------------------------------------------- */

static uint32_t set_hash(const uint32_t *stacks, uint32_t n, uint32_t flags)
{
    uint32_t h = mix(n, flags);
    for (uint32_t i = 0; i < n; i++)
        h = mix(h, stacks[i]);
    return h;
}

static uint32_t state_hash(const hs_matcher *m, uint32_t i)
{
    const match_state *s = &m->state.item[i];
    return set_hash(m->member.item + s->first, s->n, s->flags);
}

/* The state of the stacks gathered in m->work, sorted here. */
static hlwq_status intern_state(hs_matcher *m, uint32_t *id)
{
    const uint32_t *stacks = m->work.item;
    uint32_t n = m->n_work, flags = m->work_flags;
    if (2 * (m->n_states + 1) > m->state_mask + 1 || !m->state_table)
        HS_TRY(rehash(m, &m->state_table, &m->state_mask, m->n_states, state_hash));
    uint32_t at = set_hash(stacks, n, flags) & m->state_mask;
    for (; m->state_table[at]; at = (at + 1) & m->state_mask) {
        match_state *s = &m->state.item[m->state_table[at] - 1];
        if (s->n == n && s->flags == flags && memcmp(m->member.item + s->first, stacks, n * sizeof *stacks) == 0) {
            *id = m->state_table[at] - 1;
            if (s->need < m->work_need)
                s->need = m->work_need;
            return HLWQ_OK;
        }
    }
    if (m->n_states >= MATCH_STATES_MAX || m->n_members + n > MATCH_STACKS_MAX)
        return too_large(m->err);
    GROW(m, state, m->n_states, m->n_states + 1);
    GROW(m, member, m->n_members, m->n_members + n);
    GROW(m, step, (uint64_t)m->n_states * m->grammar->n_classes, (m->n_states + 1ull) * m->grammar->n_classes);
    if (n)
        memcpy(m->member.item + m->n_members, stacks, n * sizeof *stacks);
    m->state.item[m->n_states] = (match_state){
        .first = m->n_members, .n = n, .flags = (uint16_t)flags, .need = (uint16_t)m->work_need, .kept = MATCH_NONE};
    uint32_t *row = m->step.item + (uint64_t)m->n_states * m->grammar->n_classes;
    for (uint32_t k = 0; k < m->grammar->n_classes; k++)
        row[k] = MATCH_NONE;
    m->n_members += n;
    m->state_table[at] = m->n_states + 1;
    *id = m->n_states++;
    return HLWQ_OK;
}

/* ---- following ------------------------------------------------------------------------------- */

void match_begin(hs_matcher *m)
{
    m->n_work = m->n_todo = 0;
    m->work_flags = m->work_need = 0;
    m->turn++;
}

/* A stack to be looked at, unless it was in this turn, or cannot come to an end. */
hlwq_status match_add(hs_matcher *m, uint32_t node, uint32_t below)
{
    uint32_t id, need = m->grammar->node[node].height;
    need += below <= MATCH_UNKNOWN ? 0 : m->stack.item[below].depth + 1u;
    if (need > m->grammar->depth_max)
        return HLWQ_OK;
    HS_TRY(intern_stack(m, node, below, &id));
    if (m->stack.item[id].turn == m->turn)
        return HLWQ_OK;
    m->stack.item[id].turn = m->turn;
    m->work_need = need > m->work_need ? need : m->work_need;
    GROW(m, todo, m->n_todo, m->n_todo + 1);
    m->todo.item[m->n_todo++] = id;
    return HLWQ_OK;
}

/* What can be reached from one stack without reading. */
static hlwq_status spread(hs_matcher *m, uint32_t id)
{
    const hs_grammar *g = m->grammar;
    const match_stack s = m->stack.item[id];
    bool reads = false;
    if (g->node[s.node].end) {
        if (s.below == MATCH_BOTTOM)
            m->work_flags |= MATCH_COMPLETE;
        else if (s.below == MATCH_UNKNOWN)
            m->work_flags |= MATCH_LEAVES;
        else
            HS_TRY(match_add(m, m->stack.item[s.below].node, m->stack.item[s.below].below));
    }
    for (uint32_t i = g->node[s.node].edges; i; i = g->edge[i].next) {
        const hs_edge *e = &g->edge[i];
        uint32_t below = s.below;
        if (e->kind == HS_EDGE_BYTES) {
            reads = true;
        } else if (e->kind == HS_EDGE_EMPTY) {
            HS_TRY(match_add(m, e->to, s.below));
        } else {
            /* Where nothing follows in this rule, the one entered takes its place: lists do not grow the stack. */
            if (!g->node[e->to].end || g->node[e->to].edges) {
                uint32_t need = g->node[e->to].height + s.depth;
                if (need > g->depth_max)
                    continue;
                m->work_need = need > m->work_need ? need : m->work_need;
                HS_TRY(intern_stack(m, e->to, s.below, &below));
            }
            HS_TRY(match_add(m, g->rule[e->rule].start, below));
        }
    }
    if (reads) {
        GROW(m, work, m->n_work, m->n_work + 1);
        m->work.item[m->n_work++] = id;
    }
    return HLWQ_OK;
}

static int by_number(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

hlwq_status match_end(hs_matcher *m, uint32_t *state)
{
    while (m->n_todo)
        HS_TRY(spread(m, m->todo.item[--m->n_todo]));
    if (m->n_work > MATCH_SET_MAX)
        return hs_fail(m->err, HLWQ_ERR_BUDGET, "the constraint can be met in more than %d ways at once",
                       MATCH_SET_MAX);
    if (m->n_work > 1)
        qsort(m->work.item, m->n_work, sizeof *m->work.item, by_number);
    return intern_state(m, state);
}

/* A state of exactly these stacks, without following them. */
hlwq_status match_group(hs_matcher *m, const uint32_t *nodes, uint32_t n, uint32_t *state)
{
    match_begin(m);
    GROW(m, work, 0, n);
    for (uint32_t i = 0; i < n; i++)
        HS_TRY(intern_stack(m, nodes[i], MATCH_UNKNOWN, &m->work.item[i]));
    if (n > 1)
        qsort(m->work.item, n, sizeof *m->work.item, by_number);
    m->n_work = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!i || m->work.item[i] != m->work.item[i - 1])
            m->work.item[m->n_work++] = m->work.item[i];
    return intern_state(m, state);
}

hlwq_status match_step(hs_matcher *m, uint32_t state, uint8_t byte, uint32_t *next)
{
    const hs_grammar *g = m->grammar;
    uint64_t slot = (uint64_t)state * g->n_classes + g->byte_class[byte];
    if (m->step.item[slot] != MATCH_NONE) {
        *next = m->step.item[slot];
        return HLWQ_OK;
    }
    match_begin(m);
    for (uint32_t i = 0; i < m->state.item[state].n; i++) {
        const match_stack s = m->stack.item[m->member.item[m->state.item[state].first + i]];
        for (uint32_t k = g->node[s.node].edges; k; k = g->edge[k].next)
            if (g->edge[k].kind == HS_EDGE_BYTES && byte >= g->edge[k].lo && byte <= g->edge[k].hi)
                HS_TRY(match_add(m, g->edge[k].to, s.below));
    }
    HS_TRY(match_end(m, next));
    m->step.item[slot] = *next;
    return HLWQ_OK;
}

/* ---- the interface --------------------------------------------------------------------------- */

static hlwq_status prepare(hs_matcher *m)
{
    uint32_t dead;
    GROW(m, stack, 0, 2);
    m->n_stacks = MATCH_UNKNOWN + 1; /* the two bottoms have no node */
    match_begin(m);
    HS_TRY(match_end(m, &dead));
    assert(dead == HS_MATCH_DEAD);
    for (uint32_t k = 0; k < m->grammar->n_classes; k++)
        m->step.item[k] = HS_MATCH_DEAD;
    match_begin(m);
    HS_TRY(match_add(m, m->grammar->rule[0].start, MATCH_BOTTOM));
    return match_end(m, &m->start);
}

hlwq_status hs_matcher_open(hs_matcher **out, hs_mem *mem, const hs_grammar *grammar, const hs_vocab *vocab,
                            hlwq_error *err)
{
    void *p;
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, sizeof(hs_matcher), "constraint", &p, err));
    hs_matcher *m = p;
    m->mem = mem;
    m->grammar = grammar;
    m->vocab = vocab;
    m->err = err;
    hlwq_status st = prepare(m);
    m->err = NULL;
    if (st != HLWQ_OK)
        hs_matcher_close(m);
    else
        *out = m;
    return st;
}

void hs_matcher_close(hs_matcher *m)
{
    if (!m)
        return;
    match_forget_masks(m);
    hs_mem_free(m->mem, m->stack.item);
    hs_mem_free(m->mem, m->state.item);
    hs_mem_free(m->mem, m->member.item);
    hs_mem_free(m->mem, m->step.item);
    hs_mem_free(m->mem, m->work.item);
    hs_mem_free(m->mem, m->todo.item);
    hs_mem_free(m->mem, m->stack_table);
    hs_mem_free(m->mem, m->state_table);
    hs_mem_free(m->mem, m);
}

uint32_t hs_matcher_start(const hs_matcher *m)
{
    return m->start;
}

hlwq_status hs_matcher_feed(hs_matcher *m, uint32_t *state, const char *text, size_t bytes, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    m->err = err;
    for (size_t i = 0; i < bytes && st == HLWQ_OK && *state != HS_MATCH_DEAD; i++)
        st = match_step(m, *state, (uint8_t)text[i], state);
    m->err = NULL;
    return st;
}

bool hs_matcher_complete(const hs_matcher *m, uint32_t state)
{
    return m->state.item[state].flags & MATCH_COMPLETE;
}

bool hs_matcher_over(const hs_matcher *m, uint32_t state)
{
    return hs_matcher_complete(m, state) && m->state.item[state].n == 0;
}

hs_matcher_stats hs_matcher_get_stats(const hs_matcher *m)
{
    return (hs_matcher_stats){
        .states = m->n_states, .stacks = m->n_stacks, .walks = m->walks, .bytes = hs_mem_now_bytes(m->mem)};
}
