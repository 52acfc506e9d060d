/*
 * app/open.h - from options to an engine: the model's path, engine options, the memory of what was opened.
 */
#ifndef HS_APP_OPEN_H
#define HS_APP_OPEN_H

#include "app/console.h"

/*
 * --model, else the demo model: models/demo-q5.hlwq two folders above the program, or
 * ../share/hlwq-stream/demo-q5.hlwq beside it when installed.  *path is malloc'ed.
 */
hlwq_status app_model_path(const app_args *args, char **path, hlwq_error *err);

/* The engine options of `args`; the options refer to `path`. */
hlwq_status app_engine_options(const app_args *args, const char *path, hlwq_engine_options *out, hlwq_error *err);

/* Opens `path` with the engine options of `args`, for `context` positions (0 = --ctx); shows a bar while it loads. */
hlwq_status app_engine_open(const app_args *args, const char *path, bool exact, uint32_t context, hlwq_engine **engine,
                            hlwq_error *err);

/* One of the choices of --kv. */
hlwq_kv app_kv_named(const char *name);

/* Context, --kv and sampling of a session; --seed -1 has become another seed each time. */
hlwq_status app_session_options(const app_args *args, const hlwq_engine *engine, hlwq_session_options *out,
                                hlwq_error *err);

/* --json-schema or --grammar-json; *constraint is NULL where neither is given. To be closed before the engine. */
hlwq_status app_constraint(const app_args *args, const hlwq_engine *engine, hlwq_constraint **constraint,
                           hlwq_error *err);

/* The options of sampling that were given, over what *sampling holds. */
hlwq_status app_sampling(const app_args *args, hlwq_sampling *sampling, hlwq_error *err);

/* --kv. */
hlwq_kv app_kv(const app_args *args, hlwq_kv fallback);

/* --bits: a number, or the name of a format. Both stay as they are where the option is not given. */
void app_weight_format(const app_args *args, uint32_t *bits, const char **format);

/* Most bytes this process had in memory. */
uint64_t app_peak_rss_bytes(void);

double app_rate(uint64_t count, double seconds); /* 0 where there is none */

#endif
