/* A schema; after a zero byte a text that is followed through it. With a first byte of '!', a grammar instead;
 * of '(', the arguments of a call; of '<', an answer that calls tools. */
#include "model/grammar_json.h"
#include "model/json_schema.h"
#include "model/matcher.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void follow(hs_grammar *g, hs_mem *mem, const char *text, size_t bytes)
{
    hlwq_error err = {0};
    hs_matcher *m;
    hs_vocab vocab = {.n_tokens = 1};
    if (hs_matcher_open(&m, mem, g, &vocab, &err) != HLWQ_OK)
        return;
    uint32_t at = hs_matcher_start(m);
    hlwq_status st = hs_matcher_feed(m, &at, text, bytes, &err);
    if (st != HLWQ_OK && !err.message[0])
        __builtin_trap();
    hs_matcher_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool grammar = size && data[0] == '!', call = size && data[0] == '(', tools = size && data[0] == '<';
    data += grammar || call || tools;
    size -= grammar || call || tools;
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    hlwq_error err = {0};
    hs_json *root;
    if (hs_json_parse((const char *)data, n, "fuzz", &root, NULL) != HLWQ_OK)
        return 0;
    hs_mem *mem = hs_mem_open(0);
    hs_grammar g;
    hs_grammar_init(&g, mem, grammar ? HS_GRAMMAR_JSON_DEPTH : HS_TOOLS_DEPTH, 16, &err);
    if (grammar)
        hs_grammar_json(&g, root);
    else if (call)
        hs_json_call(&g, root);
    else if (tools)
        hs_json_tools(&g, root, n % 2);
    else
        hs_json_schema(&g, root);
    if (hs_grammar_close_off(&g, "fuzz") == HLWQ_OK)
        follow(&g, mem, zero ? (const char *)zero + 1 : "{\"a\": [1, \"x\"]}", zero ? size - n - 1 : 15);
    else if (!err.message[0])
        __builtin_trap();
    hs_grammar_free(&g);
    hs_json_free(root);
    hs_mem_close(mem);
    return 0;
}
