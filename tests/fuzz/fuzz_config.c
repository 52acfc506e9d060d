/* config.json and generation_config.json, then the schema of what was accepted. */
#include "loader/schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hs_config c;
    hs_generation g = hs_generation_default();
    if (hs_config_parse(&c, (const char *)data, size, "fuzz", NULL, NULL) != HLWQ_OK)
        return 0;
    if (c.layers == 0 || c.q_heads % c.kv_heads || c.rotary_dims > c.head_dim || (c.v_heads && c.v_heads % c.k_heads))
        __builtin_trap();
    hs_generation_parse(&c, &g, (const char *)data, size, "fuzz", NULL);
    hs_mem *mem = hs_mem_open(1u << 30);
    hs_arena arena;
    hs_table t;
    hs_arena_init(&arena, mem, HS_MEM_TABLE);
    hs_schema_build(&t, &c, c.mtp_layers > 0, &arena, NULL);
    hs_arena_close(&arena);
    hs_mem_close(mem);
    return 0;
}
