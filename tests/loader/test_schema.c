/* loader/schema.c: groups, names and placement, from configs made by hand. */
#include "loader/schema.h"
#include "tests/support/check.h"

static hs_mem *mem;
static hs_arena arena;
static hs_table t;
static hlwq_error err;

static int setup(void **state)
{
    (void)state;
    mem = hs_mem_open(0);
    hs_arena_init(&arena, mem, HS_MEM_TABLE);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    hs_arena_close(&arena);
    hs_mem_close(mem);
    return 0;
}

static hs_config some_config(bool moe)
{
    hs_config c = {.vocab = 512,
                   .hidden = 256,
                   .layers = 3,
                   .full = {false, true, false},
                   .q_heads = 4,
                   .kv_heads = 2,
                   .head_dim = 64,
                   .k_heads = 2,
                   .v_heads = 4,
                   .k_dim = 32,
                   .v_dim = 32,
                   .conv_taps = 4};
    if (moe) {
        c.experts = 8;
        c.experts_used = 2;
        c.expert_width = 128;
        c.shared_width = 128;
    } else {
        c.intermediate = 384;
    }
    return c;
}

static void groups_come_in_the_stated_order(void **state)
{
    (void)state;
    static const hs_group_kind dense[] = {HS_GROUP_GLOBAL, HS_GROUP_EMBED, HS_GROUP_HEAD,
                                          HS_GROUP_LAYER,  HS_GROUP_LAYER, HS_GROUP_LAYER};
    static const hs_group_kind moe[] = {HS_GROUP_GLOBAL,    HS_GROUP_EMBED,      HS_GROUP_LAYER, HS_GROUP_EXPERTS,
                                        HS_GROUP_LAYER,     HS_GROUP_EXPERTS,    HS_GROUP_LAYER, HS_GROUP_EXPERTS,
                                        HS_GROUP_MTP_LAYER, HS_GROUP_MTP_EXPERTS};
    hs_config c = some_config(false);
    CHECK_OK(hs_schema_build(&t, &c, false, &arena, &err), err);
    assert_int_equal(t.n_groups, 6);
    for (uint32_t i = 0; i < t.n_groups; i++)
        assert_int_equal(t.group[i].kind, dense[i]);
    c = some_config(true);
    c.tied = true;
    CHECK_OK(hs_schema_build(&t, &c, true, &arena, &err), err);
    assert_int_equal(t.n_groups, 10);
    for (uint32_t i = 0; i < t.n_groups; i++) {
        assert_int_equal(t.group[i].kind, moe[i]);
        assert_int_equal(t.group[i].count, moe[i] == HS_GROUP_EXPERTS || moe[i] == HS_GROUP_MTP_EXPERTS ? 8 : 1);
    }
    assert_true(t.has_mtp);
}

static void check_shape(const hs_group *g, hs_role role, uint32_t rows, uint32_t cols)
{
    const hs_part *p = hs_group_find(g, role);
    assert_non_null(p);
    assert_int_equal(p->rows, rows);
    assert_int_equal(p->cols, cols);
}

static void shapes_follow_the_config(void **state)
{
    (void)state;
    hs_config c = some_config(true);
    CHECK_OK(hs_schema_build(&t, &c, true, &arena, &err), err);
    const hs_group *delta = &t.group[3], *experts = &t.group[4], *full = &t.group[5], *mtp = &t.group[9];
    check_shape(delta, HS_QKV, 256, 256); /* 2 * 2 * 32 + 4 * 32 */
    check_shape(delta, HS_CONV, 256, 4);
    check_shape(delta, HS_DELTA_NORM, 1, 32);
    check_shape(delta, HS_OUT, 256, 128);
    check_shape(full, HS_Q, 512, 256);
    check_shape(full, HS_O, 256, 256);
    check_shape(full, HS_ROUTER, 8, 256);
    check_shape(full, HS_SHARED_MIX, 1, 256);
    check_shape(experts, HS_DOWN, 256, 128);
    check_shape(mtp, HS_MTP_FC, 256, 512);
    check_shape(mtp, HS_Q, 512, 256);
    assert_null(hs_group_find(delta, HS_Q));
    assert_null(hs_group_find(full, HS_GATE)); /* the routed experts are a group of their own */
    c.shared_width = 0;
    CHECK_OK(hs_schema_build(&t, &c, false, &arena, &err), err);
    assert_null(hs_group_find(&t.group[3], HS_SHARED_MIX));
}

static void check_name(uint32_t group, uint32_t extent, hs_role role, const char *wanted)
{
    char name[128];
    hs_part_name(name, sizeof name, &t.group[group], extent, role);
    assert_string_equal(name, wanted);
}

static void names_are_those_of_the_checkpoint_without_prefix(void **state)
{
    (void)state;
    hs_config c = some_config(true);
    CHECK_OK(hs_schema_build(&t, &c, true, &arena, &err), err);
    check_name(0, 0, HS_FINAL_NORM, "norm.weight");
    check_name(1, 0, HS_EMBED, "embed_tokens.weight");
    check_name(2, 0, HS_HEAD, "lm_head.weight");
    check_name(5, 0, HS_Q, "layers.1.self_attn.q_proj.weight");
    check_name(7, 0, HS_A_LOG, "layers.2.linear_attn.A_log");
    check_name(8, 7, HS_UP, "layers.2.mlp.experts.7.up_proj.weight");
    check_name(9, 0, HS_MTP_FC, "mtp.fc.weight");
    check_name(9, 0, HS_MTP_NORM, "mtp.norm.weight");
    check_name(9, 0, HS_K, "mtp.layers.0.self_attn.k_proj.weight");
    check_name(10, 3, HS_DOWN, "mtp.layers.0.mlp.experts.3.down_proj.weight");
}

/* No two parts share a byte, each is aligned, all lie inside the extent. */
static void check_placed(const hs_group *g)
{
    bool experts = g->kind == HS_GROUP_EXPERTS || g->kind == HS_GROUP_MTP_EXPERTS;
    assert_int_equal(g->bytes % HS_EXTENT_ALIGN, 0);
    for (uint32_t i = 0; i < g->n_parts; i++) {
        const hs_part *p = &g->part[i];
        bool page = !experts && p->planes.bytes > HS_EXTENT_ALIGN;
        assert_int_equal(p->offset % (page ? HS_EXTENT_ALIGN : 64), 0);
        assert_true(p->planes.bytes > 0 && p->offset + p->planes.bytes <= g->bytes);
        for (uint32_t k = 0; k < i; k++)
            assert_true(g->part[k].offset + g->part[k].planes.bytes <= p->offset ||
                        p->offset + p->planes.bytes <= g->part[k].offset);
    }
}

static void parts_are_aligned_and_apart_for_every_dtype(void **state)
{
    (void)state;
    static const hs_dtype dtype[] = {HS_F32, HS_F16, HS_BF16, HS_Q2,  HS_Q3,    HS_Q4,
                                     HS_Q5,  HS_Q6,  HS_I4,   HS_I4Z, HS_I4G64, HS_I4G64Z};
    hs_config c = some_config(true);
    for (size_t d = 0; d < sizeof dtype / sizeof *dtype; d++) {
        CHECK_OK(hs_schema_build(&t, &c, true, &arena, &err), err);
        for (uint32_t g = 0; g < t.n_groups; g++) {
            for (uint32_t i = 0; i < t.group[g].n_parts; i++)
                if (hs_role_class_of(t.group[g].part[i].role) != HS_CLASS_VECTOR)
                    t.group[g].part[i].dtype = dtype[d];
            CHECK_OK(hs_group_place(&t.group[g], &err), err);
            check_placed(&t.group[g]);
        }
    }
}

static void an_expert_is_gate_up_down_without_gaps(void **state)
{
    (void)state;
    hs_config c = some_config(true);
    CHECK_OK(hs_schema_build(&t, &c, false, &arena, &err), err);
    hs_group *g = &t.group[4];
    for (uint32_t i = 0; i < 3; i++)
        g->part[i].dtype = HS_Q5;
    CHECK_OK(hs_group_place(g, &err), err);
    assert_int_equal(hs_group_find(g, HS_GATE)->offset, 0);
    assert_int_equal(hs_group_find(g, HS_UP)->offset, g->part[0].planes.bytes);
    assert_int_equal(hs_group_find(g, HS_DOWN)->offset, g->part[0].planes.bytes + g->part[1].planes.bytes);
}

static void the_largest_config_is_placed_and_larger_is_refused(void **state)
{
    (void)state;
    hs_config c = some_config(true);
    c.vocab = HS_VOCAB_MAX;
    c.hidden = HS_HIDDEN_MAX;
    c.experts = HS_EXPERTS_MAX;
    c.expert_width = c.shared_width = HS_WIDTH_MAX;
    CHECK_OK(hs_schema_build(&t, &c, true, &arena, &err), err);
    for (uint32_t g = 0; g < t.n_groups; g++)
        check_placed(&t.group[g]);
    hs_group g = t.group[4];
    g.part[0].rows = g.part[0].cols = UINT32_MAX;
    CHECK_FAILS(hs_group_place(&g, &err), HLWQ_ERR_FORMAT, err, "larger");
}

static void failing_allocations_are_reported(void **state)
{
    (void)state;
    hs_config c = some_config(true);
    hs_mem_fail_at(mem, 0);
    CHECK_FAILS(hs_schema_build(&t, &c, true, &arena, &err), HLWQ_ERR_NOMEM, err, "");
    hs_mem_fail_at(mem, UINT64_MAX);
    CHECK_OK(hs_schema_build(&t, &c, true, &arena, &err), err);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(groups_come_in_the_stated_order),
        TEST(shapes_follow_the_config),
        TEST(names_are_those_of_the_checkpoint_without_prefix),
        TEST(parts_are_aligned_and_apart_for_every_dtype),
        TEST(an_expert_is_gate_up_down_without_gaps),
        TEST(the_largest_config_is_placed_and_larger_is_refused),
        TEST(failing_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
