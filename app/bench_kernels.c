/*
 * app/bench_kernels.c - prints the sweep over products as it is measured.
 */
#include "app/bench_kernels.h"

#include "app/open.h"
#include "base/text.h"

#include <string.h>

typedef struct sweep {
    const app_args *args;
    bool json, csv, any;
    hlwq_status st;
    hlwq_error *err;
} sweep;

static bool each(void *user, const hlwq_product_speed *p)
{
    sweep *s = user;
    hs_text t = {0};
    double share = 100.0 * p->bytes_per_second / p->memory_bytes_per_second;
    if (s->json)
        hs_text_format(&t,
                       "%s{\"isa\":\"%s\",\"format\":\"%s\",\"rows\":%u,\"cols\":%u,\"tokens\":%u,\"seconds\":%.9f,"
                       "\"bytes_per_second\":%.0f,\"weights_per_second\":%.0f,\"memory_bytes_per_second\":%.0f}",
                       s->any ? ",\n" : "[", p->isa, p->format, p->rows, p->cols, p->tokens, p->seconds,
                       p->bytes_per_second, p->weights_per_second, p->memory_bytes_per_second);
    else if (s->csv)
        hs_text_format(&t, "%s%s,%s,%u,%u,%u,%.9f,%.0f,%.0f,%.0f\n",
                       s->any ? ""
                              : "isa,format,rows,cols,tokens,seconds,bytes_per_second,weights_per_second,"
                                "memory_bytes_per_second\n",
                       p->isa, p->format, p->rows, p->cols, p->tokens, p->seconds, p->bytes_per_second,
                       p->weights_per_second, p->memory_bytes_per_second);
    else {
        if (!s->any)
            hs_text_format(&t,
                           "memory read at %.2f GB/s by the same threads\n%-7s %-6s %6s %6s %6s %11s %9s %10s %10s\n",
                           p->memory_bytes_per_second * 1e-9, "isa", "format", "rows", "cols", "tokens", "us", "GB/s",
                           "of memory", "Gweight/s");
        hs_text_format(&t, "%-7s %-6s %6u %6u %6u %11.2f %9.2f %9.1f%% %10.2f\n", p->isa, p->format, p->rows, p->cols,
                       p->tokens, p->seconds * 1e6, p->bytes_per_second * 1e-9, share, p->weights_per_second * 1e-9);
    }
    s->any = true;
    s->st = app_out_text(&t, s->err);
    return s->st == HLWQ_OK && !app_signal();
}

int app_bench_kernels(const app_args *args)
{
    hlwq_error err;
    sweep s = {.args = args, .json = app_flag(args, OPT_JSON), .csv = app_flag(args, OPT_CSV), .err = &err};
    hlwq_product_options o = hlwq_product_options_default();
    o.threads = (uint32_t)app_number(args, OPT_THREADS, 0);
    o.tokens = (uint32_t)app_number(args, OPT_PROMPT_TOKENS, 0);
    for (int i = 1; i < args->n_operands; i++) /* the sweep refuses what it does not know */
        *(strchr("QqIi", args->operand[i][0]) ? &o.format : &o.isa) = args->operand[i];
    if (!o.isa && args->value[OPT_DEVICE].set && args->value[OPT_DEVICE].number == HLWQ_DEVICE_CUDA)
        o.isa = "cuda";
    o.each = each;
    o.user = &s;
    app_watch(NULL);
    hlwq_status st = hlwq_measure_products(&o, &err);
    if (s.st != HLWQ_OK)
        st = s.st;
    if (st == HLWQ_OK && s.json && s.any) {
        hs_text t = {0};
        hs_text_format(&t, "]\n");
        st = app_out_text(&t, &err);
    }
    return app_finish(st, &err);
}
