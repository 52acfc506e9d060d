/*
 * app/options_private.h - what options.c and config.c share.
 */
#ifndef HS_APP_OPTIONS_PRIVATE_H
#define HS_APP_OPTIONS_PRIVATE_H

#include "app/options.h"

/* `where` begins the sentence: "--top-k", "HLWQ_TOP_K", "config.json: top-k". */
hlwq_status app_parse_value(const app_option *o, app_value *v, const char *text, const char *where, hlwq_error *err);

/* Names the nearest option; `where` is "" for the command line. */
hlwq_status app_unknown_option(const char *name, size_t bytes, unsigned commands, const char *where, hlwq_error *err);

/* What the config file says of options that are not set yet. */
hlwq_status app_parse_config(app_args *args, hlwq_error *err);

#endif
