/*
 * kernels/cuda/sim/launch.cc - a kernel: its limits, and its blocks one after another.
 *
 * A block that waits for a flag stays suspended while the next ones begin, as on a device with room for RESIDENT
 * blocks.  A launch without room waits; the streams go on with other work.
 */
#include "kernels/cuda/sim/private.h"

#include <stdio.h>

enum { RESIDENT = 32, MAX_KERNELS = 4096 };

/* What cudaFuncSetAttribute allowed each kernel. */
static struct {
    const void *kernel;
    int dynamic_bytes;
} allowed[MAX_KERNELS];
static uint32_t n_allowed;

static int optin_bytes(void)
{
    switch (sim_options.arch) {
    case 75: return 64 << 10;
    case 80: return 163 << 10;
    case 90: return 227 << 10;
    default: return 99 << 10;
    }
}

cudaError_t hs_sim_func_set_attribute(const void *fn, cudaFuncAttribute attr, int value)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (e)
        return sim_leave(e);
    if (!fn || value < -1 || (attr == cudaFuncAttributeMaxDynamicSharedMemorySize && value > optin_bytes()))
        return sim_leave(cudaErrorInvalidValue);
    if (attr == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        uint32_t i = 0;
        while (i < n_allowed && allowed[i].kernel != fn)
            i++;
        if (i == MAX_KERNELS)
            return sim_leave(cudaErrorInvalidValue);
        n_allowed += i == n_allowed;
        allowed[i] = {fn, value};
    }
    return sim_leave(cudaSuccess);
}

/* Kernels whose code is on the device: those that were asked about. */
static const void *loaded[MAX_KERNELS];
static uint32_t n_loaded;

void sim_kernels_reset(void)
{
    n_loaded = 0;
}

static bool is_loaded(const void *kernel)
{
    uint32_t i = 0;
    while (i < n_loaded && loaded[i] != kernel)
        i++;
    return i < n_loaded;
}

/* What they take of registers and shared memory is not known here. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *is, const void *fn)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && (!is || !fn || (!is_loaded(fn) && n_loaded == MAX_KERNELS)))
        e = cudaErrorInvalidValue;
    if (e)
        return sim_leave(e);
    *is = {};
    is->maxThreadsPerBlock = 1024;
    if (!is_loaded(fn))
        loaded[n_loaded++] = fn;
    return sim_leave(cudaSuccess);
}

/* From "kernel<a, b>, grid, block, ..." what stands before the first comma outside brackets. */
static void name_of(char *out, size_t room, const char *text)
{
    int depth = 0;
    size_t n = 0;
    for (; text[n] && n + 1 < room; n++) {
        char c = text[n];
        if (c == ',' && depth == 0)
            break;
        depth += c == '<' || c == '(';
        depth -= c == '>' || c == ')';
        out[n] = c;
    }
    out[n] = 0;
}

static cudaError_t check_limits(const sim_launch *l)
{
    const char *what = nullptr;
    cudaError_t e = cudaErrorInvalidConfiguration;
    uint64_t threads = (uint64_t)l->block.x * l->block.y * l->block.z;
    int most = 48 << 10;
    for (uint32_t i = 0; i < n_allowed; i++)
        if (allowed[i].kernel == l->kernel && allowed[i].dynamic_bytes > most)
            most = allowed[i].dynamic_bytes;
    if (!l->kernel) {
        what = "no kernel";
        e = cudaErrorInvalidDeviceFunction;
    } else if (!threads || l->block.x > 1024 || l->block.y > 1024 || l->block.z > 64 || threads > 1024) {
        what = "more than 1024 threads, or none";
    } else if (!l->grid.x || !l->grid.y || !l->grid.z || l->grid.x > 0x7FFFFFFFu || l->grid.y > 65535 ||
               l->grid.z > 65535) {
        what = "a grid beyond 2147483647 x 65535 x 65535, or none";
    } else if (l->shared_bytes + sim_static_shared_of(l->kernel) > (uint64_t)most) {
        what = "more shared memory than allowed";
        e = cudaErrorInvalidValue;
    }
    if (!what)
        return cudaSuccess;
    snprintf(sim_stats.last_fault, sizeof sim_stats.last_fault,
             "kernel %s (launched at %s:%d): %s: grid (%u,%u,%u), block (%u,%u,%u), %zu + %llu bytes of %d", l->name,
             l->place.file, l->place.line, what, l->grid.x, l->grid.y, l->grid.z, l->block.x, l->block.y, l->block.z,
             l->shared_bytes, (unsigned long long)sim_static_shared_of(l->kernel), most);
    if (!sim_options.quiet)
        fprintf(stderr, "hlwq-stream: gpusim: %s\n", sim_stats.last_fault);
    return e;
}

static void complain(const char *name, hs_sim_place place, const char *what)
{
    sim_stats.faults++;
    snprintf(sim_stats.last_fault, sizeof sim_stats.last_fault, "kernel %s (launched at %s:%d): %s", name, place.file,
             place.line, what);
    if (!sim_options.quiet)
        fprintf(stderr, "hlwq-stream: gpusim: %s\n", sim_stats.last_fault);
}

/* A kernel that is not there is an error, never the C++ compiler's in its place. */
static const ptx_function *nvccs(hs_sim_place place, const void *kernel)
{
    char symbol[400], why[1024] = "its name is in no symbol table", name[96];
    const ptx_function *f = nullptr;
    if (sim_symbol_of(kernel, symbol, sizeof symbol))
        f = ptx_find(symbol, place.file, why, sizeof why);
    name_of(name, sizeof name, place.text);
    if (!f)
        complain(name, place, why);
    return f;
}

static bool pack_for(const sim_launch *l, const hs_sim_arguments *args, void *to)
{
    char why[256];
    bool ok = ptx_pack(l->ptx, args->one, args->n, to, why, sizeof why);
    if (!ok)
        complain(l->name, l->place, why);
    return ok;
}

cudaError_t hs_sim_enqueue_kernel(hs_sim_place place, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                                  cudaStream_t s, const hs_sim_arguments *args,
                                  void (*call)(const void *kernel, const void *args))
{
    cudaError_t e = sim_enter(SIM_CALL_WAIT);
    if (!e)
        e = sim_stream_of(&s);
    if (e)
        return sim_leave(e);
    const ptx_function *ptx = nullptr;
    if (ptx_is_on() && kernel) {
        ptx = nvccs(place, kernel);
        if (!ptx)
            return sim_leave(cudaErrorInvalidDeviceFunction);
    }
    sim_op *op = sim_op_new(SIM_KERNEL, ptx ? ptx_parameter_bytes(ptx) : args->bytes);
    sim_launch *l = &op->launch;
    l->place = place;
    name_of(l->name, sizeof l->name, place.text);
    l->kernel = kernel;
    l->grid = grid;
    l->block = block;
    l->shared_bytes = shared_bytes;
    l->call = call;
    l->ptx = ptx;
    l->args = op + 1;
    if (!ptx)
        memcpy(op + 1, args->at, args->bytes); /* sim_op_new keeps this place aligned */
    else if (!pack_for(l, args, op + 1))
        e = cudaErrorInvalidValue;
    e = e ? e : check_limits(l);
    if (e) {
        sim_op_free(op);
        return sim_leave(e);
    }
    return sim_leave(sim_enqueue(s, op));
}

/* ---- running ---- */

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

void sim_launch_begin(sim_launch *l)
{
    l->n_blocks = (uint64_t)l->grid.x * l->grid.y * l->grid.z;
    l->next_block = 0;
    l->suspended = nullptr;
    l->n_suspended = 0;
    l->order_first = 0;
    l->order_step = 1;
    if (sim_options.order == HS_SIM_SHUFFLE && l->n_blocks > 2) {
        l->order_first = sim_random() % l->n_blocks;
        l->order_step = 1 + sim_random() % (l->n_blocks - 1);
        while (common_divisor(l->order_step, l->n_blocks) != 1)
            l->order_step = l->order_step % (l->n_blocks - 1) + 1;
    }
    sim_stats.launches++;
    if (!is_loaded(l->kernel)) {
        sim_stats.unloaded++;
        snprintf(sim_stats.last_unloaded, sizeof sim_stats.last_unloaded, "%s", l->name);
    }
    sim_stats.ptx_launches += l->ptx != nullptr;
}

static uint64_t nth_block(const sim_launch *l, uint64_t i)
{
    if (sim_options.order == HS_SIM_DOWN)
        return l->n_blocks - 1 - i;
    return (uint64_t)((l->order_first + (unsigned __int128)i * l->order_step) % l->n_blocks);
}

bool sim_launch_can_run(const sim_launch *l)
{
    if (l->next_block < l->n_blocks && l->n_suspended < RESIDENT)
        return true;
    for (const sim_block *b = l->suspended; b; b = b->next)
        if (sim_block_can_run(b))
            return true;
    return false;
}

void sim_launch_drop(sim_launch *l)
{
    while (l->suspended) {
        sim_block *b = l->suspended;
        l->suspended = b->next;
        sim_block_drop(b);
    }
    l->n_suspended = 0;
    l->next_block = l->n_blocks;
}

/* True when the launch is over: all blocks have ended, or one has failed. */
static bool after_block(sim_launch *l, sim_block *b)
{
    sim_block_end end = sim_block_run(b);
    if (end == SIM_BLOCK_SUSPENDED) {
        b->next = l->suspended;
        l->suspended = b;
        l->n_suspended++;
        return false;
    }
    sim_block_drop(b);
    if (end == SIM_BLOCK_FAULT)
        sim_launch_drop(l);
    return l->next_block == l->n_blocks && !l->suspended;
}

bool sim_launch_run(sim_launch *l, uint64_t max_blocks)
{
    while (max_blocks--) {
        sim_block **link = &l->suspended;
        while (*link && !sim_block_can_run(*link))
            link = &(*link)->next;
        sim_block *b = *link;
        if (b) {
            *link = b->next;
            l->n_suspended--;
        } else if (l->next_block < l->n_blocks && l->n_suspended < RESIDENT) {
            b = sim_block_begin(l, nth_block(l, l->next_block++));
        } else {
            return false;
        }
        if (after_block(l, b))
            return true;
    }
    return false;
}
