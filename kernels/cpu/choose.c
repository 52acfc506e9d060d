/*
 * kernels/cpu/choose.c - which set of inner loops this machine runs.
 *
 * A set is the plain one with the entries replaced that have a faster form; each next level keeps what it does not
 * replace.
 */
#include "kernels/cpu/ops.h"

#include <stdlib.h>

typedef enum level { LEVEL_REF, LEVEL_AVX2, LEVEL_AVX512, LEVEL_COUNT } level;

static const char *const level_name[LEVEL_COUNT] = {"ref", "avx2", "avx512"};

static level best_level(void)
{
#if defined(__x86_64__)
    /* Every processor with AVX2 and FMA has F16C; clang 14 cannot ask for it by name. */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2"))
        return LEVEL_REF;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi") ||
        !__builtin_cpu_supports("gfni"))
        return LEVEL_AVX2;
    return LEVEL_AVX512;
#else
    return LEVEL_REF;
#endif
}

hlwq_status hs_cpu_choose(hs_cpu_ops *ops, const char *want, hlwq_error *err)
{
    if (!want)
        want = getenv("HLWQ_CPU");
    level best = best_level(), chosen = best;
    if (want && *want) {
        for (chosen = LEVEL_REF; chosen < LEVEL_COUNT && strcmp(want, level_name[chosen]) != 0; chosen++)
            ;
        if (chosen == LEVEL_COUNT)
            return hs_fail(err, HLWQ_ERR_ARG, "HLWQ_CPU=%s is not one of ref, avx2, avx512", want);
        if (chosen > best)
            return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "HLWQ_CPU=%s, but this processor only has what \"%s\" needs",
                           want, level_name[best]);
    }
    *ops = hs_cpu_ref_base;
#if defined(__x86_64__)
    if (chosen >= LEVEL_AVX2) {
        *ops = hs_cpu_ref_fma;
        hs_cpu_avx2_install(ops);
        hs_cpu_wide_avx2_install(ops);
        hs_cpu_mixer_avx2_install(ops);
        hs_cpu_attend_avx2_install(ops);
    }
    if (chosen >= LEVEL_AVX512) {
        hs_cpu_avx512_install(ops);
        hs_cpu_wide_avx512_install(ops);
        hs_cpu_mixer_avx512_install(ops);
        hs_cpu_attend_avx512_install(ops);
    }
#endif
    return HLWQ_OK;
}
