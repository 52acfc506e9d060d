/*
 * model/jinja_exec.c - runs tags: output, scopes, loops, macros.
 *
 * What is written goes to one text; macros and blocks that capture take back the tail they wrote.
 */
#include "model/jinja_private.h"

#include <inttypes.h>

/* ---- scopes ------------------------------------------------------------------------------------ */

hlwq_status hs_jscope_push(hs_jvm *vm, hs_jscope *outer)
{
    void *s;
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jscope), &s));
    vm->scope = s;
    vm->scope->outer = outer;
    return HLWQ_OK;
}

hlwq_status hs_jscope_set(hs_jvm *vm, hs_jscope *s, const char *name, hs_jv value)
{
    HS_TRY(hs_jvm_step(vm, 1 + s->n / 8));
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->binding[i].name == name) {
            s->binding[i].value = value;
            return HLWQ_OK;
        }
    }
    if (s->n == s->capacity) {
        void *more;
        uint32_t capacity = s->capacity ? s->capacity * 2 : 4;
        HS_TRY(hs_jvm_alloc(vm, capacity, sizeof(hs_jbinding), &more));
        if (s->n)
            memcpy(more, s->binding, s->n * sizeof(hs_jbinding));
        s->binding = more;
        s->capacity = capacity;
    }
    s->binding[s->n++] = (hs_jbinding){name, value};
    return HLWQ_OK;
}

static void keep(hs_jscope *s)
{
    for (; s && !s->kept; s = s->outer)
        s->kept = true;
}

static hlwq_status assign_attribute(hs_jvm *vm, const hs_jnode *target, hs_jv value)
{
    hs_jv space;
    hs_jnode name = {.kind = HS_JN_NAME, .line = target->line, .name = target->name};
    HS_TRY(hs_jeval(vm, &name, &space));
    if (space.type != HS_JV_NAMESPACE)
        return hs_jvm_fail(vm, "cannot assign attribute '%s' of '%s', which is no namespace", target->value.text,
                           target->name);
    if (target->value.text[0] == '_')
        return hs_jvm_fail(vm, "a namespace cannot hold '%s', which begins with an underscore", target->value.text);
    return hs_jdict_put(vm, space.dict, target->value, value);
}

static hlwq_status assign(hs_jvm *vm, const hs_jnode *target, hs_jv value)
{
    const hs_jlist *list;
    uint32_t n = 0, i = 0;
    if (target->kind == HS_JN_NAME)
        return hs_jscope_set(vm, vm->scope, target->name, value);
    if (target->kind == HS_JN_NS)
        return assign_attribute(vm, target, value);
    for (const hs_jnode *t = target->args; t; t = t->next)
        n++;
    HS_TRY(hs_jv_iterate(vm, value, &list));
    if (list->n < n)
        return hs_jvm_fail(vm, "not enough values to unpack (expected %u, got %u)", n, list->n);
    if (list->n > n)
        return hs_jvm_fail(vm, "too many values to unpack (expected %u)", n);
    for (const hs_jnode *t = target->args; t; t = t->next)
        HS_TRY(assign(vm, t, list->item[i++]));
    return HLWQ_OK;
}

/* ---- capturing --------------------------------------------------------------------------------- */

/* What `body` writes, as a string; in a scope of its own. */
static hlwq_status capture(hs_jvm *vm, const hs_jnode *body, hs_jv *out)
{
    size_t mark = vm->out.bytes;
    hs_jsignal signal;
    hs_jscope *scope = vm->scope;
    HS_TRY(hs_jscope_push(vm, scope));
    HS_TRY(hs_jexec(vm, body, &signal));
    vm->scope = scope;
    HS_TRY(hs_jvm_string(vm, vm->out.data ? vm->out.data + mark : "", vm->out.bytes - mark, out));
    vm->out.bytes = mark;
    return HLWQ_OK;
}

/* `filters` over the node `stand_in`, which stands for `text`. The tree is shared, so it is put in by way of a scope.
 */
static hlwq_status through_filters(hs_jvm *vm, const hs_jnode *filters, const hs_jnode *stand_in, hs_jv text,
                                   hs_jv *out)
{
    if (filters == stand_in) {
        *out = text;
        return HLWQ_OK;
    }
    hs_jv self;
    hs_jargs args;
    HS_TRY(hs_jvm_enter(vm));
    HS_TRY(through_filters(vm, filters->a, stand_in, text, &self));
    vm->depth--;
    vm->line = filters->line;
    if (!filters->entry)
        return hs_jvm_fail(vm, "no filter named '%s'", filters->name);
    HS_TRY(hs_jeval_args(vm, filters->args, 0, &args));
    return hs_jcall_entry(vm, filters->entry, self, &args, out);
}

/* ---- macros ------------------------------------------------------------------------------------ */

static hlwq_status bind_rest(hs_jvm *vm, const hs_jmacro *m, const hs_jargs *args, const bool *used, uint32_t taken)
{
    const hs_jnames *names = &vm->jinja->names;
    const char *name = m->node->name ? m->node->name : "caller";
    hs_jv rest, value;
    if (m->node->varargs) {
        uint32_t n = args->positional > taken ? args->positional - taken : 0;
        HS_TRY(hs_jlist_new(vm, HS_JV_TUPLE, n, &rest));
        if (n)
            memcpy(rest.list->item, args->item + taken, n * sizeof(hs_jv));
        HS_TRY(hs_jscope_set(vm, vm->scope, names->varargs, rest));
    } else if (args->positional > taken) {
        return hs_jvm_fail(vm, "macro '%s' takes not more than %u arguments, %u given", name, taken, args->positional);
    }
    HS_TRY(hs_jdict_new(vm, 0, &rest));
    HS_TRY(hs_jv_undefined(vm, &value, "no caller defined"));
    for (uint32_t i = args->positional; i < args->n; i++) {
        if (used[i])
            continue;
        if (m->node->caller && strcmp(args->name[i], "caller") == 0)
            value = args->item[i];
        else if (m->node->kwargs)
            HS_TRY(hs_jdict_put(vm, rest.dict, hs_jv_text(args->name[i]), args->item[i]));
        else
            return hs_jvm_fail(vm, "macro '%s' takes no keyword argument '%s'", name, args->name[i]);
    }
    if (m->node->kwargs)
        HS_TRY(hs_jscope_set(vm, vm->scope, names->kwargs, rest));
    if (m->node->caller && !m->is_caller)
        HS_TRY(hs_jscope_set(vm, vm->scope, names->caller, value));
    return HLWQ_OK;
}

/* Parameters from positional arguments, then keywords, then defaults, which see the parameters before them. */
static hlwq_status bind_parameters(hs_jvm *vm, const hs_jmacro *m, const hs_jargs *args)
{
    uint32_t taken = 0;
    void *p = NULL;
    if (args->n)
        HS_TRY(hs_jvm_alloc(vm, args->n, sizeof(bool), &p));
    bool *used = p;
    for (const hs_jnode *param = m->node->args; param; param = param->next, taken++) {
        hs_jv value = {0};
        if (taken < args->positional)
            value = args->item[taken];
        for (uint32_t i = args->positional; i < args->n && value.type == HS_JV_MISSING; i++) {
            if (strcmp(args->name[i], param->name) == 0) {
                value = args->item[i];
                used[i] = true;
            }
        }
        if (value.type == HS_JV_MISSING && param->a)
            HS_TRY(hs_jeval(vm, param->a, &value));
        else if (value.type == HS_JV_MISSING)
            HS_TRY(hs_jv_undefined(vm, &value, "parameter '%s' was not provided", param->name));
        HS_TRY(hs_jscope_set(vm, vm->scope, param->name, value));
    }
    return bind_rest(vm, m, args, used, taken);
}

hlwq_status hs_jcall_macro(hs_jvm *vm, const hs_jmacro *m, const hs_jargs *args, hs_jv *out)
{
    hs_jscope *scope = vm->scope;
    uint32_t line = vm->line;
    HS_TRY(hs_jvm_enter(vm));
    HS_TRY(hs_jscope_push(vm, m->scope));
    HS_TRY(bind_parameters(vm, m, args));
    HS_TRY(capture(vm, m->node->body, out));
    vm->scope = scope;
    vm->line = line;
    vm->depth--;
    return HLWQ_OK;
}

static hlwq_status make_macro(hs_jvm *vm, const hs_jnode *node, bool is_caller, hs_jv *out)
{
    void *m;
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jmacro), &m));
    *(hs_jmacro *)m = (hs_jmacro){node, vm->scope, is_caller};
    keep(vm->scope);
    *out = (hs_jv){.type = HS_JV_MACRO, .macro = m};
    return HLWQ_OK;
}

/* {% call m(x) %}body{% endcall %}: m(x, caller=body). */
static hlwq_status exec_call(hs_jvm *vm, const hs_jnode *node)
{
    hs_jv callee, caller, result;
    hs_jargs args;
    HS_TRY(hs_jeval(vm, node->a->a, &callee));
    HS_TRY(hs_jeval_args(vm, node->a->args, 1, &args));
    HS_TRY(make_macro(vm, node, true, &caller));
    args.name[args.n] = vm->jinja->names.caller;
    args.item[args.n++] = caller;
    HS_TRY(hs_jcall(vm, callee, &args, &result));
    return hs_jv_print(vm, result, &vm->out);
}

/* ---- loops ------------------------------------------------------------------------------------- */

static hlwq_status filtered(hs_jvm *vm, const hs_jnode *node, const hs_jlist *in, const hs_jlist **out)
{
    hs_jbuild build = {0};
    hs_jv list;
    hs_jscope *scope = vm->scope;
    HS_TRY(hs_jscope_push(vm, scope));
    for (uint32_t i = 0; i < in->n; i++) {
        hs_jv holds;
        HS_TRY(assign(vm, node->a, in->item[i]));
        HS_TRY(hs_jeval(vm, node->c, &holds));
        if (hs_jv_truth(holds))
            HS_TRY(hs_jbuild_add(vm, &build, in->item[i]));
    }
    vm->scope = scope;
    HS_TRY(hs_jbuild_done(vm, &build, HS_JV_LIST, &list));
    *out = list.list;
    return HLWQ_OK;
}

static hlwq_status exec_for(hs_jvm *vm, const hs_jnode *node)
{
    hs_jv over;
    const hs_jlist *list;
    void *p;
    hs_jsignal signal = HS_JGO;
    hs_jscope *outer = vm->scope;
    HS_TRY(hs_jeval(vm, node->b, &over));
    vm->line = node->line;
    HS_TRY(hs_jv_iterate(vm, over, &list));
    if (node->c)
        HS_TRY(filtered(vm, node, list, &list));
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jloop), &p));
    hs_jloop *loop = p;
    loop->list = list;
    HS_TRY(hs_jscope_push(vm, outer));
    for (; loop->at < list->n && signal != HS_JBREAK; loop->at++) {
        if (vm->scope->kept) /* a macro still sees the last round's */
            HS_TRY(hs_jscope_push(vm, outer));
        vm->scope->n = 0;
        vm->line = node->line;
        HS_TRY(hs_jscope_set(vm, vm->scope, vm->jinja->names.loop, (hs_jv){.type = HS_JV_LOOP, .loop = loop}));
        HS_TRY(assign(vm, node->a, list->item[loop->at]));
        HS_TRY(hs_jexec(vm, node->body, &signal));
    }
    if (!list->n)
        HS_TRY(hs_jexec(vm, node->args, &signal));
    vm->scope = outer;
    return HLWQ_OK;
}

/* ---- tags -------------------------------------------------------------------------------------- */

static hlwq_status exec_if(hs_jvm *vm, const hs_jnode *node, hs_jsignal *signal)
{
    for (; node; node = node->c) {
        hs_jv holds = hs_jv_bool(true);
        if (node->a)
            HS_TRY(hs_jeval(vm, node->a, &holds));
        if (hs_jv_truth(holds))
            return hs_jexec(vm, node->body, signal);
    }
    return HLWQ_OK;
}

static hlwq_status exec_with(hs_jvm *vm, const hs_jnode *node, hs_jsignal *signal)
{
    hs_jscope *outer = vm->scope, *inner;
    HS_TRY(hs_jscope_push(vm, outer));
    inner = vm->scope;
    for (const hs_jnode *link = node->args; link; link = link->next) {
        hs_jv value;
        vm->scope = outer; /* values do not see the names beside them */
        HS_TRY(hs_jeval(vm, link->b, &value));
        vm->scope = inner;
        HS_TRY(assign(vm, link->a, value));
    }
    HS_TRY(hs_jexec(vm, node->body, signal));
    vm->scope = outer;
    return HLWQ_OK;
}

static hlwq_status exec_one(hs_jvm *vm, const hs_jnode *node, hs_jsignal *signal)
{
    hs_jv value;
    hs_jscope *scope = vm->scope;
    switch ((hs_jkind)node->kind) {
    case HS_JN_DATA: return hs_jv_print(vm, node->value, &vm->out);
    case HS_JN_OUTPUT: HS_TRY(hs_jeval(vm, node->a, &value)); return hs_jv_print(vm, value, &vm->out);
    case HS_JN_IF: return exec_if(vm, node, signal);
    case HS_JN_FOR: return exec_for(vm, node);
    case HS_JN_SET: HS_TRY(hs_jeval(vm, node->b, &value)); return assign(vm, node->a, value);
    case HS_JN_SET_BLOCK:
        HS_TRY(capture(vm, node->body, &value));
        HS_TRY(through_filters(vm, node->c, node->b, value, &value));
        return assign(vm, node->a, value);
    case HS_JN_FILTER_BLOCK:
        HS_TRY(capture(vm, node->body, &value));
        HS_TRY(through_filters(vm, node->a, node->b, value, &value));
        return hs_jv_print(vm, value, &vm->out);
    case HS_JN_MACRO:
        HS_TRY(make_macro(vm, node, false, &value));
        return hs_jscope_set(vm, vm->scope, node->name, value);
    case HS_JN_CALL_BLOCK: return exec_call(vm, node);
    case HS_JN_WITH: return exec_with(vm, node, signal);
    case HS_JN_SCOPE:
        HS_TRY(hs_jscope_push(vm, scope));
        HS_TRY(hs_jexec(vm, node->body, signal));
        vm->scope = scope;
        return HLWQ_OK;
    default: *signal = node->kind == HS_JN_BREAK ? HS_JBREAK : HS_JCONTINUE; return HLWQ_OK;
    }
}

hlwq_status hs_jexec(hs_jvm *vm, const hs_jnode *body, hs_jsignal *signal)
{
    *signal = HS_JGO;
    HS_TRY(hs_jvm_enter(vm));
    for (; body && *signal == HS_JGO; body = body->next) {
        vm->line = body->line;
        HS_TRY(hs_jvm_step(vm, 1));
        HS_TRY(exec_one(vm, body, signal));
    }
    vm->depth--;
    return HLWQ_OK;
}

hlwq_status hs_jvm_render(hs_jvm *vm, const hs_jinja *jinja, const hs_jdict *variables, hs_text *text)
{
    hs_jsignal signal;
    vm->jinja = jinja;
    vm->variables = variables;
    vm->depth = 0;
    vm->line = 1;
    vm->out.bytes = 0;
    HS_TRY(hs_jscope_push(vm, NULL));
    HS_TRY(hs_jexec(vm, jinja->body, &signal));
    HS_TRY(hs_jtext_check(vm, &vm->out));
    hs_text_add(text, vm->out.data, vm->out.bytes);
    return text->failed ? hs_fail(vm->err, HLWQ_ERR_NOMEM, "no memory for the text of %zu bytes", vm->out.bytes)
                        : HLWQ_OK;
}
