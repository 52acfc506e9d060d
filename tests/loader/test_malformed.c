/* loader: damaged model directories end with a sentence; sound ones open. */
#include "base/json.h"
#include "loader/hf.h"
#include "tests/support/check.h"

#include <ctype.h>

static char *read_all(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("the fixture %s is missing", path);
    char *text = malloc(1 << 20);
    *bytes = fread(text, 1, 1 << 20, f);
    fclose(f);
    return text;
}

static bool mentions(const char *message, const char *word)
{
    for (size_t i = 0; message[i]; i++) {
        size_t k = 0;
        while (word[k] && tolower((unsigned char)message[i + k]) == tolower((unsigned char)word[k]))
            k++;
        if (!word[k])
            return true;
    }
    return false;
}

static bool begins(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static hlwq_status read_codes(const hs_hf *hf, const hs_tensor *t, hlwq_error *err)
{
    hs_source s = {t, 0, t->dim[0], t->dim[1]};
    uint8_t *codes = malloc(t->data.bytes);
    uint16_t *norms = malloc(t->norms.bytes);
    hlwq_status st = hs_hf_read_packed(hf, &s, 0, t->dim[0], codes, norms, err);
    free(codes);
    free(norms);
    return st;
}

/* Codes are judged in full only when their rows are read. */
static hlwq_status read_all_rows(const hs_hf *hf, hlwq_error *err)
{
    for (uint32_t i = 0; i < hf->n_tensors; i++) {
        const hs_tensor *t = &hf->tensor[i];
        if (t->encoding == HS_ENC_HLWQ)
            HS_TRY(read_codes(hf, t, err));
        if (t->encoding != HS_ENC_GPTQ && t->encoding != HS_ENC_COMPRESSED)
            continue;
        hs_int_rows rows;
        void *buffer = malloc(hs_hf_ints_bytes(t, t->dim[0]));
        hlwq_status st = hs_hf_read_ints(hf, t, 0, t->dim[0], buffer, &rows, err);
        free(buffer);
        HS_TRY(st);
    }
    return HLWQ_OK;
}

static void check_case(const char *name, bool accept, const hs_json *words)
{
    char dir[256];
    hs_mem *mem = hs_mem_open(64u << 20); /* nothing out of proportion is allocated */
    hs_hf hf;
    hs_table table;
    hlwq_error err = {0};
    snprintf(dir, sizeof dir, "tests/golden/malformed/%s", name);
    hlwq_status st = hs_hf_open(&hf, mem, dir, NULL, &err);
    if (st == HLWQ_OK) {
        hs_arena arena;
        hs_arena_init(&arena, mem, HS_MEM_TABLE);
        st = hs_hf_table(&hf, &table, &arena, &err);
        hs_arena_close(&arena);
        if (st == HLWQ_OK)
            st = read_all_rows(&hf, &err);
        hs_hf_close(&hf);
    }
    hs_mem_close(mem); /* asserts that nothing is left */
    if (accept) {
        if (st != HLWQ_OK)
            fail_msg("%s should open: %s", name, err.message);
        return;
    }
    if (st == HLWQ_OK)
        fail_msg("%s should be refused", name);
    if (!strstr(err.message, name))
        fail_msg("%s: \"%s\" does not name the file", name, err.message);
    for (size_t i = 0; i < hs_json_count(words); i++)
        if (mentions(err.message, hs_json_string(hs_json_at(words, i), NULL)))
            return;
    fail_msg("%s: \"%s\" mentions none of what it should", name, err.message);
}

static void every_damaged_directory_is_refused_with_its_reason(void **state)
{
    (void)state;
    size_t bytes, refused = 0;
    hs_json *root;
    hlwq_error err;
    char *text = read_all("tests/golden/malformed/cases.json", &bytes);
    CHECK_OK(hs_json_parse(text, bytes, "cases.json", &root, &err), err);
    for (size_t i = 0; i < hs_json_count(root); i++) {
        const hs_json *c = hs_json_at(root, i);
        const char *name = hs_json_string(hs_json_get(c, "file"), NULL);
        bool accept = strcmp(hs_json_string(hs_json_get(c, "verdict"), NULL), "accept") == 0;
        if (begins(name, "tok-")) /* the tokenizer's own test has it */
            continue;
        check_case(name, accept, hs_json_get(c, "mentions_any"));
        refused += !accept;
    }
    assert_true(refused >= 22);
    hs_json_free(root);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_damaged_directory_is_refused_with_its_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
