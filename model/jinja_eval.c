/*
 * model/jinja_eval.c - expressions to values, and calls of everything that can be called.
 */
#include "model/jinja_private.h"

#include <stdlib.h>

/* ---- arguments --------------------------------------------------------------------------------- */

/* Room for `n` arguments. */
static hlwq_status reserve(hs_jvm *vm, hs_jargs *args, uint32_t *capacity, uint64_t n)
{
    void *item, *name;
    if (n <= *capacity)
        return HLWQ_OK;
    if (n > 1000000)
        return hs_jvm_limit(vm, "calls something with more than 1000000 arguments");
    HS_TRY(hs_jvm_alloc(vm, n, sizeof(hs_jv), &item));
    HS_TRY(hs_jvm_alloc(vm, n, sizeof(char *), &name));
    if (args->n) {
        memcpy(item, args->item, args->n * sizeof(hs_jv));
        memcpy(name, args->name, args->n * sizeof(char *));
    }
    args->item = item;
    args->name = name;
    *capacity = (uint32_t)n;
    return HLWQ_OK;
}

static hlwq_status expand_list(hs_jvm *vm, hs_jv v, hs_jargs *args, uint32_t *capacity, uint32_t more)
{
    const hs_jlist *list;
    HS_TRY(hs_jv_iterate(vm, v, &list));
    HS_TRY(reserve(vm, args, capacity, (uint64_t)args->n + list->n + more));
    for (uint32_t i = 0; i < list->n; i++)
        args->item[args->n++] = list->item[i];
    args->positional = args->n;
    return hs_jvm_step(vm, list->n);
}

static hlwq_status expand_dict(hs_jvm *vm, hs_jv v, hs_jargs *args, uint32_t *capacity, uint32_t more)
{
    if (v.type != HS_JV_DICT)
        return hs_jvm_fail(vm, "argument after ** must be a mapping, not %s", hs_jv_type_name(v));
    HS_TRY(reserve(vm, args, capacity, (uint64_t)args->n + v.dict->n + more));
    for (uint32_t i = 0; i < v.dict->n; i++) {
        hs_jv key = v.dict->key[i], copy;
        if (key.type != HS_JV_STRING)
            return hs_jvm_fail(vm, "keywords must be strings");
        HS_TRY(hs_jvm_string(vm, key.text, key.bytes + 1u, &copy)); /* one more: a zero */
        ((char *)(uintptr_t)copy.text)[key.bytes] = 0;
        args->name[args->n] = copy.text;
        args->item[args->n++] = v.dict->value[i];
    }
    return HLWQ_OK;
}

hlwq_status hs_jeval_args(hs_jvm *vm, const hs_jnode *nodes, uint32_t more, hs_jargs *args)
{
    uint32_t n = more, capacity = 0;
    *args = (hs_jargs){0};
    for (const hs_jnode *node = nodes; node; node = node->next)
        n++;
    if (!n)
        return HLWQ_OK;
    HS_TRY(reserve(vm, args, &capacity, n));
    for (const hs_jnode *node = nodes; node; node = node->next, n--) {
        hs_jv value;
        HS_TRY(hs_jeval(vm, node->a, &value));
        if (node->op == '*') {
            HS_TRY(expand_list(vm, value, args, &capacity, n));
        } else if (node->op == HS_JO_POW) {
            HS_TRY(expand_dict(vm, value, args, &capacity, n));
        } else {
            args->name[args->n] = node->op == 'k' ? node->name : NULL;
            args->item[args->n++] = value;
            args->positional += node->op != 'k';
        }
    }
    return HLWQ_OK;
}

/* ---- calls ------------------------------------------------------------------------------------- */

/* Which parameter of a table entry is called that, from 0; -1 if none. */
static int parameter_index(const char *parameters, const char *name)
{
    size_t bytes = strlen(name);
    int i = 0;
    for (const char *p = parameters; *p; i++) {
        size_t n = strcspn(p, "= ");
        if (n == bytes && memcmp(p, name, n) == 0)
            return i;
        p += n;
        p += *p == '=';
        p += *p == ' ';
    }
    return -1;
}

static hlwq_status bind(hs_jvm *vm, const hs_jentry *entry, const hs_jargs *args, hs_jv *a)
{
    uint32_t n = 0;
    for (const char *p = entry->parameters; *p; n++) {
        p += strcspn(p, " ");
        p += *p == ' ';
    }
    if (args->positional > n)
        return hs_jvm_fail(vm, "%s() takes at most %u arguments, %u given", entry->name, n, args->positional);
    for (uint32_t i = 0; i < args->n; i++) {
        int at = (int)i;
        if (i >= args->positional)
            at = parameter_index(entry->parameters, args->name[i]);
        if (at < 0)
            return hs_jvm_fail(vm, "%s() has no argument '%s'", entry->name, args->name[i]);
        if (a[at].type != HS_JV_MISSING)
            return hs_jvm_fail(vm, "%s() has two values for its argument '%s'", entry->name, args->name[i]);
        a[at] = args->item[i];
    }
    uint32_t i = 0;
    for (const char *p = entry->parameters; *p; i++) {
        size_t word = strcspn(p, "= ");
        if (a[i].type == HS_JV_MISSING && p[word] != '=')
            return hs_jvm_fail(vm, "%s() needs its argument '%.*s'", entry->name, (int)word, p);
        p += word;
        p += *p == '=';
        p += *p == ' ';
    }
    return HLWQ_OK;
}

hlwq_status hs_jcall_entry(hs_jvm *vm, const hs_jentry *entry, hs_jv self, const hs_jargs *args, hs_jv *out)
{
    hs_jv a[HS_JARGS_MAX] = {self};
    const hs_jargs *outer = vm->args;
    HS_TRY(hs_jvm_step(vm, 1));
    if (entry->parameters[0] == '*')
        vm->args = args;
    else
        HS_TRY(bind(vm, entry, args, a + 1));
    HS_TRY(hs_jvm_enter(vm));
    hlwq_status st = entry->run(vm, a, out);
    vm->depth--;
    vm->args = outer;
    return st;
}

hlwq_status hs_jcall(hs_jvm *vm, hs_jv callee, const hs_jargs *args, hs_jv *out)
{
    switch ((hs_jv_type)callee.type) {
    case HS_JV_FUNCTION: return hs_jcall_entry(vm, callee.function, (hs_jv){0}, args, out);
    case HS_JV_METHOD: return hs_jcall_entry(vm, callee.method->entry, callee.method->self, args, out);
    case HS_JV_MACRO: return hs_jcall_macro(vm, callee.macro, args, out);
    case HS_JV_UNDEFINED: return hs_jv_fail_undefined(vm, callee);
    default: return hs_jvm_fail(vm, "'%s' object is not callable", hs_jv_type_name(callee));
    }
}

/* ---- expressions ------------------------------------------------------------------------------- */

static hlwq_status eval_name(hs_jvm *vm, const char *name, hs_jv *out)
{
    for (const hs_jscope *s = vm->scope; s; s = s->outer) {
        vm->fuel -= s->n / 8;
        for (uint32_t i = 0; i < s->n; i++) {
            if (s->binding[i].name == name) {
                *out = s->binding[i].value;
                return HLWQ_OK;
            }
        }
    }
    const hs_jv *value = hs_jdict_find(vm, vm->variables, hs_jv_text(name));
    if (value) {
        *out = *value;
        return HLWQ_OK;
    }
    const hs_jentry *entry = hs_jinja_global(name);
    if (!entry)
        return hs_jv_undefined(vm, out, "'%s' is undefined", name);
    *out = (hs_jv){.type = HS_JV_FUNCTION, .function = entry};
    return HLWQ_OK;
}

static hlwq_status eval_items(hs_jvm *vm, const hs_jnode *node, hs_jv_type type, hs_jv *out)
{
    hs_jbuild build = {0};
    for (const hs_jnode *n = node->args; n; n = n->next) {
        hs_jv item;
        HS_TRY(hs_jeval(vm, n, &item));
        HS_TRY(hs_jbuild_add(vm, &build, item));
    }
    return hs_jbuild_done(vm, &build, type, out);
}

static hlwq_status eval_dict(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    HS_TRY(hs_jdict_new(vm, 0, out));
    for (const hs_jnode *n = node->args; n; n = n->next->next) {
        hs_jv key, value;
        HS_TRY(hs_jeval(vm, n, &key));
        HS_TRY(hs_jeval(vm, n->next, &value));
        HS_TRY(hs_jv_hashable(vm, key));
        HS_TRY(hs_jdict_put(vm, out->dict, key, value));
    }
    return HLWQ_OK;
}

static hlwq_status eval_chain(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    HS_TRY(hs_jeval(vm, node->a, out));
    for (const hs_jnode *link = node->args; link; link = link->next) {
        hs_jv right;
        HS_TRY(hs_jeval(vm, link->a, &right));
        HS_TRY(hs_jop_binary(vm, link->op, *out, right, out));
    }
    return HLWQ_OK;
}

/* a < b < c: as far as it holds. */
static hlwq_status eval_compare(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    hs_jv left, right;
    bool holds = true;
    HS_TRY(hs_jeval(vm, node->a, &left));
    for (const hs_jnode *link = node->args; link && holds; link = link->next, left = right) {
        HS_TRY(hs_jeval(vm, link->a, &right));
        HS_TRY(hs_jop_compare(vm, link->op, left, right, &holds));
    }
    *out = hs_jv_bool(holds);
    return HLWQ_OK;
}

/* The first operand that decides, else the last. */
static hlwq_status eval_logic(hs_jvm *vm, const hs_jnode *node, bool decides, hs_jv *out)
{
    HS_TRY(hs_jeval(vm, node->a, out));
    for (const hs_jnode *link = node->args; link && hs_jv_truth(*out) != decides; link = link->next)
        HS_TRY(hs_jeval(vm, link->a, out));
    return HLWQ_OK;
}

static hlwq_status eval_concat(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    HS_TRY(hs_jeval(vm, node->a, out));
    HS_TRY(hs_jv_str(vm, *out, out));
    for (const hs_jnode *link = node->args; link; link = link->next) {
        hs_jv right;
        HS_TRY(hs_jeval(vm, link->a, &right));
        HS_TRY(hs_jv_str(vm, right, &right));
        HS_TRY(hs_jop_join(vm, *out, right, out));
    }
    out->markup = false;
    return HLWQ_OK;
}

static hlwq_status eval_item(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    hs_jv of, part[3] = {{0}};
    HS_TRY(hs_jeval(vm, node->a, &of));
    if (node->b->kind != HS_JN_SLICE) {
        HS_TRY(hs_jeval(vm, node->b, &part[0]));
        return hs_jop_item(vm, of, part[0], out);
    }
    const hs_jnode *bound[3] = {node->b->a, node->b->b, node->b->c};
    for (int i = 0; i < 3; i++)
        if (bound[i])
            HS_TRY(hs_jeval(vm, bound[i], &part[i]));
    return hs_jop_slice(vm, of, part[0], part[1], part[2], out);
}

static hlwq_status eval_call(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    hs_jv callee;
    hs_jargs args;
    HS_TRY(hs_jeval(vm, node->a, &callee));
    HS_TRY(hs_jeval_args(vm, node->args, 0, &args));
    return hs_jcall(vm, callee, &args, out);
}

static hlwq_status eval_entry(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    hs_jv self;
    hs_jargs args;
    if (!node->entry)
        return hs_jvm_fail(vm, "no %s named '%s'", node->kind == HS_JN_FILTER ? "filter" : "test", node->name);
    HS_TRY(hs_jeval(vm, node->a, &self));
    HS_TRY(hs_jeval_args(vm, node->args, 0, &args));
    return hs_jcall_entry(vm, node->entry, self, &args, out);
}

static hlwq_status eval(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    hs_jv v;
    switch ((hs_jkind)node->kind) {
    case HS_JN_CONST: *out = node->value; return HLWQ_OK;
    case HS_JN_NAME: return eval_name(vm, node->name, out);
    case HS_JN_LIST: return eval_items(vm, node, HS_JV_LIST, out);
    case HS_JN_TUPLE: return eval_items(vm, node, HS_JV_TUPLE, out);
    case HS_JN_DICT: return eval_dict(vm, node, out);
    case HS_JN_UNARY: HS_TRY(hs_jeval(vm, node->a, &v)); return hs_jop_unary(vm, node->op, v, out);
    case HS_JN_CHAIN: return eval_chain(vm, node, out);
    case HS_JN_COMPARE: return eval_compare(vm, node, out);
    case HS_JN_AND: return eval_logic(vm, node, false, out);
    case HS_JN_OR: return eval_logic(vm, node, true, out);
    case HS_JN_CONCAT: return eval_concat(vm, node, out);
    case HS_JN_NOT:
        HS_TRY(hs_jeval(vm, node->a, &v));
        *out = hs_jv_bool(!hs_jv_truth(v));
        return HLWQ_OK;
    case HS_JN_CONDITIONAL:
        HS_TRY(hs_jeval(vm, node->a, &v));
        if (hs_jv_truth(v))
            return hs_jeval(vm, node->b, out);
        if (node->c)
            return hs_jeval(vm, node->c, out);
        return hs_jv_undefined(vm, out, "the inline if-expression evaluated to false and has no else");
    case HS_JN_ATTRIBUTE: HS_TRY(hs_jeval(vm, node->a, &v)); return hs_jop_attribute(vm, v, node->name, out);
    case HS_JN_ITEM: return eval_item(vm, node, out);
    case HS_JN_CALL: return eval_call(vm, node, out);
    case HS_JN_FILTER:
    case HS_JN_TEST: return eval_entry(vm, node, out);
    default: return hs_jvm_fail(vm, "a slice stands where a value should");
    }
}

/* vm->line is the line of what is being evaluated, for sentences. */
hlwq_status hs_jeval(hs_jvm *vm, const hs_jnode *node, hs_jv *out)
{
    uint32_t line = vm->line;
    vm->line = node->line;
    HS_TRY(hs_jvm_enter(vm));
    HS_TRY(eval(vm, node, out));
    vm->depth--;
    vm->line = line;
    return HLWQ_OK;
}
