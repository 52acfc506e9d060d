/*
 * model/draft_vocab.c - counts tokens, and copies rows.
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
    hlwq_status st = HLWQ_OK;
    if (text && tokenizer)
        st = hs_tokenizer_encode(tokenizer, text, bytes, false, &ids, &n, err);
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

uint64_t hs_draft_vocab_bytes(const hs_table *t, uint32_t rows)
{
    hs_planes planes;
    return layout(t, rows, &planes) ? planes.bytes + (uint64_t)rows * (sizeof(int32_t) + sizeof(float)) : 0;
}

/* Rows id[..] of a plane whose rows are all of one size. */
static void copy_rows(uint8_t *to, const uint8_t *from, uint64_t bytes, const int32_t *id, uint32_t rows)
{
    uint64_t row = bytes / rows;
    for (uint32_t i = 0; i < rows && bytes; i++)
        memcpy(to + i * row, from + (uint64_t)id[i] * row, row);
}

hlwq_status hs_draft_vocab_open(hs_network *net, hs_mem *mem, const hs_tokenizer *tokenizer, uint32_t rows,
                                const char *text, size_t bytes, hlwq_error *err)
{
    void *p;
    hs_planes planes;
    const hs_matrix *head = &net->head;
    if (!layout(net->table, rows, &planes))
        return HLWQ_OK; /* all of them */
    HS_TRY(hs_mem_alloc(mem, HS_MEM_TABLE, (uint64_t)rows * (sizeof(int32_t) + sizeof(float)), "draft head", &p, err));
    net->draft_id = p;
    net->draft_logits = (float *)(void *)(net->draft_id + rows);
    HS_TRY(choose(net->draft_id, rows, head->rows, mem, tokenizer, text, bytes, err));
    HS_TRY(hs_mem_alloc(mem, HS_MEM_WEIGHTS, planes.bytes, "draft head", &p, err));
    net->draft_rows = p;
    copy_rows(net->draft_rows + planes.low, head->low, planes.low_bytes, net->draft_id, rows);
    copy_rows(net->draft_rows + planes.high, head->high, planes.high_bytes, net->draft_id, rows);
    copy_rows(net->draft_rows + planes.norms, head->norms, planes.norms_bytes, net->draft_id, rows);
    copy_rows(net->draft_rows + planes.zeros, head->zeros, planes.zeros_bytes, net->draft_id, rows);
    net->draft_head = hs_matrix_at(head->dtype, rows, head->cols, &planes, net->draft_rows, head->book);
    return HLWQ_OK;
}

void hs_draft_vocab_close(hs_network *net, hs_mem *mem)
{
    hs_mem_free(mem, net->draft_id);
    hs_mem_free(mem, net->draft_rows);
    net->draft_id = NULL;
    net->draft_rows = NULL;
}
