/* Numbers that look random and are the same each time. */
#ifndef HS_TESTS_SUPPORT_NOISE_H
#define HS_TESTS_SUPPORT_NOISE_H

#include <stdint.h>

static uint64_t noise_seed = 88172645463325252u;

static inline uint32_t random_bits(void)
{
    noise_seed ^= noise_seed << 13;
    noise_seed ^= noise_seed >> 7;
    noise_seed ^= noise_seed << 17;
    return (uint32_t)(noise_seed >> 32);
}

/* -1 to 1 */
static inline float uniform(void)
{
    return (float)(random_bits() >> 8) * 0x1p-23f - 1.0f;
}

#endif
