/*
 * model/template.c - chat requests to prompts: what transformers' apply_chat_template does around a template.
 *
 * The template's text and the special tokens come from the model; messages and variables from the request.
 */
#define _GNU_SOURCE
#include "loader/formats/eoq_file.h"
#include "model/engine.h"
#include "model/jinja.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CONFIG_MAX (16u << 20)
#define PARSE_MEMORY (256ull << 20) /* a template of the largest size takes less */

static const char *const special_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                            "pad_token", "cls_token", "mask_token"};
enum { SPECIAL_COUNT = sizeof special_names / sizeof *special_names };

struct hlwq_template {
    hs_mem *mem;
    hs_arena arena;
    hs_jinja *jinja;
    char *special[SPECIAL_COUNT]; /* NULL where the model has none */
    bool reads_content;           /* the text has the word: then a last message can be continued */
};

/* ---- opening ----------------------------------------------------------------------------------- */

/* "bos_token": "<s>" or {"content": "<s>"}. */
static hlwq_status take_special(hlwq_template *t, const hs_json *config, hlwq_error *err)
{
    for (int i = 0; i < SPECIAL_COUNT; i++) {
        const hs_json *node = hs_json_get(config, special_names[i]);
        size_t bytes;
        if (hs_json_type_of(node) == HS_JSON_OBJECT)
            node = hs_json_get(node, "content");
        if (hs_json_type_of(node) != HS_JSON_STRING)
            continue;
        const char *text = hs_json_string(node, &bytes);
        HS_TRY(hs_arena_text(&t->arena, text, bytes, &t->special[i], err));
    }
    return HLWQ_OK;
}

/* Older models keep the template in tokenizer_config.json: a string, or a list of which "default" counts. */
static const hs_json *template_in(const hs_json *config)
{
    const hs_json *node = hs_json_get(config, "chat_template");
    for (size_t i = 0; hs_json_type_of(node) == HS_JSON_ARRAY && i < hs_json_count(node); i++) {
        const hs_json *name = hs_json_get(hs_json_at(node, i), "name");
        if (hs_json_type_of(name) == HS_JSON_STRING && strcmp(hs_json_string(name, NULL), "default") == 0)
            return hs_json_get(hs_json_at(node, i), "template");
    }
    return node;
}

/* `text` may be NULL: then the configuration must have it. */
static hlwq_status parse(hlwq_template *t, const char *text, uint64_t bytes, const char *config_text,
                         uint64_t config_bytes, const char *path, const char *what, hlwq_error *err)
{
    hs_json *config = NULL;
    size_t n = bytes;
    if (config_text)
        HS_TRY(hs_json_parse(config_text, config_bytes, "tokenizer_config.json", &config, err));
    hlwq_status st = take_special(t, config, err);
    const hs_json *inside = template_in(config);
    if (st == HLWQ_OK && !text && hs_json_type_of(inside) == HS_JSON_STRING)
        text = hs_json_string(inside, &n);
    if (st == HLWQ_OK && !text)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s has no chat template", path);
    if (st == HLWQ_OK)
        st = hs_jinja_parse(&t->jinja, t->mem, text, n, what, err);
    t->reads_content = st == HLWQ_OK && memmem(text, n, "content", 7);
    hs_json_free(config);
    return st;
}

static hlwq_status open_directory(hlwq_template *t, hs_arena *arena, const char *path, hlwq_error *err)
{
    char *file, *text = NULL, *config = NULL;
    uint64_t bytes = 0, config_bytes = 0;
    HS_TRY(hs_path_join(arena, path, "tokenizer_config.json", &file, err));
    if (hs_path_exists(file))
        HS_TRY(hs_file_text(arena, file, CONFIG_MAX, &config, &config_bytes, err));
    HS_TRY(hs_path_join(arena, path, "chat_template.jinja", &file, err));
    if (hs_path_exists(file))
        HS_TRY(hs_file_text(arena, file, HS_JINJA_TEMPLATE_MAX, &text, &bytes, err));
    return parse(t, text, bytes, config, config_bytes, path, "the chat template", err);
}

static hlwq_status open_container(hlwq_template *t, const char *path, hlwq_error *err)
{
    hs_store *store;
    uint64_t bytes, config_bytes;
    HS_TRY(hs_store_open(&store, t->mem, path, NULL, NULL, err));
    const char *text = hs_store_blob(store, HS_BLOB_TEMPLATE, &bytes);
    const char *config = hs_store_blob(store, HS_BLOB_TOKENIZER_CONFIG, &config_bytes);
    hlwq_status st = parse(t, text, bytes, config, config_bytes, path, "the chat template", err);
    hs_store_close(store);
    return st;
}

static hlwq_status open_any(hlwq_template *t, hs_arena *arena, const char *path, hlwq_error *err)
{
    char *text, *folder;
    uint64_t bytes;
    if (hs_eoq_file_is(path)) { /* beside it */
        HS_TRY(hs_eoq_file_folder(arena, path, &folder, err));
        path = folder;
    }
    if (hs_path_is_directory(path))
        return open_directory(t, arena, path, err);
    if (hs_container_is(path))
        return open_container(t, path, err);
    HS_TRY(hs_file_text(arena, path, HS_JINJA_TEMPLATE_MAX, &text, &bytes, err));
    return parse(t, text, bytes, NULL, 0, path, path, err);
}

hlwq_status hlwq_template_open(const char *path, hlwq_template **chat, hlwq_error *err)
{
    *chat = NULL;
    hlwq_template *t = calloc(1, sizeof *t);
    if (t)
        t->mem = hs_mem_open(PARSE_MEMORY);
    if (!t || !t->mem) {
        free(t);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a chat template");
    }
    hs_arena files;
    hs_arena_init(&files, t->mem, HS_MEM_OTHER);
    hs_arena_init(&t->arena, t->mem, HS_MEM_OTHER);
    hlwq_status st = open_any(t, &files, path, err);
    hs_arena_close(&files);
    if (st != HLWQ_OK) {
        hlwq_template_close(t);
        return st;
    }
    *chat = t;
    return HLWQ_OK;
}

void hlwq_template_close(hlwq_template *t)
{
    if (!t)
        return;
    hs_jinja_free(t->jinja);
    hs_arena_close(&t->arena);
    hs_mem_close(t->mem);
    free(t);
}

/* ---- messages ---------------------------------------------------------------------------------- */

/* Put after the text that is to be continued; the prompt ends where it comes out. */
#define CONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG "

/* Older names of a message's reasoning fill the one that templates read, and "thinking", which some do. */
static hlwq_status name_reasoning(hs_jvm *vm, hs_jv *message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const hs_jv *found = NULL;
    hs_jv out;
    for (int i = 0; i < 3 && !found; i++) {
        found = hs_jdict_find(vm, message->dict, hs_jv_text(names[i]));
        if (found && found->type == HS_JV_NONE)
            found = NULL;
    }
    if (!found)
        return HLWQ_OK;
    hs_jv reasoning = *found;
    HS_TRY(hs_jdict_new(vm, message->dict->n + 2, &out));
    HS_TRY(hs_jdict_put(vm, out.dict, hs_jv_text("thinking"), reasoning));
    for (uint32_t i = 0; i < message->dict->n; i++)
        HS_TRY(hs_jdict_put(vm, out.dict, message->dict->key[i], message->dict->value[i]));
    HS_TRY(hs_jdict_put(vm, out.dict, hs_jv_text("reasoning_content"), reasoning));
    *message = out;
    return HLWQ_OK;
}

static hlwq_status check_messages(hs_jvm *vm, hs_jv *messages, hlwq_error *err)
{
    if (messages->type != HS_JV_LIST)
        return hs_fail(err, HLWQ_ERR_ARG, "the request: \"messages\" is not an array");
    if (!messages->list->n)
        return hs_fail(err, HLWQ_ERR_ARG,
                       "Cannot apply chat template to an empty conversation. Provide at least one message.");
    for (uint32_t i = 0; i < messages->list->n; i++) {
        if (messages->list->item[i].type != HS_JV_DICT)
            return hs_fail(err, HLWQ_ERR_ARG, "the request: message %u is not an object", i);
        HS_TRY(name_reasoning(vm, &messages->list->item[i]));
    }
    return HLWQ_OK;
}

static hlwq_status add_tag(hs_jvm *vm, hs_jv *text, hlwq_error *err)
{
    hs_text t = {0};
    if (text->type != HS_JV_STRING)
        return hs_fail(err, HLWQ_ERR_ARG, "the request: continue_final_message needs a text to continue");
    hs_text_add(&t, text->text, text->bytes);
    hs_text_add(&t, CONTINUE_TAG, strlen(CONTINUE_TAG));
    hlwq_status st =
        t.failed ? hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a message") : hs_jvm_string(vm, t.data, t.bytes, text);
    hs_text_close(&t);
    return st;
}

/* Marks the end of the last message's text: its content, or the last part of it that is a text. */
static hlwq_status mark_last(const hlwq_template *t, hs_jvm *vm, hs_jv messages, hlwq_error *err)
{
    hs_jv last = messages.list->item[messages.list->n - 1];
    hs_jv *content = hs_jdict_find(vm, last.dict, hs_jv_text("content"));
    if (!content || content->type == HS_JV_NONE)
        return hs_fail(err, HLWQ_ERR_ARG, "the request: continue_final_message, but the last message has no content");
    if (!t->reads_content)
        return hs_fail(err, HLWQ_ERR_ARG, "continue_final_message: the chat template does not read \"content\"");
    if (content->type != HS_JV_LIST)
        return add_tag(vm, content, err);
    for (uint32_t i = content->list->n; i-- > 0;) {
        hs_jv part = content->list->item[i];
        hs_jv *text = part.type == HS_JV_DICT ? hs_jdict_find(vm, part.dict, hs_jv_text("text")) : NULL;
        if (text)
            return add_tag(vm, text, err);
    }
    return hs_fail(err, HLWQ_ERR_ARG, "the request: continue_final_message needs a text to continue");
}

static hlwq_status cut_at_mark(hs_text *out, hlwq_error *err)
{
    const size_t n = strlen(CONTINUE_TAG) - 1; /* without its space, which a template may strip */
    for (size_t at = out->bytes; at-- > 0;) {
        if (out->bytes - at < n || memcmp(out->data + at, CONTINUE_TAG, n) != 0)
            continue;
        bool stripped = out->bytes - at == n || out->data[at + n] != ' ';
        while (stripped && at && strchr(" \t\n\r\v\f", out->data[at - 1]))
            at--;
        out->bytes = at;
        out->data[at] = 0;
        return HLWQ_OK;
    }
    return hs_fail(err, HLWQ_ERR_ARG, "continue_final_message: the chat template leaves the last message out");
}

/* ---- requests ---------------------------------------------------------------------------------- */

static hlwq_status put(hs_jvm *vm, hs_jv variables, const char *name, hs_jv value)
{
    return hs_jdict_put(vm, variables.dict, hs_jv_text(name), value);
}

/* Special tokens, then what transformers always passes, then the request's own. */
static hlwq_status make_variables(const hlwq_template *t, hs_jvm *vm, const hs_json *request, hs_jv *out,
                                  hlwq_error *err)
{
    static const char *const known[] = {"tools", "documents"};
    hs_jv value, name;
    HS_TRY(hs_jdict_new(vm, 16, out));
    for (int i = 0; i < SPECIAL_COUNT; i++)
        if (t->special[i])
            HS_TRY(put(vm, *out, special_names[i], hs_jv_text(t->special[i])));
    for (int i = 0; i < 2; i++)
        HS_TRY(put(vm, *out, known[i], hs_jv_none()));
    HS_TRY(put(vm, *out, "add_generation_prompt", hs_jv_bool(false)));
    for (hs_json_iter *it = hs_json_first(request); it; it = hs_json_next(request, it)) {
        size_t bytes;
        const char *key = hs_json_key(it, &bytes);
        if (strcmp(key, "chat_template") == 0)
            return hs_fail(err, HLWQ_ERR_ARG, "the request: \"chat_template\" is not taken from requests");
        if (strcmp(key, "continue_final_message") == 0)
            continue;
        name = hs_jv_slice(key, bytes);
        HS_TRY(hs_jvm_value(vm, hs_json_value(it), &value));
        HS_TRY(hs_jdict_put(vm, out->dict, name, value));
    }
    return HLWQ_OK;
}

static hlwq_status render(const hlwq_template *t, hs_jvm *vm, const hs_json *request, hs_text *out, hlwq_error *err)
{
    hs_jv variables;
    bool proceed = false;
    HS_TRY(make_variables(t, vm, request, &variables, err));
    hs_jv *messages = hs_jdict_find(vm, variables.dict, hs_jv_text("messages"));
    if (!messages)
        return hs_fail(err, HLWQ_ERR_ARG, "the request: \"messages\" is missing");
    HS_TRY(check_messages(vm, messages, err));
    hlwq_status st = hs_json_take_bool(request, "continue_final_message", HS_OPTIONAL, &proceed, "the request", err);
    if (st != HLWQ_OK)
        return hs_fail(err, HLWQ_ERR_ARG, "the request: \"continue_final_message\" is not true or false");
    const hs_jv *opens = hs_jdict_find(vm, variables.dict, hs_jv_text("add_generation_prompt"));
    if (proceed && opens && opens->type == HS_JV_BOOL && opens->boolean)
        return hs_fail(err, HLWQ_ERR_ARG,
                       "the request: continue_final_message and add_generation_prompt exclude each other");
    if (proceed)
        HS_TRY(mark_last(t, vm, *messages, err));
    HS_TRY(hs_jvm_render(vm, t->jinja, variables.dict, out));
    return proceed ? cut_at_mark(out, err) : HLWQ_OK;
}

hlwq_status hlwq_template_apply(const hlwq_template *t, const char *request, size_t bytes, char **text,
                                size_t *text_bytes, hlwq_error *err)
{
    hs_json *root;
    hs_jvm *vm = NULL;
    hs_text out = {0};
    const hs_jinja_limits limits = hs_jinja_limits_default();
    *text = NULL;
    *text_bytes = 0;
    hlwq_status st = hs_json_parse(request, bytes, "the request", &root, err);
    if (st != HLWQ_OK)
        return st == HLWQ_ERR_FORMAT && err ? (err->status = HLWQ_ERR_ARG) : HLWQ_ERR_ARG;
    if (hs_json_type_of(root) != HS_JSON_OBJECT)
        st = hs_fail(err, HLWQ_ERR_ARG, "the request is not a JSON object");
    if (st == HLWQ_OK)
        st = hs_jvm_open(&vm, &limits, (int64_t)time(NULL), err);
    if (st == HLWQ_OK)
        st = render(t, vm, root, &out, err);
    hs_jvm_close(vm);
    hs_json_free(root);
    if (st == HLWQ_OK) {
        *text_bytes = out.bytes;
        *text = hs_text_take(&out);
        if (!*text)
            st = hs_fail(err, HLWQ_ERR_NOMEM, "no memory for the prompt");
    }
    hs_text_close(&out);
    return st;
}
