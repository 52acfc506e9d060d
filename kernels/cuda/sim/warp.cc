/*
 * kernels/cuda/sim/warp.cc - what the lanes of a warp do together, cp.async, and matrix fragments.
 *
 * A lane that waits leaves its record in the warp.  The last lane of a mask checks that all came to the same line
 * with the same mask, combines, and makes the others ready.
 */
#include "kernels/cuda/sim/private.h"

static void meet(hs_sim_meeting *m)
{
    sim_block *b = sim_running;
    sim_thread *t = sim_self();
    sim_warp *w = &b->warp[t->id / 32];
    uint32_t lane = t->id % 32, me = 1u << lane, mask = m->mask;
    if (!(mask & me))
        sim_fault(cudaErrorLaunchFailure, m->line, "%s: mask 0x%08x does not name lane %u, which calls it", m->what, mask,
                  lane);
    if (mask & ~w->present)
        sim_fault(cudaErrorLaunchFailure, m->line, "%s: mask 0x%08x names absent lane %d", m->what, mask,
                  __builtin_ctz(mask & ~w->present));
    if (mask & w->ended)
        sim_fault(cudaErrorLaunchFailure, m->line, "%s: mask 0x%08x names lane %d, which has left", m->what, mask,
                  __builtin_ctz(mask & w->ended));

    w->lane[lane] = m;
    w->waiting |= me;
    bool all = (mask & ~w->waiting) == 0;
    /* Those who wait for each other agree so far, so one of them speaks for all; the last lane asks each. */
    uint32_t ask = mask & w->waiting & ~me;
    for (uint32_t rest = all ? ask : ask & -ask; rest; rest &= rest - 1) {
        const hs_sim_meeting *other = w->lane[__builtin_ctz(rest)];
        if (other->line == m->line && other->mask == mask && other->combine == m->combine)
            continue;
        if (other->mask & me)
            sim_fault(cudaErrorLaunchFailure, m->line,
                      "%s with mask 0x%08x, but lane %d waits at line %d (%s, mask 0x%08x)", m->what, mask,
                      __builtin_ctz(rest), other->line, other->what, other->mask);
        all = false; /* it does something else with others first */
        break;
    }
    if (!all) {
        sim_pause(t, SIM_AT_WARP, m->line, m->what);
        return;
    }
    m->combine(w->lane, mask);
    w->waiting &= ~mask;
    sim_thread *warp = &b->thread[t->id - lane];
    /* Ascending: a warp runs ahead of the others up to its next barrier. Descending: all warps go step by step. */
    bool ahead = sim_options.order != HS_SIM_DOWN;
    for (int i = 31; i >= 0; i--)
        if (mask & ~me & 1u << i)
            (ahead ? sim_make_ready_first : sim_make_ready)(b, &warp[i]);
}

static void combine_nothing(hs_sim_meeting *const *, uint32_t) {}

static void combine_shuffle(hs_sim_meeting *const *lane, uint32_t mask)
{
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        hs_sim_meeting *m = lane[__builtin_ctz(rest)];
        if (m->argument > 31 || !(mask & 1u << m->argument))
            sim_fault(cudaErrorLaunchFailure, m->line, "%s: lane %d reads lane %u, which mask 0x%08x does not name",
                      m->what, __builtin_ctz(rest), m->argument, mask);
        m->result = lane[m->argument]->value;
    }
}

static void combine_ballot(hs_sim_meeting *const *lane, uint32_t mask)
{
    uint32_t votes = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        votes |= lane[__builtin_ctz(rest)]->value << __builtin_ctz(rest);
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        lane[__builtin_ctz(rest)]->result = votes;
}

static void combine_add(hs_sim_meeting *const *lane, uint32_t mask)
{
    uint32_t sum = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        sum += lane[__builtin_ctz(rest)]->value;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        lane[__builtin_ctz(rest)]->result = sum;
}

uint32_t hs_sim_shuffle(uint32_t mask, uint32_t value, uint32_t from_lane, int line, const char *what)
{
    hs_sim_meeting m = {mask, line, combine_shuffle, what, value, from_lane, 0};
    meet(&m);
    return m.result;
}

uint32_t hs_sim_ballot(uint32_t mask, bool predicate, int line, const char *what)
{
    hs_sim_meeting m = {mask, line, combine_ballot, what, predicate, 0, 0};
    meet(&m);
    return m.result;
}

uint32_t hs_sim_warp_add(uint32_t mask, uint32_t value, int line)
{
    hs_sim_meeting m = {mask, line, combine_add, "gpu_warp_sum_int", value, 0, 0};
    meet(&m);
    return m.result;
}

void hs_sim_warp_sync(uint32_t mask, int line)
{
    hs_sim_meeting m = {mask, line, combine_nothing, "__syncwarp", 0, 0, 0};
    meet(&m);
}

/* ---- cp.async: the bytes move at the wait, as late as the device may move them ---- */

void hs_sim_copy_async(void *shared, const void *global, int line)
{
    sim_thread *t = sim_self();
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16)
        sim_fault(cudaErrorMisalignedAddress, line, "gpu_cp_async16 from %p to %p: not multiples of 16", global, shared);
    if (t->n_copies == t->copies_cap) {
        t->copies_cap = t->copies_cap ? 2 * t->copies_cap : 16;
        t->copy = static_cast<sim_copy *>(realloc(t->copy, t->copies_cap * sizeof *t->copy));
        if (!t->copy)
            abort();
    }
    t->copy[t->n_copies++] = {shared, global, t->copy_group};
}

void hs_sim_copy_commit(void)
{
    sim_self()->copy_group++;
}

/* copy_group is the open group; those below it are committed, and the `newest_left` last of these may stay. */
void hs_sim_copy_wait(uint32_t newest_left)
{
    sim_thread *t = sim_self();
    uint32_t n = 0;
    while (n < t->n_copies && t->copy[n].group + newest_left < t->copy_group) {
        memcpy(t->copy[n].shared, t->copy[n].global, 16);
        n++;
    }
    memmove(t->copy, t->copy + n, (t->n_copies - n) * sizeof *t->copy);
    t->n_copies -= n;
}

/* ---- mma: each lane brings its fragments, the last one multiplies (PTX ISA, "matrix fragments for mma") ---- */

struct mma_meeting {
    hs_sim_meeting meeting; /* first */
    int *d;
    float *df;
    const uint32_t *a, *b;
};

static const mma_meeting *of_lane(hs_sim_meeting *const *lane, int i)
{
    return reinterpret_cast<const mma_meeting *>(lane[i]);
}

static void whole_warp(const hs_sim_meeting *m, int least_arch)
{
    if (sim_options.arch < least_arch)
        sim_fault(cudaErrorIllegalInstruction, m->line, "%s needs sm_%d, this is sm_%d", m->what, least_arch,
                  sim_options.arch);
}

/* A 16 x 32: register r holds row group + 8 (r & 1), columns 16 (r >> 1) + 4 tig ...; B 32 x 8: rows 16 r + 4 tig .... */
static void combine_s8_16832(hs_sim_meeting *const *lane, uint32_t)
{
    int8_t a[16][32], b[32][8];
    for (int l = 0; l < 32; l++) {
        const mma_meeting *m = of_lane(lane, l);
        int group = l / 4, tig = l % 4;
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 4; i++)
                a[group + 8 * (r & 1)][16 * (r >> 1) + 4 * tig + i] = (int8_t)(m->a[r] >> (8 * i));
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < 4; i++)
                b[16 * r + 4 * tig + i][group] = (int8_t)(m->b[r] >> (8 * i));
    }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + 8 * (i >> 1), col = 2 * (l % 4) + (i & 1);
            int *d = &of_lane(lane, l)->d[i];
            for (int k = 0; k < 32; k++)
                *d = (int)((uint32_t)*d + (uint32_t)(a[row][k] * b[k][col]));
        }
}

/* A 8 x 16: row group, columns 4 tig ...; B 16 x 8: rows 4 tig .... */
static void combine_s8_8816(hs_sim_meeting *const *lane, uint32_t)
{
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 2; i++) {
            int row = l / 4, col = 2 * (l % 4) + i;
            int *d = &of_lane(lane, l)->d[i];
            for (int k = 0; k < 16; k++) {
                int8_t a = (int8_t)(*of_lane(lane, 4 * row + k / 4)->a >> (8 * (k % 4)));
                int8_t b = (int8_t)(*of_lane(lane, 4 * col + k / 4)->b >> (8 * (k % 4)));
                *d = (int)((uint32_t)*d + (uint32_t)(a * b));
            }
        }
}

/* As the s8 shape with two halves to a register. Sums in order of k, each rounded: tensor cores differ in the last bits. */
static void combine_f16_16816(hs_sim_meeting *const *lane, uint32_t)
{
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const mma_meeting *m = of_lane(lane, l);
        int group = l / 4, tig = l % 4;
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < 2; i++)
                a[group + 8 * (r & 1)][8 * (r >> 1) + 2 * tig + i] = hs_sim_half_to_float((uint16_t)(m->a[r] >> (16 * i)));
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < 2; i++)
                b[8 * r + 2 * tig + i][group] = hs_sim_half_to_float((uint16_t)(m->b[r] >> (16 * i)));
    }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + 8 * (i >> 1), col = 2 * (l % 4) + (i & 1);
            float *d = &of_lane(lane, l)->df[i];
            for (int k = 0; k < 16; k++)
                *d += a[row][k] * b[k][col];
        }
}

void hs_sim_mma_s8(int *d, const uint32_t *a, const uint32_t *b, int m, int line)
{
    mma_meeting mine = {{0xFFFFFFFFu, line, m == 16 ? combine_s8_16832 : combine_s8_8816,
                         m == 16 ? "gpu_mma_s8_16832" : "gpu_mma_s8_8816", 0, 0, 0},
                        d, nullptr, a, b};
    whole_warp(&mine.meeting, m == 16 ? 80 : 75);
    meet(&mine.meeting);
}

void hs_sim_mma_f16(float *d, const uint32_t *a, const uint32_t *b, int line)
{
    mma_meeting mine = {{0xFFFFFFFFu, line, combine_f16_16816, "gpu_mma_f16_16816", 0, 0, 0}, nullptr, d, a, b};
    whole_warp(&mine.meeting, 80);
    meet(&mine.meeting);
}

/* ---- fp16 ---- */

float hs_sim_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3FF, u;
    if (exponent == 31)
        u = sign | 0x7F800000u | fraction << 13;
    else if (exponent)
        u = sign | (exponent + 112) << 23 | fraction << 13;
    else {
        float f = (float)fraction * 0x1p-24f; /* subnormal: exact */
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t hs_sim_float_to_half(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u)
        return 0x7FFF; /* the device knows one NaN */
    if (u >= 0x477FF000u)
        return (uint16_t)(sign | 0x7C00);
    if (u < 0x38800000u) { /* subnormal: the sum is rounded where the last bit of a half lies */
        float a;
        memcpy(&a, &u, 4);
        a += 0.5f;
        memcpy(&u, &a, 4);
        return (uint16_t)(sign | (u - 0x3F000000u));
    }
    return (uint16_t)(sign | ((u - 0x38000000u + 0xFFF + (u >> 13 & 1)) >> 13));
}
