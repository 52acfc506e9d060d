/*
 * app/quality.c - mean, interval, quantiles, and by place in the window.
 */
#include "app/quality.h"

#include <math.h>
#include <stdlib.h>

hlwq_status app_quality_add(app_quality *q, double kl, uint32_t place, uint32_t places, hlwq_error *err)
{
    if (q->n == q->capacity) {
        uint64_t more = q->capacity ? 2 * q->capacity : 4096;
        float *p = realloc(q->kl, more * sizeof *p);
        if (!p)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the divergence of each prediction");
        q->kl = p;
        q->capacity = more;
    }
    uint32_t part = (uint32_t)((uint64_t)place * APP_QUALITY_PARTS / places);
    q->kl[q->n++] = (float)kl;
    q->window_sum += kl;
    q->window_n++;
    q->part_sum[part] += kl;
    q->part_n[part]++;
    return HLWQ_OK;
}

void app_quality_end_window(app_quality *q)
{
    double mean = q->window_n ? q->window_sum / (double)q->window_n : 0;
    q->windows++;
    q->windows_sum += mean;
    q->windows_square += mean * mean;
    q->window_sum = 0;
    q->window_n = 0;
}

void app_quality_close(app_quality *q)
{
    free(q->kl);
    *q = (app_quality){0};
}

double app_quality_interval(const app_quality *q)
{
    double n = (double)q->windows, mean = q->windows_sum / n;
    if (q->windows < 2)
        return NAN;
    double variance = (q->windows_square - n * mean * mean) / (n - 1);
    return 1.96 * sqrt((variance > 0 ? variance : 0) / n);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double app_quality_quantile(app_quality *q, double share)
{
    if (!q->n)
        return 0;
    qsort(q->kl, q->n, sizeof *q->kl, ascending);
    return (double)q->kl[(uint64_t)(share * (double)(q->n - 1))];
}

void app_quality_text(app_quality *q, hs_text *t)
{
    hs_text_format(t,
                   "KL mean +- %.6f (95 %%, by windows), median %.6f, 99 %% of predictions below %.6f; by place in "
                   "the window:",
                   app_quality_interval(q), app_quality_quantile(q, 0.5), app_quality_quantile(q, 0.99));
    for (int i = 0; i < APP_QUALITY_PARTS; i++)
        hs_text_format(t, " %.6f", q->part_n[i] ? q->part_sum[i] / (double)q->part_n[i] : 0.0);
    hs_text_format(t, "\n");
}

void app_quality_json(app_quality *q, hs_text *t)
{
    double interval = app_quality_interval(q);
    hs_text_format(t, ",\"kl_median\":%.8f,\"kl_99\":%.8f", app_quality_quantile(q, 0.5),
                   app_quality_quantile(q, 0.99));
    if (isfinite(interval))
        hs_text_format(t, ",\"kl_interval_95\":%.8f", interval);
    for (int i = 0; i < APP_QUALITY_PARTS; i++)
        hs_text_format(t, "%s%.8f", i ? "," : ",\"kl_by_place\":[",
                       q->part_n[i] ? q->part_sum[i] / (double)q->part_n[i] : 0.0);
    hs_text_format(t, "]");
}
