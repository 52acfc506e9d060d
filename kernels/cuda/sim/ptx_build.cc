/*
 * kernels/cuda/sim/ptx_build.cc - a function's statements become instructions: registers numbered, labels resolved,
 * calls put in place of themselves, variables laid out.
 *
 * What is not understood becomes an instruction that is a fault where it is met, and is counted.
 */
#include "kernels/cuda/sim/ptx.h"

#include <ctype.h>
#include <stdio.h>

enum { SHARED_GAP = 256, MAX_DECLS = 4096 };

struct declared {
    ptx_span prefix; /* "%r" of %r<34>, or a whole name */
    uint32_t count;  /* 0: one of this name */
    ptx_type type;
    uint32_t first;
    uint32_t scope;
};
struct placed {
    ptx_span name;
    ptx_space space;
    uint64_t at;
    uint32_t scope; /* ~0: everywhere */
};
struct label {
    ptx_span name;
    uint32_t scope, at;
};
struct builder {
    ptx_function *f;
    const ptx_module *m;
    declared *decl;
    placed *var;
    label *target, *wanted; /* wanted: `at` is the branch */
    uint32_t n_decl, n_var, n_target, n_wanted, scopes, depth;
    uint32_t narrow, wide;
    bool bad;
};

template <class T> static T *grown(T **list, uint32_t *n)
{
    if ((*n & (*n - 1)) == 0) {
        *list = static_cast<T *>(realloc(static_cast<void *>(*list), (*n ? 2 * (size_t)*n : 1) * sizeof(T)));
        if (!*list)
            abort();
    }
    T *t = &(*list)[(*n)++];
    *t = {};
    return t;
}

static bool same(ptx_span a, ptx_span b)
{
    return a.n == b.n && !memcmp(a.at, b.at, a.n);
}

static uint64_t up_to(uint64_t v, uint64_t align)
{
    return (v + align - 1) / align * align;
}

/* ---- names ---- */

static void declare_registers(builder *b, ptx_span text, uint32_t scope)
{
    const char *p = text.at, *end = text.at + text.n;
    ptx_type type = PTX_NONE;
    while (p < end) {
        while (p < end && (isspace((unsigned char)*p) || *p == ','))
            p++;
        const char *from = p;
        while (p < end && !isspace((unsigned char)*p) && *p != ',' && *p != '<')
            p++;
        ptx_span w = {from, (uint32_t)(p - from)};
        if (!w.n)
            break;
        if (*from == '.') {
            if (!ptx_is(w, ".reg"))
                type = ptx_type_of(from + 1, w.n - 1);
            continue;
        }
        declared *d = grown(&b->decl, &b->n_decl);
        d->prefix = w;
        d->type = type;
        d->scope = scope;
        uint32_t n = 1;
        if (p < end && *p == '<') {
            n = d->count = (uint32_t)strtoul(p + 1, nullptr, 10);
            while (p < end && *p++ != '>')
                continue;
        }
        uint32_t *from_where = type == PTX_PRED ? &b->f->predicates : ptx_type_bytes(type) == 8 ? &b->wide : &b->narrow;
        d->first = *from_where;
        *from_where += n;
        b->bad |= type == PTX_NONE;
    }
}

struct found_register {
    ptx_type type; /* NONE: there is none of this name */
    uint32_t at;
};

static found_register find_register(const builder *b, ptx_span name, uint32_t scope)
{
    for (uint32_t i = b->n_decl; i--;) {
        const declared *d = &b->decl[i];
        if (d->scope != scope || name.n < d->prefix.n || memcmp(name.at, d->prefix.at, d->prefix.n))
            continue;
        if (!d->count) {
            if (name.n == d->prefix.n)
                return {d->type, d->first};
            continue;
        }
        uint32_t number = 0, k = d->prefix.n;
        while (k < name.n && isdigit((unsigned char)name.at[k]))
            number = 10 * number + (uint32_t)(name.at[k++] - '0');
        if (k == name.n && k > d->prefix.n && number < d->count)
            return {d->type, d->first + number};
    }
    return {PTX_NONE, 0};
}

static const placed *find_variable(builder *b, ptx_span name, uint32_t scope)
{
    for (uint32_t i = b->n_var; i--;)
        if ((b->var[i].scope == scope || b->var[i].scope == ~0u) && same(b->var[i].name, name))
            return &b->var[i];
    for (const ptx_variable *v = b->m->variable; v; v = v->next) {
        if (!same(v->name, name))
            continue;
        placed *p = grown(&b->var, &b->n_var);
        *p = {name, v->space, reinterpret_cast<uint64_t>(v->data), ~0u};
        if (v->space == PTX_SHARED && v->is_extern) {
            p->at = b->f->dynamic_at = ~0ull; /* known when all others are laid out */
        } else if (v->space == PTX_SHARED) {
            p->at = up_to(b->f->shared_bytes, v->align);
            b->f->shared_bytes = p->at + v->bytes;
        }
        return p;
    }
    return nullptr;
}

static void place(builder *b, const ptx_variable *v, uint32_t scope)
{
    placed *p = grown(&b->var, &b->n_var);
    *p = {v->name, v->space, 0, scope};
    if (v->space == PTX_SHARED) {
        p->at = up_to(b->f->shared_bytes, v->align);
        b->f->shared_bytes = p->at + v->bytes;
    } else { /* a call's parameters too are memory of the thread */
        p->space = PTX_LOCAL;
        p->at = up_to(b->f->local_bytes, v->align);
        b->f->local_bytes = p->at + v->bytes;
    }
}

static uint32_t constant(builder *b, uint64_t value, bool wide)
{
    ptx_function *f = b->f;
    for (uint32_t i = 0; i < f->n_constants; i++)
        if (f->constant[i].value == value && f->constant[i].wide == wide)
            return PTX_CONSTANT + i;
    auto *c = grown(&f->constant, &f->n_constants);
    c->value = value;
    c->wide = wide;
    return PTX_CONSTANT + f->n_constants - 1;
}

static uint32_t special(ptx_span name)
{
    static const struct {
        const char *name;
        uint32_t slot;
    } known[] = {{"%tid.x", PTX_TID_X},         {"%tid.y", PTX_TID_Y},           {"%tid.z", PTX_TID_Z},
                 {"%ntid.x", PTX_NTID_X},       {"%ntid.y", PTX_NTID_Y},         {"%ntid.z", PTX_NTID_Z},
                 {"%ctaid.x", PTX_CTAID_X},     {"%ctaid.y", PTX_CTAID_Y},       {"%ctaid.z", PTX_CTAID_Z},
                 {"%nctaid.x", PTX_NCTAID_X},   {"%nctaid.y", PTX_NCTAID_Y},     {"%nctaid.z", PTX_NCTAID_Z},
                 {"%laneid", PTX_LANEID},       {"%warpid", PTX_WARPID},         {"%lanemask_lt", PTX_LANEMASK_LT},
                 {"%lanemask_le", PTX_LANEMASK_LE}, {"%lanemask_eq", PTX_LANEMASK_EQ}, {"%lanemask_ge", PTX_LANEMASK_GE},
                 {"%lanemask_gt", PTX_LANEMASK_GT}};
    for (const auto &k : known)
        if (ptx_is(name, k.name))
            return k.slot;
    return 0;
}

/* The slot of a register, number or address; b->bad if it is none or of the wrong width. */
static uint32_t slot(builder *b, ptx_span name, bool wide, uint32_t scope)
{
    found_register r = find_register(b, name, scope);
    if (r.type) {
        b->bad |= r.type == PTX_PRED || (ptx_type_bytes(r.type) == 8) != wide;
        return wide ? PTX_FIRST_WIDE + r.at : r.at;
    }
    if (special(name)) {
        b->bad |= wide;
        return special(name);
    }
    if (name.n > 2 && name.at[0] == '0' && strchr("fFdD", name.at[1]))
        return constant(b, strtoull(name.at + 2, nullptr, 16), wide);
    if (isdigit((unsigned char)name.at[0]))
        return constant(b, strtoull(name.at, nullptr, 0), wide);
    if (name.at[0] == '-')
        return constant(b, (uint64_t)strtoll(name.at, nullptr, 0), wide);
    if (ptx_is(name, "WARP_SZ"))
        return constant(b, 32, wide);
    const placed *v = find_variable(b, name, scope);
    b->bad |= !v || (v->at == ~0ull && v->space == PTX_SHARED);
    return v ? constant(b, v->at, wide) : 0;
}

static uint32_t predicate(builder *b, ptx_span name, uint32_t scope)
{
    if (name.n && (isdigit((unsigned char)name.at[0]) || name.at[0] == '-'))
        return strtoll(name.at, nullptr, 0) ? 0 : 1;
    found_register r = find_register(b, name, scope);
    b->bad |= r.type != PTX_PRED;
    return r.at;
}

/* ---- instructions ---- */

static ptx_insn *next_insn(builder *b, const ptx_statement *s)
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

static void address(builder *b, ptx_insn *i, const ptx_operand *o, uint32_t scope)
{
    b->bad |= !o->bracket;
    i->offset = o->offset;
    found_register r = find_register(b, o->name[0], scope);
    if (r.type) {
        i->wide_address = ptx_type_bytes(r.type) == 8;
        i->a = slot(b, o->name[0], i->wide_address, scope);
        return;
    }
    const placed *v = find_variable(b, o->name[0], scope);
    if (!v) {
        b->bad = true;
        return;
    }
    if (i->space == PTX_PARAM || i->space == PTX_GENERIC)
        i->space = (uint8_t)v->space;
    i->wide_address = true;
    i->a = constant(b, v->at, true);
}

static void memory_access(builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
{
    static const struct {
        const char *name;
        ptx_space space;
    } spaces[] = {{"global", PTX_GLOBAL}, {"shared", PTX_SHARED}, {"local", PTX_LOCAL}, {"param", PTX_PARAM},
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
        i->d = at ? slot(b, s->operand[0].name[0], wide, scope) : 0;
        i->b = slot(b, value->name[0], wide, scope);
        if (s->n_operands > at + 2)
            i->c = slot(b, s->operand[at + 2].name[0], wide, scope);
        i->kind = PTX_PLAIN;
        return;
    }
    found_register r = find_register(b, value->name[0], scope);
    bool wide = r.type ? ptx_type_bytes(r.type) == 8 : i->bytes == 8;
    i->run = load ? ptx_load_for(type, wide) : ptx_store_for(type);
    i->n = (uint8_t)value->n;
    i->n_out = load ? i->n : 0;
    for (uint32_t k = 0; k < value->n; k++)
        i->v[k] = slot(b, value->name[k], wide, scope);
    uint32_t lanes = has(p, "v2") ? 2 : has(p, "v4") ? 4 : 1;
    b->bad |= lanes != value->n;
    i->how = (uint16_t)((has(p, "acquire") ? 1 : 0) | (r.type && ptx_type_bytes(r.type) == 2 ? 2 : 0));
    i->kind = load ? PTX_CARRIES : PTX_PLAIN;
}

static void arithmetic(builder *b, ptx_insn *i, const ptx_statement *s, uint32_t scope)
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
            i->v[k] = slot(b, list[0].name[k], false, scope);
    }
    uint32_t *to[] = {&i->d, &i->a, &i->b, &i->c, &i->v[0]};
    b->bad |= strlen(m->shape) != n;
    for (uint32_t k = 0; m->shape[k] && k < n; k++) {
        ptx_span o = list[k].name[0];
        char shape = m->shape[k];
        if (shape == 'p' && (k == 1 || k == 2) && m->shape[2] == 'p') /* and.pred */
            *to[k] = predicate(b, o, scope);
        else if (shape == 'p')
            *(k ? &i->pa : &i->pd) = predicate(b, o, scope);
        else if (shape != '-')
            *to[k] = slot(b, o, shape == 'd', scope);
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

static void collective(builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
{
    i->kind = PTX_COLLECTIVE;
    i->run = ptx_collective_for(s->opcode, &i->how, &i->aligned);
    b->bad |= !i->run;
    const ptx_operand *o = s->operand;
    if (ptx_is(p->at[0], "mma")) {
        static const uint8_t at[4] = {0, 4, 8, 12};
        i->b = constant(b, 0xFFFFFFFFu, false);
        i->n = 16;
        i->n_out = 4;
        b->bad |= s->n_operands != 4;
        for (int k = 0; k < 4 && !b->bad; k++)
            for (uint32_t j = 0; j < o[k].n && j < 4; j++)
                i->v[at[k] + j] = slot(b, o[k].name[j], false, scope);
        return;
    }
    i->n = 1; /* v[0]: the mask */
    if (ptx_is(p->at[0], "bar")) {
        i->v[0] = slot(b, o[0].name[0], false, scope);
    } else if (ptx_is(p->at[0], "shfl")) {
        i->d = slot(b, o[0].name[0], false, scope);
        i->pd = o[0].second.n ? predicate(b, o[0].second, scope) : 0;
        i->a = slot(b, o[1].name[0], false, scope);
        i->b = slot(b, o[2].name[0], false, scope);
        i->c = slot(b, o[3].name[0], false, scope);
        i->v[0] = slot(b, o[4].name[0], false, scope);
    } else if (ptx_is(p->at[0], "vote")) {
        if (last_type(p) == PTX_PRED)
            i->pd = predicate(b, o[0].name[0], scope);
        else
            i->d = slot(b, o[0].name[0], false, scope);
        i->pa = predicate(b, o[1].name[0], scope);
        i->pa_negated = o[1].negated;
        i->v[0] = slot(b, o[2].name[0], false, scope);
    } else {
        i->d = slot(b, o[0].name[0], false, scope);
        i->a = slot(b, o[1].name[0], false, scope);
        i->v[0] = slot(b, o[2].name[0], false, scope);
    }
}

/* bar.sync 0, and bar.red.{popc,and,or}: how 1, 2, 3. */
static void barrier(builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
{
    i->kind = PTX_BARRIER;
    i->aligned = true;
    uint32_t at = 0;
    if (has(p, "red")) {
        i->how = has(p, "popc") ? 1 : has(p, "and") ? 2 : 3;
        at = 1;
        if (i->how == 1)
            i->d = slot(b, s->operand[0].name[0], false, scope);
        else
            i->pd = predicate(b, s->operand[0].name[0], scope);
        i->pa = predicate(b, s->operand[2].name[0], scope);
        i->pa_negated = s->operand[2].negated;
    } else {
        b->bad |= !has(p, "sync") || s->n_operands != 1;
    }
    b->bad |= !ptx_is(s->operand[at].name[0], "0");
}

static void statements(builder *b, const ptx_body *body, uint32_t scope);

/* The called function's statements stand here, under names of their own. */
static void call(builder *b, const ptx_statement *s, uint32_t scope)
{
    const ptx_operand *result = nullptr, *name = nullptr, *arguments = nullptr;
    for (uint32_t k = 0; k < s->n_operands; k++) {
        const ptx_operand *o = &s->operand[k];
        (o->vector ? name ? arguments : result : name) = o;
    }
    const ptx_body *body = b->m->body;
    while (body && !(name && body->has_body && same(body->name, name->name[0])))
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
            const placed *at = actual[side] && k < actual[side]->n ? find_variable(b, actual[side]->name[k], scope) : nullptr;
            if (!at) {
                b->bad = true;
                return;
            }
            placed copy = *at;
            copy.name = v->name;
            copy.scope = inner;
            *grown(&b->var, &b->n_var) = copy;
        }
    }
    b->depth++;
    statements(b, body, inner);
    b->depth--;
    label *end = grown(&b->target, &b->n_target);
    *end = {{"", 0}, inner, b->f->n};
    next_insn(b, s)->kind = PTX_LABEL;
}

static void unknown(builder *b, ptx_insn *i, const ptx_statement *s)
{
    *i = {};
    i->kind = PTX_UNKNOWN;
    i->line = s->line;
    i->source_line = s->source_line;
    i->text = s;
    if (!b->f->unknown++)
        snprintf(b->f->first_unknown, sizeof b->f->first_unknown, "line %u: %.*s", s->line, (int)s->opcode.n, s->opcode.at);
}

static void control(builder *b, ptx_insn *i, const ptx_statement *s, const parts *p, uint32_t scope)
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
static void translate(builder *b, ptx_insn *i, const ptx_statement *s, uint32_t scope)
{
    parts p = split(s->opcode);
    ptx_span first = p.at[0];
    if (s->guard.n)
        i->guard = predicate(b, s->guard, scope);
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
            i->b = slot(b, s->operand[1].name[0], true, scope);
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
        i->d = slot(b, s->operand[0].name[0], true, scope);
        i->a = slot(b, s->operand[1].name[0], true, scope);
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

static void statements(builder *b, const ptx_body *body, uint32_t scope)
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
                declare_registers(b, s->declared, scope);
            } else if (memcmp(s->declared.at, ".pragma", 7)) {
                ptx_variable *v = ptx_variable_read(s->declared);
                if (!v || v->data)
                    unknown(b, next_insn(b, s), s);
                else if (v->space != PTX_SHARED || scope) /* lay_out_shared was there */
                    place(b, v, scope);
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

static void resolve_labels(builder *b)
{
    for (uint32_t k = 0; k < b->n_wanted; k++) {
        ptx_insn *i = &b->f->insn[b->wanted[k].at];
        bool found = false;
        for (uint32_t t = 0; t < b->n_target && !found; t++)
            if (b->target[t].scope == b->wanted[k].scope && same(b->target[t].name, b->wanted[k].name)) {
                i->target = b->target[t].at;
                found = true;
            }
        if (!found && i->kind != PTX_UNKNOWN)
            unknown(b, i, i->text);
    }
}

static void lay_out_parameters(builder *b, const ptx_body *body)
{
    ptx_function *f = b->f;
    for (const ptx_variable *v = body->param; v; v = v->next) {
        if (f->n_params == sizeof f->param / sizeof *f->param) {
            b->f->unknown++;
            return;
        }
        uint64_t at = up_to(f->param_bytes, v->align);
        f->param[f->n_params++] = {at, v->bytes, v->align};
        *grown(&b->var, &b->n_var) = {v->name, PTX_PARAM, at, 0};
        f->param_bytes = at + v->bytes;
    }
}

/* Shared variables that nvcc keeps out of the function are found before any statement needs the dynamic ones' place. */
static void lay_out_shared(builder *b, const ptx_body *body)
{
    for (uint32_t k = 0; k < body->n; k++)
        for (uint32_t o = 0; o < body->statement[k].n_operands; o++)
            for (uint32_t j = 0; j < body->statement[k].operand[o].n; j++) {
                ptx_span name = body->statement[k].operand[o].name[j];
                for (const ptx_variable *v = b->m->variable; v; v = v->next)
                    if (v->space == PTX_SHARED && !v->is_extern && same(v->name, name))
                        find_variable(b, name, 0);
            }
    for (uint32_t k = 0; k < body->n; k++) {
        ptx_span text = body->statement[k].declared;
        ptx_variable *v = text.n ? ptx_variable_read(text) : nullptr;
        if (v && v->space == PTX_SHARED)
            place(b, v, 0);
        free(v);
    }
    b->f->dynamic_at = up_to(b->f->shared_bytes, 16);
    for (const ptx_variable *v = b->m->variable; v; v = v->next)
        if (v->space == PTX_SHARED && v->is_extern)
            *grown(&b->var, &b->n_var) = {v->name, PTX_SHARED, b->f->dynamic_at, ~0u};
}

ptx_function *ptx_function_build(const ptx_module *m, const ptx_body *body)
{
    ptx_function *f = static_cast<ptx_function *>(sim_alloc(sizeof *f));
    f->module = m;
    f->body = body;
    f->predicates = 2;
    snprintf(f->name, sizeof f->name, "%.*s", (int)body->name.n, body->name.at);
    builder b = {};
    b.f = f;
    b.m = m;
    b.narrow = PTX_FIRST_SLOT;
    lay_out_parameters(&b, body);
    lay_out_shared(&b, body);
    statements(&b, body, 0);
    resolve_labels(&b);
    ptx_statement none = {};
    next_insn(&b, body->n ? &body->statement[body->n - 1] : &none)->kind = PTX_EXIT;
    f->narrow = b.narrow;
    f->wide = b.wide;
    f->local_bytes = up_to(f->local_bytes, 16);
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
