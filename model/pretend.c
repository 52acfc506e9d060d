/*
 * model/pretend.c - a session at a depth that nobody has read to: what attention does there can be measured at once.
 *
 * One page is made of random keys and values, once as fp16 and once in codes by the codec, and put wherever a text
 * would have left one.  Attention reads and computes what it would for a text; what it computes means nothing.
 */
#include "model/image.h"
#include "model/session.h"

#include "base/dtype.h"
#include "kernels/kv_codec.h"

#include <stdlib.h>

/* Values of about the size of normed keys. */
static void fill(void *page, uint64_t bytes, hs_dtype dtype)
{
    uint64_t x = 88172645463325252u, size = dtype == HS_F32 ? 4 : 2;
    for (uint64_t i = 0; i < bytes / size; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        float v = (float)(int32_t)(x >> 40 & 0xFFFF) / 32768.0f - 1.0f;
        if (size == 4)
            ((float *)page)[i] = v;
        else
            ((uint16_t *)page)[i] = hs_f32_to_f16(v);
    }
}

static hlwq_status put_pages(hlwq_session *s, uint8_t *plain, uint8_t *coded, hlwq_error *err)
{
    const hs_config *c = s->engine->net.config;
    hs_kv_format f = hs_kv_format_of(s->states.kv);
    hs_image m = hs_image_of(&s->states, s->n, false);
    fill(plain, m.plain_bytes, f.k);
    if (hs_kv_is_coded(f)) {
        hs_kv_layout layout = hs_kv_layout_of(f, s->states.kv_width);
        for (uint32_t i = 0; i < HS_KV_PAGE; i++)
            hs_kv_encode_position(plain, coded, &layout, c->kv_heads, c->head_dim, i);
    }
    for (uint64_t i = 1; i < hs_image_pieces(&m); i++) {
        hs_piece p = hs_image_piece(&m, i);
        HS_TRY(hs_image_put(&m, &p, 0, p.page < m.coded ? coded : plain, p.bytes, err));
    }
    return HLWQ_OK;
}

hlwq_status hlwq_session_pretend(hlwq_session *s, uint32_t tokens, uint64_t *kv_bytes, hlwq_error *err)
{
    *kv_bytes = 0;
    if (tokens >= s->positions)
        return hs_fail(err, HLWQ_ERR_BUDGET, "%u tokens do not fit: the context holds %u; raise --ctx", tokens,
                       s->positions);
    HS_TRY(hs_session_reset(s, err));
    HS_TRY(hs_states_reach(&s->states, tokens, err));
    s->n = tokens;
    s->whole = false;
    memset(s->tokens, 0, tokens * sizeof *s->tokens);
    hs_image m = hs_image_of(&s->states, tokens, false);
    uint8_t *page = malloc(m.plain_bytes + m.coded_bytes);
    hlwq_status st = page ? put_pages(s, page, page + m.plain_bytes, err)
                          : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a page of keys and values");
    free(page);
    *kv_bytes = hs_image_bytes(&m) - s->states.block_bytes;
    if (st != HLWQ_OK)
        (void)hs_session_reset(s, NULL);
    return st;
}
