/*
 * model/matcher_mask.c - which tokens may come next.
 *
 * The stacks of a state are taken in groups that lie on the same stack below.  For each group the vocabulary is walked
 * once, as if nothing were known of what lies below; the outcome, kept for the next time, is a set of tokens and the
 * nodes of the tree at which the rule has ended.  Below those the walk goes on from the real stack.
 */
#include "model/matcher_private.h"

#include <stdlib.h>
#include <string.h>

uint32_t hs_matcher_words(const hs_matcher *m)
{
    return (m->vocab->n_tokens + 63) / 64;
}

static hlwq_status note_leaving(hs_matcher *m, uint32_t tree_node)
{
    if (m->n_leaving == m->leaving_capacity) {
        uint32_t more = m->leaving_capacity ? 2 * m->leaving_capacity : 1024;
        void *p;
        HS_TRY(hs_mem_alloc(m->mem, HS_MEM_OTHER, (uint64_t)more * sizeof(uint32_t), "constraint", &p, m->err));
        if (m->n_leaving)
            memcpy(p, m->leaving, m->n_leaving * sizeof(uint32_t));
        hs_mem_free(m->mem, m->leaving);
        m->leaving = p;
        m->leaving_capacity = more;
    }
    m->leaving[m->n_leaving++] = tree_node;
    return HLWQ_OK;
}

static void put(uint64_t *bits, int32_t token)
{
    if (token >= 0)
        bits[token / 64] |= UINT64_C(1) << token % 64;
}

/* Tokens of tree nodes [from, end) that begin at `depth` and are read from `state`. */
static hlwq_status walk(hs_matcher *m, uint32_t from, uint32_t end, uint32_t depth, uint32_t state, uint64_t *bits,
                        bool leave, uint32_t *need)
{
    const hs_vocab_node *node = m->vocab->node;
    const uint8_t *class = m->grammar->byte_class;
    const uint32_t n_classes = m->grammar->n_classes;
    uint32_t at[HS_VOCAB_TOKEN_MAX + 1];
    at[depth] = state;
    for (uint32_t i = from; i < end;) {
        uint32_t d = node[i].depth;
        uint32_t next = m->step.item[(uint64_t)at[d - 1] * n_classes + class[node[i].byte]];
        if (next == MATCH_NONE)
            HS_TRY(match_step(m, at[d - 1], node[i].byte, &next));
        if (next == HS_MATCH_DEAD) {
            i = node[i].end;
            continue;
        }
        const match_state *s = &m->state.item[next];
        at[d] = next;
        put(bits, node[i].token);
        *need = s->need > *need ? s->need : *need;
        if (leave && (s->flags & MATCH_LEAVES) && node[i].end > i + 1)
            HS_TRY(note_leaving(m, i));
        i = s->n ? i + 1 : node[i].end;
    }
    return HLWQ_OK;
}

static void forget(hs_matcher *m, match_mask *k)
{
    if (k->bits)
        m->state.item[k->owner].kept = MATCH_NONE;
    hs_mem_free(m->mem, k->bits);
    *k = (match_mask){0};
}

void match_forget_masks(hs_matcher *m)
{
    for (uint32_t i = 0; i < MATCH_KEPT_MAX; i++)
        forget(m, &m->kept[i]);
    hs_mem_free(m->mem, m->leaving);
}

/* Masks are what can be made again: they leave a quarter of the budget to what cannot. */
static void make_room(hs_matcher *m, uint64_t bytes)
{
    uint64_t cap = hs_mem_cap_bytes(m->mem);
    if (!cap || hs_mem_now_bytes(m->mem) + bytes <= cap / 4 * 3)
        return;
    for (uint32_t i = 0; i < m->n_kept; i++)
        forget(m, &m->kept[i]);
    m->n_kept = m->oldest = 0;
}

/* The mask of a state above MATCH_UNKNOWN: kept, or made and kept. */
static hlwq_status group_mask(hs_matcher *m, uint32_t state, const match_mask **out)
{
    uint32_t words = hs_matcher_words(m), need = 0;
    if (m->state.item[state].kept != MATCH_NONE) {
        *out = &m->kept[m->state.item[state].kept];
        return HLWQ_OK;
    }
    void *p;
    make_room(m, 2 * words * sizeof(uint64_t));
    HS_TRY(hs_mem_alloc(m->mem, HS_MEM_OTHER, words * sizeof(uint64_t), "constraint", &p, m->err));
    uint64_t *bits = p;
    m->n_leaving = 0;
    hlwq_status st = walk(m, 0, m->vocab->n_nodes, 0, state, bits, true, &need);
    if (st == HLWQ_OK)
        st = hs_mem_alloc(m->mem, HS_MEM_OTHER, words * sizeof(uint64_t) + m->n_leaving * sizeof(uint32_t),
                          "constraint", &p, m->err);
    if (st != HLWQ_OK) {
        hs_mem_free(m->mem, bits);
        return st;
    }
    uint32_t slot = m->n_kept < MATCH_KEPT_MAX ? m->n_kept++ : m->oldest++ % MATCH_KEPT_MAX;
    match_mask *k = &m->kept[slot];
    forget(m, k);
    *k = (match_mask){.bits = p, .n_leaving = m->n_leaving, .need = need, .owner = state};
    k->leaving = (uint32_t *)(void *)(k->bits + words);
    memcpy(k->bits, bits, words * sizeof *bits);
    if (m->n_leaving)
        memcpy(k->leaving, m->leaving, m->n_leaving * sizeof(uint32_t));
    hs_mem_free(m->mem, bits);
    m->state.item[state].kept = slot;
    m->walks++;
    *out = k;
    return HLWQ_OK;
}

/* The real state of these stacks, for where the depth below matters. */
static hlwq_status walk_all(hs_matcher *m, const uint32_t *stacks, uint32_t n, uint64_t *mask)
{
    uint32_t state, need = 0;
    match_begin(m);
    for (uint32_t i = 0; i < n; i++)
        HS_TRY(match_add(m, m->stack.item[stacks[i]].node, m->stack.item[stacks[i]].below));
    HS_TRY(match_end(m, &state));
    m->walks++;
    return walk(m, 0, m->vocab->n_nodes, 0, state, mask, false, &need);
}

/* The stacks of one group: they all lie on the same one. `nodes` [n] is room. */
static hlwq_status mask_group(hs_matcher *m, const uint32_t *stacks, uint32_t n, uint32_t *nodes, uint64_t *mask)
{
    uint32_t below = m->stack.item[*stacks].below, depth = m->stack.item[*stacks].depth, state;
    const match_mask *k;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t node = m->stack.item[stacks[i]].node, like = m->grammar->node[node].like;
        nodes[i] = like ? like : node;
    }
    HS_TRY(match_group(m, nodes, n, &state));
    HS_TRY(group_mask(m, state, &k));
    if (k->need + depth > m->grammar->depth_max)
        return walk_all(m, stacks, n, mask);
    uint32_t words = hs_matcher_words(m), need = 0;
    for (uint32_t w = 0; w < words; w++)
        mask[w] |= k->bits[w];
    if (below == MATCH_BOTTOM || !k->n_leaving)
        return HLWQ_OK;
    match_begin(m);
    HS_TRY(match_add(m, m->stack.item[below].node, m->stack.item[below].below));
    HS_TRY(match_end(m, &state));
    for (uint32_t i = 0; i < k->n_leaving; i++) {
        const hs_vocab_node *at = &m->vocab->node[k->leaving[i]];
        HS_TRY(walk(m, k->leaving[i] + 1, at->end, at->depth, state, mask, false, &need));
    }
    return HLWQ_OK;
}

/* Is what is above `below` an edge of a node that is itself in the state, and whose like has it in its own mask? */
static bool is_covered(const hs_matcher *m, uint32_t state, uint32_t below)
{
    const match_state *s = &m->state.item[state];
    uint32_t node = below > MATCH_UNKNOWN ? m->grammar->node[m->stack.item[below].node].covered_by : 0;
    for (uint32_t i = 0; node && i < s->n; i++) {
        const match_stack *k = &m->stack.item[m->member.item[s->first + i]];
        if (k->node == node && k->below == m->stack.item[below].below)
            return true;
    }
    return false;
}

static hlwq_status make_mask(hs_matcher *m, uint32_t state, uint64_t *mask)
{
    uint32_t n = m->state.item[state].n;
    void *p;
    if (!n)
        return HLWQ_OK;
    HS_TRY(hs_mem_alloc(m->mem, HS_MEM_OTHER, 3ull * n * sizeof(uint32_t), "constraint", &p, m->err));
    uint32_t *left = p, *group = left + n;
    memcpy(left, m->member.item + m->state.item[state].first, n * sizeof *left);
    hlwq_status st = HLWQ_OK;
    while (n && st == HLWQ_OK) { /* the stacks on the same one as the first; the others wait */
        uint32_t in = 0, out = 0, below = m->stack.item[*left].below;
        for (uint32_t i = 0; i < n; i++)
            if (m->stack.item[left[i]].below == below)
                group[in++] = left[i];
            else
                left[out++] = left[i];
        n = out;
        if (!is_covered(m, state, below))
            st = mask_group(m, group, in, group + in, mask);
    }
    hs_mem_free(m->mem, p);
    return st;
}

hlwq_status hs_matcher_mask(hs_matcher *m, uint32_t state, uint64_t *mask, hlwq_error *err)
{
    m->err = err;
    memset(mask, 0, hs_matcher_words(m) * sizeof *mask);
    hlwq_status st = make_mask(m, state, mask);
    m->err = NULL;
    return st;
}
