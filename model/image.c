/*
 * model/image.c - counts pages; cache/kv.h says which of them exist in which form.
 */
#include "model/image.h"

#include "base/size.h"
#include "kernels/kv_codec.h"

hs_image hs_image_of(const hs_states *s, uint32_t tokens, bool tail_only)
{
    hs_kv_format f = hs_kv_format_of(s->kv);
    hs_image m = {.states = s, .tokens = tokens, .layers = hs_kv_layers(s->kv)};
    m.pages = (uint32_t)hs_ceil_div(tokens, HS_KV_PAGE);
    m.coded = hs_kv_is_coded(f) && tokens ? hs_kv_coded_count(tokens - 1) : 0;
    m.plain_bytes = hs_kv_page_bytes(s->kv, false);
    m.coded_bytes = hs_kv_page_bytes(s->kv, true);
    if (tail_only) /* a plain cache only ever appends; a coded one uses the places of its plain pages again */
        m.first_page = hs_kv_is_coded(f) ? m.coded : m.pages;
    return m;
}

uint64_t hs_image_pieces(const hs_image *m)
{
    return 1 + (uint64_t)(m->pages - m->first_page) * m->layers;
}

hs_piece hs_image_piece(const hs_image *m, uint64_t i)
{
    if (i == 0)
        return (hs_piece){m->states->block, m->states->block_bytes, 0, 0};
    uint32_t page = m->first_page + (uint32_t)((i - 1) / m->layers), layer = (uint32_t)((i - 1) % m->layers);
    hs_kv_format f = hs_kv_format_of(m->states->kv);
    bool grows = page < m->coded || !hs_kv_is_coded(f), away = grows && hs_states_away(m->states, page);
    if (page < m->coded)
        return (hs_piece){away ? NULL : hs_kv_coded_pages(m->states->kv, layer)[page], m->coded_bytes, layer, page};
    return (hs_piece){away ? NULL : hs_kv_pages(m->states->kv, layer)[page], m->plain_bytes, layer, page};
}

hlwq_status hs_image_get(const hs_image *m, const hs_piece *p, uint64_t offset, void *to, uint64_t bytes,
                         hlwq_error *err)
{
    hs_backend *be = m->states->backend;
    if (!p->at)
        return hs_states_get(m->states, p->layer, p->page, offset, to, bytes, err);
    return be->ops->get(be, to, (const uint8_t *)p->at + offset, bytes, err);
}

hlwq_status hs_image_put(const hs_image *m, const hs_piece *p, uint64_t offset, const void *from, uint64_t bytes,
                         hlwq_error *err)
{
    hs_backend *be = m->states->backend;
    if (!p->at)
        return hs_states_put(m->states, p->layer, p->page, offset, from, bytes, err);
    return be->ops->put(be, (uint8_t *)p->at + offset, from, bytes, err);
}

uint64_t hs_image_bytes(const hs_image *m)
{
    uint32_t coded = m->coded > m->first_page ? m->coded - m->first_page : 0;
    return m->states->block_bytes +
           m->layers * (coded * m->coded_bytes + (m->pages - m->first_page - coded) * m->plain_bytes);
}
