/*
 * tests/support/demo.h - options that open the demo model.
 */
#ifndef HS_TESTS_DEMO_H
#define HS_TESTS_DEMO_H

#include "include/hlwq_stream.h"
#include "tests/support/check.h"

#include <unistd.h>

static const char demo_model[] = "models/demo-q5.hlwq";

/* The defaults with that model on `device`; a skip where it is not there. */
static inline hlwq_engine_options demo_options(hlwq_device device)
{
    hlwq_engine_options o = hlwq_engine_options_default();
    if (access(demo_model, R_OK) != 0)
        skip();
    o.model = demo_model;
    o.device = device;
    return o;
}

#endif
