/*
 * model/prefix.c - marks: made, found, gone back to, dropped.
 */
#include "model/prefix.h"

#include "base/size.h"
#include "model/image.h"

struct hs_mark {
    hs_mark *next;
    const hlwq_session *owner; /* whose pages hold what comes before; its tokens are the mark's, to n */
    uint32_t n;
    bool whole; /* on the grid, and read like that */
    uint64_t used, bytes;
    uint8_t image[]; /* hs_image_of(.., n, true), piece after piece */
};

enum { MARKS_AUTO = 8, SHARE = 16, BOUNCE = 64 << 10 };

uint64_t hs_mark_bytes(const hs_config *c, hs_kv_format kv)
{
    uint64_t pages = 0, page = 4 * (uint64_t)HS_KV_PAGE * c->kv_heads * c->head_dim; /* fp16 */
    for (uint32_t i = 0; hs_kv_is_coded(kv) && i < c->layers; i++)
        pages += c->full[i] ? 3 : 0;
    return hs_states_bytes(c, kv, HS_KV_PAGE, HS_GRID) + pages * page + 2 * 4096;
}

uint64_t hs_prefix_bytes(uint64_t asked, uint64_t mark_bytes, uint64_t ram_bytes)
{
    if (asked != HLWQ_PREFIX_AUTO)
        return asked;
    uint64_t most = MARKS_AUTO * mark_bytes;
    return ram_bytes && ram_bytes / SHARE < most ? ram_bytes / SHARE : most;
}

/* ---- the list -------------------------------------------------------------------------------- */

static void drop(hlwq_engine *e, hs_mark **at)
{
    hs_mark *m = *at;
    *at = m->next;
    e->prefix.held_bytes -= m->bytes;
    e->prefix.marks--;
    hs_mem_free(e->mem, m);
}

void hs_prefix_cut(hlwq_session *s, uint32_t n)
{
    for (hs_mark **at = &s->engine->prefix.first; *at;)
        if ((*at)->owner == s && (*at)->n > n)
            drop(s->engine, at);
        else
            at = &(*at)->next;
}

/* Room for `bytes` more: least recently used first. False if there is not so much at all. */
static bool make_room(hlwq_engine *e, uint64_t bytes)
{
    hs_prefix *p = &e->prefix;
    if (bytes > p->budget_bytes)
        return false;
    while (p->held_bytes + bytes > p->budget_bytes) {
        hs_mark **oldest = &p->first;
        for (hs_mark **at = &p->first; *at; at = &(*at)->next)
            if ((*at)->used < (*oldest)->used)
                oldest = at;
        drop(e, oldest);
    }
    return true;
}

static hs_mark *mark_at(const hlwq_session *s, uint32_t n)
{
    hs_mark *m = s->engine->prefix.first;
    while (m && (m->owner != s || m->n != n))
        m = m->next;
    return m;
}

/* The furthest mark, of any session, on the way along `ids`; at least one id is left to read. */
static hs_mark *best_mark(const hlwq_session *s, const int32_t *ids, size_t n)
{
    hs_mark *best = NULL;
    for (hs_mark *m = s->engine->prefix.first; m; m = m->next)
        if (m->n < n && m->n <= s->positions && m->owner->kv == s->kv && (m->whole || !s->seek_whole) &&
            (!best || m->n > best->n || (m->n == best->n && m->owner == s)) &&
            memcmp(m->owner->tokens, ids, m->n * sizeof *ids) == 0)
            best = m;
    return best;
}

/* ---- making ---------------------------------------------------------------------------------- */

hs_mark_view hs_prefix_last(const hlwq_session *s)
{
    const hs_mark *last = NULL;
    for (const hs_mark *m = s->engine->prefix.first; m; m = m->next)
        if (m->owner == s && (!last || m->n > last->n))
            last = m;
    if (!last)
        return (hs_mark_view){0};
    return (hs_mark_view){last->n, last->whole, last->image, hs_prefix_image_bytes(s, last->n)};
}

uint64_t hs_prefix_image_bytes(const hlwq_session *s, uint32_t n)
{
    hs_image image = hs_image_of(&s->states, n, true);
    return hs_image_bytes(&image);
}

uint8_t *hs_prefix_add(hlwq_session *s, uint32_t n, bool whole)
{
    hlwq_engine *e = s->engine;
    hs_prefix *p = &e->prefix;
    void *block;
    uint64_t bytes = sizeof(hs_mark) + hs_prefix_image_bytes(s, n) + 2 * 4096; /* the allocator's share */
    if (!make_room(e, bytes))
        return NULL;
    if (hs_mem_alloc(e->mem, HS_MEM_STATE, bytes - 2 * 4096, "state to go back to", &block, NULL) != HLWQ_OK)
        return NULL; /* it would only have saved time */
    hs_mark *m = block;
    *m = (hs_mark){.owner = s, .n = n, .whole = whole, .used = ++p->clock, .bytes = bytes, .next = p->first};
    p->first = m;
    p->held_bytes += bytes;
    p->marks++;
    return m->image;
}

hlwq_status hlwq_session_mark(hlwq_session *s, hlwq_error *err)
{
    hlwq_engine *e = s->engine;
    if (s->broken || !s->n)
        return HLWQ_OK;
    hs_mark *m = mark_at(s, s->n);
    if (m) {
        m->used = ++e->prefix.clock;
        return HLWQ_OK;
    }
    if (s->ahead) /* states are to be those of the text */
        HS_TRY(hs_speculate_settle(s->ahead, err));
    hs_image image = hs_image_of(&s->states, s->n, true);
    uint8_t *to = hs_prefix_add(s, s->n, s->whole && s->n % HS_GRID == 0);
    for (uint64_t i = 0; to && i < hs_image_pieces(&image); i++) {
        hs_piece piece = hs_image_piece(&image, i);
        hlwq_status st = hs_image_get(&image, &piece, 0, to, piece.bytes, err);
        if (st != HLWQ_OK) {
            drop(e, &e->prefix.first);
            return st;
        }
        to += piece.bytes;
    }
    return HLWQ_OK;
}

/* ---- going back ------------------------------------------------------------------------------ */

/* Pages before the mark that it has no copy of, from its session to `s`. */
static hlwq_status copy_pages(hlwq_session *s, const hs_mark *m, void *bounce, hlwq_error *err)
{
    hs_image from = hs_image_of(&m->owner->states, m->n, false), to = hs_image_of(&s->states, m->n, false);
    hs_image tail = hs_image_of(&s->states, m->n, true);
    uint64_t pieces = 1 + (uint64_t)tail.first_page * to.layers;
    for (uint64_t i = 1; i < pieces; i++) {
        hs_piece a = hs_image_piece(&from, i), b = hs_image_piece(&to, i);
        for (uint64_t done = 0, n; done < a.bytes; done += n) {
            n = hs_min_u64(a.bytes - done, BOUNCE);
            HS_TRY(hs_image_get(&from, &a, done, bounce, n, err));
            HS_TRY(hs_image_put(&to, &b, done, bounce, n, err));
        }
    }
    memcpy(s->tokens, m->owner->tokens, m->n * sizeof *s->tokens);
    return HLWQ_OK;
}

static hlwq_status restore(hlwq_session *s, hs_mark *m, hlwq_error *err)
{
    hs_backend *be = s->engine->backend;
    hlwq_status st = hs_states_reach(&s->states, m->n, err);
    if (st == HLWQ_OK && m->owner != s) {
        void *bounce;
        HS_TRY(hs_mem_alloc(s->engine->mem, HS_MEM_IO, BOUNCE, "pages of another session", &bounce, err));
        st = copy_pages(s, m, bounce, err);
        hs_mem_free(s->engine->mem, bounce);
    }
    hs_image image = hs_image_of(&s->states, m->n, true);
    const uint8_t *from = m->image;
    for (uint64_t i = 0; st == HLWQ_OK && i < hs_image_pieces(&image); i++) {
        hs_piece piece = hs_image_piece(&image, i);
        st = be->ops->put(be, piece.at, from, piece.bytes, err);
        from += piece.bytes;
    }
    s->constraint = NULL; /* as after a reset */
    s->n = m->n;
    s->whole = m->whole;
    s->has_logits = s->has_best = false;
    s->broken = st != HLWQ_OK;
    s->utf8 = (hs_utf8_stream){0};
    m->used = ++s->engine->prefix.clock;
    return st;
}

/* What the session itself is at: a beginning of `ids`, with logits if it is all of them. */
static bool stays(const hlwq_session *s, const int32_t *ids, size_t n)
{
    bool same = s->whole && (s->n % HS_GRID == 0 || s->n == n);
    return !s->broken && s->n && s->n <= n && (s->n < n || s->has_logits) && (same || !s->seek_whole) &&
           memcmp(s->tokens, ids, s->n * sizeof *ids) == 0;
}

size_t hlwq_session_known(const hlwq_session *s, const int32_t *ids, size_t n)
{
    const hs_mark *m = best_mark(s, ids, n);
    return stays(s, ids, n) && (!m || s->n >= m->n) ? s->n : m ? m->n : 0;
}

hlwq_status hlwq_session_seek(hlwq_session *s, const int32_t *ids, size_t n, size_t *kept, hlwq_error *err)
{
    hs_mark *m = best_mark(s, ids, n);
    *kept = hlwq_session_known(s, ids, n);
    if (*kept == 0)
        return hs_session_reset(s, err);
    if (stays(s, ids, n) && s->n == *kept)
        return HLWQ_OK;
    uint32_t same = 0; /* pages of its own that it still reads */
    while (same < s->n && same < m->n && s->tokens[same] == ids[same])
        same++;
    if (s->states.slot && same > m->n) /* only one page that goes on comes back from where it is */
        same = m->n;
    hs_prefix_cut(s, same);
    hlwq_status st = s->ahead ? hs_speculate_settle(s->ahead, err) : HLWQ_OK;
    if (st == HLWQ_OK)
        st = hs_states_trim(&s->states, same, err);
    if (st == HLWQ_OK)
        st = restore(s, m, err);
    if (s->ahead && st == HLWQ_OK)
        hs_speculate_missed(s->ahead);
    if (st != HLWQ_OK) {
        *kept = 0;
        (void)hs_session_reset(s, NULL);
    }
    return st;
}

hlwq_status hlwq_session_read(hlwq_session *s, const int32_t *ids, size_t n, const size_t *edge, size_t n_edges,
                              size_t *kept, hlwq_error *err)
{
    size_t at;
    *kept = 0;
    if (!n)
        return hs_fail(err, HLWQ_ERR_ARG, "there is nothing to read");
    HS_TRY(hlwq_session_seek(s, ids, n, &at, err));
    *kept = at;
    if (n > s->positions)
        return hlwq_session_eval(s, ids + at, n - at, NULL, err); /* refuses */
    for (size_t i = 0; i < n_edges; i++) {
        size_t to = hs_min_u64(edge[i], n - 1) / HS_GRID * HS_GRID;
        if (to <= at)
            continue;
        HS_TRY(hlwq_session_eval(s, ids + at, to - at, NULL, err));
        at = to;
        HS_TRY(hlwq_session_mark(s, err));
    }
    return at < n ? hlwq_session_eval(s, ids + at, n - at, NULL, err) : HLWQ_OK;
}
