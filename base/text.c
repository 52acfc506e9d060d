/*
 * base/text.c - growing strings.
 */
#include "base/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(hs_text *t, size_t more)
{
    if (t->failed || more > SIZE_MAX / 4) {
        t->failed = true;
        return false;
    }
    size_t need = t->bytes + more + 1;
    if (need <= t->capacity)
        return true;
    size_t capacity = t->capacity ? t->capacity : 256;
    while (capacity < need)
        capacity *= 2;
    char *p = realloc(t->data, capacity);
    if (!p) {
        t->failed = true;
        return false;
    }
    t->data = p;
    t->capacity = capacity;
    return true;
}

void hs_text_add(hs_text *t, const char *data, size_t bytes)
{
    if (!reserve(t, bytes))
        return;
    if (bytes)
        memcpy(t->data + t->bytes, data, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
}

void hs_text_format(hs_text *t, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0)
        t->failed = true;
    else if (reserve(t, (size_t)n)) {
        vsnprintf(t->data + t->bytes, (size_t)n + 1, format, again);
        t->bytes += (size_t)n;
    }
    va_end(again);
}

/* Length of the valid UTF-8 character at s, or 0. */
static size_t character(const unsigned char *s, size_t left)
{
    static const unsigned low[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    unsigned c = n == 1 ? s[0] : s[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    return c < low[n] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) ? 0 : n;
}

void hs_text_json(hs_text *t, const char *data, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)data;
    hs_text_add(t, "\"", 1);
    for (size_t i = 0; i < bytes;) {
        size_t n = character(s + i, bytes - i);
        if (n == 0) {
            hs_text_add(t, "\xEF\xBF\xBD", 3);
            i++;
            continue;
        }
        if (s[i] == '"' || s[i] == '\\')
            hs_text_format(t, "\\%c", s[i]);
        else if (s[i] == '\n')
            hs_text_add(t, "\\n", 2);
        else if (s[i] < 0x20 || s[i] == 0x7F)
            hs_text_format(t, "\\u%04x", s[i]);
        else
            hs_text_add(t, data + i, n);
        i += n;
    }
    hs_text_add(t, "\"", 1);
}

char *hs_text_take(hs_text *t)
{
    if (!t->failed && !t->data)
        hs_text_add(t, "", 0);
    char *p = t->failed ? NULL : t->data;
    if (!p)
        free(t->data);
    *t = (hs_text){0};
    return p;
}

void hs_text_close(hs_text *t)
{
    free(t->data);
    *t = (hs_text){0};
}
