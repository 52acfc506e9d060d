/*
 * app/open.c - finds the model and opens it.
 */
#define _GNU_SOURCE
#include "app/open.h"

#include "app/hub.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#define DEMO "demo-q5.hlwq"

enum { CONSTRAINT_MAX = 1 << 20 };

/* The folder this program lies in, without a slash at the end; false if the system does not say. */
static bool program_folder(char *out, size_t capacity)
{
    ssize_t n = readlink("/proc/self/exe", out, capacity - 1);
    if (n <= 0 || (size_t)n >= capacity - 1)
        return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash)
        return false;
    *slash = 0;
    return true;
}

hlwq_status app_model_path(const app_args *args, char **path, hlwq_error *err)
{
    static const char *const places[] = {"../../models/" DEMO, "../share/hlwq-stream/" DEMO};
    char folder[4096];
    const char *given = app_text(args, OPT_MODEL, NULL);
    *path = NULL;
    if (given)
        return app_hub_path(given, path, err);
    if (!program_folder(folder, sizeof folder))
        return hs_fail(err, HLWQ_ERR_ARG, "no model given; use -m PATH");
    for (size_t i = 0; !given && !*path && i < sizeof places / sizeof *places; i++) {
        char *candidate = NULL;
        if (asprintf(&candidate, "%s/%s", folder, places[i]) < 0)
            break;
        char *real = realpath(candidate, NULL);
        free(candidate);
        *path = real;
    }
    if (!*path && !given)
        return hs_fail(err, HLWQ_ERR_IO, "no model given, and the demo model is neither %s/%s nor %s/%s; use -m PATH",
                       folder, places[0], folder, places[1]);
    return *path ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a path");
}

hlwq_status app_engine_options(const app_args *args, const char *path, hlwq_engine_options *out, hlwq_error *err)
{
    hlwq_engine_options o = hlwq_engine_options_default();
    o.model = path;
    o.log = app_log;
    if (args->value[OPT_RAM].set)
        o.ram_bytes = args->value[OPT_RAM].bytes;
    if (args->value[OPT_DEVICE].set)
        o.device = (hlwq_device)args->value[OPT_DEVICE].number;
    if (args->value[OPT_VRAM].set)
        o.vram_bytes = args->value[OPT_VRAM].bytes;
    o.card_slots = (uint32_t)app_number(args, OPT_CARD_SLOTS, 0);
    if (args->value[OPT_CPU_SHARE].set)
        o.cpu_share = args->value[OPT_CPU_SHARE].real;
    if (args->value[OPT_THREADS].set)
        o.threads = (uint32_t)args->value[OPT_THREADS].number;
    o.context = (uint32_t)app_number(args, OPT_CTX, 0);
    o.kv = app_kv(args, HLWQ_KV_F16);
    o.kv_spill = app_text(args, OPT_KV_SPILL, NULL);
    o.trace = app_text(args, OPT_TRACE, NULL);
    o.routing = app_text(args, OPT_ROUTING, NULL);
    o.batch = (uint32_t)app_number(args, OPT_BATCH, 0);
    o.slots = (uint32_t)app_number(args, OPT_SLOTS, 0);
    if (args->value[OPT_IO].set)
        o.io = (hlwq_io)args->value[OPT_IO].number;
    if (args->value[OPT_DIRECT].set)
        o.direct = (hlwq_direct)args->value[OPT_DIRECT].number;
    if (args->value[OPT_PREFIX].set)
        o.prefix_bytes = args->value[OPT_PREFIX].bytes;
    else if (args->command == APP_CHAT || args->command == APP_SERVE)
        o.prefix_bytes = HLWQ_PREFIX_AUTO;
    o.constraints =
        args->command == APP_SERVE || app_text(args, OPT_JSON_SCHEMA, NULL) || app_text(args, OPT_GRAMMAR_JSON, NULL);
    o.admit = (uint32_t)app_number(args, OPT_ADMIT, 0);
    o.adapt = !args->value[OPT_ADAPT].set || args->value[OPT_ADAPT].number == 0;
    if (args->value[OPT_POLICY].set)
        o.policy = (hlwq_policy)args->value[OPT_POLICY].number;
    if (args->value[OPT_DRAFT].set)
        o.draft = (hlwq_draft)args->value[OPT_DRAFT].number;
    o.draft_depth = (uint32_t)app_number(args, OPT_DRAFT_DEPTH, 0);
    o.draft_vocab = (uint32_t)app_number(args, OPT_DRAFT_VOCAB, 0);
    o.draft_text = app_text(args, OPT_DRAFT_TEXT, NULL);
    if (args->value[OPT_DRAFT_PRETEND].set)
        o.draft_pretend = args->value[OPT_DRAFT_PRETEND].real;
    o.draft_always = app_flag(args, OPT_DRAFT_ALWAYS);
    if (args->value[OPT_VERIFY].set) {
        static const hlwq_verify verify[] = {HLWQ_VERIFY_OFF, HLWQ_VERIFY_FIRST, HLWQ_VERIFY_ALWAYS};
        o.verify = verify[args->value[OPT_VERIFY].number];
    }
    if ((int)o.policy > HLWQ_POLICY_FIFO)
        return hs_fail(err, HLWQ_ERR_ARG, "the policy belady needs to know the future: only sim has it");
    *out = o;
    return HLWQ_OK;
}

hlwq_status app_engine_open(const app_args *args, const char *path, bool exact, uint32_t context, hlwq_engine **engine,
                            hlwq_error *err)
{
    app_progress progress = {.label = "loading"};
    hlwq_engine_options o;
    *engine = NULL;
    HS_TRY(app_engine_options(args, path, &o, err));
    o.exact = exact;
    if (context)
        o.context = context;
    o.progress = app_progress_step;
    o.user = &progress;
    hlwq_status st = hlwq_engine_open(&o, engine, err);
    app_progress_end(&progress);
    return st;
}

hlwq_kv app_kv_named(const char *name)
{
    if (*name == 'f')
        return strcmp(name, "f32") == 0 ? HLWQ_KV_F32 : HLWQ_KV_F16;
    int k = name[1] - '0', v = *name == 'q' ? k : name[3] - '0'; /* "q3", "k4v3" */
    return (hlwq_kv)(16 * k + v);
}

static void set_real(const app_args *a, app_option_id id, float *out)
{
    if (a->value[id].set)
        *out = (float)a->value[id].real;
}

hlwq_status app_sampling(const app_args *a, hlwq_sampling *s, hlwq_error *err)
{
    set_real(a, OPT_TEMPERATURE, &s->temperature);
    set_real(a, OPT_TOP_P, &s->top_p);
    set_real(a, OPT_MIN_P, &s->min_p);
    set_real(a, OPT_REPEAT_PENALTY, &s->repetition_penalty);
    set_real(a, OPT_PRESENCE_PENALTY, &s->presence_penalty);
    set_real(a, OPT_FREQUENCY_PENALTY, &s->frequency_penalty);
    s->top_k = (uint32_t)app_number(a, OPT_TOP_K, s->top_k);
    s->penalty_window = (uint32_t)app_number(a, OPT_REPEAT_LAST_N, s->penalty_window);
    int64_t seed = app_number(a, OPT_SEED, (int64_t)s->seed);
    if (seed >= 0) {
        s->seed = (uint64_t)seed;
    } else {
        /* 48 bits, so that the seed in the report can be given back with --seed. */
        if (getrandom(&s->seed, sizeof s->seed, 0) != (ssize_t)sizeof s->seed)
            return hs_fail(err, HLWQ_ERR_IO, "the system gives no random seed; use --seed N");
        s->seed >>= 16;
    }
    return HLWQ_OK;
}

hlwq_status app_session_options(const app_args *a, const hlwq_engine *engine, hlwq_session_options *out,
                                hlwq_error *err)
{
    hlwq_session_options o = hlwq_session_options_default(engine);
    if (app_number(a, OPT_CTX, 0) > 0)
        o.context = (uint32_t)app_number(a, OPT_CTX, 0);
    o.kv = app_kv(a, HLWQ_KV_F16);
    HS_TRY(app_sampling(a, &o.sampling, err));
    *out = o;
    return HLWQ_OK;
}

hlwq_kv app_kv(const app_args *args, hlwq_kv fallback)
{
    const char *name = app_text(args, OPT_KV, NULL);
    return name ? app_kv_named(name) : fallback;
}

void app_weight_format(const app_args *args, uint32_t *bits, const char **format)
{
    const char *text = app_text(args, OPT_BITS, NULL);
    if (text && *text == 'i')
        *format = text;
    else if (text)
        *bits = (uint32_t)(*text - '0'); /* the table's choices are single digits */
}

uint64_t app_peak_rss_bytes(void)
{
    struct rusage use;
    return getrusage(RUSAGE_SELF, &use) == 0 ? (uint64_t)use.ru_maxrss * 1024 : 0;
}

double app_rate(uint64_t count, double seconds)
{
    return count && seconds > 0 ? (double)count / seconds : 0;
}

hlwq_status app_constraint(const app_args *args, const hlwq_engine *engine, hlwq_constraint **constraint,
                           hlwq_error *err)
{
    const char *schema = app_text(args, OPT_JSON_SCHEMA, NULL), *grammar = app_text(args, OPT_GRAMMAR_JSON, NULL);
    const char *text = schema ? schema : grammar, *option = schema ? "--json-schema" : "--grammar-json";
    const hlwq_tokenizer *tokenizer = hlwq_engine_tokenizer(engine);
    *constraint = NULL;
    if (!text)
        return HLWQ_OK;
    if (schema && grammar)
        return hs_fail(err, HLWQ_ERR_ARG, "--json-schema and --grammar-json are both given; one text cannot be two");
    if (!tokenizer)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s needs a model with a tokenizer", option);
    char *data = NULL;
    size_t bytes = strlen(text);
    if (text[strspn(text, " \t\n")] != '{')
        HS_TRY(app_read(text, CONSTRAINT_MAX, &data, &bytes, err));
    hlwq_status st = hlwq_constraint_open(tokenizer, schema ? HLWQ_CONSTRAINT_JSON_SCHEMA : HLWQ_CONSTRAINT_GRAMMAR,
                                          data ? data : text, bytes, constraint, err);
    free(data);
    return st == HLWQ_OK ? st : hs_fail_in(err, st, "%s", option);
}
