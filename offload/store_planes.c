/*
 * offload/store_planes.c - norms, scales, factors and vectors are looked through; codes can be anything.
 */
#include "offload/store_planes.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* The first of n halves that is infinite or no number; n if there is none. */
static uint64_t odd_half(const uint8_t *data, uint64_t n)
{
    const uint16_t *half = (const uint16_t *)(const void *)data;
    uint32_t odd = 0;
    for (uint64_t i = 0; i < n; i++)
        odd |= (half[i] & 0x7C00u) == 0x7C00u;
    for (uint64_t i = 0; odd && i < n; i++)
        if ((half[i] & 0x7C00u) == 0x7C00u)
            return i;
    return n;
}

/* The first of n floats that is not finite, or with `positive` not above zero. */
static uint64_t odd_float(const uint8_t *data, uint64_t n, bool positive)
{
    const float *f = (const float *)(const void *)data;
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(f[i]) || (positive && !(f[i] > 0)))
            return i;
    return n;
}

static hlwq_status check_part(const hs_part *p, const uint8_t *data, const char *name, const char *path,
                              hlwq_error *err)
{
    const hs_planes *q = &p->planes;
    uint64_t n = p->rows * (uint64_t)q->groups, i;
    if (hs_dtype_packed(p->dtype) && (i = odd_half(data + q->norms, n)) < n)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %s: the %s of row %" PRIu64 ", %s %" PRIu64 " is not finite",
                       path, name, hs_dtype_int4(p->dtype) ? "scale" : "norm", i / q->groups,
                       hs_dtype_int4(p->dtype) ? "group" : "block", i % q->groups);
    if (q->factor_bytes && (i = odd_float(data + q->factor, p->cols, true)) < p->cols)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: tensor %s: the factor of input %" PRIu64 " is %g, should be above 0 and finite", path, name,
                       i, (double)((const float *)(const void *)(data + q->factor))[i]);
    if (hs_role_class_of(p->role) != HS_CLASS_VECTOR || p->dtype != HS_F32)
        return HLWQ_OK;
    n = (uint64_t)p->rows * p->cols;
    if ((i = odd_float(data + q->low, n, false)) < n)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %s: element %" PRIu64 " is %g, should be finite", path, name,
                       i, (double)((const float *)(const void *)(data + q->low))[i]);
    return HLWQ_OK;
}

hlwq_status hs_store_check_planes(const hs_group *group, uint32_t extent, const uint8_t *data, const char *path,
                                  hlwq_error *err)
{
    for (uint32_t i = 0; i < group->n_parts; i++) {
        char name[256];
        hlwq_status st = check_part(&group->part[i], data + group->part[i].offset, "", path, NULL);
        if (st == HLWQ_OK)
            continue;
        hs_part_name(name, sizeof name, group, extent, group->part[i].role);
        return check_part(&group->part[i], data + group->part[i].offset, name, path, err);
    }
    return HLWQ_OK;
}
