/*
 * model/jinja_strings.c - methods: str's first, then those of mappings, lists and loops.
 */
#include "model/jinja_private.h"

#include <inttypes.h>

static hlwq_status wants_string(hs_jvm *vm, const char *method, hs_jv v)
{
    if (v.type == HS_JV_UNDEFINED)
        return hs_jv_fail_undefined(vm, v);
    return v.type == HS_JV_STRING ? HLWQ_OK
                                  : hs_jvm_fail(vm, "%s() needs a string, not %s", method, hs_jv_type_name(v));
}

/* ---- case and characters ----------------------------------------------------------------------- */

#define CASE(name, how)                                                                                                \
    static hlwq_status name(hs_jvm *vm, const hs_jv *a, hs_jv *out)                                                    \
    {                                                                                                                  \
        return hs_ju_case(vm, a[0], how, out);                                                                         \
    }

CASE(m_upper, HS_JCASE_UPPER)
CASE(m_lower, HS_JCASE_LOWER)
CASE(m_capitalize, HS_JCASE_CAPITALIZE)
CASE(m_title, HS_JCASE_TITLE)
CASE(m_swapcase, HS_JCASE_SWAP)

static hlwq_status every(hs_jvm *vm, hs_jv s, bool (*holds)(int32_t), hs_jv *out)
{
    bool all = s.bytes > 0;
    HS_TRY(hs_jvm_work(vm, s.bytes));
    for (uint32_t i = 0, n; i < s.bytes && all; i += n)
        all = holds(hs_ju_char(s.text + i, s.bytes - i, &n));
    *out = hs_jv_bool(all);
    return HLWQ_OK;
}

#define EVERY(name, holds)                                                                                             \
    static hlwq_status name(hs_jvm *vm, const hs_jv *a, hs_jv *out)                                                    \
    {                                                                                                                  \
        return every(vm, a[0], holds, out);                                                                            \
    }

EVERY(m_isalpha, hs_ju_alpha)
EVERY(m_isalnum, hs_ju_alnum)
EVERY(m_isdigit, hs_ju_digit)
EVERY(m_isspace, hs_ju_space)

static hlwq_status by_test(hs_jvm *vm, const char *test, const hs_jv *a, hs_jv *out)
{
    return hs_jinja_test(test, 5)->run(vm, a, out);
}

static hlwq_status m_isupper(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return by_test(vm, "upper", a, out);
}

static hlwq_status m_islower(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return by_test(vm, "lower", a, out);
}

static hlwq_status strip(hs_jvm *vm, const hs_jv *a, bool left, bool right, hs_jv *out)
{
    if (a[1].type > HS_JV_NONE || a[1].type == HS_JV_UNDEFINED)
        HS_TRY(wants_string(vm, "strip", a[1]));
    if (a[1].type == HS_JV_STRING && a[1].bytes > 8) /* each character is looked for in these */
        HS_TRY(hs_jvm_work(vm, (uint64_t)a[0].bytes * a[1].bytes));
    *out = hs_ju_strip(a[0], a[1].type == HS_JV_STRING ? &a[1] : NULL, left, right);
    return hs_jvm_work(vm, a[0].bytes - out->bytes);
}

static hlwq_status m_strip(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return strip(vm, a, true, true, out);
}

static hlwq_status m_lstrip(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return strip(vm, a, true, false, out);
}

static hlwq_status m_rstrip(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return strip(vm, a, false, true, out);
}

/* ---- looking for ------------------------------------------------------------------------------- */

/* The part of `s` that start and end arguments select; false where start lies beyond it. */
static hlwq_status part_of(hs_jvm *vm, hs_jv s, hs_jv start, hs_jv end, int64_t *first, hs_jv *part, bool *inside)
{
    int64_t n, to;
    HS_TRY(hs_jv_length(vm, s, &n));
    *first = hs_jv_is_whole(start) ? hs_jv_whole(start) : 0;
    to = hs_jv_is_whole(end) ? hs_jv_whole(end) : n;
    *first = *first < 0 ? (*first + n < 0 ? 0 : *first + n) : *first;
    to = to < 0 ? (to + n < 0 ? 0 : to + n) : to > n ? n : to;
    *inside = *first <= to;
    uint32_t from = hs_ju_offset(s, *first);
    *part = hs_jv_slice(s.text + from, *inside ? hs_ju_offset(s, to) - from : 0);
    return HLWQ_OK;
}

static hlwq_status affix(hs_jvm *vm, const char *method, const hs_jv *a, bool at_end, hs_jv *out)
{
    hs_jv s, one = a[1];
    int64_t first;
    bool inside, found = false;
    HS_TRY(part_of(vm, a[0], a[2], a[3], &first, &s, &inside));
    const hs_jlist single = {.item = &one, .n = 1}, *list = a[1].type == HS_JV_TUPLE ? a[1].list : &single;
    for (uint32_t i = 0; i < list->n && !found; i++) {
        hs_jv x = list->item[i];
        HS_TRY(wants_string(vm, method, x));
        HS_TRY(hs_jvm_work(vm, x.bytes));
        found = inside && x.bytes <= s.bytes && memcmp(s.text + (at_end ? s.bytes - x.bytes : 0), x.text, x.bytes) == 0;
    }
    *out = hs_jv_bool(found);
    return HLWQ_OK;
}

static hlwq_status m_startswith(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return affix(vm, "startswith", a, false, out);
}

static hlwq_status m_endswith(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return affix(vm, "endswith", a, true, out);
}

static hlwq_status remove_affix(hs_jvm *vm, const char *method, const hs_jv *a, bool at_end, hs_jv *out)
{
    const hs_jv plain[HS_JARGS_MAX] = {a[0], a[1]};
    hs_jv found;
    HS_TRY(wants_string(vm, method, a[1]));
    HS_TRY(affix(vm, method, plain, at_end, &found));
    uint32_t n = found.boolean ? a[1].bytes : 0;
    *out = hs_jv_slice(a[0].text + (at_end ? 0 : n), a[0].bytes - n);
    out->markup = a[0].markup;
    return HLWQ_OK;
}

static hlwq_status m_removeprefix(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return remove_affix(vm, "removeprefix", a, false, out);
}

static hlwq_status m_removesuffix(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return remove_affix(vm, "removesuffix", a, true, out);
}

static hlwq_status find(hs_jvm *vm, const char *method, const hs_jv *a, bool last, bool must, hs_jv *out)
{
    hs_jv s;
    int64_t first;
    bool inside;
    HS_TRY(wants_string(vm, method, a[1]));
    HS_TRY(part_of(vm, a[0], a[2], a[3], &first, &s, &inside));
    HS_TRY(hs_jvm_work(vm, (uint64_t)s.bytes * (last ? 16 : 4)));
    int64_t at = !inside ? -1
                 : last  ? hs_ju_rfind(s.text, s.bytes, a[1].text, a[1].bytes)
                         : hs_ju_find(s.text, s.bytes, a[1].text, a[1].bytes);
    if (at < 0 && must)
        return hs_jvm_fail(vm, "substring not found");
    *out = hs_jv_int(at < 0 ? -1 : first + hs_ju_length(hs_jv_slice(s.text, (size_t)at)));
    return HLWQ_OK;
}

static hlwq_status m_find(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return find(vm, "find", a, false, false, out);
}

static hlwq_status m_rfind(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return find(vm, "rfind", a, true, false, out);
}

static hlwq_status m_index(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return find(vm, "index", a, false, true, out);
}

static hlwq_status m_rindex(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return find(vm, "rindex", a, true, true, out);
}

static hlwq_status m_count(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s;
    int64_t first, n = 0, at;
    bool inside;
    HS_TRY(wants_string(vm, "count", a[1]));
    HS_TRY(part_of(vm, a[0], a[2], a[3], &first, &s, &inside));
    HS_TRY(hs_jvm_work(vm, (uint64_t)s.bytes * 4));
    if (!a[1].bytes)
        n = inside ? hs_ju_length(s) + 1 : 0;
    while (a[1].bytes && (at = hs_ju_find(s.text, s.bytes, a[1].text, a[1].bytes)) >= 0) {
        n++;
        s = hs_jv_slice(s.text + at + a[1].bytes, s.bytes - (uint32_t)at - a[1].bytes);
    }
    *out = hs_jv_int(n);
    return HLWQ_OK;
}

/* ---- cutting and joining ----------------------------------------------------------------------- */

static hlwq_status m_replace(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv s = a[0], old = a[1], new = a[2];
    int64_t left = hs_jv_is_whole(a[3]) ? hs_jv_whole(a[3]) : -1, at;
    hs_text t = {0};
    HS_TRY(wants_string(vm, "replace", old));
    HS_TRY(wants_string(vm, "replace", new));
    HS_TRY(hs_jvm_work(vm, (uint64_t)s.bytes * 4));
    *out = a[0];
    if (!old.bytes) { /* between all characters, and at both ends */
        for (; left != 0 && t.bytes <= vm->limits.output_bytes; left--) {
            uint32_t n = hs_ju_offset(s, 1);
            hs_text_add(&t, new.text, new.bytes);
            hs_text_add(&t, s.text, n);
            if (!s.bytes)
                break;
            s = hs_jv_slice(s.text + n, s.bytes - n);
        }
    } else if (hs_ju_find(s.text, s.bytes, old.text, old.bytes) < 0 || !left) {
        return HLWQ_OK;
    } else {
        for (; left != 0 && t.bytes <= vm->limits.output_bytes; left--) {
            at = hs_ju_find(s.text, s.bytes, old.text, old.bytes);
            if (at < 0)
                break;
            hs_text_add(&t, s.text, (size_t)at);
            hs_text_add(&t, new.text, new.bytes);
            s = hs_jv_slice(s.text + at + old.bytes, s.bytes - (uint32_t)at - old.bytes);
        }
    }
    hs_text_add(&t, s.text, s.bytes);
    HS_TRY(hs_jv_take(vm, &t, out));
    out->markup = a[0].markup;
    return HLWQ_OK;
}

/* Where the last word of `s` begins. */
static uint32_t last_word(hs_jv s)
{
    uint32_t start = s.bytes, n;
    while (start > 0) {
        uint32_t at = start - 1;
        while (at > 0 && ((unsigned char)s.text[at] & 0xC0) == 0x80)
            at--;
        if (hs_ju_space(hs_ju_char(s.text + at, start - at, &n)))
            break;
        start = at;
    }
    return start;
}

/* Runs of white space separate; `most` cuts, from the left or the right. What is left over keeps its far end. */
static hlwq_status split_space(hs_jvm *vm, hs_jv s, int64_t most, bool from_right, hs_jbuild *out)
{
    for (;; most--) {
        s = hs_ju_strip(s, NULL, !from_right, from_right);
        if (!s.bytes)
            return HLWQ_OK;
        if (most == 0)
            return hs_jbuild_add(vm, out, s);
        if (from_right) {
            uint32_t start = last_word(s);
            HS_TRY(hs_jbuild_add(vm, out, hs_jv_slice(s.text + start, s.bytes - start)));
            s.bytes = start;
        } else {
            uint32_t n = 0, end = 0;
            for (; end < s.bytes && !hs_ju_space(hs_ju_char(s.text + end, s.bytes - end, &n)); end += n)
                ;
            HS_TRY(hs_jbuild_add(vm, out, hs_jv_slice(s.text, end)));
            s = hs_jv_slice(s.text + end, s.bytes - end);
        }
    }
}

static hlwq_status split_by(hs_jvm *vm, hs_jv s, hs_jv by, int64_t most, bool from_right, hs_jbuild *out)
{
    for (; most != 0; most--) {
        int64_t at = from_right ? hs_ju_rfind(s.text, s.bytes, by.text, by.bytes)
                                : hs_ju_find(s.text, s.bytes, by.text, by.bytes);
        if (at < 0)
            break;
        uint32_t end = (uint32_t)at + by.bytes;
        hs_jv tail = hs_jv_slice(s.text + end, s.bytes - end), head = hs_jv_slice(s.text, (size_t)at);
        HS_TRY(hs_jbuild_add(vm, out, from_right ? tail : head));
        s = from_right ? head : tail;
    }
    return hs_jbuild_add(vm, out, s);
}

/* Pieces of markup are markup. */
static hlwq_status pieces(hs_jvm *vm, hs_jbuild *build, hs_jv whole, hs_jv *out)
{
    for (uint32_t i = 0; i < build->n; i++)
        build->item[i].markup = whole.markup;
    return hs_jbuild_done(vm, build, HS_JV_LIST, out);
}

static hlwq_status split(hs_jvm *vm, const hs_jv *a, bool from_right, hs_jv *out)
{
    hs_jbuild build = {0};
    int64_t most = hs_jv_is_whole(a[2]) ? hs_jv_whole(a[2]) : -1;
    hs_jv s = a[0];
    s.grows = s.markup = false;
    HS_TRY(hs_jvm_work(vm, (uint64_t)s.bytes * (from_right ? 16 : 4)));
    if (a[1].type == HS_JV_MISSING || a[1].type == HS_JV_NONE) {
        HS_TRY(split_space(vm, s, most, from_right, &build));
    } else {
        HS_TRY(wants_string(vm, "split", a[1]));
        if (!a[1].bytes)
            return hs_jvm_fail(vm, "empty separator");
        HS_TRY(split_by(vm, s, a[1], most, from_right, &build));
    }
    for (uint32_t i = 0; from_right && i < build.n / 2; i++) {
        hs_jv t = build.item[i];
        build.item[i] = build.item[build.n - 1 - i];
        build.item[build.n - 1 - i] = t;
    }
    return pieces(vm, &build, a[0], out);
}

static hlwq_status m_split(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return split(vm, a, false, out);
}

static hlwq_status m_rsplit(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return split(vm, a, true, out);
}

static hlwq_status partition(hs_jvm *vm, const hs_jv *a, bool last, hs_jv *out)
{
    HS_TRY(wants_string(vm, "partition", a[1]));
    if (!a[1].bytes)
        return hs_jvm_fail(vm, "empty separator");
    HS_TRY(hs_jvm_work(vm, (uint64_t)a[0].bytes * (last ? 16 : 4)));
    HS_TRY(hs_jlist_new(vm, HS_JV_TUPLE, 3, out));
    hs_jv *part = out->list->item, s = a[0];
    int64_t at =
        last ? hs_ju_rfind(s.text, s.bytes, a[1].text, a[1].bytes) : hs_ju_find(s.text, s.bytes, a[1].text, a[1].bytes);
    part[0] = part[1] = part[2] = hs_jv_text("");
    if (at < 0) {
        part[last ? 2 : 0] = hs_jv_slice(s.text, s.bytes);
        return HLWQ_OK;
    }
    uint32_t end = (uint32_t)at + a[1].bytes;
    part[0] = hs_jv_slice(s.text, (size_t)at);
    part[1] = a[1];
    part[2] = hs_jv_slice(s.text + end, s.bytes - end);
    return HLWQ_OK;
}

static hlwq_status m_partition(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return partition(vm, a, false, out);
}

static hlwq_status m_rpartition(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return partition(vm, a, true, out);
}

static hlwq_status m_splitlines(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jbuild build = {0};
    hs_jv s = a[0];
    uint32_t first = 0;
    HS_TRY(hs_jvm_work(vm, s.bytes * 4ull));
    for (uint32_t i = 0; i < s.bytes;) {
        uint32_t end = hs_ju_line_end(s, i), n = end;
        if (end) {
            uint32_t stop = hs_jv_truth(a[1]) ? i + end : i;
            HS_TRY(hs_jbuild_add(vm, &build, hs_jv_slice(s.text + first, stop - first)));
            first = i + end;
        } else {
            hs_ju_char(s.text + i, s.bytes - i, &n);
        }
        i += n;
    }
    if (first < s.bytes)
        HS_TRY(hs_jbuild_add(vm, &build, hs_jv_slice(s.text + first, s.bytes - first)));
    return pieces(vm, &build, a[0], out);
}

static hlwq_status m_join(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    hs_text t = {0};
    HS_TRY(hs_jv_iterate(vm, a[1], &list));
    for (uint32_t i = 0; i < list->n; i++)
        if (list->item[i].type != HS_JV_STRING)
            return hs_jvm_fail(vm, "sequence item %u: expected str instance, %s found", i,
                               hs_jv_type_name(list->item[i]));
    hlwq_status st = HLWQ_OK;
    for (uint32_t i = 0; i < list->n && st == HLWQ_OK; i++) {
        if (i)
            st = hs_jv_print(vm, a[0], &t);
        if (st == HLWQ_OK)
            st = hs_jv_print(vm, list->item[i], &t);
    }
    if (st == HLWQ_OK)
        return hs_jv_take(vm, &t, out);
    hs_text_close(&t);
    return st;
}

/* ---- padding ----------------------------------------------------------------------------------- */

static hlwq_status pad(hs_jvm *vm, const hs_jv *a, int where, hs_jv *out)
{
    int64_t n, width = hs_jv_is_whole(a[1]) ? hs_jv_whole(a[1]) : 0;
    hs_jv fill = a[2].type == HS_JV_STRING ? a[2] : hs_jv_text(" "), left, right;
    HS_TRY(hs_jv_length(vm, a[0], &n));
    if (hs_ju_length(fill) != 1)
        return hs_jvm_fail(vm, "the fill character must be exactly one character long");
    int64_t total = width > n ? width - n : 0;
    int64_t before = where < 0 ? 0 : where > 0 ? total : total / 2 + (total & width & 1);
    HS_TRY(hs_jop_binary(vm, '*', fill, hs_jv_int(before), &left));
    HS_TRY(hs_jop_binary(vm, '*', fill, hs_jv_int(total - before), &right));
    HS_TRY(hs_jop_join(vm, left, a[0], out));
    return hs_jop_join(vm, *out, right, out);
}

static hlwq_status m_ljust(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return pad(vm, a, -1, out);
}

static hlwq_status m_rjust(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return pad(vm, a, 1, out);
}

static hlwq_status m_center(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return pad(vm, a, 0, out);
}

static hlwq_status m_zfill(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    bool sign = a[0].bytes && (a[0].text[0] == '-' || a[0].text[0] == '+');
    hs_jv digits = hs_jv_slice(a[0].text + sign, a[0].bytes - sign);
    const hs_jv args[HS_JARGS_MAX] = {digits, hs_jv_int(hs_jv_is_whole(a[1]) ? hs_jv_whole(a[1]) - sign : 0),
                                      hs_jv_text("0")};
    HS_TRY(pad(vm, args, 1, out));
    return sign ? hs_jop_join(vm, hs_jv_slice(a[0].text, 1), *out, out) : HLWQ_OK;
}

/* ---- mappings, lists, loops -------------------------------------------------------------------- */

static hlwq_status d_get(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    HS_TRY(hs_jv_hashable(vm, a[1]));
    const hs_jv *value = hs_jdict_find(vm, a[0].dict, a[1]);
    *out = value ? *value : a[2].type == HS_JV_MISSING ? hs_jv_none() : a[2];
    return HLWQ_OK;
}

static hlwq_status d_items(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return hs_jdict_view(vm, a[0].dict, "dict_items", out);
}

static hlwq_status d_keys(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return hs_jdict_view(vm, a[0].dict, "dict_keys", out);
}

static hlwq_status d_values(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return hs_jdict_view(vm, a[0].dict, "dict_values", out);
}

static hlwq_status same(hs_jvm *vm, const hs_jv *a, hs_jv *out) /* copy(): values do not change */
{
    (void)vm;
    *out = a[0];
    return HLWQ_OK;
}

static hlwq_status l_count(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < a[0].list->n; i++) {
        bool equal;
        HS_TRY(hs_jv_equal(vm, a[0].list->item[i], a[1], &equal));
        n += equal;
    }
    *out = hs_jv_int(n);
    return HLWQ_OK;
}

static hlwq_status l_index(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    for (uint32_t i = 0; i < a[0].list->n; i++) {
        bool equal;
        HS_TRY(hs_jv_equal(vm, a[0].list->item[i], a[1], &equal));
        *out = hs_jv_int(i);
        if (equal)
            return HLWQ_OK;
    }
    return hs_jvm_fail(vm, "the value is not in the list");
}

static hlwq_status loop_cycle(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jloop *l = a[0].loop;
    if (!vm->args->positional)
        return hs_jvm_fail(vm, "no items for cycling given");
    *out = vm->args->item[l->at % vm->args->positional];
    return HLWQ_OK;
}

static hlwq_status loop_changed(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv now;
    bool equal = false;
    HS_TRY(hs_jlist_new(vm, HS_JV_TUPLE, vm->args->positional, &now));
    if (vm->args->positional)
        memcpy(now.list->item, vm->args->item, vm->args->positional * sizeof(hs_jv));
    if (a[0].loop->changed.type != HS_JV_MISSING)
        HS_TRY(hs_jv_equal(vm, a[0].loop->changed, now, &equal));
    a[0].loop->changed = now;
    *out = hs_jv_bool(!equal);
    return HLWQ_OK;
}

const hs_jentry *hs_jinja_method(hs_jv self, const char *name)
{
    static const hs_jentry strings[] = {
        {"capitalize", "", m_capitalize},
        {"casefold", "", m_lower},
        {"center", "width fillchar=", m_center},
        {"count", "sub start= end=", m_count},
        {"endswith", "suffix start= end=", m_endswith},
        {"find", "sub start= end=", m_find},
        {"format", "*", hs_jinja_str_format},
        {"index", "sub start= end=", m_index},
        {"isalnum", "", m_isalnum},
        {"isalpha", "", m_isalpha},
        {"isdecimal", "", m_isdigit},
        {"isdigit", "", m_isdigit},
        {"islower", "", m_islower},
        {"isnumeric", "", m_isdigit},
        {"isspace", "", m_isspace},
        {"isupper", "", m_isupper},
        {"join", "iterable", m_join},
        {"ljust", "width fillchar=", m_ljust},
        {"lower", "", m_lower},
        {"lstrip", "chars=", m_lstrip},
        {"partition", "sep", m_partition},
        {"removeprefix", "prefix", m_removeprefix},
        {"removesuffix", "suffix", m_removesuffix},
        {"replace", "old new count=", m_replace},
        {"rfind", "sub start= end=", m_rfind},
        {"rindex", "sub start= end=", m_rindex},
        {"rjust", "width fillchar=", m_rjust},
        {"rpartition", "sep", m_rpartition},
        {"rsplit", "sep= maxsplit=", m_rsplit},
        {"rstrip", "chars=", m_rstrip},
        {"split", "sep= maxsplit=", m_split},
        {"splitlines", "keepends=", m_splitlines},
        {"startswith", "prefix start= end=", m_startswith},
        {"strip", "chars=", m_strip},
        {"swapcase", "", m_swapcase},
        {"title", "", m_title},
        {"upper", "", m_upper},
        {"zfill", "width", m_zfill},
        {NULL, NULL, NULL},
    };
    static const hs_jentry dicts[] = {
        {"copy", "", same},   {"get", "key default=", d_get}, {"items", "", d_items},
        {"keys", "", d_keys}, {"values", "", d_values},       {NULL, NULL, NULL},
    };
    static const hs_jentry lists[] = {
        {"copy", "", same}, {"count", "value", l_count}, {"index", "value", l_index}, {NULL, NULL, NULL}};
    static const hs_jentry loops[] = {{"cycle", "*", loop_cycle}, {"changed", "*", loop_changed}, {NULL, NULL, NULL}};
    const hs_jentry *table = self.type == HS_JV_STRING                             ? strings
                             : self.type == HS_JV_DICT                             ? dicts
                             : self.type == HS_JV_LOOP                             ? loops
                             : self.type == HS_JV_LIST || self.type == HS_JV_TUPLE ? lists + (self.type == HS_JV_TUPLE)
                                                                                   : NULL;
    return table ? hs_jtable_find(table, name, strlen(name)) : NULL;
}
