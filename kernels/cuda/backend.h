/*
 * kernels/cuda/backend.h - what the backend's files share: its state, and how a failed call becomes a status.
 *
 * Three streams.  `stream` computes; `up` copies weights to the card beside it; `back` brings small things to the host
 * without waiting for what was queued after them.  Order between them is by events alone:
 *
 *   up after stream   a mark (copies.cu): a slot is written when the stages that read it are done
 *   stream after up   await: a stage reads a slot when its copy is done
 *   back after stream an event behind what is fetched; the host waits for `back`
 */
#ifndef HS_KERNELS_CUDA_BACKEND_H
#define HS_KERNELS_CUDA_BACKEND_H

#include "kernels/cuda/device.h"

#include <pthread.h>

typedef struct block {
    void *p;
    uint64_t bytes;
    hs_mem_tag tag;
    bool small; /* charged with the pages that all small ones share */
} block;

/*
 * Points in the order of a stream, numbered from 1.  Point i is event i % POINTS; once that event stands for a later
 * point, waiting for it waits for more than was asked, never for less.
 */
enum { POINTS = 64 };
typedef struct gpu_points {
    cudaEvent_t event[POINTS];
    uint64_t made, done; /* done: known to be */
} gpu_points;

/* Ordinary memory that copies read: the first `pinned` bytes are registered, in chunks; the rest unless it is `over`.
 */
typedef struct gpu_region {
    uint8_t *p;
    uint64_t bytes, chunk, pinned;
    bool over;
} gpu_region;

enum { GPU_RING_BYTES = HS_CARD_RING_BYTES, GPU_RING_PIECE = 256 << 10 };

typedef struct gpu_pins {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool opened, started, quit;
    int device;
    const void *busy; /* the region that is being registered */
    gpu_region *region;
    uint32_t n, room;
    uint64_t pieces; /* that went through the ring */
    cudaEvent_t read[GPU_RING_BYTES / GPU_RING_PIECE];
} gpu_pins;

/* What steps have in common whose runs are the same. */
typedef struct gpu_step {
    uint32_t n;     /* tokens */
    uint32_t spans; /* of attention, at most */
    hs_step_kind kind;
    bool beside, guesses; /* the CPU has turns in it; and is told guesses then */
} gpu_step;

/*
 * A run of stages that comes again with the same operands, one token after another: what the host says once, and the
 * card is told in one call from then on (runs.cu).
 */
typedef struct gpu_run {
    uint64_t first, all; /* operands of its first stage; of all */
    uint32_t number;     /* of the run in its step */
    gpu_step step;
    uint32_t stages, turns;
    uint32_t seen;
    bool refused;        /* it could not be recorded */
    uint64_t not_before; /* of gpu_steps's clock: there was no room for it */
    cudaGraphExec_t exec;
    uint64_t bytes;  /* of the card */
    uint64_t used;   /* when: of gpu_steps's clock */
    gpu_form u_form; /* what it leaves behind */
    uint32_t u_rows;
} gpu_run;

enum { GPU_RUNS = 256 };

typedef enum gpu_mode { GPU_NO_RUN, GPU_PLAINLY, GPU_RECORDING, GPU_REPLAYED } gpu_mode;

typedef struct gpu_steps {
    bool on; /* between `step` and what ends it */
    gpu_step step;
    hs_bases text[HS_CARD_STEP_TOKENS]; /* of its rows */
    bool never;                         /* HLWQ_CUDA_STEPS=0: to compare with */
    gpu_mode mode;
    bool broken; /* recording: something was refused */
    uint32_t number, stages, turns, cursor, n;
    uint64_t all, clock;
    uint64_t room_bytes, bytes; /* charged for all runs; what they take */
    gpu_run *now;
    gpu_run run[GPU_RUNS];
} gpu_steps;

/*
 * Turns of the CPU (turns.cu): layers of experts in which the card tells what it does not have, and waits until that is
 * computed.  Nobody calls the runtime in between.
 */
typedef struct gpu_turns {
    uint32_t *turn;                        /* on the card: of the layer in hand */
    uint32_t *told, *answered;             /* ordinary memory that the card reads and writes */
    float *y_there;                        /* where the card sees host_y, */
    float *u_there;                        /* host_u, */
    uint8_t *choices_there;                /* host_choices, */
    int32_t *guesses_there;                /* host_guesses, */
    uint32_t *told_there, *answered_there; /* and these two */
    uint32_t asked, heard, said;           /* turns that were queued; that the host has heard of; answered */
    bool now;                              /* the layer in hand is one */
} gpu_turns;

/* As many as there can be while the CPU has its turns, when nothing is told: copies that were under way and are done.
 */
enum { GPU_UNTOLD = 128 };
typedef struct gpu_untold {
    gpu_entries one[GPU_UNTOLD];
    uint32_t n;
} gpu_untold;

/* A feed-forward and the rows of the list that it gets; its results go to the same rows of expert_y. */
typedef struct visit {
    const hs_ffn *w;
    uint32_t from, m;
} visit;

typedef struct hs_cuda {
    hs_backend base;
    hs_mem *mem, *vram;
    hs_backend *cpu;
    hs_limits lim;
    cudaStream_t stream, up, back, recorder; /* recorder: nothing runs there */
    gpu_points stages, copies;               /* of `stream`: marks; of `up`: copies */
    uint64_t awaited;                        /* the last copy that `stream` has been told to wait for */
    cudaEvent_t chosen;                      /* what `back` waits for */
    block *held;                             /* [n_held]: what the card holds for us */
    uint32_t n_held, room_held;
    uint64_t small_bytes; /* of the small ones */

    void *scratch; /* on the card: all below */
    float *u, *proj, *mix, *out, *y, *gate, *up_rows, *expert_y, *logit, *shared, *weight, *rope, *part, *logits;
    gpu_q8 uq, outq, hq;
    gpu_q8 ownq;     /* of a matrix that gathers: nobody else's inputs are put in its order and scaled as its are */
    uint32_t u_rows; /* rows of u, and of uq */
    gpu_form expert_form; /* what the last layer's experts read */
    uint64_t *table;      /* [mixtures][experts]: where an expert's extent is; 0 = not on the card */
    gpu_untold untold;    /* changes of it, which stages are not told of yet */
    uint32_t *visited;    /* [mixtures]: experts that a step of several tokens visits there */
    void *choice;         /* of a step's layer: gpu_choice_at says where its parts are */
    uint32_t *position;   /* [HS_CARD_STEP_TOKENS] of a step */
    hs_bases *text;       /* likewise */
    int32_t *id;
    uint32_t *list, *slot;
    gpu_job *job; /* of experts: gate, up and down of as many as there are, or as a step has picks */
    const float *rope_freq;
    float rope_scale;
    uint32_t rope_dims, rope_first, rope_n, logits_rows;

    void *staging; /* pinned, ordinary memory: all below */
    float *host_x, *host_u, *host_h, *host_y, *host_weight;
    int32_t *host_id;
    uint32_t *host_list, *host_slot, *host_start;
    gpu_job *host_job;
    uint8_t *host_choices;                  /* [mixtures]: gpu_host_choice */
    int32_t *host_guesses;                  /* [mixtures][used] */
    uint32_t *host_visited, **tell_visited; /* [mixtures]; who wants to know, of the step in hand */
    bool anyone_to_tell;
    visit *visits;         /* [experts + 1] */
    int32_t *left;         /* [experts] */
    bool have_u;           /* host_u holds the activations of the layer in hand */
    bool found;            /* the choice in hand was looked up in the table, and what was found is computed */
    const hs_split *split; /* what of the layer in hand the CPU computes; NULL = nothing */
    gpu_steps steps;
    gpu_turns turns;
    gpu_pins pins;
    uint8_t *ring; /* [GPU_RING_BYTES], pinned: of copies from memory that is not */
} hs_cuda;

static inline hs_cuda *cuda_of(hs_backend *be)
{
    return reinterpret_cast<hs_cuda *>(be);
}

/* What the host is told of a layer's choice, of n tokens. */
static inline gpu_choice gpu_host_choice(const hs_cuda *c, const hs_mixture *w, uint32_t n)
{
    uint64_t bytes = (uint64_t)HS_CARD_STEP_TOKENS * c->lim.used * HS_CARD_CHOICE_BYTES;
    return gpu_choice_at(c->host_choices + w->row * bytes, n * w->used);
}

hlwq_status gpu_failed(cudaError_t code, const char *what, hlwq_error *err);

#define CUDA_DO(what, call)                                                                                            \
    do {                                                                                                               \
        cudaError_t cuda_do_ = (call);                                                                                 \
        if (cuda_do_ != cudaSuccess)                                                                                   \
            return gpu_failed(cuda_do_, what, err);                                                                    \
    } while (0)

/* ---- matrices.cu: matrices as kernels see them ----------------------------------------------- */

gpu_format gpu_format_of(const hs_matrix *m);
gpu_form gpu_form_of(const hs_matrix *m); /* of activations that others may read too; none if it gathers its own */
gpu_q8 gpu_rows_from(const gpu_q8 *q, uint64_t row, uint32_t cols); /* rows of activations from `row` on */
bool gpu_alike(const hs_matrix *a, const hs_matrix *b);             /* whether one launch can take both */
gpu_job gpu_job_of(const hs_matrix *w, float *y, uint32_t stride, uint32_t first, uint32_t m, uint32_t row);

/* y = W x: one of several products of the same activations. */
typedef struct gpu_part {
    const hs_matrix *w;
    float *y;
    uint32_t stride;
} gpu_part;

/* Each y (+)= W a, with a's plain form and whichever q holds; neighbours that are alike share a launch. */
hlwq_status gpu_products(hs_cuda *c, const gpu_part *parts, uint32_t count, const float *x, gpu_q8 *q, uint32_t n,
                         bool add, hlwq_error *err);
hlwq_status gpu_products_of(hs_cuda *c, const gpu_part *parts, uint32_t count, const float *x, const uint32_t *list,
                            gpu_q8 *q, uint32_t n, bool add, hlwq_error *err); /* of rows that `list` names; or NULL */
hlwq_status gpu_product_of(hs_cuda *c, const hs_matrix *w, const float *x, gpu_q8 *q, uint32_t n, float *y,
                           uint32_t stride, bool add, hlwq_error *err);

/* x [n][cols] in that form, if it is not yet. */
hlwq_status gpu_in_form(hs_cuda *c, gpu_form form, const float *x, uint32_t cols, uint32_t n, gpu_q8 *q,
                        hlwq_error *err);

/*
 * y [n][hidden] (+)= down(silu(gate u) * up u); rows of gate, up and hq from `row` on are scratch. `list` as above.
 */
hlwq_status gpu_ffn(hs_cuda *c, const hs_ffn *w, const float *u, const uint32_t *list, gpu_q8 *uq, uint32_t n,
                    uint64_t row, float *y, bool add, hlwq_error *err);

/* Rows of embeddings, which are in ordinary memory, to the card. */
hlwq_status gpu_embed(hs_backend *be, const hs_matrix *table, const int32_t *ids, uint32_t n, float *x,
                      hlwq_error *err);

/* u = norm(x), and the form that is read first. */
hlwq_status gpu_norm(hs_cuda *c, const float *x, const float *w, float eps, uint32_t n, gpu_form form, hlwq_error *err);

/* ---- stage_mixers.cu: stages of hs_backend_ops ----------------------------------------------- */

gpu_kv_side gpu_side_of(const hs_kv_planes *p); /* the codes of keys or of values, as kernels see them */
hlwq_status gpu_stage_attention(hs_backend *be, const hs_attention *w, const hs_kv_view *kv, uint32_t first, uint32_t n,
                                float *x, hlwq_error *err);
hlwq_status gpu_stage_attention_rows(hs_backend *be, const hs_attention *w, const hs_kv_view *kv,
                                     const uint32_t *position, uint32_t n, float *x, hlwq_error *err);
hlwq_status gpu_stage_deltanet(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t first,
                               uint32_t n, float *x, hlwq_error *err);
hlwq_status gpu_stage_deltanet_rows(hs_backend *be, const hs_delta *w, const hs_delta_state *state, uint32_t n,
                                    float *x, hlwq_error *err);

/* Projections of norm(x), and where all else of them goes, in scratch; then what d has of the weights. */
hlwq_status gpu_delta_products(hs_cuda *c, const hs_delta *w, uint32_t rows, const float *x, gpu_delta *d,
                               hlwq_error *err);
void gpu_delta_weights(const hs_delta *w, gpu_delta *d);

/* The state of the first row's text, in a step as what lies behind what it was told. */
void gpu_delta_state(const hs_cuda *c, const hs_delta_state *state, gpu_delta *d);

/* ---- stage_experts.cu: stages of hs_backend_ops ---------------------------------------------- */

hlwq_status gpu_stage_route(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                            hlwq_error *err);
hlwq_status gpu_stage_guess(hs_backend *be, const hs_mixture *w, uint32_t n, const float *x, hs_routing *routing,
                            hlwq_error *err);
/* What a router would choose for x, on the card; nothing of the layer in hand changes. */
hlwq_status gpu_guess(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hs_routing *there, hlwq_error *err);
hlwq_status gpu_stage_experts(hs_backend *be, const hs_mixture *w, const hs_ffn *expert, const hs_expert_source *source,
                              uint32_t n, const hs_routing *routing, float *x, hlwq_error *err);
hlwq_status gpu_stage_mixture(hs_backend *be, const hs_mixture *w, uint32_t n, float *x, uint32_t *visited, bool *done,
                              hlwq_error *err);
hlwq_status gpu_fetch_visited(hs_cuda *c, hlwq_error *err); /* for those who want to know, when all stages are done */
void gpu_tell_visited(hs_cuda *c);

/* ---- turns.cu: experts that the CPU computes while the card waits for it, and nobody for a stream ---- */

extern uint32_t gpu_turns_most; /* before they are counted from 0 again; tests have their own */

hlwq_status gpu_open_turns(hs_cuda *c, hlwq_error *err);
hlwq_status gpu_begin_turns(hs_cuda *c, hlwq_error *err); /* of a step; nothing is queued */
void gpu_end_turns(hs_cuda *c); /* those that were not answered will not be: the card waits no more */

/* The layer's activations and choice, and what may be guessed from x, are on their way to the host: a stage. */
hlwq_status gpu_ask(hs_cuda *c, const hs_mixture *w, uint32_t n, const float *x, hlwq_error *err);
hlwq_status gpu_hear(hs_cuda *c, const hs_mixture *w, uint32_t n, hs_routing *routing, hlwq_error *err);
void gpu_answer(hs_cuda *c); /* host_y has the rows that were not found */
gpu_answers gpu_answers_to(const hs_cuda *c, const gpu_choice *choice);

/* ---- table.cu: where experts are, as the card sees it ---------------------------------------- */

hlwq_status gpu_place(hs_backend *be, uint32_t row, uint32_t first, uint32_t count, const void *at, uint64_t stride,
                      hlwq_error *err);
hlwq_status gpu_tell_changes(hs_cuda *c, hlwq_error *err); /* stages from now on see them */

/* ---- pinned.cu: memory that copies to the card read ------------------------------------------ */

extern uint64_t gpu_pin_chunk, gpu_pin_at_once; /* bytes; tests have their own */

hlwq_status gpu_open_pins(hs_cuda *c, hlwq_error *err);
void gpu_close_pins(hs_cuda *c); /* also after opening has failed half-way */
void gpu_lend(hs_backend *be, void *p, uint64_t bytes);
void gpu_take_back(hs_backend *be, void *p);
hlwq_status gpu_copy_up(hs_cuda *c, void *to, const void *from, uint64_t bytes, hlwq_error *err); /* on `up` */

/* ---- runs.cu: steps that are recorded and played back ---------------------------------------- */

hlwq_status gpu_stage_step(hs_backend *be, const hs_step *step, bool *on, hlwq_error *err);

/* A draft head's step: its norm and its logits always come, and belong to its run. */
static inline bool gpu_in_draft(const hs_cuda *c)
{
    return c->steps.on && c->steps.step.kind == HS_STEP_DRAFT;
}

/* How far behind what the step's row was told of its text something lies; where no step is on, where it is. */
template <class T> static inline T *gpu_distance(const hs_cuda *c, const void *base, T *p)
{
    return c->steps.on ? reinterpret_cast<T *>((uint64_t)p - (uint64_t)base) : p;
}

/* What is asked for next is no part of the run, or of the step, in hand: the host waits, or does what is not alike. */
void gpu_end_run(hs_cuda *c);
void gpu_end_step(hs_cuda *c);

hlwq_status gpu_open_runs(hs_cuda *c, hlwq_error *err);

/* Whether there were any: what they take of the card is free then. */
bool gpu_forget_runs(hs_cuda *c);
void gpu_close_runs(hs_cuda *c); /* also after opening has failed half-way */

/* A stage with these operands is next. *done: it was played back. */
hlwq_status gpu_begin_stage(hs_cuda *c, uint64_t operands, bool *done, hlwq_error *err);

/* While recording a stage is asked for twice: to run, and to be recorded. */
bool gpu_begin_recording(hs_cuda *c);
void gpu_end_recording(hs_cuda *c, hlwq_status st);

/* Which stage it is: by where its operands are. */
uint64_t gpu_operands(uint64_t line, uint64_t a, uint64_t b, uint64_t c);
#define GPU_OPERANDS(a, b, c) gpu_operands(__LINE__, (uint64_t)(a), (uint64_t)(b), (uint64_t)(c))

/*
 * A stage that only tells the stream what to do, with operands that are the same at each token of a step but for what
 * lies on the card.
 */
template <class F> static inline hlwq_status gpu_recorded(hs_cuda *c, uint64_t operands, F stage, hlwq_error *err)
{
    bool done;
    HS_TRY(gpu_begin_stage(c, operands, &done, err));
    if (done)
        return HLWQ_OK;
    gpu_form form = c->uq.form;
    HS_TRY(stage(err));
    if (gpu_begin_recording(c)) {
        c->uq.form = form;
        gpu_end_recording(c, stage(NULL));
    }
    return HLWQ_OK;
}

/* ---- stage_window.cu: stages of hs_backend_ops for speculation ------------------------------- */

hlwq_status gpu_stage_deltanet_window(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                      const hs_delta_window *window, uint32_t n, float *x, hlwq_error *err);
hlwq_status gpu_stage_deltanet_keep(hs_backend *be, const hs_delta *w, const hs_delta_state *state,
                                    const hs_delta_window *window, uint32_t kept, hlwq_error *err);
hlwq_status gpu_stage_norm(hs_backend *be, const float *norm, float eps, uint32_t n, const float *x, float *y,
                           hlwq_error *err);
hlwq_status gpu_stage_join(hs_backend *be, const hs_joint *w, uint32_t n, const float *h, float *x, hlwq_error *err);

/* ---- stage_split.cu: rows that the CPU computes ---------------------------------------------- */

void gpu_split(hs_backend *be, const hs_split *split);

/* The products of c->u that a mixer begins with, and x += w c->out with which it ends; shared with the CPU or not. */
hlwq_status gpu_mixer_in(hs_cuda *c, const gpu_part *parts, uint32_t count, uint32_t n, hlwq_error *err);
hlwq_status gpu_mixer_out(hs_cuda *c, const hs_matrix *w, uint32_t n, float *x, hlwq_error *err);

/* The feed-forward of a layer that is shared. */
hlwq_status gpu_dense_split(hs_cuda *c, const float *norm, float eps, const hs_ffn *w, uint32_t n, float *x,
                            hlwq_error *err);

/* ---- sample.cu: choices, of which four bytes come back --------------------------------------- */

hlwq_status gpu_stage_choose(hs_backend *be, const hs_selection *choice, int32_t *id, hlwq_error *err);
hlwq_status gpu_stage_logits(hs_backend *be, uint32_t n, float *logits, hlwq_error *err);

/* ---- copies.cu: memory, and what moves ------------------------------------------------------- */

hlwq_status gpu_open_streams(hs_cuda *c, hlwq_error *err);
void gpu_close_streams(hs_cuda *c);                /* also after opening has failed half-way */
hlwq_status gpu_wait(hs_cuda *c, hlwq_error *err); /* for all stages asked for so far */

hlwq_status gpu_alloc(hs_backend *be, hs_mem_tag tag, uint64_t bytes, const char *what, void **out, hlwq_error *err);
void gpu_free(hs_backend *be, void *p);
hlwq_status gpu_put(hs_backend *be, void *to, const void *from, uint64_t bytes, hlwq_error *err);
hlwq_status gpu_get(hs_backend *be, void *to, const void *from, uint64_t bytes, hlwq_error *err);
hlwq_status gpu_clear(hs_backend *be, void *p, uint64_t bytes, hlwq_error *err);
hlwq_status gpu_mark(hs_backend *be, uint64_t *mark, hlwq_error *err);
hlwq_status gpu_upload(hs_backend *be, void *to, const void *from, uint64_t bytes, uint64_t after, uint64_t *copy,
                       hlwq_error *err);
hlwq_status gpu_await(hs_backend *be, uint64_t copy, hlwq_error *err);
bool gpu_uploaded(hs_backend *be, uint64_t copy, bool wait);

#endif
