/*
 * app/hub.c - the layout of the cache: models--OWNER--NAME/refs/main holds a revision, snapshots/REVISION its files, as
 * links into blobs/.
 */
#define _GNU_SOURCE
#include "app/hub.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool exists(const char *path)
{
    struct stat s;
    return path && stat(path, &s) == 0;
}

/* "owner/name" or "owner/name/folder", of the characters that such names have. */
static bool is_repository(const char *text)
{
    uint32_t slashes = 0;
    size_t n = strlen(text);
    if (n > 5 && (strcmp(text + n - 5, ".hlwq") == 0 || strcmp(text + n - 5, ".gguf") == 0))
        return false;
    if (!isalnum((unsigned char)*text))
        return false;
    for (const char *c = text; *c; c++) {
        if (*c == '/' && (c[1] == '/' || c[1] == '.' || !c[1]))
            return false;
        if (!isalnum((unsigned char)*c) && !strchr("-_./", *c))
            return false;
        slashes += *c == '/';
    }
    return slashes == 1 || slashes == 2;
}

/* Where the hub's own tools look, in their order. */
static char *cache_folder(void)
{
    const char *hub = getenv("HF_HUB_CACHE"), *home = getenv("HF_HOME"), *cache = getenv("XDG_CACHE_HOME");
    char *path = NULL;
    int n;
    if (hub && *hub)
        return strdup(hub);
    if (home && *home)
        n = asprintf(&path, "%s/hub", home);
    else if (cache && *cache)
        n = asprintf(&path, "%s/huggingface/hub", cache);
    else
        n = asprintf(&path, "%s/.cache/huggingface/hub", getenv("HOME") ? getenv("HOME") : "");
    return n < 0 ? NULL : path;
}

/* The revision that refs/main names, if it is one and its snapshot is there. */
static char *main_snapshot(const char *folder)
{
    char *ref = NULL, *path = NULL, revision[80] = "";
    if (asprintf(&ref, "%s/refs/main", folder) < 0)
        return NULL;
    FILE *f = fopen(ref, "r");
    size_t n = f ? fread(revision, 1, sizeof revision - 1, f) : 0;
    if (f)
        fclose(f);
    free(ref);
    revision[n] = 0;
    revision[strspn(revision, "0123456789abcdef")] = 0;
    if (!*revision || asprintf(&path, "%s/snapshots/%s", folder, revision) < 0)
        return NULL;
    if (exists(path))
        return path;
    free(path);
    return NULL;
}

/* The snapshot that was made last. */
static char *newest_snapshot(const char *folder)
{
    char *list = NULL, *best = NULL;
    time_t made = 0;
    if (asprintf(&list, "%s/snapshots", folder) < 0)
        return NULL;
    DIR *d = opendir(list);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *path = NULL;
        struct stat s;
        if (*e->d_name == '.' || asprintf(&path, "%s/%s", list, e->d_name) < 0)
            continue;
        if (stat(path, &s) == 0 && (!best || s.st_mtime > made)) {
            free(best);
            best = path;
            made = s.st_mtime;
        } else
            free(path);
    }
    if (d)
        closedir(d);
    free(list);
    return best;
}

/* models--OWNER--NAME in the cache; *rest is the folder in it, with its slash, or "". */
static char *repository_folder(const char *cache, const char *id, const char **rest)
{
    const char *slash = strchr(id, '/'), *end = strchr(slash + 1, '/');
    char *path = NULL;
    size_t name = end ? (size_t)(end - slash - 1) : strlen(slash + 1);
    *rest = end ? end : "";
    if (asprintf(&path, "%s/models--%.*s--%.*s", cache, (int)(slash - id), id, (int)name, slash + 1) < 0)
        return NULL;
    return path;
}

hlwq_status app_hub_path(const char *given, char **path, hlwq_error *err)
{
    const char *rest = "";
    *path = NULL;
    if (exists(given) || !is_repository(given)) {
        *path = strdup(given);
        return *path ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a path");
    }
    char *cache = cache_folder(), *folder = cache ? repository_folder(cache, given, &rest) : NULL;
    char *snapshot = folder ? main_snapshot(folder) : NULL;
    if (folder && !snapshot)
        snapshot = newest_snapshot(folder);
    if (snapshot && asprintf(path, "%s%s", snapshot, rest) < 0)
        *path = NULL;
    hlwq_status st = *path && exists(*path) ? HLWQ_OK : HLWQ_ERR_IO;
    if (st != HLWQ_OK) {
        free(*path);
        *path = NULL;
        (void)hs_fail(err, st,
                      "%s does not exist, and the Hugging Face cache (%s) does not have it; nothing is downloaded by "
                      "itself: hf download %.*s",
                      given, cache ? cache : "?", (int)(strlen(given) - strlen(rest)), given);
    }
    free(snapshot);
    free(folder);
    free(cache);
    return st;
}
