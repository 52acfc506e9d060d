/*
 * model/session_save.c - a session to a file and back.
 *
 * A file is read twice: once to see that all of it is whole and fits, then into the session.  So what is refused leaves
 * the session as it was; only a disk that fails in between leaves it empty.
 */
#include "model/image.h"
#include "model/prefix.h"
#include "model/session_file.h"

#include "base/size.h"
#include "kernels/numeric.h"

#include <inttypes.h>
#include <stdlib.h>

enum { SAMPLER_BYTES = 44, MARK_BYTES = 8, NOTE_MAX = 64 << 20 };

static hs_session_identity identity_of(const hlwq_session *s)
{
    const hlwq_engine *e = s->engine;
    const hs_config *c = e->net.config;
    return (hs_session_identity){.model = hs_store_fingerprint(e->store),
                                 .numeric = HS_NUMERIC_VERSION,
                                 .device = (e->vram ? 1u : 0u) | (e->exact ? 16u : 0u),
                                 .kv = (uint32_t)s->kv,
                                 .page = HS_KV_PAGE,
                                 .vocab = c->vocab,
                                 .layers = c->layers,
                                 .kv_width = s->states.kv_width,
                                 .state_bytes = s->states.block_bytes};
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put_u32(uint8_t *to, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get_u32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void pack_sampling(uint8_t out[SAMPLER_BYTES], const hlwq_sampling *o)
{
    const float real[] = {o->temperature,      o->top_p, o->min_p, o->repetition_penalty, o->presence_penalty,
                          o->frequency_penalty};
    for (int i = 0; i < 6; i++)
        put_u32(out + 4 * i, hs_float_bits(real[i]));
    put_u32(out + 24, o->top_k);
    put_u32(out + 28, o->penalty_window);
    put_u32(out + 32, (uint32_t)o->seed);
    put_u32(out + 36, (uint32_t)(o->seed >> 32));
    put_u32(out + 40, 0);
}

static hlwq_sampling unpack_sampling(const uint8_t in[SAMPLER_BYTES])
{
    float real[6];
    for (int i = 0; i < 6; i++)
        real[i] = hs_bits_float(get_u32(in + 4 * i));
    return (hlwq_sampling){.temperature = real[0],
                           .top_p = real[1],
                           .min_p = real[2],
                           .repetition_penalty = real[3],
                           .presence_penalty = real[4],
                           .frequency_penalty = real[5],
                           .top_k = get_u32(in + 24),
                           .penalty_window = get_u32(in + 28),
                           .seed = get_u32(in + 32) | (uint64_t)get_u32(in + 36) << 32};
}

static hlwq_status put_image(hs_session_writer *w, const hlwq_session *s, hlwq_error *err)
{
    hs_image m = hs_image_of(&s->states, s->n, false);
    HS_TRY(hs_session_begin(w, HS_SECTION_IMAGE, false, hs_image_bytes(&m), err));
    for (uint64_t i = 0; i < hs_image_pieces(&m); i++) {
        hs_piece p = hs_image_piece(&m, i);
        for (uint64_t done = 0, room; done < p.bytes; done += room) {
            void *to = hs_session_room(w, &room);
            room = hs_min_u64(room, p.bytes - done);
            HS_TRY(hs_image_get(&m, &p, done, to, room, err));
            HS_TRY(hs_session_filled(w, room, err));
        }
    }
    return HLWQ_OK;
}

static hlwq_status put_section(hs_session_writer *w, hs_section kind, bool optional, const void *data, uint64_t bytes,
                               hlwq_error *err)
{
    HS_TRY(hs_session_begin(w, kind, optional, bytes, err));
    return hs_session_put(w, data, bytes, err);
}

/* Where the next text will part from this one: what chat goes back to. */
static hlwq_status put_mark(hs_session_writer *w, const hlwq_session *s, hlwq_error *err)
{
    uint8_t head[MARK_BYTES];
    hs_mark_view m = hs_prefix_last(s);
    if (!m.n || m.n > s->n)
        return HLWQ_OK;
    put_u32(head, m.n);
    put_u32(head + 4, m.whole);
    HS_TRY(hs_session_begin(w, HS_SECTION_MARK, true, sizeof head + m.bytes, err));
    HS_TRY(hs_session_put(w, head, sizeof head, err));
    return hs_session_put(w, m.image, m.bytes, err);
}

static hlwq_status put_sections(hs_session_writer *w, const hlwq_session *s, const char *note, hlwq_error *err)
{
    uint8_t sampling[SAMPLER_BYTES];
    uint64_t vocab = s->engine->net.config->vocab;
    pack_sampling(sampling, hs_sampler_options(s->sampler));
    HS_TRY(put_section(w, HS_SECTION_TOKENS, false, s->tokens, (uint64_t)s->n * sizeof *s->tokens, err));
    HS_TRY(put_section(w, HS_SECTION_SAMPLER, false, sampling, sizeof sampling, err));
    if (s->utf8.n)
        HS_TRY(put_section(w, HS_SECTION_TEXT, false, s->utf8.held, s->utf8.n, err));
    if (s->has_logits)
        HS_TRY(put_section(w, HS_SECTION_LOGITS, false, s->logits, vocab * sizeof *s->logits, err));
    if (note)
        HS_TRY(put_section(w, HS_SECTION_NOTE, true, note, strlen(note), err));
    HS_TRY(put_image(w, s, err));
    return put_mark(w, s, err);
}

hlwq_status hlwq_session_save(const hlwq_session *s, const char *path, const char *note, hlwq_error *err)
{
    hs_session_writer w;
    hs_session_identity id = identity_of(s);
    if (s->broken)
        return hs_fail(err, HLWQ_ERR_ARG, "the session failed in the middle of a token: there is nothing to save");
    if (note && strlen(note) > NOTE_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "a note of %zu bytes, limit %d", strlen(note), NOTE_MAX);
    if (s->ahead) /* states are to be those of the text */
        HS_TRY(hs_speculate_settle(s->ahead, err));
    HS_TRY(hs_session_create(&w, s->engine->mem, path, &id, s->n, err));
    hlwq_status st = put_sections(&w, s, note, err);
    if (st == HLWQ_OK)
        return hs_session_commit(&w, err);
    hs_session_drop(&w);
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct load {
    hlwq_session *s;
    hs_session_reader reader;
    bool apply;    /* else only looked at */
    uint32_t seen; /* bits 1 << hs_section */
    char *note;
} load;

static hlwq_status wrong_size(const load *l, const char *what, uint64_t bytes, uint64_t want, hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " bytes of %s, %" PRIu64 " are needed", l->reader.path, bytes,
                   what, want);
}

/* The section into `out` [bytes]. */
static hlwq_status take_all(load *l, uint8_t *out, hlwq_error *err)
{
    for (;;) {
        const void *data;
        uint64_t n;
        HS_TRY(hs_session_block(&l->reader, &data, &n, err));
        if (!n)
            return HLWQ_OK;
        memcpy(out, data, n);
        out += n;
    }
}

static hlwq_status take_tokens(load *l, uint64_t bytes, hlwq_error *err)
{
    hlwq_session *s = l->s;
    uint32_t at = 0;
    if (bytes != (uint64_t)l->reader.tokens * sizeof(int32_t))
        return wrong_size(l, "tokens", bytes, (uint64_t)l->reader.tokens * sizeof(int32_t), err);
    for (;;) {
        const void *data;
        uint64_t n;
        HS_TRY(hs_session_block(&l->reader, &data, &n, err));
        if (!n)
            return HLWQ_OK;
        if (n % sizeof(int32_t))
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: a token is cut in two", l->reader.path);
        const int32_t *id = data;
        for (uint64_t i = 0; i < n / sizeof *id; i++) {
            if (id[i] < 0 || (uint32_t)id[i] >= s->engine->net.config->vocab)
                return hs_fail(err, HLWQ_ERR_FORMAT, "%s: token id %d is outside the vocabulary of %u", l->reader.path,
                               id[i], s->engine->net.config->vocab);
            if (l->apply)
                s->tokens[at + i] = id[i];
        }
        at += (uint32_t)(n / sizeof *id);
    }
}

static hlwq_status take_image(load *l, uint64_t bytes, hlwq_error *err)
{
    hs_image m = hs_image_of(&l->s->states, l->reader.tokens, false);
    if (bytes != hs_image_bytes(&m))
        return wrong_size(l, "keys, values and states", bytes, hs_image_bytes(&m), err);
    uint64_t piece = 0, done = 0;
    while (l->apply) {
        const void *data;
        uint64_t n;
        HS_TRY(hs_session_block(&l->reader, &data, &n, err));
        if (!n)
            break;
        for (uint64_t used = 0, part; used < n; used += part) {
            hs_piece p = hs_image_piece(&m, piece);
            part = hs_min_u64(n - used, p.bytes - done);
            HS_TRY(hs_image_put(&m, &p, done, (const uint8_t *)data + used, part, err));
            done += part;
            if (done == p.bytes) {
                piece++;
                done = 0;
            }
        }
    }
    return HLWQ_OK;
}

static hlwq_status take_logits(load *l, uint64_t bytes, hlwq_error *err)
{
    uint64_t want = (uint64_t)l->s->engine->net.config->vocab * sizeof(float);
    if (bytes != want || !l->reader.tokens)
        return wrong_size(l, "logits", bytes, l->reader.tokens ? want : 0, err);
    l->s->has_logits |= l->apply;
    return l->apply ? take_all(l, (uint8_t *)l->s->logits, err) : HLWQ_OK;
}

static hlwq_status take_sampling(load *l, hlwq_error *err)
{
    uint8_t packed[SAMPLER_BYTES];
    HS_TRY(hs_session_take(&l->reader, packed, sizeof packed, err));
    hlwq_sampling o = unpack_sampling(packed);
    if (l->apply)
        return hs_sampler_set(l->s->sampler, &o, err);
    hlwq_status st = hs_sampling_check(&o, err);
    return st == HLWQ_OK ? st : hs_fail_in(err, HLWQ_ERR_FORMAT, "%s", l->reader.path);
}

static hlwq_status take_note(load *l, uint64_t bytes, hlwq_error *err)
{
    if (bytes > NOTE_MAX)
        return wrong_size(l, "a note", bytes, NOTE_MAX, err);
    if (!l->apply)
        return HLWQ_OK;
    l->note = malloc(bytes + 1);
    if (!l->note)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the note of %s", l->reader.path);
    l->note[bytes] = 0;
    return take_all(l, (uint8_t *)l->note, err);
}

static hlwq_status take_text(load *l, uint64_t bytes, hlwq_error *err)
{
    hs_utf8_stream held = {.n = (uint32_t)bytes};
    if (bytes > 3)
        return wrong_size(l, "an unfinished character", bytes, 3, err);
    HS_TRY(take_all(l, held.held, err));
    if (l->apply)
        l->s->utf8 = held;
    return HLWQ_OK;
}

static hlwq_status take_mark(load *l, uint64_t bytes, hlwq_error *err)
{
    const void *data;
    uint64_t n;
    HS_TRY(hs_session_block(&l->reader, &data, &n, err));
    uint32_t at = n >= MARK_BYTES ? get_u32(data) : 0, whole = n >= MARK_BYTES ? get_u32((const uint8_t *)data + 4) : 0;
    if (at == 0 || at > l->reader.tokens || whole > 1 || (whole && at % HS_GRID))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: a state to go back to after %u of %u tokens", l->reader.path, at,
                       l->reader.tokens);
    if (bytes != MARK_BYTES + hs_prefix_image_bytes(l->s, at))
        return wrong_size(l, "a state to go back to", bytes, MARK_BYTES + hs_prefix_image_bytes(l->s, at), err);
    uint8_t *to = l->apply ? hs_prefix_add(l->s, at, whole) : NULL;
    if (!to)
        return HLWQ_OK;
    memcpy(to, (const uint8_t *)data + MARK_BYTES, n - MARK_BYTES);
    return take_all(l, to + n - MARK_BYTES, err);
}

static hlwq_status take_section(load *l, hs_section kind, uint64_t bytes, hlwq_error *err)
{
    if (kind != HS_SECTION_MARK && l->seen & 1u << kind)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: two sections of kind %d", l->reader.path, (int)kind);
    l->seen |= 1u << kind;
    switch (kind) {
    case HS_SECTION_TOKENS: return take_tokens(l, bytes, err);
    case HS_SECTION_IMAGE: return take_image(l, bytes, err);
    case HS_SECTION_LOGITS: return take_logits(l, bytes, err);
    case HS_SECTION_SAMPLER: return take_sampling(l, err);
    case HS_SECTION_TEXT: return take_text(l, bytes, err);
    case HS_SECTION_NOTE: return take_note(l, bytes, err);
    case HS_SECTION_MARK: return take_mark(l, bytes, err);
    default: return HLWQ_OK;
    }
}

static hlwq_status walk(load *l, bool apply, hlwq_error *err)
{
    const uint32_t needed = 1u << HS_SECTION_TOKENS | 1u << HS_SECTION_IMAGE | 1u << HS_SECTION_SAMPLER;
    l->apply = apply;
    l->seen = 0;
    hs_session_rewind(&l->reader);
    for (;;) {
        hs_section kind;
        uint64_t bytes;
        HS_TRY(hs_session_section(&l->reader, &kind, &bytes, err));
        if (kind == HS_SECTION_END)
            break;
        HS_TRY(take_section(l, kind, bytes, err));
    }
    if (~l->seen & needed)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s lacks tokens, states or sampling", l->reader.path);
    return HLWQ_OK;
}

static hlwq_status fits(const load *l, hlwq_error *err)
{
    if (l->reader.tokens > l->s->positions)
        return hs_fail(err, HLWQ_ERR_BUDGET, "%s holds %u tokens and the context %u; raise --ctx", l->reader.path,
                       l->reader.tokens, l->s->positions);
    return HLWQ_OK;
}

static hlwq_status apply(load *l, hlwq_error *err)
{
    hlwq_status st = hs_session_reset(l->s, err);
    if (st == HLWQ_OK)
        st = hs_states_reach(&l->s->states, l->reader.tokens, err);
    if (st == HLWQ_OK)
        st = walk(l, true, err);
    if (st == HLWQ_OK) {
        l->s->n = l->reader.tokens;
        l->s->whole = false; /* not known */
        return HLWQ_OK;
    }
    (void)hs_session_reset(l->s, NULL);
    return st;
}

hlwq_status hlwq_session_load(hlwq_session *s, const char *path, char **note, hlwq_error *err)
{
    load l = {.s = s};
    hs_session_identity id = identity_of(s);
    if (note)
        *note = NULL;
    HS_TRY(hs_session_open_file(&l.reader, s->engine->mem, path, &id, err));
    hlwq_status st = fits(&l, err);
    if (st == HLWQ_OK)
        st = walk(&l, false, err);
    if (st == HLWQ_OK)
        st = apply(&l, err);
    hs_session_close_file(&l.reader);
    if (st == HLWQ_OK && note)
        *note = l.note;
    else
        free(l.note);
    return st;
}

bool hlwq_is_session(const char *path)
{
    return hs_session_file_is(path);
}
