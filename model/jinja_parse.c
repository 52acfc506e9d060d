/*
 * model/jinja_parse.c - tags to the tree.
 */
#include "model/jinja_private.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- tokens ------------------------------------------------------------------------------------ */

hlwq_status hs_jparse_fail(hs_jparser *p, uint32_t line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    hlwq_status st = hs_jinja_fail_at(p->err, p->lexer.what, line, HLWQ_ERR_FORMAT, format, args);
    va_end(args);
    return st;
}

hlwq_status hs_jparse_next(hs_jparser *p)
{
    if (p->has_ahead) {
        p->token = p->ahead;
        p->has_ahead = false;
        return HLWQ_OK;
    }
    return hs_jlex_next(&p->lexer, &p->token);
}

hlwq_status hs_jparse_ahead(hs_jparser *p, const hs_jtoken **token)
{
    if (!p->has_ahead)
        HS_TRY(hs_jlex_next(&p->lexer, &p->ahead));
    p->has_ahead = true;
    *token = &p->ahead;
    return HLWQ_OK;
}

hlwq_status hs_jparse_node(hs_jparser *p, hs_jkind kind, uint32_t line, hs_jnode **node)
{
    void *n;
    HS_TRY(hs_arena_alloc(p->arena, sizeof(hs_jnode), &n, p->err));
    *node = n;
    (*node)->kind = (uint8_t)kind;
    (*node)->line = line;
    return HLWQ_OK;
}

hlwq_status hs_jparse_deeper(hs_jparser *p)
{
    if (p->depth == HS_JINJA_DEPTH_MAX * 2) /* brackets count twice: as an expression and as a value in it */
        return hs_jparse_fail(p, p->token.line, "nested deeper than %u", HS_JINJA_DEPTH_MAX);
    p->depth++;
    return HLWQ_OK;
}

bool hs_jparse_at(const hs_jparser *p, const char *name)
{
    return p->token.kind == HS_JT_NAME && p->token.bytes == strlen(name) &&
           memcmp(p->token.text, name, p->token.bytes) == 0;
}

bool hs_jparse_at_op(const hs_jparser *p, uint8_t op)
{
    return p->token.kind == HS_JT_OPERATOR && p->token.op == op;
}

static hlwq_status unexpected(hs_jparser *p, const char *wanted)
{
    char found[80];
    hs_jlex_describe(&p->token, found, sizeof found);
    return hs_jparse_fail(p, p->token.line, "expected %s, found %s", wanted, found);
}

hlwq_status hs_jparse_expect_op(hs_jparser *p, uint8_t op)
{
    char wanted[] = {'\'', (char)op, '\'', 0};
    return hs_jparse_at_op(p, op) ? hs_jparse_next(p) : unexpected(p, wanted);
}

hlwq_status hs_jparse_expect_name(hs_jparser *p, const char **name)
{
    if (p->token.kind != HS_JT_NAME)
        return unexpected(p, "a name");
    HS_TRY(hs_jparse_intern(p, p->token.text, p->token.bytes, name));
    return hs_jparse_next(p);
}

static hlwq_status expect_word(hs_jparser *p, const char *word)
{
    char wanted[32];
    snprintf(wanted, sizeof wanted, "'%s'", word);
    return hs_jparse_at(p, word) ? hs_jparse_next(p) : unexpected(p, wanted);
}

static hlwq_status expect_block_end(hs_jparser *p)
{
    return p->token.kind == HS_JT_BLOCK_END ? hs_jparse_next(p) : unexpected(p, "'%}'");
}

static uint32_t hash_name(const char *text, size_t bytes)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ (unsigned char)text[i]) * 16777619u;
    return h ^ h >> 15;
}

static const char **name_slot(const char **table, uint32_t slots, const char *text, size_t bytes)
{
    uint32_t i = hash_name(text, bytes) & (slots - 1);
    while (table[i] && (strlen(table[i]) != bytes || memcmp(table[i], text, bytes) != 0))
        i = (i + 1) & (slots - 1);
    return &table[i];
}

hlwq_status hs_jparse_intern(hs_jparser *p, const char *text, size_t bytes, const char **name)
{
    if (p->n_interned * 2 >= p->slots) {
        uint32_t slots = p->slots ? p->slots * 2 : 64;
        const char **table = calloc(slots, sizeof *table);
        if (!table)
            return hs_fail(p->err, HLWQ_ERR_NOMEM, "no memory for the names of a template");
        for (uint32_t i = 0; i < p->slots; i++)
            if (p->interned[i])
                *name_slot(table, slots, p->interned[i], strlen(p->interned[i])) = p->interned[i];
        free(p->interned);
        p->interned = table;
        p->slots = slots;
    }
    const char **slot = name_slot(p->interned, p->slots, text, bytes);
    if (!*slot) {
        char *copy;
        HS_TRY(hs_arena_text(p->arena, text, bytes, &copy, p->err));
        *slot = copy;
        p->n_interned++;
    }
    *name = *slot;
    return HLWQ_OK;
}

/* ---- bodies ------------------------------------------------------------------------------------ */

static hlwq_status parse_statement(hs_jparser *p, hs_jnode **out);

static hlwq_status parse_output(hs_jparser *p, hs_jnode **out)
{
    HS_TRY(hs_jparse_node(p, HS_JN_OUTPUT, p->token.line, out));
    HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_tuple(p, true, NULL, &(*out)->a));
    return p->token.kind == HS_JT_VARIABLE_END ? hs_jparse_next(p) : unexpected(p, "'}}'");
}

static bool at_one_of(const hs_jparser *p, const char *const *names)
{
    while (*names && !hs_jparse_at(p, *names))
        names++;
    return *names != NULL;
}

/* Until one of the tags in `ends`, which is then the token; to the end of the template where that is NULL. */
static hlwq_status parse_until(hs_jparser *p, const char *const *ends, hs_jnode **out)
{
    uint32_t first = p->token.line;
    for (*out = NULL;;) {
        switch (p->token.kind) {
        case HS_JT_END:
            if (!ends)
                return HLWQ_OK;
            return hs_jparse_fail(p, p->token.line, "the template ends without the {%% %s %%} for line %u", ends[0],
                                  first);
        case HS_JT_DATA:
            HS_TRY(hs_jparse_node(p, HS_JN_DATA, p->token.line, out));
            (*out)->value = hs_jv_slice(p->token.text, p->token.bytes);
            HS_TRY(hs_jparse_next(p));
            break;
        case HS_JT_VARIABLE_BEGIN: HS_TRY(parse_output(p, out)); break;
        default: /* a block begins */
            HS_TRY(hs_jparse_next(p));
            if (ends && at_one_of(p, ends))
                return HLWQ_OK;
            HS_TRY(parse_statement(p, out));
            HS_TRY(expect_block_end(p));
        }
        while (*out)
            out = &(*out)->next;
    }
}

/* The rest of the opening tag, then a body; ends at the closing tag's name, or past it with `take`. */
static hlwq_status parse_body(hs_jparser *p, const char *const *ends, bool take, hs_jnode **out)
{
    if (hs_jparse_at_op(p, ':'))
        HS_TRY(hs_jparse_next(p));
    HS_TRY(expect_block_end(p));
    HS_TRY(parse_until(p, ends, out));
    return take ? hs_jparse_next(p) : HLWQ_OK;
}

/* ---- tags -------------------------------------------------------------------------------------- */

static hlwq_status parse_one_target(hs_jparser *p, bool allow_namespace, const char *end, hs_jnode **out)
{
    HS_TRY(hs_jparse_deeper(p));
    if (hs_jparse_at_op(p, '(')) {
        HS_TRY(hs_jparse_next(p));
        HS_TRY(hs_jparse_target(p, allow_namespace, end, out));
        HS_TRY(hs_jparse_expect_op(p, ')'));
        p->depth--;
        return HLWQ_OK;
    }
    static const char *const constants[] = {"true", "True", "false", "False", "none", "None", NULL};
    if (at_one_of(p, constants))
        return hs_jparse_fail(p, p->token.line, "cannot assign to %.*s", (int)p->token.bytes, p->token.text);
    HS_TRY(hs_jparse_node(p, HS_JN_NAME, p->token.line, out));
    HS_TRY(hs_jparse_expect_name(p, &(*out)->name));
    if (allow_namespace && hs_jparse_at_op(p, '.')) {
        const char *attribute;
        HS_TRY(hs_jparse_next(p));
        HS_TRY(hs_jparse_expect_name(p, &attribute));
        (*out)->kind = HS_JN_NS;
        (*out)->value = hs_jv_text(attribute);
    }
    p->depth--;
    return HLWQ_OK;
}

hlwq_status hs_jparse_target(hs_jparser *p, bool allow_namespace, const char *end, hs_jnode **out)
{
    hs_jnode *tuple;
    HS_TRY(parse_one_target(p, allow_namespace, end, out));
    if (!hs_jparse_at_op(p, ','))
        return HLWQ_OK;
    HS_TRY(hs_jparse_node(p, HS_JN_TUPLE, p->token.line, &tuple));
    tuple->args = *out;
    for (hs_jnode **last = &tuple->args->next; hs_jparse_at_op(p, ','); last = &(*last)->next) {
        HS_TRY(hs_jparse_next(p));
        if ((end && hs_jparse_at(p, end)) || hs_jparse_at_op(p, '=') || hs_jparse_at_op(p, ')'))
            break;
        HS_TRY(parse_one_target(p, allow_namespace, end, last));
    }
    *out = tuple;
    return HLWQ_OK;
}

static hlwq_status parse_if(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    static const char *const last[] = {"endif", NULL};
    for (hs_jnode **branch = out;; branch = &(*branch)->c) {
        HS_TRY(hs_jparse_node(p, HS_JN_IF, p->token.line, branch));
        bool otherwise = hs_jparse_at(p, "else");
        HS_TRY(hs_jparse_next(p)); /* if, elif, else */
        if (!otherwise)
            HS_TRY(hs_jparse_tuple(p, false, NULL, &(*branch)->a));
        HS_TRY(parse_body(p, otherwise ? last : ends, false, &(*branch)->body));
        if (hs_jparse_at(p, "endif"))
            return hs_jparse_next(p);
    }
}

static hlwq_status parse_for(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endfor", "else", NULL}, *const last[] = {"endfor", NULL};
    HS_TRY(hs_jparse_node(p, HS_JN_FOR, p->token.line, out));
    hs_jnode *node = *out;
    HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_target(p, false, "in", &node->a));
    HS_TRY(expect_word(p, "in"));
    HS_TRY(hs_jparse_tuple(p, false, "recursive", &node->b));
    if (hs_jparse_at(p, "if")) {
        HS_TRY(hs_jparse_next(p));
        HS_TRY(hs_jparse_expression(p, true, &node->c));
    }
    if (hs_jparse_at(p, "recursive"))
        return hs_jparse_fail(p, p->token.line, "recursive loops are not supported");
    p->loops++;
    HS_TRY(parse_body(p, ends, false, &node->body));
    p->loops--;
    if (!hs_jparse_at(p, "else"))
        return hs_jparse_next(p);
    HS_TRY(hs_jparse_next(p));
    return parse_body(p, last, true, &node->args);
}

static hlwq_status parse_set(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endset", NULL};
    HS_TRY(hs_jparse_node(p, HS_JN_SET, p->token.line, out));
    hs_jnode *node = *out;
    HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_target(p, true, NULL, &node->a));
    if (hs_jparse_at_op(p, '=')) {
        HS_TRY(hs_jparse_next(p));
        return hs_jparse_tuple(p, true, NULL, &node->b);
    }
    node->kind = HS_JN_SET_BLOCK;
    HS_TRY(hs_jparse_node(p, HS_JN_CONST, node->line, &node->b)); /* stands for the text */
    HS_TRY(hs_jparse_filters(p, node->b, false, &node->c));
    return parse_body(p, ends, true, &node->body);
}

/* (name, name = default): PARAM nodes. */
static hlwq_status parse_parameters(hs_jparser *p, hs_jnode **out)
{
    hs_jnode **end = out;
    bool defaults = false;
    HS_TRY(hs_jparse_expect_op(p, '('));
    while (!hs_jparse_at_op(p, ')')) {
        if (*out)
            HS_TRY(hs_jparse_expect_op(p, ','));
        HS_TRY(hs_jparse_node(p, HS_JN_PARAM, p->token.line, end));
        HS_TRY(hs_jparse_expect_name(p, &(*end)->name));
        if (hs_jparse_at_op(p, '=')) {
            HS_TRY(hs_jparse_next(p));
            HS_TRY(hs_jparse_expression(p, true, &(*end)->a));
            defaults = true;
        } else if (defaults) {
            return hs_jparse_fail(p, (*end)->line, "parameter '%s' without a default follows one with a default",
                                  (*end)->name);
        }
        end = &(*end)->next;
    }
    return hs_jparse_expect_op(p, ')');
}

/* The body of a macro or call block: names in it are looked at for varargs and the like; loops outside are out of
 * reach. */
static hlwq_status parse_callable_body(hs_jparser *p, hs_jnode *node, const char *const *ends)
{
    hs_jnode *outer = p->macro;
    uint32_t loops = p->loops;
    p->macro = node;
    p->loops = 0;
    HS_TRY(parse_body(p, ends, true, &node->body));
    p->macro = outer;
    p->loops = loops;
    return HLWQ_OK;
}

static hlwq_status parse_macro(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endmacro", NULL};
    HS_TRY(hs_jparse_node(p, HS_JN_MACRO, p->token.line, out));
    HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_expect_name(p, &(*out)->name));
    HS_TRY(parse_parameters(p, &(*out)->args));
    return parse_callable_body(p, *out, ends);
}

static hlwq_status parse_call_block(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endcall", NULL};
    HS_TRY(hs_jparse_node(p, HS_JN_CALL_BLOCK, p->token.line, out));
    HS_TRY(hs_jparse_next(p));
    if (hs_jparse_at_op(p, '('))
        HS_TRY(parse_parameters(p, &(*out)->args));
    HS_TRY(hs_jparse_expression(p, true, &(*out)->a));
    if ((*out)->a->kind != HS_JN_CALL)
        return hs_jparse_fail(p, (*out)->line, "{%% call %%} needs a call");
    return parse_callable_body(p, *out, ends);
}

static hlwq_status parse_filter_block(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endfilter", NULL};
    HS_TRY(hs_jparse_node(p, HS_JN_FILTER_BLOCK, p->token.line, out));
    HS_TRY(hs_jparse_next(p));
    HS_TRY(hs_jparse_node(p, HS_JN_CONST, (*out)->line, &(*out)->b));
    HS_TRY(hs_jparse_filters(p, (*out)->b, true, &(*out)->a));
    return parse_body(p, ends, true, &(*out)->body);
}

static hlwq_status parse_with(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endwith", NULL};
    HS_TRY(hs_jparse_node(p, HS_JN_WITH, p->token.line, out));
    HS_TRY(hs_jparse_next(p));
    for (hs_jnode **end = &(*out)->args; p->token.kind != HS_JT_BLOCK_END; end = &(*end)->next) {
        if ((*out)->args)
            HS_TRY(hs_jparse_expect_op(p, ','));
        HS_TRY(hs_jparse_node(p, HS_JN_LINK, p->token.line, end));
        HS_TRY(hs_jparse_target(p, false, NULL, &(*end)->a));
        HS_TRY(hs_jparse_expect_op(p, '='));
        HS_TRY(hs_jparse_expression(p, true, &(*end)->b));
    }
    return parse_body(p, ends, true, &(*out)->body);
}

/* {% generation %} marks what training looks at; it changes nothing here. */
static hlwq_status parse_generation(hs_jparser *p, hs_jnode **out)
{
    static const char *const ends[] = {"endgeneration", NULL};
    HS_TRY(hs_jparse_node(p, HS_JN_SCOPE, p->token.line, out));
    HS_TRY(hs_jparse_next(p));
    uint32_t loops = p->loops;
    p->loops = 0;
    HS_TRY(parse_body(p, ends, true, &(*out)->body));
    p->loops = loops;
    return HLWQ_OK;
}

static hlwq_status parse_print(hs_jparser *p, hs_jnode **out)
{
    do {
        uint32_t line = p->token.line;
        HS_TRY(hs_jparse_next(p)); /* print, or a comma */
        HS_TRY(hs_jparse_node(p, HS_JN_OUTPUT, line, out));
        HS_TRY(hs_jparse_expression(p, true, &(*out)->a));
        out = &(*out)->next;
    } while (hs_jparse_at_op(p, ','));
    return HLWQ_OK;
}

static hlwq_status parse_jump(hs_jparser *p, hs_jnode **out)
{
    bool stop = hs_jparse_at(p, "break");
    HS_TRY(hs_jparse_node(p, stop ? HS_JN_BREAK : HS_JN_CONTINUE, p->token.line, out));
    if (!p->loops)
        return hs_jparse_fail(p, p->token.line, "{%% %s %%} outside of a loop", stop ? "break" : "continue");
    return hs_jparse_next(p);
}

static hlwq_status parse_tag(hs_jparser *p, hs_jnode **out)
{
    static const struct {
        const char *name;
        hlwq_status (*parse)(hs_jparser *p, hs_jnode **out);
    } tag[] = {{"if", parse_if},           {"for", parse_for},
               {"set", parse_set},         {"macro", parse_macro},
               {"call", parse_call_block}, {"filter", parse_filter_block},
               {"with", parse_with},       {"generation", parse_generation},
               {"print", parse_print},     {"break", parse_jump},
               {"continue", parse_jump}};
    if (p->token.kind != HS_JT_NAME)
        return unexpected(p, "the name of a tag");
    for (size_t i = 0; i < sizeof tag / sizeof *tag; i++)
        if (hs_jparse_at(p, tag[i].name))
            return tag[i].parse(p, out);
    static const char *const files[] = {"include", "import", "from", "extends", "block", NULL};
    int n = p->token.bytes > 40 ? 40 : (int)p->token.bytes;
    if (at_one_of(p, files))
        return hs_jparse_fail(p, p->token.line, "{%% %.*s %%} is not for chat templates, which are one file", n,
                              p->token.text);
    return hs_jparse_fail(p, p->token.line, "{%% %.*s %%} is no tag that may stand here", n, p->token.text);
}

static hlwq_status parse_statement(hs_jparser *p, hs_jnode **out)
{
    HS_TRY(hs_jparse_deeper(p));
    hlwq_status st = parse_tag(p, out);
    p->depth--;
    return st;
}

/* ---- templates --------------------------------------------------------------------------------- */

/* A copy with \n as the only newline and without the last one; must be UTF-8. */
static hlwq_status normalise(hs_jparser *p, const char *text, size_t bytes)
{
    char *out;
    size_t n = 0;
    HS_TRY(hs_arena_text(p->arena, text, bytes, &out, p->err));
    uint32_t line = 1;
    for (size_t i = 0, k; i < bytes; i += k) {
        uint32_t used;
        int32_t c = hs_ju_char(text + i, bytes - i, &used);
        k = used;
        if (c == 0xFFFD && used == 1)
            return hs_jparse_fail(p, line, "byte 0x%02x at %zu is not UTF-8", (unsigned char)text[i], i);
        if (c == '\r') {
            out[n++] = '\n';
            k += i + 1 < bytes && text[i + 1] == '\n';
        } else {
            memmove(out + n, text + i, k);
            n += k;
        }
        line += c == '\n' || c == '\r';
    }
    n -= n > 0 && out[n - 1] == '\n';
    p->lexer.text = out;
    p->lexer.bytes = n;
    return HLWQ_OK;
}

static hlwq_status parse_template(hs_jinja *j, const char *text, size_t bytes, const char *what, hs_jparser *p)
{
    HS_TRY(hs_arena_text(&j->arena, what, strlen(what), &j->what, p->err));
    p->lexer.what = j->what;
    HS_TRY(normalise(p, text, bytes));
    HS_TRY(hs_jparse_intern(p, "loop", 4, &p->names.loop));
    HS_TRY(hs_jparse_intern(p, "caller", 6, &p->names.caller));
    HS_TRY(hs_jparse_intern(p, "varargs", 7, &p->names.varargs));
    HS_TRY(hs_jparse_intern(p, "kwargs", 6, &p->names.kwargs));
    j->names = p->names;
    HS_TRY(hs_jparse_next(p));
    return parse_until(p, NULL, &j->body);
}

hlwq_status hs_jinja_parse(hs_jinja **out, hs_mem *mem, const char *text, size_t bytes, const char *what,
                           hlwq_error *err)
{
    *out = NULL;
    if (bytes > HS_JINJA_TEMPLATE_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: a template of %zu bytes, limit %u", what, bytes,
                       HS_JINJA_TEMPLATE_MAX);
    hs_jinja *j = calloc(1, sizeof *j);
    if (!j)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a chat template");
    hs_arena_init(&j->arena, mem, HS_MEM_OTHER);
    hs_jparser p = {.arena = &j->arena, .err = err, .lexer = {.line = 1, .arena = &j->arena, .what = what, .err = err}};
    hlwq_status st = parse_template(j, text, bytes, what, &p);
    free(p.interned);
    if (st != HLWQ_OK) {
        hs_jinja_free(j);
        return st;
    }
    *out = j;
    return HLWQ_OK;
}

void hs_jinja_free(hs_jinja *j)
{
    if (!j)
        return;
    hs_arena_close(&j->arena);
    free(j);
}
