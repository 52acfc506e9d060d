/* A small model with random weights, converted, in a folder of its own. */
#ifndef HS_TESTS_CUDA_TINY_MADE_H
#define HS_TESTS_CUDA_TINY_MADE_H

#include "tests/cuda/demo_text.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* {0} is C's */
#include "tests/support/tiny_model.h"
#pragma GCC diagnostic pop
}

typedef struct tiny_made {
    char dir[32], path[64];
} tiny_made;

/* With `bits` for each weight, or in a format by its name. */
static inline tiny_made tiny_make(bool moe, uint32_t bits, const char *format)
{
    tiny_made m = {"/tmp/hlwq-cuda-XXXXXX", ""};
    char source[64];
    hlwq_error err;
    assert_non_null(mkdtemp(m.dir));
    snprintf(source, sizeof source, "%s/tiny", m.dir);
    snprintf(m.path, sizeof m.path, "%s/made.hlwq", m.dir);
    tiny_model_write(source, moe);
    hlwq_convert_options c = hlwq_convert_options_default();
    c.source = source;
    c.output = m.path;
    c.bits = format ? 0 : bits;
    c.format = format;
    if (hlwq_convert(&c, &err) != HLWQ_OK)
        fail_msg("%s", err.message);
    return m;
}

static inline void tiny_remove(const tiny_made *m)
{
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", m->dir);
    assert_int_equal(system(command), 0);
}

#endif
