/*
 * model/jinja_unicode.c - characters of strings, as Python's str sees them.
 */
#define _GNU_SOURCE
#include "model/jinja_private.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <utf8proc.h>

int32_t hs_ju_char(const char *s, size_t left, uint32_t *bytes)
{
    utf8proc_int32_t c = (unsigned char)*s;
    *bytes = 1;
    if (c < 0x80)
        return c;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s, left > 4 ? 4 : (utf8proc_ssize_t)left, &c);
    if (n <= 0)
        return 0xFFFD;
    *bytes = (uint32_t)n;
    return c;
}

uint32_t hs_ju_put(int32_t c, char out[4])
{
    if (c >= 0xD800 && c < 0xE000)
        c = 0xFFFD; /* half a surrogate pair */
    return (uint32_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)out);
}

bool hs_ju_space(int32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

uint32_t hs_ju_line_end(hs_jv s, uint32_t at)
{
    uint32_t n;
    int32_t c = hs_ju_char(s.text + at, s.bytes - at, &n);
    if (c == '\r' && at + 1 < s.bytes && s.text[at + 1] == '\n')
        return 2;
    return (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029 ? n : 0;
}

bool hs_ju_printable(int32_t c)
{
    if (c < 0x7F)
        return c >= 0x20;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

bool hs_ju_alpha(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool hs_ju_digit(int32_t c)
{
    return utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}

bool hs_ju_alnum(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return hs_ju_alpha(c) || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

bool hs_ju_upper(int32_t c)
{
    return utf8proc_category(c) == UTF8PROC_CATEGORY_LU;
}

bool hs_ju_lower(int32_t c)
{
    return utf8proc_category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA;
}

int64_t hs_ju_length(hs_jv string)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < string.bytes; i++)
        n += ((unsigned char)string.text[i] & 0xC0) != 0x80;
    return n;
}

uint32_t hs_ju_offset(hs_jv string, int64_t points)
{
    uint32_t at = 0;
    while (points > 0 && at < string.bytes) {
        at++;
        while (at < string.bytes && ((unsigned char)string.text[at] & 0xC0) == 0x80)
            at++;
        points--;
    }
    return at;
}

static bool strips(const hs_jv *characters, const char *s, uint32_t n)
{
    if (!characters) {
        uint32_t used;
        return hs_ju_space(hs_ju_char(s, n, &used));
    }
    for (uint32_t i = 0, k; i < characters->bytes; i += k) {
        hs_ju_char(characters->text + i, characters->bytes - i, &k);
        if (k == n && memcmp(characters->text + i, s, n) == 0)
            return true;
    }
    return false;
}

hs_jv hs_ju_strip(hs_jv s, const hs_jv *characters, bool left, bool right)
{
    hs_jv out = s;
    out.grows = false;
    while (left && out.bytes) {
        uint32_t n;
        hs_ju_char(out.text, out.bytes, &n);
        if (!strips(characters, out.text, n))
            break;
        out.text += n;
        out.bytes -= n;
    }
    while (right && out.bytes) {
        uint32_t at = out.bytes - 1;
        while (at > 0 && out.bytes - at < 4 && ((unsigned char)out.text[at] & 0xC0) == 0x80)
            at--;
        if (!strips(characters, out.text + at, out.bytes - at))
            break;
        out.bytes = at;
    }
    return out;
}

static bool cased(int32_t c)
{
    return hs_ju_upper(c) || hs_ju_lower(c) || utf8proc_category(c) == UTF8PROC_CATEGORY_LT;
}

static int32_t to_upper(int32_t c)
{
    return utf8proc_toupper(c);
}

/* One character in the case that its place asks for. */
static int32_t in_case(int32_t c, hs_jcase how, bool first)
{
    switch (how) {
    case HS_JCASE_UPPER: return to_upper(c);
    case HS_JCASE_LOWER: return utf8proc_tolower(c);
    case HS_JCASE_SWAP: return hs_ju_upper(c) ? utf8proc_tolower(c) : hs_ju_lower(c) ? to_upper(c) : c;
    default: return first ? utf8proc_totitle(c) : utf8proc_tolower(c);
    }
}

hlwq_status hs_ju_case(hs_jvm *vm, hs_jv s, hs_jcase how, hs_jv *out)
{
    hs_text t = {0};
    bool first = true;
    HS_TRY(hs_jvm_work(vm, (uint64_t)s.bytes * 4));
    for (uint32_t i = 0, n; i < s.bytes; i += n) {
        int32_t c = hs_ju_char(s.text + i, s.bytes - i, &n);
        bool up = how == HS_JCASE_UPPER || (how == HS_JCASE_SWAP && hs_ju_lower(c));
        char utf8[4];
        if (c == 0xDF && (up || (first && how >= HS_JCASE_CAPITALIZE && how != HS_JCASE_SWAP))) {
            hs_text_add(&t, up ? "SS" : "Ss", 2);
        } else {
            uint32_t made = hs_ju_put(in_case(c, how, first), utf8);
            hs_text_add(&t, utf8, made);
        }
        first = how == HS_JCASE_TITLE ? !cased(c) : false;
    }
    bool markup = s.markup;
    HS_TRY(hs_jv_take(vm, &t, out));
    out->markup = markup;
    return HLWQ_OK;
}

/* memmem takes linear time, also for texts made to be slow to search. */
int64_t hs_ju_find(const char *text, size_t bytes, const char *needle, size_t needle_bytes)
{
    const char *at = needle_bytes ? memmem(text, bytes, needle, needle_bytes) : text;
    return at ? at - text : -1;
}

#define PRIME ((1ull << 61) - 1)

static uint64_t times(uint64_t a, uint64_t b)
{
    return (uint64_t)((unsigned __int128)a * b % PRIME);
}

/* Backwards there is no memmem: a hash of the window rolls, and is looked at closely where it is the needle's. */
int64_t hs_ju_rfind(const char *text, size_t bytes, const char *needle, size_t needle_bytes)
{
    const uint64_t base = 0x1F3D5B79A2C4E68ull;
    const unsigned char *t = (const unsigned char *)text, *x = (const unsigned char *)needle;
    uint64_t wanted = 0, window = 0, top = 1; /* top: base to the needle's length - 1 */
    if (needle_bytes > bytes)
        return -1;
    if (!needle_bytes)
        return (int64_t)bytes;
    for (size_t i = needle_bytes; i-- > 0;) {
        wanted = (times(wanted, base) + x[i]) % PRIME;
        window = (times(window, base) + t[bytes - needle_bytes + i]) % PRIME;
        top = i ? times(top, base) : top;
    }
    for (size_t at = bytes - needle_bytes;; at--) {
        if (window == wanted && memcmp(text + at, needle, needle_bytes) == 0)
            return (int64_t)at;
        if (!at)
            return -1;
        window = (window + PRIME - times(top, t[at + needle_bytes - 1])) % PRIME;
        window = (times(window, base) + t[at - 1]) % PRIME;
    }
}

/* ---- numbers in strings ------------------------------------------------------------------------ */

static int value_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

hlwq_status hs_ju_parse_int(hs_jvm *vm, hs_jv s, int64_t base, bool *ok, int64_t *value)
{
    s = hs_ju_strip(s, NULL, true, true);
    uint32_t i = 0;
    bool negative = s.bytes && s.text[0] == '-', digit = false;
    *ok = false;
    *value = 0;
    if (base != 0 && (base < 2 || base > 36))
        return HLWQ_OK;
    i += s.bytes && (s.text[0] == '-' || s.text[0] == '+');
    if (i + 1 < s.bytes && s.text[i] == '0') {
        char c = s.text[i + 1] | 0x20;
        int prefixed = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (prefixed && (base == 0 || base == prefixed)) {
            base = prefixed;
            i += 2;
            digit = true; /* an underscore may follow */
        }
    }
    base = base ? base : 10;
    uint32_t first = i;
    for (; i < s.bytes; i++) {
        if (s.text[i] == '_' && digit && i + 1 < s.bytes && value_of(s.text[i + 1]) < base) {
            digit = false;
            continue;
        }
        int d = value_of(s.text[i]);
        if (d >= base)
            return HLWQ_OK;
        digit = true;
        if (__builtin_mul_overflow(*value, base, value) || __builtin_sub_overflow(*value, d, value))
            return hs_jvm_fail(vm, "an integer of %u digits does not fit 64 bits", s.bytes - first);
    }
    if (i == first || (!negative && *value == INT64_MIN))
        return HLWQ_OK;
    *value = negative ? *value : -*value;
    *ok = true;
    return HLWQ_OK;
}

static bool same_word(hs_jv s, const char *word)
{
    size_t n = strlen(word);
    if (s.bytes != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((s.text[i] | 0x20) != word[i])
            return false;
    return true;
}

bool hs_ju_parse_float(hs_jv s, double *value)
{
    char text[512];
    size_t n = 0;
    s = hs_ju_strip(s, NULL, true, true);
    hs_jv word = s;
    bool negative = s.bytes && s.text[0] == '-';
    if (s.bytes && (s.text[0] == '-' || s.text[0] == '+')) {
        word.text++;
        word.bytes--;
    }
    if (same_word(word, "nan") || same_word(word, "inf") || same_word(word, "infinity")) {
        *value = same_word(word, "nan") ? NAN : negative ? -INFINITY : INFINITY;
        return true;
    }
    if (!word.bytes || s.bytes >= sizeof text)
        return false;
    bool digit = false;
    for (uint32_t i = 0; i < s.bytes; i++) {
        char c = s.text[i];
        bool is_digit = c >= '0' && c <= '9';
        if (c == '_' && digit && i + 1 < s.bytes && s.text[i + 1] >= '0' && s.text[i + 1] <= '9')
            continue;
        if (!is_digit && !strchr("+-.eE", c))
            return false;
        digit = is_digit;
        text[n++] = c == '.' ? localeconv()->decimal_point[0] : c; /* strtod follows the host program's locale */
    }
    text[n] = 0;
    char *end;
    *value = strtod(text, &end);
    return end == text + n;
}
