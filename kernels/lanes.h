/*
 * kernels/lanes.h - sixteen rows of a matrix side by side, as one vector.
 *
 * Every lane is computed by itself with separate multiplications and additions, so the bits do not depend on how wide
 * the machine's registers are: HS_WIDE_CLONES builds a function for several of them and the loader of the program
 * chooses.
 */
#ifndef HS_KERNELS_LANES_H
#define HS_KERNELS_LANES_H

#include <stdint.h>

enum { HS_LANES = 16 };

typedef float hs_lanes __attribute__((vector_size(64)));

#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&              \
    !defined(__SANITIZE_THREAD__)
#define HS_WIDE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HS_WIDE_CLONES /* a resolver runs before the sanitizers are ready */
#endif

/* acc += sum over i in first..last-1 of row[i] v[i], in four interleaved sums. */
static inline __attribute__((always_inline)) void hs_lanes_dot(hs_lanes *acc, const float *row, const hs_lanes *v,
                                                               uint32_t first, uint32_t last)
{
    hs_lanes a = {0}, b = {0}, c = {0}, d = {0};
    uint32_t i = first;
    for (; i + 4 <= last; i += 4) {
        a += v[i] * row[i];
        b += v[i + 1] * row[i + 1];
        c += v[i + 2] * row[i + 2];
        d += v[i + 3] * row[i + 3];
    }
    for (; i < last; i++)
        a += v[i] * row[i];
    *acc += (a + b) + (c + d);
}

/* v[i] -= row[i] s for i in first..last-1 */
static inline __attribute__((always_inline)) void hs_lanes_subtract(hs_lanes *v, const float *row, const hs_lanes *s,
                                                                    uint32_t first, uint32_t last)
{
    hs_lanes t = *s;
    for (uint32_t i = first; i < last; i++)
        v[i] -= t * row[i];
}

#endif
