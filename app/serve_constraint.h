/*
 * app/serve_constraint.h - what "response_format" and tools ask for, compiled once for all requests that
 * ask for the same.
 *
 * Compiling happens on the thread of the request; what was compiled is followed by the engine thread alone.  Any
 * thread may call these.
 */
#ifndef HS_APP_SERVE_CONSTRAINT_H
#define HS_APP_SERVE_CONSTRAINT_H

#include "app/serve_request.h"

#include <pthread.h>

enum { SERVE_CONSTRAINTS = 8 /* kept, beside those in use */ };

typedef struct serve_constraint serve_constraint;

typedef struct serve_constraints {
    pthread_mutex_t lock;
    serve_constraint *kept[SERVE_CONSTRAINTS]; /* the latest used one first; NULL = none from here on */
} serve_constraints;

void serve_constraints_open(serve_constraints *all);
void serve_constraints_close(serve_constraints *all); /* no request has one any more; before the tokenizer goes */

/*
 * `text` is what the format needs beyond its name, taken over.  *out is released.  False and a refusal, which names the
 * member `param`, where the schema is none of ours.
 */
bool serve_constraint_get(serve_constraints *all, const hlwq_tokenizer *tokenizer, serve_format format, hs_text *text,
                          const char *param, serve_constraint **out, serve_fault *fault);
void serve_constraint_release(serve_constraints *all, serve_constraint *c); /* NULL is fine */

/* It failed while it was followed, maybe for what others have made it remember: the next request gets a fresh one. */
void serve_constraint_forget(serve_constraints *all, serve_constraint *c); /* NULL is fine */

hlwq_constraint *serve_constraint_inner(serve_constraint *c); /* of NULL: NULL */

#endif
