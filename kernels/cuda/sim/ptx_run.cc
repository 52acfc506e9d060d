/*
 * kernels/cuda/sim/ptx_run.cc - a block's warps run its PTX until each thread has ended.
 *
 * A warp runs until all its lanes wait or have ended, then the next one does; order and seed choose which, and which
 * of several groups of lanes goes first where they have parted: up takes the earliest instruction, at which lanes find
 * each other again, down the latest, shuffle any.  A block in which lanes sleep until memory changes is suspended.
 */
#include "kernels/cuda/sim/ptx.h"

#include <stdarg.h>
#include <stdio.h>

static ptx_block *unused;

/* ---- faults ---- */

void ptx_fault(ptx_warp *w, uint32_t lanes, cudaError_t e, const char *format, ...)
{
    char said[200], what[640];
    va_list args;
    va_start(args, format);
    vsnprintf(said, sizeof said, format, args);
    va_end(args);
    const ptx_insn *i = w->current;
    ptx_block *b = w->block;
    snprintf(what, sizeof what, " %s:%u (source line %u) %.*s: %s", b->f->module->file, i->line, i->source_line,
             i->text ? (int)i->text->opcode.n : 0, i->text ? i->text->opcode.at : "", said);
    uint32_t lane = lanes ? (uint32_t)__builtin_ctz(lanes) : 0;
    sim_note_fault(e, b->sim, &b->sim->thread[w->id * 32 + lane], what);
    longjmp(b->fault, 1);
}

void ptx_need(ptx_warp *w, uint32_t slot)
{
    if (w->act & ~w->def[slot])
        ptx_fault(w, w->act & ~w->def[slot], cudaErrorLaunchFailure, "a register is used that has no value");
}

void ptx_need_pred(ptx_warp *w, uint32_t pred)
{
    if (w->act & ~w->pred_def[pred])
        ptx_fault(w, w->act & ~w->pred_def[pred], cudaErrorLaunchFailure, "a predicate is used that has no value");
}

void ptx_do_nothing(ptx_warp *, const ptx_insn *)
{
}

void ptx_trap(ptx_warp *w, const ptx_insn *)
{
    ptx_fault(w, w->act, cudaErrorLaunchFailure, "the kernel gives up");
}

/* ---- a warp ---- */

static void step_to(ptx_warp *w, uint32_t lanes, uint32_t pc)
{
    for (uint32_t rest = lanes; rest; rest &= rest - 1)
        w->pc[__builtin_ctz(rest)] = pc;
}

/* The lanes at one instruction that go next. */
static uint32_t choose_group(const ptx_warp *w, uint32_t *pc)
{
    uint32_t chosen = 0;
    if (sim_options.order == HS_SIM_SHUFFLE) {
        uint32_t skip = sim_random_below((uint32_t)__builtin_popcount(w->running)), rest = w->running;
        while (skip--)
            rest &= rest - 1;
        *pc = w->pc[__builtin_ctz(rest)];
    } else {
        bool down = sim_options.order == HS_SIM_DOWN;
        *pc = down ? 0 : ~0u;
        for (uint32_t rest = w->running; rest; rest &= rest - 1) {
            uint32_t at = w->pc[__builtin_ctz(rest)];
            *pc = down ? (at > *pc ? at : *pc) : (at < *pc ? at : *pc);
        }
    }
    for (uint32_t rest = w->running; rest; rest &= rest - 1)
        if (w->pc[__builtin_ctz(rest)] == *pc)
            chosen |= rest & -rest;
    return chosen;
}

static void lanes_leave(ptx_warp *w, uint32_t lanes)
{
    w->running &= ~lanes;
    w->done |= lanes;
    w->block->sim->n_ended += (uint32_t)__builtin_popcount(lanes);
    for (uint32_t rest = lanes; rest; rest &= rest - 1)
        w->n_pending[__builtin_ctz(rest)] = 0;
    for (uint32_t rest = w->at_meeting; rest; rest &= rest - 1) {
        uint32_t lane = (uint32_t)__builtin_ctz(rest);
        const ptx_insn *at = &w->block->f->insn[w->pc[lane]];
        if (ptx_reg<uint32_t>(w, at->kind == PTX_COLLECTIVE && at->n == 1 ? at->v[0] : at->b)[lane] & lanes)
            ptx_fault(w, lanes, cudaErrorLaunchFailure, "the lane left while lane %u waits for it in line %u", lane,
                      at->line);
    }
    if (w->block->n_barrier)
        ptx_fault(w, lanes, cudaErrorLaunchFailure, "the thread left while %u others wait at the barrier in line %u",
                  w->block->n_barrier, w->block->barrier->line);
}

/* Lanes that are there, at an instruction of the same opcode and with the same mask; true when all of it are. */
static bool meet(ptx_warp *w, const ptx_insn *i)
{
    const uint32_t *mask_of = ptx_reg<uint32_t>(w, i->n == 1 ? i->v[0] : i->b);
    uint32_t lane = (uint32_t)__builtin_ctz(w->act), mask = mask_of[lane], same = 0;
    ptx_need(w, i->n == 1 ? i->v[0] : i->b);
    for (uint32_t rest = w->act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        if (!(mask_of[l] >> l & 1))
            ptx_fault(w, rest, cudaErrorLaunchFailure, "mask 0x%08x does not name lane %u, which calls it", mask_of[l],
                      l);
        if (mask_of[l] == mask)
            same |= 1u << l;
    }
    if (mask & ~w->present)
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "mask 0x%08x names absent lane %d", mask,
                  __builtin_ctz(mask & ~w->present));
    if (mask & w->done)
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "mask 0x%08x names lane %d, which has left", mask,
                  __builtin_ctz(mask & w->done));
    for (uint32_t rest = w->at_meeting & mask; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        const ptx_insn *other = &w->block->f->insn[w->pc[l]];
        uint32_t others = ptx_reg<uint32_t>(w, other->n == 1 ? other->v[0] : other->b)[l];
        bool alike = i->aligned ? other == i : other->run == i->run && other->how == i->how;
        if (alike && others == mask)
            same |= 1u << l;
        else if (others & w->act)
            ptx_fault(w, w->act, cudaErrorLaunchFailure, "mask 0x%08x, but lane %u waits in line %u with mask 0x%08x",
                      mask, l, other->line, others);
    }
    if (mask & w->at_barrier)
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "mask 0x%08x names lane %d, which waits at a barrier", mask,
                  __builtin_ctz(mask & w->at_barrier));
    w->running &= ~w->act;
    w->at_meeting |= w->act;
    return (mask & ~same) == 0;
}

/* Of the lanes that wait, whole masks combine; lanes of one instruction may have several masks. */
static void collective(ptx_warp *w, const ptx_insn *i, uint32_t pc)
{
    uint32_t came = w->act;
    step_to(w, came, pc);
    for (uint32_t left = came; left;) {
        uint32_t slot = i->n == 1 ? i->v[0] : i->b, mask = ptx_reg<uint32_t>(w, slot)[__builtin_ctz(left)];
        uint32_t group = 0;
        for (uint32_t rest = left; rest; rest &= rest - 1)
            if (ptx_reg<uint32_t>(w, slot)[__builtin_ctz(rest)] == mask)
                group |= rest & -rest;
        w->act = group;
        left &= ~group;
        if (!meet(w, i))
            continue;
        w->act = mask;
        w->mixed = true;
        i->run(w, i);
        w->mixed = false;
        w->at_meeting &= ~mask;
        w->running |= mask;
        for (uint32_t rest = mask; rest; rest &= rest - 1)
            w->pc[__builtin_ctz(rest)]++;
    }
}

static void barrier_ends(ptx_block *b)
{
    for (uint32_t k = 0; k < b->n_warps; k++) {
        ptx_warp *w = &b->warp[k];
        const ptx_insn *i = &b->f->insn[w->pc[0]];
        uint32_t votes = b->barrier_votes;
        bool p = i->how == 2 ? votes == b->n_threads : votes > 0;
        for (int l = 0; l < 32 && i->how == 1; l++)
            ptx_reg<uint32_t>(w, i->d)[l] = votes;
        if (i->how == 1)
            w->def[i->d] = ~0u;
        if (i->how > 1) {
            w->pred[i->pd] = p ? ~0u : 0;
            w->pred_def[i->pd] = ~0u;
        }
        w->at_barrier = 0;
        w->running = w->present;
        step_to(w, w->present, w->pc[0] + 1);
    }
    b->n_barrier = b->barrier_votes = 0;
    b->barrier = nullptr;
    b->order++;
}

static void barrier(ptx_warp *w, const ptx_insn *i, uint32_t pc)
{
    ptx_block *b = w->block;
    if (b->sim->n_ended)
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "a barrier, but %u threads of the block have left",
                  b->sim->n_ended);
    if (w->at_barrier && &b->f->insn[w->pc[__builtin_ctz(w->at_barrier)]] != i)
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "a barrier, but lane %d of the warp waits at the one in line %u",
                  __builtin_ctz(w->at_barrier), b->f->insn[w->pc[__builtin_ctz(w->at_barrier)]].line);
    if (b->barrier && b->barrier->how != i->how)
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "a barrier, but %u threads wait at another kind, in line %u",
                  b->n_barrier, b->barrier->line);
    if (i->how) {
        ptx_need_pred(w, i->pa);
        uint32_t p = i->pa_negated ? ~w->pred[i->pa] : w->pred[i->pa];
        b->barrier_votes += (uint32_t)__builtin_popcount(p & w->act);
    }
    b->barrier = i;
    step_to(w, w->act, pc);
    w->running &= ~w->act;
    w->at_barrier |= w->act;
    b->n_barrier += (uint32_t)__builtin_popcount(w->act);
    if (b->n_barrier == b->n_threads)
        barrier_ends(b);
}

/* Everything that is not one step further; false: choose again who goes on. */
static bool control(ptx_warp *w, const ptx_insn *i, uint32_t active, uint32_t *pc)
{
    switch (i->kind) {
    case PTX_LABEL:
        if (active == w->running) {
            ++*pc;
            return true;
        }
        step_to(w, active, *pc + 1); /* the others here have stepped over the label, too */
        return false;
    case PTX_BRANCH: {
        uint32_t stay = active & ~w->act;
        if (active == w->running && (!stay || !w->act)) {
            *pc = stay ? *pc + 1 : i->target;
            return true;
        }
        step_to(w, w->act, i->target);
        step_to(w, stay, *pc + 1);
        return false;
    }
    case PTX_EXIT:
        step_to(w, active & ~w->act, *pc + 1);
        lanes_leave(w, w->act);
        return false;
    case PTX_COLLECTIVE:
        step_to(w, active & ~w->act, *pc + 1);
        if (w->act == w->present && active == w->running && ptx_whole_warp(w, i)) {
            i->run(w, i);
            ++*pc;
            return true;
        }
        collective(w, i, *pc);
        return false;
    case PTX_BARRIER:
        step_to(w, active & ~w->act, *pc + 1);
        barrier(w, i, *pc);
        return false;
    case PTX_SLEEP:
        step_to(w, active, *pc + 1);
        w->running &= ~w->act;
        w->asleep |= w->act;
        return false;
    default:
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "the executor does not know this instruction%s",
                  i->text && memmem(i->text->opcode.at, i->text->opcode.n, ".approx", 7)
                      ? ": what it gives is written down nowhere"
                      : "");
    }
}

static void run_warp(ptx_warp *w)
{
    const ptx_insn *insn = w->block->f->insn;
    const uint32_t *def = w->def;
    while (w->running) {
        uint32_t pc, active = choose_group(w, &pc);
        for (;; sim_stats.ptx_steps++) {
            const ptx_insn *i = insn + pc;
            w->current = i;
            w->act = active;
            if (i->guard) {
                ptx_need_pred(w, i->guard);
                w->act &= i->guard_negated ? ~w->pred[i->guard] : w->pred[i->guard];
                if (!w->act && i->kind != PTX_BRANCH) {
                    pc++;
                    continue;
                }
            }
            if (i->kind == PTX_PLAIN) {
                uint32_t has = def[i->a] & def[i->b] & def[i->c];
                for (uint32_t k = i->n_out; k < i->n; k++)
                    has &= def[i->v[k]];
                if (w->act & ~has)
                    ptx_fault(w, w->act & ~has, cudaErrorLaunchFailure, "a register is used that has no value");
                i->run(w, i);
                w->def[i->d] |= w->act;
                pc++;
            } else if (i->kind == PTX_CARRIES) {
                i->run(w, i);
                pc++;
            } else if (!control(w, i, active, &pc)) {
                break;
            }
        }
    }
}

/* ---- a block ---- */

static void bind(ptx_warp *w, const ptx_function *f)
{
    uint64_t bytes = (uint64_t)f->slots * 128;
    if (bytes > w->reg_bytes) {
        free(w->reg);
        free(w->def);
        w->reg = static_cast<uint8_t *>(aligned_alloc(128, bytes));
        w->def = static_cast<uint32_t *>(sim_alloc(f->slots * sizeof *w->def));
        if (!w->reg)
            abort();
        w->reg_bytes = bytes;
        w->bound = nullptr;
    }
    free(w->pred);
    w->pred = static_cast<uint32_t *>(sim_alloc(2 * f->predicates * sizeof *w->pred));
    w->pred_def = w->pred + f->predicates;
    w->bound = f;
    memset(w->reg, 0, 128);
    for (uint32_t k = 0; k < f->n_constants; k++) {
        const auto *c = &f->constant[k];
        for (uint32_t l = 0; l < 32; l++)
            if (c->wide)
                ptx_reg<uint64_t>(w, c->slot)[l] = c->value;
            else
                ptx_reg<uint32_t>(w, c->slot)[l] = (uint32_t)c->value;
    }
}

static void set_specials(ptx_warp *w, const sim_block *s)
{
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t id = w->id * 32 + l, below = (1u << l) - 1;
        const uint32_t v[PTX_LANEMASK_GT + 1] = {0,
                                                 id % s->at.block.x,
                                                 id / s->at.block.x % s->at.block.y,
                                                 id / s->at.block.x / s->at.block.y,
                                                 s->at.block.x,
                                                 s->at.block.y,
                                                 s->at.block.z,
                                                 s->at.block_index.x,
                                                 s->at.block_index.y,
                                                 s->at.block_index.z,
                                                 s->at.grid.x,
                                                 s->at.grid.y,
                                                 s->at.grid.z,
                                                 l,
                                                 w->id,
                                                 below,
                                                 below | 1u << l,
                                                 1u << l,
                                                 ~below,
                                                 ~below & ~(1u << l)};
        for (uint32_t k = 0; k <= PTX_LANEMASK_GT; k++)
            ptx_reg<uint32_t>(w, k)[l] = v[k];
    }
}

static void fresh_warp(ptx_block *b, uint32_t id)
{
    ptx_warp *w = &b->warp[id];
    const ptx_function *f = b->f;
    if (w->bound != f)
        bind(w, f);
    memset(w->def, 0, f->slots * sizeof *w->def);
    memset(w->def, 0xFF, PTX_FIRST_SLOT * sizeof *w->def);
    for (uint32_t k = 0; k < f->n_constants; k++)
        w->def[f->constant[k].slot] = ~0u;
    memset(w->pred, 0, 2 * f->predicates * sizeof *w->pred);
    w->pred[0] = w->pred_def[0] = w->pred_def[1] = ~0u;
    w->block = b;
    w->id = id;
    uint32_t lanes = b->n_threads - 32 * id;
    w->present = w->running = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    w->done = w->at_meeting = w->at_barrier = w->asleep = 0;
    w->carry = w->order = 0;
    w->mixed = false;
    memset(w->pc, 0, sizeof w->pc);
    memset(w->n_pending, 0, sizeof w->n_pending);
    memset(w->group, 0, sizeof w->group);
    memset(w->watched, 0, sizeof w->watched);
    set_specials(w, b->sim);
}

/* Zeroed by alloc; grows only. */
static void room(uint8_t **p, uint64_t *cap, uint64_t bytes)
{
    if (*cap >= bytes)
        return;
    free(*p);
    *cap = (bytes + 4095) / 4096 * 4096;
    *p = static_cast<uint8_t *>(aligned_alloc(4096, *cap));
    if (!*p)
        abort();
}

ptx_block *ptx_block_begin(sim_block *s)
{
    ptx_block *b = unused;
    if (b)
        unused = b->next;
    else
        b = static_cast<ptx_block *>(sim_alloc(sizeof *b));
    b->sim = s;
    b->f = s->launch->ptx;
    b->param = static_cast<const uint8_t *>(s->launch->args);
    b->n_threads = s->n;
    b->n_barrier = b->barrier_votes = b->order = 0;
    b->barrier = nullptr;
    b->shared_bytes = (b->f->dynamic_at + s->launch->shared_bytes + 15) / 16 * 16;
    b->shared_end = s->launch->shared_bytes ? b->f->dynamic_at + s->launch->shared_bytes : b->f->shared_bytes;
    room(&b->shared, &b->shared_cap, b->shared_bytes + 16);
    memset(b->shared, 0xFF, b->shared_bytes);
    room(&b->local, &b->local_cap, b->f->local_bytes * b->n_threads + 16);
    memset(b->local, 0xFF, b->f->local_bytes * b->n_threads);
    uint32_t n = (b->n_threads + 31) / 32;
    if (!b->warp)
        b->warp = static_cast<ptx_warp *>(sim_alloc(32 * sizeof *b->warp));
    b->n_warps = n;
    for (uint32_t k = 0; k < n; k++)
        fresh_warp(b, k);
    ptx_shared_fresh(b);
    return b;
}

static bool woken(const ptx_warp *w, uint32_t lane)
{
    return !w->watched[lane] || __atomic_load_n(w->watched[lane], __ATOMIC_ACQUIRE) != w->watched_value[lane];
}

bool ptx_block_can_run(const ptx_block *b)
{
    for (uint32_t k = 0; k < b->n_warps; k++) {
        const ptx_warp *w = &b->warp[k];
        for (uint32_t rest = w->asleep; rest; rest &= rest - 1)
            if (w->running || woken(w, (uint32_t)__builtin_ctz(rest)))
                return true;
    }
    return false;
}

static bool wake(ptx_block *b)
{
    bool any = false;
    for (uint32_t k = 0; k < b->n_warps; k++) {
        ptx_warp *w = &b->warp[k];
        for (uint32_t rest = w->asleep; rest; rest &= rest - 1)
            if (woken(w, (uint32_t)__builtin_ctz(rest))) {
                w->asleep &= ~(rest & -rest);
                w->running |= rest & -rest;
                any = true;
            }
    }
    return any;
}

static void note_deadlock(ptx_block *b)
{
    char what[200] = ": deadlock";
    for (uint32_t k = 0; k < b->n_warps; k++) {
        const ptx_warp *w = &b->warp[k];
        uint32_t waits = w->at_meeting | w->at_barrier;
        if (waits) {
            const ptx_insn *i = &b->f->insn[w->pc[__builtin_ctz(waits)]];
            snprintf(what, sizeof what, ": deadlock: lanes 0x%08x of warp %u wait at %.*s in line %u", waits, k,
                     i->text ? (int)i->text->opcode.n : 0, i->text ? i->text->opcode.at : "", i->line);
            break;
        }
    }
    sim_note_fault(cudaErrorLaunchFailure, b->sim, nullptr, what);
}

sim_block_end ptx_block_run(ptx_block *b)
{
    if (setjmp(b->fault))
        return SIM_BLOCK_FAULT;
    wake(b);
    for (;;) {
        bool ran = false, asleep = false;
        uint32_t first = sim_options.order == HS_SIM_SHUFFLE ? sim_random_below(b->n_warps) : 0;
        for (uint32_t k = 0; k < b->n_warps; k++) {
            uint32_t at = sim_options.order == HS_SIM_DOWN ? b->n_warps - 1 - k : (k + first) % b->n_warps;
            if (b->warp[at].running) {
                run_warp(&b->warp[at]);
                ran = true;
            }
            asleep |= b->warp[at].asleep != 0;
        }
        if (b->sim->n_ended == b->n_threads)
            return SIM_BLOCK_DONE;
        if (ran)
            continue;
        if (!asleep) {
            note_deadlock(b);
            return SIM_BLOCK_FAULT;
        }
        if (!wake(b))
            return SIM_BLOCK_SUSPENDED;
    }
}

void ptx_forget_functions(void)
{
    for (ptx_block *b = unused; b; b = b->next)
        for (uint32_t k = 0; k < 32; k++)
            b->warp[k].bound = nullptr;
}

void ptx_block_drop(ptx_block *b)
{
    for (uint32_t k = 0; k < b->n_warps; k++)
        memset(b->warp[k].n_pending, 0, sizeof b->warp[k].n_pending);
    b->next = unused;
    unused = b;
}
