/*
 * model/work.c - files of 64 bytes of header and what was saved.
 */
#define _GNU_SOURCE
#include "model/work.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

typedef struct header {
    char magic[8];
    uint64_t key, a_bytes, b_bytes, a_hash, b_hash, unused[2];
} header;

static const char magic[8] = "HLWQWORK";

hlwq_status hs_work_open(hs_work *w, const char *output, uint64_t key, hlwq_error *err)
{
    size_t bytes = strlen(output) + 8;
    *w = (hs_work){.folder = malloc(bytes), .key = key};
    if (!w->folder)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to go on later");
    snprintf(w->folder, bytes, "%s.work", output);
    if (mkdir(w->folder, 0777) != 0 && errno != EEXIST)
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", w->folder, strerror(errno));
    return HLWQ_OK;
}

void hs_work_close(hs_work *w)
{
    free(w->folder);
    *w = (hs_work){0};
}

void hs_work_layer_name(char out[HS_WORK_NAME], uint32_t layer)
{
    snprintf(out, HS_WORK_NAME, "layer-%u", layer);
}

char *hs_work_path(const hs_work *w, const char *name)
{
    size_t bytes = strlen(w->folder) + strlen(name) + 2;
    char *path = malloc(bytes);
    if (path)
        snprintf(path, bytes, "%s/%s", w->folder, name);
    return path;
}

static header header_of(const hs_work *w, const void *a, uint64_t a_bytes, const void *b, uint64_t b_bytes)
{
    header h = {.key = w->key, .a_bytes = a_bytes, .b_bytes = b_bytes};
    memcpy(h.magic, magic, sizeof magic);
    h.a_hash = XXH3_64bits(a, a_bytes);
    h.b_hash = b_bytes ? XXH3_64bits(b, b_bytes) : 0;
    return h;
}

hlwq_status hs_work_save(const hs_work *w, const char *name, const void *a, uint64_t a_bytes, const void *b,
                         uint64_t b_bytes, hlwq_error *err)
{
    hs_output out;
    header h = header_of(w, a, a_bytes, b, b_bytes);
    char *path = hs_work_path(w, name);
    if (!path)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to save %s", name);
    hlwq_status st = hs_output_open(&out, path, true, err);
    free(path);
    HS_TRY(st);
    st = hs_output_write(&out, &h, sizeof h, err);
    if (st == HLWQ_OK)
        st = hs_output_write(&out, a, a_bytes, err);
    if (st == HLWQ_OK && b_bytes)
        st = hs_output_write(&out, b, b_bytes, err);
    if (st != HLWQ_OK) {
        hs_output_drop(&out);
        return st;
    }
    return hs_output_commit(&out, err);
}

static bool read_all(const hs_work *w, const hs_file *f, void *a, uint64_t a_bytes, void *b, uint64_t b_bytes)
{
    header h, want;
    if (f->bytes != sizeof h + a_bytes + b_bytes || hs_file_read(f, 0, &h, sizeof h, "", NULL) != HLWQ_OK ||
        memcmp(h.magic, magic, sizeof magic) != 0 || h.key != w->key)
        return false;
    if (hs_file_read(f, sizeof h, a, a_bytes, "", NULL) != HLWQ_OK ||
        (b_bytes && hs_file_read(f, sizeof h + a_bytes, b, b_bytes, "", NULL) != HLWQ_OK))
        return false;
    want = header_of(w, a, a_bytes, b, b_bytes);
    return memcmp(&h, &want, sizeof h) == 0;
}

bool hs_work_load(const hs_work *w, const char *name, void *a, uint64_t a_bytes, void *b, uint64_t b_bytes)
{
    hs_file f;
    char *path = hs_work_path(w, name);
    bool ok = path && hs_file_open(&f, path, NULL) == HLWQ_OK;
    free(path);
    if (!ok)
        return false;
    ok = read_all(w, &f, a, a_bytes, b, b_bytes);
    hs_file_close(&f);
    return ok;
}

void hs_work_remove(const hs_work *w)
{
    static const char *const ours[] = {"layer-", "streams", "widths", "extents", HS_WORK_PARTIAL};
    DIR *d = opendir(w->folder);
    for (struct dirent *e; d && (e = readdir(d));)
        for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
            if (strncmp(e->d_name, ours[i], strlen(ours[i])) == 0)
                unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    rmdir(w->folder);
}
