/*
 * app/quality.h - how far a model's predictions are from a reference's: not only on average.
 */
#ifndef HS_APP_QUALITY_H
#define HS_APP_QUALITY_H

#include "app/console.h"

enum { APP_QUALITY_PARTS = 8 };

typedef struct app_quality {
    float *kl; /* [n] of each prediction */
    uint64_t n, capacity;
    uint64_t windows;
    double window_sum, windows_sum, windows_square; /* of means over a window */
    uint64_t window_n;
    double part_sum[APP_QUALITY_PARTS]; /* by place in the window */
    uint64_t part_n[APP_QUALITY_PARTS];
} app_quality;

/* One prediction, at `place` of `places` in its window. */
hlwq_status app_quality_add(app_quality *q, double kl, uint32_t place, uint32_t places, hlwq_error *err);
void app_quality_end_window(app_quality *q);
void app_quality_close(app_quality *q);

/* Half the width of the 95 % interval of the mean, from how much windows differ; NaN for fewer than two. */
double app_quality_interval(const app_quality *q);

/* The KL that a share of all predictions does not exceed. Sorts. */
double app_quality_quantile(app_quality *q, double share);

/* A sentence, or members of a JSON object, each after a comma. */
void app_quality_text(app_quality *q, hs_text *t);
void app_quality_json(app_quality *q, hs_text *t);

#endif
