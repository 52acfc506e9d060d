/*
 * kernels/cuda/sim/ptx_names.h - names while a function is built: registers, variables, labels.  For ptx_build.cc.
 *
 * A called function stands in its caller under a scope of its own; the caller's is 0.
 */
#ifndef HS_KERNELS_CUDA_SIM_PTX_NAMES_H
#define HS_KERNELS_CUDA_SIM_PTX_NAMES_H

#include "kernels/cuda/sim/ptx.h"

struct ptx_declared {
    ptx_span prefix; /* "%r" of %r<34>, or a whole name */
    uint32_t count;  /* 0: one of this name */
    ptx_type type;
    uint32_t first;
    uint32_t scope;
};
struct ptx_placed {
    ptx_span name;
    ptx_space space;
    uint64_t at;
    uint32_t scope; /* ~0: everywhere */
};
struct ptx_label {
    ptx_span name;
    uint32_t scope, at;
};
struct ptx_builder {
    ptx_function *f;
    const ptx_module *m;
    ptx_declared *decl;
    ptx_placed *var;
    ptx_label *target, *wanted; /* wanted: `at` is the branch */
    uint32_t n_decl, n_var, n_target, n_wanted, scopes, depth;
    uint32_t narrow, wide;
    bool bad;
};

template <class T> static inline T *grown(T **list, uint32_t *n)
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

static inline bool ptx_same(ptx_span a, ptx_span b)
{
    return a.n == b.n && !memcmp(a.at, b.at, a.n);
}

struct ptx_found {
    ptx_type type; /* NONE: there is none of this name */
    uint32_t at;
};
void ptx_declare_registers(ptx_builder *b, ptx_span text, uint32_t scope);
ptx_found ptx_find_register(const ptx_builder *b, ptx_span name, uint32_t scope);
const ptx_placed *ptx_find_variable(ptx_builder *b, ptx_span name, uint32_t scope);
void ptx_place(ptx_builder *b, const ptx_variable *v, uint32_t scope);
uint32_t ptx_constant(ptx_builder *b, uint64_t value, bool wide);
/* The slot of a register, number or address; b->bad if it is none or of the wrong width. */
uint32_t ptx_slot(ptx_builder *b, ptx_span name, bool wide, uint32_t scope);
uint32_t ptx_predicate(ptx_builder *b, ptx_span name, uint32_t scope);
void ptx_lay_out_parameters(ptx_builder *b, const ptx_body *body);
void ptx_lay_out_shared(ptx_builder *b, const ptx_body *body);

#endif
