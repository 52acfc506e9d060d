/*
 * model/convert_write.c - three steps at once: the system reads what the next extents are made of, the pool makes some,
 * and a thread of its own writes those before them.
 *
 * Small extents, the experts, are made one by each thread, for none of them has to wait for the others then; a large
 * one is made by all threads, or, where it is as the file has it, in pieces.  What is made is put in the queue in the
 * order of the file: a place is taken before the making begins.
 *
 * The writer alone touches the container.  From time to time it sees to it that all it wrote is on the disk and only
 * then notes how far that is, so a run that finds the note can trust what lies before it.
 */
#include "model/convert_write.h"

#include "base/clock.h"
#include "base/shelf.h"
#include "base/size.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define WAITING_MAX (96ull << 20) /* bytes that are made and not written, unless one extent is larger */
#define AHEAD_MAX (48ull << 20)   /* bytes of sources that are asked for before they are needed */
#define WINDOWS (96ull << 20)     /* bytes of them, those that are read from included */
#define SMALL_MAX (8ull << 20)    /* bytes of an extent that one thread makes */
#define PIECE (8ull << 20)
#define SCRATCH_MAX (32ull << 20) /* bytes of transfer buffers that are kept for the next extent */
#define KEEP_EVERY (256ull << 20) /* bytes between two notes: little work is lost, the disk is seldom waited for */
enum { SLOTS = 64 };

typedef struct place {
    uint32_t group, extent;
} place;

/* An extent or a piece of one, between the maker and the writer. */
typedef struct item {
    void *data; /* NULL = being made */
    uint64_t room, bytes, extent_bytes;
    bool ready, last; /* last: of its extent */
} item;

typedef struct line {
    hs_store *store;
    const hs_table *table;
    hs_mem *mem;
    hs_pool *pool;
    const hlwq_convert_options *o;
    hlwq_convert_report *report;
    hs_work work;
    hs_container_writer *writer;
    hs_shelf shelf;               /* of what waits to be written */
    uint64_t *hash;               /* of each extent of the table; the writer's */
    uint64_t *source;             /* bytes that an extent is made of, by group, as far as asked for */
    uint64_t n, finished;         /* extents; of those in the file */
    uint64_t keep_every, unsaved; /* bytes; the writer's */
    uint64_t total, piece;        /* bytes of all extents; of a piece */
    place told;                   /* the extent that the user hears of next; the calling thread's */
    uint64_t told_bytes;
    bool kept; /* there is a note */

    pthread_mutex_t lock; /* of what follows: makers and the writer meet here */
    pthread_cond_t moved;
    item item[SLOTS];
    uint64_t taken, written, waiting; /* items; bytes */
    place next, ahead;                /* to be made; to be asked for */
    uint64_t done, asked;             /* bytes of what the extents before those are made of */
    uint32_t small;                   /* the group that make_small is at */
    bool last;                        /* no more will be made */
    hlwq_status status;               /* the first that went wrong, of whoever */
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

static hlwq_status write_one(line *l, const item *it, hlwq_error *err)
{
    uint64_t start = hs_now_ns();
    hlwq_status st = it->bytes == it->extent_bytes ? hs_container_append(l->writer, it->data, false, err)
                                                   : hs_container_append_piece(l->writer, it->data, it->bytes, err);
    l->unsaved += it->bytes;
    l->finished += st == HLWQ_OK && it->last;
    if (st == HLWQ_OK && it->last && l->unsaved >= l->keep_every)
        st = note(l, l->finished, err);
    l->report->write_seconds += (double)(hs_now_ns() - start) * 1e-9;
    l->report->written_bytes += it->bytes;
    return st;
}

/* The first failure is the one that is told. Under the lock. */
static void fail(line *l, hlwq_status st, const hlwq_error *err)
{
    if (l->status == HLWQ_OK && st != HLWQ_OK) {
        l->status = st;
        l->error = *err;
    }
}

static void *write_all(void *user)
{
    line *l = user;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        item *it = &l->item[l->written % SLOTS];
        while (!it->ready && !l->last)
            pthread_cond_wait(&l->moved, &l->lock);
        if (!it->ready)
            break;
        pthread_mutex_unlock(&l->lock);
        hlwq_error err = {0};
        hlwq_status st = write_one(l, it, &err);
        pthread_mutex_lock(&l->lock);
        fail(l, st, &err);
        pthread_cond_broadcast(&l->moved);
        if (st != HLWQ_OK)
            break; /* that one is not in the file, and its data is freed with the others' */
        hs_shelf_give(&l->shelf, it->data, it->room);
        l->waiting -= it->bytes;
        *it = (item){0};
        l->written++;
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- making --------------------------------------------------------------------------------- */

static void step(const hs_table *t, place *p)
{
    if (++p->extent == t->group[p->group].count) {
        p->extent = 0;
        p->group++;
    }
}

/* What the next extents are made of may be read. Under the lock. */
static void ask_ahead(line *l)
{
    const hs_table *t = l->table;
    for (; l->ahead.group < t->n_groups && l->asked < l->done + AHEAD_MAX; step(t, &l->ahead)) {
        l->source[l->ahead.group] = hs_store_ahead(l->store, l->ahead.group, l->ahead.extent);
        l->asked += l->source[l->ahead.group];
    }
}

/* Waits until there is room for so many bytes; false when something went wrong. Under the lock, which it lets go. */
static bool wait_for_room(line *l, uint64_t bytes)
{
    while (l->status == HLWQ_OK && l->waiting && (l->waiting + bytes > WAITING_MAX || l->taken - l->written == SLOTS))
        pthread_cond_wait(&l->moved, &l->lock);
    return l->status == HLWQ_OK;
}

/* The next place in the queue. Under the lock, when there is room. */
static item *take_place(line *l, uint64_t bytes, uint64_t extent_bytes, bool last)
{
    item *it = &l->item[l->taken++ % SLOTS];
    *it = (item){.bytes = bytes, .extent_bytes = extent_bytes, .last = last};
    l->waiting += bytes;
    return it;
}

static void put(line *l, item *it, uint64_t start_ns, hlwq_status st, const hlwq_error *err)
{
    const hs_file_tally read = hs_file_take_tally(); /* of this thread */
    pthread_mutex_lock(&l->lock);
    l->report->make_seconds += (double)(hs_now_ns() - start_ns - read.ns) * 1e-9;
    l->report->read_bytes += read.bytes;
    if (read.bytes) /* else it waited for those who read ahead, if at all */
        l->report->read_seconds += (double)read.ns * 1e-9;
    fail(l, st, err);
    it->ready = st == HLWQ_OK;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
}

/* Makes what an item is for: a whole extent, by the pool or by this thread alone, or a piece from `offset` on. */
static hlwq_status fill(line *l, item *it, place at, uint64_t offset, hs_pool *pool)
{
    hlwq_error err = {0};
    const uint64_t start = hs_now_ns();
    hlwq_status st = hs_shelf_take(&l->shelf, it->bytes, "extent", &it->data, &it->room, &err);
    if (st == HLWQ_OK && it->bytes == it->extent_bytes)
        st = hs_store_load(l->store, at.group, at.extent, pool, false, it->data, &err);
    else if (st == HLWQ_OK)
        st = hs_store_load_piece(l->store, at.group, at.extent, offset, it->bytes, it->data, &err);
    put(l, it, start, st, &err);
    return st;
}

/* The next extent has its place. Under the lock. */
static void move_on(line *l)
{
    l->done += l->source[l->next.group];
    step(l->table, &l->next);
    ask_ahead(l);
}

static bool is_told(line *l)
{
    pthread_mutex_lock(&l->lock);
    const bool all = l->told.group == l->next.group && l->told.extent == l->next.extent;
    pthread_mutex_unlock(&l->lock);
    return all;
}

/* Once for each extent, whoever made it, by the thread that called. False when the user wants no more. */
static bool tell(line *l)
{
    while (!is_told(l)) {
        l->told_bytes += l->table->group[l->told.group].bytes;
        step(l->table, &l->told);
        if (!l->o->progress || l->o->progress(l->o->user, l->told_bytes, l->total))
            continue;
        hlwq_error err;
        hlwq_status st = hs_fail(&err, HLWQ_ERR_CANCELLED, "convert was stopped");
        pthread_mutex_lock(&l->lock);
        fail(l, st, &err);
        pthread_cond_broadcast(&l->moved);
        pthread_mutex_unlock(&l->lock);
        return false;
    }
    return true;
}

/* One thread's share of the small extents of a group: the next one, until there is none. */
static void make_small(void *user, uint32_t first, uint32_t last, uint32_t worker)
{
    line *l = user;
    const uint64_t bytes = l->table->group[l->small].bytes;
    (void)first;
    (void)last;
    for (;;) {
        item *it = NULL;
        pthread_mutex_lock(&l->lock);
        const bool room = wait_for_room(l, bytes);
        const place at = l->next; /* after the wait: others may have taken the last one */
        if (room && at.group == l->small) {
            it = take_place(l, bytes, bytes, true);
            move_on(l);
        }
        pthread_mutex_unlock(&l->lock);
        if (!it)
            return;
        hlwq_status st = fill(l, it, at, 0, NULL);
        if (st != HLWQ_OK || (worker == 0 && !tell(l))) /* the user hears from the thread that called */
            return;
    }
}

/* One extent, by all threads; or in pieces. False when something went wrong. */
static bool make_large(line *l)
{
    const place at = l->next;
    const uint64_t all = l->table->group[at.group].bytes;
    const uint64_t piece = hs_store_has_pieces(l->store, at.group, at.extent) ? l->piece : all;
    for (uint64_t offset = 0; offset < all; offset += piece) {
        const uint64_t bytes = hs_min_u64(piece, all - offset);
        const bool ends = offset + bytes == all;
        item *it = NULL;
        pthread_mutex_lock(&l->lock);
        if (wait_for_room(l, bytes))
            it = take_place(l, bytes, all, ends);
        if (it && ends)
            move_on(l);
        pthread_mutex_unlock(&l->lock);
        if (!it || fill(l, it, at, offset, l->pool) != HLWQ_OK || (ends && !tell(l)))
            return false;
    }
    return true;
}

/* Extents before l->next are in the file. */
static void make_all(line *l)
{
    const hs_table *t = l->table;
    for (uint32_t g = 0; g < t->n_groups; g++)
        l->total += t->group[g].bytes * t->group[g].count;
    for (uint64_t i = 0; i < l->finished; i++) {
        l->told_bytes += t->group[l->next.group].bytes;
        step(t, &l->next);
    }
    l->ahead = l->told = l->next;
    ask_ahead(l);
    const uint32_t threads = hs_pool_threads(l->pool);
    for (bool goes = true; goes && l->next.group < t->n_groups;) {
        const hs_group *g = &t->group[l->small = l->next.group];
        if (g->bytes > SMALL_MAX || g->count < 2 * threads) {
            goes = make_large(l);
            continue;
        }
        hs_pool_run(l->pool, threads, 1, make_small, l);
        goes = l->next.group != l->small && tell(l); /* or else something went wrong */
    }
}

/* ---- all of it ------------------------------------------------------------------------------ */

static void free_waiting(line *l)
{
    for (uint64_t i = 0; i < SLOTS; i++)
        hs_shelf_give(&l->shelf, l->item[i].data, l->item[i].room);
}

static hlwq_status run(line *l, hlwq_error *err)
{
    pthread_t writer;
    if (pthread_create(&writer, NULL, write_all, l) != 0)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a thread that writes");
    make_all(l);
    pthread_mutex_lock(&l->lock);
    l->last = true;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
    pthread_join(writer, NULL);
    free_waiting(l);
    if (l->status != HLWQ_OK && err)
        *err = l->error;
    return l->status;
}

/* What is worth going on from stays; the sentence says so. */
static hlwq_status stopped(line *l, hlwq_status st, hlwq_error *err)
{
    hlwq_error why;
    if (l->unsaved >= l->keep_every / 4)
        (void)note(l, l->finished, &why); /* on a full disk the note before this one holds */
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

static void add_read_ahead(hs_store *store, hlwq_convert_report *report)
{
    uint64_t bytes, ns;
    hs_store_ahead_tally(store, &bytes, &ns);
    report->read_bytes += bytes;
    report->read_seconds += (double)ns * 1e-9;
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
    l->piece = hs_min_u64(PIECE, hs_align_up(l->keep_every, HS_EXTENT_ALIGN)); /* whole pages, for writing directly */
    l->n = hs_container_extents(l->table);
    l->hash = calloc(l->n, sizeof *l->hash);
    l->source = calloc(l->table->n_groups, sizeof *l->source);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->moved, NULL);
    hs_shelf_open(&l->shelf, mem, HS_MEM_IO, WAITING_MAX);
    hs_store_keep_buffers(store, SCRATCH_MAX);
    hs_store_read_ahead(store, WINDOWS);
    hlwq_status st = l->hash && l->source ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory to convert");
    if (st == HLWQ_OK && !o->overwrite && hs_path_exists(o->output)) /* before a folder is made */
        st = hs_fail(err, HLWQ_ERR_IO, "%s exists already; use --force to replace it", o->output);
    uint64_t start = hs_now_ns();
    (void)hs_file_take_tally();
    if (st == HLWQ_OK)
        st = hs_work_open(&l->work, o->output, key_of(store), err);
    if (st == HLWQ_OK)
        st = write_container(l, err);
    report->seconds += (double)(hs_now_ns() - start) * 1e-9;
    add_read_ahead(store, report);
    hs_work_close(&l->work);
    hs_shelf_close(&l->shelf);
    pthread_cond_destroy(&l->moved);
    pthread_mutex_destroy(&l->lock);
    free(l->source);
    free(l->hash);
    free(l);
    return st;
}
