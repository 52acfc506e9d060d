/*
 * kernels/cuda/sim/ptx_slots.cc - which register lies where.
 *
 * nvcc's PTX has a register for every value, thousands of them in an unrolled kernel; ptxas brings them down, and so
 * does this, for the sake of the cache: two registers share a slot if no thread needs both at a time (liveness over
 * basic blocks, then one interval each in the order of the text).  A register that may be read before it was written
 * has its slot alone, so that such a read is seen.  32- and 64-bit registers never share: their columns lie
 * differently, and another lane may be elsewhere.
 */
#include "kernels/cuda/sim/ptx.h"

struct interval {
    uint32_t first, last, reg;
    bool used;
};
struct basic_block {
    uint32_t from, to; /* instructions */
    uint32_t next[2], n_next;
};
struct packer {
    ptx_function *f;
    basic_block *block;
    uint32_t n_blocks, *block_of;
    uint64_t *in, *out, *use, *def;
    uint32_t words;
    interval *live;
};

/* Registers as one row of numbers: narrow ones, then wide ones. */
static bool number_of(const packer *p, uint32_t slot, uint32_t *n)
{
    if (slot >= PTX_CONSTANT || slot < PTX_FIRST_SLOT)
        return false;
    *n = slot >= PTX_FIRST_WIDE ? slot - PTX_FIRST_WIDE + p->f->narrow : slot;
    return true;
}

template <class F> static void each_read(const ptx_insn *i, F f)
{
    if (!i->only_preds) {
        f(i->a);
        f(i->b);
        f(i->c);
    }
    for (uint32_t k = i->n_out; k < i->n; k++)
        f(i->v[k]);
}
template <class F> static void each_write(const ptx_insn *i, F f)
{
    f(i->d);
    for (uint32_t k = 0; k < i->n_out; k++)
        f(i->v[k]);
}

static void find_blocks(packer *p)
{
    ptx_function *f = p->f;
    bool *leader = static_cast<bool *>(sim_alloc(f->n + 1));
    leader[0] = true;
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->insn[i].kind == PTX_BRANCH)
            leader[f->insn[i].target] = true;
        if (f->insn[i].kind == PTX_BRANCH || f->insn[i].kind == PTX_EXIT)
            leader[i + 1] = true;
    }
    p->block_of = static_cast<uint32_t *>(sim_alloc((f->n + 1) * sizeof *p->block_of));
    p->block = static_cast<basic_block *>(sim_alloc((f->n + 1) * sizeof *p->block));
    for (uint32_t i = 0; i < f->n; i++) {
        if (leader[i])
            p->block[p->n_blocks++].from = i;
        p->block[p->n_blocks - 1].to = i + 1;
        p->block_of[i] = p->n_blocks - 1;
    }
    for (uint32_t k = 0; k < p->n_blocks; k++) {
        basic_block *b = &p->block[k];
        const ptx_insn *last = &f->insn[b->to - 1];
        bool goes_on = (last->kind != PTX_BRANCH && last->kind != PTX_EXIT) || last->guard;
        if (goes_on && k + 1 < p->n_blocks)
            b->next[b->n_next++] = k + 1;
        if (last->kind == PTX_BRANCH)
            b->next[b->n_next++] = p->block_of[last->target];
    }
    free(leader);
}

static void find_liveness(packer *p)
{
    size_t all = (size_t)p->n_blocks * p->words;
    p->in = static_cast<uint64_t *>(sim_alloc(4 * all * sizeof *p->in));
    p->out = p->in + all;
    p->use = p->out + all;
    p->def = p->use + all;
    for (uint32_t k = 0; k < p->n_blocks; k++) {
        uint64_t *use = p->use + (size_t)k * p->words, *def = p->def + (size_t)k * p->words;
        for (uint32_t i = p->block[k].from; i < p->block[k].to; i++) {
            const ptx_insn *in = &p->f->insn[i];
            uint32_t r;
            each_read(in, [&](uint32_t s) {
                if (number_of(p, s, &r) && !(def[r / 64] >> r % 64 & 1))
                    use[r / 64] |= 1ull << r % 64;
            });
            each_write(in, [&](uint32_t s) {
                if (!in->guard && number_of(p, s, &r))
                    def[r / 64] |= 1ull << r % 64;
            });
        }
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t k = p->n_blocks; k--;) {
            size_t at = (size_t)k * p->words;
            for (uint32_t j = 0; j < p->words; j++) {
                uint64_t out = 0;
                for (uint32_t e = 0; e < p->block[k].n_next; e++)
                    out |= p->in[(size_t)p->block[k].next[e] * p->words + j];
                uint64_t in = p->use[at + j] | (out & ~p->def[at + j]);
                changed |= in != p->in[at + j];
                p->in[at + j] = in;
                p->out[at + j] = out;
            }
        }
    }
}

static void extend(interval *v, uint32_t at)
{
    if (!v->used) {
        v->first = v->last = at;
        v->used = true;
    }
    v->first = at < v->first ? at : v->first;
    v->last = at > v->last ? at : v->last;
}

static void find_intervals(packer *p, uint32_t n)
{
    for (uint32_t k = 0; k < p->n_blocks; k++)
        for (uint32_t r = 0; r < n; r++) {
            size_t at = (size_t)k * p->words + r / 64;
            if (p->in[at] >> r % 64 & 1)
                extend(&p->live[r], p->block[k].from);
            if (p->out[at] >> r % 64 & 1)
                extend(&p->live[r], p->block[k].to);
        }
    for (uint32_t i = 0; i < p->f->n; i++) {
        auto touch = [&](uint32_t s) {
            uint32_t r;
            if (number_of(p, s, &r))
                extend(&p->live[r], i);
        };
        each_read(&p->f->insn[i], touch);
        each_write(&p->f->insn[i], touch);
    }
    for (uint32_t r = 0; r < n; r++)
        if (p->in[r / 64] >> r % 64 & 1) { /* at the entry: may be read before it was written */
            p->live[r].first = 0;
            p->live[r].last = p->f->n;
        }
}

static int by_first(const void *a, const void *b)
{
    const interval *x = static_cast<const interval *>(a), *y = static_cast<const interval *>(b);
    return x->first != y->first ? (x->first < y->first ? -1 : 1) : (x->reg > y->reg) - (x->reg < y->reg);
}

/* Gives registers from..end of the row slots of `step`, from `first` on; returns the slot after them. */
static uint32_t give_slots(packer *p, uint32_t from, uint32_t end, uint32_t first, uint32_t step, uint32_t *slot)
{
    uint32_t n = end - from, n_slots = 0;
    interval *v = p->live + from;
    uint32_t *until = static_cast<uint32_t *>(sim_alloc(n * sizeof *until));
    qsort(v, n, sizeof *v, by_first);
    for (uint32_t k = 0; k < n; k++) {
        if (!v[k].used)
            continue;
        uint32_t s = 0;
        while (s < n_slots && until[s] >= v[k].first) /* also: a result never lies where a source does */
            s++;
        n_slots += s == n_slots;
        until[s] = v[k].last;
        slot[v[k].reg] = first + s * step;
    }
    free(until);
    return first + n_slots * step;
}

static void give_constants(ptx_function *f)
{
    for (uint32_t k = 0; k < f->n_constants; k++) {
        f->constant[k].slot = f->slots;
        f->slots += f->constant[k].wide ? 2 : 1;
    }
}

void ptx_slots_pack(ptx_function *f)
{
    packer p = {};
    p.f = f;
    uint32_t n = f->narrow + f->wide;
    p.words = (n + 63) / 64;
    p.live = static_cast<interval *>(sim_alloc(n * sizeof *p.live));
    for (uint32_t r = 0; r < n; r++)
        p.live[r].reg = r;
    find_blocks(&p);
    find_liveness(&p);
    find_intervals(&p, n);

    uint32_t *slot = static_cast<uint32_t *>(sim_alloc(n * sizeof *slot));
    f->slots = give_slots(&p, PTX_FIRST_SLOT, f->narrow, PTX_FIRST_SLOT, 1, slot);
    f->slots = give_slots(&p, f->narrow, n, f->slots, 2, slot);
    give_constants(f);
    auto settle = [&](uint32_t *s) {
        uint32_t r;
        if (*s >= PTX_CONSTANT)
            *s = f->constant[*s - PTX_CONSTANT].slot;
        else if (number_of(&p, *s, &r))
            *s = slot[r];
    };
    for (uint32_t k = 0; k < f->n; k++) {
        ptx_insn *i = &f->insn[k];
        settle(&i->d);
        if (!i->only_preds) {
            settle(&i->a);
            settle(&i->b);
            settle(&i->c);
        }
        for (uint32_t j = 0; j < i->n; j++)
            settle(&i->v[j]);
    }
    free(slot);
    free(p.block);
    free(p.block_of);
    free(p.in);
    free(p.live);
}
