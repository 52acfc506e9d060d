/*
 * base/size.h - arithmetic on sizes that came from outside: every step says whether it fits.
 */
#ifndef HS_BASE_SIZE_H
#define HS_BASE_SIZE_H

#include <stdbool.h>
#include <stdint.h>

static inline bool hs_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool hs_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Up to the next multiple of `align`, a power of two. */
static inline bool hs_align_u64(uint64_t a, uint64_t align, uint64_t *out)
{
    if (__builtin_add_overflow(a, align - 1, out))
        return false;
    *out &= ~(align - 1);
    return true;
}

/* The same where the caller knows that it fits. */
static inline uint64_t hs_align_up(uint64_t a, uint64_t align)
{
    return (a + align - 1) & ~(align - 1);
}

static inline uint64_t hs_ceil_div(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static inline uint64_t hs_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t hs_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

#endif
