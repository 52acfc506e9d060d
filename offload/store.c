/*
 * offload/store.c - opens either form and loads its extents.
 *
 * Making an extent from a Hugging Face directory works on pieces of at most PIECE bytes of source rows, so memory does
 * not grow with the matrix.
 */
#include "offload/store.h"

#include "base/shelf.h"
#include "base/size.h"
#include "loader/formats/eoq_file.h"
#include "loader/formats/gguf.h"
#include "offload/store_codes.h"
#include "offload/store_decode.h"
#include "offload/store_ints.h"
#include "offload/store_planes.h"
#include "offload/store_rows.h"
#include "offload/store_wide.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define PIECE (8u << 20)
#define AHEAD (32u << 20) /* bytes of a large matrix that the system reads before they are asked for */

struct hs_store {
    hs_mem *mem;
    hs_shelf shelf; /* transfer buffers */
    hs_arena arena;
    bool is_container, has_hf;
    hs_container container;
    hs_hf hf;
    hs_table made;         /* of a directory, after the precision plan */
    const hs_table *table; /* the one in use */
    const hs_codebook *book;
    hs_ahead *ahead; /* NULL = the system does it */
    const char *path;
    char provenance[512], format[256];
};

/* ---- opening -------------------------------------------------------------------------------- */

/* Index of the converged book of that width in the table, added if new. */
static uint32_t converged_book(hs_table *t, uint32_t bits)
{
    hs_levels want = {.bits = bits};
    hs_book_levels(HS_BOOK_CONVERGED, bits, want.level);
    for (uint32_t i = 0; i < t->n_books; i++)
        if (t->book[i].bits == bits && memcmp(t->book[i].level, want.level, sizeof want.level) == 0)
            return i;
    assert(t->n_books < sizeof t->book / sizeof *t->book);
    t->book[t->n_books] = want;
    return t->n_books++;
}

static hlwq_status apply_precision(hs_table *t, const hs_precision *p, hlwq_error *err)
{
    for (uint32_t g = 0; g < t->n_groups; g++) {
        hs_group *group = &t->group[g];
        for (uint32_t i = 0; i < group->n_parts; i++) {
            hs_part *part = &group->part[i];
            hs_dtype want = HS_F32;
            switch (hs_role_class_of(part->role)) {
            case HS_CLASS_MATRIX: want = p->choose ? p->choose(p->user, group, part) : p->matrix; break;
            case HS_CLASS_EMBED: want = p->embed; break;
            case HS_CLASS_HEAD: want = p->head; break;
            default: break;
            }
            if (!hs_dtype_packed(want) || hs_dtype_packed(part->dtype)) /* codes are not coded again */
                continue;
            part->dtype = want;
            part->scaled = p->scaled && hs_role_class_of(part->role) == HS_CLASS_MATRIX &&
                           (group->kind == HS_GROUP_LAYER || group->kind == HS_GROUP_EXPERTS);
            if (hs_dtype_rotated(want))
                part->book = converged_book(t, hs_dtype_bits(want));
        }
        HS_TRY(hs_group_place(group, err));
    }
    return HLWQ_OK;
}

static hlwq_status open_directory(hs_store *s, const char *path, const hs_precision *precision, const hs_log *log,
                                  hlwq_error *err)
{
    HS_TRY(hs_gguf_is(path) ? hs_gguf_open(&s->hf, s->mem, path, log, err)
                            : hs_hf_open(&s->hf, s->mem, path, log, err));
    s->has_hf = true;
    HS_TRY(hs_hf_table(&s->hf, &s->made, &s->arena, err));
    for (uint32_t i = 0; i < s->made.n_books; i++) {
        hs_levels *book = &s->made.book[i];
        if (book->author)
            hs_book_levels(book->author == 'A' ? HS_BOOK_A : HS_BOOK_B, book->bits, book->level);
        book->author = 0;
    }
    HS_TRY(hs_store_settle_order(&s->hf, s->made.book, err));
    if (precision)
        HS_TRY(apply_precision(&s->made, precision, err));
    s->table = &s->made;
    snprintf(s->format, sizeof s->format, "%s", s->hf.format);
    const char *name = strrchr(path, '/');
    snprintf(s->provenance, sizeof s->provenance, "%s, %s", name && name[1] ? name + 1 : path, s->hf.format);
    return HLWQ_OK;
}

/* The format most of the bytes have. */
static void name_format(hs_store *s)
{
    uint64_t bytes[HS_DTYPE_COUNT] = {0};
    const hs_table *t = s->table;
    hs_dtype most = HS_F32;
    for (uint32_t g = 0; g < t->n_groups; g++)
        for (uint32_t i = 0; i < t->group[g].n_parts; i++)
            bytes[t->group[g].part[i].dtype] += t->group[g].part[i].planes.bytes * t->group[g].count;
    for (int d = 0; d < HS_DTYPE_COUNT; d++)
        if (bytes[d] > bytes[most])
            most = (hs_dtype)d;
    snprintf(s->format, sizeof s->format, "%s%s", hs_dtype_rotated(most) ? "HLWQ " : "", hs_dtype_name(most));
}

static hlwq_status make_books(hs_store *s, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_arena_array(&s->arena, s->table->n_books, sizeof(hs_codebook), &p, err));
    hs_codebook *book = p;
    for (uint32_t i = 0; i < s->table->n_books; i++) {
        hlwq_status st = hs_codebook_init(&book[i], s->table->book[i].bits, s->table->book[i].level, err);
        if (st != HLWQ_OK)
            return hs_fail_in(err, st, "%s: codebook %u", s->path, i);
    }
    s->book = book;
    return HLWQ_OK;
}

hlwq_status hs_store_open(hs_store **store, hs_mem *mem, const char *path, const hs_precision *precision,
                          const hs_log *log, hlwq_error *err)
{
    void *p;
    char *copy;
    *store = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, sizeof(hs_store), "model table", &p, err));
    hs_store *s = p;
    s->mem = mem;
    hs_shelf_open(&s->shelf, mem, HS_MEM_IO, 0);
    hs_arena_init(&s->arena, mem, HS_MEM_TABLE);
    hlwq_status st = hs_arena_text(&s->arena, path, strlen(path), &copy, err);
    if (st == HLWQ_OK) {
        s->path = copy;
        if (hs_path_is_directory(path) || hs_gguf_is(path) || hs_eoq_file_is(path)) {
            st = open_directory(s, path, precision, log, err);
        } else {
            st = hs_container_open(&s->container, mem, path, log, err);
            s->is_container = st == HLWQ_OK;
            s->table = &s->container.table;
            if (st == HLWQ_OK && precision)
                st = hs_fail(err, HLWQ_ERR_ARG,
                             "%s is a container already; convert reads model directories, GGUF and .eoq files", path);
        }
    }
    if (st == HLWQ_OK)
        st = make_books(s, err);
    if (st != HLWQ_OK) {
        hs_store_close(s);
        return st;
    }
    if (s->is_container)
        name_format(s);
    *store = s;
    return HLWQ_OK;
}

void hs_store_close(hs_store *s)
{
    if (!s)
        return;
    if (s->is_container)
        hs_container_close(&s->container);
    if (s->has_hf)
        hs_hf_close(&s->hf);
    hs_ahead_close(s->ahead);
    hs_shelf_close(&s->shelf);
    hs_arena_close(&s->arena);
    hs_mem_free(s->mem, s);
}

bool hs_store_use_drafts(hs_store *s)
{
    hs_table *t = s->table == &s->made ? &s->made : &s->container.table;
    t->drafts = t->has_mtp;
    return t->drafts;
}

const hs_table *hs_store_table(const hs_store *s)
{
    return s->table;
}

const hs_generation *hs_store_generation(const hs_store *s)
{
    return s->is_container ? &s->container.generation : &s->hf.generation;
}

const hs_codebook *hs_store_book(const hs_store *s, uint32_t i)
{
    assert(i < s->table->n_books);
    return &s->book[i];
}

static void hash_group(XXH3_state_t *h, const hs_group *g)
{
    uint32_t head[] = {(uint32_t)g->kind, g->layer, g->count, g->n_parts};
    XXH3_64bits_update(h, head, sizeof head);
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const hs_part *p = &g->part[i];
        uint32_t part[] = {(uint32_t)p->role, p->rows, p->cols, (uint32_t)p->dtype, p->book, p->ordered};
        XXH3_64bits_update(h, part, sizeof part);
    }
    if (g->xxh)
        XXH3_64bits_update(h, g->xxh, g->count * sizeof *g->xxh);
}

static void hash_directory(XXH3_state_t *h, const hs_hf *hf)
{
    for (uint32_t i = 0; i < hf->n_files; i++) {
        const char *slash = strrchr(hf->path[i], '/'), *name = slash ? slash + 1 : hf->path[i];
        XXH3_64bits_update(h, name, strlen(name) + 1);
        XXH3_64bits_update(h, &hf->file[i].bytes, sizeof hf->file[i].bytes);
        XXH3_64bits_update(h, &hf->file[i].mtime_ns, sizeof hf->file[i].mtime_ns);
    }
    for (uint32_t i = 0; i < hf->n_tensors; i++) {
        const hs_tensor *t = &hf->tensor[i];
        XXH3_64bits_update(h, t->name, strlen(t->name) + 1);
        XXH3_64bits_update(h, &t->data.offset, sizeof t->data.offset);
    }
}

uint64_t hs_store_fingerprint(const hs_store *s)
{
    XXH3_state_t h;
    uint64_t bytes;
    const char *config = hs_store_blob(s, HS_BLOB_CONFIG, &bytes);
    XXH3_64bits_reset(&h);
    if (config)
        XXH3_64bits_update(&h, config, bytes);
    for (uint32_t i = 0; i < s->table->n_books; i++)
        XXH3_64bits_update(&h, s->table->book[i].level, sizeof s->table->book[i].level);
    for (uint32_t g = 0; g < s->table->n_groups; g++)
        hash_group(&h, &s->table->group[g]);
    if (s->has_hf)
        hash_directory(&h, &s->hf);
    return XXH3_64bits_digest(&h);
}

const char *hs_store_path(const hs_store *s)
{
    return s->path;
}

bool hs_store_is_container(const hs_store *s)
{
    return s->is_container;
}

const char *hs_store_format(const hs_store *s)
{
    return s->format;
}

const char *hs_store_provenance(const hs_store *s)
{
    return s->is_container ? s->container.provenance : s->provenance;
}

uint32_t hs_store_skipped(const hs_store *s)
{
    return s->is_container ? 0 : s->hf.n_skipped;
}

const char *hs_store_blob(const hs_store *s, hs_blob blob, uint64_t *bytes)
{
    if (s->is_container) {
        *bytes = s->container.blob_bytes[blob];
        return s->container.blob[blob];
    }
    const hs_hf *h = &s->hf;
    const char *text[HS_BLOB_COUNT] = {
        [HS_BLOB_CONFIG] = h->config_text,       [HS_BLOB_GENERATION] = h->generation_text,
        [HS_BLOB_TOKENIZER] = h->tokenizer_text, [HS_BLOB_TOKENIZER_CONFIG] = h->tokenizer_config_text,
        [HS_BLOB_TEMPLATE] = h->template_text,
    };
    const uint64_t size[HS_BLOB_COUNT] = {
        [HS_BLOB_CONFIG] = h->config_bytes,       [HS_BLOB_GENERATION] = h->generation_bytes,
        [HS_BLOB_TOKENIZER] = h->tokenizer_bytes, [HS_BLOB_TOKENIZER_CONFIG] = h->tokenizer_config_bytes,
        [HS_BLOB_TEMPLATE] = h->template_bytes,
    };
    *bytes = size[blob];
    return text[blob];
}

/* ---- making an extent from tensors ---------------------------------------------------------- */

typedef struct making {
    const hs_part *part;
    const hs_codebook *book;
    const hs_source *source;
    uint8_t *out;                         /* the part */
    const uint8_t *raw;                   /* source rows of this piece */
    const uint16_t *norms;                /* of this piece, packed sources */
    uint64_t first;                       /* row of the piece in the part */
    float *row;                           /* scratch, [threads][row_floats] */
    size_t row_floats;                    /* cols, to whole blocks, or enough rows for the encoder */
    const hs_codebook *decode;            /* HLWQ sources */
    const float *factor;                  /* of such, [cols]: what AWQ undoes */
    hlwq_status status[HS_STORE_WORKERS]; /* by worker */
} making;

static void encode_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    making *m = user;
    uint64_t cols = m->part->cols, item = hs_dtype_bytes(m->source->tensor->dtype);
    uint64_t step = hs_max_u64(1, m->row_floats / cols), n;
    float *row = m->row + worker * m->row_floats;
    for (uint64_t r = first; r < last && m->status[worker] == HLWQ_OK; r += n) {
        n = hs_min_u64(step, last - r);
        hs_to_f32(row, m->raw + r * cols * item, m->source->tensor->dtype, n * cols);
        m->status[worker] =
            hs_encode_rows(m->part->dtype, m->book, row, m->first + r, n, m->part->rows, cols, m->out, NULL);
    }
}

static void repack_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    making *m = user;
    const hs_planes *p = &m->part->planes;
    const uint32_t block = hs_hf_block_bytes(m->source->tensor);
    (void)worker;
    for (uint64_t b = (uint64_t)first * p->blocks; b < (uint64_t)last * p->blocks; b++) {
        uint8_t code[HS_BLOCK];
        uint64_t at = m->first * p->blocks + b;
        hs_store_unpack_codes(m->source->tensor, m->raw + b * block, code);
        hs_pack_block(m->part->dtype, code, m->out + p->low + at * p->low_block, m->out + p->high + at * p->high_block);
        memcpy(m->out + p->norms + at * 2, &m->norms[b], 2);
    }
}

/* Rows that stay codes nowhere: decoded, and coded anew where the part is packed. */
static void recode_some(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    making *m = user;
    const hs_part *part = m->part;
    const uint64_t blocks = hs_ceil_div(part->cols, HS_BLOCK), block = hs_hf_block_bytes(m->source->tensor);
    float *row = m->row + worker * m->row_floats;
    for (uint32_t r = first; r < last && m->status[worker] == HLWQ_OK; r++) {
        for (uint64_t b = 0; b < blocks; b++) {
            uint8_t code[HS_BLOCK];
            hs_store_unpack_codes(m->source->tensor, m->raw + (r * blocks + b) * block, code);
            hs_decode_block(m->decode, code, m->norms[r * blocks + b], row + b * HS_BLOCK);
        }
        for (uint32_t c = 0; c < part->cols; c++)
            row[c] *= m->factor[c];
        if (hs_dtype_packed(part->dtype))
            m->status[worker] =
                hs_encode_rows(part->dtype, m->book, row, m->first + r, 1, part->rows, part->cols, m->out, NULL);
        else
            memcpy((float *)(void *)m->out + (m->first + r) * part->cols, row, part->cols * sizeof(float));
    }
}

/* Rows first..first+rows-1 of the part, whose source bytes are in `raw`. */
static hlwq_status make_piece(hs_store *s, making *m, uint64_t rows, hs_pool *pool, hlwq_error *err)
{
    const hs_part *part = m->part;
    const hs_tensor *t = m->source->tensor;
    if (t->encoding == HS_ENC_HLWQ && part->dtype == t->dtype) {
        return hs_store_run(pool, rows, repack_some, m, m->status);
    } else if (t->encoding == HS_ENC_HLWQ || hs_dtype_packed(part->dtype)) {
        hs_pool_fn fn = t->encoding == HS_ENC_HLWQ ? recode_some : encode_some;
        hlwq_status st = hs_store_run(pool, rows, fn, m, m->status);
        if (st != HLWQ_OK)
            return hs_fail(err, st, "%s: %s holds a value that is not finite", s->path, t->name);
    } else {
        assert(part->dtype == HS_F32);
        hs_to_f32((float *)(void *)m->out + m->first * part->cols, m->raw, t->dtype, rows * part->cols);
    }
    return HLWQ_OK;
}

/* The part, or those rows of it that the source has. */
static hlwq_status make_from(hs_store *s, const hs_source *source, const hs_part *part, hs_pool *pool, uint8_t *out,
                             hlwq_error *err)
{
    const hs_tensor *t = source->tensor;
    if (t->encoding == HS_ENC_GPTQ || t->encoding == HS_ENC_COMPRESSED)
        return hs_store_ints(&s->hf, &s->shelf, source, part,
                             hs_dtype_rotated(part->dtype) ? &s->book[part->book] : NULL, pool, out, err);
    if (hs_tensor_widened(t))
        return hs_store_wide(&s->hf, &s->shelf, source, part,
                             hs_dtype_rotated(part->dtype) ? &s->book[part->book] : NULL, pool, out, err);
    bool stream = t->encoding == HS_ENC_HLWQ;
    if (!stream && part->dtype == t->dtype)
        return hs_hf_read_rows(&s->hf, source, 0, part->rows, out, err);
    uint64_t blocks = hs_ceil_div(part->cols, HS_BLOCK), threads = pool ? hs_pool_threads(pool) : 1;
    uint64_t row = stream ? blocks * hs_hf_block_bytes(t) : (uint64_t)part->cols * hs_dtype_bytes(t->dtype);
    uint64_t step = hs_max_u64(1, hs_min_u64(part->rows, PIECE / row)),
             row_floats = hs_max_u64(blocks * HS_BLOCK, HS_ENCODE_FLOATS);
    uint64_t got, norm_bytes = stream ? hs_align_up(step * blocks * 2, 64) : 0;
    uint64_t factor_bytes = stream ? blocks * HS_BLOCK * sizeof(float) : 0;
    void *p;
    uint64_t raw_bytes = hs_align_up(step * row, 64);
    uint64_t norms_at = raw_bytes + hs_align_up(threads * row_floats * sizeof(float), 64);
    HS_TRY(hs_shelf_take(&s->shelf, norms_at + norm_bytes + factor_bytes, "transfer buffer", &p, &got, err));
    uint8_t *buffer = p;
    uint16_t *norms = (uint16_t *)(void *)(buffer + norms_at);
    float *factor = (float *)(void *)(buffer + norms_at + norm_bytes);
    making *m = calloc(1, sizeof *m);
    hlwq_status st = m ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to load a tensor");
    if (st == HLWQ_OK && stream)
        st = hs_hf_read_factors(&s->hf, t, part->cols, factor, err);
    if (st == HLWQ_OK && stream && part->scaled)
        memcpy(out + part->planes.factor, factor, part->planes.factor_bytes);
    for (uint64_t first = 0; st == HLWQ_OK && first < part->rows; first += step) {
        uint64_t rows = hs_min_u64(step, part->rows - first);
        *m = (making){.part = part,
                      .book = hs_dtype_rotated(part->dtype) ? &s->book[part->book] : NULL,
                      .source = source,
                      .out = out,
                      .raw = buffer,
                      .norms = norms,
                      .first = first,
                      .row = (float *)(void *)(buffer + raw_bytes),
                      .row_floats = row_floats,
                      .decode = stream ? &s->book[t->book] : NULL,
                      .factor = factor};
        st = stream ? hs_hf_read_packed(&s->hf, source, first, rows, buffer, norms, err)
                    : hs_hf_read_rows(&s->hf, source, first, rows, buffer, err);
        if (st == HLWQ_OK)
            st = make_piece(s, m, rows, pool, err);
    }
    free(m);
    hs_shelf_give(&s->shelf, buffer, got);
    return st;
}

static hlwq_status make_part(hs_store *s, const hs_group *group, uint32_t extent, const hs_part *part, hs_pool *pool,
                             uint8_t *out, hlwq_error *err)
{
    hs_source source;
    HS_TRY(hs_hf_source(&s->hf, group, extent, part, &source, err));
    for (uint32_t c = 0; part->scaled && c < part->cols; c++) /* unless the source has others */
        ((float *)(void *)(out + part->planes.factor))[c] = 1.0f;
    return make_from(s, &source, part, pool, out, err);
}

void hs_store_keep_buffers(hs_store *s, uint64_t bytes)
{
    s->shelf.keep_bytes = bytes;
}

void hs_store_read_ahead(hs_store *s, uint64_t bytes)
{
    hs_container *c = &s->container;
    if (s->ahead || hs_ahead_open(&s->ahead, s->mem, bytes, NULL) != HLWQ_OK)
        return;
    if (s->is_container)
        hs_file_read_ahead(&c->file, c->path, s->ahead);
    for (uint32_t i = 0; s->has_hf && i < s->hf.n_files; i++)
        hs_file_read_ahead(&s->hf.file[i], s->hf.path[i], s->ahead);
}

void hs_store_ahead_tally(hs_store *s, uint64_t *bytes, uint64_t *ns)
{
    *bytes = *ns = 0;
    if (s->ahead)
        hs_ahead_tally(s->ahead, bytes, ns);
}

/* Whether the group is one matrix whose bytes are the file's. */
static bool is_copied(const hs_store *s, const hs_group *g, uint32_t extent, hs_source *source)
{
    return !s->is_container && g->n_parts == 1 && g->part[0].offset == 0 &&
           hs_role_class_of(g->part[0].role) != HS_CLASS_VECTOR && !hs_dtype_packed(g->part[0].dtype) &&
           hs_hf_source(&s->hf, g, extent, &g->part[0], source, NULL) == HLWQ_OK &&
           source->tensor->encoding == HS_ENC_PLAIN && source->tensor->dtype == g->part[0].dtype;
}

bool hs_store_has_pieces(const hs_store *s, uint32_t group, uint32_t extent)
{
    hs_source source;
    return is_copied(s, &s->table->group[group], extent, &source);
}

hlwq_status hs_store_load_piece(const hs_store *s, uint32_t g, uint32_t extent, uint64_t offset, uint64_t bytes,
                                uint8_t *out, hlwq_error *err)
{
    const hs_group *group = &s->table->group[g];
    hs_source source;
    assert(offset + bytes <= group->bytes);
    if (!is_copied(s, group, extent, &source))
        return hs_fail(err, HLWQ_ERR_ARG, "group %u has no pieces", g);
    const uint64_t all = (uint64_t)source.rows * source.cols * hs_dtype_bytes(source.tensor->dtype);
    const uint64_t from = hs_min_u64(offset, all), n = hs_min_u64(bytes, all - from);
    memset(out + n, 0, bytes - n);
    return hs_hf_read_bytes(&s->hf, &source, from, n, AHEAD, out, err);
}

uint64_t hs_store_ahead(const hs_store *s, uint32_t g, uint32_t extent)
{
    const hs_group *group = &s->table->group[g];
    hs_source source;
    if (hs_store_has_pieces(s, g, extent))
        return 0; /* those are asked for one by one */
    if (s->is_container) {
        hs_file_ahead(&s->container.file, hs_container_offset(&s->container, g, extent), group->bytes);
        return group->bytes;
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < group->n_parts; i++)
        if (hs_hf_source(&s->hf, group, extent, &group->part[i], &source, NULL) == HLWQ_OK)
            bytes += hs_hf_ahead(&s->hf, &source);
    return bytes;
}

/* ---- rows as fp32 --------------------------------------------------------------------------- */

/* Rows of a directory: made as if the part were those rows in fp32. */
static hlwq_status rows_of_directory(hs_store *s, const hs_group *group, uint32_t extent, const hs_part *part,
                                     uint64_t first, uint64_t rows, hs_pool *pool, float *out, hlwq_error *err)
{
    hs_source source;
    hs_part want = {.role = part->role, .rows = part->rows, .cols = part->cols, .dtype = HS_F32};
    HS_TRY(hs_hf_source(&s->hf, group, extent, part, &source, err));
    source.first_row += first;
    source.rows = rows;
    want.rows = (uint32_t)rows;
    return make_from(s, &source, &want, pool, (uint8_t *)out, err);
}

hlwq_status hs_store_rows(hs_store *s, uint32_t g, uint32_t extent, const hs_part *part, uint64_t first, uint64_t rows,
                          hs_pool *pool, float *out, hlwq_error *err)
{
    const hs_group *group = &s->table->group[g];
    assert(g < s->table->n_groups && extent < group->count && first + rows <= part->rows && rows);
    if (!s->is_container)
        return rows_of_directory(s, group, extent, part, first, rows, pool, out, err);
    return hs_store_decode(&s->container, s->mem, g, extent, part,
                           hs_dtype_rotated(part->dtype) ? &s->book[part->book] : NULL, first, rows, pool, out, err);
}

hlwq_status hs_store_load(hs_store *s, uint32_t g, uint32_t extent, hs_pool *pool, bool verify, void *out,
                          hlwq_error *err)
{
    const hs_group *group = &s->table->group[g];
    assert(g < s->table->n_groups && extent < group->count);
    if (s->is_container) {
        HS_TRY(hs_file_read(&s->container.file, hs_container_offset(&s->container, g, extent), out, group->bytes,
                            s->path, err));
        return verify ? hs_store_check(s, g, extent, out, err) : HLWQ_OK;
    }
    memset(out, 0, group->bytes); /* gaps between parts are part of the checksum */
    for (uint32_t i = 0; i < group->n_parts; i++)
        HS_TRY(make_part(s, group, extent, &group->part[i], pool, (uint8_t *)out + group->part[i].offset, err));
    return hs_store_check_planes(group, extent, out, s->path, err);
}

uint64_t hs_store_extent_offset(const hs_store *s, uint32_t group, uint32_t extent)
{
    assert(s->is_container);
    return hs_container_offset(&s->container, group, extent);
}

int hs_store_file(const hs_store *s)
{
    return s->is_container ? s->container.file.fd : -1;
}

hlwq_status hs_store_unchanged(const hs_store *s, hlwq_error *err)
{
    return s->is_container ? hs_file_unchanged(&s->container.file, s->path, err) : HLWQ_OK;
}

hlwq_status hs_store_check(const hs_store *s, uint32_t group, uint32_t extent, const void *data, hlwq_error *err)
{
    assert(s->is_container);
    HS_TRY(hs_container_verify(&s->container, group, extent, data, err));
    return hs_store_check_planes(&s->table->group[group], extent, data, s->path, err);
}
