/* A template, a zero byte, and a JSON object for its variables; without the zero all of it is the template. */
#include "model/jinja.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Small limits: what matters is that they hold, not how far they go. */
static const hs_jinja_limits limits = {.steps = 20000, .output_bytes = 1 << 16, .memory_bytes = 8 << 20, .depth = 60};

static void render(const hs_jinja *jinja, const hs_json *context)
{
    hlwq_error err = {0};
    hs_jvm *vm;
    hs_jv variables;
    hs_text text = {0};
    if (hs_jvm_open(&vm, &limits, 0, &err) != HLWQ_OK)
        return;
    hlwq_status st = hs_jvm_value(vm, context, &variables);
    if (st == HLWQ_OK && variables.type == HS_JV_DICT)
        st = hs_jvm_render(vm, jinja, variables.dict, &text);
    if (text.bytes > limits.output_bytes || (st != HLWQ_OK && !err.message[0]))
        __builtin_trap();
    hs_text_close(&text);
    hs_jvm_close(vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fallback[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9 \"},{\"role\":\"assistant\",\"content\":null,"
        "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,true]}}}]}],\"n\":7,\"s\":\"a b\"}";
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    hs_mem *mem = hs_mem_open(64u << 20);
    hs_json *context = NULL;
    hs_jinja *jinja;
    if (!zero || hs_json_parse((const char *)zero + 1, size - n - 1, "json", &context, NULL) != HLWQ_OK)
        hs_json_parse(fallback, sizeof fallback - 1, "json", &context, NULL);
    hlwq_error err = {0};
    if (hs_jinja_parse(&jinja, mem, (const char *)data, n, "template", &err) == HLWQ_OK) {
        render(jinja, context);
        hs_jinja_free(jinja);
    } else if (!err.message[0]) {
        __builtin_trap();
    }
    hs_json_free(context);
    hs_mem_close(mem);
    return 0;
}
