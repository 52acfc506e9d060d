/*
 * model/states.h - everything a text has left behind in a network: DeltaNet states, keys and values.
 *
 * Keys and values grow with the text, some rows of pages at a time, and are given back when it is cut.  Whoever keeps
 * the budget is asked before memory is taken (hs_room).  A backend with memory of its own reads pages that lie in a
 * row, so there all of them are taken at once.
 *
 * With a file to spill to (offload/spill.h), `hot` rows are in memory, the newest, and those before them in the file.
 */
#ifndef HS_MODEL_STATES_H
#define HS_MODEL_STATES_H

#include "cache/kv.h"
#include "kernels/backend.h"
#include "offload/spill.h"
#include "offload/store.h"

/* Who makes room for `bytes` that are about to be taken, and hears of those that were given back. */
typedef struct hs_room {
    hlwq_status (*take)(void *user, uint64_t bytes, hlwq_error *err);
    void (*give)(void *user, uint64_t bytes);
    void *user;
} hs_room;

struct hs_feed;

typedef struct hs_states {
    hs_mem *mem;
    hs_backend *backend;
    hs_kv *kv;
    hs_kv_shape shape;
    void *block, *ring; /* in the backend's memory */
    void **step;        /* [steps_max]: rows of pages, `step_rows` each */
    uint32_t steps, steps_max, step_rows;
    uint32_t rows_max;    /* in memory at most */
    hs_spill *spill;      /* NULL = all rows are in memory */
    uint32_t low, high;   /* with it: rows low..high-1 are in memory, those before in the file */
    void **slot;          /* [rows_max][layers]: memory of row r is slot r % rows_max */
    struct hs_feed *feed; /* [layers]: gives attention what is in the file */
    hs_room room;         /* NULLs = nobody keeps count; to be set before the first step is taken */
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

/* Pages for a text of `positions`, before anything is written to them; nothing changes where it fails. */
hlwq_status hs_states_reach(hs_states *states, uint32_t positions, hlwq_error *err);

/*
 * The text is cut to `positions`: gives back what only a longer one needs, and brings a page from the file that will be
 * written to again.  Cannot fail for 0, or without a file.
 */
hlwq_status hs_states_trim(hs_states *states, uint32_t positions, hlwq_error *err);

enum { HS_HOT_MIN = HS_BATCH_MAX / HS_KV_PAGE + 2 };

/* From now on no more than `hot` rows are in memory, at least HS_HOT_MIN, the others in a file in folder `dir`. Before
 * the first step is taken, where stages work on ordinary memory. */
hlwq_status hs_states_spill(hs_states *states, const char *dir, uint32_t hot, hlwq_error *err);

/* Whether a page of the kind that grows is in the file only. */
bool hs_states_away(const hs_states *states, uint32_t row);

/* What hs_states_bytes counts and is not held with `hot` rows in memory; and rows in all, and bytes of one. */
uint64_t hs_states_filed_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t hot);
uint32_t hs_states_rows(const hs_config *config, hs_kv_format kv, uint32_t positions, uint64_t *row_bytes);

/* Bytes that hs_states_init and the whole context charge, less what the allocator adds to steps. */
uint64_t hs_states_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t batch);

/* Of them, those that come as the text grows, at most `hot` rows (0 = all); and the first step of these. */
uint64_t hs_states_growth(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t hot, uint64_t *first);

/* What these states hold of that once they are full; 0 likewise. */
uint64_t hs_states_growth_of(const hs_states *states);

/* Bytes of a session, about: states, keys and values, logits, sampler. */
uint64_t hs_session_bytes(const hs_config *config, hs_kv_format kv, uint32_t positions, uint32_t batch);

/* What a step sees of one attention layer. */
hs_kv_view hs_states_kv(const hs_states *states, uint32_t layer);

/* What a step sees of a cache's layer. */
hs_kv_view hs_kv_view_of(const hs_kv *kv, uint32_t layer, uint32_t width);

/* Refused where it is none of hlwq_kv's, or the model's heads cannot be cut into blocks of 128. */
hlwq_status hs_kv_format_named(hs_kv_format *format, hlwq_kv name, const hs_config *config, hlwq_error *err);

#endif
