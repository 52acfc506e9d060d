/*
 * app/bench_speed.h - the speed half of bench.
 */
#ifndef HS_APP_BENCH_SPEED_H
#define HS_APP_BENCH_SPEED_H

#include "app/options.h"

/* Measures prefill and decode, prints a table or JSON, returns an exit code. */
int app_bench_speed(const app_args *args);

#endif
