/*
 * app/bench_kv.h - `bench --kv-quality`.
 */
#ifndef HS_APP_BENCH_KV_H
#define HS_APP_BENCH_KV_H

#include "app/options.h"

/* Compares ways to keep keys and values on the text of --ppl, prints a table or JSON; returns an exit code. */
int app_bench_kv(const app_args *args);

#endif
