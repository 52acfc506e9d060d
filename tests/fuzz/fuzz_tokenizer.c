/* The bytes as a tokenizer.json, and as text for a small tokenizer, which must give them back. */
#include "base/text.h"
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The 256 byte tokens in GPT-2's alphabet, two merges, Qwen's pattern. */
static void small_tokenizer(hs_text *t)
{
    uint32_t extra = 0;
    hs_text_format(t, "{\"added_tokens\":[{\"id\":258,\"content\":\"<|x|>\",\"special\":true}],"
                      "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{");
    for (uint32_t b = 0; b < 256; b++) {
        bool plain = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        uint32_t c = plain ? b : 256 + extra++;
        char utf8[3] = {(char)c};
        if (c >= 0x80) {
            utf8[0] = (char)(0xC0 | c >> 6);
            utf8[1] = (char)(0x80 | (c & 63));
        }
        hs_text_json(t, utf8, strlen(utf8));
        hs_text_format(t, ":%u,", b);
    }
    hs_text_format(t, "\"ab\":256,\"abc\":257},\"merges\":[\"a b\",[\"ab\",\"c\"]]}}");
}

static void encode(const hs_tokenizer *t, const uint8_t *data, size_t size, bool exact)
{
    int32_t *ids;
    size_t n, at = 0;
    for (int special = 0; special < 2; special++) {
        if (hs_tokenizer_encode(t, (const char *)data, size, special, &ids, &n, NULL) != HLWQ_OK)
            continue;
        at = 0;
        for (size_t i = 0; i < n; i++) {
            size_t len;
            const char *raw = hs_tokenizer_bytes(t, ids[i], &len);
            if (exact && (!raw || at + len > size || memcmp(raw, data + at, len) != 0))
                __builtin_trap();
            at += len;
        }
        if (exact && at != size)
            __builtin_trap();
        free(ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hs_mem *mem = hs_mem_open(512u << 20);
    hs_tokenizer *t;
    if (hs_tokenizer_parse(&t, mem, (const char *)data, size, NULL, 0, 0, "fuzz", NULL) == HLWQ_OK) {
        encode(t, (const uint8_t *)"ab c<|x|> 12\n\xC3\xA9\xFF", 16, false);
        hs_tokenizer_free(t);
    }
    hs_text text = {0};
    small_tokenizer(&text);
    if (hs_tokenizer_parse(&t, mem, text.data, text.bytes, NULL, 0, 0, "small", NULL) != HLWQ_OK)
        __builtin_trap();
    encode(t, data, size, true);
    hs_tokenizer_free(t);
    hs_text_close(&text);
    hs_mem_close(mem);
    return 0;
}
