/*
 * base/error.h - how failures are reported: a status and one sentence.
 *
 * The message names the value and the limit.  Bytes that a terminal would act on are written as
 * \xNN, since names and paths may come from hostile files.
 */
#ifndef HS_BASE_ERROR_H
#define HS_BASE_ERROR_H

#include "include/hlwq_stream.h"

/* Fills *err (NULL is fine) and returns `status`. */
hlwq_status hs_fail(hlwq_error *err, hlwq_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the sentence already in *err and returns its status. */
hlwq_status hs_fail_in(hlwq_error *err, hlwq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Copies text with control characters and broken UTF-8 written as \xNN; always zero-terminated. */
void hs_escape(char *out, size_t capacity, const char *text);

#define HS_TRY(call)                                                                                                   \
    do {                                                                                                               \
        hlwq_status hs_try_status = (call);                                                                            \
        if (hs_try_status != HLWQ_OK)                                                                                  \
            return hs_try_status;                                                                                      \
    } while (0)

#endif
