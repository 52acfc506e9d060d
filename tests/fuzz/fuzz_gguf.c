/* Headers of GGUF files, and the blocks of each type. */
#include "loader/formats/gguf.h"
#include "loader/formats/wide.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hs_gguf g;
    hs_arena arena;
    hlwq_error err;
    hs_mem *mem = hs_mem_open(16u << 20);
    if (!mem)
        return 0;
    hs_arena_init(&arena, mem, HS_MEM_OTHER);
    if (hs_gguf_parse(&g, data, size, size, "fuzz", &arena, &err) == HLWQ_OK)
        for (uint32_t i = 0; i < g.n_tensors; i++) {
            const hs_gguf_tensor *t = &g.tensor[i];
            uint32_t weights, bytes;
            const char *name;
            if (t->offset + t->bytes > size || !hs_ggml_type(t->type, &weights, &bytes, &name))
                abort();
            float *out = malloc((size_t)weights * sizeof *out);
            if (out && t->bytes >= bytes)
                hs_ggml_widen(t->type, data + t->offset, weights, out);
            free(out);
        }
    hs_arena_close(&arena);
    hs_mem_close(mem);
    return 0;
}
