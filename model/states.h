/*
 * model/states.h - everything a text has left behind in a network: DeltaNet states, keys and values.
 *
 * Keys and values grow with the text, some rows of pages at a time, and are given back when it is cut.  Whoever keeps
 * the budget is asked before memory is taken (hs_room).  A backend with memory of its own finds pages in a table there.
 *
 * With somewhere to spill to, `hot` rows are in the memory that stages work on, the newest, and those before them in a
 * file (offload/spill.h); below a backend's own memory in ordinary memory, and the oldest of those in a file
 * (offload/lower.h).
 */
#ifndef HS_MODEL_STATES_H
#define HS_MODEL_STATES_H

#include "cache/kv.h"
#include "kernels/backend.h"
#include "offload/lower.h"
#include "offload/store.h"

struct hs_feed;

typedef struct hs_states {
    hs_mem *mem;
    hs_backend *backend;
    hs_kv *kv;
    hs_kv_shape shape;
    void *block, *ring; /* in the backend's memory */
    void **step;        /* [steps_max]: rows of pages, `step_rows` each */
    uint32_t steps, steps_max, step_rows;
    uint32_t rows_max;     /* in memory at most */
    hs_spill *spill;       /* NULL = no rows are in a file alone */
    hs_lower *lower;       /* NULL = none are below the backend's own memory */
    uint32_t low, high;    /* with one of them: rows low..high-1 are in memory, those before there */
    void **slot;           /* [rows_max][layers]: memory of row r is slot r % rows_max */
    struct hs_feed *feed;  /* [layers]: gives attention what is away */
    hs_room room;          /* NULLs = nobody keeps count; to be set before the first step is taken */
    void *table;           /* in a backend's own memory: [rows][layers] addresses of pages; NULL = it has none */
    uint64_t *listed;      /* the same here */
    uint32_t stale, fresh; /* rows stale..fresh-1 of it are not told yet */
    uint64_t block_bytes;
    hs_delta_state *delta; /* [DeltaNet layers] */
    uint32_t *index;       /* [layers]: of delta, or of the kv layer */
    uint32_t kv_width;     /* kv heads * head dim */
    uint32_t positions;
    const hs_delta_window *window; /* [DeltaNet layers]: tokens after the first may be taken back; NULL = none may */
} hs_states;

/* Formats as hs_kv_format_named gives them; at most `batch` tokens a step. */
hlwq_status hs_states_init(hs_states *states, const hs_config *config, hs_mem *mem, hs_backend *backend,
                           hs_kv_format kv, uint32_t positions, uint32_t batch, hlwq_error *err);
void hs_states_close(hs_states *states); /* idempotent for zeroed structs */
hlwq_status hs_states_reset(hs_states *states, hlwq_error *err);

extern uint64_t hs_kv_step_bytes; /* the smallest step; tests have their own */

/* Pages for a text of `positions`, before anything is written to them; nothing changes where it fails. */
hlwq_status hs_states_reach(hs_states *states, uint32_t positions, hlwq_error *err);

/*
 * The text is cut to `positions`: gives back what only a longer one needs, and brings a page from the file that will be
 * written to again.  Cannot fail for 0, or without a file.
 */
hlwq_status hs_states_trim(hs_states *states, uint32_t positions, hlwq_error *err);

enum { HS_HOT_MIN = HS_BATCH_MAX / HS_KV_PAGE + 2 };

typedef struct hs_spilling {
    uint32_t hot;         /* rows in the memory that stages work on, at least two more than a batch has; 0 = all */
    uint32_t memory_rows; /* of the others, below a backend's own memory: the newest that are in ordinary memory */
    const char *dir;      /* where those before them are; NULL = there are none */
} hs_spilling;

/* From now on rows go there that are too many. Before the first step is taken. */
hlwq_status hs_states_spill(hs_states *states, const hs_spilling *spilling, hlwq_error *err);

/* Who is asked for ordinary memory; where the backend has memory of its own, `above` is for that. */
void hs_states_set_room(hs_states *states, const hs_room *room, const hs_room *above);

/* Whether a page of the kind that grows is away, and parts of one that is. */
bool hs_states_away(const hs_states *states, uint32_t row);
hlwq_status hs_states_get(const hs_states *states, uint32_t layer, uint32_t row, uint64_t offset, void *out,
                          uint64_t bytes, hlwq_error *err);
hlwq_status hs_states_put(const hs_states *states, uint32_t layer, uint32_t row, uint64_t offset, const void *data,
                          uint64_t bytes, hlwq_error *err);

/* What went to the file and came from it; bytes that went below a backend's own memory, and came up. */
hs_lower_stats hs_states_spilled(const hs_states *states);

/*
 * What hs_states_bytes counts and is not held with `hot` rows in memory; and rows in all, and bytes of one.  Below a
 * backend's own memory: the same of that, and bytes of ordinary memory.
 */
uint64_t hs_states_filed_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t hot);
uint64_t hs_states_below_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions,
                               const hs_spilling *spilling);
uint64_t hs_states_lowered_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t hot);
uint32_t hs_states_rows(const hs_config *config, hs_kv_format kv, uint32_t positions, uint64_t *row_bytes);

/* Bytes that hs_states_init and the whole context charge, less what the allocator adds to steps. */
uint64_t hs_states_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t batch);

/*
 * What all of it takes more on a card, in whole pages and with a table, with `hot` rows there (0 = all); and of that,
 * what comes as the text grows.
 */
uint64_t hs_states_beyond_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t batch,
                                uint32_t hot);
uint64_t hs_states_growth_beyond(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t hot);

/* Of them, those that come as the text grows, at most `hot` rows (0 = all); and the first step of these. */
uint64_t hs_states_growth(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t hot, uint64_t *first);

/* What these states hold of that once they are full, and of ordinary memory below a backend's own. */
uint64_t hs_states_growth_of(const hs_states *states);
uint64_t hs_states_growth_below(const hs_states *states);

/* Of hs_states_bytes, what is in ordinary memory wherever stages compute. */
uint64_t hs_states_table_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions);

/* Bytes of a session, about: states, keys and values, logits, sampler. */
uint64_t hs_session_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t batch);

/* Where all of it is: what a step sees of any layer lies behind that. */
hs_bases hs_states_bases(const hs_states *states);

/* What a step sees of one attention layer. */
hs_kv_view hs_states_kv(const hs_states *states, uint32_t layer);

/* What a step sees of a cache's layer. */
hs_kv_view hs_kv_view_of(const hs_kv *kv, uint32_t layer, uint32_t width);

/* Refused where it is none of hlwq_kv's, or the model's heads cannot be cut into blocks of 128. */
hlwq_status hs_kv_format_named(hs_kv_format *format, hlwq_kv name, const hs_config *config, hlwq_error *err);

#endif
