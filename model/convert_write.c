/*
 * model/convert_write.c - three steps at once: the system reads what the next extents are made of, the pool makes one,
 * and a thread of its own writes those before it.
 *
 * The writer alone touches the container.  From time to time it sees to it that all it wrote is on the disk and only
 * then notes how far that is, so a run that finds the note can trust what lies before it.
 */
#include "model/convert_write.h"

#include "base/clock.h"
#include "base/size.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define WAITING_MAX (96ull << 20) /* bytes that are made and not written, unless one extent is larger */
#define AHEAD_MAX (48ull << 20)   /* bytes of extents whose sources are asked for */
#define KEEP_EVERY (256ull << 20) /* bytes between two notes: little work is lost, the disk is seldom waited for */
enum { SLOTS = 64 };

typedef struct line {
    hs_store *store;
    const hs_table *table;
    hs_mem *mem;
    hs_pool *pool;
    const hlwq_convert_options *o;
    hlwq_convert_report *report;
    hs_work work;
    hs_container_writer *writer;
    uint64_t *hash;               /* of each extent of the table; the writer's */
    uint64_t n, finished;         /* extents; of those, what an earlier run left */
    uint64_t keep_every, unsaved; /* bytes; the writer's */
    bool kept;                    /* there is a note */

    pthread_mutex_t lock; /* of what follows: the maker and the writer meet here */
    pthread_cond_t moved;
    void *data[SLOTS];
    uint64_t bytes[SLOTS];
    uint64_t made, written, waiting; /* extents; bytes */
    bool last;                       /* no more will be made */
    hlwq_status status;              /* the writer's */
    hlwq_error error;
} line;

/* ---- how far ------------------------------------------------------------------------------------ */

/* Everything that the output depends on. */
static uint64_t key_of(const hs_store *store)
{
    uint64_t part[HS_BLOB_COUNT + 3] = {2 /* of this list */, hs_store_fingerprint(store)}, bytes;
    const char *provenance = hs_store_provenance(store);
    for (int b = 0; b < HS_BLOB_COUNT; b++) {
        const char *text = hs_store_blob(store, (hs_blob)b, &bytes);
        part[2 + b] = text ? XXH3_64bits(text, bytes) : 0;
    }
    part[2 + HS_BLOB_COUNT] = provenance ? XXH3_64bits(provenance, strlen(provenance)) : 0;
    return XXH3_64bits(part, sizeof part);
}

static hlwq_status note(line *l, uint64_t finished, hlwq_error *err)
{
    HS_TRY(hs_container_sync(l->writer, l->hash, err));
    HS_TRY(hs_work_save(&l->work, "extents", &finished, sizeof finished, l->hash, l->n * sizeof *l->hash, err));
    l->kept = true;
    l->unsaved = 0;
    return HLWQ_OK;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* Extent number `i`. */
static hlwq_status write_one(line *l, uint64_t i, const void *data, uint64_t bytes, hlwq_error *err)
{
    uint64_t start = hs_now_ns();
    hlwq_status st = hs_container_append(l->writer, data, false, err);
    l->unsaved += bytes;
    if (st == HLWQ_OK && l->unsaved >= l->keep_every)
        st = note(l, i + 1, err);
    l->report->write_seconds += (double)(hs_now_ns() - start) * 1e-9;
    l->report->written_bytes += bytes;
    return st;
}

static void *write_all(void *user)
{
    line *l = user;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (l->made == l->written && !l->last)
            pthread_cond_wait(&l->moved, &l->lock);
        if (l->made == l->written || l->status != HLWQ_OK)
            break;
        const uint64_t at = l->written, slot = at % SLOTS, bytes = l->bytes[slot];
        void *data = l->data[slot];
        pthread_mutex_unlock(&l->lock);
        hlwq_error err = {0};
        hlwq_status st = write_one(l, at, data, bytes, &err);
        hs_mem_free(l->mem, data);
        pthread_mutex_lock(&l->lock);
        l->waiting -= bytes;
        l->written++;
        if (st != HLWQ_OK) {
            l->status = st;
            l->error = err;
            l->written--; /* that one is not in the file */
            l->data[slot] = NULL;
        }
        pthread_cond_broadcast(&l->moved);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- making --------------------------------------------------------------------------------- */

typedef struct place {
    uint32_t group, extent;
} place;

static void step(const hs_table *t, place *p)
{
    if (++p->extent == t->group[p->group].count) {
        p->extent = 0;
        p->group++;
    }
}

/* Waits for room and puts an extent in the queue. */
static hlwq_status make_one(line *l, place at, hlwq_error *err)
{
    const uint64_t bytes = l->table->group[at.group].bytes;
    void *data;
    pthread_mutex_lock(&l->lock);
    while (l->status == HLWQ_OK && l->waiting && (l->waiting + bytes > WAITING_MAX || l->made - l->written == SLOTS))
        pthread_cond_wait(&l->moved, &l->lock);
    hlwq_status st = l->status;
    pthread_mutex_unlock(&l->lock);
    if (st != HLWQ_OK)
        return st; /* the writer's error is told at the end */
    HS_TRY(hs_mem_alloc(l->mem, HS_MEM_IO, bytes, "extent", &data, err));
    uint64_t start = hs_now_ns();
    st = hs_store_load(l->store, at.group, at.extent, l->pool, false, data, err);
    l->report->make_seconds += (double)(hs_now_ns() - start) * 1e-9;
    if (st != HLWQ_OK) {
        hs_mem_free(l->mem, data);
        return st;
    }
    pthread_mutex_lock(&l->lock);
    l->data[l->made % SLOTS] = data;
    l->bytes[l->made % SLOTS] = bytes;
    l->made++;
    l->waiting += bytes;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
    return HLWQ_OK;
}

static hlwq_status make_all(line *l, hlwq_error *err)
{
    const hs_table *t = l->table;
    uint64_t total = 0, done = 0, asked = 0, i = 0;
    place ahead = {0, 0};
    for (uint32_t g = 0; g < t->n_groups; g++)
        total += t->group[g].bytes * t->group[g].count;
    for (place at = {0, 0}; at.group < t->n_groups; step(t, &at), i++) {
        const uint64_t bytes = t->group[at.group].bytes;
        done += bytes;
        if (i < l->finished) {
            asked = done;
            ahead = at;
            step(t, &ahead);
            continue;
        }
        for (; ahead.group < t->n_groups && asked < done + AHEAD_MAX; step(t, &ahead)) {
            hs_store_ahead(l->store, ahead.group, ahead.extent);
            asked += t->group[ahead.group].bytes;
        }
        HS_TRY(make_one(l, at, err));
        if (l->o->progress && !l->o->progress(l->o->user, done, total))
            return hs_fail(err, HLWQ_ERR_CANCELLED, "convert was stopped");
    }
    return HLWQ_OK;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static void free_waiting(line *l)
{
    for (uint64_t i = l->written; i < l->made; i++)
        hs_mem_free(l->mem, l->data[i % SLOTS]);
}

/* The maker's own error counts unless it only stopped because the writer did. */
static hlwq_status run(line *l, hlwq_error *err)
{
    pthread_t writer;
    hlwq_error made = {0};
    if (pthread_create(&writer, NULL, write_all, l) != 0)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a thread that writes");
    hlwq_status st = make_all(l, &made);
    pthread_mutex_lock(&l->lock);
    l->last = true;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
    pthread_join(writer, NULL);
    free_waiting(l);
    if (l->status != HLWQ_OK || st != HLWQ_OK) {
        st = l->status != HLWQ_OK ? l->status : st;
        if (err)
            *err = l->status != HLWQ_OK ? l->error : made;
    }
    return st;
}

/* What is worth going on from stays; the sentence says so. */
static hlwq_status stopped(line *l, hlwq_status st, hlwq_error *err)
{
    hlwq_error why;
    if (l->unsaved >= l->keep_every / 4)
        (void)note(l, l->written, &why); /* on a full disk the note before this one holds */
    hs_container_leave(l->writer);
    if (!l->kept)
        hs_work_remove(&l->work);
    if (st == HLWQ_ERR_CANCELLED)
        return hs_fail(err, st,
                       l->kept ? "convert was stopped; the same command goes on from %s"
                               : "convert was stopped; nothing was written%.0s",
                       l->work.folder);
    return st;
}

static hlwq_status write_container(line *l, hlwq_error *err)
{
    hs_container_blobs blobs = {.provenance = hs_store_provenance(l->store)};
    for (int b = 0; b < HS_BLOB_COUNT; b++)
        blobs.data[b] = hs_store_blob(l->store, (hs_blob)b, &blobs.bytes[b]);
    char *partial = hs_work_path(&l->work, HS_WORK_PARTIAL);
    if (!partial)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a path");
    if (hs_path_exists(partial) &&
        hs_work_load(&l->work, "extents", &l->finished, sizeof l->finished, l->hash, l->n * sizeof *l->hash))
        l->kept = true;
    else
        l->finished = 0;
    l->finished = hs_min_u64(l->finished, l->n);
    l->made = l->written = l->finished;
    hlwq_status st = hs_container_resume(&l->writer, l->mem, l->o->output, partial, l->o->overwrite, l->table, &blobs,
                                         l->hash, l->finished, err);
    free(partial);
    HS_TRY(st);
    if (l->finished) {
        hs_log log = {l->o->log, l->o->user};
        hs_log_line(&log, HLWQ_LOG_INFO, "going on after extent %llu of %llu, from %s", (unsigned long long)l->finished,
                    (unsigned long long)l->n, l->work.folder);
    }
    st = run(l, err);
    if (st != HLWQ_OK)
        return stopped(l, st, err);
    uint64_t start = hs_now_ns();
    st = hs_container_commit(l->writer, err);
    l->report->write_seconds += (double)(hs_now_ns() - start) * 1e-9;
    if (st == HLWQ_OK)
        hs_work_remove(&l->work);
    return st;
}

hlwq_status hs_convert_write(hs_store *store, hs_mem *mem, hs_pool *pool, const hlwq_convert_options *o,
                             hlwq_convert_report *report, hlwq_error *err)
{
    line *l = calloc(1, sizeof *l);
    if (!l)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to convert");
    *l = (line){.store = store,
                .table = hs_store_table(store),
                .mem = mem,
                .pool = pool,
                .o = o,
                .report = report,
                .keep_every = o->keep_every_bytes ? o->keep_every_bytes : KEEP_EVERY};
    l->n = hs_container_extents(l->table);
    l->hash = calloc(l->n, sizeof *l->hash);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->moved, NULL);
    hlwq_status st = l->hash ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to convert");
    if (st == HLWQ_OK && !o->overwrite && hs_path_exists(o->output)) /* before a folder is made */
        st = hs_fail(err, HLWQ_ERR_IO, "%s exists already; use --force to replace it", o->output);
    uint64_t start = hs_now_ns();
    (void)hs_file_take_tally();
    if (st == HLWQ_OK)
        st = hs_work_open(&l->work, o->output, key_of(store), err);
    if (st == HLWQ_OK)
        st = write_container(l, err);
    hs_file_tally read = hs_file_take_tally();
    report->read_bytes += read.bytes;
    report->read_seconds += (double)read.ns * 1e-9;
    report->seconds += (double)(hs_now_ns() - start) * 1e-9;
    hs_work_close(&l->work);
    pthread_cond_destroy(&l->moved);
    pthread_mutex_destroy(&l->lock);
    free(l->hash);
    free(l);
    return st;
}
