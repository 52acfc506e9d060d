/*
 * model/draft_vocab.c - counts tokens, and copies rows; the first rows of a head are a head as they are.
 */
#include "model/draft_vocab.h"

#include <assert.h>
#include <stdlib.h>

typedef struct ranked {
    uint32_t count;
    int32_t id;
} ranked;

static int by_count(const void *x, const void *y)
{
    const ranked *a = x, *b = y;
    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static int by_id(const void *x, const void *y)
{
    int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;
    return a < b ? -1 : a > b;
}

/* The rows' ids, ascending. */
static hlwq_status choose(int32_t *id, uint32_t rows, uint32_t vocab, hs_mem *mem, const hs_tokenizer *tokenizer,
                          const char *text, size_t bytes, hlwq_error *err)
{
    void *p;
    int32_t *ids = NULL;
    size_t n = 0;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, (uint64_t)vocab * sizeof(ranked), "token counts", &p, err));
    ranked *rank = p;
    for (uint32_t i = 0; i < vocab; i++)
        rank[i].id = (int32_t)i;
    hlwq_status st = hs_tokenizer_encode(tokenizer, text, bytes, false, &ids, &n, err);
    if (st == HLWQ_OK) {
        for (size_t i = 0; i < n; i++)
            if ((uint32_t)ids[i] < vocab)
                rank[ids[i]].count++;
        qsort(rank, vocab, sizeof *rank, by_count);
        for (uint32_t i = 0; i < rows; i++)
            id[i] = rank[i].id;
        qsort(id, rows, sizeof *id, by_id);
    }
    free(ids);
    hs_mem_free(mem, rank);
    return st;
}

/* The part that the head is: its own, or the embeddings. */
static const hs_part *head_part(const hs_table *t)
{
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_part *p = hs_group_find(&t->group[g], t->config.tied ? HS_EMBED : HS_HEAD);
        if (p)
            return p;
    }
    return NULL;
}

static bool layout(const hs_table *t, uint32_t rows, hs_planes *planes)
{
    const hs_part *p = head_part(t);
    if (!p || p->planes.order_bytes || p->planes.factor_bytes || rows == 0 || rows >= p->rows ||
        !hs_planes_of(p->dtype, rows, p->cols, planes))
        return false;
    return true;
}

uint64_t hs_draft_vocab_bytes(const hs_table *t, uint32_t rows, bool counted)
{
    hs_planes planes;
    return counted && layout(t, rows, &planes) ? planes.bytes + (uint64_t)rows * (sizeof(int32_t) + sizeof(float)) : 0;
}

/* Rows id[..], ascending, of a plane whose rows are all of one size; through `room`, which takes one at least. */
static hlwq_status copy_rows(hs_backend *be, uint8_t *to, const uint8_t *from, uint64_t bytes, const int32_t *id,
                             uint32_t rows, uint8_t *room, uint64_t room_bytes, hlwq_error *err)
{
    uint64_t row = bytes / rows, most = row ? room_bytes / row : 0;
    for (uint32_t i = 0, n; i < rows && row; i += n) {
        const int32_t *run = id + i;
        for (n = 1; i + n < rows && (uint64_t)(run[n] - run[0]) < most; n++)
            continue;
        HS_TRY(be->ops->get(be, room, from + (uint64_t)run[0] * row, (uint64_t)(run[n - 1] - run[0] + 1) * row, err));
        for (uint32_t k = 1; k < n; k++)
            memmove(room + k * row, room + (uint64_t)(run[k] - run[0]) * row, row);
        HS_TRY(be->ops->put(be, to + i * row, room, n * row, err));
    }
    return HLWQ_OK;
}

static hlwq_status copy_planes(hs_network *net, const hs_planes *planes, uint32_t rows, uint8_t *room, uint64_t bytes,
                               hlwq_error *err)
{
    const hs_matrix *head = &net->head;
    const struct {
        uint64_t at, bytes;
        const uint8_t *from;
    } plane[] = {{planes->low, planes->low_bytes, head->low},
                 {planes->high, planes->high_bytes, head->high},
                 {planes->norms, planes->norms_bytes, head->norms},
                 {planes->zeros, planes->zeros_bytes, head->zeros}};
    for (size_t i = 0; i < sizeof plane / sizeof *plane; i++)
        HS_TRY(copy_rows(net->backend, net->draft_rows + plane[i].at, plane[i].from, plane[i].bytes, net->draft_id,
                         rows, room, bytes, err));
    return HLWQ_OK;
}

hlwq_status hs_draft_vocab_open(hs_network *net, hs_mem *mem, const hs_tokenizer *tokenizer, uint32_t rows,
                                const char *text, size_t bytes, hlwq_error *err)
{
    void *p;
    hs_planes planes;
    const hs_matrix *head = &net->head;
    if (!layout(net->table, rows, &planes))
        return HLWQ_OK;        /* all of them */
    if (!text || !tokenizer) { /* the lowest ids */
        net->draft_head.rows = rows;
        return HLWQ_OK;
    }
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, (uint64_t)rows * (sizeof(int32_t) + sizeof(float)), "draft head", &p, err));
    net->draft_id = p;
    net->draft_logits = (float *)(void *)(net->draft_id + rows);
    HS_TRY(choose(net->draft_id, rows, head->rows, mem, tokenizer, text, bytes, err));
    HS_TRY(net->backend->ops->alloc(net->backend, HS_MEM_WEIGHTS, planes.bytes, "draft head", &p, err));
    net->draft_rows = p;
    uint64_t room = (uint64_t)head->rows * sizeof(ranked), least = (uint64_t)head->cols * sizeof(float);
    room = room > least ? room : least; /* no more than counting took, but for the smallest vocabularies */
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, room, "draft head", &p, err));
    hlwq_status st = copy_planes(net, &planes, rows, p, room, err);
    hs_mem_free(mem, p);
    net->draft_head = hs_matrix_at(head->dtype, rows, head->cols, &planes, net->draft_rows, head->book);
    return st;
}

void hs_draft_vocab_close(hs_network *net, hs_mem *mem)
{
    hs_mem_free(mem, net->draft_id);
    if (net->draft_rows)
        net->backend->ops->free(net->backend, net->draft_rows);
    net->draft_id = NULL;
    net->draft_rows = NULL;
}
