/*
 * model/grammar.h - what a text may be, as a graph over bytes: rules of nodes, joined by edges.
 *
 * An edge reads one byte of a range, reads nothing, or reads a whole rule; a rule is read once its `end` is reached,
 * and rules may refer to each other and to themselves.  Built piece by piece, then closed once: hs_grammar_close_off
 * finds how deep each node has to go until its rule can end, so that whoever walks the graph never enters a dead end.
 *
 * While building, a failure is remembered (`status`, with the sentence in `err`) and later calls do nothing; node and
 * rule numbers that they return may be used all the same.
 */
#ifndef HS_MODEL_GRAMMAR_H
#define HS_MODEL_GRAMMAR_H

#include "base/mem.h"

enum {
    HS_GRAMMAR_EDGES_MAX = 1 << 18,
    HS_GRAMMAR_RULES_MAX = 4096,
    HS_GRAMMAR_DEPTH_MAX = 255,
};

typedef enum hs_edge_kind { HS_EDGE_BYTES, HS_EDGE_EMPTY, HS_EDGE_RULE } hs_edge_kind;

typedef struct hs_edge {
    uint32_t from, to;
    uint32_t next; /* of the same node; 0 = none */
    uint32_t rule; /* HS_EDGE_RULE */
    uint8_t kind, lo, hi;
} hs_edge;

typedef struct hs_node {
    uint32_t edges; /* the first; 0 = none */
    uint32_t rule;  /* that it belongs to */
    uint8_t height; /* rules that must be entered below each other before its own can end; 255 = it never can */
    bool end;
    uint32_t like;       /* a node of the same behaviour as far as one token goes; 0 = none */
    uint32_t covered_by; /* the node with `like` whose edges alone lead here; 0 = none */
} hs_node;

typedef struct hs_rule {
    uint32_t start, end;
    char name[48]; /* for sentences */
} hs_rule;

typedef struct hs_grammar {
    hs_mem *mem;
    hs_node *node; /* from 1 */
    hs_edge *edge; /* from 1 */
    hs_rule *rule;
    uint32_t n_nodes, n_edges, n_rules, nodes_capacity, edges_capacity, rules_capacity;
    uint32_t depth_max; /* rules below each other */
    uint32_t longest;   /* bytes of a token, at most: see `like` */
    uint32_t building;  /* the rule that new nodes belong to */
    uint8_t byte_class[256];
    uint32_t n_classes;
    hlwq_status status;
    hlwq_error *err;
} hs_grammar;

void hs_grammar_init(hs_grammar *g, hs_mem *mem, uint32_t depth_max, uint32_t longest, hlwq_error *err);
void hs_grammar_free(hs_grammar *g);

/* Remembers the failure, unless there was one before. */
void hs_grammar_fail(hs_grammar *g, hlwq_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A rule with its two ends. Nodes belong to the rule that is being built; which one that was is returned. */
uint32_t hs_grammar_rule(hs_grammar *g, const char *name);
uint32_t hs_grammar_build(hs_grammar *g, uint32_t rule);
uint32_t hs_grammar_start(const hs_grammar *g, uint32_t rule);
uint32_t hs_grammar_end(const hs_grammar *g, uint32_t rule);

uint32_t hs_grammar_node(hs_grammar *g);
void hs_grammar_bytes(hs_grammar *g, uint32_t from, uint8_t lo, uint8_t hi, uint32_t to);
void hs_grammar_empty(hs_grammar *g, uint32_t from, uint32_t to);
void hs_grammar_call(hs_grammar *g, uint32_t from, uint32_t rule, uint32_t to);
void hs_grammar_text(hs_grammar *g, uint32_t from, const char *text, size_t bytes, uint32_t to);

/* The node after reading `byte` from `from`, which must be part of a tree of such nodes: found, or made. */
uint32_t hs_grammar_branch(hs_grammar *g, uint32_t from, uint8_t byte);

/* The UTF-8 of every character in [lo, hi], surrogates left out. */
void hs_grammar_characters(hs_grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to);

/* Ready for walking, from rule 0. Refuses rules that refer to themselves before anything is read, and rule 0 if no text
 * is in it; `what` begins the sentences. */
hlwq_status hs_grammar_close_off(hs_grammar *g, const char *what);

#endif
