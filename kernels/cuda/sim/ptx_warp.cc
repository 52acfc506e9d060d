/*
 * kernels/cuda/sim/ptx_warp.cc - what lanes of a warp do together, and matrix fragments.
 *
 * Written from the PTX ISA, not from warp.cc: where the two agree on a kernel, they agree on what the manual says.
 * Floating-point products of matrices are summed in order of k, each rounded; tensor cores differ in the last bits.
 */
#include "kernels/cuda/sim/ptx.h"

/* The instruction at which a lane came. */
static const ptx_insn *of_lane(const ptx_warp *w, const ptx_insn *i, uint32_t lane)
{
    return w->mixed ? &w->block->f->insn[w->pc[lane]] : i;
}

bool ptx_whole_warp(ptx_warp *w, const ptx_insn *i)
{
    uint32_t slot = i->n == 1 ? i->v[0] : i->b;
    const uint32_t *mask = ptx_reg<uint32_t>(w, slot);
    if (w->present & ~w->def[slot])
        return false;
    for (uint32_t rest = w->present; rest; rest &= rest - 1)
        if (mask[__builtin_ctz(rest)] != w->present)
            return false;
    return true;
}

/* Of each lane, the value of what `which` names, which it must have. */
static void gather(ptx_warp *w, const ptx_insn *i, uint32_t ptx_insn::*which, uint32_t *value)
{
    uint32_t act = w->act;
    for (uint32_t rest = act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest), slot = of_lane(w, i, l)->*which;
        w->act = 1u << l;
        ptx_need(w, slot);
        value[l] = ptx_reg<uint32_t>(w, slot)[l];
    }
    w->act = act;
}

static uint32_t gather_votes(ptx_warp *w, const ptx_insn *i)
{
    uint32_t act = w->act, votes = 0;
    for (uint32_t rest = act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        const ptx_insn *own = of_lane(w, i, l);
        w->act = 1u << l;
        ptx_need_pred(w, own->pa);
        votes |= (w->pred[own->pa] ^ (own->pa_negated ? ~0u : 0)) & 1u << l;
    }
    w->act = act;
    return votes;
}

static void give(ptx_warp *w, const ptx_insn *i, uint32_t lane, uint32_t value)
{
    uint32_t slot = of_lane(w, i, lane)->d;
    ptx_reg<uint32_t>(w, slot)[lane] = value;
    w->def[slot] |= 1u << lane;
}

static void give_pred(ptx_warp *w, const ptx_insn *i, uint32_t lane, bool value)
{
    uint32_t p = of_lane(w, i, lane)->pd;
    if (!p)
        return;
    w->pred[p] = (w->pred[p] & ~(1u << lane)) | (uint32_t)value << lane;
    w->pred_def[p] |= 1u << lane;
}

enum { UP = 1, DOWN, BFLY, IDX };
static void shuffle(ptx_warp *w, const ptx_insn *i)
{
    uint32_t a[32], b[32], c[32], source[32];
    bool inside[32];
    uint32_t given = w->act;
    gather(w, i, &ptx_insn::b, b);
    gather(w, i, &ptx_insn::c, c);
    for (uint32_t rest = given; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest), clamp = c[l] & 31, segment = c[l] >> 8 & 31, by = b[l] & 31;
        uint32_t most = (l & segment) | (clamp & ~segment), least = l & segment, j;
        bool p;
        switch (i->how) {
        case UP:
            j = l - by;
            p = (int32_t)j >= (int32_t)most;
            break;
        case DOWN:
            j = l + by;
            p = j <= most;
            break;
        case BFLY:
            j = l ^ by;
            p = j <= most;
            break;
        default: j = least | (by & ~segment); p = j <= most;
        }
        source[l] = p ? j : l;
        inside[l] = p;
        if (!(given >> source[l] & 1))
            ptx_fault(w, 1u << l, cudaErrorLaunchFailure, "lane %u reads lane %u, which mask 0x%08x does not name", l,
                      source[l], given);
    }
    /* A lane that nobody reads may bring anything; what it reads decides whether there is a value. */
    uint32_t has = 0, own;
    for (uint32_t rest = given; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        own = of_lane(w, i, l)->a;
        a[l] = ptx_reg<uint32_t>(w, own)[l];
        has |= w->def[own] & 1u << l;
    }
    for (uint32_t rest = given; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        give(w, i, l, a[source[l]]);
        if (!(has >> source[l] & 1))
            w->def[of_lane(w, i, l)->d] &= ~(1u << l);
        give_pred(w, i, l, inside[l]);
    }
}

enum { BALLOT = 1, ANY, ALL, UNI };
static void vote(ptx_warp *w, const ptx_insn *i)
{
    uint32_t votes = gather_votes(w, i), act = w->act;
    bool p = i->how == ANY ? votes != 0 : i->how == ALL ? votes == act : votes == act || !votes;
    for (uint32_t rest = act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        if (i->how == BALLOT)
            give(w, i, l, votes);
        else
            give_pred(w, i, l, p);
    }
}

enum { R_ADD = 1, R_MIN, R_MAX, R_UMIN, R_UMAX, R_AND, R_OR, R_XOR };
static void reduce(ptx_warp *w, const ptx_insn *i)
{
    uint32_t a[32];
    gather(w, i, &ptx_insn::a, a);
    uint32_t r = a[__builtin_ctz(w->act)];
    for (uint32_t rest = w->act & (w->act - 1); rest; rest &= rest - 1) {
        uint32_t v = a[__builtin_ctz(rest)];
        switch (i->how) {
        case R_ADD: r += v; break;
        case R_MIN: r = (int32_t)v < (int32_t)r ? v : r; break;
        case R_MAX: r = (int32_t)v > (int32_t)r ? v : r; break;
        case R_UMIN: r = v < r ? v : r; break;
        case R_UMAX: r = v > r ? v : r; break;
        case R_AND: r &= v; break;
        case R_OR: r |= v; break;
        default: r ^= v;
        }
    }
    for (uint32_t rest = w->act; rest; rest &= rest - 1)
        give(w, i, (uint32_t)__builtin_ctz(rest), r);
}

/* Accesses of these lanes before it come before those after it. Of part of a warp it is not followed. */
static void sync_warp(ptx_warp *w, const ptx_insn *)
{
    if (w->act == w->present)
        w->order++;
}

/* ---- mma: fragments as in the PTX ISA, 9.7.14.5 ---- */

static void whole_fragments(ptx_warp *w, const ptx_insn *i, int least_arch)
{
    if (w->act != ~0u)
        ptx_fault(w, w->act, cudaErrorLaunchFailure, "a matrix product of a warp with less than 32 lanes");
    if (sim_options.arch < least_arch)
        ptx_fault(w, w->act, cudaErrorIllegalInstruction, "it needs sm_%d, this is sm_%d", least_arch,
                  sim_options.arch);
    for (uint32_t k = 4; k < 16; k++)
        ptx_need(w, i->v[k]);
}

static int8_t byte_of(ptx_warp *w, uint32_t slot, uint32_t lane, uint32_t n)
{
    return (int8_t)(ptx_reg<uint32_t>(w, slot)[lane] >> (8 * n));
}

/* Element i of a lane's A: row groupID, or groupID + 8 for i in 4..7 and 12..15; column 4 tig + i % 4, + 16 from i = 8
 * on. */
static void mma_s8_16832(ptx_warp *w, const ptx_insn *in)
{
    whole_fragments(w, in, 80);
    int32_t a[16][32], b[32][8], d[16][8];
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t group = l >> 2, tig = l & 3;
        for (uint32_t i = 0; i < 16; i++) {
            bool upper = i < 4 || (i >= 8 && i < 12);
            a[upper ? group : group + 8][tig * 4 + (i & 3) + (i < 8 ? 0 : 16)] = byte_of(w, in->v[4 + i / 4], l, i % 4);
        }
        for (uint32_t i = 0; i < 8; i++)
            b[tig * 4 + (i & 3) + (i < 4 ? 0 : 16)][group] = byte_of(w, in->v[8 + i / 4], l, i % 4);
    }
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++) {
            d[r][c] = 0;
            for (int k = 0; k < 32; k++)
                d[r][c] += a[r][k] * b[k][c];
        }
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = (l >> 2) + (i < 2 ? 0 : 8), column = (l & 3) * 2 + (i & 1);
            ptx_reg<uint32_t>(w, in->v[i])[l] = ptx_reg<uint32_t>(w, in->v[12 + i])[l] + (uint32_t)d[row][column];
        }
    for (int k = 0; k < 4; k++)
        w->def[in->v[k]] |= w->act;
}

static void mma_s8_8816(ptx_warp *w, const ptx_insn *in)
{
    whole_fragments(w, in, 75);
    int32_t a[8][16], b[16][8], d[8][8] = {};
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t i = 0; i < 4; i++) {
            a[l >> 2][(l & 3) * 4 + i] = byte_of(w, in->v[4], l, i);
            b[(l & 3) * 4 + i][l >> 2] = byte_of(w, in->v[8], l, i);
        }
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++)
            for (int k = 0; k < 16; k++)
                d[r][c] += a[r][k] * b[k][c];
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t i = 0; i < 2; i++)
            ptx_reg<uint32_t>(w, in->v[i])[l] =
                ptx_reg<uint32_t>(w, in->v[12 + i])[l] + (uint32_t)d[l >> 2][(l & 3) * 2 + i];
    for (int k = 0; k < 2; k++)
        w->def[in->v[k]] |= w->act;
}

static float half_of(ptx_warp *w, uint32_t slot, uint32_t lane, uint32_t n)
{
    return hs_sim_half_to_float((uint16_t)(ptx_reg<uint32_t>(w, slot)[lane] >> (16 * n)));
}

static void mma_f16_16816(ptx_warp *w, const ptx_insn *in)
{
    whole_fragments(w, in, 80);
    float a[16][16], b[16][8];
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t group = l >> 2, tig = l & 3;
        for (uint32_t i = 0; i < 8; i++) {
            bool upper = i < 2 || (i >= 4 && i < 6);
            a[upper ? group : group + 8][tig * 2 + (i & 1) + (i < 4 ? 0 : 8)] = half_of(w, in->v[4 + i / 2], l, i % 2);
        }
        for (uint32_t i = 0; i < 4; i++)
            b[tig * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = half_of(w, in->v[8 + i / 2], l, i % 2);
    }
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = (l >> 2) + (i < 2 ? 0 : 8), column = (l & 3) * 2 + (i & 1);
            float sum = ptx_reg<float>(w, in->v[12 + i])[l];
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][column];
            ptx_reg<float>(w, in->v[i])[l] = sum;
        }
    for (int k = 0; k < 4; k++)
        w->def[in->v[k]] |= w->act;
}

static const struct {
    const char *opcode;
    ptx_handler run;
    uint16_t how;
    bool aligned;
} known[] = {
    {"shfl.sync.up.b32", shuffle, UP, false},
    {"shfl.sync.down.b32", shuffle, DOWN, false},
    {"shfl.sync.bfly.b32", shuffle, BFLY, false},
    {"shfl.sync.idx.b32", shuffle, IDX, false},
    {"vote.sync.ballot.b32", vote, BALLOT, false},
    {"vote.sync.any.pred", vote, ANY, false},
    {"vote.sync.all.pred", vote, ALL, false},
    {"vote.sync.uni.pred", vote, UNI, false},
    {"redux.sync.add.s32", reduce, R_ADD, false},
    {"redux.sync.add.u32", reduce, R_ADD, false},
    {"redux.sync.min.s32", reduce, R_MIN, false},
    {"redux.sync.max.s32", reduce, R_MAX, false},
    {"redux.sync.min.u32", reduce, R_UMIN, false},
    {"redux.sync.max.u32", reduce, R_UMAX, false},
    {"redux.sync.and.b32", reduce, R_AND, false},
    {"redux.sync.or.b32", reduce, R_OR, false},
    {"redux.sync.xor.b32", reduce, R_XOR, false},
    {"bar.warp.sync", sync_warp, 0, false},
    {"mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", mma_s8_16832, 0, true},
    {"mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32", mma_s8_8816, 0, true},
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", mma_f16_16816, 0, true},
};

ptx_handler ptx_collective_for(ptx_span opcode, uint16_t *how, bool *aligned)
{
    for (const auto &k : known)
        if (ptx_is(opcode, k.opcode)) {
            *how = k.how;
            *aligned = k.aligned;
            return k.run;
        }
    return nullptr;
}
