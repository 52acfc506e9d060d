/*
 * kernels/cuda/sim/ptx_build.cc - a function's statements become instructions: registers numbered, labels resolved,
 * calls put in place of themselves, variables laid out.
 *
 * What is not understood becomes an instruction that is a fault where it is met, and is counted.
 */
#include "kernels/cuda/sim/ptx_names.h"

#include <stdio.h>

/* ---- instructions ---- */

static ptx_insn *next_insn(ptx_builder *b, const ptx_statement *s)
{
    ptx_function *f = b->f;
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 256;
        f->insn = static_cast<ptx_insn *>(realloc(f->insn, f->cap * sizeof *f->insn));
        if (!f->insn)
            abort();
    }
    ptx_insn *i = &f->insn[f->n++];
    *i = {};
    i->line = s->line;
    i->source_line = s->source_line;
    i->text = s;
    return i;
}

/* The parts of "ld.global.nc.v4.u32". */
struct parts {
    ptx_span at[12];
    uint32_t n;
};
static parts split(ptx_span s)
{
    parts p = {};
    uint32_t from = 0;
    for (uint32_t i = 0; i <= s.n && p.n < 12; i++)
        if (i == s.n || s.at[i] == '.') {
            p.at[p.n++] = {s.at + from, i - from};
            from = i + 1;
        }
    return p;
}
static bool has(const parts *p, const char *what)
{
    for (uint32_t i = 1; i < p->n; i++)
        if (ptx_is(p->at[i], what))
            return true;
    return false;
}
static ptx_type last_type(const parts *p)
{
    ptx_span s = p->at[p->n - 1];
    return ptx_type_of(s.at, s.n);
}

static void address(ptx_builder *b, ptx_insn *i, const ptx_operand *o, uint32_t scope)
{
    b->bad |= !o->bracket;
    i->offset = o->offset;
    ptx_found r = ptx_find_register(b, o->name[0], scope);
    if (r.type) {
        i->wide_address = ptx_type_bytes(r.type) == 8;
        i->a = ptx_slot(b, o->name[0], i->wide_address, scope);
        return;
    }
    const ptx_placed *v = ptx_find_variable(b, o->name[0], scope);
    if (!v) {
        b->bad = true;
        return;
    }
    if (i->space == PTX_PARAM || i->space == PTX_GENERIC)
        i->space = (uint8_t)v->space;
    i->wide_address = true;
    i->a = ptx_constant(b, v->at, true);
}

static void memory_access(ptx_builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
{
    static const struct {
        const char *name;
        ptx_space space;
    } spaces[] = {{"global", PTX_GLOBAL},
                  {"shared", PTX_SHARED},
                  {"local", PTX_LOCAL},
                  {"param", PTX_PARAM},
                  {"const", PTX_CONST}};
    bool load = ptx_is(p->at[0], "ld"), atomic = ptx_is(p->at[0], "atom") || ptx_is(p->at[0], "red");
    ptx_type type = last_type(p);
    for (const auto &sp : spaces)
        if (has(p, sp.name))
            i->space = (uint8_t)sp.space;
    i->bytes = (uint8_t)ptx_type_bytes(type);
    if (!type || type == PTX_PRED || s->n_operands < 2) {
        b->bad = true;
        return;
    }
    uint32_t at = load || ptx_is(p->at[0], "atom") ? 1 : 0;
    address(b, i, &s->operand[at], scope);
    const ptx_operand *value = &s->operand[load ? 0 : at + 1];
    if (atomic) {
        bool wide = i->bytes == 8;
        i->run = ptx_atomic_for(p->at[p->n - 2], type);
        i->d = at ? ptx_slot(b, s->operand[0].name[0], wide, scope) : 0;
        i->b = ptx_slot(b, value->name[0], wide, scope);
        if (s->n_operands > at + 2)
            i->c = ptx_slot(b, s->operand[at + 2].name[0], wide, scope);
        i->kind = PTX_PLAIN;
        return;
    }
    ptx_found r = ptx_find_register(b, value->name[0], scope);
    bool wide = r.type ? ptx_type_bytes(r.type) == 8 : i->bytes == 8;
    i->run = load ? ptx_load_for(type, wide) : ptx_store_for(type);
    i->n = (uint8_t)value->n;
    i->n_out = load ? i->n : 0;
    for (uint32_t k = 0; k < value->n; k++)
        i->v[k] = ptx_slot(b, value->name[k], wide, scope);
    uint32_t lanes = has(p, "v2") ? 2 : has(p, "v4") ? 4 : 1;
    b->bad |= lanes != value->n;
    i->how = (uint16_t)((has(p, "acquire") ? 1 : 0) | (r.type && ptx_type_bytes(r.type) == 2 ? 2 : 0));
    i->kind = load ? PTX_CARRIES : PTX_PLAIN;
}

static void arithmetic(ptx_builder *b, ptx_insn *i, const ptx_statement *s, uint32_t scope)
{
    ptx_span name = s->opcode;
    static const char *const packs[] = {"pack.b32", "pack.b64", "unpack.b32", "unpack.b64"};
    const char *pair = nullptr;
    if (s->n_operands == 2 && name.n == 7 && !memcmp(name.at, "mov.b", 5)) {
        bool six = name.at[5] == '6';
        if (s->operand[1].vector)
            pair = packs[six];
        else if (s->operand[0].vector)
            pair = packs[2 + six];
    }
    const ptx_math *m = ptx_math_find(pair ? ptx_span{pair, (uint32_t)strlen(pair)} : name);
    if (!m) {
        b->bad = true;
        return;
    }
    i->run = m->run;
    i->kind = m->carries ? PTX_CARRIES : PTX_PLAIN;
    ptx_operand list[PTX_OPERANDS] = {};
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n_operands; k++) {
        bool spread = s->operand[k].vector && k == 1;
        for (uint32_t j = 0; spread && j < s->operand[k].n && n < PTX_OPERANDS; j++) {
            list[n].name[0] = s->operand[k].name[j];
            list[n++].n = 1;
        }
        if (!spread && n < PTX_OPERANDS)
            list[n++] = s->operand[k];
    }
    if (m->shape[0] == '-') {
        i->n = i->n_out = 2;
        b->bad |= list[0].n != 2;
        for (int k = 0; k < 2; k++)
            i->v[k] = ptx_slot(b, list[0].name[k], false, scope);
    }
    uint32_t *to[] = {&i->d, &i->a, &i->b, &i->c, &i->v[0]};
    b->bad |= strlen(m->shape) != n;
    for (uint32_t k = 0; m->shape[k] && k < n; k++) {
        ptx_span o = list[k].name[0];
        char shape = m->shape[k];
        if (shape == 'p' && (k == 1 || k == 2) && m->shape[2] == 'p') /* and.pred */
            *to[k] = ptx_predicate(b, o, scope);
        else if (shape == 'p')
            *(k ? &i->pa : &i->pd) = ptx_predicate(b, o, scope);
        else if (shape != '-')
            *to[k] = ptx_slot(b, o, shape == 'd', scope);
        if (shape == 'p' && k)
            i->pa_negated = list[k].negated;
        else
            b->bad |= list[k].negated;
    }
    if (m->shape[0] && m->shape[1] == 'p' && m->shape[2] == 'p') /* predicates are no slots */
        i->only_preds = true;
    if (m->shape[4])
        i->n = 1;
}

static void collective(ptx_builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
{
    i->kind = PTX_COLLECTIVE;
    i->run = ptx_collective_for(s->opcode, &i->how, &i->aligned);
    b->bad |= !i->run;
    const ptx_operand *o = s->operand;
    if (ptx_is(p->at[0], "mma")) {
        static const uint8_t at[4] = {0, 4, 8, 12};
        i->b = ptx_constant(b, 0xFFFFFFFFu, false);
        i->n = 16;
        i->n_out = 4;
        b->bad |= s->n_operands != 4;
        for (int k = 0; k < 4 && !b->bad; k++)
            for (uint32_t j = 0; j < o[k].n && j < 4; j++)
                i->v[at[k] + j] = ptx_slot(b, o[k].name[j], false, scope);
        return;
    }
    i->n = 1; /* v[0]: the mask */
    if (ptx_is(p->at[0], "bar")) {
        i->v[0] = ptx_slot(b, o[0].name[0], false, scope);
    } else if (ptx_is(p->at[0], "shfl")) {
        i->d = ptx_slot(b, o[0].name[0], false, scope);
        i->pd = o[0].second.n ? ptx_predicate(b, o[0].second, scope) : 0;
        i->a = ptx_slot(b, o[1].name[0], false, scope);
        i->b = ptx_slot(b, o[2].name[0], false, scope);
        i->c = ptx_slot(b, o[3].name[0], false, scope);
        i->v[0] = ptx_slot(b, o[4].name[0], false, scope);
    } else if (ptx_is(p->at[0], "vote")) {
        if (last_type(p) == PTX_PRED)
            i->pd = ptx_predicate(b, o[0].name[0], scope);
        else
            i->d = ptx_slot(b, o[0].name[0], false, scope);
        i->pa = ptx_predicate(b, o[1].name[0], scope);
        i->pa_negated = o[1].negated;
        i->v[0] = ptx_slot(b, o[2].name[0], false, scope);
    } else {
        i->d = ptx_slot(b, o[0].name[0], false, scope);
        i->a = ptx_slot(b, o[1].name[0], false, scope);
        i->v[0] = ptx_slot(b, o[2].name[0], false, scope);
    }
}

/* bar.sync 0, and bar.red.{popc,and,or}: how 1, 2, 3. */
static void barrier(ptx_builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
{
    i->kind = PTX_BARRIER;
    i->aligned = true;
    uint32_t at = 0;
    if (has(p, "red")) {
        i->how = has(p, "popc") ? 1 : has(p, "and") ? 2 : 3;
        at = 1;
        if (i->how == 1)
            i->d = ptx_slot(b, s->operand[0].name[0], false, scope);
        else
            i->pd = ptx_predicate(b, s->operand[0].name[0], scope);
        i->pa = ptx_predicate(b, s->operand[2].name[0], scope);
        i->pa_negated = s->operand[2].negated;
    } else {
        b->bad |= !has(p, "sync") || s->n_operands != 1;
    }
    b->bad |= !ptx_is(s->operand[at].name[0], "0");
}

static void statements(ptx_builder *b, const ptx_body *body, uint32_t scope);

/* The called function's statements stand here, under names of their own. */
static void call(ptx_builder *b, const ptx_statement *s, uint32_t scope)
{
    const ptx_operand *result = nullptr, *name = nullptr, *arguments = nullptr;
    for (uint32_t k = 0; k < s->n_operands; k++) {
        const ptx_operand *o = &s->operand[k];
        (o->vector ? name ? arguments : result : name) = o;
    }
    const ptx_body *body = b->m->body;
    while (body && !(name && body->has_body && ptx_same(body->name, name->name[0])))
        body = body->next;
    if (!body || s->guard.n || b->depth == 8) {
        b->bad = true;
        return;
    }
    uint32_t inner = ++b->scopes;
    const ptx_variable *formal[2] = {body->result, body->param};
    const ptx_operand *actual[2] = {result, arguments};
    for (int side = 0; side < 2; side++) {
        uint32_t k = 0;
        for (const ptx_variable *v = formal[side]; v; v = v->next, k++) {
            const ptx_placed *at =
                actual[side] && k < actual[side]->n ? ptx_find_variable(b, actual[side]->name[k], scope) : nullptr;
            if (!at) {
                b->bad = true;
                return;
            }
            ptx_placed copy = *at;
            copy.name = v->name;
            copy.scope = inner;
            *grown(&b->var, &b->n_var) = copy;
        }
    }
    b->depth++;
    statements(b, body, inner);
    b->depth--;
    ptx_label *end = grown(&b->target, &b->n_target);
    *end = {{"", 0}, inner, b->f->n};
    next_insn(b, s)->kind = PTX_LABEL;
}

static void unknown(ptx_builder *b, ptx_insn *i, const ptx_statement *s)
{
    *i = {};
    i->kind = PTX_UNKNOWN;
    i->line = s->line;
    i->source_line = s->source_line;
    i->text = s;
    if (!b->f->unknown++)
        snprintf(b->f->first_unknown, sizeof b->f->first_unknown, "line %u: %.*s", s->line, (int)s->opcode.n,
                 s->opcode.at);
}

static void control(ptx_builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
{
    if (ptx_is(p->at[0], "bra")) {
        i->kind = PTX_BRANCH;
        *grown(&b->wanted, &b->n_wanted) = {s->operand[0].name[0], scope, b->f->n - 1};
    } else if (scope && ptx_is(p->at[0], "ret")) {
        i->kind = PTX_BRANCH;
        *grown(&b->wanted, &b->n_wanted) = {{"", 0}, scope, b->f->n - 1};
    } else {
        i->kind = PTX_EXIT;
    }
}

/* b->bad afterwards: it is not understood. */
static void translate(ptx_builder *b, ptx_insn *i, const ptx_statement *s, uint32_t scope)
{
    parts p = split(s->opcode);
    ptx_span first = p.at[0];
    if (s->guard.n)
        i->guard = ptx_predicate(b, s->guard, scope);
    i->guard_negated = s->guard_negated;
    if (ptx_is(first, "bra") || ptx_is(first, "ret") || ptx_is(first, "exit")) {
        control(b, i, s, &p, scope);
    } else if (ptx_is(first, "ld") || ptx_is(first, "st") || ptx_is(first, "atom") || ptx_is(first, "red")) {
        memory_access(b, i, s, &p, scope);
    } else if (ptx_is(first, "bar") && has(&p, "warp")) {
        collective(b, i, s, &p, scope);
    } else if (ptx_is(first, "bar") || ptx_is(first, "barrier")) {
        barrier(b, i, s, &p, scope);
    } else if (ptx_is(first, "shfl") || ptx_is(first, "vote") || ptx_is(first, "redux") || ptx_is(first, "mma")) {
        collective(b, i, s, &p, scope);
    } else if (ptx_is(first, "cp")) {
        i->kind = PTX_PLAIN;
        if (ptx_is(s->opcode, "cp.async.cg.shared.global") && ptx_is(s->operand[2].name[0], "16")) {
            address(b, i, &s->operand[0], scope);
            i->b = ptx_slot(b, s->operand[1].name[0], true, scope);
            i->run = ptx_copy_async;
            b->bad |= !s->operand[1].bracket || s->operand[1].offset;
        } else if (ptx_is(s->opcode, "cp.async.commit_group")) {
            i->run = ptx_copy_commit;
        } else if (ptx_is(s->opcode, "cp.async.wait_group")) {
            i->offset = strtoll(s->operand[0].name[0].at, nullptr, 10);
            i->run = ptx_copy_wait;
        } else {
            b->bad = true;
        }
    } else if (ptx_is(first, "cvta")) {
        bool to = has(&p, "to");
        i->kind = PTX_CARRIES;
        i->space = has(&p, "shared") ? PTX_SHARED : has(&p, "local") ? PTX_LOCAL : PTX_GLOBAL;
        i->how = to;
        i->d = ptx_slot(b, s->operand[0].name[0], true, scope);
        i->a = ptx_slot(b, s->operand[1].name[0], true, scope);
        i->run = ptx_convert_address;
        b->bad |= !has(&p, "u64") || has(&p, "param");
    } else if (ptx_is(first, "membar") || ptx_is(first, "fence")) {
        i->kind = PTX_CARRIES;
        i->run = ptx_do_nothing;
    } else if (ptx_is(first, "nanosleep")) {
        i->kind = PTX_SLEEP;
    } else if (ptx_is(first, "trap")) {
        i->kind = PTX_CARRIES;
        i->run = ptx_trap;
    } else {
        arithmetic(b, i, s, scope);
    }
    b->bad |= !i->run && (i->kind == PTX_PLAIN || i->kind == PTX_CARRIES);
}

static void statements(ptx_builder *b, const ptx_body *body, uint32_t scope)
{
    for (uint32_t k = 0; k < body->n; k++) {
        const ptx_statement *s = &body->statement[k];
        if (s->label.n) {
            *grown(&b->target, &b->n_target) = {s->label, scope, b->f->n};
            next_insn(b, s)->kind = PTX_LABEL;
            continue;
        }
        if (s->declared.n) {
            if (s->declared.n > 4 && !memcmp(s->declared.at, ".reg", 4)) {
                ptx_declare_registers(b, s->declared, scope);
            } else if (memcmp(s->declared.at, ".pragma", 7)) {
                ptx_variable *v = ptx_variable_read(s->declared);
                if (!v || v->data)
                    unknown(b, next_insn(b, s), s);
                else if (v->space != PTX_SHARED || scope) /* ptx_lay_out_shared was there */
                    ptx_place(b, v, scope);
                if (v)
                    free(v->data);
                free(v);
            }
            continue;
        }
        b->bad = false;
        if (s->opcode.n >= 4 && !memcmp(s->opcode.at, "call", 4)) {
            call(b, s, scope);
            if (b->bad)
                unknown(b, next_insn(b, s), s);
            continue;
        }
        ptx_insn *i = next_insn(b, s);
        translate(b, i, s, scope);
        if (b->bad)
            unknown(b, i, s);
    }
}

static void resolve_labels(ptx_builder *b)
{
    for (uint32_t k = 0; k < b->n_wanted; k++) {
        ptx_insn *i = &b->f->insn[b->wanted[k].at];
        bool found = false;
        for (uint32_t t = 0; t < b->n_target && !found; t++)
            if (b->target[t].scope == b->wanted[k].scope && ptx_same(b->target[t].name, b->wanted[k].name)) {
                i->target = b->target[t].at;
                found = true;
            }
        if (!found && i->kind != PTX_UNKNOWN)
            unknown(b, i, i->text);
    }
}

ptx_function *ptx_function_build(const ptx_module *m, const ptx_body *body)
{
    ptx_function *f = static_cast<ptx_function *>(sim_alloc(sizeof *f));
    f->module = m;
    f->body = body;
    f->predicates = 2;
    snprintf(f->name, sizeof f->name, "%.*s", (int)body->name.n, body->name.at);
    ptx_builder b = {};
    b.f = f;
    b.m = m;
    b.narrow = PTX_FIRST_SLOT;
    ptx_lay_out_parameters(&b, body);
    ptx_lay_out_shared(&b, body);
    statements(&b, body, 0);
    resolve_labels(&b);
    ptx_statement none = {};
    next_insn(&b, body->n ? &body->statement[body->n - 1] : &none)->kind = PTX_EXIT;
    f->narrow = b.narrow;
    f->wide = b.wide;
    f->local_bytes = (f->local_bytes + 15) / 16 * 16;
    ptx_slots_pack(f);
    free(b.decl);
    free(b.var);
    free(b.target);
    free(b.wanted);
    return f;
}

void ptx_function_free(ptx_function *f)
{
    free(f->insn);
    free(f->constant);
    free(f);
}
