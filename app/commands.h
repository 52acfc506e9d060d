/*
 * app/commands.h - one function a command; each returns an exit code and has printed its error.
 */
#ifndef HS_APP_COMMANDS_H
#define HS_APP_COMMANDS_H

#include "app/options.h"

int app_cmd_run(const app_args *args);
int app_cmd_chat(const app_args *args);
int app_cmd_serve(const app_args *args);
int app_cmd_convert(const app_args *args);
int app_cmd_quantize(const app_args *args);
int app_cmd_info(const app_args *args);
int app_cmd_logits(const app_args *args);
int app_cmd_tokenize(const app_args *args);
int app_cmd_template(const app_args *args);
int app_cmd_bench(const app_args *args);
int app_cmd_synth(const app_args *args);
int app_cmd_plan(const app_args *args);
int app_cmd_sim(const app_args *args);
int app_cmd_doctor(const app_args *args);

#endif
