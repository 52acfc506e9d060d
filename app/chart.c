/*
 * app/chart.c - a frame of ticks, lines with their names beside them.
 */
#include "app/chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 720, HEIGHT = 420, LEFT = 70, TOP = 40, BOTTOM = 50, NAME_STEP = 14 };

static const char *const colours[APP_CHART_LINES] = {"#444",    "#1f77b4", "#2ca02c", "#d9a400",
                                                     "#d62728", "#9467bd", "#8c564b", "#17becf"};

/* `s` between tags. */
static void add_plain(hs_text *t, const char *s)
{
    for (; *s; s++) {
        const char *escaped = *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '&' ? "&amp;" : NULL;
        if (escaped)
            hs_text_add(t, escaped, strlen(escaped));
        else if ((unsigned char)*s >= ' ') /* other control characters are none of XML's */
            hs_text_add(t, s, 1);
    }
}

/* From 0 to 1 along the axis. */
static double share(const app_axis *a, double v)
{
    if (a->log)
        return log(v / a->low) / log(a->high / a->low);
    return (v - a->low) / (a->high - a->low);
}

static double x_of(const app_chart *c, double v)
{
    return LEFT + share(&c->x, v) * (WIDTH - LEFT - c->room);
}

static double y_of(const app_chart *c, double v)
{
    return HEIGHT - BOTTOM - share(&c->y, v) * (HEIGHT - TOP - BOTTOM);
}

static void draw_frame(hs_text *t, const app_chart *c)
{
    hs_text_format(t,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
                   "font-size=\"12\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n"
                   "<text x=\"%d\" y=\"22\" font-size=\"15\">",
                   WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    add_plain(t, c->title);
    hs_text_format(t, "</text>\n");
    for (size_t i = 0; i < c->x.n_ticks; i++) {
        double x = x_of(c, c->x.tick[i].at);
        hs_text_format(t, "<path d=\"M%.1f %dV%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">",
                       x, TOP, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 18);
        add_plain(t, c->x.tick[i].label);
        hs_text_format(t, "</text>\n");
    }
    for (size_t i = 0; i < c->y.n_ticks; i++) {
        double y = y_of(c, c->y.tick[i].at);
        hs_text_format(t, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">",
                       LEFT, y, WIDTH - c->room, LEFT - 6, y + 4);
        add_plain(t, c->y.tick[i].label);
        hs_text_format(t, "</text>\n");
    }
    if (c->x.title) {
        hs_text_format(t, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (WIDTH + LEFT - c->room) / 2, HEIGHT - 10);
        add_plain(t, c->x.title);
        hs_text_format(t, "</text>\n");
    }
    if (c->y.title) {
        hs_text_format(t, "<text transform=\"translate(16 %d) rotate(-90)\" text-anchor=\"middle\">",
                       (HEIGHT + TOP - BOTTOM) / 2);
        add_plain(t, c->y.title);
        hs_text_format(t, "</text>\n");
    }
}

static void draw_line(hs_text *t, const app_chart *c, const app_line *l, const char *colour)
{
    hs_text_format(t, "<path fill=\"none\" stroke-width=\"2\" stroke=\"%s\" d=\"", colour);
    for (size_t i = 0; i < l->n; i++)
        hs_text_format(t, "%s%.1f %.1f", i ? "L" : "M", x_of(c, l->point[i][0]), y_of(c, l->point[i][1]));
    hs_text_format(t, "\"/>\n");
    for (size_t i = 0; i < l->n && l->dots; i++)
        hs_text_format(t, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"/>\n", x_of(c, l->point[i][0]),
                       y_of(c, l->point[i][1]), colour);
}

/* Names from top to bottom, none on another. */
static void draw_names(hs_text *t, const app_chart *c)
{
    bool done[APP_CHART_LINES] = {false};
    double below = 0;
    for (size_t k = 0; k < c->n_lines; k++) {
        size_t top = 0;
        double least = INFINITY;
        for (size_t i = 0; i < c->n_lines; i++) {
            double y = y_of(c, c->line[i].point[c->line[i].n - 1][1]);
            if (!done[i] && y < least) {
                least = y;
                top = i;
            }
        }
        done[top] = true;
        below = fmax(least + 4, below + NAME_STEP);
        hs_text_format(t, "<text x=\"%d\" y=\"%.1f\" fill=\"%s\">", WIDTH - c->room + 6, below, colours[top]);
        add_plain(t, c->line[top].name);
        hs_text_format(t, "</text>\n");
    }
}

void app_chart_draw(hs_text *t, const app_chart *c)
{
    draw_frame(t, c);
    for (size_t i = 0; i < c->n_lines; i++)
        draw_line(t, c, &c->line[i], colours[i]);
    draw_names(t, c);
    hs_text_format(t, "</svg>\n");
}

size_t app_chart_ticks(const app_axis *a, app_tick *tick, size_t most)
{
    static const double steps[] = {1, 2, 5};
    size_t n = 0;
    if (a->log) {
        for (double decade = floor(log10(a->low)); decade <= log10(a->high); decade++)
            for (int k = 0; k < 3; k++) {
                double at = steps[k] * pow(10, decade);
                if (at >= a->low * 0.999 && at <= a->high * 1.001 && n < most)
                    tick[n++].at = at;
            }
    } else {
        double decade = pow(10, floor(log10((a->high - a->low) / 4))), step = decade;
        for (int k = 0; k < 3; k++)
            if ((a->high - a->low) / (steps[k] * decade) >= 4)
                step = steps[k] * decade;
        for (double k = ceil(a->low / step - 1e-9); k * step <= a->high + step * 1e-9 && n < most; k++)
            tick[n++].at = k * step + 0.0; /* no -0 */
    }
    for (size_t i = 0; i < n; i++)
        snprintf(tick[i].label, sizeof tick[i].label, "%.6g", tick[i].at);
    return n;
}
