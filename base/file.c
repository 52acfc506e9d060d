/*
 * base/file.c - POSIX files with sentences for errors.
 */
#define _GNU_SOURCE
#include "base/file.h"

#include "base/clock.h"
#include "base/size.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

static int64_t mtime_ns(const struct stat *s)
{
    return (int64_t)s->st_mtim.tv_sec * 1000000000 + s->st_mtim.tv_nsec;
}

hlwq_status hs_file_open(hs_file *file, const char *path, hlwq_error *err)
{
    *file = (hs_file){.fd = -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return hs_fail(err, HLWQ_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat s;
    if (fstat(fd, &s) != 0) {
        int e = errno;
        close(fd);
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", path, strerror(e));
    }
    if (!S_ISREG(s.st_mode)) {
        close(fd);
        return hs_fail(err, HLWQ_ERR_IO, "%s is %s, not a regular file", path,
                       S_ISDIR(s.st_mode) ? "a directory" : "a device or pipe");
    }
    *file = (hs_file){.fd = fd,
                      .bytes = (uint64_t)s.st_size,
                      .device = (uint64_t)s.st_dev,
                      .inode = (uint64_t)s.st_ino,
                      .mtime_ns = mtime_ns(&s)};
    return HLWQ_OK;
}

void hs_file_close(hs_file *file)
{
    if (file->fd < 0)
        return;
    if (file->ahead) {
        hs_ahead_forget(file->ahead, file->direct);
        close(file->direct);
        file->ahead = NULL;
    }
    close(file->fd);
    file->fd = -1;
}

int hs_open_again(int fd, const char *path, int flags)
{
    char name[64];
    struct stat want, got;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int again = open(name, flags);
    if (again >= 0 || errno == EINVAL)
        return again;
    again = open(path, flags); /* no /proc here */
    if (again >= 0 && fstat(fd, &want) == 0 && fstat(again, &got) == 0 &&
        (want.st_ino != got.st_ino || want.st_dev != got.st_dev)) {
        close(again);
        errno = ESTALE;
        return -1;
    }
    return again;
}

bool hs_in_page_cache(int fd, uint64_t bytes)
{
    enum { PROBES = 64 };
    uint32_t there = 0;
    uint8_t byte;
    struct iovec to = {&byte, 1};
    for (uint64_t i = 0; i < PROBES; i++) /* a read that must not wait says so */
        there += preadv2(fd, &to, 1, (off_t)(bytes / PROBES * i), RWF_NOWAIT) == 1;
    return bytes >= PROBES && there * 10 >= PROBES * 9;
}

void hs_file_read_ahead(hs_file *file, const char *path, hs_ahead *ahead)
{
    if (hs_in_page_cache(file->fd, file->bytes))
        return;
    file->direct = hs_open_again(file->fd, path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    file->ahead = file->direct >= 0 ? ahead : NULL;
}

static _Thread_local hs_file_tally tally;

hs_file_tally hs_file_take_tally(void)
{
    hs_file_tally t = tally;
    tally = (hs_file_tally){0};
    return t;
}

void hs_file_ahead(const hs_file *file, uint64_t offset, uint64_t bytes)
{
    if (!bytes || bytes > INT64_MAX || offset > INT64_MAX - bytes)
        return;
    if (file->ahead)
        hs_ahead_ask(file->ahead, file->direct, file->bytes, offset, bytes);
    else
        (void)posix_fadvise(file->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
}

/* At least one byte, of *bytes at most. */
static hlwq_status read_some(const hs_file *file, uint64_t offset, void *out, uint64_t *bytes, const char *path,
                             hlwq_error *err)
{
    ssize_t n;
    do {
        n = pread(file->fd, out, *bytes < (1u << 30) ? *bytes : (1u << 30), (off_t)offset);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s: read of %" PRIu64 " bytes at %" PRIu64 ": %s", path, *bytes, offset,
                       strerror(errno));
    if (n == 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s is truncated: %" PRIu64 " bytes missing at %" PRIu64, path, *bytes,
                       offset);
    *bytes = (uint64_t)n;
    return HLWQ_OK;
}

hlwq_status hs_file_read(const hs_file *file, uint64_t offset, void *out, uint64_t bytes, const char *path,
                         hlwq_error *err)
{
    uint8_t *p = out;
    if (offset > INT64_MAX || bytes > INT64_MAX - offset)
        return hs_fail(err, HLWQ_ERR_IO, "%s: read at %" PRIu64 " is beyond any file", path, offset);
    const uint64_t start = hs_now_ns();
    while (bytes) {
        uint64_t n = file->ahead ? hs_ahead_take(file->ahead, file->direct, offset, p, bytes) : 0;
        if (!n) {
            n = file->ahead ? hs_min_u64(bytes, HS_AHEAD_WINDOW - offset % HS_AHEAD_WINDOW) : bytes;
            HS_TRY(read_some(file, offset, p, &n, path, err));
            tally.bytes += n;
        }
        p += n;
        offset += n;
        bytes -= n;
    }
    tally.ns += hs_now_ns() - start;
    return HLWQ_OK;
}

bool hs_file_begins(const char *path, const void *magic, size_t bytes)
{
    hs_file f;
    uint8_t start[16];
    if (bytes > sizeof start || hs_file_open(&f, path, NULL) != HLWQ_OK)
        return false;
    bool yes = hs_file_read(&f, 0, start, bytes, path, NULL) == HLWQ_OK && memcmp(start, magic, bytes) == 0;
    hs_file_close(&f);
    return yes;
}

hlwq_status hs_file_unchanged(const hs_file *file, const char *path, hlwq_error *err)
{
    struct stat s;
    if (fstat(file->fd, &s) != 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", path, strerror(errno));
    if ((uint64_t)s.st_size != file->bytes || mtime_ns(&s) != file->mtime_ns)
        return hs_fail(err, HLWQ_ERR_IO, "%s changed while it was in use: %" PRIu64 " bytes then, %" PRIu64 " now",
                       path, file->bytes, (uint64_t)s.st_size);
    return HLWQ_OK;
}

hlwq_status hs_file_text(hs_arena *arena, const char *path, uint64_t max_bytes, char **text, uint64_t *bytes,
                         hlwq_error *err)
{
    hs_file f;
    void *p = NULL;
    *text = NULL;
    HS_TRY(hs_file_open(&f, path, err));
    hlwq_status st = HLWQ_OK;
    if (f.bytes > max_bytes)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " bytes, limit %" PRIu64, path, f.bytes, max_bytes);
    if (st == HLWQ_OK)
        st = hs_arena_alloc(arena, f.bytes + 1, &p, err);
    if (st == HLWQ_OK)
        st = hs_file_read(&f, 0, p, f.bytes, path, err);
    if (st == HLWQ_OK) {
        *text = p;
        *bytes = f.bytes;
    }
    hs_file_close(&f);
    return st;
}

bool hs_path_exists(const char *path)
{
    struct stat s;
    return lstat(path, &s) == 0;
}

bool hs_path_is_directory(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

hlwq_status hs_path_join(hs_arena *arena, const char *dir, const char *name, char **path, hlwq_error *err)
{
    size_t a = strlen(dir), b = strlen(name);
    bool slash = a && dir[a - 1] != '/';
    void *p;
    *path = NULL;
    HS_TRY(hs_arena_alloc(arena, a + b + 2, &p, err));
    char *out = p;
    memcpy(out, dir, a);
    if (slash)
        out[a++] = '/';
    memcpy(out + a, name, b);
    *path = out;
    return HLWQ_OK;
}

/* The folder part of a path, "." if there is none; malloc. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/* Removes NAME.tmp.PID of processes that are gone. */
static void remove_stale(const char *path)
{
    char *dir = folder_of(path);
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    DIR *d = dir ? opendir(dir) : NULL;
    size_t n = strlen(name);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, name, n) != 0 || strncmp(e->d_name + n, ".tmp.", 5) != 0)
            continue;
        char *end;
        long pid = strtol(e->d_name + n + 5, &end, 10);
        if (*end || pid <= 0 || kill((pid_t)pid, 0) == 0 || errno != ESRCH)
            continue;
        unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
    free(dir);
}

/* Whether something may appear at `path`. */
static hlwq_status check_target(const char *path, bool overwrite, hlwq_error *err)
{
    if (!overwrite && hs_path_exists(path))
        return hs_fail(err, HLWQ_ERR_IO, "%s exists already; use --force to replace it", path);
    struct stat s;
    if (stat(path, &s) == 0 && !S_ISREG(s.st_mode)) /* a rename would put a file in the place of /dev/null */
        return hs_fail(err, HLWQ_ERR_IO, "%s is %s, not a regular file", path,
                       S_ISDIR(s.st_mode) ? "a directory" : "a device or pipe");
    return HLWQ_OK;
}

/* With out->path and out->temporary set, which are freed on failure. */
static hlwq_status open_temporary(hs_output *out, int flags, hlwq_error *err)
{
    hlwq_status st = HLWQ_OK;
    if (!out->path || !out->temporary)
        st = hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a path");
    int fd = st == HLWQ_OK ? open(out->temporary, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0644) : -1;
    if (st == HLWQ_OK && fd < 0)
        st = hs_fail(err, HLWQ_ERR_IO, "cannot create %s: %s", out->temporary, strerror(errno));
    else if (st == HLWQ_OK && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        st = hs_fail(err, HLWQ_ERR_IO, "another process is writing %s", out->temporary);
    if (st != HLWQ_OK) {
        if (fd >= 0)
            close(fd);
        free(out->temporary);
        out->temporary = NULL; /* not ours to remove */
        hs_output_drop(out);
        return st;
    }
    out->fd = fd;
    return HLWQ_OK;
}

hlwq_status hs_output_open(hs_output *out, const char *path, bool overwrite, hlwq_error *err)
{
    *out = (hs_output){.fd = -1};
    HS_TRY(check_target(path, overwrite, err));
    remove_stale(path);
    out->path = strdup(path);
    if (asprintf(&out->temporary, "%s.tmp.%ld", path, (long)getpid()) < 0)
        out->temporary = NULL;
    return open_temporary(out, O_TRUNC, err);
}

hlwq_status hs_output_resume(hs_output *out, const char *path, const char *temporary, bool overwrite, hlwq_error *err)
{
    *out = (hs_output){.fd = -1};
    HS_TRY(check_target(path, overwrite, err));
    remove_stale(path);
    out->path = strdup(path);
    out->temporary = strdup(temporary);
    return open_temporary(out, 0, err);
}

static ssize_t write_some(hs_output *out, uint64_t offset, const uint8_t *p, uint64_t bytes)
{
    const size_t n = bytes < (1u << 30) ? bytes : (1u << 30);
    if (out->direct >= 0 && (((uintptr_t)p | offset | bytes) & 4095) == 0) {
        if (!out->direct)
            out->direct = open(out->temporary, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_DIRECT);
        ssize_t done = out->direct > 0 ? pwrite(out->direct, p, n, (off_t)offset) : 0;
        if (done > 0 || (done < 0 && errno != EINVAL))
            return done;
        if (out->direct > 0)
            close(out->direct); /* an alignment that this file system does not take */
        out->direct = -1;
    }
    return pwrite(out->fd, p, n, (off_t)offset);
}

hlwq_status hs_output_rewrite(hs_output *out, uint64_t offset, const void *data, uint64_t bytes, hlwq_error *err)
{
    const uint8_t *p = data;
    while (bytes) {
        ssize_t n = write_some(out, offset, p, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return hs_fail(err, HLWQ_ERR_IO, "cannot write %s at %" PRIu64 ": %s", out->path, offset,
                           n < 0 ? strerror(errno) : "nothing was written");
        p += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return HLWQ_OK;
}

hlwq_status hs_output_skip(hs_output *out, uint64_t bytes, hlwq_error *err)
{
    uint64_t end;
    if (!hs_add_u64(out->bytes, bytes, &end) || ftruncate(out->fd, (off_t)end) != 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", out->path, strerror(errno));
    out->bytes = end;
    return HLWQ_OK;
}

hlwq_status hs_output_end(hs_output *out, hlwq_error *err)
{
    if (ftruncate(out->fd, (off_t)out->bytes) != 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s: %s", out->path, strerror(errno));
    return HLWQ_OK;
}

hlwq_status hs_output_write(hs_output *out, const void *data, uint64_t bytes, hlwq_error *err)
{
    HS_TRY(hs_output_rewrite(out, out->bytes, data, bytes, err));
    out->bytes += bytes;
    return HLWQ_OK;
}

hlwq_status hs_output_sync(hs_output *out, hlwq_error *err)
{
    if (fsync(out->fd) != 0)
        return hs_fail(err, HLWQ_ERR_IO, "cannot write %s: %s", out->path, strerror(errno));
    return HLWQ_OK;
}

hlwq_status hs_output_commit(hs_output *out, hlwq_error *err)
{
    hlwq_status st = hs_output_sync(out, err);
    if (close(out->fd) != 0 && st == HLWQ_OK)
        st = hs_fail(err, HLWQ_ERR_IO, "cannot write %s: %s", out->path, strerror(errno));
    out->fd = -1;
    if (st == HLWQ_OK && rename(out->temporary, out->path) != 0)
        st = hs_fail(err, HLWQ_ERR_IO, "cannot rename %s to %s: %s", out->temporary, out->path, strerror(errno));
    if (st == HLWQ_OK) {
        free(out->temporary);
        out->temporary = NULL;
        char *dir = folder_of(out->path);
        int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            (void)fsync(fd); /* some file systems refuse; the rename itself is atomic all the same */
            close(fd);
        }
        free(dir);
    }
    hs_output_drop(out);
    return st;
}

void hs_output_leave(hs_output *out)
{
    free(out->temporary);
    out->temporary = NULL;
    hs_output_drop(out);
}

void hs_output_drop(hs_output *out)
{
    if (out->fd >= 0)
        close(out->fd);
    if (out->direct > 0)
        close(out->direct);
    if (out->temporary)
        unlink(out->temporary);
    free(out->temporary);
    free(out->path);
    *out = (hs_output){.fd = -1};
}
