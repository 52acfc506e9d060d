/*
 * kernels/cpu/choose.c - which set of inner loops this machine runs.
 */
#include "kernels/cpu/ops.h"

#include <stdlib.h>

static bool has_fma(void)
{
#if defined(__x86_64__)
    /* F16C, too: clang 14 cannot ask for it, and no processor has AVX2 without it. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
}

hlwq_status hs_cpu_choose(const hs_cpu_ops **ops, hlwq_error *err)
{
    const char *want = getenv("HLWQ_CPU");
    *ops = &hs_cpu_ref_base;
    if (!want || !*want) {
        if (has_fma())
            *ops = &hs_cpu_ref_fma;
        return HLWQ_OK;
    }
    if (strcmp(want, "ref") == 0)
        return HLWQ_OK;
    if (strcmp(want, "avx2") == 0) {
        if (!has_fma())
            return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "HLWQ_CPU=avx2, but this processor has no AVX2 and FMA");
        *ops = &hs_cpu_ref_fma;
        return HLWQ_OK;
    }
    return hs_fail(err, HLWQ_ERR_ARG, "HLWQ_CPU=%s is not one of ref, avx2", want);
}
