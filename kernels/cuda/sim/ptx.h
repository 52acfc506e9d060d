/*
 * kernels/cuda/sim/ptx.h - what the PTX executor's files share: kernels as nvcc translated them, run in place of those
 * of the C++ compiler.
 *
 *   ptx_text.cc   a file's text: variables, functions, statements     ptx_build.cc  statements to instructions
 *   ptx_slots.cc  which register lies where                           ptx_load.cc   files, names, parameters
 *   ptx_run.cc    warps, branches, barriers                           ptx_warp.cc   collectives, matrix fragments
 *   ptx_memory.cc loads, stores, atomics, cp.async                    ptx_shared.cc who touched which shared byte
 *   ptx_math.cc   arithmetic; compiled for any machine and again for those with FMA
 *
 * The 32 lanes of a warp that are at the same instruction do it together.  A register is a slot of 32 values (64-bit
 * ones have two slots), a predicate is a mask.  Beside each there is a mask of the lanes that have a value: loads of
 * shared memory that nobody wrote, and registers never written, have none, copies carry that on, and any other use
 * is a fault.  Lanes that part are run one group at a time, and join where they meet at a label.
 */
#ifndef HS_KERNELS_CUDA_SIM_PTX_H
#define HS_KERNELS_CUDA_SIM_PTX_H

#include "kernels/cuda/sim/private.h"

#include <setjmp.h>

struct ptx_warp;
struct ptx_insn;
struct ptx_function;
typedef void (*ptx_handler)(ptx_warp *w, const ptx_insn *i);

/* ---- text ---- */

enum ptx_type {
    PTX_NONE,
    PTX_B8,
    PTX_B16,
    PTX_B32,
    PTX_B64,
    PTX_U8,
    PTX_U16,
    PTX_U32,
    PTX_U64,
    PTX_S8,
    PTX_S16,
    PTX_S32,
    PTX_S64,
    PTX_F16,
    PTX_F32,
    PTX_F64,
    PTX_PRED,
    PTX_TYPES
};
uint32_t ptx_type_bytes(ptx_type t);
ptx_type ptx_type_of(const char *name, size_t n); /* "u32"; PTX_NONE if it is none */

struct ptx_span {
    const char *at;
    uint32_t n;
};
static inline bool ptx_is(ptx_span s, const char *text)
{
    return s.n == strlen(text) && !memcmp(s.at, text, s.n);
}

/* One operand as it stands: a name or number; [name+offset]; {a, b}; not marks !p. */
struct ptx_operand {
    ptx_span name[8]; /* of a vector; else the first */
    uint32_t n;
    int64_t offset;
    bool bracket, vector, negated;
    ptx_span second; /* of d|p */
};

enum { PTX_OPERANDS = 6 };
struct ptx_statement {
    ptx_span label;  /* alone */
    ptx_span opcode; /* "ld.global.v4.u32" */
    ptx_span guard;
    bool guard_negated;
    ptx_operand operand[PTX_OPERANDS];
    uint32_t n_operands;
    uint32_t line, source_line;
    ptx_span declared; /* a directive in a function: its whole text */
};

enum ptx_space { PTX_GENERIC, PTX_GLOBAL, PTX_SHARED, PTX_LOCAL, PTX_PARAM, PTX_CONST };
struct ptx_variable {
    ptx_span name;
    ptx_space space;
    uint64_t bytes, align;
    bool is_extern;
    uint8_t *data; /* GLOBAL and CONST: 64-byte aligned */
    ptx_variable *next;
};
struct ptx_body {
    ptx_span name;
    bool entry, has_body;
    ptx_variable *param, *result; /* in their order */
    ptx_statement *statement;
    uint32_t n, cap;
    uint32_t max_threads; /* .maxntid; 0 = not said */
    ptx_body *next;
};
struct ptx_module {
    char *text;
    char file[256];
    ptx_variable *variable;
    ptx_body *body;
    char trouble[400]; /* what could not be read */
    ptx_module *next;
};
ptx_module *ptx_module_read(const char *text, size_t bytes, const char *file);
void ptx_module_free(ptx_module *m);
ptx_variable *ptx_variable_read(ptx_span text); /* ".shared .align 4 .b8 name[16] = {..}", NULL if it is none */

/* ---- instructions ---- */

enum ptx_kind {
    PTX_PLAIN,   /* its sources must have values; its results have */
    PTX_CARRIES, /* the handler looks after that itself */
    PTX_LABEL,
    PTX_BRANCH,
    PTX_EXIT,
    PTX_COLLECTIVE, /* waits for the lanes of its mask */
    PTX_BARRIER,
    PTX_SLEEP,
    PTX_UNKNOWN /* an instruction that is not understood; a fault where it is met */
};
enum { PTX_NO_SLOT = 0 }; /* slot 0 is zeros; predicate 0 is true, 1 is false */

struct ptx_insn {
    ptx_handler run;
    uint32_t d, a, b, c; /* slots; of predicates their number */
    uint32_t pd, pa;     /* predicates: written, read */
    uint32_t v[16];      /* slots of vectors and fragments: n_out that are written, then those that are read */
    int64_t offset;
    uint32_t guard, target;
    uint32_t line, source_line;
    uint16_t how; /* the handler's own */
    uint8_t kind, n, n_out;
    uint8_t space, bytes;                                              /* of memory; bytes of one element */
    bool guard_negated, pa_negated, aligned, wide_address, only_preds; /* only_preds: a and b are predicates */
    const ptx_statement *text;
};

enum { PTX_CONSTANT = 1 << 30, PTX_FIRST_WIDE = 1 << 28 }; /* before slots are packed: constants, 64-bit registers */

struct ptx_function {
    const ptx_module *module;
    const ptx_body *body;
    char name[160];
    ptx_insn *insn;
    uint32_t n, cap;
    uint32_t narrow, wide, slots, predicates; /* registers of each width; slots of all there is */
    struct {
        uint64_t value;
        uint32_t slot;
        bool wide;
    } * constant;
    uint32_t n_constants, cap_constants;
    uint64_t shared_bytes, dynamic_at, local_bytes, param_bytes;
    struct {
        uint64_t at, bytes, align;
    } param[32], shared[32];
    uint32_t n_params, n_shared;
    uint32_t unknown; /* instructions that are not understood */
    char first_unknown[160];
    ptx_function *next;
};
/* Special registers are slots 1.. of every function. */
enum ptx_special {
    PTX_TID_X = 1,
    PTX_TID_Y,
    PTX_TID_Z,
    PTX_NTID_X,
    PTX_NTID_Y,
    PTX_NTID_Z,
    PTX_CTAID_X,
    PTX_CTAID_Y,
    PTX_CTAID_Z,
    PTX_NCTAID_X,
    PTX_NCTAID_Y,
    PTX_NCTAID_Z,
    PTX_LANEID,
    PTX_WARPID,
    PTX_LANEMASK_LT,
    PTX_LANEMASK_LE,
    PTX_LANEMASK_EQ,
    PTX_LANEMASK_GE,
    PTX_LANEMASK_GT,
    PTX_FIRST_SLOT = 20
};
ptx_function *ptx_function_build(const ptx_module *m, const ptx_body *body);
void ptx_function_free(ptx_function *f);
void ptx_slots_pack(ptx_function *f); /* registers that are not needed at the same time share a slot */

/* What an opcode without address, mask or control does, NULL if it is none of these. */
struct ptx_math {
    const char *opcode;
    ptx_handler run;
    /* d a b c as types: 'w' 32-bit slot, 'd' 64-bit, 'p' predicate, '-' none */
    char shape[6];
    bool carries;
};
const ptx_math *ptx_math_find_base(ptx_span opcode);
const ptx_math *ptx_math_find_fma(ptx_span opcode);
const ptx_math *ptx_math_find(ptx_span opcode);

/* ---- running ---- */

struct ptx_pending {
    uint64_t to;
    const uint8_t *from;
    uint32_t group;
};
struct ptx_warp {
    uint8_t *reg; /* [slots][32] of 4 bytes */
    uint32_t *def;
    uint32_t *pred, *pred_def;
    uint32_t act; /* lanes that do the instruction */
    bool mixed;   /* a collective of lanes at several instructions: pc says which */
    uint32_t carry;
    struct ptx_block *block;
    uint32_t id, present, running, done, at_meeting, at_barrier, asleep;
    uint32_t pc[32];
    uint32_t order; /* of __syncwarp: accesses before it are ordered before those after it */
    const ptx_insn *current;
    ptx_pending *pending[32];
    uint32_t n_pending[32], cap_pending[32], group[32];
    const uint32_t *watched[32]; /* what ld.acquire read last, and what it said */
    uint32_t watched_value[32];
    uint64_t reg_bytes;
    const ptx_function *bound;
};
struct ptx_touch; /* ptx_shared.cc */
struct ptx_block {
    sim_block *sim;
    const ptx_function *f;
    const uint8_t *param;
    ptx_warp *warp;
    uint32_t n_warps, n_barrier, barrier_votes, n_threads, order;
    const ptx_insn *barrier;
    uint8_t *shared, *local;
    ptx_touch *touch;
    uint64_t shared_bytes, shared_end, shared_cap, local_cap, touch_cap;
    jmp_buf fault;
    ptx_block *next;
};
template <class T> static inline T *ptx_reg(ptx_warp *w, uint32_t slot)
{
    return reinterpret_cast<T *>(w->reg + (size_t)slot * 128);
}
void ptx_forget_functions(void); /* pointers to them that are kept for the next block */
[[noreturn]] void ptx_fault(ptx_warp *w, uint32_t lanes, cudaError_t e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void ptx_need(ptx_warp *w, uint32_t slot);
void ptx_need_pred(ptx_warp *w, uint32_t pred);

/* ptx_memory.cc; NULL if the opcode is none of theirs */
ptx_handler ptx_load_for(ptx_type type, bool wide);
ptx_handler ptx_store_for(ptx_type type);
ptx_handler ptx_atomic_for(ptx_span operation, ptx_type type);
void ptx_convert_address(ptx_warp *w, const ptx_insn *i);
void ptx_do_nothing(ptx_warp *w, const ptx_insn *i);
void ptx_trap(ptx_warp *w, const ptx_insn *i);
void ptx_copy_async(ptx_warp *w, const ptx_insn *i);
void ptx_copy_commit(ptx_warp *w, const ptx_insn *i);
void ptx_copy_wait(ptx_warp *w, const ptx_insn *i);
extern uint64_t ptx_memory_version; /* memory.cc counts it up with each block that comes or goes */
bool ptx_memory_range(uint64_t at, uint64_t bytes, uint64_t *from, uint64_t *end);

/* ptx_shared.cc */
enum ptx_access { PTX_READS, PTX_WRITES, PTX_ADDS };
void ptx_shared_fresh(ptx_block *b);
/* Diagnoses races; of a read, whether all its bytes have a value. */
bool ptx_shared_touch(ptx_warp *w, uint32_t lane, uint64_t at, uint32_t bytes, ptx_access how, const void *value);
void ptx_shared_pend(ptx_warp *w, uint32_t lane, uint64_t at, uint32_t bytes, bool pending);

/* ptx_warp.cc: handlers combine for the lanes of w->act, which name each other */
ptx_handler ptx_collective_for(ptx_span opcode, uint16_t *how, bool *aligned);
bool ptx_whole_warp(ptx_warp *w, const ptx_insn *i); /* each lane names all there are */

#endif
