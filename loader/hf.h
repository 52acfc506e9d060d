/*
 * loader/hf.h - a Hugging Face directory: config, tokenizer texts, and one list of logical tensors.
 *
 * A logical tensor is a parameter of the model, whatever the number of file tensors that store it.
 * Names are canonical: without "model.language_model." / "model.", so "layers.0.mlp.gate.weight",
 * "embed_tokens.weight", "norm.weight", "lm_head.weight", "mtp.fc.weight".
 */
#ifndef HS_LOADER_HF_H
#define HS_LOADER_HF_H

#include "base/file.h"
#include "base/json.h"
#include "loader/schema.h"

/* How the bytes of a tensor are stored. */
typedef enum hs_encoding {
    HS_ENC_PLAIN,      /* row-major elements of dtype */
    HS_ENC_HLWQ,       /* rotated codes and fp16 norms, in one of the ways of hs_packing; dtype is Q2..Q6 */
    HS_ENC_GPTQ,       /* hs_ints, packed along the inputs, transposed */
    HS_ENC_COMPRESSED, /* hs_ints, compressed-tensors' pack-quantized: packed along the inputs of each row */
    HS_ENC_FP8,        /* and those after: widened to fp32 row by row (hs_hf_widen). FP8 with a scale a square of 128 */
    HS_ENC_EOQ,        /* absmax codes, a scale a block of 128 in row-major order */
    HS_ENC_RANS,       /* the same entropy-coded, a scale a block of ints.group: of .eoq files */
    HS_ENC_GGML        /* a type of GGUF */
} hs_encoding;

/* How the codes of a block of 128 are laid down. */
typedef enum hs_packing {
    HS_PACK_MSB,    /* a bit stream, first code in the highest bits */
    HS_PACK_LSB,    /* in the lowest */
    HS_PACK_HALVES, /* nibbles: byte i holds code i low and code i + 64 high, whatever the width */
    HS_PACK_BYTES   /* one a byte */
} hs_packing;

typedef struct hs_range {
    uint32_t file;
    uint64_t offset, bytes; /* absolute, checked against the file's size */
} hs_range;

/* Integers in groups: weight = scale * (code - zero), scale and zero those of the output row and the input's group. */
typedef struct hs_ints {
    uint32_t bits;         /* of a code and of a zero point */
    uint32_t groups;       /* scales of a row */
    uint32_t group;        /* inputs that each has, but the last may have fewer; 0: no such number */
    hs_dtype scale;        /* F16, BF16 or F32 */
    bool ordered;          /* inputs of a group are not neighbours */
    bool symmetric;        /* every zero point is 8; known for 4 bits only */
    bool less_one;         /* zero points are stored less one: GPTQ's first version */
    hs_range zeros, index; /* zero points; the group of each input. bytes 0: none */
} hs_ints;

/* What the writer of a GGUF did to the numbers of a vector, to be undone. */
typedef enum hs_change { HS_CHANGE_NONE, HS_CHANGE_LESS_ONE, HS_CHANGE_LOG_NEGATED } hs_change;

/* Value heads in GGUF's order: head (k * repeat + i) is number (i * k_heads + k) there. size 0: they are in ours. */
typedef struct hs_regroup {
    bool rows, columns;
    uint32_t first, size; /* where they begin, and rows or columns of a head */
    uint32_t k_heads, repeat;
} hs_regroup;

typedef struct hs_tensor {
    const char *name;
    hs_dtype dtype; /* GPTQ and COMPRESSED: the type that holds the same numbers, F32 where no packed one does */
    hs_encoding encoding;
    uint32_t rank;
    uint64_t dim[4];
    hs_range data;      /* elements, or packed codes */
    hs_range norms;     /* HLWQ; the scales of hs_ints */
    hs_packing packing; /* HLWQ */
    const char *family; /* HLWQ: what to call it, "PolarEngine" */
    uint32_t book;      /* HLWQ: index into hs_hf.book */
    bool unsure;        /* HLWQ: MSB or LSB, which the codes must tell */
    bool flat;          /* no shape is stored: dim[0] is the number of weights, blocks run on over rows */
    hs_range awq;       /* F16 [inputs]: weights were multiplied by it before they were coded. bytes 0: none */
    hs_ints ints;       /* GPTQ, COMPRESSED; bits and group of EOQ and RANS */
    uint32_t ggml;      /* GGML: the type; with it the next two */
    hs_change change;
    hs_regroup heads;
} hs_tensor;

typedef struct hs_hf {
    hs_arena arena;
    const char *dir;
    const char *text_dir; /* where config and tokenizer are: dir, but the folder above PQ-multi's PQ5 */
    hs_config config;
    hs_generation generation;
    uint32_t n_files;
    hs_file *file;
    char **path;
    uint32_t n_tensors;
    hs_tensor *tensor;  /* sorted by name */
    uint32_t n_skipped; /* vision tensors */
    uint64_t skipped_bytes;
    bool has_mtp; /* mtp.* complete */
    const char
        *format;    /* "BF16", "HLWQ packed Q5", "GPTQ 4 bit, group 128, desc_act, symmetric", ...: what `info` says */
    hs_json *polar; /* polar_config.json; NULL where there is none, or nobody asked */
    const char
        *centroids; /* EOQ v3: a JSON text of levels, from a shard's metadata or eoq_metadata.json; NULL = none */
    const char *centroids_path;
    uint32_t eoq_book[8]; /* by width: 1 + the book of EOQ tensors, 0 = not looked for yet */
    uint32_t n_books;
    hs_levels book[16]; /* those without levels are the author's: see hs_levels.author */

    /* Whole texts, NULL where the directory has none; zero-terminated. */
    char *config_text, *generation_text, *tokenizer_text, *tokenizer_config_text, *template_text;
    uint64_t config_bytes, generation_bytes, tokenizer_bytes, tokenizer_config_bytes, template_bytes;
} hs_hf;

/*
 * Opens and checks everything; reads no weights, but an .eoq file once, whose checksum is one for all of it.  `dir` may
 * be such a file, with config and tokenizer beside it. On failure *hf is closed. `mem` must outlive it.
 */
hlwq_status hs_hf_open(hs_hf *hf, hs_mem *mem, const char *dir, const hs_log *log, hlwq_error *err);
void hs_hf_close(hs_hf *hf); /* idempotent for zeroed structs */

const hs_tensor *hs_hf_find(const hs_hf *hf, const char *name); /* NULL if absent */

/* Where the rows of one part of one extent come from. */
typedef struct hs_source {
    const hs_tensor *tensor;
    uint64_t first_row; /* the tensor seen as [product of leading dims][cols] */
    uint64_t rows, cols;
} hs_source;

/*
 * Finds the source of a part: the tensor of that name, or a slice of a fused expert tensor
 * (mlp.experts.gate_up_proj / down_proj, stored whole or one packed tensor per expert).  The shape has
 * been checked against the config by hs_hf_open.
 */
hlwq_status hs_hf_source(const hs_hf *hf, const hs_group *group, uint32_t extent, const hs_part *part,
                         hs_source *source, hlwq_error *err);

/* The system may begin to read the source. */
uint64_t hs_hf_ahead(const hs_hf *hf, const hs_source *source);

/* Reads rows first..first + rows - 1 of the source (PLAIN) as stored, into `out`. */
hlwq_status hs_hf_read_rows(const hs_hf *hf, const hs_source *source, uint64_t first, uint64_t rows, void *out,
                            hlwq_error *err);

/* Bytes first..first + bytes - 1 of all that the source (PLAIN) has; the `ahead` bytes behind them may be read, too. */
hlwq_status hs_hf_read_bytes(const hs_hf *hf, const hs_source *source, uint64_t first, uint64_t bytes, uint64_t ahead,
                             void *out, hlwq_error *err);

/* Bytes that the codes of a block of 128 take. */
uint32_t hs_hf_block_bytes(const hs_tensor *t);

/*
 * The same for HLWQ: codes [rows][blocks] of hs_hf_block_bytes, norms [rows][blocks] fp16.  Norms are finite, codes
 * below the number of levels.
 */
hlwq_status hs_hf_read_packed(const hs_hf *hf, const hs_source *source, uint64_t first, uint64_t rows, uint8_t *codes,
                              uint16_t *norms, hlwq_error *err);

/* What to multiply the inputs of a tensor with AWQ scales by: 1 / scale, [cols]; ones without scales. */
hlwq_status hs_hf_read_factors(const hs_hf *hf, const hs_tensor *t, uint32_t cols, float *factor, hlwq_error *err);

/* True for the encodings that have no packed form here. */
static inline bool hs_tensor_widened(const hs_tensor *t)
{
    return t->encoding >= HS_ENC_FP8;
}

/* Bytes of a row of such a tensor in a buffer; and rows first..first + rows - 1 of the source into one. */
uint64_t hs_hf_wide_bytes(const hs_tensor *t, uint64_t cols);
hlwq_status hs_hf_read_wide(const hs_hf *hf, const hs_source *source, uint64_t first, uint64_t rows, uint8_t *buffer,
                            hlwq_error *err);

/* Row `row` of the source, whose bytes in the buffer are at `raw`, as fp32; `out` has room for 2 * cols. */
void hs_hf_widen(const hs_source *source, uint64_t row, const uint8_t *raw, float *out);

/* Schema of this directory with the dtype of each part as stored (small parts F32), placed. */
hlwq_status hs_hf_table(const hs_hf *hf, hs_table *table, hs_arena *arena, hlwq_error *err);

/* Rows of a tensor of integers (GPTQ, COMPRESSED), in a buffer of the caller. */
typedef struct hs_int_rows {
    const uint32_t *word;
    size_t row_stride, word_stride; /* in words, from a row to the next and from a word to the next */
    const float *scale;             /* [rows][groups], finite; of packed types at most 65504 */
    const uint8_t *zero;            /* [rows][groups] */
} hs_int_rows;

/* Room that hs_hf_read_ints needs for so many rows. */
uint64_t hs_hf_ints_bytes(const hs_tensor *t, uint64_t rows);

/* Rows first..first + rows - 1; `first` a multiple of 32. */
hlwq_status hs_hf_read_ints(const hs_hf *hf, const hs_tensor *t, uint64_t first, uint64_t rows, void *buffer,
                            hs_int_rows *out, hlwq_error *err);

/* The codes of row `row` of those read, [dim[1]] in the order of the file. */
void hs_int_codes(const hs_tensor *t, const hs_int_rows *rows, uint64_t row, uint8_t *code);

/* The group of each input, [dim[1]], all below ints.groups. */
hlwq_status hs_hf_read_index(const hs_hf *hf, const hs_tensor *t, uint32_t *group_of, hlwq_error *err);

#endif
