/*
 * model/simulate.c - a trace file through the cache that a running engine has.
 */
#include "include/hlwq_stream.h"

#include "base/file.h"
#include "cache/trace.h"
#include "offload/residency.h"

#define TRACE_MAX (1ull << 30)

static hlwq_status simulate(const hlwq_simulation_options *o, hs_mem *mem, hlwq_simulation *out, hlwq_error *err)
{
    hs_arena arena;
    hs_trace trace = {0};
    hs_slots_stats s;
    char *text;
    uint64_t bytes;
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    hlwq_status st = hs_file_text(&arena, o->trace, TRACE_MAX, &text, &bytes, err);
    if (st == HLWQ_OK)
        st = hs_trace_parse(&trace, mem, text, bytes, o->trace, err);
    hs_arena_close(&arena);
    if (st != HLWQ_OK)
        return st;
    double half_life = o->half_life > 0 ? o->half_life : hs_residency_options_default().half_life;
    hs_replay_options r = {.slots = o->slots,
                           .policy = o->belady ? HS_POLICY_GIVEN : (hs_policy)o->policy,
                           .half_life = half_life,
                           .pool = o->pool,
                           .floor = o->floor,
                           .admit = o->admit};
    st = hs_trace_replay(&trace, &r, &s, err);
    if (st == HLWQ_OK)
        *out = (hlwq_simulation){trace.layers, trace.experts, trace.tokens, o->slots,
                                 s.lookups,    s.hits,        s.misses,     s.evictions};
    hs_trace_close(&trace);
    return st;
}

hlwq_status hlwq_simulate(const hlwq_simulation_options *options, hlwq_simulation *result, hlwq_error *err)
{
    if (!options->trace)
        return hs_fail(err, HLWQ_ERR_ARG, "no trace was named");
    hs_mem *mem = hs_mem_open(0);
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to simulate");
    hlwq_status st = simulate(options, mem, result, err);
    hs_mem_close(mem);
    return st;
}
