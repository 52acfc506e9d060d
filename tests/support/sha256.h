/*
 * tests/support/sha256.h - FIPS 180-4, for fixtures that give hashes instead of data.
 */
#ifndef HS_TESTS_SHA256_H
#define HS_TESTS_SHA256_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline uint32_t sha_turn(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* The first 32 bits of the fraction of a root: the standard's constants. */
static inline uint32_t sha_fraction(long double x)
{
    return (uint32_t)((x - floorl(x)) * 0x1p32L);
}

static inline void sha_block(uint32_t h[8], const uint32_t k[64], const uint8_t *p)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (sha_turn(w[i - 15], 7) ^ sha_turn(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (sha_turn(w[i - 2], 17) ^ sha_turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t a = v[0], e = v[4];
        uint32_t t =
            v[7] + (sha_turn(e, 6) ^ sha_turn(e, 11) ^ sha_turn(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + k[i] + w[i];
        uint32_t u = (sha_turn(a, 2) ^ sha_turn(a, 13) ^ sha_turn(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t;
        v[0] = t + u;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

/* 64 hexadecimal digits. */
static inline void sha256_hex(const void *data, size_t bytes, char out[65])
{
    uint32_t h[8], k[64];
    int n = 0;
    for (int p = 2; n < 64; p++) {
        int d = 2;
        while (d * d <= p && p % d)
            d++;
        if (d * d <= p)
            continue;
        if (n < 8)
            h[n] = sha_fraction(sqrtl(p));
        k[n++] = sha_fraction(cbrtl(p));
    }
    const uint8_t *at = data;
    size_t left = bytes;
    for (; left >= 64; left -= 64, at += 64)
        sha_block(h, k, at);
    uint8_t tail[128] = {0};
    size_t end = left < 56 ? 64 : 128;
    memcpy(tail, at, left);
    tail[left] = 0x80;
    for (int i = 0; i < 8; i++)
        tail[end - 1 - (size_t)i] = (uint8_t)((uint64_t)bytes * 8 >> (8 * i));
    for (size_t i = 0; i < end; i += 64)
        sha_block(h, k, tail + i);
    for (int i = 0; i < 8; i++)
        snprintf(out + 8 * i, 9, "%08x", h[i]);
}

#endif
