/* A routing trace, then a replay of what was accepted. */
#include "cache/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hs_mem *mem = hs_mem_open(1u << 28);
    hs_trace t;
    if (hs_trace_parse(&t, mem, (const char *)data, size, "fuzz", NULL) == HLWQ_OK) {
        for (int policy = 0; policy < HS_POLICY_COUNT && (uint64_t)t.layers * t.experts < 65536; policy++) {
            hs_replay_options o = {.slots = (t.experts + 1) / 2, .policy = (hs_policy)policy, .half_life = 16};
            hs_slots_stats s = {0};
            if (hs_trace_replay(&t, &o, &s, NULL) == HLWQ_OK && (s.lookups != t.n || s.hits + s.misses != s.lookups))
                __builtin_trap();
        }
        hs_trace_close(&t);
    }
    hs_mem_close(mem);
    return 0;
}
