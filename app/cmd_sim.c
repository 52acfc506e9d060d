/*
 * app/cmd_sim.c - replays a routing trace through the cache.
 */
#include "app/commands.h"
#include "app/console.h"
#include "base/text.h"

#include <inttypes.h>

static hlwq_status sim(const app_args *args, hlwq_error *err)
{
    static const char *const name[] = {"lfru", "lru", "lfu", "fifo", "belady"};
    int policy = args->value[OPT_POLICY].set ? (int)args->value[OPT_POLICY].number : 0;
    hlwq_simulation_options o = {.trace = args->operand[0],
                                 .slots = (uint32_t)app_number(args, OPT_SLOTS, 0),
                                 .policy = (hlwq_policy)(policy == 4 ? 0 : policy),
                                 .belady = policy == 4,
                                 .half_life = args->value[OPT_HALF_LIFE].set ? args->value[OPT_HALF_LIFE].real : 0,
                                 .admit = (uint32_t)app_number(args, OPT_ADMIT, 0),
                                 .pool = args->value[OPT_FLOOR].set,
                                 .floor = (uint32_t)app_number(args, OPT_FLOOR, 0)};
    hlwq_simulation r;
    hs_text t = {0};
    if (!o.slots)
        return hs_fail(err, HLWQ_ERR_ARG, "sim needs --slots N, the experts of a layer that are kept");
    HS_TRY(hlwq_simulate(&o, &r, err));
    double rate = r.lookups ? (double)r.hits / (double)r.lookups : 0;
    if (app_flag(args, OPT_JSON))
        hs_text_format(&t,
                       "{\"hit_rate\": %.6f, \"lookups\": %" PRIu64 ", \"hits\": %" PRIu64 ", \"misses\": %" PRIu64
                       ", \"evictions\": %" PRIu64
                       ", \"policy\": \"%s\", \"slots\": %u, \"layers\": %u, \"experts\": %u, \"tokens\": %u}\n",
                       rate, r.lookups, r.hits, r.misses, r.evictions, name[policy], r.slots, r.layers, r.experts,
                       r.tokens);
    else
        hs_text_format(&t,
                       "hit rate %.2f %%\n%s, %u of %u experts of each of %u layers%s; %u tokens\n%" PRIu64
                       " lookups, %" PRIu64 " hits, %" PRIu64 " misses, %" PRIu64 " evictions\n",
                       100.0 * rate, name[policy], r.slots, r.experts, r.layers,
                       o.pool ? ", as one pool with floors" : "", r.tokens, r.lookups, r.hits, r.misses, r.evictions);
    return app_out_text(&t, err);
}

int app_cmd_sim(const app_args *args)
{
    hlwq_error err;
    return app_finish(sim(args, &err), &err);
}
