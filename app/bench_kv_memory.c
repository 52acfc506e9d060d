/*
 * app/bench_kv_memory.c - `bench --kv-memory`: what keys and values take at each length, as planned, beside the
 * formula.
 *
 * The plan is what is charged when a session opens; the formula is docs/kv.md's.  No weights are read.
 */
#include "app/bench_kv.h"
#include "app/chart.h"
#include "app/open.h"
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODES = 6, LENGTHS = 7, PAGE = 64 };

static const char *const mode_names[MODES] = {"f16", "q8", "q4", "k4v3", "q3", "q2"};

typedef struct kv_memory {
    const app_args *args;
    char *path;
    uint64_t f16_token_bytes;
    uint64_t planned[MODES][LENGTHS], formula[MODES][LENGTHS];
} kv_memory;

static uint32_t length_of(int i)
{
    return 4096u << i;
}

/* Bits of a key and of a value together, norms included. */
static double pair_bits(const char *name)
{
    hlwq_kv kv = app_kv_named(name);
    return kv == HLWQ_KV_F16 ? 32 : ((unsigned)kv >> 4) + ((unsigned)kv & 15) + 2 * 16.0 / 128;
}

/* All pages but the newest two in codes; those of a batch and two more as fp16. */
static uint64_t formula_bytes(const kv_memory *m, const char *name, uint32_t tokens, uint32_t batch)
{
    uint64_t pages = (tokens + PAGE - 1) / PAGE, plain = batch / PAGE + 2;
    double page = (double)PAGE * (double)m->f16_token_bytes;
    if (strcmp(name, "f16") == 0)
        return (uint64_t)((double)pages * page);
    return (uint64_t)((double)(pages - 2) * page * pair_bits(name) / 32 +
                      (double)(plain < pages ? plain : pages) * page);
}

static hlwq_status session_bytes(const kv_memory *m, const char *name, uint32_t tokens, uint64_t *bytes,
                                 uint32_t *batch, hlwq_error *err)
{
    hlwq_engine_options o;
    hlwq_plan plan;
    HS_TRY(app_engine_options(m->args, m->path, &o, err));
    o.context = tokens;
    o.kv = app_kv_named(name);
    o.device = HLWQ_DEVICE_CPU;
    HS_TRY(hlwq_make_plan(&o, &plan, err));
    *bytes = plan.session_bytes;
    *batch = plan.batch;
    return HLWQ_OK;
}

static hlwq_status read_token_bytes(kv_memory *m, hlwq_error *err)
{
    char *text;
    hs_json *root;
    HS_TRY(hlwq_describe(m->path, &text, err));
    hlwq_status st = hs_json_parse(text, strlen(text), "info", &root, err);
    hlwq_free(text);
    HS_TRY(st);
    double bytes = 0;
    st = hs_json_take_real(hs_json_get(root, "needs"), "kv_bytes_per_token", HS_REQUIRED, 0, 1e9, &bytes, "info", err);
    m->f16_token_bytes = (uint64_t)bytes;
    hs_json_free(root);
    return st;
}

static hlwq_status measure(kv_memory *m, hlwq_error *err)
{
    HS_TRY(app_model_path(m->args, &m->path, err));
    HS_TRY(read_token_bytes(m, err));
    uint64_t least;
    uint32_t batch;
    HS_TRY(session_bytes(m, "f16", PAGE, &least, &batch, err));
    uint64_t others = least - PAGE * (m->f16_token_bytes + sizeof(int32_t)); /* states, logits, sampler */
    for (int i = 0; i < MODES; i++)
        for (int l = 0; l < LENGTHS; l++) {
            uint64_t all;
            HS_TRY(session_bytes(m, mode_names[i], length_of(l), &all, &batch, err));
            m->planned[i][l] = all - others - length_of(l) * sizeof(int32_t);
            m->formula[i][l] = formula_bytes(m, mode_names[i], length_of(l), batch);
        }
    return HLWQ_OK;
}

static void print(hs_text *t, const kv_memory *m, bool json)
{
    if (json)
        hs_text_format(t, "{\"schema\":1,\"f16_bytes_per_token\":%" PRIu64 ",\"kv\":[", m->f16_token_bytes);
    else
        hs_text_format(t, "keys and values, MiB (by the formula; of f16)\ncontext");
    for (int i = 0; i < MODES && !json; i++)
        hs_text_format(t, " %24s", mode_names[i]);
    for (int l = 0; l < LENGTHS; l++) {
        if (!json)
            hs_text_format(t, "\n%7u", length_of(l));
        for (int i = 0; i < MODES; i++) {
            double mib = (double)m->planned[i][l] / 1048576.0, formula = (double)m->formula[i][l] / 1048576.0;
            if (json)
                hs_text_format(
                    t, "%s{\"kv\":\"%s\",\"tokens\":%u,\"planned_bytes\":%" PRIu64 ",\"formula_bytes\":%" PRIu64 "}",
                    i || l ? "," : "", mode_names[i], length_of(l), m->planned[i][l], m->formula[i][l]);
            else
                hs_text_format(t, " %9.1f (%8.1f;%5.2f)", mib, formula,
                               (double)m->planned[0][l] / (double)m->planned[i][l]);
        }
    }
    hs_text_format(t, json ? "]}\n" : "\n");
}

/* Both axes logarithmic: a line a mode. */
static void draw(hs_text *t, const kv_memory *m)
{
    app_tick along[LENGTHS], up[64];
    double point[MODES][LENGTHS][2];
    char name[MODES][32];
    app_line line[MODES];
    double low = (double)m->planned[MODES - 1][0], high = (double)m->planned[0][LENGTHS - 1];
    size_t n = 0;
    for (int l = 0; l < LENGTHS; l++) {
        along[l].at = length_of(l);
        snprintf(along[l].label, sizeof along[l].label, "%uK", length_of(l) / 1024);
    }
    for (int e = (int)ceil(log2(low)); e <= (int)log2(high) && n < sizeof up / sizeof *up; e++, n++) {
        up[n].at = ldexp(1, e);
        snprintf(up[n].label, sizeof up[n].label, e < 30 ? "%.4g MiB" : "%.4g GiB", ldexp(1, e < 30 ? e - 20 : e - 30));
    }
    for (int i = 0; i < MODES; i++) {
        for (int l = 0; l < LENGTHS; l++) {
            point[i][l][0] = length_of(l);
            point[i][l][1] = (double)m->planned[i][l];
        }
        snprintf(name[i], sizeof name[i], "%s, 1/%.2f", mode_names[i], 32 / pair_bits(mode_names[i]));
        line[i] = (app_line){.name = name[i], .point = (const double(*)[2])point[i], .n = LENGTHS};
    }
    app_chart c = {.title = "Keys and values by length of the context",
                   .x = {.log = true, .low = along[0].at, .high = along[LENGTHS - 1].at, along, LENGTHS},
                   .y = {.log = true, .low = low, .high = high, up, n},
                   .line = line,
                   .n_lines = MODES,
                   .room = 120};
    app_chart_draw(t, &c);
}

static hlwq_status write_chart(const kv_memory *m, const char *path, hlwq_error *err)
{
    hs_text t = {0};
    draw(&t, m);
    return app_text_to_file(&t, path, err);
}

int app_bench_kv_memory(const app_args *args)
{
    hlwq_error err;
    hs_text t = {0};
    kv_memory m = {.args = args};
    const char *chart = app_text(args, OPT_SVG, NULL);
    hlwq_status st = measure(&m, &err);
    if (st == HLWQ_OK) {
        print(&t, &m, app_flag(args, OPT_JSON));
        st = app_out_text(&t, &err);
    }
    if (st == HLWQ_OK && chart)
        st = write_chart(&m, chart, &err);
    free(m.path);
    return app_finish(st, &err);
}
