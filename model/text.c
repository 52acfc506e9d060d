/*
 * model/text.c - the public tokenizer functions.
 */
#include "loader/formats/eoq_file.h"
#include "loader/formats/gguf.h"
#include "model/engine.h"

#include <stdio.h>
#include <stdlib.h>

#define CONFIG_MAX (16u << 20)

/* tokenizer.json and, beside it, tokenizer_config.json. */
static hlwq_status parse_file(hlwq_tokenizer *t, hs_arena *arena, const char *path, const char *config_path,
                              hlwq_error *err)
{
    char *text, *config = NULL;
    uint64_t bytes, config_bytes = 0;
    HS_TRY(hs_file_text(arena, path, HS_TOKENIZER_MAX, &text, &bytes, err));
    if (config_path && hs_path_exists(config_path))
        HS_TRY(hs_file_text(arena, config_path, CONFIG_MAX, &config, &config_bytes, err));
    return hs_tokenizer_parse(&t->inner, t->mem, text, bytes, config, config_bytes, 0, path, err);
}

static hlwq_status parse_container(hlwq_tokenizer *t, const char *path, hlwq_error *err)
{
    hs_store *store;
    HS_TRY(hs_store_open(&store, t->mem, path, NULL, NULL, err));
    hlwq_status st = hs_store_tokenizer(&t->inner, t->mem, store, err);
    if (st == HLWQ_OK && !t->inner)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s has no tokenizer", path);
    hs_store_close(store);
    return st;
}

static hlwq_status open_any(hlwq_tokenizer *t, hs_arena *arena, const char *path, hlwq_error *err)
{
    char *file, *config, *folder;
    if (hs_eoq_file_is(path)) { /* beside it */
        HS_TRY(hs_eoq_file_folder(arena, path, &folder, err));
        path = folder;
    }
    if (hs_path_is_directory(path)) {
        HS_TRY(hs_path_join(arena, path, "tokenizer.json", &file, err));
        HS_TRY(hs_path_join(arena, path, "tokenizer_config.json", &config, err));
        return parse_file(t, arena, file, config, err);
    }
    if (hs_container_is(path) || hs_gguf_is(path))
        return parse_container(t, path, err);
    return parse_file(t, arena, path, NULL, err);
}

hlwq_status hlwq_tokenizer_open(const char *path, hlwq_tokenizer **tokenizer, hlwq_error *err)
{
    *tokenizer = NULL;
    hlwq_tokenizer *t = calloc(1, sizeof *t);
    if (t)
        t->mem = hs_mem_open(0);
    if (!t || !t->mem) {
        free(t);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a tokenizer");
    }
    hs_arena arena;
    hs_arena_init(&arena, t->mem, HS_MEM_TABLE);
    hlwq_status st = open_any(t, &arena, path, err);
    hs_arena_close(&arena);
    if (st != HLWQ_OK) {
        hlwq_tokenizer_close(t);
        return st;
    }
    *tokenizer = t;
    return HLWQ_OK;
}

void hlwq_tokenizer_close(hlwq_tokenizer *t)
{
    if (!t)
        return;
    hs_constraints_forget(t);
    hs_tokenizer_free(t->inner);
    hs_mem_close(t->mem);
    free(t);
}

hlwq_status hlwq_tokenize(const hlwq_tokenizer *t, const char *text, size_t bytes, bool special, int32_t **ids,
                          size_t *count, hlwq_error *err)
{
    return hs_tokenizer_encode(t->inner, text, bytes, special, ids, count, err);
}

hlwq_status hlwq_tokenize_prompt(const hlwq_tokenizer *t, const char *text, size_t bytes, const hlwq_span *plain,
                                 size_t n, int32_t **ids, size_t *count, hlwq_error *err)
{
    return hs_tokenizer_encode_prompt(t->inner, text, bytes, plain, n, ids, count, err);
}

hlwq_status hlwq_detokenize(const hlwq_tokenizer *t, const int32_t *ids, size_t count, bool skip_special, char **text,
                            size_t *bytes, hlwq_error *err)
{
    size_t total = 0, n = 0;
    *text = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t len = 0;
        hs_tokenizer_bytes(t->inner, ids[i], &len);
        total += len + 4;
    }
    char *out = malloc(3 * (total + 4) + 1);
    if (!out)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the text of %zu tokens", count);
    hs_utf8_stream stream = {0};
    for (size_t i = 0; i < count; i++) {
        size_t len = 0;
        const char *raw = hs_tokenizer_bytes(t->inner, ids[i], &len);
        if (raw && len && !(skip_special && hs_tokenizer_is_special(t->inner, ids[i])))
            n += hs_utf8_feed(&stream, raw, len, out + n);
    }
    n += hs_utf8_feed(&stream, NULL, 0, out + n);
    out[n] = 0;
    *text = out;
    *bytes = n;
    return HLWQ_OK;
}

const char *hlwq_token_bytes(const hlwq_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    *bytes = 0;
    return id >= 0 && (uint32_t)id < hs_tokenizer_count(tokenizer->inner)
               ? hs_tokenizer_bytes(tokenizer->inner, id, bytes)
               : NULL;
}
