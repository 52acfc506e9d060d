/* The header parser on any bytes; the first two say how much longer the file claims to be. */
#include "loader/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    uint64_t more = (uint64_t)data[0] << 8 | data[1];
    hs_mem *mem = hs_mem_open(256u << 20);
    hs_arena arena;
    hs_st_entry *entry;
    uint32_t n;
    hs_arena_init(&arena, mem, HS_MEM_TABLE);
    if (hs_safetensors_parse((const char *)data + 2, size - 2, 8 + size - 2 + more, "fuzz", &arena, &entry, &n, NULL) ==
        HLWQ_OK) {
        uint64_t end =
            8 + size - 2; /* of the header, then of each tensor: in order, apart, up to the end of the file */
        for (uint32_t i = 0; i < n; i++) {
            if (entry[i].offset < end)
                __builtin_trap();
            end = entry[i].offset + entry[i].bytes;
        }
        if (end != 8 + size - 2 + more)
            __builtin_trap();
    }
    hs_arena_close(&arena);
    hs_mem_close(mem);
    return 0;
}
