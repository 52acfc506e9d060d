/*
 * app/chart.h - lines over two axes, as SVG.
 *
 * Positions are the caller's numbers; an axis may be logarithmic.  Names may hold anything: they are escaped.
 */
#ifndef HS_APP_CHART_H
#define HS_APP_CHART_H

#include "base/text.h"

#include <stdbool.h>
#include <stddef.h>

enum { APP_CHART_LINES = 8 }; /* as many as there are colours */

typedef struct app_tick {
    double at;
    char label[24];
} app_tick;

typedef struct app_axis {
    const char *title; /* NULL = none */
    bool log;          /* then all numbers are positive */
    double low, high;  /* low < high */
    const app_tick *tick;
    size_t n_ticks;
} app_axis;

typedef struct app_line {
    const char *name; /* stands at the line's last point */
    const double (*point)[2];
    size_t n; /* at least one */
    bool dots;
} app_line;

typedef struct app_chart {
    const char *title;
    app_axis x, y;
    const app_line *line;
    size_t n_lines;
    int room; /* for names, right of the axes */
} app_chart;

/* Appends a whole file to `t`. */
void app_chart_draw(hs_text *t, const app_chart *c);

/* Ticks that suit an axis: 1, 2, 5 of each decade, or steps of those. At most `most`; how many there are. */
size_t app_chart_ticks(const app_axis *axis, app_tick *tick, size_t most);

#endif
