/*
 * model/quantize_widths.c - a trial, a budget, a choice.
 */
#define _GNU_SOURCE
#include "model/quantize_widths.h"

#include "base/size.h"
#include "model/allocate.h"
#include "model/sensitivity.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { TRIAL_TOKENS = 16384, APART_TOKENS = 2048 };

/* ---- which matrices, how large -------------------------------------------------------------- */

static bool is_of_layer(const hs_group *g)
{
    return g->kind == HS_GROUP_LAYER || g->kind == HS_GROUP_EXPERTS;
}

/* Where a part's width stands in q->width; false for what has none of its own. */
static bool place_of(const hs_group *g, const hs_part *p, uint32_t *at)
{
    hs_kind kind = hs_kind_of(p->role);
    if (!is_of_layer(g) || kind == HS_KIND_COUNT)
        return false;
    *at = g->layer * HS_KIND_COUNT + kind;
    return true;
}

static hs_dtype width_of(void *user, const hs_group *g, const hs_part *p)
{
    const hs_quantize *q = user;
    uint32_t at, bits = (uint32_t)(q->o->bits + 0.5);
    return hs_dtype_of_bits(place_of(g, p, &at) ? q->width[at] : bits);
}

/* What each choice takes at each width, and the bytes of everything else in the file. */
static hlwq_status count_bytes(const hs_quantize *q, const hs_precision *outer, hs_choice *choice, uint64_t *weights,
                               uint64_t *others, hlwq_error *err)
{
    const hs_table *t = q->from.table;
    *weights = *others = 0;
    for (uint32_t g = 0; g < t->n_groups; g++) {
        const hs_group *group = &t->group[g];
        *others += (uint64_t)group->count * HS_EXTENT_ALIGN / 2; /* the end of an extent, on average */
        for (uint32_t i = 0; i < group->n_parts; i++) {
            const hs_part *p = &group->part[i];
            uint32_t at;
            hs_planes planes;
            hs_role_class kind = hs_role_class_of(p->role);
            hs_dtype d = kind == HS_CLASS_MATRIX  ? outer->matrix
                         : kind == HS_CLASS_EMBED ? outer->embed
                         : kind == HS_CLASS_HEAD  ? outer->head
                                                  : p->dtype;
            if (!hs_dtype_packed(d))
                d = p->dtype;
            if (hs_dtype_packed(p->dtype) && kind == HS_CLASS_MATRIX)
                return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                               "%s: codes are not coded again; quantize reads BF16, F16, F32", hs_role_name(p->role));
            if (!place_of(group, p, &at)) {
                *others += hs_planes_of(d, p->rows, p->cols, &planes) ? planes.bytes * group->count : 0;
                continue;
            }
            *weights += (uint64_t)p->rows * hs_align_up(p->cols, HS_BLOCK) * group->count;
            for (int w = 0; w < HS_WIDTHS; w++)
                if (hs_planes_of(hs_dtype_of_bits((uint32_t)(HS_WIDTH_LEAST + w)), p->rows, p->cols, &planes))
                    choice[at].bytes[w] += planes.bytes * group->count;
        }
    }
    return HLWQ_OK;
}

/* ---- the trial ------------------------------------------------------------------------------ */

static hlwq_status measure(hs_quantize *q, const hs_precision *p, const int32_t *ids, uint32_t windows, double *kl,
                           hlwq_error *err)
{
    const hlwq_quantize_options *o = q->o;
    hlwq_quantize_options trial = *o;
    hs_precision three = *p;
    uint32_t apart = (uint32_t)hs_max_u64(1, APART_TOKENS / o->window), most = TRIAL_TOKENS / o->window + apart;
    if (windows < 2)
        return hs_fail(err, HLWQ_ERR_ARG, "the text has one window only; with two or more, widths can be chosen");
    if (apart > windows / 2)
        apart = windows / 2;
    uint32_t used = windows < most ? windows : most;
    int32_t *some = malloc((size_t)used * o->window * sizeof *some);
    if (!some)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a trial");
    for (uint32_t i = 0; i < used; i++) /* spread over the text */
        memcpy(some + (size_t)i * o->window, ids + (size_t)((uint64_t)i * windows / used) * o->window,
               o->window * sizeof *some);
    trial.follow = trial.catch_up = 0;
    trial.sweeps = 0;
    three.matrix = HS_Q3;
    q->o = &trial;
    hlwq_status st = hs_quantize_open_run(q, &three, some, used, err);
    if (st == HLWQ_OK)
        st = hs_measure_sensitivity(q, apart, kl, err);
    hs_quantize_close_run(q);
    q->o = o;
    free(some);
    return st;
}

static void say_widths(hs_quantize *q, const hs_choice *choice, const double *kl, uint64_t weights)
{
    uint64_t bytes = 0;
    double cost = 0;
    for (uint32_t l = 0; l < q->from.config->layers; l++) {
        char line[512];
        int n = snprintf(line, sizeof line, "layer %u:", l);
        for (int k = 0; k < HS_KIND_COUNT; k++) {
            uint32_t at = l * HS_KIND_COUNT + (uint32_t)k;
            if (choice[at].bytes[0] == 0)
                continue;
            n += snprintf(line + n, sizeof line - (size_t)n, " %s %u (%.2e)", hs_kind_name((hs_kind)k), q->width[at],
                          kl[at]);
            bytes += choice[at].bytes[q->width[at] - HS_WIDTH_LEAST];
            cost += choice[at].cost[q->width[at] - HS_WIDTH_LEAST];
        }
        hs_log_line(&q->log, HLWQ_LOG_INFO, "%s", line);
    }
    hs_log_line(&q->log, HLWQ_LOG_INFO,
                "widths (and nats that a kind costs at 3 bits): %.3f bits a weight, expected to cost %.2e nats",
                8.0 * (double)bytes / (double)weights, cost);
}

static hlwq_status choose(hs_quantize *q, const hs_precision *p, const double *kl, hlwq_error *err)
{
    uint32_t n = q->from.config->layers * HS_KIND_COUNT;
    uint64_t weights, others;
    hs_choice *choice = calloc(n, sizeof *choice);
    if (!choice)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to distribute bits");
    hlwq_status st = count_bytes(q, p, choice, &weights, &others, err);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t w = 0; w < HS_WIDTHS; w++)
            choice[i].cost[w] = kl[i] * hs_width_error(HS_WIDTH_LEAST + w);
    uint64_t budget = (uint64_t)(q->o->bits * (double)weights / 8);
    if (q->o->target_bytes)
        budget = q->o->target_bytes > others ? q->o->target_bytes - others : 0;
    if (st == HLWQ_OK)
        st = hs_allocate(choice, n, budget, q->width, err);
    if (st == HLWQ_OK)
        say_widths(q, choice, kl, weights);
    free(choice);
    return st;
}

hlwq_status hs_quantize_widths(hs_quantize *q, hs_precision *p, const int32_t *ids, uint32_t windows, hlwq_error *err)
{
    uint32_t n = q->from.config->layers * HS_KIND_COUNT;
    if (q->o->format || (q->o->bits == (uint32_t)q->o->bits && !q->o->target_bytes))
        return HLWQ_OK;
    double *kl = calloc(n, sizeof *kl);
    q->width = calloc(n, 1);
    hlwq_status st = kl && q->width ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to distribute bits");
    if (st == HLWQ_OK && !hs_work_load(&q->saved, "widths", q->width, n, NULL, 0)) {
        st = measure(q, p, ids, windows, kl, err);
        if (st == HLWQ_OK)
            st = choose(q, p, kl, err);
        if (st == HLWQ_OK)
            st = hs_work_save(&q->saved, "widths", q->width, n, NULL, 0, err);
    }
    free(kl);
    for (uint32_t i = 0; i < n; i++) /* kinds that a layer does not have */
        if (st == HLWQ_OK && (q->width[i] < HS_WIDTH_LEAST || q->width[i] > HS_WIDTH_MOST))
            q->width[i] = HS_WIDTH_LEAST;
    p->choose = width_of;
    p->user = q;
    return st;
}

/* ---- the source's identity ------------------------------------------------------------------ */

hlwq_status hs_quantize_source_key(const char *folder, uint64_t *key, hlwq_error *err)
{
    DIR *d = opendir(folder);
    if (!d)
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", folder, strerror(errno));
    *key = 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        hs_file f;
        char path[4096];
        size_t n = strlen(e->d_name);
        if (n < 12 || strcmp(e->d_name + n - 12, ".safetensors") != 0 ||
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= (int)sizeof path ||
            hs_file_open(&f, path, NULL) != HLWQ_OK)
            continue;
        const int64_t what[] = {(int64_t)f.bytes, f.mtime_ns};
        hs_file_close(&f);
        *key += XXH3_64bits_withSeed(what, sizeof what, XXH3_64bits(e->d_name, n)); /* in whatever order they come */
    }
    closedir(d);
    return HLWQ_OK;
}
