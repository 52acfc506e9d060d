/*
 * model/adapt.c - gives memory up while the system runs short of it, and takes it back.
 *
 * What there is to give are slots: the trunk and the context stay, so tokens do not change and nothing is lost.  A
 * tenth goes at a time, down to the least that works; it comes back, a tenth at a time, after some calm.
 *
 * Little left is no want by itself: in a control group as large as the budget it is what was asked for.  It is where
 * what is left and what the engine holds are together less than they were, so that someone else has taken the rest.
 */
#include "model/engine.h"

#include "base/available.h"
#include "base/clock.h"
#include "base/size.h"

static const double look_seconds = 0.25, calm_seconds = 10.0;
static const uint64_t unaccounted_bytes = 24 << 20;           /* page tables, stacks, libraries: at most */
static const double strained_share = 0.10, calm_share = 0.01; /* of the time, some task stood still */

void hs_engine_adapt(hlwq_engine *e, double share, uint64_t available, double now)
{
    hs_adapt *a = &e->adapt;
    hlwq_error err;
    uint64_t cap = e->plan.ram_bytes, step = a->wanted_bytes / 10, little = a->wanted_bytes / 50;
    uint64_t room = available + hs_min_u64(hs_mem_now_bytes(e->mem), UINT64_MAX - available);
    bool taken = room + little + unaccounted_bytes < hs_min_u64(a->room_bytes, a->wanted_bytes);
    bool strained = share > strained_share || (available < little && taken);
    if (strained || share > calm_share)
        a->strained_seconds = now;
    if (strained) {
        uint64_t lower = hs_max_u64(cap > step ? cap - step : 0, e->plan.smallest_bytes);
        if (lower >= cap || hs_engine_set_budget(e, lower, &err) != HLWQ_OK)
            return;
        hs_log_line(&e->log, HLWQ_LOG_WARN,
                    "the system is short of memory (%.0f %% of the time something waits for it): the budget is %.0f "
                    "MiB now",
                    100.0 * share, (double)lower / 1048576.0);
    } else if (cap < a->wanted_bytes && now - a->strained_seconds > calm_seconds && (available > 2 * step || !taken)) {
        uint64_t higher = hs_min_u64(cap + step, a->wanted_bytes);
        if (hs_engine_set_budget(e, higher, &err) != HLWQ_OK)
            return;
        a->strained_seconds = now; /* and see how that goes */
        hs_log_line(&e->log, HLWQ_LOG_INFO, "there is memory again: the budget is %.0f MiB now",
                    (double)higher / 1048576.0);
    }
}

void hs_engine_look_around(hlwq_engine *e)
{
    hs_adapt *a = &e->adapt;
    double now = a->on ? hs_now_seconds() : 0;
    if (!a->on || now < a->next_seconds)
        return;
    a->next_seconds = now + look_seconds;
    hs_engine_adapt(e, hs_strain_look(&a->strain, now), hs_memory_available(), now);
}
