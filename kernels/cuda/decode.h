/*
 * kernels/cuda/decode.h - codes to int8 values, 32 weights of a row at a time.
 *
 * A thread takes chunk t of a block: weights 16t..16t + 15 and the 16 that lie 64 above.  They come out as eight words
 * in chunk order.  A value is k for a positive level and ~k for a negative one (k + 1/2 negated), so twice the dot
 * product plus the sum of the activations is the contract's integer.
 *
 * A nibble selects a byte of a table of eight with one PRMT, so sixteen levels are two of them and a third that chooses
 * by the nibble's top bit.  Sign bits lie so that one shift brings four to the top of their bytes, where PRMT spreads
 * them to masks.
 */
#ifndef HS_KERNELS_CUDA_DECODE_H
#define HS_KERNELS_CUDA_DECODE_H

#include "kernels/cuda/device.h"

/* Masks of the four signs of pair p. */
static __device__ __forceinline__ uint32_t signs(uint32_t high, int p)
{
    return gpu_prmt(high << p, 0, 0xBA98);
}

template <int BITS> static __device__ __forceinline__ uint32_t low_bytes()
{
    return BITS <= 3 ? 32 : 64;
}

/* Scales of a block of weights, and of activations. */
template <int BITS> static __device__ __forceinline__ constexpr uint32_t groups_of()
{
    return BITS == GPU_I4G64 ? 2 : 1;
}

template <int BITS> static __device__ __forceinline__ constexpr uint32_t units_of()
{
    return BITS >= GPU_I4 ? 2 : 1;
}

template <int BITS> static __device__ __forceinline__ uint32_t high_bytes()
{
    return BITS == 6 ? 32 : BITS == 3 || BITS == 5 ? 16 : 0;
}

/* What a chunk is made of, as it lies in the planes. */
typedef struct gpu_codes {
    uint4 low; /* Q2, Q3: x and y only */
    uint32_t high, top;
} gpu_codes;

/* Where a lane's chunk of a block and the block's norm are; the next block's lie a fixed way on. */
typedef struct gpu_place {
    const uint8_t *low, *high;
    const uint16_t *norm;
    const uint8_t *zero;
} gpu_place;

template <int BITS> static __device__ __forceinline__ gpu_place place_of(const gpu_job &j, uint64_t block, int t)
{
    gpu_place p;
    p.low = j.low + block * low_bytes<BITS>() + t * (low_bytes<BITS>() / 4);
    p.high = j.high + block * high_bytes<BITS>() + t * 4;
    p.norm = j.norms + block * groups_of<BITS>();
    p.zero = j.zeros ? j.zeros + block * groups_of<BITS>() : NULL;
    return p;
}

/* The codes of the block that is k after the place. */
template <int BITS> static __device__ __forceinline__ gpu_codes load_codes(const gpu_place &p, uint32_t k)
{
    gpu_codes c = {};
    if (BITS <= 3) {
        uint2 v = gpu_load_stream(reinterpret_cast<const uint2 *>(p.low + k * 32));
        c.low.x = v.x;
        c.low.y = v.y;
    } else {
        c.low = gpu_load_stream(reinterpret_cast<const uint4 *>(p.low + k * 64));
    }
    if (BITS == 3 || BITS == 5)
        c.high = gpu_load_stream(reinterpret_cast<const uint32_t *>(p.high + k * 16));
    if (BITS == 6) {
        c.top = gpu_load_stream(reinterpret_cast<const uint32_t *>(p.high + k * 32));
        c.high = gpu_load_stream(reinterpret_cast<const uint32_t *>(p.high + k * 32 + 16));
    }
    return c;
}

/* The zero point of a group of INT4. */
static __device__ __forceinline__ int load_zero(const gpu_place &p, uint32_t group)
{
    return p.zero ? __ldg(p.zero + group) : 8;
}

static __device__ __forceinline__ float load_norm(const gpu_place &p, uint32_t k)
{
    return gpu_half_to_float(__ldg(p.norm + k));
}

/*
 * k by index, and what `of16` begins with.  threadIdx.z is zero, but the compiler does not know that, nor that all
 * lanes hold the same: it would keep such words in uniform registers, which PRMT cannot read, and move each one over
 * for every use (a seventh of all instructions on sm_86).
 */
template <int BITS> static __device__ __forceinline__ void load_table(const gpu_format &w, uint32_t (&table)[17])
{
    enum { WORDS = BITS >= GPU_I4 ? 0 : BITS <= 3 ? 1 : BITS == 4 ? 2 : BITS == 5 ? 4 : 16 };
#pragma unroll
    for (int i = 0; i < 17; i++)
        if (i < WORDS || i == 16)
            table[i] = (i == 16 ? 0x32103210u : w.table[i]) ^ threadIdx.z;
}

/* One of sixteen: sel has four nibbles; choose = 0x3210 with 4 added where the nibble is 8 or more. */
static __device__ __forceinline__ uint32_t of16(const uint32_t *table, uint32_t sel, uint32_t choose)
{
    return gpu_prmt(gpu_prmt(table[0], table[1], sel), gpu_prmt(table[2], table[3], sel), choose);
}

/* v: the values; of Q6 the high parts, and their low parts in `lo`. */
template <int BITS>
static __device__ __forceinline__ void decode(const uint32_t *table, const gpu_codes &c, uint32_t (&v)[8],
                                              uint32_t (&lo)[8])
{
    if (BITS == 2 || BITS == 3) {
        const uint32_t half[2] = {c.low.x, c.low.y};
#pragma unroll
        for (int p = 0; p < 8; p++) {
            uint32_t word =
                half[p % 4 / 2] >> (p / 4 * 2 + p % 2 * 16); /* a byte holds this pair and the one 8 above */
            uint32_t k = gpu_prmt(table[0], table[0], word & 0x3333);
            v[p] = BITS == 2 ? k : k ^ signs(c.high, p);
        }
        return;
    }
    const uint32_t word[4] = {c.low.x, c.low.y, c.low.z, c.low.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (BITS >= GPU_I4) {
            v[i] = word[i] & 0x0F0F0F0Fu;
            v[4 + i] = word[i] >> 4 & 0x0F0F0F0Fu;
            continue;
        }
        uint32_t seven = word[i] & 0x77777777u, choose = ((word[i] >> 1) & 0x44444444u) | table[16];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int p = 2 * i + h;
            uint32_t sel = h ? seven >> 16 : seven, pick = h ? choose >> 16 : choose;
            if (BITS == 4) {
                v[p] = gpu_prmt(table[0], table[1], sel) ^
                       gpu_prmt(word[i] << 4, word[i], h ? 0xFBEA : 0xD9C8); /* a nibble's top bit is its sign */
            } else if (BITS == 5) {
                v[p] = of16(table, sel, pick) ^ signs(c.high, p);
            } else {
                uint32_t top = signs(c.top, p), minus = signs(c.high, p);
                uint32_t hi = (of16(table, sel, pick) & ~top) | (of16(table + 4, sel, pick) & top);
                uint32_t low = (of16(table + 8, sel, pick) & ~top) | (of16(table + 12, sel, pick) & top);
                v[p] = hi ^ minus;
                lo[p] = low ^ (minus & 0x7F7F7F7Fu);
            }
        }
    }
}

#endif
