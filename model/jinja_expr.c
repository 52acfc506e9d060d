/*
 * model/jinja_expr.c - expressions to the tree, by Jinja's grammar.
 *
 * Loosest first: if/else, or, and, not, comparisons with in, + -, ~, * / // %, **, unary signs, then what follows a
 * value: .name [item] (call), then | filter and "is" test, which bind tighter than any operator.  Chains of one level
 * are one node, so that a long sum is not deep.
 */
#include "model/jinja_private.h"

#include <stdio.h>

static hlwq_status parse_level(hs_jparser *p, int level, hs_jnode **out);
static hlwq_status parse_unary(hs_jparser *p, bool with_filters, hs_jnode **out);

enum { OR, AND, NOT, COMPARE, SUM, CONCAT, PRODUCT, POWER, UNARY };

/* ---- arguments --------------------------------------------------------------------------------- */

static hlwq_status parse_argument(hs_jparser *p, hs_jnode *before, hs_jnode **out)
{
    hs_jnode *arg;
    const hs_jtoken *ahead;
    uint32_t line = p->token.line;
    HS_TRY(hs_jparse_node(p, HS_JN_ARG, line, &arg));
    *out = arg;
    bool after_keyword = before && (before->op == 'k' || before->op == HS_JO_POW);
    if (hs_jparse_at_op(p, '*') || hs_jparse_at_op(p, HS_JO_POW)) {
        arg->op = p->token.op;
        HS_TRY(hs_jparse_next(p));
        return hs_jparse_expression(p, true, &arg->a);
    }
    if (p->token.kind == HS_JT_NAME) {
        HS_TRY(hs_jparse_ahead(p, &ahead));
        if (ahead->kind == HS_JT_OPERATOR && ahead->op == '=') {
            arg->op = 'k';
            HS_TRY(hs_jparse_expect_name(p, &arg->name));
            HS_TRY(hs_jparse_next(p));
            return hs_jparse_expression(p, true, &arg->a);
        }
    }
    if (after_keyword || (before && before->op == '*'))
        return hs_jparse_fail(p, line, "a positional argument after a keyword argument or *");
    return hs_jparse_expression(p, true, &arg->a);
}

/* "(" is the token. */
static hlwq_status parse_arguments(hs_jparser *p, hs_jnode **out)
{
    hs_jnode **end = out, *before = NULL;
    HS_TRY(hs_jparse_expect_op(p, '('));
    while (!hs_jparse_at_op(p, ')')) {
        if (before) {
            HS_TRY(hs_jparse_expect_op(p, ','));
            if (hs_jparse_at_op(p, ')'))
                break;
        }
        HS_TRY(parse_argument(p, before, end));
        before = *end;
        end = &before->next;
    }
    return hs_jparse_expect_op(p, ')');
}

/* ---- values ------------------------------------------------------------------------------------ */

static hlwq_status parse_list(hs_jparser *p, hs_jnode **out)
{
    HS_TRY(hs_jparse_node(p, HS_JN_LIST, p->token.line, out));
    hs_jnode **end = &(*out)->args;
    HS_TRY(hs_jparse_expect_op(p, '['));
    while (!hs_jparse_at_op(p, ']')) {
        if (end != &(*out)->args) {
            HS_TRY(hs_jparse_expect_op(p, ','));
            if (hs_jparse_at_op(p, ']'))
                break;
        }
        HS_TRY(hs_jparse_expression(p, true, end));
        end = &(*end)->next;
    }
    return hs_jparse_expect_op(p, ']');
}

static hlwq_status parse_dict(hs_jparser *p, hs_jnode **out)
{
    HS_TRY(hs_jparse_node(p, HS_JN_DICT, p->token.line, out));
    hs_jnode **end = &(*out)->args;
    HS_TRY(hs_jparse_expect_op(p, '{'));
    while (!hs_jparse_at_op(p, '}')) {
        if (end != &(*out)->args) {
            HS_TRY(hs_jparse_expect_op(p, ','));
            if (hs_jparse_at_op(p, '}'))
                break;
        }
        HS_TRY(hs_jparse_expression(p, true, end));
        end = &(*end)->next;
        HS_TRY(hs_jparse_expect_op(p, ':'));
        HS_TRY(hs_jparse_expression(p, true, end));
        end = &(*end)->next;
    }
    return hs_jparse_expect_op(p, '}');
}

/* Strings side by side are one. */
static hlwq_status parse_string(hs_jparser *p, hs_jnode *node)
{
    node->value = hs_jv_slice(p->token.text, p->token.bytes);
    HS_TRY(hs_jparse_next(p));
    while (p->token.kind == HS_JT_STRING) {
        void *text;
        uint64_t bytes = (uint64_t)node->value.bytes + p->token.bytes;
        HS_TRY(hs_arena_alloc(p->arena, bytes, &text, p->err));
        memcpy(text, node->value.text, node->value.bytes);
        memcpy((char *)text + node->value.bytes, p->token.text, p->token.bytes);
        node->value = hs_jv_slice(text, bytes);
        HS_TRY(hs_jparse_next(p));
    }
    return HLWQ_OK;
}

static hlwq_status parse_name(hs_jparser *p, hs_jnode *node)
{
    static const struct {
        const char *name;
        hs_jv_type type;
        bool value;
    } word[] = {{"true", HS_JV_BOOL, true},   {"True", HS_JV_BOOL, true},  {"false", HS_JV_BOOL, false},
                {"False", HS_JV_BOOL, false}, {"none", HS_JV_NONE, false}, {"None", HS_JV_NONE, false}};
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) {
        if (!hs_jparse_at(p, word[i].name))
            continue;
        node->value = word[i].type == HS_JV_NONE ? hs_jv_none() : hs_jv_bool(word[i].value);
        return hs_jparse_next(p);
    }
    node->kind = HS_JN_NAME;
    HS_TRY(hs_jparse_expect_name(p, &node->name));
    if (p->macro) {
        p->macro->varargs |= node->name == p->names.varargs;
        p->macro->kwargs |= node->name == p->names.kwargs;
        p->macro->caller |= node->name == p->names.caller;
    }
    return HLWQ_OK;
}

static hlwq_status parse_primary(hs_jparser *p, hs_jnode **out)
{
    char found[80];
    if (hs_jparse_at_op(p, '(')) {
        HS_TRY(hs_jparse_next(p));
        if (hs_jparse_at_op(p, ')'))
            HS_TRY(hs_jparse_node(p, HS_JN_TUPLE, p->token.line, out));
        else
            HS_TRY(hs_jparse_tuple(p, true, NULL, out));
        return hs_jparse_expect_op(p, ')');
    }
    if (hs_jparse_at_op(p, '['))
        return parse_list(p, out);
    if (hs_jparse_at_op(p, '{'))
        return parse_dict(p, out);
    HS_TRY(hs_jparse_node(p, HS_JN_CONST, p->token.line, out));
    switch (p->token.kind) {
    case HS_JT_NAME: return parse_name(p, *out);
    case HS_JT_STRING: return parse_string(p, *out);
    case HS_JT_INTEGER: (*out)->value = hs_jv_int(p->token.integer); return hs_jparse_next(p);
    case HS_JT_FLOAT: (*out)->value = hs_jv_real(p->token.real); return hs_jparse_next(p);
    default:
        hs_jlex_describe(&p->token, found, sizeof found);
        return hs_jparse_fail(p, p->token.line, "unexpected %s where a value should stand", found);
    }
}

/* ---- what follows a value ---------------------------------------------------------------------- */

static hlwq_status parse_subscript(hs_jparser *p, hs_jnode **out)
{
    hs_jnode *slice;
    uint32_t line = p->token.line;
    *out = NULL;
    if (!hs_jparse_at_op(p, ':')) {
        HS_TRY(hs_jparse_expression(p, true, out));
        if (!hs_jparse_at_op(p, ':'))
            return HLWQ_OK;
    }
    HS_TRY(hs_jparse_node(p, HS_JN_SLICE, line, &slice));
    slice->a = *out;
    *out = slice;
    hs_jnode **part[] = {&slice->b, &slice->c};
    for (int i = 0; i < 2 && hs_jparse_at_op(p, ':'); i++) {
        HS_TRY(hs_jparse_next(p));
        if (!hs_jparse_at_op(p, ':') && !hs_jparse_at_op(p, ']') && !hs_jparse_at_op(p, ','))
            HS_TRY(hs_jparse_expression(p, true, part[i]));
    }
    return HLWQ_OK;
}

static hlwq_status parse_item(hs_jparser *p, hs_jnode *of, hs_jnode **out)
{
    hs_jnode *node, *tuple;
    HS_TRY(hs_jparse_node(p, HS_JN_ITEM, p->token.line, &node));
    node->a = of;
    *out = node;
    HS_TRY(hs_jparse_next(p));
    HS_TRY(parse_subscript(p, &node->b));
    if (hs_jparse_at_op(p, ',')) { /* a[1, 2] is a tuple as key */
        HS_TRY(hs_jparse_node(p, HS_JN_TUPLE, p->token.line, &tuple));
        tuple->args = node->b;
        for (hs_jnode **end = &node->b->next; hs_jparse_at_op(p, ','); end = &(*end)->next) {
            HS_TRY(hs_jparse_next(p));
            HS_TRY(hs_jparse_expression(p, true, end));
        }
        node->b = tuple;
    }
    return hs_jparse_expect_op(p, ']');
}

static hlwq_status parse_attribute(hs_jparser *p, hs_jnode *of, hs_jnode **out)
{
    hs_jnode *node;
    uint32_t line = p->token.line;
    HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_node(p, HS_JN_ATTRIBUTE, line, &node));
    node->a = of;
    *out = node;
    if (p->token.kind != HS_JT_INTEGER)
        return hs_jparse_expect_name(p, &node->name);
    node->kind = HS_JN_ITEM; /* a.0 */
    HS_TRY(hs_jparse_node(p, HS_JN_CONST, line, &node->b));
    node->b->value = hs_jv_int(p->token.integer);
    return hs_jparse_next(p);
}

static hlwq_status parse_call(hs_jparser *p, hs_jnode *callee, hs_jnode **out)
{
    HS_TRY(hs_jparse_node(p, HS_JN_CALL, p->token.line, out));
    (*out)->a = callee;
    return parse_arguments(p, &(*out)->args);
}

static hlwq_status parse_postfix(hs_jparser *p, hs_jnode **node)
{
    for (;;) {
        if (hs_jparse_at_op(p, '.'))
            HS_TRY(parse_attribute(p, *node, node));
        else if (hs_jparse_at_op(p, '['))
            HS_TRY(parse_item(p, *node, node));
        else if (hs_jparse_at_op(p, '('))
            HS_TRY(parse_call(p, *node, node));
        else
            return HLWQ_OK;
    }
}

hlwq_status hs_jparse_filters(hs_jparser *p, hs_jnode *node, bool first_named, hs_jnode **out)
{
    while (hs_jparse_at_op(p, '|') || first_named) {
        hs_jnode *filter;
        if (!first_named)
            HS_TRY(hs_jparse_next(p));
        first_named = false;
        HS_TRY(hs_jparse_node(p, HS_JN_FILTER, p->token.line, &filter));
        HS_TRY(hs_jparse_expect_name(p, &filter->name));
        filter->entry = hs_jinja_filter(filter->name, strlen(filter->name)); /* NULL fails when it is reached */
        filter->a = node;
        if (hs_jparse_at_op(p, '('))
            HS_TRY(parse_arguments(p, &filter->args));
        node = filter;
    }
    *out = node;
    return HLWQ_OK;
}

/* "is" is the token. */
static hlwq_status parse_test(hs_jparser *p, hs_jnode *of, hs_jnode **out)
{
    hs_jnode *test, *negation;
    uint32_t line = p->token.line;
    HS_TRY(hs_jparse_next(p));
    bool negated = hs_jparse_at(p, "not");
    if (negated)
        HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_node(p, HS_JN_TEST, line, &test));
    test->a = of;
    HS_TRY(hs_jparse_expect_name(p, &test->name));
    test->entry = hs_jinja_test(test->name, strlen(test->name));
    bool word =
        p->token.kind == HS_JT_NAME && !hs_jparse_at(p, "else") && !hs_jparse_at(p, "or") && !hs_jparse_at(p, "and");
    bool literal = p->token.kind == HS_JT_STRING || p->token.kind == HS_JT_INTEGER || p->token.kind == HS_JT_FLOAT ||
                   hs_jparse_at_op(p, '[') || hs_jparse_at_op(p, '{');
    if (hs_jparse_at_op(p, '(')) {
        HS_TRY(parse_arguments(p, &test->args));
    } else if (word || literal) { /* one argument without brackets: x is divisibleby 3 */
        if (hs_jparse_at(p, "is"))
            return hs_jparse_fail(p, line, "tests cannot be chained with \"is\"");
        HS_TRY(hs_jparse_node(p, HS_JN_ARG, line, &test->args));
        HS_TRY(parse_primary(p, &test->args->a));
        HS_TRY(parse_postfix(p, &test->args->a));
    }
    *out = test;
    if (!negated)
        return HLWQ_OK;
    HS_TRY(hs_jparse_node(p, HS_JN_NOT, line, &negation));
    negation->a = test;
    *out = negation;
    return HLWQ_OK;
}

static hlwq_status parse_unary_inside(hs_jparser *p, bool with_filters, hs_jnode **out)
{
    if (hs_jparse_at_op(p, '-') || hs_jparse_at_op(p, '+')) {
        hs_jnode *node;
        HS_TRY(hs_jparse_node(p, HS_JN_UNARY, p->token.line, &node));
        node->op = p->token.op;
        HS_TRY(hs_jparse_next(p));
        HS_TRY(parse_unary(p, false, &node->a));
        *out = node;
    } else {
        HS_TRY(parse_primary(p, out));
    }
    HS_TRY(parse_postfix(p, out));
    while (with_filters) {
        if (hs_jparse_at_op(p, '|'))
            HS_TRY(hs_jparse_filters(p, *out, false, out));
        else if (hs_jparse_at(p, "is"))
            HS_TRY(parse_test(p, *out, out));
        else if (hs_jparse_at_op(p, '('))
            HS_TRY(parse_call(p, *out, out));
        else
            break;
    }
    return HLWQ_OK;
}

static hlwq_status parse_unary(hs_jparser *p, bool with_filters, hs_jnode **out)
{
    HS_TRY(hs_jparse_deeper(p));
    hlwq_status st = parse_unary_inside(p, with_filters, out);
    p->depth--;
    return st;
}

/* ---- operators --------------------------------------------------------------------------------- */

/* The operator of `level` that the token is, taken; 0 if it is none. */
static hlwq_status take_operator(hs_jparser *p, int level, uint8_t *op)
{
    uint8_t at = p->token.kind == HS_JT_OPERATOR ? p->token.op : 0;
    bool found = false;
    *op = at;
    switch (level) {
    case OR: found = hs_jparse_at(p, "or"); break;
    case AND: found = hs_jparse_at(p, "and"); break;
    case SUM: found = at == '+' || at == '-'; break;
    case CONCAT: found = at == '~'; break;
    case PRODUCT: found = at == '*' || at == '/' || at == '%' || at == HS_JO_FLOORDIV; break;
    case POWER: found = at == HS_JO_POW; break;
    case COMPARE:
        found = at == '<' || at == '>' || (at >= HS_JO_EQ && at <= HS_JO_GE);
        if (hs_jparse_at(p, "in")) {
            found = true;
            *op = HS_JO_IN;
        } else if (hs_jparse_at(p, "not")) {
            const hs_jtoken *ahead;
            HS_TRY(hs_jparse_ahead(p, &ahead));
            found = ahead->kind == HS_JT_NAME && ahead->bytes == 2 && memcmp(ahead->text, "in", 2) == 0;
            *op = HS_JO_NOT_IN;
            if (found)
                HS_TRY(hs_jparse_next(p));
        }
        break;
    default: break;
    }
    if (!found) {
        *op = 0;
        return HLWQ_OK;
    }
    if (!*op)
        *op = 1; /* "or", "and": the node's kind says which */
    return hs_jparse_next(p);
}

static hlwq_status parse_not(hs_jparser *p, hs_jnode **out)
{
    if (!hs_jparse_at(p, "not"))
        return parse_level(p, COMPARE, out);
    HS_TRY(hs_jparse_node(p, HS_JN_NOT, p->token.line, out));
    HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_deeper(p));
    hlwq_status st = parse_not(p, &(*out)->a);
    p->depth--;
    return st;
}

static hlwq_status parse_level(hs_jparser *p, int level, hs_jnode **out)
{
    static const uint8_t kind[] = {
        [OR] = HS_JN_OR,         [AND] = HS_JN_AND,       [COMPARE] = HS_JN_COMPARE, [SUM] = HS_JN_CHAIN,
        [CONCAT] = HS_JN_CONCAT, [PRODUCT] = HS_JN_CHAIN, [POWER] = HS_JN_CHAIN,     [UNARY] = HS_JN_CHAIN};
    uint32_t line = p->token.line;
    uint8_t op;
    if (level == NOT)
        return parse_not(p, out);
    if (level == UNARY)
        return parse_unary(p, true, out);
    HS_TRY(parse_level(p, level + 1, out));
    HS_TRY(take_operator(p, level, &op));
    if (!op)
        return HLWQ_OK;
    hs_jnode *chain;
    HS_TRY(hs_jparse_node(p, kind[level], line, &chain));
    chain->a = *out;
    *out = chain;
    for (hs_jnode **end = &chain->args; op; end = &(*end)->next) {
        HS_TRY(hs_jparse_node(p, HS_JN_LINK, p->token.line, end));
        (*end)->op = op;
        HS_TRY(parse_level(p, level + 1, &(*end)->a));
        HS_TRY(take_operator(p, level, &op));
    }
    return HLWQ_OK;
}

static hlwq_status parse_conditional(hs_jparser *p, hs_jnode **out)
{
    uint32_t line = p->token.line;
    HS_TRY(parse_level(p, OR, out));
    while (hs_jparse_at(p, "if")) {
        hs_jnode *node;
        HS_TRY(hs_jparse_next(p));
        HS_TRY(hs_jparse_node(p, HS_JN_CONDITIONAL, line, &node));
        node->b = *out;
        *out = node;
        HS_TRY(parse_level(p, OR, &node->a));
        if (hs_jparse_at(p, "else")) {
            HS_TRY(hs_jparse_next(p));
            HS_TRY(hs_jparse_expression(p, true, &node->c));
        }
    }
    return HLWQ_OK;
}

hlwq_status hs_jparse_expression(hs_jparser *p, bool conditional, hs_jnode **out)
{
    HS_TRY(hs_jparse_deeper(p));
    hlwq_status st = conditional ? parse_conditional(p, out) : parse_level(p, OR, out);
    p->depth--;
    return st;
}

static bool at_tuple_end(const hs_jparser *p, const char *end)
{
    return p->token.kind == HS_JT_VARIABLE_END || p->token.kind == HS_JT_BLOCK_END || hs_jparse_at_op(p, ')') ||
           (end && hs_jparse_at(p, end));
}

hlwq_status hs_jparse_tuple(hs_jparser *p, bool conditional, const char *end, hs_jnode **out)
{
    hs_jnode *tuple;
    uint32_t line = p->token.line;
    HS_TRY(hs_jparse_expression(p, conditional, out));
    if (!hs_jparse_at_op(p, ','))
        return HLWQ_OK;
    HS_TRY(hs_jparse_node(p, HS_JN_TUPLE, line, &tuple));
    tuple->args = *out;
    for (hs_jnode **last = &tuple->args->next; hs_jparse_at_op(p, ','); last = &(*last)->next) {
        HS_TRY(hs_jparse_next(p));
        if (at_tuple_end(p, end))
            break;
        HS_TRY(hs_jparse_expression(p, conditional, last));
    }
    *out = tuple;
    return HLWQ_OK;
}
