/*
 * model/grammar.c - building the graph, and what is found out about it once.
 */
#include "model/grammar.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- building -------------------------------------------------------------------------------- */

void hs_grammar_init(hs_grammar *g, hs_mem *mem, uint32_t depth_max, uint32_t longest, hlwq_error *err)
{
    *g = (hs_grammar){.mem = mem, .depth_max = depth_max, .longest = longest, .err = err};
    g->n_nodes = g->n_edges = 1; /* 0 means none */
}

void hs_grammar_free(hs_grammar *g)
{
    hs_mem_free(g->mem, g->node);
    hs_mem_free(g->mem, g->edge);
    hs_mem_free(g->mem, g->rule);
    *g = (hs_grammar){0};
}

void hs_grammar_fail(hs_grammar *g, hlwq_status status, const char *format, ...)
{
    char text[512];
    va_list list;
    if (g->status != HLWQ_OK)
        return;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    g->status = hs_fail(g->err, status, "%s", text);
}

/* Room for item number n of *array; false where there is none. */
static bool grow(hs_grammar *g, void **array, uint32_t n, uint32_t *capacity, size_t item, uint32_t limit,
                 const char *what)
{
    if (g->status != HLWQ_OK)
        return false;
    if (n < *capacity)
        return true;
    if (n >= limit) {
        hs_grammar_fail(g, HLWQ_ERR_BUDGET, "this constraint needs more than %u %s", limit, what);
        return false;
    }
    uint32_t more = *capacity ? 2 * *capacity : 64;
    void *p;
    hlwq_status st = hs_mem_alloc(g->mem, HS_MEM_OTHER, (uint64_t)more * item, "grammar", &p, g->err);
    if (st != HLWQ_OK) {
        g->status = st;
        return false;
    }
    if (*array)
        memcpy(p, *array, n * item);
    hs_mem_free(g->mem, *array);
    *array = p;
    *capacity = more;
    return true;
}

uint32_t hs_grammar_node(hs_grammar *g)
{
    void *array = g->node;
    if (!grow(g, &array, g->n_nodes, &g->nodes_capacity, sizeof *g->node, HS_GRAMMAR_EDGES_MAX, "states"))
        return 0;
    g->node = array;
    g->node[g->n_nodes] = (hs_node){.rule = g->building, .height = HS_GRAMMAR_DEPTH_MAX};
    return g->n_nodes++;
}

uint32_t hs_grammar_rule(hs_grammar *g, const char *name)
{
    void *array = g->rule;
    if (!grow(g, &array, g->n_rules, &g->rules_capacity, sizeof *g->rule, HS_GRAMMAR_RULES_MAX, "rules"))
        return 0;
    g->rule = array;
    uint32_t id = g->n_rules++, before = hs_grammar_build(g, id);
    snprintf(g->rule[id].name, sizeof g->rule[id].name, "%s", name);
    g->rule[id].start = hs_grammar_node(g);
    g->rule[id].end = hs_grammar_node(g);
    if (g->status == HLWQ_OK)
        g->node[g->rule[id].end].end = true;
    hs_grammar_build(g, before);
    return id;
}

uint32_t hs_grammar_build(hs_grammar *g, uint32_t rule)
{
    uint32_t before = g->building;
    g->building = rule;
    return before;
}

uint32_t hs_grammar_start(const hs_grammar *g, uint32_t rule)
{
    return rule < g->n_rules ? g->rule[rule].start : 0;
}

uint32_t hs_grammar_end(const hs_grammar *g, uint32_t rule)
{
    return rule < g->n_rules ? g->rule[rule].end : 0;
}

static void add_edge(hs_grammar *g, hs_edge edge)
{
    void *array = g->edge;
    if (!grow(g, &array, g->n_edges, &g->edges_capacity, sizeof *g->edge, HS_GRAMMAR_EDGES_MAX, "steps"))
        return;
    g->edge = array;
    edge.next = g->node[edge.from].edges;
    g->node[edge.from].edges = g->n_edges;
    g->edge[g->n_edges++] = edge;
}

void hs_grammar_bytes(hs_grammar *g, uint32_t from, uint8_t lo, uint8_t hi, uint32_t to)
{
    add_edge(g, (hs_edge){.from = from, .to = to, .kind = HS_EDGE_BYTES, .lo = lo, .hi = hi});
}

void hs_grammar_empty(hs_grammar *g, uint32_t from, uint32_t to)
{
    add_edge(g, (hs_edge){.from = from, .to = to, .kind = HS_EDGE_EMPTY});
}

void hs_grammar_call(hs_grammar *g, uint32_t from, uint32_t rule, uint32_t to)
{
    add_edge(g, (hs_edge){.from = from, .to = to, .kind = HS_EDGE_RULE, .rule = rule});
}

void hs_grammar_text(hs_grammar *g, uint32_t from, const char *text, size_t bytes, uint32_t to)
{
    if (bytes == 0)
        hs_grammar_empty(g, from, to);
    for (size_t i = 0; i < bytes && g->status == HLWQ_OK; i++) {
        uint32_t next = i + 1 < bytes ? hs_grammar_node(g) : to;
        hs_grammar_bytes(g, from, (uint8_t)text[i], (uint8_t)text[i], next);
        from = next;
    }
}

uint32_t hs_grammar_branch(hs_grammar *g, uint32_t from, uint8_t byte)
{
    if (g->status != HLWQ_OK)
        return 0;
    for (uint32_t i = g->node[from].edges; i; i = g->edge[i].next)
        if (g->edge[i].kind == HS_EDGE_BYTES && g->edge[i].lo == byte && g->edge[i].hi == byte)
            return g->edge[i].to;
    uint32_t to = hs_grammar_node(g);
    hs_grammar_bytes(g, from, byte, byte, to);
    return to;
}

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

static uint32_t encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    uint32_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (uint32_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (uint8_t)(0x80 | (c & 0x3F));
    out[0] = (uint8_t)((0xF0 << (4 - n) & 0xFF) | c);
    return n;
}

/* [lo, hi] of one length, in which all bytes after the first that differs run over their whole range. */
static void even_range(hs_grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to)
{
    uint8_t a[4], b[4];
    uint32_t n = encode(lo, a);
    encode(hi, b);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t next = i + 1 < n ? hs_grammar_node(g) : to;
        hs_grammar_bytes(g, from, a[i], b[i], next);
        from = next;
    }
}

/* The largest top of at most `hi` so that [lo, top] is even. */
static uint32_t even_top(uint32_t lo, uint32_t hi)
{
    for (uint32_t bits = 6; bits <= 18;) {
        uint32_t mask = (UINT32_C(1) << bits) - 1;
        if ((lo & ~mask) == (hi & ~mask) || ((lo & mask) == 0 && (hi & mask) == mask)) {
            bits += 6;
            continue;
        }
        hi = lo & mask ? lo | mask : (hi & ~mask) - 1;
        bits = 6;
    }
    return hi;
}

void hs_grammar_characters(hs_grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to)
{
    static const uint32_t last[] = {0x7F, 0x7FF, 0xD7FF, 0xFFFF, 0x10FFFF};
    for (uint32_t k = 0; k < 5; k++) {
        if (k == 3 && lo < 0xE000)
            lo = 0xE000;
        while (lo <= hi && lo <= last[k] && g->status == HLWQ_OK) {
            uint32_t top = hi < last[k] ? hi : last[k];
            top = k ? even_top(lo, top) : top;
            even_range(g, from, lo, top, to);
            lo = top + 1;
        }
    }
}

/* ---- closing off ------------------------------------------------------------------------------ */

typedef struct analysis {
    hs_grammar *g;
    const char *what;
    uint32_t *into;               /* [nodes] edges that lead there, chained by `chain`; 0 = none */
    uint32_t *callers;            /* [rules] edges that enter it, chained by `call_chain` */
    uint32_t *chain, *call_chain; /* [edges] */
    uint32_t *queue;              /* [nodes] */
    uint8_t *seen;                /* [nodes] */
} analysis;

/* The height of the edge's beginning, if its end and what it enters are known to need no more than `level`. */
static bool edge_fits(const hs_grammar *g, const hs_edge *e, uint32_t level)
{
    if (g->node[e->to].height > level)
        return false;
    return e->kind != HS_EDGE_RULE || g->node[g->rule[e->rule].start].height + 1u <= level;
}

/* All nodes of height `level`, those below it being known: from the ends backwards. False where there are none. */
static bool find_level(analysis *a, uint32_t level)
{
    hs_grammar *g = a->g;
    uint32_t n = 0;
    bool some;
    for (uint32_t i = 1; i < g->n_edges; i++) /* entering a rule of the level below is what makes a level */
        if (level && g->edge[i].kind == HS_EDGE_RULE && g->node[g->edge[i].from].height > level &&
            edge_fits(g, &g->edge[i], level)) {
            g->node[g->edge[i].from].height = (uint8_t)level;
            a->queue[n++] = g->edge[i].from;
        }
    for (uint32_t r = 0; r < g->n_rules && level == 0; r++) {
        g->node[g->rule[r].end].height = 0;
        a->queue[n++] = g->rule[r].end;
    }
    some = n > 0;
    while (n) {
        uint32_t at = a->queue[--n];
        for (uint32_t i = a->into[at]; i; i = a->chain[i]) {
            hs_node *from = &g->node[g->edge[i].from];
            if (from->height > level && edge_fits(g, &g->edge[i], level)) {
                from->height = (uint8_t)level;
                a->queue[n++] = g->edge[i].from;
            }
        }
    }
    return some;
}

/* seen[node] of every node whose rule can end from there without reading anything. */
static void find_empty(analysis *a)
{
    hs_grammar *g = a->g;
    uint32_t n = 0;
    for (uint32_t r = 0; r < g->n_rules; r++) {
        a->seen[g->rule[r].end] = 1;
        a->queue[n++] = g->rule[r].end;
    }
    while (n) {
        uint32_t at = a->queue[--n];
        for (uint32_t i = a->into[at]; i; i = a->chain[i]) {
            const hs_edge *e = &g->edge[i];
            if (!a->seen[e->from] &&
                (e->kind == HS_EDGE_EMPTY || (e->kind == HS_EDGE_RULE && a->seen[g->rule[e->rule].start]))) {
                a->seen[e->from] = 1;
                a->queue[n++] = e->from;
            }
        }
        if (at == g->rule[g->node[at].rule].start) /* its callers may pass through it now */
            for (uint32_t i = a->callers[g->node[at].rule]; i; i = a->call_chain[i])
                if (!a->seen[g->edge[i].from] && a->seen[g->edge[i].to]) {
                    a->seen[g->edge[i].from] = 1;
                    a->queue[n++] = g->edge[i].from;
                }
    }
}

/*
 * Rules that come back to themselves before anything is read, by taking away those that cannot: a rule is harmless when
 * every rule that it may begin with is.  `first` lists the edges that enter such rules.
 */
static void refuse_left_recursion(analysis *a)
{
    hs_grammar *g = a->g;
    uint8_t *empty_start = a->seen; /* of find_empty */
    uint32_t n = 0;
    void *p;
    uint64_t bytes = (uint64_t)g->n_rules * sizeof(uint32_t) + g->n_nodes + g->n_edges;
    g->status = hs_mem_alloc(g->mem, HS_MEM_OTHER, bytes, "grammar", &p, g->err);
    if (g->status != HLWQ_OK)
        return;
    uint32_t *open = p;
    uint8_t *reached = (uint8_t *)(open + g->n_rules), *first = reached + g->n_nodes;
    for (uint32_t r = 0; r < g->n_rules; r++) {
        reached[g->rule[r].start] = 1;
        a->queue[n++] = g->rule[r].start;
    }
    while (n) { /* what each rule reaches without reading */
        uint32_t at = a->queue[--n];
        for (uint32_t i = g->node[at].edges; i; i = g->edge[i].next) {
            const hs_edge *e = &g->edge[i];
            if (e->kind == HS_EDGE_RULE) {
                first[i] = 1;
                open[g->node[at].rule]++;
            }
            bool through = e->kind == HS_EDGE_EMPTY || (e->kind == HS_EDGE_RULE && empty_start[g->rule[e->rule].start]);
            if (through && !reached[e->to]) {
                reached[e->to] = 1;
                a->queue[n++] = e->to;
            }
        }
    }
    uint32_t harmless = 0;
    for (uint32_t r = 0; r < g->n_rules; r++)
        if (!open[r])
            a->queue[n++] = r;
    while (n) {
        uint32_t r = a->queue[--n];
        harmless++;
        for (uint32_t i = a->callers[r]; i; i = a->call_chain[i])
            if (first[i] && --open[g->node[g->edge[i].from].rule] == 0)
                a->queue[n++] = g->node[g->edge[i].from].rule;
    }
    for (uint32_t r = 0; harmless < g->n_rules && r < g->n_rules; r++)
        if (open[r])
            hs_grammar_fail(g, HLWQ_ERR_ARG, "%s: %s refers to itself before anything is read", a->what,
                            g->rule[r].name);
    hs_mem_free(g->mem, p);
}

/* Bytes that no edge tells apart are one class. */
static void classify_bytes(hs_grammar *g)
{
    bool begins[257] = {true};
    for (uint32_t i = 1; i < g->n_edges; i++)
        if (g->edge[i].kind == HS_EDGE_BYTES)
            begins[g->edge[i].lo] = begins[g->edge[i].hi + 1] = true;
    g->n_classes = 0;
    for (uint32_t b = 0; b < 256; b++) {
        g->n_classes += begins[b];
        g->byte_class[b] = (uint8_t)(g->n_classes - 1);
    }
}

static void analyse(analysis *a)
{
    hs_grammar *g = a->g;
    for (uint32_t i = 1; i < g->n_edges; i++) {
        hs_edge *e = &g->edge[i];
        a->chain[i] = a->into[e->to];
        a->into[e->to] = i;
        if (e->kind == HS_EDGE_RULE) {
            a->call_chain[i] = a->callers[e->rule];
            a->callers[e->rule] = i;
        }
    }
    for (uint32_t level = 0; level <= g->depth_max && level < HS_GRAMMAR_DEPTH_MAX; level++)
        if (!find_level(a, level))
            break;
    find_empty(a);
    refuse_left_recursion(a);
    if (g->status == HLWQ_OK && g->node[g->rule[0].start].height > g->depth_max)
        hs_grammar_fail(g, HLWQ_ERR_ARG, "%s: no text satisfies it within %u rules below each other", a->what,
                        g->depth_max);
}

hlwq_status hs_grammar_close_off(hs_grammar *g, const char *what)
{
    if (g->status != HLWQ_OK)
        return g->status;
    void *p;
    uint64_t words = 2 * (uint64_t)g->n_nodes + g->n_rules + 2 * (uint64_t)g->n_edges;
    HS_TRY(hs_mem_alloc(g->mem, HS_MEM_OTHER, words * sizeof(uint32_t) + g->n_nodes, "grammar", &p, g->err));
    analysis a = {.g = g, .what = what, .into = p};
    a.queue = a.into + g->n_nodes;
    a.callers = a.queue + g->n_nodes;
    a.chain = a.callers + g->n_rules;
    a.call_chain = a.chain + g->n_edges;
    a.seen = (uint8_t *)(a.call_chain + g->n_edges);
    classify_bytes(g);
    analyse(&a);
    hs_mem_free(g->mem, p);
    return g->status;
}
