/*
 * hlwq_stream.h - run Qwen3.5-family models under a hard memory budget.
 *
 * The only public header.  An engine owns a model's weights and a thread pool; a session owns one
 * conversation (KV cache, recurrent state, sampler).  Engines and sessions are opaque.
 *
 * Failure: functions return hlwq_status, 0 for success, negative otherwise; where an hlwq_error
 * is given it then holds one sentence.  Every err parameter may be NULL.  Option structs are filled
 * by their _default function first, so that a program built today keeps its meaning tomorrow.
 *
 * Threads: one thread at a time per engine (its sessions included); hlwq_session_cancel may be
 * called from anywhere, a signal handler included.
 */
#ifndef HLWQ_STREAM_H
#define HLWQ_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HLWQ_API __attribute__((visibility("default")))
#else
#define HLWQ_API
#endif

#define HLWQ_VERSION_MAJOR 0
#define HLWQ_VERSION_MINOR 1
#define HLWQ_VERSION_PATCH 0

typedef enum hlwq_status {
    HLWQ_OK = 0,
    HLWQ_ERR_ARG = -1,         /* an argument makes no sense */
    HLWQ_ERR_IO = -2,          /* the operating system refused or failed */
    HLWQ_ERR_FORMAT = -3,      /* a file is damaged, hostile, or of an unknown kind */
    HLWQ_ERR_NOMEM = -4,       /* the system has no memory */
    HLWQ_ERR_BUDGET = -5,      /* does not fit the budget asked for */
    HLWQ_ERR_UNSUPPORTED = -6, /* understood, but this build or device cannot do it */
    HLWQ_ERR_CANCELLED = -7,   /* stopped by hlwq_session_cancel or a progress callback */
} hlwq_status;

typedef struct hlwq_error {
    hlwq_status status;
    char message[1024]; /* one sentence, UTF-8, no control characters */
} hlwq_error;

typedef struct hlwq_engine hlwq_engine;
typedef struct hlwq_session hlwq_session;
typedef struct hlwq_tokenizer hlwq_tokenizer;
typedef struct hlwq_template hlwq_template;
typedef struct hlwq_constraint hlwq_constraint;

typedef enum hlwq_log_level { HLWQ_LOG_ERROR, HLWQ_LOG_WARN, HLWQ_LOG_INFO, HLWQ_LOG_DEBUG } hlwq_log_level;

/* One line without a newline. May come from any thread of the engine. */
typedef void (*hlwq_log_fn)(void *user, hlwq_log_level level, const char *line);

/* `done` of `total` bytes; return false to stop the operation with HLWQ_ERR_CANCELLED. */
typedef bool (*hlwq_progress_fn)(void *user, uint64_t done, uint64_t total);

HLWQ_API const char *hlwq_version(void);

/* Frees strings that functions below hand out. NULL is fine. */
HLWQ_API void hlwq_free(void *p);

/* ---- engine --------------------------------------------------------------------------------- */

typedef enum hlwq_verify { HLWQ_VERIFY_OFF, HLWQ_VERIFY_FIRST, HLWQ_VERIFY_ALWAYS } hlwq_verify;

/*
 * How keys and values are kept.  Beside F16 and F32: rotated and coded, 16 * bits of a key + bits of a value, each 8,
 * 4, 3 or 2; the newest 64 to 128 tokens stay F16.
 */
typedef enum hlwq_kv {
    HLWQ_KV_F16,
    HLWQ_KV_F32,
    HLWQ_KV_Q8 = 0x88,
    HLWQ_KV_Q4 = 0x44,
    HLWQ_KV_Q3 = 0x33,
    HLWQ_KV_Q2 = 0x22,
    HLWQ_KV_K4V3 = 0x43
} hlwq_kv;

/* How weights that are not resident are read. AUTO: io_uring, or threads where the system refuses it. */
typedef enum hlwq_io { HLWQ_IO_AUTO, HLWQ_IO_URING, HLWQ_IO_PREAD, HLWQ_IO_MMAP } hlwq_io;

/* Past the page cache or through it. AUTO: through it where the file is in it already. */
typedef enum hlwq_direct { HLWQ_DIRECT_AUTO, HLWQ_DIRECT_ON, HLWQ_DIRECT_OFF } hlwq_direct;

/* What makes room in the cache: aged frequency and recency, the last use, the number of uses, the time of reading. */
typedef enum hlwq_policy { HLWQ_POLICY_LFRU, HLWQ_POLICY_LRU, HLWQ_POLICY_LFU, HLWQ_POLICY_FIFO } hlwq_policy;

/* What computes. AUTO: the graphics card, where the build and the machine have one; else the CPU. */
typedef enum hlwq_device { HLWQ_DEVICE_AUTO, HLWQ_DEVICE_CPU, HLWQ_DEVICE_CUDA } hlwq_device;

/*
 * Where drafts of tokens to come are taken from: the model's MTP head, repetitions in the text.  AUTO: from both, as
 * far as there is an MTP head and drafting is found to pay.  Text does not depend on it.
 */
typedef enum hlwq_draft { HLWQ_DRAFT_OFF, HLWQ_DRAFT_AUTO, HLWQ_DRAFT_MTP, HLWQ_DRAFT_LOOKUP } hlwq_draft;

/* Room for eight states, but at most a sixteenth of ram_bytes. */
#define HLWQ_PREFIX_AUTO UINT64_MAX

typedef struct hlwq_engine_options {
    const char *model; /* a .hlwq container or a Hugging Face directory; required */
    hlwq_device device;
    uint64_t vram_bytes; /* hard cap on the graphics card's memory; 0 = what is free there */
    uint32_t card_slots; /* experts (of a dense model: layers) kept there; 0 = as many as fit */
    double cpu_share;    /* of the experts (dense: rows) not on the card, computed by the CPU; below 0 = as is best */
    uint64_t ram_bytes;  /* hard cap on what the engine and its sessions hold; 0 = what is available now */
    uint32_t context;    /* positions of one session to keep memory for; 0 = as a session has by default */
    hlwq_kv kv;          /* of that session */
    uint32_t sessions;   /* how many such sessions to keep memory for; 0 = one */
    uint32_t batch;      /* prompt tokens computed at once, a multiple of 64 up to 512; 0 = as memory allows */
    uint32_t slots;      /* experts (of a dense model: layers) kept in memory; 0 = as many as fit */
    hlwq_io io;
    hlwq_direct direct;
    hlwq_policy policy;     /* LFRU gives way to a fixed set of experts while that is found to be better */
    uint32_t admit;         /* tokens: an expert used once within so many makes room first; 0 = all are alike */
    bool adapt;             /* give memory up while the system runs short of it, and take it back */
    const char *kv_spill;   /* a folder for old keys and values where a full context does not fit; NULL = none */
    bool constraints;       /* ram_bytes holds their memory too, some MiB set aside; false: it is beside the budget */
    uint64_t prefix_bytes;  /* for states of earlier texts to go back to, see hlwq_session_seek; 0 = none */
    hlwq_draft draft;       /* its sessions compute drafted tokens ahead; HLWQ_DRAFT_OFF by default */
    uint32_t draft_depth;   /* drafts at once, at most 7; 0 = 3 */
    bool draft_always;      /* at that depth, whether it pays or not: for measuring */
    uint32_t draft_vocab;   /* the MTP head drafts among so many tokens, the most frequent; 0 = 32768, where there are
                               more than twice as many, else all */
    const char *draft_text; /* a text to count them in; NULL = as the tokenizer ranks them */
    double draft_pretend;   /* benchmarks: drafts are taken for right with this probability, whatever the model says */
    const char *trace;      /* a file to write every choice of experts to, for hlwq_simulate; NULL = none */
    const char *routing;    /* benchmarks: a trace, or "model", in place of the router's choices; NULL = the router */
    uint32_t threads;       /* 0 = one per usable physical core */
    bool exact;             /* quantised matrices compute from dequantised fp32 weights (slow) */
    hlwq_verify verify;     /* extent checksums: on first read by default */
    hlwq_log_fn log;        /* NULL = silent */
    hlwq_progress_fn progress; /* loading; NULL = none */
    void *user;                /* handed to both */
} hlwq_engine_options;

HLWQ_API hlwq_engine_options hlwq_engine_options_default(void);
HLWQ_API hlwq_status hlwq_engine_open(const hlwq_engine_options *options, hlwq_engine **engine, hlwq_error *err);

/* Sessions must be closed first. NULL is fine. */
HLWQ_API void hlwq_engine_close(hlwq_engine *engine);

typedef struct hlwq_model_facts {
    uint32_t vocab; /* rows of the logits */
    uint32_t hidden;
    uint32_t layers;
    uint32_t context_max;     /* tokens the model was made for */
    uint64_t weight_bytes;    /* held in memory */
    uint64_t bytes_per_token; /* weights read to decode one token */
    double load_seconds;
} hlwq_model_facts;

HLWQ_API void hlwq_engine_facts(const hlwq_engine *engine, hlwq_model_facts *facts);

/* Memory held now and at most so far, bytes, as accounted: ordinary memory, and the graphics card's. */
HLWQ_API void hlwq_engine_memory(const hlwq_engine *engine, uint64_t *now_bytes, uint64_t *peak_bytes);
HLWQ_API void hlwq_engine_vram(const hlwq_engine *engine, uint64_t *now_bytes, uint64_t *peak_bytes);

/* What it is held for: the i-th kind, from 0; false beyond the last. */
HLWQ_API bool hlwq_engine_memory_kind(const hlwq_engine *engine, uint32_t i, const char **name, uint64_t *now_bytes);

/* What was planned at open. Bytes. */
typedef struct hlwq_plan {
    uint64_t ram_bytes; /* the cap */
    uint64_t trunk_bytes, session_bytes, activation_bytes, fixed_bytes, slots_bytes, total_bytes;
    uint64_t kv_bytes;       /* of session_bytes: taken as texts grow, and in the cache's hands until then */
    uint64_t kv_file_bytes;  /* beside them, in the folder kv_spill */
    uint64_t smallest_bytes; /* the least cap that works */
    uint64_t staging_bytes;  /* of activation_bytes: pinned, for what a graphics card exchanges with the CPU */
    uint64_t slot_bytes, streamed_bytes;
    uint32_t slots, streamed; /* extents kept, and in all; slots 0 = everything is resident */
    uint32_t batch;
    uint32_t context, sessions; /* that memory is kept for: positions of each */
    /* The graphics card; all zero without one. The fields above are ordinary memory then, with the embeddings there. */
    bool card, card_imagined; /* imagined: hlwq_make_plan was asked for one that this machine does not have */
    uint64_t embed_bytes;
    uint64_t vram_bytes, card_reserve_bytes, card_trunk_bytes, card_state_bytes, card_activation_bytes;
    uint64_t card_recorded_bytes; /* for steps that are recorded there and played back */
    uint64_t card_slots_bytes, card_total_bytes, card_smallest_bytes;
    uint32_t card_slots;    /* 0 = everything is there */
    uint64_t card_kv_bytes; /* of card_state_bytes: taken as texts grow; kv_bytes are those that do not fit there */
} hlwq_plan;

/* Completes the trace that options.trace asked for; closing the engine does it too, but cannot say what went wrong. */
HLWQ_API hlwq_status hlwq_engine_end_trace(hlwq_engine *engine, hlwq_error *err);

HLWQ_API void hlwq_engine_plan(const hlwq_engine *engine, hlwq_plan *plan);

/* The plan that hlwq_engine_open would follow, without reading weights. HLWQ_ERR_BUDGET names the least that works. */
HLWQ_API hlwq_status hlwq_make_plan(const hlwq_engine_options *options, hlwq_plan *plan, hlwq_error *err);

/* Lowers or raises the cap of a running engine: experts are given up, or room is made for more. Between calls only. */
HLWQ_API hlwq_status hlwq_engine_set_budget(hlwq_engine *engine, uint64_t ram_bytes, hlwq_error *err);

/* What streaming did since the engine was opened. All zero, engine "none", while everything is resident. */
/* Where weights are read from. */
typedef enum hlwq_tier {
    HLWQ_TIER_CARD,   /* the card's memory, by the card */
    HLWQ_TIER_UPLOAD, /* ordinary memory, by copies to the card */
    HLWQ_TIER_MEMORY, /* ordinary memory, by the CPU */
    HLWQ_TIER_FILE,
    HLWQ_TIER_COUNT
} hlwq_tier;

typedef struct hlwq_streaming {
    uint32_t slots;
    uint64_t lookups, hits, misses, evictions;
    uint64_t bytes_read, requests, retries;
    uint64_t guessed, guessed_right;            /* experts read before their layer asked; of them used */
    uint64_t watched, watched_hits, rival_hits; /* lookups compared with the policy not in use; hits of both */
    uint32_t policy_switches;
    bool fixed;                                        /* a fixed set is in use now */
    uint32_t card_slots;                               /* and on the graphics card: */
    uint64_t card_lookups, card_hits, uploads, beside; /* experts copied there; computed by the CPU instead */
    uint32_t card_switches;                            /* between the policy and a fixed set, there */
    double cpu_share;    /* of what a lone token wants and is not there, the part that the CPU computes */
    double io_seconds;   /* with a read under way */
    double wait_seconds; /* with nothing to compute */
    const char *engine;  /* "uring" */
    const char *reason;  /* one sentence */
    uint64_t tier_bytes[HLWQ_TIER_COUNT]; /* of weights, so far; embeddings apart */
} hlwq_streaming;

HLWQ_API void hlwq_engine_streaming(const hlwq_engine *engine, hlwq_streaming *streaming);

/* What this machine offers a model, measured now, and what follows. */
typedef struct hlwq_diagnosis {
    const char *isa; /* "avx512" */
    uint32_t cores;  /* to compute on */
    uint64_t memory_available, locked_limit;
    char huge_pages[32];
    double memory_bytes_per_second_one, memory_bytes_per_second; /* read by one thread, by all */
    char io[160];                                                /* how weights would be read: one sentence */
    double disk_bytes_per_second;                                /* 0 = not measured */
    char card[160];      /* the graphics card's name, or why none is used: one sentence */
    uint64_t card_bytes; /* its memory, 0 = none is used */
    double card_bytes_per_second, upload_bytes_per_second; /* of its memory, and to it */
    hlwq_plan plan;
    double missed_bytes_per_token; /* with experts chosen by chance */
    double tok_per_s;              /* at most, while the text is short */
    const char *bottleneck;        /* "memory", "disk", "the card's memory", "launches" (there), "uploads" */
    bool card_assumed;             /* the card's two rates are assumed: there is none here, or it was not measured */
    /* Where not all is on the card: the share of those layers, or experts, that the CPU computes, and its rate. */
    double cpu_share, product_bytes_per_second;
    bool experts; /* it is experts, chosen by chance */
    /* At the end of a text of plan.context tokens, whose keys and values are read for every token. */
    double full_tok_per_s;
    const char *full_bottleneck; /* or "keys and values", those "that are copied to the card", "from the disk" */
} hlwq_diagnosis;

HLWQ_API hlwq_status hlwq_diagnose(const hlwq_engine_options *options, hlwq_diagnosis *diagnosis, hlwq_error *err);

/* The same, measured in a quarter of a second and less exactly. */
HLWQ_API hlwq_status hlwq_predict(const hlwq_engine_options *options, hlwq_diagnosis *diagnosis, hlwq_error *err);

/* A routing trace replayed through the cache: cold start included. */
typedef struct hlwq_simulation_options {
    const char *trace; /* text: "layers experts tokens prompt_tokens", then "token layer expert weight" per selection */
    uint32_t slots;    /* of each layer */
    hlwq_policy policy;
    bool belady;      /* instead: what is needed last makes room, which no one can know while running */
    double half_life; /* tokens, LFRU; 0 = the engine's own */
    uint32_t admit;   /* as hlwq_engine_options has it */
    bool pool;        /* slots times layers as one pool, of which each layer keeps `floor` */
    uint32_t floor;
} hlwq_simulation_options;

typedef struct hlwq_simulation {
    uint32_t layers, experts, tokens, slots;
    uint64_t lookups, hits, misses, evictions;
} hlwq_simulation;

HLWQ_API hlwq_status hlwq_simulate(const hlwq_simulation_options *options, hlwq_simulation *result, hlwq_error *err);

/* What a model is, without reading its weights: a JSON text (schema 1), to be freed with hlwq_free. */
HLWQ_API hlwq_status hlwq_describe(const char *model, char **json, hlwq_error *err);

/* ---- tokenizer ------------------------------------------------------------------------------ */

/* From a tokenizer.json, a directory that holds one, or a container. */
HLWQ_API hlwq_status hlwq_tokenizer_open(const char *path, hlwq_tokenizer **tokenizer, hlwq_error *err);
HLWQ_API void hlwq_tokenizer_close(hlwq_tokenizer *tokenizer);

/* The engine's own; NULL if the model came without one. */
HLWQ_API const hlwq_tokenizer *hlwq_engine_tokenizer(const hlwq_engine *engine);

/*
 * Encode `bytes` bytes of `text`.  With `special`, added tokens such as <|im_start|> in the text
 * become their ids: only for text you trust.  *ids is allocated (hlwq_free) and holds *count ids.
 */
HLWQ_API hlwq_status hlwq_tokenize(const hlwq_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                   int32_t **ids, size_t *count, hlwq_error *err);

typedef struct hlwq_span {
    size_t begin, end; /* bytes; end is the first one outside */
} hlwq_span;

/*
 * As hlwq_tokenize with `special`, except inside the `n` spans of `plain` and across their edges, where added tokens
 * are plain text: for prompts that quote what nobody vouches for.  Spans ascend and do not overlap.
 */
HLWQ_API hlwq_status hlwq_tokenize_prompt(const hlwq_tokenizer *tokenizer, const char *text, size_t bytes,
                                          const hlwq_span *plain, size_t n, int32_t **ids, size_t *count,
                                          hlwq_error *err);

/*
 * Decode to UTF-8, broken sequences as U+FFFD; `skip_special` leaves out tokens marked special.
 * *text is allocated (hlwq_free), zero-terminated, *bytes long without the zero.
 */
HLWQ_API hlwq_status hlwq_detokenize(const hlwq_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                     bool skip_special, char **text, size_t *bytes, hlwq_error *err);

/* The bytes of one token, which may be part of a character; NULL for ids that are none. Valid as long as the tokenizer.
 */
HLWQ_API const char *hlwq_token_bytes(const hlwq_tokenizer *tokenizer, int32_t id, size_t *bytes);

/* ---- chat template -------------------------------------------------------------------------- */

/* From a Jinja file, a model's directory, or a container. Immutable once open: threads may share it. */
HLWQ_API hlwq_status hlwq_template_open(const char *path, hlwq_template **chat, hlwq_error *err);
HLWQ_API void hlwq_template_close(hlwq_template *chat);

/*
 * The prompt for `request`, a JSON object of `bytes` bytes: "messages", "tools", and variables of the template such as
 * "add_generation_prompt" and "enable_thinking".  "continue_final_message" ends the prompt inside the last message.
 * *text is allocated (hlwq_free), zero-terminated, *text_bytes long without the zero.  HLWQ_ERR_ARG where the request
 * is wrong or the template refuses it, HLWQ_ERR_FORMAT where the template itself is at fault.
 */
HLWQ_API hlwq_status hlwq_template_apply(const hlwq_template *chat, const char *request, size_t bytes, char **text,
                                         size_t *text_bytes, hlwq_error *err);

/* ---- constraints ---------------------------------------------------------------------------- */

typedef enum hlwq_constraint_kind {
    HLWQ_CONSTRAINT_JSON_OBJECT, /* any JSON object; there is no text */
    HLWQ_CONSTRAINT_JSON_SCHEMA, /* values of a JSON Schema */
    HLWQ_CONSTRAINT_GRAMMAR,     /* a grammar written as JSON */
    HLWQ_CONSTRAINT_CALL, /* what follows "<function=NAME>" in a call of a tool, up to and with "</function>"; the text
                             is the JSON Schema of its arguments */
    HLWQ_CONSTRAINT_TOOLS /* a whole answer that calls tools, one after the other, of {"tools": [{"name": ...,
                             "parameters": schema}, ...], "answer": schema}: arguments without "parameters" are free;
                             "answer" is what else it may be, a schema or true for any object; absent: only calls */
} hlwq_constraint_kind;

/*
 * What a text may be, for hlwq_session_set_constraint; docs/constraints.md says what schemas and grammars may hold.
 * Whatever is not understood fails, with a sentence that names it: HLWQ_ERR_UNSUPPORTED for a keyword or a format that
 * is not supported, HLWQ_ERR_ARG for what is wrong or can be satisfied by no text, HLWQ_ERR_BUDGET for what is too
 * large.
 *
 * `tokenizer` must outlive the constraint.  One constraint may serve many sessions of an engine, by the engine's thread
 * rule; opening one is independent of the engine, so another thread may.  All constraints of one engine share what its
 * options set aside for them; HLWQ_ERR_BUDGET where that does not do.
 */
HLWQ_API hlwq_status hlwq_constraint_open(const hlwq_tokenizer *tokenizer, hlwq_constraint_kind kind, const char *text,
                                          size_t bytes, hlwq_constraint **constraint, hlwq_error *err);
HLWQ_API void hlwq_constraint_close(hlwq_constraint *constraint);

/* ---- session -------------------------------------------------------------------------------- */

typedef struct hlwq_sampling {
    float temperature;        /* 0 = greedy */
    uint32_t top_k;           /* 0 = off */
    float top_p;              /* 1 = off */
    float min_p;              /* 0 = off */
    float repetition_penalty; /* 1 = off */
    float presence_penalty;   /* 0 = off */
    float frequency_penalty;  /* 0 = off */
    uint32_t penalty_window;  /* how many of the last tokens the penalties see; 0 = all */
    uint64_t seed;
} hlwq_sampling;

typedef struct hlwq_session_options {
    uint32_t context; /* positions; 0 = the model's own, at most 8,192 */
    hlwq_kv kv;
    bool whole; /* hlwq_session_seek keeps only what leaves the bits of a text read at once; false by default */
    /*
     * Only tokens are wanted: a choice that can be made where the logits are (on a graphics card) leaves them
     * there.  hlwq_session_logits is NULL then, logits_hash leaves them out, and other sampling or a constraint holds
     * from the token after the next on.  False by default.
     */
    bool tokens_only;
    hlwq_sampling sampling;
} hlwq_session_options;

/* The model's generation_config where it has one. `engine` may be NULL: built-in defaults. */
HLWQ_API hlwq_session_options hlwq_session_options_default(const hlwq_engine *engine);

HLWQ_API hlwq_status hlwq_session_open(hlwq_engine *engine, const hlwq_session_options *options, hlwq_session **session,
                                       hlwq_error *err);
HLWQ_API void hlwq_session_close(hlwq_session *session);

/* From the next token on. HLWQ_ERR_ARG naming the value that makes no sense; nothing changes then. */
HLWQ_API hlwq_status hlwq_session_set_sampling(hlwq_session *session, const hlwq_sampling *sampling, hlwq_error *err);

HLWQ_API void hlwq_session_get_sampling(const hlwq_session *session, hlwq_sampling *sampling);

/*
 * From the next token on, hlwq_session_next and hlwq_session_sample choose only what `constraint` allows, from its
 * beginning; NULL = anything.  Tokens that are given are no part of it, so it may begin anywhere, say where a model has
 * done thinking; a sampled one is once it was appended.  The model can end its text only where the constraint is
 * satisfied, and the text ends by itself where nothing more may follow.  `constraint` is lent until another one is set
 * or the session is reset or closed.  Without one, tokens are the same to the bit as if there were no constraints.
 */
HLWQ_API void hlwq_session_set_constraint(hlwq_session *session, hlwq_constraint *constraint);

/*
 * Text that stands there already counts as the beginning of what the constraint asks for.  HLWQ_ERR_ARG, and nothing
 * changes, where the constraint has no text that begins so.
 */
HLWQ_API hlwq_status hlwq_session_follow(hlwq_session *session, const char *text, size_t bytes, hlwq_error *err);

/* What was sampled since then is all that the constraint asks for; true without one. */
HLWQ_API bool hlwq_session_satisfied(const hlwq_session *session);

/* Forget everything, a constraint included; memory stays. */
HLWQ_API void hlwq_session_reset(hlwq_session *session);

HLWQ_API uint32_t hlwq_session_position(const hlwq_session *session);     /* tokens seen so far */
HLWQ_API const int32_t *hlwq_session_tokens(const hlwq_session *session); /* they; valid until the next call */

/* Append tokens. With `logits`, [count][vocab] fp32, the logits after each; else only the last are kept. */
HLWQ_API hlwq_status hlwq_session_eval(hlwq_session *session, const int32_t *ids, size_t count, float *logits,
                                       hlwq_error *err);

/* Tokenise and append, added tokens read as plain text. */
HLWQ_API hlwq_status hlwq_session_prompt(hlwq_session *session, const char *text, hlwq_error *err);

/* The logits [vocab] after the last token; NULL before the first. Valid until the next call. */
HLWQ_API const float *hlwq_session_logits(const hlwq_session *session);

/*
 * Sample the next token and append it.  *id is -1 when the model has ended its text (nothing is
 * appended then).  Fails with HLWQ_ERR_BUDGET when the context is full.
 */
HLWQ_API hlwq_status hlwq_session_next(hlwq_session *session, int32_t *id, hlwq_error *err);

/* ---- several sessions at once --------------------------------------------------------------- */

/* As hlwq_session_next, but appends nothing and says which token it is that `ends` the model's text. */
HLWQ_API hlwq_status hlwq_session_sample(hlwq_session *session, int32_t *id, bool *ends, hlwq_error *err);

#define HLWQ_ROWS_MAX 8

/*
 * Appends ids[i] to sessions[i], for n <= HLWQ_ROWS_MAX different sessions of one engine, in one pass over the weights.
 * Each session has the same bits as if it had been alone.  Nothing is appended where a session refuses its token.
 */
HLWQ_API hlwq_status hlwq_sessions_step(hlwq_session *const *sessions, const int32_t *ids, uint32_t n, hlwq_error *err);

/*
 * Benchmarks: an empty session is as if `tokens` tokens had been read, with made-up keys and values; *kv_bytes of them
 * are read for the next token.
 */
HLWQ_API hlwq_status hlwq_session_pretend(hlwq_session *session, uint32_t tokens, uint64_t *kv_bytes, hlwq_error *err);

/* The logits [vocab] after the `at`-th token of a call, from 0; false stops it with HLWQ_ERR_CANCELLED. */
typedef bool (*hlwq_logits_fn)(void *user, size_t at, const float *logits);

/* As hlwq_session_eval, showing the logits after each token without keeping them all. */
HLWQ_API hlwq_status hlwq_session_eval_each(hlwq_session *session, const int32_t *ids, size_t count,
                                            hlwq_logits_fn each, void *user, hlwq_error *err);

/*
 * The text that became complete with `id`: UTF-8, never cut inside a character, so it may be empty
 * and may hold the end of earlier tokens.  id -1 flushes.  Valid until the next call.
 */
HLWQ_API const char *hlwq_session_text(hlwq_session *session, int32_t id);

/* Makes the call that is running (or the next) return HLWQ_ERR_CANCELLED. Async-signal-safe. */
HLWQ_API void hlwq_session_cancel(hlwq_session *session);

typedef struct hlwq_session_stats {
    uint64_t prompt_tokens, decoded_tokens;
    double prompt_seconds, decode_seconds;
    double prompt_wait_seconds, decode_wait_seconds; /* of these: waiting for weights to be read */
    uint64_t logits_hash;                            /* XXH3-64 over all logits computed so far, in order */
    uint64_t spilled_bytes, spill_read_bytes;        /* keys and values to the folder kv_spill, and back */
    double spill_wait_seconds;                       /* with no page to attend to until one was read */
    uint64_t lowered_bytes, raised_bytes; /* keys and values from the card to memory; copied up for a while */
} hlwq_session_stats;

HLWQ_API void hlwq_session_get_stats(const hlwq_session *session, hlwq_session_stats *stats);

/* What computing drafted tokens ahead did for a session. All zero where it does not. */
typedef struct hlwq_speculation {
    uint32_t depth_max; /* 0 = off */
    uint32_t depth;     /* that pays best now; 0 = none does */
    uint64_t passes;    /* over the model; of them without drafts: */
    uint64_t plain;
    uint64_t drafted[2], accepted[2];   /* drafts of the MTP head, and of repetitions */
    double draft_seconds, pass_seconds; /* making drafts; computing windows */
    double expected_gain;               /* tokens per second at that depth, over those without drafts */
} hlwq_speculation;

HLWQ_API void hlwq_session_speculation(const hlwq_session *session, hlwq_speculation *speculation);

/* Of all sessions since the engine was opened; depth and gain are those of the last window. */
HLWQ_API void hlwq_engine_speculation(const hlwq_engine *engine, hlwq_speculation *speculation);

/* ---- going back ------------------------------------------------------------------------------ */

/*
 * Texts that begin alike.  The model's state cannot be taken back, so states are remembered on the way (mark), and a
 * session is brought to the longest known beginning of a text (seek): it stays where it is, goes back to a mark, or
 * takes the beginning over from another session.  A text read in calls that end on multiples of 64 tokens has the bits
 * of one read at once; elsewhere, as between the tokens of an answer, the last bits are others.  So hlwq_session_read
 * marks at such multiples, and hlwq_session_options.whole keeps a session to what was read like that.
 */

/* Remember the state here, if options.prefix_bytes allows it; the least recently used mark makes room. */
HLWQ_API hlwq_status hlwq_session_mark(hlwq_session *session, hlwq_error *err);

/* How many of `ids` a seek would keep. */
HLWQ_API size_t hlwq_session_known(const hlwq_session *session, const int32_t *ids, size_t count);

/*
 * To the longest known beginning of `ids`; *kept = its length: the tokens from there on are to be read.  All of them
 * are kept only where the session is there already, so there are always logits in the end.
 */
HLWQ_API hlwq_status hlwq_session_seek(hlwq_session *session, const int32_t *ids, size_t count, size_t *kept,
                                       hlwq_error *err);

/*
 * Seek, then read the rest.  On the way it marks the last multiple of 64 up to each of `edges`, ascending: the numbers
 * of ids after which the next text may part from this one, such as the end of the last message.
 */
HLWQ_API hlwq_status hlwq_session_read(hlwq_session *session, const int32_t *ids, size_t count, const size_t *edges,
                                       size_t n_edges, size_t *kept, hlwq_error *err);

/*
 * Everything a session is, to a file that takes the place of an old one only when it is complete: tokens, keys and
 * values, states, logits, sampling.  `note` (NULL = none) is a text of the caller's, kept beside them.
 */
HLWQ_API hlwq_status hlwq_session_save(const hlwq_session *session, const char *path, const char *note,
                                       hlwq_error *err);

/*
 * Goes on from there: the tokens that follow are those that would have followed.  Only with the same model, kind of
 * device and way to keep keys and values; the context may be another one that is large enough.  What is refused leaves
 * the session as it was.  *note (NULL = not wanted) is allocated (hlwq_free), NULL where none was saved.  Statistics
 * start again.
 */
HLWQ_API hlwq_status hlwq_session_load(hlwq_session *session, const char *path, char **note, hlwq_error *err);

/* Whether a file says that it is a session. */
HLWQ_API bool hlwq_is_session(const char *path);

/* ---- convert -------------------------------------------------------------------------------- */

/*
 * What a conversion did.  Reading, making and writing overlap, and threads read and make at the same time; seconds are
 * those of all of them together and add up to more than the whole.
 */
typedef struct hlwq_convert_report {
    uint64_t read_bytes, written_bytes, peak_bytes; /* the last: of memory, at most */
    double seconds, read_seconds, make_seconds, write_seconds;
} hlwq_convert_report;

/*
 * An interrupted conversion leaves OUTPUT.work/; the same call goes on from there and writes the same bytes.
 */
typedef struct hlwq_convert_options {
    const char *source;  /* a Hugging Face directory, a GGUF file; with `to` a container too */
    const char *output;  /* the .hlwq file to write, which appears only when complete; with `to` a directory */
    const char *to;      /* "compressed-tensors", "gptq", "bf16": a directory for other programs; NULL = a container */
    uint32_t bits;       /* 2..6; 0 = keep what the source has */
    const char *format;  /* INT4 instead: "I4", "I4Z", "I4G64", "I4G64Z"; NULL = HLWQ of `bits` bits */
    uint32_t head_bits;  /* lm_head: 2..6, 16; 0 = 6, or as the source where `bits` is 0 */
    uint32_t embed_bits; /* embeddings: likewise */
    uint32_t threads;    /* 0 = one per usable core */
    bool overwrite;      /* replace an existing output */
    bool verify; /* compare the weights of what was written with the source's; the log tells how near they are */
    uint64_t keep_every_bytes;   /* how much an interruption may lose; 0 = 256 MiB */
    hlwq_convert_report *report; /* filled on success; may be NULL */
    hlwq_log_fn log;
    hlwq_progress_fn progress;
    void *user;
} hlwq_convert_options;

HLWQ_API hlwq_convert_options hlwq_convert_options_default(void);
HLWQ_API hlwq_status hlwq_convert(const hlwq_convert_options *options, hlwq_error *err);

/* ---- quantize ------------------------------------------------------------------------------- */

/* Whether inputs of matrices get scales by what they are like (AWQ, as EOQ v3 has it), and what is done with them. */
typedef enum hlwq_awq {
    HLWQ_AWQ_OFF,
    HLWQ_AWQ_ROUND, /* weights are scaled and rounded, as such files are made */
    HLWQ_AWQ_FIT    /* scaled, then fitted as without */
} hlwq_awq;

/*
 * As convert, with codes chosen by what the matrices read when a text goes through the model: slower, and closer to the
 * checkpoint.  One layer is in memory at a time.
 */
typedef struct hlwq_quantize_options {
    const char *source;             /* a Hugging Face directory: BF16, F16 or F32 */
    const char *output;             /* the .hlwq file to write; appears only when complete */
    const char *calibration;        /* a text file like what the model will read */
    double bits;                    /* of a weight, 2..6; not whole: each kind of matrix gets its own width */
    const char *format;             /* "I4" or "I4G64" instead: integers, in the matrices' own basis; NULL = HLWQ */
    uint64_t target_bytes;          /* instead: of the file, about; 0 = as `bits` says */
    uint32_t head_bits, embed_bits; /* as for convert */
    uint32_t tokens;                /* of the text to use; 0 = 65536 */
    uint32_t window;                /* read at a time, each from nothing; at most 512, 0 = 256 */
    uint32_t sweeps;                /* rounds in which single codes and norms are improved */
    float damping;      /* of what a matrix was seen to read: part of its mean that is added to the diagonal */
    float follow;       /* how far a matrix makes up for errors in what it reads, 0..1 */
    float catch_up;     /* how far one that adds to the residual stream makes up for errors in that, 0..1 */
    float blend_tokens; /* of the whole layer that an expert's own are mixed with */
    hlwq_awq awq;       /* with a whole number of bits, without `format` */
    uint32_t threads;   /* 0 = one per usable core; the file does not depend on it */
    bool overwrite;     /* replace an existing output */
    hlwq_log_fn log;
    hlwq_progress_fn progress;
    void *user;
} hlwq_quantize_options;

HLWQ_API hlwq_quantize_options hlwq_quantize_options_default(void);
HLWQ_API hlwq_status hlwq_quantize(const hlwq_quantize_options *options, hlwq_error *err);

/* ---- measuring ------------------------------------------------------------------------------ */

typedef struct hlwq_synth_options {
    const char *like;    /* geometry: "9b", "27b", "35b-a3b" */
    const char *output;  /* the .hlwq file to write; appears only when complete */
    uint32_t layers;     /* 0 = all */
    uint32_t bits;       /* 2..6 */
    const char *format;  /* INT4 instead, as for convert; NULL = HLWQ of `bits` bits */
    uint32_t vocab;      /* 0 = the real one */
    uint32_t head_bits;  /* 2..6; 0 = 6 */
    uint32_t embed_bits; /* likewise */
    bool mtp;            /* with an MTP head */
    bool dry;            /* geometry only: all weights zero, and the file takes next to no room on the disk */
    uint64_t seed;
    uint32_t threads;
    bool overwrite;
    hlwq_progress_fn progress;
    void *user;
} hlwq_synth_options;

/* A container of real geometry with random weights, for measuring speed. It has no tokenizer. */
HLWQ_API hlwq_synth_options hlwq_synth_options_default(void);
HLWQ_API hlwq_status hlwq_synth(const hlwq_synth_options *options, hlwq_error *err);

/*
 * Rate at which the engine's threads can read this machine's memory, bytes per second, measured now: takes 512 MiB for
 * a moment, beside the budget.
 */
HLWQ_API hlwq_status hlwq_engine_bandwidth(hlwq_engine *engine, double *bytes_per_second, hlwq_error *err);

/* One line of a sweep over the products of this build: `tokens` tokens against a matrix of `rows` x `cols` weights. */
typedef struct hlwq_product_speed {
    const char *isa;    /* "ref", "avx2", "avx512" */
    const char *format; /* "Q5", "I4G64" */
    uint32_t rows, cols, tokens;
    double seconds;                 /* of one product */
    double bytes_per_second;        /* of weights read */
    double weights_per_second;      /* times tokens */
    double memory_bytes_per_second; /* this machine's read rate, measured before the sweep */
} hlwq_product_speed;

typedef struct hlwq_product_options {
    const char *isa;         /* one of them only; NULL = all that this machine has */
    const char *format;      /* likewise */
    uint32_t threads;        /* 0 = one per usable core */
    uint32_t tokens;         /* 0 = 1, 4 and 64 */
    uint64_t resident_bytes; /* weights per pass: 256 MiB reads main memory */
    /* Called after each measurement; false stops the sweep. */
    bool (*each)(void *user, const hlwq_product_speed *speed);
    void *user;
} hlwq_product_options;

HLWQ_API hlwq_product_options hlwq_product_options_default(void);
HLWQ_API hlwq_status hlwq_measure_products(const hlwq_product_options *options, hlwq_error *err);

typedef enum hlwq_stage {
    HLWQ_STAGE_EMBED,
    HLWQ_STAGE_ATTENTION,
    HLWQ_STAGE_DELTANET,
    HLWQ_STAGE_ROUTER,
    HLWQ_STAGE_EXPERTS,
    HLWQ_STAGE_DENSE,
    HLWQ_STAGE_HEAD,
    HLWQ_STAGE_WAIT,  /* for a layer of a dense model that is being read; experts wait within their stage */
    HLWQ_STAGE_DRAFT, /* all of a draft head */
    HLWQ_STAGE_COUNT
} hlwq_stage;

/* Seconds spent in each stage by all sessions since the last call with `reset`. */
HLWQ_API void hlwq_engine_stages(hlwq_engine *engine, double seconds[HLWQ_STAGE_COUNT], bool reset);

#ifdef __cplusplus
}
#endif
#endif
