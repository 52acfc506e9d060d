/*
 * loader/formats/gguf_parse.c - the header of a GGUF file: all of it hostile until checked.
 */
#include "loader/formats/gguf.h"

#include "base/size.h"
#include "loader/formats/wide.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { STRING = 8, ARRAY = 9, TYPES = 13, NAME_MAX_BYTES = 1024, VALUES_MAX = 65536, TENSORS_MAX = 1 << 20 };

typedef struct cursor {
    const uint8_t *p;
    uint64_t left;
    const char *path;
    hs_arena *arena;
    hlwq_error *err;
} cursor;

static hlwq_status too_short(const cursor *c, const char *what)
{
    return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: the GGUF header ends in the middle of %s", c->path, what);
}

static hlwq_status take(cursor *c, void *out, uint64_t bytes, const char *what)
{
    if (c->left < bytes)
        return too_short(c, what);
    memcpy(out, c->p, bytes);
    c->p += bytes;
    c->left -= bytes;
    return HLWQ_OK;
}

static hlwq_status take_name(cursor *c, const char **out, const char *what)
{
    uint64_t n = 0;
    char *copy;
    HS_TRY(take(c, &n, 8, what));
    if (n < 1 || n > NAME_MAX_BYTES)
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: a name of %" PRIu64 " bytes in the GGUF header, limit %d", c->path,
                       n, NAME_MAX_BYTES);
    if (c->left < n)
        return too_short(c, what);
    if (memchr(c->p, 0, n))
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: a name in the GGUF header has a zero byte", c->path);
    HS_TRY(hs_arena_text(c->arena, (const char *)c->p, n, &copy, c->err));
    *out = copy;
    c->p += n;
    c->left -= n;
    return HLWQ_OK;
}

/* Bytes of a value of a plain type; 0 for strings, arrays and what does not exist. */
static uint32_t size_of(uint32_t type)
{
    static const uint8_t size[TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < TYPES ? size[type] : 0;
}

static hlwq_status skip_items(cursor *c, hs_gguf_value *v)
{
    const uint8_t *start = c->p;
    uint64_t bytes, length = 0;
    if (v->item != STRING) {
        if (size_of(v->item) == 0 || !hs_mul_u64(v->n, size_of(v->item), &bytes) || bytes > c->left)
            return hs_fail(c->err, HLWQ_ERR_FORMAT,
                           "%s: %.100s is an array of %" PRIu64 " items of type %u, which does not fit or is not known",
                           c->path, v->key, v->n, v->item);
        c->p += bytes;
        c->left -= bytes;
    } else
        for (uint64_t i = 0; i < v->n; i++) {
            HS_TRY(take(c, &length, 8, v->key));
            if (length > c->left)
                return too_short(c, v->key);
            c->p += length;
            c->left -= length;
        }
    v->data = start;
    v->bytes = (uint64_t)(c->p - start);
    return HLWQ_OK;
}

static hlwq_status take_value(cursor *c, hs_gguf_value *v)
{
    *v = (hs_gguf_value){0};
    HS_TRY(take_name(c, &v->key, "a key"));
    HS_TRY(take(c, &v->type, 4, v->key));
    if (v->type == ARRAY) {
        HS_TRY(take(c, &v->item, 4, v->key));
        HS_TRY(take(c, &v->n, 8, v->key));
        return skip_items(c, v);
    }
    v->bytes = size_of(v->type);
    if (v->type == STRING) {
        HS_TRY(take(c, &v->n, 8, v->key));
        v->bytes = v->n;
    } else if (v->bytes == 0)
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: %.100s has the type %u, which GGUF does not have", c->path, v->key,
                       v->type);
    if (v->bytes > c->left)
        return too_short(c, v->key);
    v->data = c->p;
    c->p += v->bytes;
    c->left -= v->bytes;
    return HLWQ_OK;
}

static hlwq_status take_tensor(cursor *c, hs_gguf_tensor *t)
{
    uint64_t elements = 1;
    uint32_t weights, block;
    const char *name;
    *t = (hs_gguf_tensor){0};
    HS_TRY(take_name(c, &t->name, "a tensor"));
    HS_TRY(take(c, &t->rank, 4, t->name));
    if (t->rank < 1 || t->rank > 4)
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has %u dimensions, limit 1..4", c->path, t->name,
                       t->rank);
    for (uint32_t i = 0; i < t->rank; i++) {
        uint64_t *dim = &t->dim[t->rank - 1 - i];
        HS_TRY(take(c, dim, 8, t->name));
        if (*dim < 1 || *dim > INT32_MAX || !hs_mul_u64(elements, *dim, &elements))
            return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: a dimension of the shape is %" PRIu64, c->path,
                           t->name, *dim);
    }
    HS_TRY(take(c, &t->type, 4, t->name));
    HS_TRY(take(c, &t->offset, 8, t->name));
    if (!hs_ggml_type(t->type, &weights, &block, &name))
        return hs_fail(c->err, HLWQ_ERR_UNSUPPORTED,
                       "%s: tensor %.200s has the GGUF type %u; read are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
                       "Q4_K, Q5_K and Q6_K",
                       c->path, t->name, t->type);
    if (t->dim[t->rank - 1] % weights)
        return hs_fail(c->err, HLWQ_ERR_FORMAT,
                       "%s: tensor %.200s: rows of %" PRIu64 " weights are not whole %s blocks of %u", c->path, t->name,
                       t->dim[t->rank - 1], name, weights);
    if (!hs_mul_u64(elements / weights, block, &t->bytes))
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is larger than any file", c->path, t->name);
    return HLWQ_OK;
}

/* Offsets count from the end of the header, to a multiple of the alignment. */
static hlwq_status place(const hs_gguf *g, const cursor *c, uint64_t at, uint64_t file_bytes)
{
    uint32_t align = 32;
    for (uint32_t i = 0; i < g->n_values; i++)
        if (strcmp(g->value[i].key, "general.alignment") == 0 && g->value[i].type == 4)
            memcpy(&align, g->value[i].data, 4);
    if (align < 1 || align > 1u << 20 || (align & (align - 1)))
        return hs_fail(c->err, HLWQ_ERR_FORMAT, "%s: general.alignment is %u, should be a power of two", c->path,
                       align);
    at = hs_align_up(at, align);
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        hs_gguf_tensor *t = &g->tensor[i];
        uint64_t end;
        if (!hs_add_u64(t->offset, at, &t->offset) || !hs_add_u64(t->offset, t->bytes, &end) || end > file_bytes)
            return hs_fail(c->err, HLWQ_ERR_FORMAT,
                           "%s: tensor %.200s lies beyond the end of the file: %" PRIu64 " bytes at %" PRIu64
                           ", the file has %" PRIu64 " (download not finished?)",
                           c->path, t->name, t->bytes, t->offset, file_bytes);
    }
    return HLWQ_OK;
}

hlwq_status hs_gguf_parse(hs_gguf *g, const uint8_t *text, uint64_t bytes, uint64_t file_bytes, const char *path,
                          hs_arena *arena, hlwq_error *err)
{
    cursor c = {text, bytes, path, arena, err};
    uint32_t head[2] = {0};
    uint64_t count[2] = {0};
    void *p;
    *g = (hs_gguf){0};
    HS_TRY(take(&c, head, 8, "its first bytes"));
    HS_TRY(take(&c, count, 16, "its first bytes"));
    if (memcmp(head, "GGUF", 4) != 0 || head[1] < 2 || head[1] > 3)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: GGUF of version %u, read are 2 and 3", path, head[1]);
    /* The least that each takes, so that a small file cannot ask for a large table. */
    if (count[0] > TENSORS_MAX || count[1] > VALUES_MAX || count[0] * 33 + count[1] * 14 > c.left)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: %" PRIu64 " tensors and %" PRIu64 " values do not fit into the GGUF header", path, count[0],
                       count[1]);
    HS_TRY(hs_arena_array(arena, count[1], sizeof(hs_gguf_value), &p, err));
    g->value = p;
    HS_TRY(hs_arena_array(arena, count[0], sizeof(hs_gguf_tensor), &p, err));
    g->tensor = p;
    for (; g->n_values < count[1]; g->n_values++)
        HS_TRY(take_value(&c, &g->value[g->n_values]));
    for (; g->n_tensors < count[0]; g->n_tensors++)
        HS_TRY(take_tensor(&c, &g->tensor[g->n_tensors]));
    return place(g, &c, (uint64_t)(c.p - text), file_bytes);
}
