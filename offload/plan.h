/*
 * offload/plan.h - what goes where under a budget: a pure function of sizes.
 */
#ifndef HS_OFFLOAD_PLAN_H
#define HS_OFFLOAD_PLAN_H

#include "offload/residency.h"

typedef struct hs_plan_input {
    const hs_table *table;
    uint64_t ram_bytes;     /* the cap; 0 = none */
    uint64_t fixed_bytes;   /* held already: tables, tokenizer */
    uint64_t session_bytes; /* states and keys and values of the context to plan for */
    uint32_t slots;         /* asked for; 0 = as many as fit */
    uint32_t batch;         /* likewise */
    /* Bytes of activations for a batch. */
    uint64_t (*activation_bytes)(const void *user, uint32_t batch);
    const void *user;

    /* A graphics card. */
    bool card;
    uint64_t vram_bytes;     /* the cap; 0 = none */
    uint64_t reserve_bytes;  /* of it, what CUDA and other programs take */
    uint64_t state_bytes;    /* states, keys and values, on the card; session_bytes is the rest then */
    uint64_t recorded_bytes; /* for steps that are recorded there */
    uint32_t card_slots;     /* asked for; 0 = as many as fit */
    uint64_t (*card_bytes)(const void *user, uint32_t batch); /* activations there */
} hs_plan_input;

typedef struct hs_card_plan {
    uint64_t vram_bytes, reserve_bytes, trunk_bytes, state_bytes, activation_bytes, slots_bytes, total_bytes;
    uint64_t recorded_bytes, smallest_bytes;
    uint32_t slots; /* 0 = everything is on the card */
} hs_card_plan;

typedef struct hs_plan {
    hs_footprint weights;
    uint64_t ram_bytes, fixed_bytes, session_bytes, activation_bytes;
    uint64_t slots_bytes;    /* slots and their tables, or everything that could be streamed */
    uint64_t total_bytes;    /* what will be held */
    uint64_t smallest_bytes; /* the least budget that works */
    uint32_t slots;          /* 0 = everything resident, or nothing because all of it is on the card */
    uint32_t batch;
    bool on_card;
    hs_card_plan card;
} hs_plan;

/* HLWQ_ERR_BUDGET with the smallest budget that works. `what` names the model in it. */
hlwq_status hs_plan_make(hs_plan *plan, const hs_plan_input *in, const char *what, hlwq_error *err);

/* Slots that a cap of `ram_bytes` leaves, all else as planned; below weights.slots_min: it does not fit. */
uint32_t hs_plan_slots(const hs_plan *plan, const hs_table *table, uint64_t ram_bytes);

#endif
