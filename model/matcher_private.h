/*
 * model/matcher_private.h - what matcher.c and matcher_mask.c share.
 */
#ifndef HS_MODEL_MATCHER_PRIVATE_H
#define HS_MODEL_MATCHER_PRIVATE_H

#include "model/matcher.h"

enum {
    MATCH_BOTTOM,  /* below the last rule: the text may end */
    MATCH_UNKNOWN, /* below a rule looked at on its own */
    MATCH_STACKS_MAX = 1 << 20,
    MATCH_STATES_MAX = 1 << 16,
    MATCH_SET_MAX = 1 << 12,
    MATCH_KEPT_MAX = 512, /* masks */
};
#define MATCH_NONE UINT32_MAX

enum { MATCH_COMPLETE = 1, MATCH_LEAVES = 2 }; /* flags of a state: an end was met above either bottom */

typedef struct match_stack {
    uint32_t node, below, turn;
    uint16_t depth; /* stacks below */
} match_stack;

typedef struct match_state {
    uint32_t first, n; /* members, ascending: only stacks that read a byte */
    uint16_t flags;
    uint16_t need; /* the deepest that its stacks reach, those passed through included */
    uint32_t kept; /* its mask; MATCH_NONE */
} match_state;

/* The tokens of a state above MATCH_UNKNOWN, and where the vocabulary's tree leaves it. */
typedef struct match_mask {
    uint64_t *bits; /* [words]; then uint32_t leaving [n_leaving] */
    uint32_t *leaving;
    uint32_t n_leaving, need, owner;
} match_mask;

struct hs_matcher {
    hs_mem *mem;
    const hs_grammar *grammar;
    const hs_vocab *vocab;
    hlwq_error *err; /* of the call that runs */
    struct {
        match_stack *item;
        uint64_t capacity;
    } stack;
    struct {
        match_state *item;
        uint64_t capacity;
    } state;
    struct {
        uint32_t *item;
        uint64_t capacity;
    } member, step, work, todo;
    uint32_t *stack_table, *state_table, stack_mask, state_mask;
    uint32_t n_stacks, n_states, n_members, start, turn;
    uint32_t n_work, n_todo, work_flags, work_need; /* the state being made */
    match_mask kept[MATCH_KEPT_MAX];
    uint32_t n_kept, oldest;
    uint32_t *leaving, n_leaving, leaving_capacity; /* of the walk that runs */
    uint64_t walks;
};

void match_begin(hs_matcher *m);
hlwq_status match_add(hs_matcher *m, uint32_t node, uint32_t below);
hlwq_status match_end(hs_matcher *m, uint32_t *state);
hlwq_status match_group(hs_matcher *m, const uint32_t *nodes, uint32_t n, uint32_t *state);
hlwq_status match_step(hs_matcher *m, uint32_t state, uint8_t byte, uint32_t *next);

void match_forget_masks(hs_matcher *m);

#endif
