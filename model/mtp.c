/*
 * model/mtp.c - pairs go in when their token is known; rows of hidden states wait in ordinary memory until then.  What
 * a draft leaves for the next one stays with the backend.
 */
#include "model/mtp.h"

#include <assert.h>
#include <string.h>

enum { EXPERTS_FOR = 4 }; /* pairs at once, where each wants experts of its own: a window's, and not those of a pause */

struct hs_mtp {
    hs_network *net;
    hs_mem *mem;
    hs_kv *kv;
    void *pages; /* in the backend's memory */
    hs_kv_view view;
    uint32_t n;       /* pairs taken in, all true ones */
    uint32_t waiting; /* of rows: hidden states of the last tokens, whose pairs are not in */
    uint32_t noted;   /* rows after them: of a window */
    uint32_t chain;   /* pairs after n that are guesses */
    float *row;       /* [2 * HS_WINDOW_MAX][hidden] */
};

static hs_kv_shape shape_of(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t batch)
{
    return (hs_kv_shape){1, c->kv_heads * c->head_dim, kv, positions, batch};
}

static uint64_t own_bytes(const hs_config *c)
{
    return sizeof(hs_mtp) + 64 + 2 * HS_WINDOW_MAX * (uint64_t)c->hidden * sizeof(float);
}

uint64_t hs_mtp_pages_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t batch)
{
    hs_kv_shape shape = shape_of(c, kv, positions, batch);
    return hs_kv_block_bytes(&shape);
}

uint64_t hs_mtp_bytes(const hs_config *c, hs_kv_format kv, uint32_t positions, uint32_t batch)
{
    hs_kv_shape shape = shape_of(c, kv, positions, batch);
    return hs_kv_bytes(&shape) + own_bytes(c);
}

hlwq_status hs_mtp_open(hs_mtp **out, hs_network *net, hs_mem *mem, hs_kv_format kv, uint32_t positions,
                        hlwq_error *err)
{
    void *p;
    const hs_config *c = net->config;
    hs_kv_shape shape = shape_of(c, kv, positions, net->batch);
    *out = NULL;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, own_bytes(c), "draft head", &p, err));
    hs_mtp *m = p;
    m->net = net;
    m->mem = mem;
    m->row = (float *)(void *)((uint8_t *)p + ((sizeof *m + 63) & ~(size_t)63));
    hlwq_status st =
        net->backend->ops->alloc(net->backend, HS_MEM_KV, hs_kv_block_bytes(&shape), "draft head's KV", &m->pages, err);
    if (st == HLWQ_OK)
        st = hs_kv_open(&m->kv, mem, &shape, m->pages, err);
    if (st != HLWQ_OK) {
        hs_mtp_close(m);
        return st;
    }
    m->view = hs_kv_view_of(m->kv, 0, shape.width);
    *out = m;
    return HLWQ_OK;
}

void hs_mtp_close(hs_mtp *m)
{
    if (!m)
        return;
    hs_kv_close(m->kv);
    m->net->backend->ops->free(m->net->backend, m->pages);
    hs_mem_free(m->mem, m);
}

void hs_mtp_reset(hs_mtp *m)
{
    m->n = m->waiting = m->noted = m->chain = 0;
}

/* Rows of hidden states: to the draft head's input, and back. */
static hlwq_status put_rows(const hs_mtp *m, const float *from, uint32_t at, uint32_t n, hlwq_error *err)
{
    size_t hidden = m->net->config->hidden;
    hs_backend *be = m->net->backend;
    return n ? be->ops->put(be, m->net->h + at * hidden, from, n * hidden * sizeof(float), err) : HLWQ_OK;
}

static hlwq_status get_rows(const hs_mtp *m, float *to, uint32_t at, uint32_t n, hlwq_error *err)
{
    size_t hidden = m->net->config->hidden;
    hs_backend *be = m->net->backend;
    return be->ops->get(be, to, m->net->h + at * hidden, n * hidden * sizeof(float), err);
}

/* The hidden states of net->x, after the final norm. */
static hlwq_status normed(const hs_mtp *m, uint32_t at, uint32_t n, hlwq_error *err)
{
    hs_network *net = m->net;
    return net->backend->ops->norm(net->backend, net->final_norm, net->config->eps, n, net->x,
                                   net->h + (size_t)at * net->config->hidden, err);
}

hlwq_status hs_mtp_prompt(hs_mtp *m, const int32_t *tokens, uint32_t first, uint32_t n, hlwq_error *err)
{
    hs_network *net = m->net;
    uint32_t waiting = m->waiting, pairs = waiting + n - 1;
    assert(waiting <= first && m->noted == 0);
    uint32_t skip = pairs > net->batch ? pairs - net->batch : 0; /* a gap, of a few old pairs */
    HS_TRY(put_rows(m, m->row, 0, waiting, err));
    HS_TRY(normed(m, waiting, n, err));
    HS_TRY(get_rows(m, m->row, waiting + n - 1, 1, err));
    m->waiting = 1;
    pairs -= skip;
    if (pairs == 0)
        return HLWQ_OK;
    HS_TRY(hs_forward_draft(net, &m->view, tokens + first - waiting + 1 + skip,
                            net->h + (size_t)skip * net->config->hidden, m->n, pairs, NULL, NULL, err));
    m->n += pairs;
    return HLWQ_OK;
}

hlwq_status hs_mtp_note(hs_mtp *m, uint32_t n, hlwq_error *err)
{
    assert(n <= HS_WINDOW_MAX && m->waiting <= HS_WINDOW_MAX);
    HS_TRY(normed(m, 0, n, err));
    HS_TRY(get_rows(m, m->row + (size_t)m->waiting * m->net->config->hidden, 0, n, err));
    m->noted = n;
    return HLWQ_OK;
}

void hs_mtp_keep(hs_mtp *m, uint32_t kept)
{
    size_t hidden = m->net->config->hidden;
    assert(kept <= m->noted);
    m->waiting += kept;
    m->noted = 0;
    if (m->waiting > HS_WINDOW_MAX) { /* not drafting: the oldest pairs are left out */
        memmove(m->row, m->row + (m->waiting - HS_WINDOW_MAX) * hidden, HS_WINDOW_MAX * hidden * sizeof(float));
        m->waiting = HS_WINDOW_MAX;
    }
}

void hs_mtp_forget(hs_mtp *m)
{
    m->waiting = m->noted = 0;
}

bool hs_mtp_ready(const hs_mtp *m)
{
    return m->waiting > 0;
}

hlwq_status hs_mtp_draft(hs_mtp *m, const int32_t *tokens, uint32_t n, float *logits, hlwq_error *err)
{
    const hs_config *c = m->net->config;
    uint32_t skip = c->experts && m->waiting > EXPERTS_FOR ? m->waiting - 1 : 0, pairs = m->waiting - skip;
    assert(pairs && pairs <= n);
    HS_TRY(put_rows(m, m->row + (size_t)skip * c->hidden, 0, pairs, err));
    HS_TRY(hs_forward_draft(m->net, &m->view, tokens + n - pairs + 1, m->net->h, m->n, pairs, m->net->h, logits, err));
    m->n += pairs;
    m->waiting = m->chain = 0;
    return HLWQ_OK;
}

hlwq_status hs_mtp_draft_on(hs_mtp *m, int32_t id, float *logits, hlwq_error *err)
{
    float *h = m->net->h; /* where the draft before has left it */
    HS_TRY(hs_forward_draft(m->net, &m->view, &id, h, m->n + m->chain, 1, h, logits, err));
    m->chain++;
    return HLWQ_OK;
}
