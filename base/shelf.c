/*
 * base/shelf.c - the smallest that is large enough is taken.  Where none is, all are given up: sizes have changed.
 */
#include "base/shelf.h"

void hs_shelf_open(hs_shelf *s, hs_mem *mem, hs_mem_tag tag, uint64_t keep_bytes)
{
    *s = (hs_shelf){.mem = mem, .tag = tag, .keep_bytes = keep_bytes};
    pthread_mutex_init(&s->lock, NULL);
}

static void clear(hs_shelf *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        hs_mem_free(s->mem, s->kept[i].data);
    s->n = 0;
    s->kept_bytes = 0;
}

void hs_shelf_close(hs_shelf *s)
{
    clear(s);
    pthread_mutex_destroy(&s->lock);
}

hlwq_status hs_shelf_take(hs_shelf *s, uint64_t bytes, const char *what, void **out, uint64_t *got, hlwq_error *err)
{
    pthread_mutex_lock(&s->lock);
    uint32_t best = s->n;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->kept[i].bytes >= bytes && (best == s->n || s->kept[i].bytes < s->kept[best].bytes))
            best = i;
    const bool found = best < s->n;
    if (found) {
        *out = s->kept[best].data;
        *got = s->kept[best].bytes;
        s->kept_bytes -= *got;
        s->kept[best] = s->kept[--s->n];
    } else
        clear(s);
    pthread_mutex_unlock(&s->lock);
    if (found)
        return HLWQ_OK;
    *got = bytes;
    return hs_mem_alloc(s->mem, s->tag, bytes, what, out, err);
}

void hs_shelf_give(hs_shelf *s, void *data, uint64_t got)
{
    if (!data)
        return;
    pthread_mutex_lock(&s->lock);
    const bool keep = s->n < HS_SHELF_ROOM && got <= s->keep_bytes && s->kept_bytes <= s->keep_bytes - got;
    if (keep) {
        s->kept[s->n].data = data;
        s->kept[s->n++].bytes = got;
        s->kept_bytes += got;
    }
    pthread_mutex_unlock(&s->lock);
    if (!keep)
        hs_mem_free(s->mem, data);
}
