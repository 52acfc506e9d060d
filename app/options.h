/*
 * app/options.h - what can be said on the command line: one table of options, one of commands.
 *
 * The tables drive parsing, --help, HLWQ_* environment names, the config file, shell completion and the
 * manual.  A value comes from the flag, else the environment, else the config file; where none speaks, the
 * option is not `set` and the command has its own default (the table's `fallback` says which, for people).
 */
#ifndef HS_APP_OPTIONS_H
#define HS_APP_OPTIONS_H

#include "base/error.h"

#include <stdio.h>

typedef enum app_command_id {
    APP_RUN,
    APP_CHAT,
    APP_SERVE,
    APP_CONVERT,
    APP_QUANTIZE,
    APP_INFO,
    APP_LOGITS,
    APP_TOKENIZE,
    APP_TEMPLATE,
    APP_BENCH,
    APP_SYNTH,
    APP_PLAN,
    APP_SIM,
    APP_DOCTOR,
    APP_VERSION,
    APP_HELP,
    APP_COMMAND_COUNT
} app_command_id;

typedef enum app_option_id {
    OPT_MODEL,
    OPT_FILE,
    OPT_PREDICT,
    OPT_CTX,
    OPT_THREADS,
    OPT_TEMPERATURE,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_MIN_P,
    OPT_REPEAT_PENALTY,
    OPT_REPEAT_LAST_N,
    OPT_PRESENCE_PENALTY,
    OPT_FREQUENCY_PENALTY,
    OPT_SEED,
    OPT_ECHO,
    OPT_JSON_SCHEMA,
    OPT_GRAMMAR_JSON,
    OPT_DEVICE,
    OPT_VRAM,
    OPT_CARD_SLOTS,
    OPT_CPU_SHARE,
    OPT_RAM,
    OPT_KV,
    OPT_KV_SPILL,
    OPT_IO,
    OPT_DIRECT,
    OPT_POLICY,
    OPT_ADMIT,
    OPT_ADAPT,
    OPT_SLOTS,
    OPT_BATCH,
    OPT_HALF_LIFE,
    OPT_FLOOR,
    OPT_DRAFT,
    OPT_DRAFT_DEPTH,
    OPT_DRAFT_ALWAYS,
    OPT_DRAFT_VOCAB,
    OPT_DRAFT_TEXT,
    OPT_DRAFT_PRETEND,
    OPT_EXACT,
    OPT_VERIFY,
    OPT_REPORT,
    OPT_TRACE,
    OPT_OUTPUT,
    OPT_BITS,
    OPT_RATE,
    OPT_TARGET_BYTES,
    OPT_CALIB,
    OPT_CALIB_TOKENS,
    OPT_CALIB_WINDOW,
    OPT_SWEEPS,
    OPT_DAMPING,
    OPT_FOLLOW,
    OPT_CATCH_UP,
    OPT_AWQ,
    OPT_BLEND,
    OPT_HEAD_BITS,
    OPT_TO,
    OPT_COMPARE,
    OPT_EMBED_BITS,
    OPT_FORCE,
    OPT_IDS_FILE,
    OPT_CHUNK,
    OPT_SPLIT,
    OPT_NO_SPECIAL,
    OPT_DECODE,
    OPT_TEMPLATE,
    OPT_SYSTEM,
    OPT_THINK,
    OPT_HOST,
    OPT_PORT,
    OPT_PARALLEL,
    OPT_QUEUE,
    OPT_API_KEY,
    OPT_CORS,
    OPT_MAX_BODY,
    OPT_TIMEOUT,
    OPT_ALIAS,
    OPT_SESSION,
    OPT_PREFIX,
    OPT_PROMPT_TOKENS,
    OPT_DEPTH,
    OPT_RUNS,
    OPT_STAGES,
    OPT_ROUTING,
    OPT_DRY,
    OPT_LIKE,
    OPT_LAYERS,
    OPT_MTP,
    OPT_VOCAB,
    OPT_PPL,
    OPT_MAX_WINDOWS,
    OPT_REF,
    OPT_REF_EXACT,
    OPT_KV_QUALITY,
    OPT_KV_MEMORY,
    OPT_SVG,
    OPT_PLOT,
    OPT_JSON,
    OPT_CSV,
    OPT_PROGRESS,
    OPT_QUIET,
    OPT_VERBOSE,
    OPT_MAN,
    OPT_HELP,
    OPT_COUNT
} app_option_id;

typedef enum app_kind {
    APP_FLAG,   /* no argument; may be given more than once */
    APP_TEXT,   /* any */
    APP_PATH,   /* any; the shell completes file names */
    APP_NUMBER, /* an integer in [min, max]; -1 where min is -1 */
    APP_SIZE,   /* bytes with K M G T or Ki Mi Gi Ti, all binary */
    APP_REAL,   /* in [min, max] */
    APP_CHOICE  /* one of `argument`, which reads "a|b|c" */
} app_kind;

typedef struct app_option {
    const char *name;  /* long name; HLWQ_<NAME> and the config key follow from it */
    const char *alias; /* other long names, separated by spaces; NULL = none */
    char letter;       /* 0 = none */
    app_kind kind;
    const char *argument; /* in help: "FILE", "N"; for APP_CHOICE the choices */
    double min, max;      /* NUMBER and REAL */
    const char *fallback; /* in help; NULL = says nothing */
    const char *help;
    unsigned commands; /* bits 1 << app_command_id */
    bool line_only;    /* of no use in the environment or the config file */
} app_option;

typedef struct app_command {
    const char *name;
    const char *operands;           /* in usage: "[PROMPT...]"; "" = none */
    int min_operands, max_operands; /* max -1 = any number */
    const char *summary;            /* one line */
    const char *details;            /* more, for --help and the manual; NULL = none */
} app_command;

extern const app_option app_option_table[OPT_COUNT];
extern const app_command app_command_table[APP_COMMAND_COUNT];

typedef struct app_value {
    bool set;
    int64_t number;   /* FLAG (how often), NUMBER, CHOICE (index) */
    uint64_t bytes;   /* SIZE */
    double real;      /* REAL */
    const char *text; /* as given; owned by the args for the environment and the config file, else by argv */
} app_value;

typedef struct app_args {
    app_command_id command;
    app_value value[OPT_COUNT];
    int n_operands;
    char **operand;        /* points into argv */
    struct json_t *config; /* the config file; values point into it */
    char *config_text;     /* and its numbers as text */
} app_args;

/*
 * Parses argv[2..] for `command`, then the environment, then the config file.  argv is reordered: operands
 * come to the front.  HLWQ_ERR_ARG with a sentence for anything a user got wrong, HLWQ_ERR_IO for a config
 * file that cannot be read.
 */
hlwq_status app_parse(app_args *args, app_command_id command, int argc, char **argv, hlwq_error *err);
void app_args_close(app_args *args);

/* By name, with the nearest name in the sentence where there is none. */
hlwq_status app_find_command(const char *name, app_command_id *command, hlwq_error *err);

/* The option of that long name or alias; -1 if there is none for any command in `commands`. */
int app_find_option(const char *name, size_t bytes, unsigned commands);

bool app_flag(const app_args *args, app_option_id id);
int64_t app_number(const app_args *args, app_option_id id, int64_t fallback);
const char *app_text(const app_args *args, app_option_id id, const char *fallback);

/* "HLWQ_TOP_K" for top-k. */
void app_env_name(char *out, size_t capacity, const char *name);

/* $XDG_CONFIG_HOME/hlwq-stream/config.json, else ~/.config/...; false if neither variable is set. */
bool app_config_path(char *out, size_t capacity);

/* "1.5G", "512Mi", "4096". False if it is not a size or does not fit. */
bool app_parse_size(const char *text, uint64_t *bytes);

/* Edits between two words: insertions, deletions, exchanges and swapped neighbours. */
unsigned app_distance(const char *a, const char *b);

/* app/help.c */
void app_print_overview(FILE *out);
void app_print_help(FILE *out, app_command_id command);
void app_print_manual(FILE *out);

/* app/completion.c: what writes the completion for bash, zsh or fish; NULL for another shell. */
typedef void (*app_printer)(FILE *out);
app_printer app_completion(const char *shell);

#endif
