/*
 * app/serve_constraint.c - a short list, the latest used in front.
 */
#include "app/serve_constraint.h"

#include <stdlib.h>
#include <string.h>

struct serve_constraint {
    serve_format format;
    char *schema; /* as compact JSON; NULL = the format needs none */
    hlwq_constraint *inner;
    uint32_t refs; /* requests, and the list */
};

void serve_constraints_open(serve_constraints *all)
{
    *all = (serve_constraints){0};
    pthread_mutex_init(&all->lock, NULL);
}

static void let_go(serve_constraint *c)
{
    if (!c || --c->refs)
        return;
    hlwq_constraint_close(c->inner);
    free(c->schema);
    free(c);
}

void serve_constraints_close(serve_constraints *all)
{
    for (size_t i = 0; i < SERVE_CONSTRAINTS; i++)
        let_go(all->kept[i]);
    pthread_mutex_destroy(&all->lock);
}

/* ---- the list, with its lock ------------------------------------------------------------------ */

static void to_front(serve_constraints *all, size_t i)
{
    serve_constraint *c = all->kept[i];
    memmove(all->kept + 1, all->kept, i * sizeof *all->kept);
    all->kept[0] = c;
}

/* One more reference to what is kept; NULL = nothing is. */
static serve_constraint *find(serve_constraints *all, serve_format format, const char *schema)
{
    for (size_t i = 0; i < SERVE_CONSTRAINTS && all->kept[i]; i++) {
        serve_constraint *c = all->kept[i];
        if (c->format != format || strcmp(c->schema ? c->schema : "", schema ? schema : "") != 0)
            continue;
        to_front(all, i);
        c->refs++;
        return c;
    }
    return NULL;
}

static void keep(serve_constraints *all, serve_constraint *c)
{
    const size_t last = SERVE_CONSTRAINTS - 1;
    let_go(all->kept[last]);
    all->kept[last] = c;
    c->refs++;
    to_front(all, last);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* Those that no request has make room. */
static void empty(serve_constraints *all)
{
    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; i < SERVE_CONSTRAINTS; i++) {
        let_go(all->kept[i]);
        all->kept[i] = NULL;
    }
    pthread_mutex_unlock(&all->lock);
}

static bool compile(serve_constraints *all, const hlwq_tokenizer *tokenizer, serve_constraint *c, const char *param,
                    serve_fault *fault)
{
    static const hlwq_constraint_kind kinds[] = {[SERVE_JSON_OBJECT] = HLWQ_CONSTRAINT_JSON_OBJECT,
                                                 [SERVE_JSON_SCHEMA] = HLWQ_CONSTRAINT_JSON_SCHEMA,
                                                 [SERVE_CALLS] = HLWQ_CONSTRAINT_TOOLS};
    hlwq_error err;
    hlwq_status st = hlwq_constraint_open(tokenizer, kinds[c->format], c->schema, c->schema ? strlen(c->schema) : 0,
                                          &c->inner, &err);
    if (st == HLWQ_ERR_BUDGET) { /* maybe of all together */
        empty(all);
        st = hlwq_constraint_open(tokenizer, kinds[c->format], c->schema, c->schema ? strlen(c->schema) : 0, &c->inner,
                                  &err);
    }
    if (st == HLWQ_OK)
        return true;
    return serve_refuse(fault, st == HLWQ_ERR_NOMEM ? 500 : 400, param, "%s", err.message);
}

bool serve_constraint_get(serve_constraints *all, const hlwq_tokenizer *tokenizer, serve_format format, hs_text *text,
                          const char *param, serve_constraint **out, serve_fault *fault)
{
    bool bare = !text->data && !text->failed;
    char *schema = hs_text_take(text);
    *out = NULL;
    if (!schema && !bare)
        return serve_refuse(fault, 500, NULL, "no memory for the schema");
    pthread_mutex_lock(&all->lock);
    *out = find(all, format, schema);
    pthread_mutex_unlock(&all->lock);
    if (*out) {
        free(schema);
        return true;
    }
    serve_constraint *c = calloc(1, sizeof *c);
    if (!c) {
        free(schema);
        return serve_refuse(fault, 500, NULL, "no memory for the schema");
    }
    *c = (serve_constraint){.format = format, .schema = schema, .refs = 1};
    if (!compile(all, tokenizer, c, param, fault)) { /* without the lock: others need not wait */
        let_go(c);
        return false;
    }
    pthread_mutex_lock(&all->lock);
    *out = find(all, format, schema); /* two may ask at once */
    if (*out)
        let_go(c);
    else
        keep(all, *out = c);
    pthread_mutex_unlock(&all->lock);
    return true;
}

void serve_constraint_release(serve_constraints *all, serve_constraint *c)
{
    pthread_mutex_lock(&all->lock);
    let_go(c);
    pthread_mutex_unlock(&all->lock);
}

void serve_constraint_forget(serve_constraints *all, serve_constraint *c)
{
    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; c && i < SERVE_CONSTRAINTS; i++)
        if (all->kept[i] == c) {
            memmove(all->kept + i, all->kept + i + 1, (SERVE_CONSTRAINTS - 1 - i) * sizeof *all->kept);
            all->kept[SERVE_CONSTRAINTS - 1] = NULL;
            let_go(c);
            break;
        }
    pthread_mutex_unlock(&all->lock);
}

hlwq_constraint *serve_constraint_inner(serve_constraint *c)
{
    return c ? c->inner : NULL;
}
