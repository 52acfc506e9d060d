/*
 * model/measure.c - the sweep of `bench kernels`: instruction set x format x shape x tokens.
 */
#include "include/hlwq_stream.h"

#include "base/dtype.h"
#include "kernels/measure.h"

#include <string.h>
#include <strings.h>

/* Shapes of the family: an expert's gate and down, a mixer's projection, a dense layer's gate. */
static const uint32_t shape[][2] = {{512, 2048}, {2048, 512}, {8192, 2048}, {12288, 4096}};
static const hs_dtype format[] = {HS_Q6, HS_Q5, HS_Q4, HS_Q3, HS_Q2, HS_I4, HS_I4Z, HS_I4G64, HS_I4G64Z};
static const char *const isa[] = {"avx512", "avx2", "ref"};
static const uint32_t usual_tokens[] = {1, 4, 64};

hlwq_product_options hlwq_product_options_default(void)
{
    return (hlwq_product_options){.resident_bytes = 256u << 20};
}

static bool wanted(const char *only, const char *name)
{
    return !only || !strcasecmp(only, name);
}

typedef struct sweep {
    const hlwq_product_options *o;
    hs_mem *mem;
    hs_pool *pool;
    double rate; /* memory's */
    bool any;
} sweep;

static hlwq_status measure(sweep *w, hs_product_case c, hlwq_error *err)
{
    double seconds;
    uint64_t bytes;
    if (!strcmp(c.isa, "ref")) /* plain C is slow: a pass over little is enough */
        c.resident_bytes = 1 << 20;
    bool card = !strcmp(c.isa, "cuda");
    hlwq_status st = card ? hs_measure_product_cuda(&c, &seconds, &bytes, &w->rate, err)
                          : hs_measure_product(w->mem, w->pool, &c, &seconds, &bytes, err);
    if (st == HLWQ_ERR_UNSUPPORTED && !card)
        return HLWQ_OK;
    if (st != HLWQ_OK)
        return st;
    w->any = true;
    hlwq_product_speed line = {.isa = c.isa, .format = hs_dtype_name(c.dtype), .rows = c.rows, .cols = c.cols};
    line.tokens = c.tokens;
    line.seconds = seconds;
    line.bytes_per_second = (double)bytes / seconds;
    line.weights_per_second = (double)c.rows * c.cols * c.tokens / seconds;
    line.memory_bytes_per_second = w->rate;
    if (w->o->each && !w->o->each(w->o->user, &line))
        return hs_fail(err, HLWQ_ERR_CANCELLED, "stopped");
    return HLWQ_OK;
}

static hlwq_status sweep_format(sweep *w, const char *name, hs_dtype dtype, hlwq_error *err)
{
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        hs_product_case c = {name, dtype, shape[s][0], shape[s][1], w->o->tokens, w->o->resident_bytes};
        if (c.tokens) {
            HS_TRY(measure(w, c, err));
            continue;
        }
        for (size_t t = 0; t < sizeof usual_tokens / sizeof *usual_tokens; t++) {
            c.tokens = usual_tokens[t];
            HS_TRY(measure(w, c, err));
        }
    }
    return HLWQ_OK;
}

static hlwq_status sweep_all(sweep *w, hlwq_error *err)
{
    const hlwq_product_options *o = w->o;
    if (o->isa && wanted(o->isa, "cuda")) { /* only where it is asked for: a simulated card takes for ever */
        for (size_t f = 0; f < sizeof format / sizeof *format; f++)
            if (wanted(o->format, hs_dtype_name(format[f])))
                HS_TRY(sweep_format(w, "cuda", format[f], err));
    } else {
        HS_TRY(hs_read_bandwidth(w->mem, w->pool, 256u << 20, &w->rate, err));
    }
    for (size_t i = 0; i < sizeof isa / sizeof *isa; i++)
        for (size_t f = 0; f < sizeof format / sizeof *format; f++)
            if (wanted(o->isa, isa[i]) && wanted(o->format, hs_dtype_name(format[f])))
                HS_TRY(sweep_format(w, isa[i], format[f], err));
    if (w->any)
        return HLWQ_OK;
    return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "there is no product of format %s with instruction set %s here",
                   o->format ? o->format : "Q2 to Q6 or I4 to I4G64Z", o->isa ? o->isa : "of any kind");
}

hlwq_status hlwq_measure_products(const hlwq_product_options *options, hlwq_error *err)
{
    hs_pool *pool;
    HS_TRY(hs_pool_open(options->threads, &pool, err));
    hs_mem *mem = hs_mem_open(0);
    sweep w = {.o = options, .mem = mem, .pool = pool};
    hlwq_status st = mem ? sweep_all(&w, err) : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to measure");
    if (mem)
        hs_mem_close(mem);
    hs_pool_close(pool);
    return st;
}
