/*
 * kernels/cuda/sim/ptx_names.cc - what the names of a function's text stand for: registers, numbers, variables and
 * where they lie.
 */
#include "kernels/cuda/sim/ptx_names.h"

#include <ctype.h>

static uint64_t up_to(uint64_t v, uint64_t align)
{
    return (v + align - 1) / align * align;
}

void ptx_declare_registers(ptx_builder *b, ptx_span text, uint32_t scope)
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
        ptx_declared *d = grown(&b->decl, &b->n_decl);
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

ptx_found ptx_find_register(const ptx_builder *b, ptx_span name, uint32_t scope)
{
    for (uint32_t i = b->n_decl; i--;) {
        const ptx_declared *d = &b->decl[i];
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

const ptx_placed *ptx_find_variable(ptx_builder *b, ptx_span name, uint32_t scope)
{
    for (uint32_t i = b->n_var; i--;)
        if ((b->var[i].scope == scope || b->var[i].scope == ~0u) && ptx_same(b->var[i].name, name))
            return &b->var[i];
    for (const ptx_variable *v = b->m->variable; v; v = v->next) {
        if (!ptx_same(v->name, name))
            continue;
        ptx_placed *p = grown(&b->var, &b->n_var);
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

void ptx_place(ptx_builder *b, const ptx_variable *v, uint32_t scope)
{
    ptx_placed *p = grown(&b->var, &b->n_var);
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

uint32_t ptx_constant(ptx_builder *b, uint64_t value, bool wide)
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
    } known[] = {{"%tid.x", PTX_TID_X},
                 {"%tid.y", PTX_TID_Y},
                 {"%tid.z", PTX_TID_Z},
                 {"%ntid.x", PTX_NTID_X},
                 {"%ntid.y", PTX_NTID_Y},
                 {"%ntid.z", PTX_NTID_Z},
                 {"%ctaid.x", PTX_CTAID_X},
                 {"%ctaid.y", PTX_CTAID_Y},
                 {"%ctaid.z", PTX_CTAID_Z},
                 {"%nctaid.x", PTX_NCTAID_X},
                 {"%nctaid.y", PTX_NCTAID_Y},
                 {"%nctaid.z", PTX_NCTAID_Z},
                 {"%laneid", PTX_LANEID},
                 {"%warpid", PTX_WARPID},
                 {"%lanemask_lt", PTX_LANEMASK_LT},
                 {"%lanemask_le", PTX_LANEMASK_LE},
                 {"%lanemask_eq", PTX_LANEMASK_EQ},
                 {"%lanemask_ge", PTX_LANEMASK_GE},
                 {"%lanemask_gt", PTX_LANEMASK_GT}};
    for (const auto &k : known)
        if (ptx_is(name, k.name))
            return k.slot;
    return 0;
}

/* The slot of a register, number or address; b->bad if it is none or of the wrong width. */
uint32_t ptx_slot(ptx_builder *b, ptx_span name, bool wide, uint32_t scope)
{
    ptx_found r = ptx_find_register(b, name, scope);
    if (r.type) {
        b->bad |= r.type == PTX_PRED || (ptx_type_bytes(r.type) == 8) != wide;
        return wide ? PTX_FIRST_WIDE + r.at : r.at;
    }
    if (special(name)) {
        b->bad |= wide;
        return special(name);
    }
    if (name.n > 2 && name.at[0] == '0' && strchr("fFdD", name.at[1]))
        return ptx_constant(b, strtoull(name.at + 2, nullptr, 16), wide);
    if (isdigit((unsigned char)name.at[0]))
        return ptx_constant(b, strtoull(name.at, nullptr, 0), wide);
    if (name.at[0] == '-')
        return ptx_constant(b, (uint64_t)strtoll(name.at, nullptr, 0), wide);
    if (ptx_is(name, "WARP_SZ"))
        return ptx_constant(b, 32, wide);
    const ptx_placed *v = ptx_find_variable(b, name, scope);
    b->bad |= !v || (v->at == ~0ull && v->space == PTX_SHARED);
    return v ? ptx_constant(b, v->at, wide) : 0;
}

uint32_t ptx_predicate(ptx_builder *b, ptx_span name, uint32_t scope)
{
    if (name.n && (isdigit((unsigned char)name.at[0]) || name.at[0] == '-'))
        return strtoll(name.at, nullptr, 0) ? 0 : 1;
    ptx_found r = ptx_find_register(b, name, scope);
    b->bad |= r.type != PTX_PRED;
    return r.at;
}

void ptx_lay_out_parameters(ptx_builder *b, const ptx_body *body)
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
void ptx_lay_out_shared(ptx_builder *b, const ptx_body *body)
{
    for (uint32_t k = 0; k < body->n; k++)
        for (uint32_t o = 0; o < body->statement[k].n_operands; o++)
            for (uint32_t j = 0; j < body->statement[k].operand[o].n; j++) {
                ptx_span name = body->statement[k].operand[o].name[j];
                for (const ptx_variable *v = b->m->variable; v; v = v->next)
                    if (v->space == PTX_SHARED && !v->is_extern && ptx_same(v->name, name))
                        ptx_find_variable(b, name, 0);
            }
    for (uint32_t k = 0; k < body->n; k++) {
        ptx_span text = body->statement[k].declared;
        ptx_variable *v = text.n ? ptx_variable_read(text) : nullptr;
        if (v && v->space == PTX_SHARED)
            ptx_place(b, v, 0);
        free(v);
    }
    b->f->dynamic_at = up_to(b->f->shared_bytes, 16);
    for (const ptx_variable *v = b->m->variable; v; v = v->next)
        if (v->space == PTX_SHARED && v->is_extern)
            *grown(&b->var, &b->n_var) = {v->name, PTX_SHARED, b->f->dynamic_at, ~0u};
}
