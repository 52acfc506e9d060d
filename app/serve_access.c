/*
 * app/serve_access.c - who may ask: hosts, origins, the key, and what can be refused before a body has come.
 */
#include "app/serve.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Takes the same time wherever the texts differ. */
static bool same_secret(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    unsigned char differs = n != m;
    for (size_t i = 0; i < n; i++)
        differs |= (unsigned char)(a[i] ^ b[m ? i % m : 0]);
    return !differs;
}

/* The name of "localhost:8080", "[::1]:8080". */
static bool names_us(const serve *s, const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    size_t n = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    for (size_t i = 0; i < 3; i++)
        if (n == strlen(names[i]) && strncasecmp(host, names[i], n) == 0)
            return true;
    return n == strlen(s->host) && strncasecmp(host, s->host, n) == 0;
}

bool serve_lets_in(const serve *s, const char *origin)
{
    return s->cors && (strcmp(s->cors, "*") == 0 || strcmp(s->cors, origin) == 0);
}

/*
 * A page from elsewhere must not use this server through the browser of who runs it: not by a name of its own that
 * points here, and not by posting without being allowed to read.
 */
static bool from_elsewhere(const serve *s, const serve_head *head, serve_fault *f)
{
    const char *host = head->host, *origin = head->origin, *at;
    if (s->local && *host && !names_us(s, host))
        return !serve_refuse(f, 403, NULL, "this server answers to localhost, not to the name in Host");
    if (!*origin || serve_lets_in(s, origin))
        return false;
    at = strstr(origin, "://");
    if (at && strcasecmp(at + 3, host) == 0)
        return false;
    return !serve_refuse(f, 403, NULL, "pages of another origin may not use this server; --cors allows one");
}

static bool has_key(const serve *s, const char *given)
{
    return !s->key || (strncasecmp(given, "Bearer ", 7) == 0 && same_secret(given + 7, s->key));
}

bool serve_admit(const serve *s, const serve_head *head, serve_method *kind, bool *preflight, serve_fault *f)
{
    const char *method = head->method;
    bool open;
    char *end;
    if (from_elsewhere(s, head, f))
        return false;
    *preflight = s->cors && strcmp(method, "OPTIONS") == 0;
    if (*preflight)
        return true;
    *kind = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0 ? SERVE_GET
            : strcmp(method, "POST") == 0                             ? SERVE_POST
                                                                      : SERVE_OTHER;
    if (!serve_route_known(*kind, head->path, &open, f))
        return false;
    if (!open && !has_key(s, head->authorization))
        return serve_refuse(f, 401, NULL, "this server wants its key: Authorization: Bearer ...");
    if (*head->length && (strtoull(head->length, &end, 10) > s->body_max || *end))
        return serve_refuse(f, 413, NULL, "a body of %.24s bytes, limit %llu", head->length,
                            (unsigned long long)s->body_max);
    return true;
}
