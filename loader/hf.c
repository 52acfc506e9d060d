/*
 * loader/hf.c - opens a model directory: texts, config, shards.
 */
#include "loader/hf_private.h"

#include "base/json.h"
#include "base/size.h"
#include "loader/formats/eoq_file.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX (16u << 20)
#define TOKENIZER_MAX (256u << 20)
#define INDEX_MAX (256u << 20)
enum { SHARDS_MAX = 4096 };

/* ---- texts ---------------------------------------------------------------------------------- */

static hlwq_status read_text(hs_hf *hf, const char *name, uint64_t limit, char **text, uint64_t *bytes, hlwq_error *err)
{
    char *path;
    HS_TRY(hs_path_join(&hf->arena, hf->text_dir, name, &path, err));
    if (!hs_path_exists(path))
        return HLWQ_OK;
    return hs_file_text(&hf->arena, path, limit, text, bytes, err);
}

static hlwq_status find_texts(hs_hf *hf, hlwq_error *err)
{
    char *config, *codes, *above, *other;
    HS_TRY(hs_path_join(&hf->arena, hf->dir, "config.json", &config, err));
    HS_TRY(hs_path_join(&hf->arena, hf->dir, "codes.safetensors", &codes, err));
    HS_TRY(hs_path_join(&hf->arena, hf->dir, "..", &above, err));
    HS_TRY(hs_path_join(&hf->arena, above, "config.json", &other, err));
    hf->text_dir = !hs_path_exists(config) && hs_path_exists(codes) && hs_path_exists(other) ? above : hf->dir;
    return HLWQ_OK;
}

static hlwq_status read_texts(hs_hf *hf, const hs_log *log, hlwq_error *err)
{
    char *path;
    HS_TRY(read_text(hf, "config.json", TEXT_MAX, &hf->config_text, &hf->config_bytes, err));
    HS_TRY(read_text(hf, "generation_config.json", TEXT_MAX, &hf->generation_text, &hf->generation_bytes, err));
    HS_TRY(read_text(hf, "tokenizer.json", TOKENIZER_MAX, &hf->tokenizer_text, &hf->tokenizer_bytes, err));
    HS_TRY(
        read_text(hf, "tokenizer_config.json", TEXT_MAX, &hf->tokenizer_config_text, &hf->tokenizer_config_bytes, err));
    HS_TRY(read_text(hf, "chat_template.jinja", TEXT_MAX, &hf->template_text, &hf->template_bytes, err));
    HS_TRY(hs_path_join(&hf->arena, hf->text_dir, "config.json", &path, err));
    if (!hf->config_text && !hs_path_is_directory(hf->dir))
        return hs_fail(err, HLWQ_ERR_IO,
                       "%s is missing: an .eoq file has weights only, config and tokenizer lie beside it", path);
    if (!hf->config_text)
        return hs_fail(err, HLWQ_ERR_IO, "%s is missing: %s is not a model directory", path, hf->dir);
    HS_TRY(hs_config_parse(&hf->config, hf->config_text, hf->config_bytes, path, log, err));
    hf->generation = hs_generation_default();
    if (!hf->generation_text)
        return HLWQ_OK;
    HS_TRY(hs_path_join(&hf->arena, hf->text_dir, "generation_config.json", &path, err));
    return hs_generation_parse(&hf->config, &hf->generation, hf->generation_text, hf->generation_bytes, path, err);
}

/* ---- shards --------------------------------------------------------------------------------- */

static const char *shard_name(const hs_hf *hf, uint32_t i)
{
    return strrchr(hf->path[i], '/') + 1; /* paths are dir + "/" + name, and names hold no slash */
}

/* *index comes with a guess: neighbours in an index are mostly in the same shard. */
static bool find_shard(const hs_hf *hf, const char *name, uint32_t *index)
{
    if (*index < hf->n_files && strcmp(shard_name(hf, *index), name) == 0)
        return true;
    for (*index = 0; *index < hf->n_files; ++*index)
        if (strcmp(shard_name(hf, *index), name) == 0)
            return true;
    return false;
}

static hlwq_status add_shard(hs_hf *hf, const char *name, uint32_t *index, hlwq_error *err)
{
    char *path;
    if (find_shard(hf, name, index))
        return HLWQ_OK;
    HS_TRY(hs_path_join(&hf->arena, hf->dir, name, &path, err));
    if (hf->n_files == SHARDS_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: more than %d shards", hf->dir, SHARDS_MAX);
    hlwq_status st = hs_file_open(&hf->file[hf->n_files], path, err);
    if (st != HLWQ_OK)
        return st;
    *index = hf->n_files;
    hf->path[hf->n_files++] = path;
    return HLWQ_OK;
}

/* Names of an index are file names in the same folder, nothing else. */
static hlwq_status check_shard_name(const char *index_path, const char *name, size_t bytes, hlwq_error *err)
{
    if (strlen(name) == bytes && *name && *name != '.' && !strchr(name, '/') && !strchr(name, '\\') &&
        strlen(name) < 256)
        return HLWQ_OK;
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: shard \"%.200s\" is not a plain file name in the model's directory",
                   index_path, name);
}

static hlwq_status open_indexed(hs_hf *hf, const hs_json *root, const char *index_path, hlwq_error *err)
{
    const hs_json *map = hs_json_get(root, "weight_map");
    if (hs_json_type_of(map) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index has no \"weight_map\" object", index_path);
    uint32_t file = 0;
    for (hs_json_iter *it = hs_json_first(map); it; it = hs_json_next(map, it)) {
        if (hs_json_type_of(hs_json_value(it)) != HS_JSON_STRING)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: index places %.200s in no file", index_path,
                           hs_json_key(it, NULL));
        size_t bytes;
        const char *name = hs_json_string(hs_json_value(it), &bytes);
        HS_TRY(check_shard_name(index_path, name, bytes, err));
        hlwq_status st = add_shard(hf, name, &file, err);
        if (st != HLWQ_OK)
            return hs_fail_in(err, st, "%s names a shard that is missing or unreadable (download not finished?)",
                              index_path);
    }
    return HLWQ_OK;
}

static bool ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), s = strlen(suffix);
    return n > s && strcmp(text + n - s, suffix) == 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Without an index: model.safetensors, or every *.safetensors there is. */
static hlwq_status open_unindexed(hs_hf *hf, hlwq_error *err)
{
    char *path, **name;
    void *p;
    uint32_t n = 0, file = 0;
    bool unfinished = false, pickle = false;
    HS_TRY(hs_path_join(&hf->arena, hf->dir, "model.safetensors", &path, err));
    if (hs_path_exists(path))
        return add_shard(hf, "model.safetensors", &file, err);
    HS_TRY(hs_arena_array(&hf->arena, SHARDS_MAX, sizeof(char *), &p, err));
    name = p;
    DIR *d = opendir(hf->dir);
    hlwq_status st = HLWQ_OK;
    for (struct dirent *e; d && st == HLWQ_OK && (e = readdir(d));) {
        unfinished = unfinished || ends_with(e->d_name, ".incomplete");
        pickle = pickle || ends_with(e->d_name, ".pt") || ends_with(e->d_name, ".bin");
        if (*e->d_name == '.' || !ends_with(e->d_name, ".safetensors")) /* "._x.safetensors" is macOS's own */
            continue;
        if (n == SHARDS_MAX)
            st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: more than %d shards", hf->dir, SHARDS_MAX);
        else
            st = hs_arena_text(&hf->arena, e->d_name, strlen(e->d_name), &name[n++], err);
    }
    if (d)
        closedir(d);
    HS_TRY(st);
    if (n == 0 && pickle)
        return hs_fail(
            err, HLWQ_ERR_UNSUPPORTED,
            "%s has its weights in a pickle (.pt or .bin, as torchao writes them), which is not read: a pickle "
            "is a program; save the model as safetensors",
            hf->dir);
    if (n == 0)
        return hs_fail(err, HLWQ_ERR_IO, "%s has no model.safetensors and no other weights that can be read%s", hf->dir,
                       unfinished ? "; a file ends in .incomplete, so the download is not finished" : "");
    qsort(name, n, sizeof *name, by_text);
    for (uint32_t i = 0; i < n; i++)
        HS_TRY(add_shard(hf, name[i], &file, err));
    return HLWQ_OK;
}

static hlwq_status read_header(hs_hf *hf, uint32_t file, hs_st_entry **entry, uint32_t *n, hlwq_error *err)
{
    const hs_file *f = &hf->file[file];
    const char *path = hf->path[file];
    uint8_t length[8];
    if (f->bytes < 8)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s is too short for a header: %" PRIu64 " bytes", path, f->bytes);
    HS_TRY(hs_file_read(f, 0, length, 8, path, err));
    uint64_t bytes = 0;
    for (int i = 7; i >= 0; i--)
        bytes = bytes << 8 | length[i];
    if (bytes > HS_SAFETENSORS_HEADER_MAX || bytes > f->bytes - 8)
        return hs_fail(err, HLWQ_ERR_FORMAT,
                       "%s: header of %" PRIu64 " bytes, but the file has %" PRIu64 " and the limit is %u", path, bytes,
                       f->bytes, HS_SAFETENSORS_HEADER_MAX);
    void *p;
    HS_TRY(hs_mem_alloc(hf->arena.mem, HS_MEM_TABLE, bytes + 1, "header", &p, err));
    hlwq_status st = hs_file_read(f, 8, p, bytes, path, err);
    if (st == HLWQ_OK)
        st = hs_safetensors_parse_noted(p, bytes, f->bytes, path, &hf->arena, entry, n, &hf->centroids, err);
    if (hf->centroids && !hf->centroids_path)
        hf->centroids_path = path;
    hs_mem_free(hf->arena.mem, p);
    return st;
}

static int by_raw_name(const void *a, const void *b)
{
    return strcmp((*(const hs_raw *const *)a)->entry.name, (*(const hs_raw *const *)b)->entry.name);
}

/* Every tensor that the index names must be in the shard it names. */
static hlwq_status check_index(hs_hf *hf, const hs_json *root, const char *index_path, const hs_raw *raw, uint32_t n,
                               hlwq_error *err)
{
    const hs_json *map = hs_json_get(root, "weight_map");
    void *p;
    uint32_t file = 0;
    HS_TRY(hs_arena_array(&hf->arena, n, sizeof(hs_raw *), &p, err));
    const hs_raw **sorted = p;
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = &raw[i];
    qsort(sorted, n, sizeof *sorted, by_raw_name);
    for (hs_json_iter *it = hs_json_first(map); it; it = hs_json_next(map, it)) {
        const char *shard = hs_json_string(hs_json_value(it), NULL);
        hs_raw wanted = {.entry = {.name = hs_json_key(it, NULL)}};
        const hs_raw *key = &wanted, **found = bsearch(&key, sorted, n, sizeof *sorted, by_raw_name);
        if (!found)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is not found in %.200s", index_path,
                           key->entry.name, shard);
        if (!find_shard(hf, shard, &file) || (*found)->file != file)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s is not found in %.200s but in %.200s", index_path,
                           key->entry.name, shard, shard_name(hf, (*found)->file));
    }
    return HLWQ_OK;
}

static hlwq_status collect(hs_hf *hf, hs_raw **raw, uint32_t *n, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_arena_array(&hf->arena, hf->n_files, sizeof(hs_st_entry *), &p, err));
    hs_st_entry **entry = p;
    HS_TRY(hs_arena_array(&hf->arena, hf->n_files, sizeof(uint32_t), &p, err));
    uint32_t *count = p;
    uint64_t total = 0;
    for (uint32_t i = 0; i < hf->n_files; i++) {
        HS_TRY(read_header(hf, i, &entry[i], &count[i], err));
        total += count[i];
    }
    if (total > UINT32_MAX)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " tensors are too many", hf->dir, total);
    HS_TRY(hs_arena_array(&hf->arena, total, sizeof(hs_raw), &p, err));
    *raw = p;
    *n = 0;
    for (uint32_t i = 0; i < hf->n_files; i++)
        for (uint32_t k = 0; k < count[i]; k++)
            (*raw)[(*n)++] = (hs_raw){entry[i][k], i};
    return HLWQ_OK;
}

hlwq_status hs_hf_read_shards(hs_hf *hf, hs_raw **raw, uint32_t *n, hlwq_error *err)
{
    void *p;
    char *index_path, *text;
    uint64_t bytes;
    HS_TRY(hs_arena_array(&hf->arena, SHARDS_MAX, sizeof(hs_file), &p, err));
    hf->file = p;
    HS_TRY(hs_arena_array(&hf->arena, SHARDS_MAX, sizeof(char *), &p, err));
    hf->path = p;
    HS_TRY(hs_path_join(&hf->arena, hf->dir, "model.safetensors.index.json", &index_path, err));
    if (!hs_path_exists(index_path)) {
        HS_TRY(open_unindexed(hf, err));
        return collect(hf, raw, n, err);
    }
    hs_json *root;
    HS_TRY(hs_file_text(&hf->arena, index_path, INDEX_MAX, &text, &bytes, err));
    HS_TRY(hs_json_parse(text, bytes, index_path, &root, err));
    hlwq_status st = open_indexed(hf, root, index_path, err);
    if (st == HLWQ_OK)
        st = collect(hf, raw, n, err);
    if (st == HLWQ_OK)
        st = check_index(hf, root, index_path, *raw, *n, err);
    hs_json_free(root);
    return st;
}

/* ---- life ----------------------------------------------------------------------------------- */

static hlwq_status open_parts(hs_hf *hf, const char *dir, const hs_log *log, hlwq_error *err)
{
    char *copy, *folder, *eoq;
    hs_raw *raw;
    uint32_t n;
    HS_TRY(hs_arena_text(&hf->arena, dir, strlen(dir), &copy, err));
    hf->dir = copy;
    if (hs_path_is_directory(dir)) {
        HS_TRY(find_texts(hf, err));
        HS_TRY(hs_eoq_file_find(&hf->arena, dir, &eoq, err));
    } else {
        HS_TRY(hs_eoq_file_folder(&hf->arena, dir, &folder, err));
        hf->text_dir = folder;
        eoq = copy;
    }
    HS_TRY(read_texts(hf, log, err));
    if (eoq) {
        HS_TRY(hs_eoq_file_list(hf, eoq, log, err));
        return hs_hf_check(hf, log, err);
    }
    HS_TRY(hs_hf_read_shards(hf, &raw, &n, err));
    HS_TRY(hs_hf_list_tensors(hf, raw, n, log, err));
    return hs_hf_check(hf, log, err);
}

hlwq_status hs_hf_open(hs_hf *hf, hs_mem *mem, const char *dir, const hs_log *log, hlwq_error *err)
{
    *hf = (hs_hf){0};
    hs_arena_init(&hf->arena, mem, HS_MEM_TABLE);
    hlwq_status st = open_parts(hf, dir, log, err);
    if (st != HLWQ_OK)
        hs_hf_close(hf);
    return st;
}

void hs_hf_close(hs_hf *hf)
{
    if (!hf->arena.mem)
        return;
    for (uint32_t i = 0; i < hf->n_files; i++)
        hs_file_close(&hf->file[i]);
    hs_json_free(hf->polar);
    hs_arena_close(&hf->arena);
    *hf = (hs_hf){0};
}
