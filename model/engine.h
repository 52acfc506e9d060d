/*
 * model/engine.h - what hlwq_engine and hlwq_session hold, for the files of this folder.
 */
#ifndef HS_MODEL_ENGINE_H
#define HS_MODEL_ENGINE_H

#include "base/available.h"
#include "model/network.h"
#include "offload/plan.h"
#include "model/sampler.h"
#include "model/speculate.h"
#include "model/tokenizer.h"
#include "model/vocab.h"

struct hlwq_tokenizer {
    hs_tokenizer *inner;
    hs_mem *mem;          /* its own; NULL where the engine's is used */
    hs_vocab *vocab;      /* for constraints; NULL until there was one */
    hs_mem *vocab_mem;    /* theirs, the vocabulary's included; NULL likewise, unless it was set aside */
    hs_mem *vocab_budget; /* of which all of it is charged; NULL = of none */
};

/* What constraints may need at most, charged to `budget` now. */
hlwq_status hs_constraints_reserve(hlwq_tokenizer *t, hs_mem *budget, hlwq_error *err);

/* What constraints needed. */
void hs_constraints_forget(hlwq_tokenizer *t);

/* What adapt.c knows. */
typedef struct hs_adapt {
    bool on;
    uint64_t wanted_bytes; /* the budget asked for */
    uint64_t room_bytes;   /* available at the start, and held then */
    double next_seconds, strained_seconds;
    hs_strain strain;
} hs_adapt;

/* What lend.c knows: bytes of pages of keys and values. */
typedef struct hs_lending {
    uint64_t planned_bytes;  /* of the sessions planned for, grown to their ends */
    uint64_t first_bytes;    /* of them, what they begin with */
    uint64_t promised_bytes; /* of those that are open, likewise */
    uint64_t held_bytes;     /* taken so far */
    uint32_t slots_asked;    /* never more slots than these; 0 = as many as fit */
    uint64_t above_planned_bytes, above_first_bytes, above_promised_bytes,
        above_held_bytes; /* the same in a backend's own memory */
} hs_lending;

/* States to go back to: what prefix.c knows. */
typedef struct hs_mark hs_mark;
typedef struct hs_prefix {
    uint64_t budget_bytes, held_bytes;
    uint64_t clock; /* of uses */
    hs_mark *first;
    uint32_t marks;
} hs_prefix;

struct hlwq_engine {
    hs_mem *mem;
    hs_mem *vram; /* what the card holds; NULL without one */
    bool exact;
    bool planning, imagined; /* only a plan is wanted; there is no such card, but --vram says how large it would be */
    hs_log log;
    hs_pool *pool;
    hs_store *store;
    hs_residency *residency;
    hs_backend *backend; /* what computes: the card, or the CPU */
    hs_backend *cpu;     /* beside a card; NULL without one */
    hs_network net;
    hs_plan plan;
    hs_kv_format kv;     /* of the session that it was planned for */
    uint32_t context;    /* likewise */
    hs_draft_mode draft; /* of all sessions */
    uint32_t draft_vocab;
    hlwq_tokenizer text;  /* inner NULL if the model has none */
    hs_spilling spilling; /* which rows of pages a session keeps where */
    char *spill_dir;      /* its folder */
    uint32_t sessions;    /* open now */
    uint32_t planned;     /* that memory is kept for */
    float *rows;          /* [HLWQ_ROWS_MAX][vocab] logits of several sessions; NULL until two step together */
    hs_prefix prefix;
    double load_seconds;
    hs_adapt adapt;
    hs_lending lending;
};

/* e->plan and e->spilling; `spill` is a folder for a file of old rows, or NULL. */
hlwq_status hs_engine_fit(hlwq_engine *e, const hs_plan_input *in, const char *spill, hlwq_error *err);

/* Of full contexts, what is in the file alone. */
uint64_t hs_engine_filed_bytes(const hlwq_engine *e);

/* After the plan is made: what its sessions grow to, and begin with. */
void hs_engine_begin_lending(hlwq_engine *e, uint32_t slots_asked);

/*
 * What sessions of the plan will grow to is lent from now on, but for their first steps: more slots.  Before residency
 * is opened.
 */
void hs_engine_lend(hlwq_engine *e);

/* Likewise on a card: slots there that may be lent what sessions grow to, and those that are; after it is opened. */
uint32_t hs_engine_slots_above(const hlwq_engine *e);
void hs_engine_lend_above(hlwq_engine *e);

/* A session is about to take `bytes` on the card that do not grow: what is lent there makes room if it must. */
hlwq_status hs_engine_clear_above(hlwq_engine *e, uint64_t bytes, hlwq_error *err);

/* Slots for a cap of `ram_bytes`, now. */
uint32_t hs_engine_slots(const hlwq_engine *e, uint64_t ram_bytes);

/* A session's pages are to be had from now on, and no more. */
void hs_engine_promise(hlwq_engine *e, hs_states *states);
void hs_engine_withdraw(hlwq_engine *e, const hs_states *states);

/* Bytes under the cap that nothing holds or was promised; and under that of a backend's own memory. */
uint64_t hs_engine_unpromised(const hlwq_engine *e);
uint64_t hs_engine_unpromised_above(const hlwq_engine *e);

/* As hlwq_engine_set_budget, but what adapt.c goes back to stays. */
hlwq_status hs_engine_set_budget(hlwq_engine *e, uint64_t ram_bytes, hlwq_error *err);

/* Makes room for e->rows, once. */
hlwq_status hs_engine_rows(hlwq_engine *e, hlwq_error *err);

/* Between tokens: now and then, a look at the system. */
void hs_engine_look_around(hlwq_engine *e);

/* What follows from it; `share` as hs_strain_look has it. */
void hs_engine_adapt(hlwq_engine *e, double share, uint64_t available_bytes, double now_seconds);

/* The type that `format` names in letters of either size, else HLWQ of `bits` bits; F32, as stored, for 0 bits. */
hlwq_status hs_matrix_format(hs_dtype *dtype, const char *format, uint32_t bits, hlwq_error *err);

/* What convert makes of each class of matrix. */
hlwq_status hs_plan_precision(hs_precision *p, const hlwq_convert_options *o, hlwq_error *err);

/* A tokenizer for the texts of a store; *out NULL if there are none. */
hlwq_status hs_store_tokenizer(hs_tokenizer **out, hs_mem *mem, const hs_store *store, hlwq_error *err);

#endif
