/*
 * base/log.h - lines for whoever listens.  A logger is a callback and its user pointer; NULL is silence.
 */
#ifndef HS_BASE_LOG_H
#define HS_BASE_LOG_H

#include "include/hlwq_stream.h"

typedef struct hs_log {
    hlwq_log_fn fn;
    void *user;
} hs_log;

void hs_log_line(const hs_log *log, hlwq_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
