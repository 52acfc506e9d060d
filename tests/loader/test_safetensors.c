/* loader/safetensors.c: what a header may say, and every way it may lie. */
#include "loader/safetensors.h"
#include "tests/support/check.h"

static hs_mem *mem;
static hs_arena arena;
static hs_st_entry *entry;
static uint32_t count;
static hlwq_error err;

static int setup(void **state)
{
    (void)state;
    mem = hs_mem_open(1u << 20); /* small headers must do with little */
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

/* A header in a buffer of exactly its size, with `data` bytes behind it in the file. */
static hlwq_status parse_bytes(const char *header, size_t bytes, uint64_t data)
{
    char *exact = malloc(bytes + (bytes == 0));
    memcpy(exact, header, bytes);
    hs_arena_close(&arena);
    hlwq_status st =
        hs_safetensors_parse(exact, bytes, 8 + bytes + data, "x.safetensors", &arena, &entry, &count, &err);
    free(exact);
    return st;
}

static hlwq_status parse(const char *header, uint64_t data)
{
    return parse_bytes(header, strlen(header), data);
}

#define T(name, dtype, shape, range)                                                                                   \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" range "}"
#define REFUSES(header, data, word)                                                                                    \
    do {                                                                                                               \
        CHECK_FAILS(parse(header, data), HLWQ_ERR_FORMAT, err, word);                                                  \
        assert_non_null(strstr(err.message, "x.safetensors"));                                                         \
    } while (0)

static void entries_come_in_order_of_offset(void **state)
{
    (void)state;
    static const char h[] = "{" T("b", "F32", "[]", "[12,16]") "," T("a", "BF16", "[2,3]", "[0,12]") "," T(
        "none", "F16", "[0]", "[16,16]") ",\"__metadata__\":{\"format\":\"pt\"}}   ";
    CHECK_OK(parse(h, 16), err);
    assert_int_equal(count, 3);
    assert_string_equal(entry[0].name, "a");
    assert_int_equal(entry[0].rank, 2);
    assert_int_equal(entry[0].dim[1], 3);
    assert_int_equal(entry[0].offset, 8 + strlen(h));
    assert_int_equal(entry[1].bytes, 4);
    assert_int_equal(entry[2].bytes, 0);
}

static void ranges_stay_inside_and_apart(void **state)
{
    (void)state;
    REFUSES("{" T("a", "U8", "[4]", "[0,4]") "}", 3, "out of range");
    REFUSES("{" T("a", "U8", "[4]", "[4,0]") "}", 4, "out of range");
    REFUSES("{" T("a", "U8", "[4]", "[-4,0]") "}", 4, "out of range");
    REFUSES("{" T("a", "U8", "[4]", "[4611686018427387904,4611686018427387908]") "}", 4, "out of range");
    REFUSES("{" T("a", "U8", "[4]", "[0.0,4.0]") "}", 4, "data_offsets");
    REFUSES("{" T("a", "U8", "[4]", "[0,4,8]") "}", 8, "data_offsets");
    REFUSES("{" T("a", "U8", "[4]", "{\"0\":0,\"1\":4}") "}", 4, "data_offsets");
    REFUSES("{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[3,7]") "}", 7, "overlap");
    REFUSES("{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[0,4]") "}", 4, "overlap");
    REFUSES("{" T("a", "U8", "[4]", "[0,4]") "}", 5, "beyond");
    REFUSES("{}", 1, "beyond");
}

static void size_is_shape_times_dtype(void **state)
{
    (void)state;
    REFUSES("{" T("a", "F32", "[4]", "[0,4]") "}", 4, "size mismatch");
    REFUSES("{" T("a", "U8", "[4294967296,4294967296,2]", "[0,0]") "}", 0, "shape");
    REFUSES("{" T("a", "F64", "[2305843009213693952]", "[0,0]") "}", 0, "size");
    REFUSES("{" T("a", "U8", "[-4]", "[0,4]") "}", 4, "shape");
    REFUSES("{" T("a", "U8", "[4.0]", "[0,4]") "}", 4, "shape");
    REFUSES("{" T("a", "U8", "4", "[0,4]") "}", 4, "shape");
    REFUSES("{" T("a", "U8", "[1,1,1,1,1,1,1,1,4]", "[0,4]") "}", 4, "shape");
    REFUSES("{" T("a", "F4", "[4]", "[0,2]") "}", 2, "F4");
    REFUSES("{" T("a", "Q5", "[0]", "[0,0]") "}", 0, "Q5"); /* a type of ours, never of a file's */
    REFUSES("{\"a\":{\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "dtype");
    REFUSES("{\"a\":[]}", 0, "object");
}

static void names_and_metadata_are_checked(void **state)
{
    (void)state;
    char header[2048], name[1200];
    REFUSES("{" T("a", "U8", "[1]", "[0,1]") "," T("a", "U8", "[1]", "[1,2]") "}", 2, "uplicate");
    REFUSES("{" T("", "U8", "[1]", "[0,1]") "}", 1, "name");
    REFUSES("{" T("\xFF\xFE", "U8", "[1]", "[0,1]") "}", 1, "JSON");
    REFUSES("{" T("a\\u0000b", "U8", "[1]", "[0,1]") "}", 1, "JSON");
    REFUSES("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
    REFUSES("{\"__metadata__\":\"a\"}", 0, "__metadata__");
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    snprintf(header, sizeof header, "{\"%s\":{}}", name);
    REFUSES(header, 0, "name");
    /* What a terminal would obey is written out. */
    CHECK_FAILS(parse("{" T("\\u001b[2J", "U8", "[1]", "[0,9]") "}", 1), HLWQ_ERR_FORMAT, err, "\\x1b");
    assert_null(strchr(err.message, 27));
}

static void only_spaces_surround_the_header(void **state)
{
    (void)state;
    CHECK_OK(parse("{}", 0), err);
    CHECK_OK(parse("{}    ", 0), err);
    REFUSES(" {}", 0, "header");
    REFUSES("[]", 0, "header");
    REFUSES("", 0, "header");
    REFUSES("{}x", 0, "JSON");
    REFUSES("{}\n", 0, "header");
    CHECK_FAILS(parse_bytes("{}\0", 3, 0), HLWQ_ERR_FORMAT, err, "x.safetensors");
}

static void header_length_is_bounded_before_anything_is_read(void **state)
{
    (void)state;
    static const uint64_t length[] = {HS_SAFETENSORS_HEADER_MAX + 1ull, 1ull << 40, UINT64_MAX, UINT64_MAX - 7};
    for (int i = 0; i < 4; i++) /* "{}" is all there is to read */
        CHECK_FAILS(hs_safetensors_parse("{}", length[i], UINT64_MAX, "x.safetensors", &arena, &entry, &count, &err),
                    HLWQ_ERR_FORMAT, err, "header");
    CHECK_FAILS(hs_safetensors_parse("{}", 2, 9, "x.safetensors", &arena, &entry, &count, &err), HLWQ_ERR_FORMAT, err,
                "header");
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    static const char h[] = "{" T("b", "F32", "[]", "[12,16]") "," T("a", "BF16", "[2,3]",
                                                                     "[0,12]") ",\"__metadata__\":{\"format\":\"pt\"}}";
    for (size_t n = 0; n <= sizeof h - 1; n++)
        assert_int_equal(parse_bytes(h, n, 16), n == sizeof h - 1 ? HLWQ_OK : HLWQ_ERR_FORMAT);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(entries_come_in_order_of_offset), TEST(ranges_stay_inside_and_apart),
        TEST(size_is_shape_times_dtype),       TEST(names_and_metadata_are_checked),
        TEST(only_spaces_surround_the_header), TEST(header_length_is_bounded_before_anything_is_read),
        TEST(every_truncation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
