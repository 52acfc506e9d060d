/*
 * kernels/cuda/sim/ptx_memory.cc - loads, stores, atomics and cp.async, with what compute-sanitizer looks for.
 *
 * A global address is this machine's: device memory as memory.cc has given it out, pinned memory, and the variables of
 * the module.  Shared, local and parameter addresses count from the start of their own space; the generic ones of
 * shared and local memory are where the block keeps them.  Every access is looked at: its alignment, that it lies in
 * one block of memory that is given out, and in shared memory who else was there.
 */
#include "kernels/cuda/sim/ptx.h"

static void addresses(ptx_warp *w, const ptx_insn *i, uint64_t *at)
{
    uint64_t offset = (uint64_t)i->offset;
    ptx_need(w, i->a);
    if (i->wide_address) {
        const uint64_t *a = ptx_reg<uint64_t>(w, i->a);
        for (int l = 0; l < 32; l++)
            at[l] = a[l] + offset;
    } else {
        const uint32_t *a = ptx_reg<uint32_t>(w, i->a);
        for (int l = 0; l < 32; l++)
            at[l] = a[l] + offset;
    }
}

static uint8_t *local_of(const ptx_warp *w, uint32_t lane)
{
    return w->block->local + (w->id * 32 + lane) * w->block->f->local_bytes;
}

static void aligned(ptx_warp *w, uint32_t lanes, const uint64_t *at, uint32_t bytes)
{
    uint64_t any = 0;
    for (uint32_t rest = lanes; rest; rest &= rest - 1)
        any |= at[__builtin_ctz(rest)];
    if (!(any & (bytes - 1)))
        return;
    for (uint32_t rest = lanes; rest; rest &= rest - 1)
        if (at[__builtin_ctz(rest)] & (bytes - 1))
            ptx_fault(w, rest, cudaErrorMisalignedAddress, "%u bytes at 0x%llx, which is no multiple of %u", bytes,
                      (unsigned long long)at[__builtin_ctz(rest)], bytes);
}

/* ---- what is given out ---- */

static struct {
    uint64_t from, end;
} recent[4];
static uint32_t next_recent;
static uint64_t recent_version;

static bool in_module(const ptx_module *m, uint64_t at, uint64_t bytes, uint64_t *from, uint64_t *end)
{
    for (const ptx_variable *v = m->variable; v; v = v->next) {
        *from = reinterpret_cast<uint64_t>(v->data);
        *end = *from + v->bytes;
        if (v->data && at >= *from && at <= *end && bytes <= *end - at)
            return true;
    }
    return false;
}

static bool given_out(const ptx_warp *w, uint64_t at, uint64_t bytes)
{
    if (recent_version != ptx_memory_version) {
        memset(recent, 0, sizeof recent);
        recent_version = ptx_memory_version;
    }
    for (const auto &r : recent)
        if (at >= r.from && at < r.end && bytes <= r.end - at)
            return true;
    uint64_t from, end;
    if (!ptx_memory_range(at, bytes, &from, &end))
        return in_module(w->block->f->module, at, bytes, &from, &end);
    recent[next_recent++ % 4] = {from, end};
    return true;
}

static void global_bounds(ptx_warp *w, uint32_t lanes, const uint64_t *at, uint32_t bytes)
{
    uint64_t least = ~0ull, most = 0;
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        uint64_t a = at[__builtin_ctz(rest)];
        least = a < least ? a : least;
        most = a > most ? a : most;
    }
    if (given_out(w, least, most - least + bytes)) /* nearly always: one block of memory */
        return;
    for (uint32_t rest = lanes; rest; rest &= rest - 1)
        if (!given_out(w, at[__builtin_ctz(rest)], bytes))
            ptx_fault(w, rest, cudaErrorIllegalAddress,
                      "%u bytes at 0x%llx, which is in no block of device or pinned memory", bytes,
                      (unsigned long long)at[__builtin_ctz(rest)]);
}

static void bounds(ptx_warp *w, uint32_t lanes, const uint64_t *at, uint32_t bytes, uint64_t limit, const char *what)
{
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        uint64_t a = at[__builtin_ctz(rest)];
        if (a > limit || bytes > limit - a)
            ptx_fault(w, rest, cudaErrorIllegalAddress, "%u bytes at byte %lld of %llu of %s", bytes, (long long)a,
                      (unsigned long long)limit, what);
    }
}

/*
 * Where `lanes` find what they mean; `shared` gets those lanes that are in shared memory, whose at[] then counts from
 * its start.
 */
static void resolve(ptx_warp *w, const ptx_insn *i, uint64_t *at, uint8_t **p, uint32_t bytes, uint32_t *shared)
{
    ptx_block *b = w->block;
    uint32_t act = w->act, local = 0, global = 0;
    *shared = 0;
    aligned(w, act, at, bytes);
    if (i->space == PTX_GENERIC) {
        uint64_t s = reinterpret_cast<uint64_t>(b->shared), t = reinterpret_cast<uint64_t>(b->local);
        for (uint32_t rest = act; rest; rest &= rest - 1) {
            uint32_t l = (uint32_t)__builtin_ctz(rest);
            uint64_t own = reinterpret_cast<uint64_t>(local_of(w, l));
            if (at[l] >= s && at[l] - s < b->shared_cap) {
                at[l] -= s;
                *shared |= 1u << l;
            } else if (at[l] >= t && at[l] - t < b->local_cap) {
                at[l] -= own;
                local |= 1u << l;
            } else {
                global |= 1u << l;
            }
        }
    } else if (i->space == PTX_SHARED) {
        *shared = act;
    } else if (i->space == PTX_LOCAL) {
        local = act;
    } else if (i->space == PTX_PARAM) {
        bounds(w, act, at, bytes, b->f->param_bytes, "the parameters");
        for (int l = 0; l < 32; l++)
            p[l] = const_cast<uint8_t *>(b->param) + at[l];
    } else {
        global = act;
    }
    if (*shared)
        bounds(w, *shared, at, bytes, b->shared_end, "shared memory");
    if (local)
        bounds(w, local, at, bytes, b->f->local_bytes, "local memory");
    if (global)
        global_bounds(w, global, at, bytes);
    for (uint32_t rest = *shared | local | global; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        p[l] = global >> l & 1  ? reinterpret_cast<uint8_t *>(at[l])
               : local >> l & 1 ? local_of(w, l) + at[l]
                                : b->shared + at[l];
    }
}

/* ---- loads and stores ---- */

template <class T, class R> static void load(ptx_warp *w, const ptx_insn *i)
{
    uint64_t at[32];
    uint8_t *p[32];
    uint32_t shared, n = i->n, act = w->act;
    addresses(w, i, at);
    resolve(w, i, at, p, n * (uint32_t)sizeof(T), &shared);
    for (uint32_t k = 0; k < n; k++) {
        R *d = ptx_reg<R>(w, i->v[k]);
        const uint32_t cut = i->how & 2 ? 0xFFFF : ~0u;
        uint32_t has = act;
        for (uint32_t rest = shared; rest; rest &= rest - 1) {
            uint32_t l = (uint32_t)__builtin_ctz(rest);
            if (!ptx_shared_touch(w, l, at[l] + k * sizeof(T), sizeof(T), PTX_READS, nullptr))
                has &= ~(1u << l);
        }
        auto one = [&](uint32_t l) {
            T v;
            memcpy(&v, p[l] + k * sizeof(T), sizeof v);
            d[l] = sizeof(R) == 4 ? (R)((uint32_t)v & cut) : (R)v;
        };
        if (act == ~0u)
            for (uint32_t l = 0; l < 32; l++)
                one(l);
        else
            for (uint32_t rest = act; rest; rest &= rest - 1)
                one((uint32_t)__builtin_ctz(rest));
        w->def[i->v[k]] = (w->def[i->v[k]] & ~act) | has;
    }
    if (i->how & 1) /* ld.acquire: what a sleep afterwards waits for */
        for (uint32_t rest = act; rest; rest &= rest - 1) {
            uint32_t l = (uint32_t)__builtin_ctz(rest);
            w->watched[l] = reinterpret_cast<const uint32_t *>(p[l]);
            w->watched_value[l] = (uint32_t)ptx_reg<R>(w, i->v[0])[l];
        }
}

template <class T> static void store(ptx_warp *w, const ptx_insn *i)
{
    uint64_t at[32];
    uint8_t *p[32];
    uint32_t shared, n = i->n;
    addresses(w, i, at);
    resolve(w, i, at, p, n * (uint32_t)sizeof(T), &shared);
    auto one = [&](uint32_t l) {
        T v[4];
        for (uint32_t k = 0; k < n; k++)
            v[k] = sizeof(T) == 8 ? (T)ptx_reg<uint64_t>(w, i->v[k])[l] : (T)ptx_reg<uint32_t>(w, i->v[k])[l];
        if (shared >> l & 1)
            ptx_shared_touch(w, l, at[l], n * (uint32_t)sizeof(T), PTX_WRITES, v);
        memcpy(p[l], v, n * sizeof(T));
    };
    if (sim_options.order == HS_SIM_DOWN) /* which of two lanes that write one place comes last is open */
        for (uint32_t rest = w->act; rest; rest &= ~(1u << (31 - __builtin_clz(rest))))
            one(31 - (uint32_t)__builtin_clz(rest));
    else
        for (uint32_t rest = w->act; rest; rest &= rest - 1)
            one((uint32_t)__builtin_ctz(rest));
}

/* st.release and pinned memory: the host may look. */
ptx_handler ptx_load_for(ptx_type type, bool wide)
{
    switch (type) {
    case PTX_B8:
    case PTX_U8: return wide ? load<uint8_t, uint64_t> : load<uint8_t, uint32_t>;
    case PTX_S8: return wide ? load<int8_t, uint64_t> : load<int8_t, uint32_t>;
    case PTX_B16:
    case PTX_U16: return wide ? load<uint16_t, uint64_t> : load<uint16_t, uint32_t>;
    case PTX_S16: return wide ? load<int16_t, uint64_t> : load<int16_t, uint32_t>;
    case PTX_B32:
    case PTX_U32: return wide ? load<uint32_t, uint64_t> : load<uint32_t, uint32_t>;
    case PTX_S32: return wide ? load<int32_t, uint64_t> : load<int32_t, uint32_t>;
    case PTX_F32: return wide ? nullptr : load<uint32_t, uint32_t>;
    case PTX_B64:
    case PTX_U64:
    case PTX_S64:
    case PTX_F64: return wide ? load<uint64_t, uint64_t> : nullptr;
    default: return nullptr;
    }
}

ptx_handler ptx_store_for(ptx_type type)
{
    switch (ptx_type_bytes(type)) {
    case 1: return store<uint8_t>;
    case 2: return store<uint16_t>;
    case 4: return store<uint32_t>;
    case 8: return store<uint64_t>;
    default: return nullptr;
    }
}

/* ---- atomics ---- */

enum operation { A_ADD, A_MIN, A_MAX, A_AND, A_OR, A_XOR, A_EXCH, A_CAS };

template <class T, operation OP> static void atomic(ptx_warp *w, const ptx_insn *i)
{
    uint64_t at[32];
    uint8_t *p[32];
    uint32_t shared;
    addresses(w, i, at);
    resolve(w, i, at, p, sizeof(T), &shared);
    for (uint32_t rest = w->act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        T b = ptx_reg<T>(w, i->b)[l], c = ptx_reg<T>(w, i->c)[l], r;
        if (shared >> l & 1 && !ptx_shared_touch(w, l, at[l], sizeof(T), PTX_ADDS, nullptr))
            ptx_fault(w, 1u << l, cudaErrorLaunchFailure, "byte %llu of shared memory has no value",
                      (unsigned long long)at[l]);
        T *to = reinterpret_cast<T *>(p[l]), old = __atomic_load_n(to, __ATOMIC_RELAXED);
        do {
            switch (OP) {
            case A_ADD: r = (T)((uint64_t)old + (uint64_t)b); break;
            case A_MIN: r = b < old ? b : old; break;
            case A_MAX: r = b > old ? b : old; break;
            case A_AND: r = old & b; break;
            case A_OR: r = old | b; break;
            case A_XOR: r = old ^ b; break;
            case A_EXCH: r = b; break;
            default: r = old == b ? c : old;
            }
        } while (!__atomic_compare_exchange_n(to, &old, r, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
        if (i->d)
            ptx_reg<T>(w, i->d)[l] = old;
    }
}

template <class T> static ptx_handler atomic_of(ptx_span s)
{
    return ptx_is(s, "add")    ? atomic<T, A_ADD>
           : ptx_is(s, "min")  ? atomic<T, A_MIN>
           : ptx_is(s, "max")  ? atomic<T, A_MAX>
           : ptx_is(s, "and")  ? atomic<T, A_AND>
           : ptx_is(s, "or")   ? atomic<T, A_OR>
           : ptx_is(s, "xor")  ? atomic<T, A_XOR>
           : ptx_is(s, "exch") ? atomic<T, A_EXCH>
           : ptx_is(s, "cas")  ? atomic<T, A_CAS>
                               : nullptr;
}

/* Of floats there are none: their sums depend on the order. */
ptx_handler ptx_atomic_for(ptx_span operation, ptx_type type)
{
    switch (type) {
    case PTX_U32:
    case PTX_B32: return atomic_of<uint32_t>(operation);
    case PTX_S32: return atomic_of<int32_t>(operation);
    case PTX_U64:
    case PTX_B64: return atomic_of<uint64_t>(operation);
    case PTX_S64: return atomic_of<int64_t>(operation);
    default: return nullptr;
    }
}

/* ---- cp.async: the bytes move at the wait, as late as the device may move them ---- */

void ptx_copy_async(ptx_warp *w, const ptx_insn *i)
{
    uint64_t at[32], from[32];
    addresses(w, i, at);
    memcpy(from, ptx_reg<uint64_t>(w, i->b), sizeof from);
    aligned(w, w->act, at, 16);
    aligned(w, w->act, from, 16);
    bounds(w, w->act, at, 16, w->block->shared_end, "shared memory");
    global_bounds(w, w->act, from, 16);
    for (uint32_t rest = w->act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        if (w->n_pending[l] == w->cap_pending[l]) {
            w->cap_pending[l] = w->cap_pending[l] ? 2 * w->cap_pending[l] : 16;
            w->pending[l] =
                static_cast<ptx_pending *>(realloc(w->pending[l], w->cap_pending[l] * sizeof *w->pending[l]));
            if (!w->pending[l])
                abort();
        }
        ptx_shared_pend(w, l, at[l], 16, true);
        w->pending[l][w->n_pending[l]++] = {at[l], reinterpret_cast<const uint8_t *>(from[l]), w->group[l]};
    }
}

void ptx_copy_commit(ptx_warp *w, const ptx_insn *)
{
    for (uint32_t rest = w->act; rest; rest &= rest - 1)
        w->group[__builtin_ctz(rest)]++;
}

/* The `offset` newest groups may stay. */
void ptx_copy_wait(ptx_warp *w, const ptx_insn *i)
{
    for (uint32_t rest = w->act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest), n = 0;
        for (; n < w->n_pending[l]; n++) {
            const ptx_pending *c = &w->pending[l][n];
            if (c->group + (uint64_t)i->offset >= w->group[l])
                break;
            ptx_shared_pend(w, l, c->to, 16, false);
            ptx_shared_touch(w, l, c->to, 16, PTX_WRITES, c->from);
            memcpy(w->block->shared + c->to, c->from, 16);
        }
        w->n_pending[l] -= n;
        memmove(w->pending[l], w->pending[l] + n, w->n_pending[l] * sizeof *w->pending[l]);
    }
}

/* ---- addresses ---- */

void ptx_convert_address(ptx_warp *w, const ptx_insn *i)
{
    ptx_need(w, i->a);
    uint64_t *d = ptx_reg<uint64_t>(w, i->d);
    const uint64_t *a = ptx_reg<uint64_t>(w, i->a);
    for (uint32_t rest = w->act; rest; rest &= rest - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(rest);
        uint64_t base = i->space == PTX_SHARED  ? reinterpret_cast<uint64_t>(w->block->shared)
                        : i->space == PTX_LOCAL ? reinterpret_cast<uint64_t>(local_of(w, l))
                                                : 0;
        d[l] = i->how ? a[l] - base : a[l] + base;
    }
    w->def[i->d] |= w->act;
}
