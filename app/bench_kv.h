/*
 * app/bench_kv.h - `bench --kv-quality` and `bench --kv-memory`.
 */
#ifndef HS_APP_BENCH_KV_H
#define HS_APP_BENCH_KV_H

#include "app/options.h"

/* Compares ways to keep keys and values on the text of --ppl, prints a table or JSON; returns an exit code. */
int app_bench_kv(const app_args *args);

/* Bytes of keys and values from 4,096 to 262,144 tokens: `bench --kv-memory`; no weights are read. */
int app_bench_kv_memory(const app_args *args);

#endif
