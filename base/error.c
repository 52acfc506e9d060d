/*
 * base/error.c - formats error sentences.  Owns nothing; never allocates, so it works when memory is gone.
 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Length of the well-formed UTF-8 sequence at s, 0 if there is none. */
static size_t utf8_sequence(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : s[0] >= 0xE0 ? 3 : s[0] >= 0xC2 ? 2 : 0;
    if (s[0] > 0xF4 || n == 0)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return n;
}

void hs_escape(char *out, size_t capacity, const char *text)
{
    size_t n = 0;
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        size_t len = utf8_sequence(s);
        bool control = len == 1 ? (*s < 0x20 || *s == 0x7F) : len == 2 ? (s[0] == 0xC2 && s[1] < 0xA0) : false;
        if (len && !control) {
            if (n + len >= capacity)
                break;
            memcpy(out + n, s, len);
            n += len;
            s += len;
        } else {
            if (n + 4 >= capacity)
                break;
            static const char hex[] = "0123456789abcdef";
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[*s >> 4];
            out[n++] = hex[*s & 15];
            s++;
        }
    }
    out[n] = 0;
}

static void set_message(hlwq_error *err, hlwq_status status, const char *format, va_list args)
{
    char raw[sizeof err->message];
    vsnprintf(raw, sizeof raw, format, args);
    err->status = status;
    hs_escape(err->message, sizeof err->message, raw);
}

hlwq_status hs_fail(hlwq_error *err, hlwq_status status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        set_message(err, status, format, args);
        va_end(args);
    }
    return status;
}

hlwq_status hs_fail_in(hlwq_error *err, hlwq_status status, const char *format, ...)
{
    if (err) {
        char rest[sizeof err->message];
        memcpy(rest, err->message, sizeof rest);
        va_list args;
        va_start(args, format);
        set_message(err, status, format, args);
        va_end(args);
        size_t n = strlen(err->message);
        snprintf(err->message + n, sizeof err->message - n, ": %s", rest);
    }
    return status;
}
