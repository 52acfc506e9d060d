/*
 * loader/formats/eoq_file.c - the tensors of an .eoq file, and reading their rows.
 *
 *   "EOQ" 1, u32 version 1, u32 tensors, u32 bytes of JSON, JSON
 *   for each tensor  u32 bytes, scales F16; u32 bytes, a stream of loader/formats/rans.h
 *   u32 CRC-32 of everything before it
 */
#include "loader/formats/eoq_file.h"

#include "base/size.h"
#include "loader/formats/rans.h"

#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 16, TENSORS_MAX = 1 << 20, BLOCK_MIN = 8, BLOCK_MAX = 65536, TOGETHER = 1 << 17 };
#define JSON_MAX (256u << 20)
#define PIECE (1u << 20)

static uint32_t word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

bool hs_eoq_file_is(const char *path)
{
    return hs_file_begins(path, "EOQ", 3);
}

hlwq_status hs_eoq_file_folder(hs_arena *arena, const char *path, char **folder, hlwq_error *err)
{
    const char *slash = strrchr(path, '/');
    return slash ? hs_arena_text(arena, path, slash == path ? 1 : (uint64_t)(slash - path), folder, err)
                 : hs_arena_text(arena, ".", 1, folder, err);
}

hlwq_status hs_eoq_file_find(hs_arena *arena, const char *dir, char **path, hlwq_error *err)
{
    uint32_t found = 0;
    bool others = false;
    hlwq_status st = HLWQ_OK;
    *path = NULL;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && st == HLWQ_OK && (e = readdir(d));) {
        size_t base;
        others = others || hs_hf_ends(e->d_name, ".safetensors", &base);
        if (*e->d_name == '.' || !hs_hf_ends(e->d_name, ".eoq", &base))
            continue;
        found++;
        st = hs_path_join(arena, dir, e->d_name, path, err);
    }
    if (d)
        closedir(d);
    HS_TRY(st);
    if (others)
        *path = NULL;
    else if (found > 1)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s has %u .eoq files; name the one to be read", dir, found);
    return HLWQ_OK;
}

/* ---- checksum ------------------------------------------------------------------------------- */

/* CRC-32 as zip has it, eight bytes a step: table k is what a byte does k bytes further on. */
static void make_tables(uint32_t table[8][256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xFF];
}

static uint32_t add_to_crc(uint32_t table[8][256], uint32_t crc, const uint8_t *p, uint64_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        const uint32_t a = word(p) ^ crc, b = word(p + 4);
        crc = table[7][a & 0xFF] ^ table[6][a >> 8 & 0xFF] ^ table[5][a >> 16 & 0xFF] ^ table[4][a >> 24] ^
              table[3][b & 0xFF] ^ table[2][b >> 8 & 0xFF] ^ table[1][b >> 16 & 0xFF] ^ table[0][b >> 24];
    }
    for (; n; n--, p++)
        crc = table[0][(crc ^ *p) & 0xFF] ^ crc >> 8;
    return crc;
}

static hlwq_status check_crc(hs_mem *mem, const hs_file *file, const char *path, hlwq_error *err)
{
    uint32_t table[8][256], crc = 0xFFFFFFFFu;
    uint8_t stored[4];
    void *p;
    const uint64_t all = file->bytes - 4;
    hlwq_status st = HLWQ_OK;
    make_tables(table);
    HS_TRY(hs_file_read(file, all, stored, 4, path, err));
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, PIECE, "a checksum", &p, err));
    for (uint64_t at = 0; st == HLWQ_OK && at < all; at += PIECE) {
        const uint64_t n = hs_min_u64(PIECE, all - at);
        hs_file_ahead(file, at + n, hs_min_u64(8 * (uint64_t)PIECE, all - at - n));
        st = hs_file_read(file, at, p, n, path, err);
        if (st == HLWQ_OK)
            crc = add_to_crc(table, crc, p, n);
    }
    hs_mem_free(mem, p);
    if (st == HLWQ_OK && word(stored) != ~crc)
        st = hs_fail(err, HLWQ_ERR_FORMAT,
                     "%s: its CRC-32 is %08" PRIx32 ", the last four bytes say %08" PRIx32
                     ": the file is damaged, or its download was not finished",
                     path, ~crc, word(stored));
    return st;
}

/* ---- tensors -------------------------------------------------------------------------------- */

typedef struct listing {
    hs_hf *hf;
    const hs_file *file;
    const char *path;
    uint64_t at, end; /* the next tensor; the checksum */
    hlwq_error *err;
} listing;

/* Names of the writer's own, for a few of the parameters; the others have those of the checkpoint. */
static void parameter_name(const char *from, char *out, size_t capacity)
{
    static const char *const whole[][2] = {
        {"embed_tokens", "embed_tokens.weight"}, {"final_layernorm", "norm.weight"}, {"lm_head", "lm_head.weight"}};
    static const char *const part[][2] = {
        {"attn_q", "self_attn.q_proj.weight"},
        {"attn_k", "self_attn.k_proj.weight"},
        {"attn_v", "self_attn.v_proj.weight"},
        {"attn_o", "self_attn.o_proj.weight"},
        {"mlp_gate", "mlp.gate_proj.weight"},
        {"mlp_up", "mlp.up_proj.weight"},
        {"mlp_down", "mlp.down_proj.weight"},
        {"input_layernorm", "input_layernorm.weight"},
        {"post_attn_layernorm", "post_attention_layernorm.weight"},
    };
    unsigned layer;
    int at = 0;
    const char *name = hs_hf_canonical(from);
    snprintf(out, capacity, "%s", name);
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (strcmp(name, whole[i][0]) == 0)
            snprintf(out, capacity, "%s", whole[i][1]);
    if (sscanf(name, "layers.%7u.%n", &layer, &at) != 1 || !at)
        return;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        if (strcmp(name + at, part[i][0]) == 0)
            snprintf(out, capacity, "layers.%u.%s", layer, part[i][1]);
}

/* "<path>: tensor <name>", which the sentences begin with. */
static void say_where(char out[512], const char *path, const char *name)
{
    snprintf(out, 512, "%.250s: tensor %.200s", path, name);
}

static hlwq_status read_name(const listing *l, const hs_json *j, uint32_t i, hs_tensor *t)
{
    char what[512], name[HS_SAFETENSORS_NAME_MAX + 40], *copy;
    const char *from = NULL;
    snprintf(what, sizeof what, "%.400s: tensor number %u", l->path, i);
    HS_TRY(hs_json_take_string(j, "name", HS_REQUIRED, &from, what, l->err));
    if (!*from || strlen(from) > HS_SAFETENSORS_NAME_MAX)
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s has a name of %zu bytes, limit 1..%d", what, strlen(from),
                       HS_SAFETENSORS_NAME_MAX);
    parameter_name(from, name, sizeof name);
    HS_TRY(hs_arena_text(&l->hf->arena, name, strlen(name), &copy, l->err));
    t->name = copy;
    return HLWQ_OK;
}

static hlwq_status read_shape(const listing *l, const hs_json *j, const char *what, hs_tensor *t)
{
    const hs_json *shape = hs_json_get(j, "shape");
    uint64_t elements = 1, said = 0;
    if (hs_json_type_of(shape) != HS_JSON_ARRAY || hs_json_count(shape) < 1 || hs_json_count(shape) > 4)
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: its shape is not an array of 1 to 4 dimensions", what);
    t->rank = (uint32_t)hs_json_count(shape);
    for (uint32_t i = 0; i < t->rank; i++) {
        const hs_json *d = hs_json_at(shape, i);
        const int64_t v = hs_json_type_of(d) == HS_JSON_INTEGER ? hs_json_int(d) : 0;
        if (v < 1 || v > INT32_MAX || !hs_mul_u64(elements, (uint64_t)v, &elements) || elements > UINT32_MAX)
            return hs_fail(l->err, HLWQ_ERR_FORMAT,
                           "%s: its shape has a dimension that is not above 0, or more than %u weights", what,
                           UINT32_MAX);
        t->dim[i] = (uint64_t)v;
    }
    HS_TRY(hs_json_take_u64(j, "num_elements", HS_REQUIRED, 1, UINT32_MAX, &said, what, l->err));
    if (said != elements)
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: num_elements is %" PRIu64 ", its shape has %" PRIu64, what, said,
                       elements);
    return HLWQ_OK;
}

static uint64_t elements_of(const hs_tensor *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

/* The next part of the file, as long as its first four bytes, the JSON and `want` say. */
static hlwq_status take_range(listing *l, const char *key, uint64_t said, uint64_t want, const char *what, hs_range *r)
{
    uint8_t raw[4];
    if (l->end - l->at < 4)
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: the file ends before its %s", what, key);
    HS_TRY(hs_file_read(l->file, l->at, raw, 4, l->path, l->err));
    const uint64_t bytes = word(raw);
    if (bytes != said || (want && bytes != want))
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: %s is %" PRIu64 " in the JSON, %" PRIu64 " in the file%s", what,
                       key, said, bytes, want && want != bytes ? ", which is not what its shape asks for" : "");
    if (bytes > l->end - l->at - 4)
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: %s is %" PRIu64 ", but only %" PRIu64 " bytes are left", what, key,
                       bytes, l->end - l->at - 4);
    *r = (hs_range){0, l->at + 4, bytes};
    l->at += 4 + bytes;
    return HLWQ_OK;
}

/* The header of a tensor's stream, which must be that of its weights. */
static hlwq_status read_stream(const hs_hf *hf, const hs_tensor *t, hs_rans_header *h, hlwq_error *err)
{
    const hs_range *r = &t->data;
    const char *path = hf->path[r->file], *wrong = "it is too short for a header";
    uint8_t raw[HS_RANS_HEADER];
    if (r->bytes >= HS_RANS_HEADER) {
        HS_TRY(hs_file_read(&hf->file[r->file], r->offset, raw, sizeof raw, path, err));
        wrong = hs_rans_parse(h, raw, r->bytes);
    }
    if (wrong)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: its codes: %s", path, t->name, wrong);
    if (h->symbols != elements_of(t))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: its codes are %u, its shape has %" PRIu64, path,
                       t->name, h->symbols, elements_of(t));
    if (h->alphabet != (2u << (t->ints.bits - 1)) - 1)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: an alphabet of %u, but codes of %u bits have %u", path,
                       t->name, h->alphabet, t->ints.bits, (2u << (t->ints.bits - 1)) - 1);
    return HLWQ_OK;
}

static hlwq_status read_tensor(listing *l, const hs_json *j, uint32_t i, hs_tensor *t)
{
    char what[512];
    uint32_t bits = 0, block = 0;
    uint64_t scales = 0, codes = 0;
    hs_rans_header h;
    *t = (hs_tensor){.dtype = HS_F32, .encoding = HS_ENC_RANS};
    if (hs_json_type_of(j) != HS_JSON_OBJECT)
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: tensor number %u is not an object", l->path, i);
    HS_TRY(read_name(l, j, i, t));
    say_where(what, l->path, t->name);
    HS_TRY(read_shape(l, j, what, t));
    HS_TRY(hs_json_take_u32(j, "bits", HS_REQUIRED, 2, 8, &bits, what, l->err));
    HS_TRY(hs_json_take_u32(j, "quant_block_size", HS_REQUIRED, BLOCK_MIN, BLOCK_MAX, &block, what, l->err));
    HS_TRY(hs_json_take_u64(j, "scales_size", HS_REQUIRED, 0, UINT32_MAX, &scales, what, l->err));
    HS_TRY(hs_json_take_u64(j, "rans_size", HS_REQUIRED, 0, UINT32_MAX, &codes, what, l->err));
    t->ints = (hs_ints){.bits = bits, .group = block, .scale = HS_F16, .symmetric = true};
    HS_TRY(take_range(l, "scales_size", scales, hs_ceil_div(elements_of(t), block) * 2, what, &t->norms));
    HS_TRY(take_range(l, "rans_size", codes, 0, what, &t->data));
    return read_stream(l->hf, t, &h, l->err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const hs_tensor *)a)->name, ((const hs_tensor *)b)->name);
}

/* "EOQ file, 4 bits", or all widths that there are. */
static hlwq_status name_family(hs_hf *hf, hlwq_error *err)
{
    bool width[9] = {false};
    char text[64] = "EOQ file, ", *copy;
    const char *between = "";
    for (uint32_t i = 0; i < hf->n_tensors; i++)
        width[hf->tensor[i].ints.bits] = true;
    for (uint32_t b = 2; b <= 8; b++)
        if (width[b]) {
            const size_t n = strlen(text);
            snprintf(text + n, sizeof text - n, "%s%u", between, b);
            between = "/";
        }
    strcat(text, " bits");
    HS_TRY(hs_arena_text(&hf->arena, text, strlen(text), &copy, err));
    for (uint32_t i = 0; i < hf->n_tensors; i++)
        hf->tensor[i].family = copy;
    return HLWQ_OK;
}

static hlwq_status list_tensors(listing *l, const hs_json *root, uint32_t count, const hs_log *log)
{
    hs_hf *hf = l->hf;
    const hs_json *tensors = hs_json_get(root, "tensors");
    void *p;
    if (hs_json_type_of(tensors) != HS_JSON_ARRAY || hs_json_count(tensors) != count || count > TENSORS_MAX)
        return hs_fail(l->err, HLWQ_ERR_FORMAT,
                       "%s: its header counts %u tensors, its JSON has %zu, and the limit is %d", l->path, count,
                       hs_json_count(tensors), TENSORS_MAX);
    HS_TRY(hs_arena_array(&hf->arena, (uint64_t)count + 1, sizeof(hs_tensor), &p, l->err));
    hf->tensor = p;
    for (uint32_t i = 0; i < count; i++) {
        hs_tensor *t = &hf->tensor[hf->n_tensors];
        HS_TRY(read_tensor(l, hs_json_at(tensors, i), i, t));
        if (hs_hf_skipped(t->name)) {
            hf->n_skipped++;
            hf->skipped_bytes += t->data.bytes + t->norms.bytes;
        } else
            hf->n_tensors++;
    }
    if (l->at != l->end)
        return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " bytes lie beyond the last tensor", l->path,
                       l->end - l->at);
    qsort(hf->tensor, hf->n_tensors, sizeof *hf->tensor, by_name);
    for (uint32_t i = 1; i < hf->n_tensors; i++)
        if (strcmp(hf->tensor[i].name, hf->tensor[i - 1].name) == 0)
            return hs_fail(l->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is a duplicate", l->path, hf->tensor[i].name);
    HS_TRY(name_family(hf, l->err));
    return hs_hf_name_format(hf, log, l->err);
}

static hlwq_status read_all(listing *l, uint8_t head[HEAD], const hs_log *log)
{
    const uint64_t json_bytes = word(head + 12);
    hs_json *root = NULL;
    void *text;
    if (json_bytes > JSON_MAX || json_bytes > l->file->bytes - HEAD - 4)
        return hs_fail(l->err, HLWQ_ERR_FORMAT,
                       "%s: a JSON header of %" PRIu64 " bytes, but the file has %" PRIu64 " and the limit is %u",
                       l->path, json_bytes, l->file->bytes, JSON_MAX);
    HS_TRY(hs_mem_alloc(l->hf->arena.mem, HS_MEM_TABLE, json_bytes + 1, "header", &text, l->err));
    hlwq_status st = hs_file_read(l->file, HEAD, text, json_bytes, l->path, l->err);
    if (st == HLWQ_OK)
        st = hs_json_parse(text, json_bytes, l->path, &root, l->err);
    hs_mem_free(l->hf->arena.mem, text);
    l->at = HEAD + json_bytes;
    l->end = l->file->bytes - 4;
    if (st == HLWQ_OK)
        st = list_tensors(l, root, word(head + 8), log);
    hs_json_free(root);
    return st;
}

hlwq_status hs_eoq_file_list(hs_hf *hf, const char *path, const hs_log *log, hlwq_error *err)
{
    uint8_t head[HEAD];
    char *copy;
    void *p;
    HS_TRY(hs_arena_text(&hf->arena, path, strlen(path), &copy, err));
    HS_TRY(hs_arena_array(&hf->arena, 1, sizeof(hs_file), &p, err));
    hf->file = p;
    HS_TRY(hs_arena_array(&hf->arena, 1, sizeof(char *), &p, err));
    hf->path = p;
    hf->path[0] = copy;
    HS_TRY(hs_file_open(&hf->file[0], path, err));
    hf->n_files = 1;
    if (hf->file[0].bytes < HEAD + 4)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s is too short for an .eoq file: %" PRIu64 " bytes", path,
                       hf->file[0].bytes);
    HS_TRY(hs_file_read(&hf->file[0], 0, head, HEAD, path, err));
    if (memcmp(head, "EOQ\1", 4) != 0 || word(head + 4) != 1)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s is an .eoq file of version %u (mark %u), read is version 1", path,
                       word(head + 4), head[3]);
    HS_TRY(check_crc(hf->arena.mem, &hf->file[0], path, err));
    listing l = {.hf = hf, .file = &hf->file[0], .path = copy, .err = err};
    return read_all(&l, head, log);
}

/* ---- rows ----------------------------------------------------------------------------------- */

typedef struct reading {
    const hs_hf *hf;
    const hs_tensor *t;
    hs_rans_header h;
    uint64_t from, to, cols; /* weights, in the order of the tensor */
    uint64_t step, scales_at;
    uint8_t *out;
    hs_rans_table *table;
    uint8_t *offset, *bytes, *code; /* of the blocks in hand: [blocks + 1][4], what they are, one block decoded */
    hlwq_error *err;
} reading;

static hlwq_status read_at(const reading *r, uint64_t at, void *out, uint64_t bytes)
{
    const hs_range *d = &r->t->data;
    assert(at + bytes <= d->bytes);
    return hs_file_read(&r->hf->file[d->file], d->offset + at, out, bytes, r->hf->path[d->file], r->err);
}

static hlwq_status bad_block(const reading *r, uint64_t block, const char *why)
{
    return hs_fail(r->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: block %" PRIu64 " of its codes %s",
                   r->hf->path[r->t->data.file], r->t->name, block, why);
}

/* The weights of a block that are wanted, to their rows. */
static void place(const reading *r, uint64_t block, uint32_t n)
{
    const uint64_t begin = block * r->h.block;
    const uint8_t half = (uint8_t)(r->h.alphabet / 2);
    for (uint64_t i = hs_max_u64(begin, r->from), end = hs_min_u64(begin + n, r->to); i < end;) {
        const uint64_t row = (i - r->from) / r->cols, col = (i - r->from) % r->cols;
        const uint64_t run = hs_min_u64(r->cols - col, end - i);
        uint8_t *out = r->out + row * r->step + col;
        for (uint64_t k = 0; k < run; k++)
            out[k] = (uint8_t)(r->code[i - begin + k] - half); /* a signed byte */
        i += run;
    }
}

/* `n` blocks from `first` on: where they lie, then all of them at once. */
static hlwq_status read_blocks(const reading *r, uint64_t first, uint64_t n)
{
    const bool last = first + n == r->h.blocks;
    HS_TRY(read_at(r, hs_rans_offsets_at(&r->h) + first * 4, r->offset, (n + !last) * 4));
    if (last)
        for (int k = 0; k < 4; k++)
            r->offset[n * 4 + k] = (uint8_t)(r->h.data_bytes >> 8 * k);
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t at = word(r->offset + i * 4), next = word(r->offset + (i + 1) * 4);
        if (next <= at || next > r->h.data_bytes || next - at > hs_rans_block_bytes(&r->h) || (first + i == 0 && at))
            return bad_block(r, first + i, "does not lie between those beside it, or is too long");
    }
    const uint32_t begin = word(r->offset);
    HS_TRY(read_at(r, hs_rans_data_at(&r->h) + begin, r->bytes, word(r->offset + n * 4) - begin));
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t at = word(r->offset + i * 4), next = word(r->offset + (i + 1) * 4);
        const uint32_t symbols = (uint32_t)hs_min_u64(r->h.block, r->h.symbols - (first + i) * r->h.block);
        if (!hs_rans_decode(r->table, r->bytes + (at - begin), next - at, r->code, symbols))
            return bad_block(r, first + i,
                             "does not end where its weights do: it is damaged or made with other counts");
        place(r, first + i, symbols);
    }
    return HLWQ_OK;
}

static hlwq_status read_codes(reading *r)
{
    uint32_t count[HS_RANS_ALPHABET_MAX];
    uint8_t raw[4 * HS_RANS_ALPHABET_MAX];
    const uint64_t first = r->from / r->h.block, end = hs_ceil_div(r->to, r->h.block);
    const uint64_t together = hs_max_u64(1, hs_min_u64(TOGETHER / r->h.block, end - first));
    const uint64_t offsets = hs_align_up((together + 1) * 4, 64), data = together * hs_rans_block_bytes(&r->h);
    void *p;
    HS_TRY(read_at(r, HS_RANS_HEADER, raw, (uint64_t)r->h.alphabet * 4));
    for (uint32_t i = 0; i < r->h.alphabet; i++)
        count[i] = word(raw + (size_t)i * 4);
    HS_TRY(hs_mem_alloc(r->hf->arena.mem, HS_MEM_IO, sizeof(hs_rans_table) + offsets + data + r->h.block, "codes", &p,
                        r->err));
    r->table = p;
    r->offset = (uint8_t *)p + sizeof(hs_rans_table);
    r->bytes = r->offset + offsets;
    r->code = r->bytes + data;
    hlwq_status st = HLWQ_OK;
    if (!hs_rans_prepare(r->table, &r->h, count))
        st = hs_fail(r->err, HLWQ_ERR_FORMAT,
                     "%s: tensor %.200s: the counts of its symbols do not add up to its %u weights",
                     r->hf->path[r->t->data.file], r->t->name, r->h.symbols);
    for (uint64_t b = first; st == HLWQ_OK && b < end; b += together)
        st = read_blocks(r, b, hs_min_u64(together, end - b));
    hs_mem_free(r->hf->arena.mem, p);
    return st;
}

/* Each row gets those that any of its weights has, blocks running on over rows. */
static hlwq_status read_scales(const reading *r)
{
    const hs_range *s = &r->t->norms;
    const uint64_t block = r->t->ints.group, first = r->from / block, n = (r->to - 1) / block - first + 1;
    void *p;
    assert((first + n) * 2 <= s->bytes);
    HS_TRY(hs_mem_alloc(r->hf->arena.mem, HS_MEM_IO, n * 2, "scales", &p, r->err));
    hlwq_status st = hs_file_read(&r->hf->file[s->file], s->offset + first * 2, p, n * 2, r->hf->path[s->file], r->err);
    for (uint64_t at = r->from, row = 0; st == HLWQ_OK && at < r->to; at += r->cols, row++) {
        const uint64_t a = at / block, b = (at + r->cols - 1) / block;
        memcpy(r->out + row * r->step + r->scales_at, (uint8_t *)p + (a - first) * 2, (b - a + 1) * 2);
    }
    hs_mem_free(r->hf->arena.mem, p);
    return st;
}

hlwq_status hs_eoq_file_read(const hs_hf *hf, const hs_source *s, uint64_t first, uint64_t rows, uint64_t step,
                             uint64_t scales_at, uint8_t *out, hlwq_error *err)
{
    const uint64_t from = (s->first_row + first) * s->cols;
    reading r = {.hf = hf,
                 .t = s->tensor,
                 .from = from,
                 .to = from + rows * s->cols,
                 .cols = s->cols,
                 .step = step,
                 .scales_at = scales_at,
                 .out = out,
                 .err = err};
    assert(rows && r.to <= elements_of(s->tensor));
    HS_TRY(read_stream(hf, s->tensor, &r.h, err));
    HS_TRY(read_codes(&r));
    return read_scales(&r);
}
