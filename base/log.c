/*
 * base/log.c - formats a line and hands it to the callback, control characters escaped.
 */
#include "base/log.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

void hs_log_line(const hs_log *log, hlwq_log_level level, const char *format, ...)
{
    if (!log || !log->fn)
        return;
    char raw[1024], line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    hs_escape(line, sizeof line, raw);
    log->fn(log->user, level, line);
}
