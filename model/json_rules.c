/*
 * model/json_rules.c - strings, numbers, any value.
 */
#include "model/json_rules.h"

enum { INDENT_MAX = 40, TABS_MAX = 10 };

static void bytes(hs_grammar *g, uint32_t from, const char *ranges, uint32_t to)
{
    for (; *ranges; ranges += 2)
        hs_grammar_bytes(g, from, (uint8_t)ranges[0], (uint8_t)ranges[1], to);
}

static uint32_t step(hs_grammar *g, uint32_t from, const char *ranges)
{
    uint32_t to = hs_grammar_node(g);
    bytes(g, from, ranges, to);
    return to;
}

static const char hex[] = "09afAF", digits[] = "09", plain[] = " !#[]\x7F";

/* \uXXXX: no surrogates, and not zero, which many programs take for the end of a text. */
static void escaped_unit(hs_grammar *g, uint32_t from, uint32_t to)
{
    uint32_t two = hs_grammar_node(g), one = hs_grammar_node(g);
    uint32_t high = step(g, from, "19acACefEF"), low = step(g, from, "ddDD"), zero = step(g, from, "00");
    bytes(g, high, hex, two);
    bytes(g, low, "07", two);
    bytes(g, zero, "19afAF", two);
    bytes(g, two, hex, one);
    bytes(g, one, hex, to);
    zero = step(g, zero, "00");
    bytes(g, zero, "19afAF", one);
    zero = step(g, zero, "00");
    bytes(g, zero, "19afAF", to);
}

static void other_characters(hs_grammar *g, uint32_t from, uint32_t to)
{
    hs_grammar_characters(g, from, 0x80, 0x10FFFF, to);
    uint32_t escape = step(g, from, "\\\\");
    bytes(g, escape, "\"\"\\\\//bbffnnrrtt", to);
    escaped_unit(g, step(g, escape, "uu"), to);
}

static void build_other(hs_grammar *g, uint32_t rule)
{
    uint32_t before = hs_grammar_build(g, rule);
    other_characters(g, hs_grammar_start(g, rule), hs_grammar_end(g, rule));
    hs_grammar_build(g, before);
}

static void build_blank(hs_grammar *g, uint32_t rule)
{
    uint32_t before = hs_grammar_build(g, rule), from = hs_grammar_start(g, rule), to = hs_grammar_end(g, rule);
    hs_grammar_empty(g, from, to);
    bytes(g, from, "  ", to);
    uint32_t line = step(g, from, "\n\n");
    hs_grammar_empty(g, line, to);
    for (uint32_t i = 0, at = line; i < INDENT_MAX; i++) {
        at = step(g, at, "  ");
        hs_grammar_empty(g, at, to);
    }
    for (uint32_t i = 0, at = line; i < TABS_MAX; i++) {
        at = step(g, at, "\t\t");
        hs_grammar_empty(g, at, to);
    }
    hs_grammar_build(g, before);
}

/* At most `n` digits. */
static uint32_t some_digits(hs_grammar *g, uint32_t from, uint32_t least, uint32_t n, uint32_t to)
{
    for (uint32_t i = 0; i < n; i++) {
        if (i >= least)
            hs_grammar_empty(g, from, to);
        from = step(g, from, digits);
    }
    hs_grammar_empty(g, from, to);
    return to;
}

static void build_number(hs_grammar *g, uint32_t rule)
{
    uint32_t before = hs_grammar_build(g, rule), from = hs_grammar_start(g, rule), to = hs_grammar_end(g, rule);
    uint32_t sign = step(g, from, "--"), whole = hs_grammar_node(g), part = hs_grammar_node(g);
    hs_grammar_empty(g, from, sign);
    bytes(g, sign, "00", whole);
    some_digits(g, step(g, sign, "19"), 0, 15, whole);
    hs_grammar_empty(g, whole, part);
    some_digits(g, step(g, whole, ".."), 1, 17, part);
    hs_grammar_empty(g, part, to);
    uint32_t e = step(g, part, "eeEE"), power = step(g, e, "++--");
    hs_grammar_empty(g, e, power);
    some_digits(g, power, 1, 2, to);
    hs_grammar_build(g, before);
}

void hs_json_character(hs_json_rules *r, uint32_t from, uint32_t to)
{
    bytes(r->g, from, plain, to);
    hs_grammar_call(r->g, from, r->other, to);
}

static void build_string(hs_json_rules *r)
{
    hs_grammar *g = r->g;
    uint32_t before = hs_grammar_build(g, r->string);
    r->inside = step(g, hs_grammar_start(g, r->string), "\"\"");
    bytes(g, r->inside, plain, r->inside);
    other_characters(g, r->inside, r->inside); /* not as a rule: what stays in one is found once for all texts */
    bytes(g, r->inside, "\"\"", hs_grammar_end(g, r->string));
    hs_grammar_build(g, before);
}

void hs_json_rules_init(hs_json_rules *r, hs_grammar *g)
{
    *r = (hs_json_rules){.g = g};
    r->blank = hs_grammar_rule(g, "white space");
    r->other = hs_grammar_rule(g, "a character");
    r->string = hs_grammar_rule(g, "a string");
    r->number = hs_grammar_rule(g, "a number");
    build_blank(g, r->blank);
    build_other(g, r->other);
    build_string(r);
    build_number(g, r->number);
}

static void build_object(hs_json_rules *r)
{
    hs_grammar *g = r->g;
    uint32_t before = hs_grammar_build(g, r->object), end = hs_grammar_end(g, r->object);
    uint32_t empty = hs_grammar_node(g), member = hs_grammar_node(g), key = hs_grammar_node(g);
    uint32_t colon = hs_grammar_node(g), after = hs_grammar_node(g);
    hs_json_open(r, hs_grammar_start(g, r->object), '{', empty);
    hs_grammar_bytes(g, empty, '}', '}', end);
    hs_grammar_empty(g, empty, member);
    hs_grammar_call(g, member, r->string, key);
    hs_json_open(r, key, ':', colon);
    hs_grammar_call(g, colon, r->value, after);
    hs_json_open(r, after, ',', member);
    hs_json_shut(r, after, '}', end);
    hs_grammar_build(g, before);
}

void hs_json_any(hs_json_rules *r)
{
    hs_grammar *g = r->g;
    if (r->has_value)
        return;
    r->has_value = true;
    r->value = hs_grammar_rule(g, "any value");
    r->object = hs_grammar_rule(g, "any object");
    build_object(r);
    uint32_t before = hs_grammar_build(g, r->value);
    uint32_t from = hs_grammar_start(g, r->value), to = hs_grammar_end(g, r->value);
    uint32_t empty = hs_grammar_node(g), item = hs_grammar_node(g), after = hs_grammar_node(g);
    hs_grammar_text(g, from, "null", 4, to);
    hs_grammar_text(g, from, "true", 4, to);
    hs_grammar_text(g, from, "false", 5, to);
    hs_grammar_call(g, from, r->string, to);
    hs_grammar_call(g, from, r->number, to);
    hs_grammar_call(g, from, r->object, to);
    hs_json_open(r, from, '[', empty);
    hs_grammar_bytes(g, empty, ']', ']', to);
    hs_grammar_empty(g, empty, item);
    hs_grammar_call(g, item, r->value, after);
    hs_json_open(r, after, ',', item);
    hs_json_shut(r, after, ']', to);
    hs_grammar_build(g, before);
}

void hs_json_open(hs_json_rules *r, uint32_t from, char bracket, uint32_t to)
{
    uint32_t at = hs_grammar_node(r->g);
    hs_grammar_bytes(r->g, from, (uint8_t)bracket, (uint8_t)bracket, at);
    hs_grammar_call(r->g, at, r->blank, to);
}

void hs_json_shut(hs_json_rules *r, uint32_t from, char bracket, uint32_t to)
{
    uint32_t at = hs_grammar_node(r->g);
    hs_grammar_call(r->g, from, r->blank, at);
    hs_grammar_bytes(r->g, at, (uint8_t)bracket, (uint8_t)bracket, to);
}

void hs_json_characters(hs_grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to)
{
    static const char letters[] = "btnvfr"; /* of 8 to 13; 11 has none */
    for (uint32_t c = lo; c < 0x20 && c <= hi; c++) {
        char text[8] = {'\\', 'u', '0', '0', (char)('0' + c / 16), "0123456789abcdef"[c % 16], 0};
        if (c == 0)
            continue;
        if (c >= 8 && c <= 13 && c != 11)
            hs_grammar_text(g, from, (char[]){'\\', letters[c - 8]}, 2, to);
        else
            hs_grammar_text(g, from, text, 6, to);
    }
    static const uint32_t as_is[][2] = {{' ', '!'}, {'#', '['}, {']', 0x10FFFF}};
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t a = lo > as_is[i][0] ? lo : as_is[i][0], b = hi < as_is[i][1] ? hi : as_is[i][1];
        if (a <= b)
            hs_grammar_characters(g, from, a, b, to);
    }
    if (lo <= '"' && hi >= '"')
        hs_grammar_text(g, from, "\\\"", 2, to);
    if (lo <= '\\' && hi >= '\\')
        hs_grammar_text(g, from, "\\\\", 2, to);
}

void hs_json_string_of(hs_json_rules *r, uint32_t from, int64_t min, int64_t max, uint32_t to)
{
    hs_grammar *g = r->g;
    if (min <= 0 && max == HS_JSON_ANY_LENGTH) {
        hs_grammar_call(g, from, r->string, to);
        return;
    }
    uint32_t rule = hs_grammar_rule(g, "a string of some length"), before = hs_grammar_build(g, rule);
    uint32_t end = hs_grammar_end(g, rule), at = step(g, hs_grammar_start(g, rule), "\"\"");
    int64_t n = max == HS_JSON_ANY_LENGTH ? min : max;
    for (int64_t i = 0; i < n && g->status == HLWQ_OK; i++) {
        uint32_t next = hs_grammar_node(g);
        if (i >= min) {
            bytes(g, at, "\"\"", end);
            if (n - i > g->longest && g->status == HLWQ_OK) { /* no token reaches the end of what is left */
                g->node[at].like = r->inside;
                g->node[next].covered_by = at;
            }
        }
        hs_json_character(r, at, next);
        at = next;
    }
    if (max == HS_JSON_ANY_LENGTH)
        hs_json_character(r, at, at);
    bytes(g, at, "\"\"", end);
    hs_grammar_call(g, from, rule, to);
    hs_grammar_build(g, before);
}
