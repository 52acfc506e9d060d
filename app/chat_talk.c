/*
 * app/chat_talk.c - messages in memory and in a file.
 */
#define _GNU_SOURCE
#include "app/chat_talk.h"

#include "app/console.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 64 << 20, MESSAGES_MAX = 65536 };

static const char *const role_names[] = {"system", "user", "assistant"};

const char *chat_role_name(chat_role role)
{
    return role_names[role];
}

/* A copy with broken UTF-8 as U+FFFD, which writing and reading JSON does. */
static hlwq_status copy_text(const char *text, char **out, hlwq_error *err)
{
    hs_text t = {0};
    hs_json *root = NULL;
    *out = NULL;
    hs_text_format(&t, "[");
    hs_text_json(&t, text, strlen(text));
    hs_text_format(&t, "]");
    hlwq_status st = t.failed ? HLWQ_ERR_NOMEM : hs_json_parse(t.data, t.bytes, "a message", &root, err);
    if (st == HLWQ_OK)
        *out = strdup(hs_json_string(hs_json_at(root, 0), NULL));
    hs_json_free(root);
    hs_text_close(&t);
    return *out ? HLWQ_OK : hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a message");
}

hlwq_status chat_talk_add(chat_talk *t, chat_role role, const char *text, const char *reasoning, hlwq_error *err)
{
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 16;
        chat_message *more = realloc(t->message, capacity * sizeof *more);
        if (!more)
            return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a message");
        t->message = more;
        t->capacity = capacity;
    }
    chat_message m = {.role = role};
    HS_TRY(copy_text(text, &m.text, err));
    hlwq_status st = reasoning ? copy_text(reasoning, &m.reasoning, err) : HLWQ_OK;
    if (st != HLWQ_OK) {
        free(m.text);
        return st;
    }
    t->message[t->n++] = m;
    return HLWQ_OK;
}

void chat_talk_cut(chat_talk *t, size_t n)
{
    while (t->n > n) {
        t->n--;
        free(t->message[t->n].text);
        free(t->message[t->n].reasoning);
    }
}

hlwq_status chat_talk_system(chat_talk *t, const char *text, hlwq_error *err)
{
    bool has = t->n && t->message[0].role == CHAT_SYSTEM;
    if (!*text) {
        if (has) {
            free(t->message[0].text);
            t->n--;
            memmove(t->message, t->message + 1, t->n * sizeof *t->message);
        }
        return HLWQ_OK;
    }
    HS_TRY(chat_talk_add(t, CHAT_SYSTEM, text, NULL, err));
    chat_message m = t->message[--t->n];
    if (has) {
        free(t->message[0].text);
    } else {
        memmove(t->message + 1, t->message, t->n * sizeof *t->message);
        t->n++;
    }
    t->message[0] = m;
    return HLWQ_OK;
}

void chat_talk_close(chat_talk *t)
{
    chat_talk_cut(t, 0);
    free(t->message);
    *t = (chat_talk){0};
}

/* ---- the file -------------------------------------------------------------------------------- */

void chat_talk_write(hs_text *out, const chat_talk *t)
{
    hs_text_format(out, "{\n  \"schema\": 1,\n  \"messages\": [");
    for (size_t i = 0; i < t->n; i++) {
        const chat_message *m = &t->message[i];
        hs_text_format(out, "%s\n    {\"role\": \"%s\", \"content\": ", i ? "," : "", role_names[m->role]);
        hs_text_json(out, m->text, strlen(m->text));
        if (m->reasoning) {
            hs_text_format(out, ", \"reasoning_content\": ");
            hs_text_json(out, m->reasoning, strlen(m->reasoning));
        }
        hs_text_format(out, "}");
    }
    hs_text_format(out, "%s]\n}\n", t->n ? "\n  " : "");
}

hlwq_status chat_talk_save(const chat_talk *t, const char *path, hlwq_error *err)
{
    hs_text out = {0};
    chat_talk_write(&out, t);
    return app_text_to_file(&out, path, err);
}

/* A member that must be a text; NULL where it is missing or null and may be. */
static hlwq_status take_text(const hs_json *object, const char *key, hs_json_need need, const char **out,
                             const char *where, hlwq_error *err)
{
    const hs_json *node = hs_json_get(object, key);
    size_t bytes;
    *out = NULL;
    HS_TRY(hs_json_take_string(object, key, need, out, where, err));
    if (*out && (hs_json_string(node, &bytes), strlen(*out) != bytes))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: \"%s\" holds a zero byte", where, key);
    return HLWQ_OK;
}

static hlwq_status read_message(chat_talk *t, const hs_json *node, const char *where, hlwq_error *err)
{
    const char *role, *text, *reasoning;
    if (hs_json_type_of(node) != HS_JSON_OBJECT)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s is not an object", where);
    HS_TRY(take_text(node, "role", HS_REQUIRED, &role, where, err));
    HS_TRY(take_text(node, "content", HS_REQUIRED, &text, where, err));
    HS_TRY(take_text(node, "reasoning_content", HS_OPTIONAL, &reasoning, where, err));
    for (int i = 0; i < 3; i++) {
        if (strcmp(role, role_names[i]) != 0)
            continue;
        if (i == CHAT_SYSTEM && t->n)
            return hs_fail(err, HLWQ_ERR_FORMAT, "%s: a system message can only be the first", where);
        return chat_talk_add(t, (chat_role)i, text, i == CHAT_ASSISTANT ? reasoning : NULL, err);
    }
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: the role \"%.40s\" is none of system, user and assistant", where, role);
}

static hlwq_status read_json(chat_talk *t, const char *text, size_t bytes, const char *path, hlwq_error *err)
{
    hs_json *root;
    HS_TRY(hs_json_parse(text, bytes, path, &root, err));
    const hs_json *list = hs_json_get(root, "messages");
    hlwq_status st = HLWQ_OK;
    if (hs_json_type_of(list) != HS_JSON_ARRAY)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s has no array \"messages\"", path);
    else if (hs_json_count(list) > MESSAGES_MAX)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: %zu messages, limit %d", path, hs_json_count(list), MESSAGES_MAX);
    for (size_t i = 0; st == HLWQ_OK && i < hs_json_count(list); i++) {
        char where[512];
        snprintf(where, sizeof where, "%.400s: message %zu", path, i + 1);
        st = read_message(t, hs_json_at(list, i), where, err);
    }
    hs_json_free(root);
    return st;
}

hlwq_status chat_talk_read(chat_talk *talk, const char *text, size_t bytes, const char *name, hlwq_error *err)
{
    chat_talk t = {0};
    hlwq_status st = read_json(&t, text, bytes, name, err);
    if (st != HLWQ_OK) {
        chat_talk_close(&t);
        return st;
    }
    chat_talk_close(talk);
    *talk = t;
    return HLWQ_OK;
}

hlwq_status chat_talk_load(chat_talk *talk, const char *path, hlwq_error *err)
{
    hs_file f;
    HS_TRY(hs_file_open(&f, path, err));
    hlwq_status st = HLWQ_OK;
    char *text = f.bytes <= FILE_MAX ? malloc(f.bytes + 1) : NULL;
    if (f.bytes > FILE_MAX)
        st = hs_fail(err, HLWQ_ERR_FORMAT, "%s: %" PRIu64 " bytes, limit %d", path, f.bytes, FILE_MAX);
    else if (!text)
        st = hs_fail(err, HLWQ_ERR_NOMEM, "no memory to read %s", path);
    if (st == HLWQ_OK)
        st = hs_file_read(&f, 0, text, f.bytes, path, err);
    if (st == HLWQ_OK)
        st = chat_talk_read(talk, text, f.bytes, path, err);
    free(text);
    hs_file_close(&f);
    return st;
}
