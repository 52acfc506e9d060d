/*
 * app/bench_plot.h - `bench --plot FILE.json --svg FILE`.
 */
#ifndef HS_APP_BENCH_PLOT_H
#define HS_APP_BENCH_PLOT_H

#include "app/options.h"

/*
 * {"title", "x", "y": strings, "log_y": bool, "series": [{"name", "points": [[x, y], ...]}, ...]}; measures nothing.
 * Returns an exit code.
 */
int app_bench_plot(const app_args *args);

#endif
