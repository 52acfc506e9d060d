/*
 * tests/support/check.h - what every test file starts with: cmocka, and sentences in failures.
 */
#ifndef HS_TESTS_CHECK_H
#define HS_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_OK(call, err)                                                                                            \
    do {                                                                                                               \
        (err).message[0] = 0;                                                                                          \
        hlwq_status check_status = (call);                                                                             \
        if (check_status != HLWQ_OK)                                                                                   \
            fail_msg("%s: status %d: %s", #call, check_status, (err).message);                                         \
    } while (0)

/* The call must fail with `status` and a sentence that holds `word`. */
#define CHECK_FAILS(call, wanted, err, word)                                                                           \
    do {                                                                                                               \
        (err).message[0] = 0;                                                                                          \
        hlwq_status check_status = (call);                                                                             \
        if (check_status != (wanted))                                                                                  \
            fail_msg("%s: status %d (%s), wanted %d", #call, check_status, (err).message, wanted);                     \
        if (!strstr((err).message, word))                                                                              \
            fail_msg("%s: \"%s\" does not mention \"%s\"", #call, (err).message, word);                                \
    } while (0)

/* What engines of tests compute on: the CPU, or what HLWQ_TEST_DEVICE names. */
static inline hlwq_device test_device(void)
{
    const char *device = getenv("HLWQ_TEST_DEVICE");
    return device && strcmp(device, "cuda") == 0 ? HLWQ_DEVICE_CUDA : HLWQ_DEVICE_CPU;
}

/* Folder of the big goldens: $HLWQ_GOLDEN, else ../shared/golden; NULL if there is none. */
static inline const char *large_golden(void)
{
    const char *dir = getenv("HLWQ_GOLDEN");
    if (!dir || !*dir)
        dir = "../shared/golden";
    char probe[4096];
    snprintf(probe, sizeof probe, "%s/qwen35/README.md", dir);
    FILE *f = fopen(probe, "r");
    if (!f)
        return NULL;
    fclose(f);
    return dir;
}

/* "tests/golden/NAME" if it ships, else "<large golden>/NAME", else NULL. Static buffer. */
static inline const char *golden(const char *name)
{
    static char path[8][4096];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, 4096, "tests/golden/%s", name);
    FILE *f = fopen(p, "r");
    if (!f && large_golden()) {
        snprintf(p, 4096, "%s/%s", large_golden(), name);
        f = fopen(p, "r");
    }
    if (!f)
        return NULL;
    fclose(f);
    return p;
}

#endif
