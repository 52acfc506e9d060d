/*
 * app/bench_plot.c - points of a file, drawn: what several runs of `bench` found, side by side.
 */
#include "app/bench_plot.h"

#include "app/chart.h"
#include "app/console.h"
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { POINTS = 64, FILE_MAX = 1 << 20, ROOM = 190 };

#define NUMBER_MAX 1e15

typedef struct plot {
    const char *path;
    const char *name[APP_CHART_LINES];
    double point[APP_CHART_LINES][POINTS][2];
    app_line line[APP_CHART_LINES];
    app_chart chart;
} plot;

static hlwq_status read_number(const plot *p, const hs_json *v, bool positive, double *out, hlwq_error *err)
{
    hs_json_type type = hs_json_type_of(v);
    if (type != HS_JSON_INTEGER && type != HS_JSON_REAL)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: a point is two numbers", p->path);
    *out = hs_json_real(v);
    if (!(fabs(*out) <= NUMBER_MAX) || (positive && !(*out >= 1 / NUMBER_MAX)))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: %g has no place on %s axis", p->path, *out,
                       positive ? "a logarithmic" : "an");
    return HLWQ_OK;
}

static hlwq_status read_line(plot *p, size_t i, const hs_json *node, hlwq_error *err)
{
    const hs_json *points = hs_json_get(node, "points");
    size_t n = hs_json_count(points);
    HS_TRY(hs_json_take_string(node, "name", HS_REQUIRED, &p->name[i], p->path, err));
    if (hs_json_type_of(points) != HS_JSON_ARRAY || n == 0 || n > POINTS)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"%s\" has %zu points, but 1 to %d can be drawn", p->path, p->name[i],
                       n, POINTS);
    for (size_t k = 0; k < n; k++) {
        const hs_json *pair = hs_json_at(points, k);
        if (hs_json_type_of(pair) != HS_JSON_ARRAY || hs_json_count(pair) != 2)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: a point is two numbers", p->path);
        HS_TRY(read_number(p, hs_json_at(pair, 0), p->chart.x.log, &p->point[i][k][0], err));
        HS_TRY(read_number(p, hs_json_at(pair, 1), p->chart.y.log, &p->point[i][k][1], err));
    }
    p->line[i] = (app_line){p->name[i], (const double(*)[2])p->point[i], n, true};
    return HLWQ_OK;
}

static hlwq_status read_plot(plot *p, const hs_json *root, hlwq_error *err)
{
    const hs_json *series = hs_json_get(root, "series");
    app_chart *c = &p->chart;
    size_t n = hs_json_count(series);
    HS_TRY(hs_json_take_string(root, "title", HS_REQUIRED, &c->title, p->path, err));
    HS_TRY(hs_json_take_string(root, "x", HS_OPTIONAL, &c->x.title, p->path, err));
    HS_TRY(hs_json_take_string(root, "y", HS_OPTIONAL, &c->y.title, p->path, err));
    HS_TRY(hs_json_take_bool(root, "log_x", HS_OPTIONAL, &c->x.log, p->path, err));
    HS_TRY(hs_json_take_bool(root, "log_y", HS_OPTIONAL, &c->y.log, p->path, err));
    if (hs_json_type_of(series) != HS_JSON_ARRAY || n == 0 || n > APP_CHART_LINES)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: %zu series, but 1 to %d can be drawn", p->path, n, APP_CHART_LINES);
    for (size_t i = 0; i < n; i++)
        HS_TRY(read_line(p, i, hs_json_at(series, i), err));
    c->line = p->line;
    c->n_lines = n;
    c->room = ROOM;
    return HLWQ_OK;
}

/* From the least to the most, with some room. */
static void stretch(plot *p, app_axis *a, int which)
{
    a->low = INFINITY;
    a->high = -INFINITY;
    for (size_t i = 0; i < p->chart.n_lines; i++)
        for (size_t k = 0; k < p->line[i].n; k++) {
            a->low = fmin(a->low, p->point[i][k][which]);
            a->high = fmax(a->high, p->point[i][k][which]);
        }
    if (a->log) {
        a->low *= 0.8;
        a->high *= 1.25;
    } else {
        double more = fmax((a->high - a->low) * 0.05, fmax(fabs(a->high), 1) * 1e-6);
        a->low -= more;
        a->high += more;
    }
}

static hlwq_status draw(plot *p, const char *to, hlwq_error *err)
{
    app_tick x[32], y[64];
    app_chart *c = &p->chart;
    stretch(p, &c->x, 0);
    stretch(p, &c->y, 1);
    c->x.tick = x;
    c->x.n_ticks = app_chart_ticks(&c->x, x, sizeof x / sizeof *x);
    c->y.tick = y;
    c->y.n_ticks = app_chart_ticks(&c->y, y, sizeof y / sizeof *y);
    hs_text t = {0};
    app_chart_draw(&t, c);
    return app_text_to_file(&t, to, err);
}

static hlwq_status plot_file(const app_args *args, plot *p, hlwq_error *err)
{
    const char *to = app_text(args, OPT_SVG, NULL);
    char *data;
    size_t bytes;
    hs_json *root;
    p->path = app_text(args, OPT_PLOT, NULL);
    if (!to)
        return hs_fail(err, HLWQ_ERR_ARG, "--plot needs the file to draw: --svg FILE");
    HS_TRY(app_read(p->path, FILE_MAX, &data, &bytes, err));
    hlwq_status st = hs_json_parse(data, bytes, p->path, &root, err);
    free(data);
    HS_TRY(st);
    st = read_plot(p, root, err);
    if (st == HLWQ_OK)
        st = draw(p, to, err);
    hs_json_free(root);
    return st;
}

int app_bench_plot(const app_args *args)
{
    hlwq_error err;
    plot *p = calloc(1, sizeof *p);
    hlwq_status st = p ? plot_file(args, p, &err) : hs_fail(&err, HLWQ_ERR_NOMEM, "no memory");
    free(p);
    return app_finish(st, &err);
}
