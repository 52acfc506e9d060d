/*
 * base/file.h - files: only regular ones are read, and writing is all or nothing.
 */
#ifndef HS_BASE_FILE_H
#define HS_BASE_FILE_H

#include "base/ahead.h"
#include "base/arena.h"

#include <sys/stat.h>

/* An open file and what it was when it was opened. */
typedef struct hs_file {
    int fd;
    uint64_t bytes;
    uint64_t device, inode;
    int64_t mtime_ns;
    hs_ahead *ahead; /* NULL = read as the system sees fit */
    int direct;      /* with it: the same file, past the page cache */
} hs_file;

/* Refuses anything but a regular file: directories, devices and pipes by name. Does not block on a pipe. */
hlwq_status hs_file_open(hs_file *file, const char *path, hlwq_error *err);
void hs_file_close(hs_file *file); /* idempotent for files zeroed or closed: fd -1 */

/* Exactly `bytes` bytes at `offset`; a short file is HLWQ_ERR_IO. `path` is for the sentence. */
hlwq_status hs_file_read(const hs_file *file, uint64_t offset, void *out, uint64_t bytes, const char *path,
                         hlwq_error *err);

/* What hs_file_read of this thread has read since the last call, and how long that took. */
typedef struct hs_file_tally {
    uint64_t bytes, ns;
} hs_file_tally;
hs_file_tally hs_file_take_tally(void);

/* That will be read: the system may begin, or hs_file_read_ahead's threads do. */
void hs_file_ahead(const hs_file *file, uint64_t offset, uint64_t bytes);

/*
 * From now on hs_file_ahead asks `ahead`, which must outlive the file's being open; unless the page cache has nearly
 * all of the file already, or the file system does not read past it.
 */
void hs_file_read_ahead(hs_file *file, const char *path, hs_ahead *ahead);

/*
 * Another descriptor of the file that `fd` is, also where `path` names a new one by now; -1 and errno, of which ESTALE
 * says that it cannot be had.
 */
int hs_open_again(int fd, const char *path, int flags);

/* Whether nearly all of some pages from all over the file are in the page cache. */
bool hs_in_page_cache(int fd, uint64_t bytes);

/* Whether there is a regular file whose first bytes are those, at most 16. */
bool hs_file_begins(const char *path, const void *magic, size_t bytes);

/* HLWQ_ERR_IO if the file was truncated, changed or replaced since it was opened. */
hlwq_status hs_file_unchanged(const hs_file *file, const char *path, hlwq_error *err);

/* A whole file of at most `max_bytes` into the arena, zero-terminated. */
hlwq_status hs_file_text(hs_arena *arena, const char *path, uint64_t max_bytes, char **text, uint64_t *bytes,
                         hlwq_error *err);

bool hs_path_exists(const char *path);
bool hs_path_is_directory(const char *path);

/* dir + "/" + name in the arena. */
hlwq_status hs_path_join(hs_arena *arena, const char *dir, const char *name, char **path, hlwq_error *err);

/*
 * A file being written under a temporary name in the target's folder.  It gets its own name at
 * commit, after fsync; dropped, or with the process killed, the target never appears half-written.
 *
 * Whole pages from page-aligned memory at page-aligned offsets go past the page cache where the file system lets them:
 * a large file is not written twice by the memory, and what others have cached stays.
 */
typedef struct hs_output {
    int fd;
    int direct;     /* the same file, past the page cache; 0 = not needed so far, below = it cannot be had */
    uint64_t bytes; /* written so far by hs_output_write */
    char *path, *temporary;
} hs_output;

/* `overwrite` false: an existing target is an error. Stale temporaries of dead writers are removed. */
hlwq_status hs_output_open(hs_output *out, const char *path, bool overwrite, hlwq_error *err);
/*
 * The same under a temporary name of the caller's, whose contents are kept: an interrupted writer goes on there.
 * HLWQ_ERR_IO if another process is writing it.
 */
hlwq_status hs_output_resume(hs_output *out, const char *path, const char *temporary, bool overwrite, hlwq_error *err);
hlwq_status hs_output_end(hs_output *out, hlwq_error *err);  /* nothing lies behind what was written */
hlwq_status hs_output_sync(hs_output *out, hlwq_error *err); /* what was written is on the disk */
void hs_output_leave(hs_output *out);                        /* closes, the temporary stays; idempotent */
hlwq_status hs_output_write(hs_output *out, const void *data, uint64_t bytes, hlwq_error *err);
hlwq_status hs_output_skip(hs_output *out, uint64_t bytes, hlwq_error *err); /* zeros that take no room on the disk */
hlwq_status hs_output_rewrite(hs_output *out, uint64_t offset, const void *data, uint64_t bytes, hlwq_error *err);
hlwq_status hs_output_commit(hs_output *out, hlwq_error *err); /* closes, also on failure */
void hs_output_drop(hs_output *out);                           /* idempotent */

#endif
