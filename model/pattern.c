/*
 * model/pattern.c - reads an expression and builds as it goes; what is repeated is read again for each copy.
 */
#include "model/pattern.h"

#include <stdlib.h>
#include <string.h>

enum { PATTERN_MAX = 4096, GROUPS_MAX = 32, RANGES_MAX = 512, REPEAT_MAX = 10000 };

typedef struct range {
    uint32_t lo, hi;
} range;

typedef struct set {
    range r[RANGES_MAX];
    uint32_t n;
} set;

typedef struct pattern {
    hs_json_rules *rules; /* NULL: plain UTF-8 instead of the inside of a JSON string */
    hs_grammar *g;
    const char *text;
    size_t bytes, at;
    uint32_t depth;
    set *set; /* of the class being read */
} pattern;

static void refuse(pattern *p, size_t at, const char *why)
{
    hs_grammar_fail(p->g, HLWQ_ERR_UNSUPPORTED, "pattern \"%.*s\", byte %zu: %s", (int)(p->bytes < 80 ? p->bytes : 80),
                    p->text, at, why);
    p->at = p->bytes;
}

static char peek(const pattern *p)
{
    return p->at < p->bytes ? p->text[p->at] : 0;
}

/* ---- classes --------------------------------------------------------------------------------- */

static void add(pattern *p, uint32_t lo, uint32_t hi)
{
    if (p->set->n == RANGES_MAX)
        refuse(p, p->at, "a class of too many ranges");
    else
        p->set->r[p->set->n++] = (range){lo, hi};
}

static int by_lo(const void *x, const void *y)
{
    const range *a = x, *b = y;
    return a->lo < b->lo ? -1 : a->lo > b->lo;
}

/* Ranges in order, none touching another; all other characters with `negate`. */
static void tidy(set *s, bool negate)
{
    uint32_t n = 0, m = 0, from = 0;
    qsort(s->r, s->n, sizeof *s->r, by_lo);
    for (uint32_t i = 0; i < s->n; i++)
        if (n && s->r[i].lo <= s->r[n - 1].hi + 1)
            s->r[n - 1].hi = s->r[i].hi > s->r[n - 1].hi ? s->r[i].hi : s->r[n - 1].hi;
        else
            s->r[n++] = s->r[i];
    s->n = n;
    if (!negate)
        return;
    for (uint32_t i = 0; i < n; i++) { /* the gaps, at most one per range so far */
        range r = s->r[i];
        if (r.lo > from)
            s->r[m++] = (range){from, r.lo - 1};
        from = r.hi + 1;
    }
    if (from <= 0x10FFFF && m < RANGES_MAX)
        s->r[m++] = (range){from, 0x10FFFF};
    s->n = m;
}

static void emit(pattern *p, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < p->set->n; i++)
        if (p->rules)
            hs_json_characters(p->g, from, p->set->r[i].lo, p->set->r[i].hi, to);
        else
            hs_grammar_characters(p->g, from, p->set->r[i].lo, p->set->r[i].hi, to);
}

static uint32_t next_character(pattern *p)
{
    const unsigned char *s = (const unsigned char *)p->text + p->at;
    if (p->at >= p->bytes)
        return 0;
    size_t left = p->bytes - p->at;
    uint32_t n = *s < 0x80 ? 1 : *s < 0xE0 ? 2 : *s < 0xF0 ? 3 : 4, c = n == 1 ? *s : *s & (0x7Fu >> n);
    for (uint32_t i = 1; i < n && i < left; i++)
        c = c << 6 | (s[i] & 0x3F);
    p->at += n < left ? n : left;
    return c;
}

static uint32_t hex(pattern *p, size_t start, uint32_t n)
{
    uint32_t v = 0;
    for (uint32_t i = 0; i < n; i++, p->at++) {
        static const char digits[] = "0123456789abcdef";
        const char *d = peek(p) ? strchr(digits, peek(p) | (peek(p) >= 'A' ? 0x20 : 0)) : NULL;
        if (!d) {
            refuse(p, start, "an escape without its hexadecimal digits");
            return 0;
        }
        v = 16 * v + (uint32_t)(d - digits);
    }
    return v;
}

/* \d and its like: added to the set, true. Else the one character that the escape stands for, false. */
static bool escape(pattern *p, uint32_t *character)
{
    static const struct {
        char name;
        range r[5];
    } classes[] = {
        {'d', {{'0', '9'}}},
        {'w', {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}},
        {'s', {{9, 13}, {' ', ' '}}},
        {'D', {{' ', '/'}, {':', '~'}}},
        {'W', {{' ', '/'}, {':', '@'}, {'[', '^'}, {'`', '`'}, {'{', '~'}}},
        {'S', {{'!', '~'}}},
    };
    size_t start = p->at++;
    char c = peek(p);
    *character = 0;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (c == classes[i].name) {
            for (int k = 0; k < 5 && classes[i].r[k].hi; k++)
                add(p, classes[i].r[k].lo, classes[i].r[k].hi);
            p->at++;
            return true;
        }
    static const char named[] = "t\tn\nr\rf\fv\v";
    const char *n = c ? strchr(named, c) : NULL;
    if (c == 'x' || c == 'u') {
        p->at++;
        *character = hex(p, start, c == 'x' ? 2 : 4);
        if (*character == 0 || (*character >= 0xD800 && *character < 0xE000))
            refuse(p, start, "an escape that is no character");
    } else if (n && (n - named) % 2 == 0) {
        p->at++;
        *character = (unsigned char)n[1];
    } else if (!c || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
        refuse(p, start, "an escape that is not supported");
    } else {
        *character = next_character(p);
    }
    return false;
}

/* One character of a class, or \d and its like: then false. */
static bool class_character(pattern *p, uint32_t *c)
{
    if (peek(p) == '\\')
        return !escape(p, c);
    *c = next_character(p);
    return true;
}

/* "[...]" into the set. */
static void read_class(pattern *p)
{
    size_t start = p->at++;
    bool negate = peek(p) == '^';
    p->at += negate;
    if (peek(p) == ']')
        refuse(p, start, "an empty class");
    while (p->at < p->bytes && peek(p) != ']') {
        uint32_t lo, hi;
        if (!class_character(p, &lo))
            continue;
        hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->bytes && p->text[p->at + 1] != ']') {
            p->at++;
            if (!class_character(p, &hi) || hi < lo)
                refuse(p, start, "a range that is none");
        }
        add(p, lo, hi);
    }
    if (peek(p) != ']')
        refuse(p, start, "a class without its ]");
    p->at++;
    tidy(p->set, negate);
}

/* ---- expressions ------------------------------------------------------------------------------ */

static void alternatives(pattern *p, uint32_t from, uint32_t to);

/* Past one atom, without building it. */
static void skip_atom(pattern *p)
{
    int open = 0;
    do {
        char c = peek(p);
        p->at++;
        if (c == '\\') {
            p->at++;
        } else if (c == '[') {
            p->at += peek(p) == '^';
            for (; p->at < p->bytes && peek(p) != ']'; p->at++)
                p->at += peek(p) == '\\';
            p->at++;
        } else if (c == '(') {
            open++;
        } else if (c == ')') {
            open--;
        }
    } while (open > 0 && p->at < p->bytes);
    p->at = p->at < p->bytes ? p->at : p->bytes;
}

static void group(pattern *p, uint32_t from, uint32_t to)
{
    size_t start = p->at++;
    if (peek(p) == '?') {
        if (p->at + 1 >= p->bytes || p->text[p->at + 1] != ':') {
            refuse(p, start, "a group that looks around or has a name");
            return;
        }
        p->at += 2;
    }
    if (++p->depth > GROUPS_MAX) {
        refuse(p, start, "groups nested too deep, limit 32");
        return;
    }
    alternatives(p, from, to);
    p->depth--;
    if (peek(p) != ')')
        refuse(p, start, "a group without its )");
    p->at++;
}

static void atom(pattern *p, uint32_t from, uint32_t to)
{
    uint32_t c = 0;
    size_t start = p->at;
    p->set->n = 0;
    switch (peek(p)) {
    case '(': group(p, from, to); return;
    case '[': read_class(p); break;
    case '.':
        p->at++;
        add(p, '\n', '\n');
        add(p, '\r', '\r');
        add(p, 0x2028, 0x2029);
        tidy(p->set, true);
        break;
    case '\\':
        if (!escape(p, &c))
            add(p, c, c);
        break;
    case '*':
    case '+':
    case '?':
    case '{': refuse(p, start, "a repetition of nothing"); return;
    case '^':
    case '$': refuse(p, start, "^ and $ are supported at the beginning and at the end only"); return;
    default: c = next_character(p); add(p, c, c);
    }
    emit(p, from, to);
}

/* "m}", "m,}", "m,n}" */
static void read_counts(pattern *p, size_t start, uint32_t *min, uint32_t *max)
{
    uint32_t n[2] = {0, 0}, i = 0;
    bool some[2] = {false, false};
    for (; p->at < p->bytes && peek(p) != '}'; p->at++) {
        if (peek(p) == ',' && i == 0) {
            i = 1;
        } else if (peek(p) >= '0' && peek(p) <= '9' && n[i] <= REPEAT_MAX) {
            n[i] = 10 * n[i] + (uint32_t)(peek(p) - '0');
            some[i] = true;
        } else {
            break;
        }
    }
    if (peek(p) != '}' || !some[0] || (some[1] && n[1] < n[0]) || n[0] > REPEAT_MAX || n[1] > REPEAT_MAX) {
        refuse(p, start, "a repetition that is none, or of more than 10000");
        return;
    }
    p->at++;
    *min = n[0];
    *max = i == 0 ? n[0] : some[1] ? n[1] : UINT32_MAX;
}

/* "*", "+", "?", "{...}": how often; once where there is none. max UINT32_MAX = any number. */
static void repetition(pattern *p, uint32_t *min, uint32_t *max)
{
    size_t start = p->at;
    char c = peek(p);
    *min = *max = 1;
    if (!c || !strchr("*+?{", c))
        return;
    p->at++;
    if (c == '{') {
        read_counts(p, start, min, max);
    } else {
        *min = c == '+';
        *max = c == '?' ? 1 : UINT32_MAX;
    }
    p->at += peek(p) == '?'; /* as few as possible: the same texts */
    c = peek(p);
    if (c && strchr("*+?{", c))
        refuse(p, p->at, "a repetition of a repetition");
}

/* An atom and its repetition; returns the node after it. */
static uint32_t piece(pattern *p, uint32_t from)
{
    hs_grammar *g = p->g;
    uint32_t min, max, depth = p->depth;
    size_t start = p->at;
    skip_atom(p);
    repetition(p, &min, &max);
    size_t end = p->at;
    uint32_t copies = max == UINT32_MAX ? min : max, over = hs_grammar_node(g);
    bool built = false;
    for (uint32_t i = 0; i < copies && g->status == HLWQ_OK; i++, built = true) {
        uint32_t next = hs_grammar_node(g);
        if (i >= min)
            hs_grammar_empty(g, from, over);
        p->at = start;
        p->depth = depth;
        atom(p, from, next);
        from = next;
    }
    if (g->status == HLWQ_OK && (max == UINT32_MAX || !built)) {
        /* {0} is built where nothing leads, for it must make sense all the same */
        uint32_t loop = hs_grammar_node(g);
        if (max == UINT32_MAX)
            hs_grammar_empty(g, from, loop);
        p->at = start;
        p->depth = depth;
        atom(p, loop, loop);
        from = max == UINT32_MAX ? loop : from;
    }
    hs_grammar_empty(g, from, over);
    p->depth = depth;
    p->at = g->status == HLWQ_OK ? end : p->bytes;
    return over;
}

/* Any characters, as many as one likes. */
static uint32_t anything(pattern *p, uint32_t from)
{
    uint32_t loop = hs_grammar_node(p->g);
    hs_grammar_empty(p->g, from, loop);
    if (p->rules)
        hs_json_character(p->rules, loop, loop);
    else
        hs_grammar_characters(p->g, loop, 1, 0x10FFFF, loop);
    return loop;
}

static void sequence(pattern *p, uint32_t from, uint32_t to)
{
    bool outermost = p->depth == 0, begins = outermost && peek(p) == '^', ends = false;
    p->at += begins;
    if (outermost && !begins)
        from = anything(p, from);
    while (p->at < p->bytes && peek(p) != '|' && peek(p) != ')') {
        bool last = p->at + 1 == p->bytes || p->text[p->at + 1] == '|';
        if (outermost && peek(p) == '$' && last) {
            ends = true;
            p->at++;
            break;
        }
        from = piece(p, from);
    }
    if (outermost && !ends)
        from = anything(p, from);
    hs_grammar_empty(p->g, from, to);
}

static void alternatives(pattern *p, uint32_t from, uint32_t to)
{
    for (;;) {
        sequence(p, from, to);
        if (peek(p) != '|')
            return;
        p->at++;
    }
}

static void whole(pattern *p, uint32_t from, uint32_t to)
{
    if (p->bytes > PATTERN_MAX) {
        hs_grammar_fail(p->g, HLWQ_ERR_UNSUPPORTED, "a pattern of %zu bytes, limit %d", p->bytes, PATTERN_MAX);
        return;
    }
    if (memchr(p->text, 0, p->bytes))
        refuse(p, 0, "a zero byte");
    else
        alternatives(p, from, to);
    if (p->at < p->bytes)
        refuse(p, p->at, "a ) without its group");
}

void hs_pattern(hs_json_rules *rules, uint32_t from, const char *text, size_t bytes, uint32_t to)
{
    set s = {.n = 0};
    whole(&(pattern){.rules = rules, .g = rules->g, .text = text, .bytes = bytes, .set = &s}, from, to);
}

void hs_pattern_plain(hs_grammar *g, uint32_t from, const char *text, size_t bytes, uint32_t to)
{
    set s = {.n = 0};
    whole(&(pattern){.g = g, .text = text, .bytes = bytes, .set = &s}, from, to);
}

void hs_pattern_class(hs_grammar *g, uint32_t from, const char *text, size_t bytes, size_t *at, uint32_t to)
{
    set s = {.n = 0};
    pattern p = {.g = g, .text = text, .bytes = bytes, .at = *at, .set = &s};
    if (memchr(text, 0, bytes))
        refuse(&p, 0, "a zero byte");
    else
        read_class(&p);
    emit(&p, from, to);
    *at = p.at;
}
