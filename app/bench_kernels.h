/*
 * app/bench_kernels.h - `bench kernels`.
 */
#ifndef HS_APP_BENCH_KERNELS_H
#define HS_APP_BENCH_KERNELS_H

#include "app/options.h"

/* Measures every product of this build and prints a table, JSON or CSV; returns an exit code. */
int app_bench_kernels(const app_args *args);

#endif
