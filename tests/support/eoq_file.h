/*
 * tests/support/eoq_file.h - an .eoq file in the making: absmax codes, entropy-coded, and its checksum.
 *
 * The encoder is plain: the same table of frequencies, the state's steps the other way round.
 */
#ifndef HS_TESTS_EOQ_FILE_H
#define HS_TESTS_EOQ_FILE_H

#include "base/dtype.h"
#include "base/text.h"
#include "loader/formats/rans.h"
#include "tests/support/check.h"

#include <math.h>

typedef struct eoq_writer {
    hs_text tensors, data; /* JSON, sizes with scales and streams */
    uint32_t n;
} eoq_writer;

static inline void eoq_put_word(hs_text *t, uint32_t v)
{
    const char raw[4] = {(char)v, (char)(v >> 8), (char)(v >> 16), (char)(v >> 24)};
    hs_text_add(t, raw, 4);
}

/* One block of symbols, the last one first. */
static inline void eoq_encode_block(const hs_rans_table *t, const uint8_t *symbol, uint32_t n, hs_text *out)
{
    uint8_t *back = malloc(2 * (size_t)n + 8), *p = back + 2 * (size_t)n + 8, *end = p;
    uint32_t x = 1u << (t->precision + 8);
    for (uint32_t i = n; i-- > 0;) {
        const uint32_t f = t->frequency[symbol[i]];
        for (; x >= f << 16; x >>= 8)
            *--p = (uint8_t)x;
        x = (x / f << t->precision) + x % f + t->first[symbol[i]];
    }
    uint32_t length = 0;
    for (; x; x >>= 8, length++)
        *--p = (uint8_t)x;
    *--p = (uint8_t)length;
    hs_text_add(out, (const char *)p, (size_t)(end - p));
    free(back);
}

/* The stream of `n` symbols below `alphabet`, in blocks. */
static inline void eoq_encode(const uint8_t *symbol, uint32_t n, uint32_t alphabet, uint32_t block, uint32_t precision,
                              hs_text *out)
{
    static hs_rans_table table;
    uint32_t count[HS_RANS_ALPHABET_MAX] = {0};
    hs_text offsets = {0}, data = {0};
    for (uint32_t i = 0; i < n; i++)
        count[symbol[i]]++;
    const hs_rans_header h = {n, block, (n - 1) / block + 1, alphabet, precision, 0};
    assert_true(hs_rans_prepare(&table, &h, count));
    for (uint32_t i = 0; i < n; i += block) {
        eoq_put_word(&offsets, (uint32_t)data.bytes);
        eoq_encode_block(&table, symbol + i, n - i < block ? n - i : block, &data);
    }
    const uint32_t head[] = {1, n, block, h.blocks, alphabet, precision, (uint32_t)data.bytes};
    hs_text_add(out, "RANS", 4);
    for (size_t i = 0; i < sizeof head / sizeof *head; i++)
        eoq_put_word(out, head[i]);
    for (uint32_t i = 0; i < alphabet; i++)
        eoq_put_word(out, count[i]);
    hs_text_add(out, offsets.data, offsets.bytes);
    hs_text_add(out, data.data, data.bytes);
    hs_text_close(&offsets);
    hs_text_close(&data);
}

/* A tensor of `shape`, a JSON text; w [n] becomes what the file holds of it. */
static inline void eoq_put(eoq_writer *f, const char *name, const char *shape, float *w, uint32_t n, uint32_t bits,
                           uint32_t group)
{
    const int most = (1 << (bits - 1)) - 1;
    uint8_t *symbol = malloc(n);
    hs_text scales = {0}, stream = {0};
    for (uint32_t i = 0; i < n; i++) {
        static float scale;
        if (i % group == 0) {
            float top = 0;
            for (uint32_t k = i; k < n && k < i + group; k++)
                top = fmaxf(top, fabsf(w[k]));
            const uint16_t half = hs_f32_to_f16(fmaxf(top / (float)most, 1e-7f));
            hs_text_add(&scales, (const char *)&half, 2);
            scale = hs_f16_to_f32(half);
        }
        const int code = (int)fmaxf(fminf(rintf(w[i] / scale), (float)most), (float)-most);
        symbol[i] = (uint8_t)(code + most);
        w[i] = scale * (float)code;
    }
    eoq_encode(symbol, n, 2 * (uint32_t)most + 1, 256, 14, &stream);
    hs_text_format(&f->tensors,
                   "%s{\"name\":\"%s\",\"shape\":%s,\"dtype\":\"torch.float32\",\"bits\":%u,\"quant_block_size\":%u,"
                   "\"num_elements\":%u,\"scales_size\":%zu,\"rans_size\":%zu}",
                   f->n++ ? "," : "", name, shape, bits, group, n, scales.bytes, stream.bytes);
    eoq_put_word(&f->data, (uint32_t)scales.bytes);
    hs_text_add(&f->data, scales.data, scales.bytes);
    eoq_put_word(&f->data, (uint32_t)stream.bytes);
    hs_text_add(&f->data, stream.data, stream.bytes);
    hs_text_close(&scales);
    hs_text_close(&stream);
    free(symbol);
}

/* CRC-32, bit by bit. */
static inline uint32_t eoq_crc(const char *data, size_t bytes)
{
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < bytes; i++) {
        c ^= (uint8_t)data[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    }
    return ~c;
}

/* The whole file, to be closed; f is empty afterwards. */
static inline hs_text eoq_finish(eoq_writer *f)
{
    hs_text json = {0}, file = {0};
    hs_text_format(&json,
                   "{\"config\":{\"bits\":4,\"block_size\":128,\"rans_block_size\":256,\"precision_bits\":14},"
                   "\"metadata\":{},\"tensors\":[%s]}",
                   f->tensors.data ? f->tensors.data : "");
    hs_text_add(&file, "EOQ\1", 4);
    eoq_put_word(&file, 1);
    eoq_put_word(&file, f->n);
    eoq_put_word(&file, (uint32_t)json.bytes);
    hs_text_add(&file, json.data, json.bytes);
    hs_text_add(&file, f->data.data, f->data.bytes);
    eoq_put_word(&file, eoq_crc(file.data, file.bytes));
    hs_text_close(&json);
    hs_text_close(&f->tensors);
    hs_text_close(&f->data);
    f->n = 0;
    return file;
}

#endif
