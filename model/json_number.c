/*
 * model/json_number.c - digits under two bounds.
 *
 * A magnitude is read digit by digit beside those of the bounds.  All that matters of what was read is whether it is
 * still the same as the lower bound's digits, and whether it is still the same as the upper one's: four nodes per
 * place.
 */
#include "model/json_number.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WHOLE_MAX = 19, REAL_DIGITS = 15, PART_MAX = 9 };

/* A magnitude in decimal: "120", "5" is 120.5. */
typedef struct decimal {
    char whole[48], part[48];
    bool inclusive;
} decimal;

double hs_bound_real(const hs_bound *b)
{
    return b->whole ? (double)b->integer : b->real;
}

void hs_bound_narrow(hs_bound *b, const hs_bound *other, int sign)
{
    if (!other->set)
        return;
    double mine = hs_bound_real(b), theirs = hs_bound_real(other);
    int order = mine < theirs ? -1 : mine > theirs;
    if (b->set && b->whole && other->whole)
        order = b->integer < other->integer ? -1 : b->integer > other->integer;
    if (!b->set || order * sign < 0 || (order == 0 && other->exclusive))
        *b = *other;
}

/* The shortest decimal of |value| that reads back as it, without an exponent. */
static void real_decimal(double value, decimal *out)
{
    char text[64];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, fabs(value));
        if (strtod(text, NULL) == fabs(value))
            break;
    }
    char mantissa[40];
    int n = 0, power = atoi(strchr(text, 'e') + 1);
    for (const char *p = text; *p != 'e'; p++)
        if (*p != '.')
            mantissa[n++] = *p;
    while (n > 1 && mantissa[n - 1] == '0')
        n--;
    size_t w = 0, f = 0;
    for (int i = 0; i <= power; i++)
        out->whole[w++] = i < n ? mantissa[i] : '0';
    if (!w)
        out->whole[w++] = '0';
    out->whole[w] = 0;
    for (int i = power + 1; i < n; i++)
        out->part[f++] = i < 0 ? '0' : mantissa[i];
    out->part[f] = 0;
}

static void bound_decimal(const hs_bound *b, decimal *out)
{
    *out = (decimal){.inclusive = !b->exclusive};
    if (b->whole) {
        uint64_t magnitude = b->integer < 0 ? 0 - (uint64_t)b->integer : (uint64_t)b->integer;
        snprintf(out->whole, sizeof out->whole, "%" PRIu64, magnitude);
    } else {
        real_decimal(b->real, out);
    }
}

typedef struct magnitude {
    hs_grammar *g;
    const decimal *lo, *hi;
    uint32_t to;
    uint32_t places; /* before the point */
    bool whole;      /* nothing behind it */
} magnitude;

/* The digit of a bound at `place`, which counts on behind the point. */
static char digit_of(const magnitude *m, const decimal *d, uint32_t place)
{
    if (place < m->places)
        return d->whole[place];
    uint32_t behind = place - m->places;
    return behind < strlen(d->part) ? d->part[behind] : '0';
}

/* May the number end before `place`? */
static bool may_end(const magnitude *m, bool low, bool high, uint32_t place)
{
    uint32_t behind = place - m->places;
    bool low_reached = behind >= strlen(m->lo->part), high_reached = behind >= strlen(m->hi->part);
    return (!low || (low_reached && m->lo->inclusive)) && (!high || !high_reached || m->hi->inclusive);
}

/* One digit from nodes `at`, by whether both bounds (3), the lower (1) or the upper (2) are still met exactly. */
static void read_digit(const magnitude *m, uint32_t at[4], uint32_t place, char least)
{
    uint32_t next[4];
    for (int k = 0; k < 4; k++)
        next[k] = hs_grammar_node(m->g);
    for (int k = 0; k < 4; k++) {
        bool low = k & 1, high = k & 2;
        char a = low ? digit_of(m, m->lo, place) : least, b = high ? digit_of(m, m->hi, place) : '9';
        for (char d = a < least ? least : a; at[k] && d <= b; d++) {
            int then = (low && d == a) | (high && d == b) << 1;
            hs_grammar_bytes(m->g, at[k], (uint8_t)d, (uint8_t)d, next[then]);
        }
    }
    memcpy(at, next, sizeof next);
}

static void read_magnitude(const magnitude *m, uint32_t from, int bounds)
{
    hs_grammar *g = m->g;
    uint32_t at[4] = {0};
    at[bounds] = from;
    for (uint32_t i = 0; i < m->places; i++)
        read_digit(m, at, i, i || m->places == 1 ? '0' : '1');
    uint32_t behind = m->whole || m->places >= REAL_DIGITS ? 0 : REAL_DIGITS - m->places;
    behind = behind < PART_MAX ? behind : PART_MAX;
    for (int k = 0; k < 4; k++)
        if (may_end(m, k & 1, k & 2, m->places))
            hs_grammar_empty(g, at[k], m->to);
    for (int k = 0; k < 4 && behind; k++) {
        uint32_t point = hs_grammar_node(g);
        hs_grammar_bytes(g, at[k], '.', '.', point);
        at[k] = point;
    }
    for (uint32_t i = 0; i < behind; i++) {
        read_digit(m, at, m->places + i, '0');
        for (int k = 0; k < 4; k++)
            if (may_end(m, k & 1, k & 2, m->places + i + 1))
                hs_grammar_empty(g, at[k], m->to);
    }
}

/* Magnitudes of every length between those of the bounds. */
static void magnitudes(hs_grammar *g, uint32_t from, const decimal *lo, const decimal *hi, bool whole, uint32_t to)
{
    uint32_t shortest = (uint32_t)strlen(lo->whole), longest = (uint32_t)strlen(hi->whole);
    for (uint32_t n = shortest; n <= longest && g->status == HLWQ_OK; n++) {
        magnitude m = {.g = g, .lo = lo, .hi = hi, .to = to, .places = n, .whole = whole};
        read_magnitude(&m, from, (n == shortest) | (n == longest) << 1);
    }
}

/* A bound on whole numbers as a whole number that is in. False where none is. */
static bool whole_bound(hs_bound *b, int sign)
{
    if (!b->whole) {
        double r = sign > 0 ? ceil(b->real) : floor(b->real);
        if (!(fabs(r) < 0x1p62))
            return false;
        b->exclusive = b->exclusive && r == b->real;
        *b = (hs_bound){.set = true, .whole = true, .exclusive = b->exclusive, .integer = (int64_t)r};
    }
    if (b->exclusive && __builtin_add_overflow(b->integer, sign, &b->integer))
        return false;
    b->exclusive = false;
    return true;
}

void hs_json_number_range(hs_grammar *g, uint32_t from, const hs_bound *lo_bound, const hs_bound *hi_bound, bool whole,
                          uint32_t to)
{
    const int64_t far = whole ? INT64_C(999999999999999999) : INT64_C(999999999999999);
    hs_bound lo = *lo_bound, hi = *hi_bound;
    decimal a, b, zero = {.whole = "0", .inclusive = true};
    if (!lo.set)
        lo = (hs_bound){
            .set = true, .whole = true, .integer = hi.set && hs_bound_real(&hi) < (double)-far ? INT64_MIN : -far};
    if (!hi.set)
        hi = (hs_bound){.set = true, .whole = true, .integer = hs_bound_real(&lo) > (double)far ? INT64_MAX : far};
    double limit = whole ? 0x1p62 : (double)far;
    bool fits = whole ? whole_bound(&lo, 1) && whole_bound(&hi, -1)
                      : fabs(hs_bound_real(&lo)) <= limit && fabs(hs_bound_real(&hi)) <= limit;
    if (!fits) {
        hs_grammar_fail(g, HLWQ_ERR_UNSUPPORTED, "bounds of %g and %g: they are kept up to %g", hs_bound_real(&lo),
                        hs_bound_real(&hi), limit);
        return;
    }
    double l = hs_bound_real(&lo), h = hs_bound_real(&hi);
    bool none = whole ? lo.integer > hi.integer : l > h || (l == h && (lo.exclusive || hi.exclusive));
    if (none)
        return; /* no number at all: a dead end that closing off finds */
    bound_decimal(&lo, &a);
    bound_decimal(&hi, &b);
    if (h >= 0) {
        if (l < 0)
            magnitudes(g, from, &zero, &b, whole, to);
        else
            magnitudes(g, from, &a, &b, whole, to);
    }
    if (l < 0) {
        uint32_t minus = hs_grammar_node(g);
        hs_grammar_bytes(g, from, '-', '-', minus);
        zero.inclusive = false;
        magnitudes(g, minus, h < 0 ? &b : &zero, &a, whole, to);
    }
}
