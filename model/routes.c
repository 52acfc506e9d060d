/*
 * model/routes.c - a trace folded onto a model, or a generator.
 *
 * The generator: each layer has popularities that fall like 1 / rank^s in an order of its own, and drifts: every token
 * two experts may change places.  A token keeps some of the last token's experts, the more the higher they ranked, and
 * takes some whose popularity rank the layer before chose too.  The numbers are those of measured models with 128 to
 * 256 experts: a third of a token's experts were used by the token before, about half of all experts in 128 tokens.
 */
#include "model/routes.h"

#include "base/file.h"

#include <math.h>
#include <string.h>

enum { USED_MAX = 64, LAYERS_MAX = 1024 };
#define TRACE_MAX (1ull << 30)

struct hs_routes {
    hs_mem *mem;
    uint32_t layers, experts, used;
    uint64_t random, first, next; /* tokens before this call, and with it: a text that is read again is another */
    /* A trace: picks of (token, layer) from start[token * trace.layers + layer] on. */
    hs_trace trace;
    uint32_t *start;
    /* The generator. */
    double *reach;   /* [experts]: cumulative popularity by rank; of the layers in the middle, then of the outer ones */
    uint16_t *order; /* [layers][experts]: the expert of a popularity rank */
    uint16_t *rank;  /* [layers][used]: popularity ranks of the last token's choice */
};

static uint32_t below(hs_routes *r, uint32_t n)
{
    r->random = r->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((r->random >> 32) * n >> 32);
}

static bool chance(hs_routes *r, double p)
{
    return below(r, 1u << 24) < p * (1 << 24);
}

static hlwq_status load_trace(hs_routes *r, const char *path, hlwq_error *err)
{
    hs_arena arena;
    char *text;
    uint64_t bytes;
    void *p;
    hs_arena_init(&arena, r->mem, HS_MEM_OTHER);
    hlwq_status st = hs_file_text(&arena, path, TRACE_MAX, &text, &bytes, err);
    if (st == HLWQ_OK)
        st = hs_trace_parse(&r->trace, r->mem, text, bytes, path, err);
    hs_arena_close(&arena);
    HS_TRY(st);
    const hs_trace *t = &r->trace;
    uint64_t places = (uint64_t)t->tokens * t->layers;
    if (t->n == 0)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s has no choices to replay", path);
    HS_TRY(hs_mem_alloc(r->mem, HS_MEM_OTHER, (places + 1) * sizeof *r->start, "routing", &p, err));
    r->start = p;
    for (uint64_t place = 0, i = 0; place <= places; place++) {
        while (i < t->n && (uint64_t)t->pick[i].token * t->layers + t->pick[i].layer < place)
            i++;
        r->start[place] = (uint32_t)i;
    }
    return HLWQ_OK;
}

static hlwq_status make_up(hs_routes *r, hlwq_error *err)
{
    void *p;
    uint64_t bytes = 2ull * r->experts * sizeof *r->reach + (uint64_t)r->layers * r->experts * sizeof *r->order +
                     (uint64_t)r->layers * r->used * sizeof *r->rank;
    HS_TRY(hs_mem_alloc(r->mem, HS_MEM_OTHER, bytes, "routing", &p, err));
    r->reach = p;
    r->order = (uint16_t *)(r->reach + 2 * r->experts);
    r->rank = r->order + (uint64_t)r->layers * r->experts;
    static const double slope[2] = {1.15, 0.7};
    for (int k = 0; k < 2; k++) {
        double sum = 0;
        for (uint32_t e = 0; e < r->experts; e++)
            r->reach[k * r->experts + e] = sum += pow(e + 1.0, -slope[k]);
        for (uint32_t e = 0; e < r->experts; e++)
            r->reach[k * r->experts + e] /= sum;
    }
    for (uint32_t l = 0; l < r->layers; l++) {
        uint16_t *order = r->order + (uint64_t)l * r->experts;
        for (uint32_t e = 0; e < r->experts; e++)
            order[e] = (uint16_t)e;
        for (uint32_t e = r->experts; e-- > 1;) {
            uint32_t other = below(r, e + 1);
            uint16_t swap = order[e];
            order[e] = order[other];
            order[other] = swap;
        }
        for (uint32_t i = 0; i < r->used; i++)
            r->rank[l * r->used + i] = (uint16_t)i;
    }
    return HLWQ_OK;
}

hlwq_status hs_routes_open(hs_routes **out, hs_mem *mem, const char *from, uint32_t layers, uint32_t experts,
                           uint32_t used, hlwq_error *err)
{
    void *p;
    *out = NULL;
    if (experts == 0 || used > USED_MAX || layers > LAYERS_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "%s: there is no routing to replace in a dense model", from);
    HS_TRY(hs_mem_alloc(mem, HS_MEM_OTHER, sizeof(hs_routes), "routing", &p, err));
    hs_routes *r = p;
    *r = (hs_routes){.mem = mem, .layers = layers, .experts = experts, .used = used, .random = 12345};
    hlwq_status st = strcmp(from, "model") == 0 ? make_up(r, err) : load_trace(r, from, err);
    if (st != HLWQ_OK) {
        hs_routes_close(r);
        return st;
    }
    *out = r;
    return HLWQ_OK;
}

void hs_routes_close(hs_routes *r)
{
    if (!r)
        return;
    hs_trace_close(&r->trace);
    hs_mem_free(r->mem, r->start);
    hs_mem_free(r->mem, r->reach);
    hs_mem_free(r->mem, r);
}

static bool has(const int32_t *id, uint32_t n, int32_t what)
{
    while (n--)
        if (id[n] == what)
            return true;
    return false;
}

/*
 * A trace of another shape: its layers and tokens are gone through again and again.  Where the model has more experts,
 * several of the trace's layers stand beside each other as one of the model's, and each gives some of the choice; where
 * a trace chose fewer, the tokens that follow fill up.
 */
static void replay(const hs_routes *r, uint32_t layer, uint64_t token, int32_t *id)
{
    const hs_trace *t = &r->trace;
    uint32_t n = 0, blocks = r->experts / t->experts ? r->experts / t->experts : 1;
    for (uint32_t b = 0; b < blocks; b++) {
        uint32_t from = (layer * blocks + b) % t->layers, until = r->used * (b + 1) / blocks;
        for (uint32_t ahead = 0; n < until && ahead < t->tokens; ahead++) {
            uint64_t place = (token + ahead) % t->tokens * t->layers + from;
            for (uint32_t i = r->start[place]; i < r->start[place + 1] && n < until; i++) {
                int32_t e = (int32_t)((b * t->experts + t->pick[i].expert) % r->experts);
                if (!has(id, n, e))
                    id[n++] = e;
            }
        }
    }
    for (int32_t e = 0; n < r->used; e++) /* a trace that uses fewer experts in all */
        if (!has(id, n, e))
            id[n++] = e;
}

static uint32_t by_popularity(hs_routes *r, bool outer)
{
    const double *reach = r->reach + (outer ? r->experts : 0);
    double x = below(r, 1u << 30) * 0x1p-30;
    uint32_t low = 0, high = r->experts - 1;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (reach[middle] < x)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool taken(const uint16_t *rank, uint32_t n, uint32_t what)
{
    while (n--)
        if (rank[n] == what)
            return true;
    return false;
}

static void make_one(hs_routes *r, uint32_t layer, int32_t *id)
{
    uint16_t *order = r->order + (uint64_t)layer * r->experts, *last = r->rank + layer * r->used;
    const uint16_t *above = layer ? last - r->used : last; /* this token's, when tokens come one by one */
    uint16_t rank[USED_MAX];
    bool outer = layer < (r->layers + 5) / 10 || layer + (r->layers + 5) / 10 >= r->layers;
    for (uint32_t n = 0; n < r->used; n++) {
        uint32_t want = r->experts;
        if (chance(r, (outer ? 0.06 : 0.26) - 0.012 * n))
            want = last[n];
        else if (layer && chance(r, 0.15))
            want = above[n];
        while (want == r->experts || taken(rank, n, want))
            want = by_popularity(r, outer);
        rank[n] = (uint16_t)want;
        id[n] = order[want];
    }
    memcpy(last, rank, r->used * sizeof *rank);
    if (chance(r, 0.2)) {
        uint32_t a = by_popularity(r, true), b = below(r, r->experts);
        uint16_t swap = order[a];
        order[a] = order[b];
        order[b] = swap;
    }
}

void hs_routes_choose(hs_routes *r, uint32_t layer, uint32_t n, int32_t *id)
{
    if (layer == 0) {
        r->first = r->next;
        r->next += n;
    }
    for (uint32_t t = 0; t < n; t++) {
        if (r->start)
            replay(r, layer, r->first + t, id + (size_t)t * r->used);
        else
            make_one(r, layer, id + (size_t)t * r->used);
    }
}
