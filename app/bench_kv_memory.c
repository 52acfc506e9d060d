/*
 * app/bench_kv_memory.c - `bench --kv-memory`: what keys and values take at each length, as planned, beside the
 * formula.
 *
 * The plan is what is charged when a session opens; the formula is docs/kv.md's.  No weights are read.
 */
#include "app/bench_kv.h"
#include "app/open.h"
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MODES = 6, LENGTHS = 7, PAGE = 64, WIDTH = 720, HEIGHT = 420, LEFT = 70, TOP = 40, RIGHT = 120, BOTTOM = 50 };

static const char *const mode_names[MODES] = {"f16", "q8", "q4", "k4v3", "q3", "q2"};
static const char *const colours[MODES] = {"#444", "#1f77b4", "#2ca02c", "#d9a400", "#d62728", "#9467bd"};

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
    double low = log2((double)m->planned[MODES - 1][0]), high = log2((double)m->planned[0][LENGTHS - 1]);
    double x_step = (double)(WIDTH - LEFT - RIGHT) / (LENGTHS - 1), y_step = (HEIGHT - TOP - BOTTOM) / (high - low);
    hs_text_format(t,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
                   "font-size=\"12\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n"
                   "<text x=\"%d\" y=\"22\" font-size=\"15\">Keys and values by length of the context</text>\n",
                   WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    for (int l = 0; l < LENGTHS; l++)
        hs_text_format(t,
                       "<path d=\"M%.1f %dV%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" "
                       "text-anchor=\"middle\">%uK</text>\n",
                       LEFT + l * x_step, TOP, HEIGHT - BOTTOM, LEFT + l * x_step, HEIGHT - BOTTOM + 18,
                       length_of(l) / 1024);
    for (int e = (int)ceil(low); e <= (int)high; e++) {
        double y = HEIGHT - BOTTOM - (e - low) * y_step;
        hs_text_format(t, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">",
                       LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 4);
        hs_text_format(t, e < 30 ? "%.4g MiB</text>\n" : "%.4g GiB</text>\n", ldexp(1, e < 30 ? e - 20 : e - 30));
    }
    double label = 0; /* its line, below the last one's */
    for (int i = 0; i < MODES; i++) {
        double y = 0;
        hs_text_format(t, "<path fill=\"none\" stroke-width=\"2\" stroke=\"%s\" d=\"", colours[i]);
        for (int l = 0; l < LENGTHS; l++) {
            y = HEIGHT - BOTTOM - (log2((double)m->planned[i][l]) - low) * y_step;
            hs_text_format(t, "%s%.1f %.1f", l ? "L" : "M", LEFT + l * x_step, y);
        }
        label = fmax(y + 4, label + 14);
        hs_text_format(t, "\"/><text x=\"%d\" y=\"%.1f\" fill=\"%s\">%s, 1/%.2f</text>\n", WIDTH - RIGHT + 6, label,
                       colours[i], mode_names[i], 32 / pair_bits(mode_names[i]));
    }
    hs_text_format(t, "</svg>\n");
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
