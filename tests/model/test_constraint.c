/* model/constraint.c and what it stands on: schemas and grammars against a judge of their own. */
#define _GNU_SOURCE
#include "base/clock.h"
#include "base/text.h"
#include "model/engine.h"
#include "model/tokenizer.h"
#include "tests/support/constraint.h"
#include "tests/support/json_check.h"

enum { SCHEMAS = 200, TEXTS = 4, PATIENCE = 250, TOKENS = 3000 };

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % n);
}

/* ---- texts that a constraint lets through ------------------------------------------------------ */

static void token_text(int32_t id, char *out, size_t capacity)
{
    hlwq_error err;
    char *text;
    size_t bytes;
    CHECK_OK(hlwq_detokenize(tokenizer, &id, 1, false, &text, &bytes, &err), err);
    snprintf(out, capacity, "%s", text);
    hlwq_free(text);
}

/* How much a token does to bring a text to its end. */
static int ends_soon(int32_t id)
{
    static const char order[] = "\"}]0e1n:,";
    char text[64];
    token_text(id, text, sizeof text);
    const char *at = text[0] && !text[1] ? strchr(order, text[0]) : NULL;
    return at ? 20 - (int)(at - order) : 0;
}

/* One of the allowed tokens: any, or, once patience is over, the one that ends the text soonest. */
static int32_t choose(const uint64_t *allowed, uint32_t n, bool patient)
{
    uint32_t count = 0, which;
    int32_t best = -1;
    int most = -1;
    for (uint32_t i = 0; i < n; i++)
        count += allowed[i / 64] >> i % 64 & 1;
    assert_true(count > 0);
    which = random_below(count);
    for (uint32_t i = 0; i < n; i++) {
        if (!(allowed[i / 64] >> i % 64 & 1))
            continue;
        if (patient && which-- == 0)
            return (int32_t)i;
        int soon = patient ? 0 : ends_soon((int32_t)i);
        if (!patient && soon > most) {
            most = soon;
            best = (int32_t)i;
        }
    }
    return best;
}

/* A text of random choices; NULL where it did not end. */
static char *random_text(hlwq_constraint *c, uint32_t patience)
{
    hlwq_error err;
    int32_t ids[TOKENS];
    uint32_t place = hs_constraint_start(c), n = 0;
    while (n < TOKENS && !(hs_constraint_complete(c, place) && (n > patience || random_below(4) == 0))) {
        const uint64_t *allowed;
        CHECK_OK(hs_constraint_allowed(c, place, NULL, 0, &allowed, &err), err);
        if (hs_constraint_over(c, place))
            break;
        ids[n] = choose(allowed, hs_constraint_tokens(c), random_below(n < patience ? 8 : 4) > (n < patience ? 0 : 2));
        CHECK_OK(hs_constraint_advance(c, &place, ids[n], &err), err);
        n++;
    }
    if (!hs_constraint_complete(c, place))
        return NULL;
    char *text;
    size_t bytes;
    CHECK_OK(hlwq_detokenize(tokenizer, ids, n, false, &text, &bytes, &err), err);
    return text;
}

static hlwq_constraint *open_schema(const char *text)
{
    hlwq_error err;
    hlwq_constraint *c;
    hlwq_status st = hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_JSON_SCHEMA, text, strlen(text), &c, &err);
    if (st != HLWQ_OK)
        fail_msg("%s: %s", text, err.message);
    return c;
}

static bool schema_accepts(const char *schema, const char *text)
{
    hlwq_constraint *c = open_schema(schema);
    bool yes = accepts(c, text);
    hlwq_constraint_close(c);
    return yes;
}

static void check_texts(const char *schema, uint32_t texts)
{
    hlwq_constraint *c = open_schema(schema);
    jc *judge = jc_parse(schema);
    assert_non_null(judge);
    for (uint32_t i = 0; i < texts; i++) {
        char *text = random_text(c, i % 2 ? PATIENCE : 20);
        if (!text)
            fail_msg("schema %s: a text did not come to its end", schema);
        jc *value = jc_parse(text);
        if (!value || !jc_valid(judge, judge, value))
            fail_msg("schema %s lets through %s", schema, text);
        if (!accepts(c, text))
            fail_msg("schema %s: %s in tokens, but not in bytes", schema, text);
        jc_free(value);
        hlwq_free(text);
    }
    jc_free(judge);
    hlwq_constraint_close(c);
}

/* ---- random schemas ---------------------------------------------------------------------------- */

static void random_schema(hs_text *t, int depth);

static const char *one_of(const char *const *list, uint32_t n)
{
    return list[random_below(n)];
}

static void random_number(hs_text *t)
{
    static const char *const whole[] = {"-7", "0", "3", "12", "100", "-250", "65535", "999999999999"};
    bool integer = random_below(2);
    hs_text_format(t, "{\"type\":\"%s\"", integer ? "integer" : "number");
    switch (random_below(5)) {
    case 0: hs_text_format(t, ",\"minimum\":%s", one_of(whole, 8)); break;
    case 1: hs_text_format(t, ",\"exclusiveMaximum\":%s", one_of(whole, 8)); break;
    case 2: hs_text_format(t, ",\"minimum\":%d,\"maximum\":%u", -(int)random_below(300), 5 + random_below(3000)); break;
    case 3:
        if (!integer)
            hs_text_format(t, ",\"exclusiveMinimum\":-%u.%u,\"maximum\":%u.25", random_below(20), random_below(1000),
                           random_below(20));
        break;
    default: break;
    }
    hs_text_format(t, "}");
}

static void random_string(hs_text *t)
{
    static const char *const patterns[] = {"^[a-z]{2,5}$", "^(foo|bar)+[0-9]?$", "[xyz]",
                                           "^a.*b$",       "^[^a-c\\\"]{1,3}$",  "^(ab|a)(c|bcd)$"};
    uint32_t min = random_below(4);
    switch (random_below(4)) {
    case 0: hs_text_format(t, "{\"type\":\"string\"}"); break;
    case 1:
        hs_text_format(t, "{\"type\":\"string\",\"minLength\":%u,\"maxLength\":%u}", min, min + random_below(300));
        break;
    case 2: hs_text_format(t, "{\"type\":\"string\",\"pattern\":\"%s\"}", one_of(patterns, 6)); break;
    default: hs_text_format(t, "{\"type\":\"string\",\"minLength\":%u}", min); break;
    }
}

static void random_object(hs_text *t, int depth)
{
    static const char *const names[] = {"a", "ab", "name", "a \\\"b\\\"", "\u00fcber", "x/y"};
    uint32_t n = random_below(4), first = random_below(3);
    hs_text_format(t, "{\"type\":\"object\",\"properties\":{");
    for (uint32_t i = 0; i < n; i++) {
        hs_text_format(t, "%s\"%s\":", i ? "," : "", names[first + i]);
        random_schema(t, depth - 1);
    }
    hs_text_format(t, "},\"required\":[");
    for (uint32_t i = 0, k = 0; i < n; i++)
        if (random_below(2))
            hs_text_format(t, "%s\"%s\"", k++ ? "," : "", names[first + i]);
    hs_text_format(t, "]");
    uint32_t extra = random_below(4);
    if (extra == 1) {
        hs_text_format(t, ",\"additionalProperties\":");
        random_schema(t, depth - 1);
    } else if (extra == 2) {
        hs_text_format(t, ",\"additionalProperties\":%s", random_below(2) ? "true" : "false");
    }
    hs_text_format(t, "}");
}

static void random_array(hs_text *t, int depth)
{
    uint32_t min = random_below(3), n = random_below(3);
    hs_text_format(t, "{\"type\":\"array\"");
    if (n) {
        hs_text_format(t, ",\"prefixItems\":[");
        for (uint32_t i = 0; i < n; i++) {
            hs_text_format(t, "%s", i ? "," : "");
            random_schema(t, depth - 1);
        }
        hs_text_format(t, "]");
    }
    hs_text_format(t, ",\"items\":");
    random_schema(t, depth - 1);
    hs_text_format(t, ",\"minItems\":%u", min);
    if (random_below(2))
        hs_text_format(t, ",\"maxItems\":%u", min + random_below(5));
    hs_text_format(t, "}");
}

static void random_choice(hs_text *t, int depth)
{
    uint32_t n = 1 + random_below(3), kind = random_below(3);
    if (kind == 2) {
        hs_text_format(t, "{\"oneOf\":[");
        for (uint32_t i = 0; i < n; i++) {
            hs_text_format(
                t, "%s{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"k%u\"},\"v\":", i ? "," : "", i);
            random_schema(t, depth - 1);
            hs_text_format(t, "},\"required\":[\"kind\"]}");
        }
        hs_text_format(t, "]}");
    } else if (kind == 1) {
        hs_text_format(t, "{\"allOf\":[");
        for (uint32_t i = 0; i < n; i++) {
            hs_text_format(t, "%s{\"type\":\"object\",\"properties\":{\"p%u\":", i ? "," : "", i);
            random_schema(t, depth - 1);
            hs_text_format(t, "},\"required\":[\"p%u\"]}", i);
        }
        hs_text_format(t, "]}");
    } else {
        hs_text_format(t, "{\"anyOf\":[");
        for (uint32_t i = 0; i < n; i++) {
            hs_text_format(t, "%s", i ? "," : "");
            random_schema(t, depth - 1);
        }
        hs_text_format(t, "]}");
    }
}

static void random_schema(hs_text *t, int depth)
{
    static const char *const leaves[] = {"{}",
                                         "true",
                                         "{\"type\":\"boolean\"}",
                                         "{\"type\":\"null\"}",
                                         "{\"type\":[\"string\",\"null\"]}",
                                         "{\"enum\":[\"red\",\"green\",\"r\\u00f6t\",1,2.5,null,[1,{\"a\":\"b\"}]]}",
                                         "{\"const\":{\"x\":[true,\"y\\n\"]}}",
                                         "{\"$ref\":\"#/$defs/tree\"}",
                                         "{\"type\":\"object\"}"};
    switch (random_below(depth > 0 ? 8 : 4)) {
    case 0:
    case 1: hs_text_format(t, "%s", one_of(leaves, sizeof leaves / sizeof *leaves)); break;
    case 2: random_number(t); break;
    case 3: random_string(t); break;
    case 4:
    case 5: random_object(t, depth); break;
    case 6: random_array(t, depth); break;
    default: random_choice(t, depth); break;
    }
}

static void random_schemas_let_through_what_satisfies_them(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SCHEMAS; i++) {
        hs_text t = {0};
        random_state = 1000 + i;
        hs_text_format(&t, "{\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
                           "\"next\":{\"anyOf\":[{\"type\":\"null\"},{\"$ref\":\"#/$defs/tree\"}]}},"
                           "\"required\":[\"v\",\"next\"],\"additionalProperties\":false}},\"allOf\":[");
        random_schema(&t, 3);
        hs_text_format(&t, "]}");
        assert_false(t.failed);
        check_texts(t.data, TEXTS);
        hs_text_close(&t);
    }
}

/* ---- single keywords ---------------------------------------------------------------------------- */

static void bounds_of_numbers_hold_to_the_digit(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *good, *bad;
    } cases[] = {
        {"{\"type\":\"integer\"}", "0 7 -1 123456789012345678", "01 -0 1.0 1e3 - +1"},
        {"{\"type\":\"integer\",\"minimum\":-13,\"maximum\":207}", "-13 -12 -9 -1 0 9 99 199 200 207",
         "-14 -20 -100 208 210 300 1000"},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":9,\"exclusiveMaximum\":11}", "10", "9 11 1 100"},
        {"{\"type\":\"integer\",\"minimum\":9223372036854775806}", "9223372036854775806 9223372036854775807",
         "9223372036854775805 9223372036854775808 1"},
        {"{\"type\":\"number\"}", "0 -0 1.5 -2.25e10 3E-7 0.001", "1. .5 1e 00.1 +1 1e100"},
        {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", "0 1 0.5 0.0 1.0 1.000 0.999999999",
         "1.1 1.001 -0.1 2 10 -1 1e0"},
        {"{\"type\":\"number\",\"exclusiveMinimum\":0}", "0.1 0.000000001 5 123.25", "0 0.0 -1 0.00"},
        {"{\"type\":\"number\",\"minimum\":-1.5,\"exclusiveMaximum\":0.25}", "-1.5 -1.50 -1.4 -0.1 0 0.24 0.2 0.249",
         "-1.51 -1.6 -2 0.25 0.250 0.3 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int good = 0; good < 2; good++) {
            char list[256], *save, *word;
            snprintf(list, sizeof list, "%s", good ? cases[i].good : cases[i].bad);
            for (word = strtok_r(list, " ", &save); word; word = strtok_r(NULL, " ", &save))
                if (schema_accepts(cases[i].schema, word) != good)
                    fail_msg("%s and %s: wanted %d", cases[i].schema, word, good);
        }
}

static void strings_and_formats(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *text;
        bool good;
    } cases[] = {
        {"{\"type\":\"string\",\"maxLength\":3}", "\"\u00e4\u20ac\U0001F600\"", true},
        {"{\"type\":\"string\",\"maxLength\":3}", "\"abcd\"", false},
        {"{\"type\":\"string\",\"maxLength\":3}", "\"\\n\\u00e4x\"", true},
        {"{\"type\":\"string\",\"minLength\":2}", "\"a\"", false},
        {"{\"type\":\"string\"}", "\"a\nb\"", false},
        {"{\"type\":\"string\"}", "\"\\ud800\"", false},
        {"{\"type\":\"string\"}", "\"\\u0000\"", false},
        {"{\"type\":\"string\",\"pattern\":\"b+\"}", "\"abbc\"", true},
        {"{\"type\":\"string\",\"pattern\":\"^b+$\"}", "\"abbc\"", false},
        {"{\"type\":\"string\",\"pattern\":\"^\\\\d{3}-\\\\w+$\"}", "\"123-a_9\"", true},
        {"{\"type\":\"string\",\"pattern\":\"^[\\\"\\\\\\\\]$\"}", "\"\\\\\"", true},
        {"{\"type\":\"string\",\"pattern\":\"^(?:a|bc){2,}?x*$\"}", "\"abcaxx\"", true},
        {"{\"type\":\"string\",\"pattern\":\"^(?:a|bc){2,}?x*$\"}", "\"axx\"", false},
        {"{\"type\":\"string\",\"format\":\"date\"}", "\"2024-02-28\"", true},
        {"{\"type\":\"string\",\"format\":\"date\"}", "\"2024-02-30\"", false},
        {"{\"type\":\"string\",\"format\":\"date-time\"}", "\"2024-12-31T23:59:59.5Z\"", true},
        {"{\"type\":\"string\",\"format\":\"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\"", true},
        {"{\"type\":\"string\",\"format\":\"ipv4\"}", "\"255.0.10.199\"", true},
        {"{\"type\":\"string\",\"format\":\"ipv4\"}", "\"256.0.10.199\"", false},
        {"{\"type\":\"object\"}", "{\"a\":[1,{\"b\":null}],\"c\":\"d\"}", true},
        {"{\"type\":\"object\"}", "[]", false},
        {"{\"type\":\"array\",\"maxItems\":0}", "[]", true},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"b\"]}", "{\"b\":1}", true},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"b\"]}", "{\"a\":1}", false},
        {"{\"properties\":{\"a\":{}},\"additionalProperties\":{\"type\":\"integer\"}}", "{\"a\":\"x\",\"ab\":1}", true},
        {"{\"properties\":{\"a\":{\"type\":\"null\"}},\"additionalProperties\":true}", "{\"a\":1}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (schema_accepts(cases[i].schema, cases[i].text) != cases[i].good)
            fail_msg("%s and %s: wanted %d", cases[i].schema, cases[i].text, cases[i].good);
}

static void refused(const char *schema, hlwq_status status, const char *word)
{
    hlwq_error err;
    hlwq_constraint *c;
    double start = hs_now_seconds();
    CHECK_FAILS(hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_JSON_SCHEMA, schema, strlen(schema), &c, &err), status,
                err, word);
    assert_null(c);
    assert_true(hs_now_seconds() - start < 30); /* not for ever, on any machine */
}

static void what_is_not_supported_is_named(void **state)
{
    (void)state;
    static const char *const keywords[] = {"not",
                                           "if",
                                           "then",
                                           "patternProperties",
                                           "propertyNames",
                                           "contains",
                                           "multipleOf",
                                           "minProperties",
                                           "dependentRequired",
                                           "unevaluatedItems",
                                           "$dynamicRef",
                                           "nullable",
                                           "dependentSchemas"};
    char text[256], name[64];
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++) {
        snprintf(text, sizeof text, "{\"properties\":{\"a\":{\"type\":\"object\",\"%s\":{}}}}", keywords[i]);
        snprintf(name, sizeof name, "#/properties/a: the keyword \"%s\"", keywords[i]);
        refused(text, HLWQ_ERR_UNSUPPORTED, name);
    }
    refused("{\"uniqueItems\":true}", HLWQ_ERR_UNSUPPORTED, "uniqueItems");
    refused("{\"type\":\"string\",\"format\":\"iri\"}", HLWQ_ERR_UNSUPPORTED, "iri");
    refused("{\"type\":\"string\",\"pattern\":\"(?=a)\"}", HLWQ_ERR_UNSUPPORTED, "looks around");
    refused("{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", HLWQ_ERR_UNSUPPORTED, "escape");
    refused("{\"type\":\"string\",\"pattern\":\"^+[a-z]\"}", HLWQ_ERR_UNSUPPORTED, "repetition of nothing");
    refused("{\"$ref\":\"http://example.com/a\"}", HLWQ_ERR_UNSUPPORTED, "$ref");
    refused("{\"$ref\":\"#/$defs/none\"}", HLWQ_ERR_ARG, "not there");
    refused("{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", HLWQ_ERR_UNSUPPORTED, "oneOf");
    refused("{\"type\":\"strin\"}", HLWQ_ERR_ARG, "strin");
    refused("{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", HLWQ_ERR_ARG, "no text");
    refused("{\"enum\":[]}", HLWQ_ERR_ARG, "no text");
    refused("{\"type\":\"object\",\"required\":[\"a\"],\"properties\":{\"a\":false}}", HLWQ_ERR_ARG, "no text");
    refused("{\"type\"", HLWQ_ERR_ARG, "JSON");
    refused("7", HLWQ_ERR_ARG, "schema");
}

static void bombs_end_with_a_sentence(void **state)
{
    (void)state;
    hs_text t = {0};
    refused("{\"$ref\":\"#\"}", HLWQ_ERR_ARG, "refers to itself");
    refused("{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", HLWQ_ERR_ARG, "refers to itself");
    refused("{\"allOf\":[{\"$ref\":\"#\"}]}", HLWQ_ERR_UNSUPPORTED, "deep");
    refused("{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", HLWQ_ERR_ARG,
            "no text");
    refused("{\"type\":\"string\",\"pattern\":\"((((a{100}){100}){100}){100})\"}", HLWQ_ERR_BUDGET, "262144");
    refused("{\"type\":\"string\",\"pattern\":\"a{1,1000000000}\"}", HLWQ_ERR_UNSUPPORTED, "10000");
    refused("{\"type\":\"string\",\"maxLength\":1000000}", HLWQ_ERR_BUDGET, "262144");
    refused("{\"type\":\"array\",\"items\":{},\"minItems\":1000000}", HLWQ_ERR_BUDGET, "262144");
    hs_text_format(&t, "{\"enum\":[");
    for (int i = 0; i < 60000; i++)
        hs_text_format(&t, "%s\"%08x\"", i ? "," : "", i * 2654435761u);
    hs_text_format(&t, "]}");
    refused(t.data, HLWQ_ERR_BUDGET, "262144");
    hs_text_close(&t);
    for (int i = 0; i < 200; i++)
        hs_text_format(&t, "{\"items\":");
    refused(t.data, HLWQ_ERR_ARG, "nested");
    hs_text_close(&t);
    /* An expression that backtracks for ever elsewhere is only a set of places here. */
    hlwq_constraint *c = open_schema("{\"type\":\"string\",\"pattern\":\"^(a|a|aa|a*)*b$\"}");
    assert_true(accepts(c, "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\""));
    assert_false(accepts(c, "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac\""));
    hlwq_constraint_close(c);
}

static void nesting_stops_at_the_limit_and_still_ends(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_constraint *c = open_schema("{\"type\":\"object\"}");
    uint32_t place = hs_constraint_start(c), depth = 0;
    for (const char *p = "{\"a\":";; p = *++p ? p : "{\"a\":") {
        const uint64_t *allowed;
        int32_t *ids;
        size_t n;
        CHECK_OK(hlwq_tokenize(tokenizer, p, 1, false, &ids, &n, &err), err);
        CHECK_OK(hs_constraint_allowed(c, place, NULL, 0, &allowed, &err), err);
        bool may = allowed[ids[0] / 64] >> ids[0] % 64 & 1;
        hlwq_status st = hs_constraint_advance(c, &place, ids[0], &err);
        hlwq_free(ids);
        assert_int_equal(st == HLWQ_OK, may); /* the mask knows the limit too */
        if (st != HLWQ_OK)
            break;
        depth += *p == '{';
        assert_true(depth < 100);
    }
    assert_true(depth > 20);
    hlwq_constraint_close(c);
}

/* Every token's bit is what following its bytes one at a time says. */
static void masks_equal_a_walk_over_every_token(void **state)
{
    (void)state;
    static const char *const schemas[] = {
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":40},\"b\":{\"type\":\"array\","
        "\"items\":{\"type\":\"integer\",\"maximum\":50}},\"c\":{\"enum\":[\"one\",\"on\",1]}},\"required\":[\"b\"]}",
        "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\",\"pattern\":\"^(the|them|[a-m]+)*$\"}}",
        "{\"type\":\"array\",\"items\":{}}"};
    hlwq_error err;
    for (size_t i = 0; i < 3; i++) {
        hlwq_constraint *c = open_schema(schemas[i]);
        uint32_t place = hs_constraint_start(c);
        random_state = 77 + i;
        for (int step = 0; step < 60 && !hs_constraint_over(c, place); step++) {
            const uint64_t *allowed;
            uint64_t mask[1024];
            uint32_t n = hs_constraint_tokens(c);
            assert_true(n <= 65536);
            CHECK_OK(hs_constraint_allowed(c, place, NULL, 0, &allowed, &err), err);
            memcpy(mask, allowed, (n + 63) / 64 * sizeof *mask);
            for (uint32_t id = 0; id < n; id++) {
                uint32_t then = place;
                bool may = hs_constraint_advance(c, &then, (int32_t)id, NULL) == HLWQ_OK;
                if (may != (bool)(mask[id / 64] >> id % 64 & 1))
                    fail_msg("%s, step %d, token %u: walked %d", schemas[i], step, id, may);
            }
            CHECK_OK(hs_constraint_advance(c, &place, choose(mask, n, random_below(2)), &err), err);
        }
        hlwq_constraint_close(c);
    }
}

static void json_object_is_any_object(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_constraint *c;
    CHECK_OK(hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_JSON_OBJECT, NULL, 0, &c, &err), err);
    for (uint32_t i = 0; i < 50; i++) {
        random_state = i;
        char *text = random_text(c, PATIENCE);
        assert_non_null(text);
        jc *value = jc_parse(text);
        if (!value || value->type != '{')
            fail_msg("no JSON object: %s", text);
        jc_free(value);
        hlwq_free(text);
    }
    hlwq_constraint_close(c);
}

static void grammars_in_json(void **state)
{
    (void)state;
    hlwq_error err;
    hlwq_constraint *c;
    static const char sum[] =
        "{\"root\":\"sum\",\"rules\":{\"sum\":[{\"rule\":\"term\"},{\"repeat\":[{\"chars\":\"[+-]\"},{\"rule\":\"term\"}]}],"
        "\"term\":{\"any\":[{\"repeat\":{\"chars\":\"[0-9]\"},\"min\":1,\"max\":3},[\"(\",{\"rule\":\"sum\"},\")\"]]}}}";
    CHECK_OK(hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_GRAMMAR, sum, strlen(sum), &c, &err), err);
    assert_true(accepts(c, "1+(22-(3))-123"));
    assert_false(accepts(c, "1+(22-(3)-123"));
    assert_false(accepts(c, "1234"));
    hlwq_constraint_close(c);
    static const struct {
        const char *text, *word;
    } bad[] = {
        {"{\"root\":\"a\",\"rules\":{\"a\":[{\"rule\":\"a\"},\"x\"]}}", "refers to itself"},
        {"{\"root\":\"a\",\"rules\":{\"a\":[{\"repeat\":\"y\",\"max\":1},{\"rule\":\"a\"},\"x\"]}}",
         "refers to itself"},
        {"{\"root\":\"a\",\"rules\":{\"a\":[\"x\",{\"rule\":\"a\"}]}}", "no text"},
        {"{\"root\":\"a\",\"rules\":{\"a\":{\"rule\":\"b\"}}}", "no rule \"b\""},
        {"{\"root\":\"a\",\"rules\":{\"a\":{\"regex\":\"b\"}}}", "regex"},
        {"{\"root\":\"a\",\"rules\":{\"a\":{\"chars\":\"a-z\"}}}", "chars"},
        {"{\"root\":\"a\",\"rules\":{\"a\":7}}", "expression"},
        {"{\"root\":\"a\"}", "grammar is"},
        {"[]", "grammar is"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_FAILS(
            hlwq_constraint_open(tokenizer, HLWQ_CONSTRAINT_GRAMMAR, bad[i].text, strlen(bad[i].text), &c, &err),
            HLWQ_ERR_ARG, err, bad[i].word);
}

/* ---- memory --------------------------------------------------------------------------------------- */

/* What was set aside is charged at once and is all there is; masks go before a text does. */
static void memory_is_what_was_set_aside(void **state)
{
    (void)state;
    static const char schema[] = "{\"type\":\"array\",\"items\":{\"anyOf\":[{\"type\":\"string\",\"maxLength\":30},"
                                 "{\"type\":\"object\"},{\"type\":\"number\"}]}}";
    hlwq_error err;
    hlwq_constraint *c;
    hlwq_tokenizer *t;
    CHECK_OK(hlwq_tokenizer_open("tests/golden/tokenizer/demo-tokenizer.json", &t, &err), err);
    hs_mem *small = hs_mem_open(1 << 20), *budget = hs_mem_open(64 << 20);
    CHECK_FAILS(hs_constraints_reserve(t, small, &err), HLWQ_ERR_BUDGET, err, "constraints needs");
    assert_int_equal(hs_mem_now_bytes(small), 0);
    CHECK_OK(hs_constraints_reserve(t, budget, &err), err);
    uint64_t held = hs_mem_now_bytes(budget);
    assert_true(held >= 6 << 20 && held == hs_mem_cap_bytes(t->vocab_mem));
    CHECK_OK(hlwq_constraint_open(t, HLWQ_CONSTRAINT_JSON_SCHEMA, schema, strlen(schema), &c, &err), err);
    char *free_text = NULL, *tight_text;
    for (uint32_t i = 0; i < 12; i++) { /* the same texts with room for masks and without */
        random_state = i;
        free_text = random_text(c, PATIENCE);
        hs_mem_set_cap(t->vocab_mem, hs_mem_now_bytes(t->vocab_mem) + (64 << 10));
        random_state = i;
        tight_text = random_text(c, PATIENCE);
        assert_non_null(tight_text);
        assert_string_equal(free_text, tight_text);
        hlwq_free(free_text);
        hlwq_free(tight_text);
        hs_mem_set_cap(t->vocab_mem, held);
        assert_true(hs_mem_now_bytes(t->vocab_mem) <= held && hs_mem_now_bytes(budget) == held);
    }
    hlwq_constraint_close(c);
    hs_mem_set_cap(t->vocab_mem, hs_mem_now_bytes(t->vocab_mem) + 100);
    CHECK_FAILS(hlwq_constraint_open(t, HLWQ_CONSTRAINT_JSON_SCHEMA, schema, strlen(schema), &c, &err), HLWQ_ERR_BUDGET,
                err, "the budget of");
    hs_mem_set_cap(t->vocab_mem, held);
    hs_constraints_forget(t);
    assert_int_equal(hs_mem_now_bytes(budget), 0);
    hlwq_tokenizer_close(t);
    hs_mem_close(small);
    hs_mem_close(budget);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_and_formats),
        cmocka_unit_test(bounds_of_numbers_hold_to_the_digit),
        cmocka_unit_test(what_is_not_supported_is_named),
        cmocka_unit_test(bombs_end_with_a_sentence),
        cmocka_unit_test(nesting_stops_at_the_limit_and_still_ends),
        cmocka_unit_test(grammars_in_json),
        cmocka_unit_test(json_object_is_any_object),
        cmocka_unit_test(memory_is_what_was_set_aside),
        cmocka_unit_test(masks_equal_a_walk_over_every_token),
        cmocka_unit_test(random_schemas_let_through_what_satisfies_them),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
