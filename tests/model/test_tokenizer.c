/* model/tokenizer*.c, bpe.c, pretokenize.c: Hugging Face's own answers, hostile files, hostile text. */
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "model/tokenizer.h"
#include "tests/support/check.h"

static char *slurp(const char *path, size_t *bytes)
{
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f)
        fail_msg("the fixture %s is missing", path ? path : "?");
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *p = malloc(*bytes + 1);
    assert_int_equal(fread(p, 1, *bytes, f), *bytes);
    p[*bytes] = 0;
    fclose(f);
    return p;
}

typedef struct fixture {
    hs_mem *mem;
    hs_tokenizer *t;
} fixture;

static fixture open_text(const char *text, size_t bytes)
{
    fixture f = {.mem = hs_mem_open(0)};
    hlwq_error err;
    CHECK_OK(hs_tokenizer_parse(&f.t, f.mem, text, bytes, NULL, 0, 0, "tokenizer.json", &err), err);
    return f;
}

static fixture open_demo(void)
{
    size_t bytes;
    char *text = slurp(golden("tokenizer/demo-tokenizer.json"), &bytes);
    fixture f = open_text(text, bytes);
    free(text);
    return f;
}

static void close_fixture(fixture *f)
{
    hs_tokenizer_free(f->t);
    hs_mem_close(f->mem);
}

static void check_ids(const fixture *f, const char *text, size_t bytes, bool special, const hs_json *want,
                      size_t number)
{
    int32_t *ids;
    size_t n;
    hlwq_error err;
    CHECK_OK(hs_tokenizer_encode(f->t, text, bytes, special, &ids, &n, &err), err);
    if (n != hs_json_count(want))
        fail_msg("case %zu: %zu ids, wanted %zu: %.80s", number, n, hs_json_count(want), text);
    for (size_t i = 0; i < n; i++)
        if (ids[i] != hs_json_int(hs_json_at(want, i)))
            fail_msg("case %zu: id %zu is %d, wanted %d: %.80s", number, i, ids[i],
                     (int)hs_json_int(hs_json_at(want, i)), text);
    free(ids);
}

static char *decode(const fixture *f, const int32_t *ids, size_t n, bool skip, size_t *bytes)
{
    size_t total = 0, len, at = 0;
    for (size_t i = 0; i < n; i++) {
        hs_tokenizer_bytes(f->t, ids[i], &len);
        total += len;
    }
    char *out = malloc(3 * (total + 4) + 1);
    hs_utf8_stream s = {0};
    for (size_t i = 0; i < n; i++) {
        const char *raw = hs_tokenizer_bytes(f->t, ids[i], &len);
        if (raw && len && !(skip && hs_tokenizer_is_special(f->t, ids[i])))
            at += hs_utf8_feed(&s, raw, len, out + at);
    }
    at += hs_utf8_feed(&s, NULL, 0, out + at);
    *bytes = at;
    out[at] = 0;
    return out;
}

static void check_decoded(const fixture *f, const hs_json *ids, bool skip, const hs_json *want, size_t number)
{
    size_t n = hs_json_count(ids), bytes, want_bytes;
    int32_t *id = malloc(n * sizeof *id + 1);
    for (size_t i = 0; i < n; i++)
        id[i] = (int32_t)hs_json_int(hs_json_at(ids, i));
    char *got = decode(f, id, n, skip, &bytes);
    const char *text = hs_json_string(want, &want_bytes);
    if (bytes != want_bytes || memcmp(got, text, bytes) != 0)
        fail_msg("case %zu decodes to \"%s\", wanted \"%s\"", number, got, text);
    free(got);
    free(id);
}

typedef struct pieces {
    const hs_json *want;
    size_t n, number;
} pieces;

static void check_piece(void *user, const char *piece, size_t bytes)
{
    pieces *p = user;
    size_t want_bytes;
    const hs_json *node = hs_json_at(p->want, p->n++);
    if (!node)
        fail_msg("case %zu: more than %zu pieces", p->number, hs_json_count(p->want));
    const char *want = hs_json_string(node, &want_bytes);
    if (bytes != want_bytes || memcmp(piece, want, bytes) != 0)
        fail_msg("case %zu: piece %zu is \"%.*s\", wanted \"%s\"", p->number, p->n - 1, (int)bytes, piece, want);
}

static void check_pieces(const fixture *f, const hs_json *want, size_t number)
{
    hs_text whole = {0};
    hlwq_error err;
    for (size_t i = 0; i < hs_json_count(want); i++) {
        size_t n;
        const char *s = hs_json_string(hs_json_at(want, i), &n);
        hs_text_add(&whole, s, n);
    }
    pieces p = {want, 0, number};
    if (whole.bytes)
        CHECK_OK(hs_tokenizer_split(f->t, whole.data, whole.bytes, check_piece, &p, &err), err);
    assert_int_equal(p.n, hs_json_count(want));
    hs_text_close(&whole);
}

static void demo_cases_equal_hugging_face(void **state)
{
    (void)state;
    fixture f = open_demo();
    size_t bytes, seen = 0;
    hs_json *root;
    hlwq_error err;
    char *text = slurp(golden("tokenizer/demo-cases.json"), &bytes);
    CHECK_OK(hs_json_parse(text, bytes, "demo-cases.json", &root, &err), err);
    for (size_t i = 0; i < hs_json_count(root); i++) {
        const hs_json *c = hs_json_at(root, i), *in = hs_json_get(c, "text"), *ids = hs_json_get(c, "ids"), *x;
        size_t n;
        if (in) {
            const char *s = hs_json_string(in, &n);
            check_ids(&f, s, n, true, ids, i);
            if ((x = hs_json_get(c, "ids_no_special_parsing")))
                check_ids(&f, s, n, false, x, i);
        }
        if ((x = hs_json_get(c, "pieces")))
            check_pieces(&f, x, i);
        if ((x = hs_json_get(c, "decoded")))
            check_decoded(&f, ids, false, x, i);
        if ((x = hs_json_get(c, "decoded_skip_special")))
            check_decoded(&f, ids, true, x, i);
        seen++;
    }
    assert_int_equal(seen, 318);
    hs_json_free(root);
    free(text);
    close_fixture(&f);
}

/* tokenizer.json from GPT-2's two files: merges as strings. */
static fixture open_gpt2(void)
{
    size_t vocab_bytes, merge_bytes;
    char *vocab = slurp(golden("tokenizer/gpt2_vocab.json"), &vocab_bytes);
    char *merges = slurp(golden("tokenizer/gpt2_merges.txt"), &merge_bytes);
    hs_text t = {0};
    hs_text_format(&t, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
                       "\"model\":{\"type\":\"BPE\",\"vocab\":");
    hs_text_add(&t, vocab, vocab_bytes);
    hs_text_format(&t, ",\"merges\":[");
    const char *comma = "";
    for (char *line = strtok(merges, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "#version", 8) == 0)
            continue;
        hs_text_format(&t, "%s", comma);
        hs_text_json(&t, line, strlen(line));
        comma = ",";
    }
    hs_text_format(&t, "]}}");
    fixture f = open_text(t.data, t.bytes);
    hs_text_close(&t);
    free(vocab);
    free(merges);
    return f;
}

static const char separator[] = "\n__ggml_vocab_test__\n";

static void gpt2_cases_equal_the_original(void **state)
{
    (void)state;
    fixture f = open_gpt2();
    size_t bytes, n;
    char *in = slurp(golden("tokenizer/gpt-2.inp"), &bytes), *out = slurp(golden("tokenizer/gpt-2.out"), &n);
    char *text = in, *line = out;
    int cases = 0;
    for (char *end; (end = strstr(text, separator)); text = end + strlen(separator), cases++) {
        int32_t *ids;
        hlwq_error err;
        CHECK_OK(hs_tokenizer_encode(f.t, text, (size_t)(end - text), false, &ids, &n, &err), err);
        char *newline = strchr(line, '\n');
        size_t i = 0;
        for (char *p = line, *next; p < newline; p = next, i++) {
            long id = strtol(p, &next, 10);
            if (next == p)
                break;
            if (i >= n || ids[i] != id)
                fail_msg("text %d: id %zu is %d, wanted %ld", cases, i, i < n ? ids[i] : -1, id);
        }
        assert_int_equal(i, n);
        line = newline + 1;
        free(ids);
    }
    assert_int_equal(cases, 46);
    free(in);
    free(out);
    close_fixture(&f);
}

static void round_trip(const fixture *f, const char *text, size_t bytes)
{
    int32_t *ids;
    size_t n, at = 0, len;
    hlwq_error err;
    CHECK_OK(hs_tokenizer_encode(f->t, text, bytes, false, &ids, &n, &err), err);
    for (size_t i = 0; i < n; i++) {
        const char *raw = hs_tokenizer_bytes(f->t, ids[i], &len);
        if (at + len > bytes || memcmp(raw, text + at, len) != 0)
            fail_msg("byte %zu of %zu does not survive", at, bytes);
        at += len;
    }
    assert_int_equal(at, bytes);
    free(ids);
}

static void other_models_texts_survive_the_round_trip(void **state)
{
    (void)state;
    fixture f = open_gpt2(); /* no NFC, so bytes come back as they were */
    static const char *const file[] = {"tokenizer/qwen2.inp", "tokenizer/qwen35.inp"};
    for (int i = 0; i < 2; i++) {
        size_t bytes;
        char *in = slurp(golden(file[i]), &bytes), *text = in;
        for (char *end; (end = strstr(text, separator)); text = end + strlen(separator))
            round_trip(&f, text, (size_t)(end - text));
        free(in);
    }
    close_fixture(&f);
}

static void a_mebibyte_of_anything_is_fast(void **state)
{
    (void)state;
    fixture demo = open_demo(), gpt2 = open_gpt2();
    size_t n = 1 << 20;
    char *text = malloc(n);
    uint64_t seed = 12345;
    double limit = getenv("HLWQ_SANITIZE") ? 30.0 : 10.0; /* what is quadratic takes minutes */
    static const char *const pattern[] = {"a", " ", "1", "\n ", "\xCC\x81", "<|im_", "e\xCC\x81", "\xF0\x9F\x9A\x80",
                                          "ab"};
    for (int k = 0; k <= 9; k++) {
        for (size_t i = 0; i < n; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[i] = k == 9 ? (char)(seed >> 56) : pattern[k][i % strlen(pattern[k])];
        }
        for (int which = 0; which < 2; which++) {
            int32_t *ids;
            size_t count;
            hlwq_error err;
            double start = hs_now_seconds();
            CHECK_OK(hs_tokenizer_encode(which ? gpt2.t : demo.t, text, n, true, &ids, &count, &err), err);
            double seconds = hs_now_seconds() - start;
            if (seconds > limit)
                fail_msg("pattern %d took %.2f s", k, seconds);
            free(ids);
        }
        if (k == 9)
            round_trip(&gpt2, text, n);
    }
    free(text);
    close_fixture(&demo);
    close_fixture(&gpt2);
}

static void streaming_never_cuts_a_character(void **state)
{
    (void)state;
    static const char text[] = "a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x9A\x80 z";
    for (size_t step = 1; step < sizeof text; step++) {
        hs_utf8_stream s = {0};
        char out[128];
        size_t n = 0;
        for (size_t i = 0; i < sizeof text - 1; i += step) {
            size_t len = sizeof text - 1 - i < step ? sizeof text - 1 - i : step;
            n += hs_utf8_feed(&s, text + i, len, out + n);
            if (n && (out[n - 1] & 0xC0) == 0xC0)
                fail_msg("a character was cut after %zu bytes", i + len);
        }
        n += hs_utf8_feed(&s, NULL, 0, out + n);
        assert_int_equal(n, sizeof text - 1);
        assert_memory_equal(out, text, n);
    }
}

/* All 256 byte tokens and one merge. */
static void small_tokenizer(hs_text *t, const char *extra_vocab, const char *merges, const char *added)
{
    hs_text_format(
        t,
        "{\"added_tokens\":[%s],\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{",
        added);
    uint32_t extra = 0;
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
    hs_text_format(t, "\"ab\":256%s},\"merges\":[%s]}}", extra_vocab, merges);
}

static void expect_refusal(const char *extra_vocab, const char *merges, const char *added, const char *word)
{
    hs_text t = {0};
    hs_mem *mem = hs_mem_open(0);
    hs_tokenizer *tok;
    hlwq_error err;
    small_tokenizer(&t, extra_vocab, merges, added);
    hlwq_status st = hs_tokenizer_parse(&tok, mem, t.data, t.bytes, NULL, 0, 300, "dir/tokenizer.json", &err);
    if (st == HLWQ_OK || !strstr(err.message, word) || !strstr(err.message, "dir/tokenizer.json"))
        fail_msg("%s | %s | %s: status %d \"%s\", wanted a mention of %s", extra_vocab, merges, added, st,
                 st ? err.message : "", word);
    assert_null(tok);
    hs_text_close(&t);
    hs_mem_close(mem);
}

static void damaged_files_are_refused_with_a_sentence(void **state)
{
    (void)state;
    expect_refusal(",\"zz\":-1", "", "", "-1");
    expect_refusal(",\"zz\":300", "", "", "300");
    expect_refusal(",\"zz\":4000000000", "", "", "4000000000");
    expect_refusal(",\"zz\":7", "", "", "duplicate");
    expect_refusal(",\"zz\":\"7\"", "", "", "zz");
    expect_refusal("", "\"a b\",\"a c\"", "", "merge 1");
    expect_refusal("", "[\"a\",\"qq\"]", "", "merge 0");
    expect_refusal("", "[\"a\"]", "", "merge 0");
    expect_refusal("", "7", "", "merge 0");
    expect_refusal("", "", "{\"id\":257,\"content\":\"\"}", "257");
    expect_refusal("", "", "{\"id\":-5,\"content\":\"x\"}", "-5");
    expect_refusal("", "", "{\"id\":299}", "content");
    size_t bytes;
    hs_mem *mem = hs_mem_open(0);
    hs_tokenizer *tok;
    hlwq_error err;
    char *text = slurp(golden("malformed/tok-merge-unknown-token/tokenizer.json"), &bytes);
    assert_true(hs_tokenizer_parse(&tok, mem, text, bytes, NULL, 0, 320, "tokenizer.json", &err) != HLWQ_OK);
    assert_true(strstr(err.message, "merge") || strstr(err.message, "id"));
    free(text);
    hs_mem_close(mem);
}

/* Ids in decimal with spaces between them. */
static const char *ids_of(const fixture *f, const char *text, const hlwq_span *plain, size_t n)
{
    static char out[1024];
    int32_t *ids;
    size_t count, at = 0;
    hlwq_error err;
    CHECK_OK(hs_tokenizer_encode_prompt(f->t, text, strlen(text), plain, n, &ids, &count, &err), err);
    out[0] = 0;
    for (size_t i = 0; i < count; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, "%s%d", i ? " " : "", ids[i]);
    free(ids);
    return out;
}

static void added_tokens_are_plain_text_inside_spans_and_across_their_edges(void **state)
{
    (void)state;
    fixture f = open_demo();
    hlwq_error err;
    int32_t *ids;
    size_t count;
    char whole[1024], plain[1024];
    static const char text[] = "a<|im_end|>b<|im_end|>";
    snprintf(whole, sizeof whole, "%s", ids_of(&f, text, NULL, 0));
    static const hlwq_span outside[] = {{0, 1}, {11, 12}}, all[] = {{0, 22}}, first[] = {{1, 11}};
    assert_string_equal(ids_of(&f, text, outside, 2), whole);
    snprintf(plain, sizeof plain, "%s", ids_of(&f, text, all, 1));
    assert_null(strstr(plain, "4072"));
    /* One byte of a token is enough, and so is an edge inside it. */
    for (size_t i = 12; i < 22; i++) {
        const hlwq_span both[] = {{1, 2}, {i, i + 1}};
        assert_string_equal(ids_of(&f, text, both, 2), plain);
    }
    const char *one = ids_of(&f, text, first, 1), *end = strstr(one, "4072");
    assert_true(end && strlen(end) == 4);
    /* Text merges across an edge as it does elsewhere. */
    static const hlwq_span half[] = {{0, 3}, {3, 3}, {5, 8}};
    snprintf(plain, sizeof plain, "%s", ids_of(&f, "the river ran", NULL, 0));
    assert_string_equal(ids_of(&f, "the river ran", half, 3), plain);
    static const hlwq_span wrong[][2] = {{{0, 5}, {4, 6}}, {{2, 1}, {3, 4}}, {{0, 1}, {3, 9}}};
    for (size_t i = 0; i < 3; i++)
        CHECK_FAILS(hs_tokenizer_encode_prompt(f.t, "12345678", 8, wrong[i], 2, &ids, &count, &err), HLWQ_ERR_ARG, err,
                    "out of order");
    close_fixture(&f);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    hs_text t = {0};
    small_tokenizer(&t, "", "\"a b\"", "{\"id\":257,\"content\":\"<x>\",\"special\":true}");
    hs_mem *mem = hs_mem_open(0);
    for (size_t n = 0; n < t.bytes; n++) {
        hs_tokenizer *tok;
        char *cut = malloc(n + (n == 0)); /* exactly sized, so that a sanitizer sees one byte too far */
        memcpy(cut, t.data, n);
        assert_true(hs_tokenizer_parse(&tok, mem, cut, n, NULL, 0, 0, "cut", NULL) != HLWQ_OK);
        free(cut);
    }
    hs_text_close(&t);
    hs_mem_close(mem);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    hs_text t = {0};
    small_tokenizer(&t, "", "\"a b\"", "{\"id\":257,\"content\":\"<x>\"}");
    hs_mem *mem = hs_mem_open(0);
    for (uint64_t n = 0;; n++) {
        hs_tokenizer *tok;
        hs_mem_fail_at(mem, n);
        hlwq_status st = hs_tokenizer_parse(&tok, mem, t.data, t.bytes, NULL, 0, 0, "t", NULL);
        if (st == HLWQ_OK) {
            assert_true(n > 0);
            hs_tokenizer_free(tok);
            break;
        }
        assert_int_equal(st, HLWQ_ERR_NOMEM);
        assert_int_equal(hs_mem_now_bytes(mem), 0);
    }
    hs_mem_fail_at(mem, UINT64_MAX);
    hs_text_close(&t);
    hs_mem_close(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_cases_equal_hugging_face),
        cmocka_unit_test(gpt2_cases_equal_the_original),
        cmocka_unit_test(other_models_texts_survive_the_round_trip),
        cmocka_unit_test(a_mebibyte_of_anything_is_fast),
        cmocka_unit_test(streaming_never_cuts_a_character),
        cmocka_unit_test(damaged_files_are_refused_with_a_sentence),
        cmocka_unit_test(added_tokens_are_plain_text_inside_spans_and_across_their_edges),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
