/*
 * kernels/cuda/device.h - what the kernels share: weights and activations as they see them, sums in fixed orders, and
 * the launchers of each family.
 *
 * A product is y = W a for one matrix or for a row of matrices of one shape (experts): jobs.  Weights are the planes of
 * base/dtype.h as they lie in the file.  Activations are q8 blocks of 128 in "chunk order": for chunk i = 0..3 and pair
 * p = 0..7 the bytes 16i + 2p, 64 + 16i + 2p, 16i + 2p + 1, 64 + 16i + 2p + 1, so that four codes looked up at once
 * meet the four activations they belong to.  For INT4, which are not rotated and looked up nowhere, bytes keep their
 * order: of chunk i the sixteen bytes from 16i on, then those from 64 + 16i on.
 */
#ifndef HS_KERNELS_CUDA_DEVICE_H
#define HS_KERNELS_CUDA_DEVICE_H

#include "kernels/cuda/gpu.h"
#include "kernels/numeric.h"

extern "C" {
#include "kernels/backend.h"
}

enum { WARP = 32, SEGMENT_BLOCKS = 8, GEMV_TOKENS = 8 /* most that share one decoding in a matrix-vector product */ };

/* Packed matrices of one shape of rows and one codebook. */
typedef struct gpu_format {
    uint32_t blocks, bits; /* of a row; of a code, or GPU_I4.. */
    float scale;           /* of the sums */
    uint32_t table[16];    /* magnitudes k by index, four to a word; Q6: 32 high parts, then 32 low ones */
} gpu_format;

/* INT4 in groups of 128, and of 64: kinds beside the bits of HLWQ's codes. */
enum { GPU_I4 = 7, GPU_I4G64 = 8 };

/* One of them and the tokens it gets. */
typedef struct gpu_job {
    const uint8_t *low, *high;
    const uint16_t *norms;
    const uint8_t *zeros; /* INT4: a zero point a group; NULL = 8 */
    float *y;             /* [..][stride] */
    uint32_t stride;
    uint32_t rows;   /* of the matrix */
    uint32_t first;  /* token rows list[first..first + m - 1], or first.. where there is no list */
    uint32_t m, row; /* result rows row..row + m - 1 */
} gpu_job;

enum { JOBS_INLINE = 4 };

/* Which of them: rotated, for HLWQ; not, for INT4. */
typedef enum gpu_form { GPU_ROTATED, GPU_FLAT, GPU_NO_FORM } gpu_form;

typedef struct gpu_q8 {
    uint32_t *q; /* [rows][blocks][32] */
    uint2 *of;   /* [rows][blocks], FLAT: [rows][blocks][2], halves: the bits of the scale; the sum of the codes */
    gpu_form form;
} gpu_q8;

/* Products of one format: y (+)= W a for each job. */
typedef struct gpu_product {
    gpu_format w;
    gpu_job own[JOBS_INLINE];
    const gpu_job *job;     /* on the card, [jobs]; NULL = `own` */
    uint32_t jobs, m, rows; /* m, rows: the most of a job */
    const uint32_t *list;
    gpu_q8 a;
    bool add; /* y += instead of y = */

    /*
     * Experts that the card found in its table (table.cu), one token: job i is of kind i / picks, of which own[kind]
     * says where it would be if its extent lay at `base`; where[i % picks] is where that lies, 0 = not on the card.
     * Results, and with `spread` the inputs, are in row to[i % picks].
     */
    const uint64_t *where;
    const uint32_t *to;
    uint64_t base;
    uint32_t picks;
    bool spread;
} gpu_product;

/* ---- launchers: a stage each, on a stream, never waiting ------------------------------------- */

cudaError_t gpu_run_product(const gpu_product *p, cudaStream_t s);

/* y[t][r] (+)= W x for F32, F16 and BF16 matrices. */
cudaError_t gpu_run_plain(const hs_matrix *w, const float *x, uint32_t n, float *y, uint64_t stride, bool add,
                          cudaStream_t s);

/* u = norm(x) [n][stride], x [n][cols], and its q8 form where `q.q` is not NULL. */
cudaError_t gpu_run_norm(const float *x, const float *w, uint32_t cols, uint32_t n, float eps, float *u,
                         uint64_t stride, gpu_q8 q, cudaStream_t s);

/* q8 of rows of x; with `up`, of silu(x) * up, which is also stored over x. */
cudaError_t gpu_run_q8(float *x, const float *up, uint32_t cols, uint64_t rows, gpu_q8 q, cudaStream_t s);

/*
 * q8 of n rows of x, those that `list` names where it is not NULL: column c is input order[c] (NULL = its own) times
 * factor[c] (NULL = 1).
 */
cudaError_t gpu_run_gather_q8(const float *x, const uint32_t *list, const uint32_t *order, const float *factor,
                              uint32_t cols, uint32_t n, gpu_q8 q, cudaStream_t s);

/* silu(x) * up over x alone. */
cudaError_t gpu_run_swiglu(float *x, const float *up, uint64_t n, cudaStream_t s);

/* Attention: spans of one query's positions; most tokens whose spans are computed apart. */
enum { GPU_SPANS = 32, GPU_SPAN_TOKENS = 8, GPU_PARTS = GPU_SPAN_TOKENS * GPU_SPANS / 2 };

/* Keys, or values, of a coded page (base/kv_format.h). */
typedef struct gpu_kv_side {
    uint64_t low, high, norms;       /* planes, from the page's first byte */
    uint32_t low_bytes, bits;        /* of a block of 128; of a code, 8 = integers */
    float ascending[16], stored[16]; /* levels, and by code as it is stored */
} gpu_kv_side;

typedef struct gpu_attention {
    const float *q_norm, *k_norm, *rope; /* rope [n][rotary_dims]: cos then sin */
    uint32_t q_heads, kv_heads, head_dim, rotary_dims, first, n;
    uint64_t width; /* of a row of proj: queries and gates by head, keys, values */
    float *proj, *out;
    uint8_t *page; /* `ring` plain pages of one layer, one after another; page b is in place b % ring */
    uint32_t ring;
    uint8_t *coded;                    /* pages in codes, likewise, all in their places */
    uint64_t coded_bytes;              /* of one; 0 = none are */
    const uint64_t *table;             /* on the card: page b of the kind that grows is at table[b * table_step] */
    uint32_t table_step;               /* 0 = there is none: in a row */
    uint32_t coded_first, coded_pages; /* those that this batch makes; of a step the card knows them */
    gpu_kv_side side[2];               /* keys, values */
    float *part;                       /* [GPU_SPAN_TOKENS][q_heads][GPU_SPANS][2 + head_dim] */
    uint32_t from, end;                /* attend: only these pages, after those before them; end 0 = all */
    const uint8_t *window;             /* with them: where they are, one after another; NULL = in their places */
    bool more;                         /* others come after these */
    const uint32_t *at;                /* on the card, [n]: positions of a step; NULL = first.. */
    const hs_bases *text;              /* with it, [n]: what page, coded and table lie behind */
    uint32_t spans;                    /* with it: the most that there may be */
    bool half;
    float eps;
} gpu_attention;

cudaError_t gpu_run_rope_table(const float *inv_freq, float scale, uint32_t rotary_dims, uint32_t first, uint32_t n,
                               float *table, cudaStream_t s);

/* What stages of a step read of its rows: positions, and where their texts are. */
typedef struct gpu_told {
    hs_bases text[HS_CARD_STEP_TOKENS];
    uint32_t at[HS_CARD_STEP_TOKENS], n;
} gpu_told;

/* It goes to text [n] and at [n] on the card, its rotations as above to `table`; rotary_dims 0 = none. */
cudaError_t gpu_run_tell(const float *inv_freq, float scale, uint32_t rotary_dims, const gpu_told *told, float *table,
                         uint32_t *at, hs_bases *text, cudaStream_t s);
cudaError_t gpu_run_append(const gpu_attention *a, cudaStream_t s); /* also codes pages */
cudaError_t gpu_run_attend(const gpu_attention *a,
                           cudaStream_t s);  /* at most GPU_PARTS tokens where pages come apart */
uint32_t gpu_spans_about(uint32_t position); /* at least as many as it has, one of few numbers */

typedef struct gpu_delta {
    const float *conv, *a_log, *dt_bias, *out_norm;
    uint32_t k_heads, v_heads, k_dim, v_dim, taps, channels, n;
    uint32_t texts;           /* each with n tokens, one text's after the other's; 0 = 1 */
    const float *qkv, *b, *a; /* projections; b and a [n][v_heads] */
    float *mix, *z, *out;     /* convolved; of the gate; result [n][v_heads * v_dim] */
    float *raw;               /* of a window: qkv as it was, kept there; NULL = nowhere */
    float *strength, *decay;  /* gates, a row every gate_stride; log-decay */
    uint32_t gate_stride;
    float *state, *conv_state;
    const hs_bases *text; /* on the card, [texts * n]: what state, conv_state and, of a window, raw, mix and gates lie
                            behind; NULL = nothing */
    bool windowed;        /* the last are a window's */
    bool unsure;          /* the state takes the first token's step only, conv_state none */
    float eps;
} gpu_delta;

cudaError_t gpu_run_delta(const gpu_delta *d, cudaStream_t s);

/* After an unsure run: the first n of its tokens, which are in raw, mix and gates, are the text's. */
cudaError_t gpu_run_delta_keep(const gpu_delta *d, cudaStream_t s);

cudaError_t gpu_run_top_k(const float *logits, uint32_t experts, uint32_t used, uint32_t n, int32_t *id, float *weight,
                          cudaStream_t s);

/* Of a step's tokens, all on the card: what the router chose, most probable first, and where the table says it is. */
typedef struct gpu_choice {
    uint64_t *where; /* [tokens][used]; 0 = not on the card */
    float *weight;
    int32_t *id;
    uint32_t *slot; /* of one token how many of the chosen have a lower id: the row of its result */
} gpu_choice;

/* Its parts, in one piece: one copy takes all four. */
static inline gpu_choice gpu_choice_at(void *at, uint32_t picks)
{
    gpu_choice c;
    c.where = static_cast<uint64_t *>(at);
    c.weight = reinterpret_cast<float *>(c.where + picks);
    c.id = reinterpret_cast<int32_t *>(c.weight + picks);
    c.slot = reinterpret_cast<uint32_t *>(c.id + picks);
    return c;
}

cudaError_t gpu_run_choose(const float *logits, uint32_t experts, uint32_t used, const uint64_t *table,
                           const gpu_choice *out, cudaStream_t s);

/* Entries first.. of the table: count of them, from `at` on in steps of `stride`; at 0 = none of them is there. */
typedef struct gpu_entries {
    uint64_t at, stride;
    uint32_t first, count;
} gpu_entries;

enum { GPU_ENTRIES = 16 };

typedef struct gpu_changes {
    gpu_entries one[GPU_ENTRIES];
    uint32_t n;
} gpu_changes;

cudaError_t gpu_run_changes(uint64_t *table, const gpu_changes *changes, cudaStream_t s); /* in their order */

/*
 * The choice of several tokens, by expert as hs_sort_picks has it: where each pick is and its row; list[row] is its
 * token; and a job of each kind for every row: the first row of an expert that is on the card has all of the expert's,
 * other rows' jobs are empty.  `own` says where the matrices would be if the expert lay at `base`.
 */
typedef struct gpu_grouping {
    gpu_job own[3], *job; /* job [3][n * used] */
    gpu_choice choice;
    const uint64_t *table;
    uint32_t *list, *visited; /* visited: experts in all */
    uint64_t base;
    uint32_t n, used;
} gpu_grouping;

cudaError_t gpu_run_grouping(const gpu_grouping *g, cudaStream_t s);

/*
 * part[GPU_BEST_PARTS].y: the id of the largest of n values, ties to the lower one, -1 if none is a number.  Those
 * before it are scratch.
 */
enum { GPU_BEST_PARTS = 64 };
cudaError_t gpu_run_best(const float *x, uint32_t n, uint2 *part, cudaStream_t s);

/*
 * A draw among the first n of x; sample.cu.  `best` is gpu_run_best's part of these.  `key` [n], `info` [n / 4096 + 1]
 * and what `best` has before its last are scratch; *id gets HS_UNDECIDED where it takes more candidates than can be put
 * in order.
 */
enum { GPU_SAMPLE_MOST = 64 * 4096 };
typedef struct gpu_sample_info {
    uint64_t mass;
    uint32_t numbers, kept; /* values that are numbers; of them in `key` */
} gpu_sample_info;
typedef struct gpu_sample {
    const float *x;
    uint32_t n, top_k;
    float scale;
    hs_sampling_rule rule;
    const uint2 *best;
    uint64_t *key;
    gpu_sample_info *info;
    int32_t *id;
} gpu_sample;
cudaError_t gpu_run_sample(const gpu_sample *c, cudaStream_t s);

/* y[id] = the penalised x[id], for ids that occur among the first `usable`. */
cudaError_t gpu_run_penalties(const float *x, float *y, const hs_repeat *repeat, const hs_selection *c, cudaStream_t s);

/* Rows of results that are elsewhere: those of picks whose `where` is 0, once *answered is *turn. */
typedef struct gpu_answers {
    const uint64_t *where; /* [n][used]; NULL = all are in y */
    const float *y;        /* ordinary memory, as all below */
    const uint32_t *answered;
    const uint32_t *turn; /* on the card */
} gpu_answers;

/* x[t] += sum over r of weight[t][r] y[slot[t][r]] + sigmoid(mix[t]) y[shared + t]; mix NULL = no shared expert. */
cudaError_t gpu_run_combine(float *x, const float *y, const uint32_t *slot, const float *weight, uint32_t used,
                            const float *mix, uint64_t shared, uint32_t hidden, uint32_t n,
                            const gpu_answers *elsewhere, cudaStream_t s);

/* Tells the host what was chosen and, if some of it is not on the card, the activations; then that it is its turn. */
typedef struct gpu_question {
    const void *choice; /* of `picks`, as gpu_choice_at has it */
    void *host_choice;
    const float *u; /* [floats] */
    float *host_u;
    const int32_t *guess; /* [guesses]: of the next layer's choice */
    int32_t *host_guess;
    uint32_t *turn; /* on the card: how many there were */
    uint32_t *told; /* ordinary memory: likewise, when all else is there */
    uint32_t picks, floats, guesses;
} gpu_question;
cudaError_t gpu_run_question(const gpu_question *q, cudaStream_t s);

/*
 * The code of each family's kernels, brought to the card before anything else is there: left to a first launch it comes
 * then, takes memory that nobody counted, and may wait for all that the card does.
 */
cudaError_t gpu_load_append(void);
cudaError_t gpu_load_attention(void);
cudaError_t gpu_load_choose(void);
cudaError_t gpu_load_delta(void);
cudaError_t gpu_load_product(void);
cudaError_t gpu_load_rows(void);
cudaError_t gpu_load_sample(void);
cudaError_t gpu_load_split(void);
cudaError_t gpu_load_table(void);
cudaError_t gpu_load_turns(void);

template <class... K> static inline cudaError_t gpu_load(K... kernel)
{
    const void *all[] = {reinterpret_cast<const void *>(kernel)...};
    cudaFuncAttributes is;
    cudaError_t code = cudaSuccess;
    for (const void *each : all)
        code = code == cudaSuccess ? cudaFuncGetAttributes(&is, each) : code;
    return code;
}

#define GPU_TRY(call)                                                                                                  \
    do {                                                                                                               \
        cudaError_t gpu_try_ = (call);                                                                                 \
        if (gpu_try_ != cudaSuccess)                                                                                   \
            return gpu_try_;                                                                                           \
    } while (0)

/* ---- device helpers -------------------------------------------------------------------------- */

/* What lies that far behind `base`. */
template <class T> static __device__ __forceinline__ T *gpu_behind(const void *base, T *distance)
{
    return reinterpret_cast<T *>(reinterpret_cast<uint64_t>(base) + reinterpret_cast<uint64_t>(distance));
}

static __device__ __forceinline__ float warp_sum(float v)
{
    for (int m = 16; m; m /= 2)
        v += __shfl_xor_sync(0xFFFFFFFFu, v, m);
    return v;
}

/* x = H x for a block of 128 (kernels/hlwq.c's hs_wht): v[i] is element 4 lane + i. */
static __device__ __forceinline__ void warp_wht(float (&v)[4], uint32_t lane)
{
    float a = v[0] + v[1], b = v[0] - v[1], c = v[2] + v[3], d = v[2] - v[3];
    v[0] = a + c;
    v[2] = a - c;
    v[1] = b + d;
    v[3] = b - d;
    for (int m = 1; m < WARP; m *= 2)
        for (int i = 0; i < 4; i++) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, v[i], m);
            v[i] = lane & m ? other - v[i] : v[i] + other;
        }
}

static __device__ __forceinline__ float warp_max(float v)
{
    for (int m = 16; m; m /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, m));
    return v;
}

#endif
