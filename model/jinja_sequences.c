/*
 * model/jinja_sequences.c - filters that run through a value: sorting, choosing, mapping, joining.
 */
#include "model/jinja_private.h"

#include <inttypes.h>

/* "a.b.0" of an item, the parts that are numbers as indexes. */
hlwq_status hs_jinja_path(hs_jvm *vm, hs_jv item, hs_jv path, hs_jv *out)
{
    *out = item;
    if (path.type != HS_JV_STRING)
        return hs_jop_item(vm, item, path, out);
    for (uint32_t at = 0; at <= path.bytes;) {
        uint32_t end = at;
        bool number = true;
        for (; end < path.bytes && path.text[end] != '.'; end++)
            number &= path.text[end] >= '0' && path.text[end] <= '9';
        hs_jv part = hs_jv_slice(path.text + at, end - at);
        if (number && end > at) {
            bool ok;
            int64_t index;
            HS_TRY(hs_ju_parse_int(vm, part, 10, &ok, &index));
            part = hs_jv_int(index);
        }
        HS_TRY(hs_jop_item(vm, *out, part, out));
        at = end + 1;
    }
    return HLWQ_OK;
}

/* The value of an item that is sorted or compared: its attribute, without case unless that matters. */
static hlwq_status key_of(hs_jvm *vm, hs_jv item, hs_jv path, bool case_sensitive, hs_jv *out)
{
    *out = item;
    if (path.type > HS_JV_NONE)
        HS_TRY(hs_jinja_path(vm, item, path, out));
    if (!case_sensitive && out->type == HS_JV_STRING)
        return hs_ju_case(vm, *out, HS_JCASE_LOWER, out);
    return HLWQ_OK;
}

/* ---- sorting ----------------------------------------------------------------------------------- */

typedef struct sorted {
    hs_jv key, item;
} sorted;

/* Stable; `n` items from `a`, with `spare` of the same size. */
static hlwq_status merge_sort(hs_jvm *vm, sorted *a, sorted *spare, uint32_t n, bool reverse)
{
    if (n < 2)
        return HLWQ_OK;
    uint32_t half = n / 2, left = 0, right = half;
    HS_TRY(merge_sort(vm, a, spare, half, reverse));
    HS_TRY(merge_sort(vm, a + half, spare, n - half, reverse));
    for (uint32_t i = 0; i < n; i++) {
        bool take_right = left == half;
        if (left < half && right < n) {
            int order;
            HS_TRY(hs_jv_order(vm, a[right].key, a[left].key, "<", &order));
            take_right = reverse ? order == 1 : order == -1;
        }
        spare[i] = take_right ? a[right++] : a[left++];
    }
    memcpy(a, spare, n * sizeof *a);
    return HLWQ_OK;
}

static hlwq_status sort_list(hs_jvm *vm, const hs_jlist *list, const hs_jv *keys, bool reverse, hs_jv *out)
{
    void *a, *spare;
    HS_TRY(hs_jvm_alloc(vm, list->n, sizeof(sorted), &a));
    HS_TRY(hs_jvm_alloc(vm, list->n, sizeof(sorted), &spare));
    for (uint32_t i = 0; i < list->n; i++)
        ((sorted *)a)[i] = (sorted){keys[i], list->item[i]};
    HS_TRY(merge_sort(vm, a, spare, list->n, reverse));
    HS_TRY(hs_jlist_new(vm, HS_JV_LIST, list->n, out));
    for (uint32_t i = 0; i < list->n; i++)
        out->list->item[i] = ((sorted *)a)[i].item;
    return HLWQ_OK;
}

/* "a,b" sorts by a, then b: keys are lists. */
static hlwq_status sort_key(hs_jvm *vm, hs_jv item, hs_jv path, bool case_sensitive, hs_jv *out)
{
    if (path.type != HS_JV_STRING || !memchr(path.text, ',', path.bytes))
        return key_of(vm, item, path, case_sensitive, out);
    hs_jbuild build = {0};
    for (uint32_t at = 0; at <= path.bytes;) {
        hs_jv rest = hs_jv_slice(path.text + at, path.bytes - at), key;
        int64_t comma = hs_ju_find(rest.text, rest.bytes, ",", 1);
        uint32_t n = comma < 0 ? rest.bytes : (uint32_t)comma;
        HS_TRY(key_of(vm, item, hs_jv_slice(rest.text, n), case_sensitive, &key));
        HS_TRY(hs_jbuild_add(vm, &build, key));
        at += n + 1;
    }
    return hs_jbuild_done(vm, &build, HS_JV_LIST, out);
}

static hlwq_status f_sort(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    void *keys;
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    HS_TRY(hs_jvm_alloc(vm, list->n, sizeof(hs_jv), &keys));
    for (uint32_t i = 0; i < list->n; i++)
        HS_TRY(sort_key(vm, list->item[i], a[3], hs_jv_truth(a[2]), (hs_jv *)keys + i));
    return sort_list(vm, list, keys, hs_jv_truth(a[1]), out);
}

static hlwq_status f_dictsort(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv items;
    void *keys;
    bool by_value = hs_jv_is(a[2], "value");
    if (a[0].type != HS_JV_DICT)
        return hs_jvm_fail(vm, "dictsort needs a mapping, not %s", hs_jv_type_name(a[0]));
    if (a[2].type != HS_JV_MISSING && !by_value && !hs_jv_is(a[2], "key"))
        return hs_jvm_fail(vm, "You can only sort by either \"key\" or \"value\"");
    HS_TRY(hs_jdict_view(vm, a[0].dict, "dict_items", &items));
    HS_TRY(hs_jvm_alloc(vm, items.list->n, sizeof(hs_jv), &keys));
    for (uint32_t i = 0; i < items.list->n; i++)
        HS_TRY(
            key_of(vm, items.list->item[i].list->item[by_value], hs_jv_none(), hs_jv_truth(a[1]), (hs_jv *)keys + i));
    return sort_list(vm, items.list, keys, hs_jv_truth(a[3]), out);
}

static hlwq_status extreme(hs_jvm *vm, const hs_jv *a, int wanted, hs_jv *out)
{
    const hs_jlist *list;
    hs_jv best = {0}, key;
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    if (!list->n)
        return hs_jv_undefined(vm, out, "No aggregated item, sequence was empty.");
    for (uint32_t i = 0; i < list->n; i++) {
        int order = wanted;
        HS_TRY(key_of(vm, list->item[i], a[2], hs_jv_truth(a[1]), &key));
        if (i)
            HS_TRY(hs_jv_order(vm, key, best, wanted < 0 ? "<" : ">", &order));
        if (order != wanted)
            continue;
        best = key;
        *out = list->item[i];
    }
    return HLWQ_OK;
}

static hlwq_status f_min(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return extreme(vm, a, -1, out);
}

static hlwq_status f_max(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return extreme(vm, a, 1, out);
}

static hlwq_status f_unique(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    hs_jv seen, key;
    hs_jbuild build = {0};
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    HS_TRY(hs_jdict_new(vm, 0, &seen));
    for (uint32_t i = 0; i < list->n; i++) {
        HS_TRY(key_of(vm, list->item[i], a[2], hs_jv_truth(a[1]), &key));
        HS_TRY(hs_jv_hashable(vm, key));
        if (hs_jdict_find(vm, seen.dict, key))
            continue;
        HS_TRY(hs_jdict_put(vm, seen.dict, key, hs_jv_none()));
        HS_TRY(hs_jbuild_add(vm, &build, list->item[i]));
    }
    return hs_jbuild_done(vm, &build, HS_JV_ITERATOR, out);
}

static hlwq_status f_groupby(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    hs_jv order[HS_JARGS_MAX] = {a[0], hs_jv_bool(false), a[3], a[1]}, list, key, last = {0};
    hs_jbuild groups = {0}, group = {0};
    hs_jv pair = {0};
    HS_TRY(f_sort(vm, order, &list));
    for (uint32_t i = 0; i <= list.list->n; i++) {
        bool same = false;
        if (i < list.list->n) {
            HS_TRY(key_of(vm, list.list->item[i], a[1], hs_jv_truth(a[3]), &key));
            if (i)
                HS_TRY(hs_jv_equal(vm, key, last, &same));
        }
        if (!same && i) {
            HS_TRY(hs_jbuild_done(vm, &group, HS_JV_LIST, &pair.list->item[1]));
            HS_TRY(hs_jbuild_add(vm, &groups, pair));
            group = (hs_jbuild){0};
        }
        if (i == list.list->n)
            break;
        if (!same) {
            HS_TRY(hs_jlist_new(vm, HS_JV_TUPLE, 2, &pair));
            HS_TRY(hs_jinja_path(vm, list.list->item[i], a[1], &pair.list->item[0]));
        }
        HS_TRY(hs_jbuild_add(vm, &group, list.list->item[i]));
        last = key;
    }
    return hs_jbuild_done(vm, &groups, HS_JV_LIST, out);
}

/* ---- ends, order, pieces ----------------------------------------------------------------------- */

static hlwq_status f_first(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    if (a[0].type == HS_JV_ITERATOR && a[0].list->taken < a[0].list->n) {
        *out = a[0].list->item[a[0].list->taken++];
        return HLWQ_OK;
    }
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    if (!list->n)
        return hs_jv_undefined(vm, out, "No first item, sequence was empty.");
    *out = list->item[0];
    return HLWQ_OK;
}

static hlwq_status f_last(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    if (a[0].type == HS_JV_ITERATOR)
        return hs_jvm_fail(vm, "'generator' object is not reversible");
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    if (!list->n)
        return hs_jv_undefined(vm, out, "No last item, sequence was empty.");
    *out = list->item[list->n - 1];
    return HLWQ_OK;
}

static hlwq_status f_list(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return hs_jv_list(vm, a[0], HS_JV_LIST, out);
}

static hlwq_status f_reverse(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    if (a[0].type == HS_JV_STRING)
        return hs_jop_slice(vm, a[0], hs_jv_none(), hs_jv_none(), hs_jv_int(-1), out);
    HS_TRY(hs_jv_list(vm, a[0], HS_JV_ITERATOR, out));
    hs_jlist *l = out->list;
    for (uint32_t i = 0; i < l->n / 2; i++) {
        hs_jv t = l->item[i];
        l->item[i] = l->item[l->n - 1 - i];
        l->item[l->n - 1 - i] = t;
    }
    return HLWQ_OK;
}

static hlwq_status f_batch(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    hs_jbuild rows = {0}, row = {0};
    hs_jv made;
    if (!hs_jv_is_whole(a[1]) || hs_jv_whole(a[1]) < 1)
        return hs_jvm_fail(vm, "batch needs a number of at least 1");
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    for (uint32_t i = 0; i < list->n; i++) {
        HS_TRY(hs_jbuild_add(vm, &row, list->item[i]));
        bool last = i + 1 == list->n;
        while (last && a[2].type > HS_JV_NONE && row.n < hs_jv_whole(a[1]))
            HS_TRY(hs_jbuild_add(vm, &row, a[2]));
        if (!last && row.n < hs_jv_whole(a[1]))
            continue;
        HS_TRY(hs_jbuild_done(vm, &row, HS_JV_LIST, &made));
        HS_TRY(hs_jbuild_add(vm, &rows, made));
        row = (hs_jbuild){0};
    }
    return hs_jbuild_done(vm, &rows, HS_JV_ITERATOR, out);
}

static hlwq_status f_slice(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    hs_jbuild columns = {0};
    if (!hs_jv_is_whole(a[1]) || hs_jv_whole(a[1]) < 1 || hs_jv_whole(a[1]) > 1000000)
        return hs_jvm_fail(vm, "slice needs a number from 1 to 1000000");
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    uint32_t n = (uint32_t)hs_jv_whole(a[1]), each = list->n / n, more = list->n % n, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        hs_jbuild column = {0};
        hs_jv made;
        for (uint32_t k = 0; k < each + (i < more); k++)
            HS_TRY(hs_jbuild_add(vm, &column, list->item[at++]));
        if (i >= more && a[2].type > HS_JV_NONE)
            HS_TRY(hs_jbuild_add(vm, &column, a[2]));
        HS_TRY(hs_jbuild_done(vm, &column, HS_JV_LIST, &made));
        HS_TRY(hs_jbuild_add(vm, &columns, made));
    }
    return hs_jbuild_done(vm, &columns, HS_JV_ITERATOR, out);
}

static hlwq_status f_sum(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    *out = a[2].type == HS_JV_MISSING ? hs_jv_int(0) : a[2];
    if (out->type == HS_JV_STRING)
        return hs_jvm_fail(vm, "sum() can't sum strings [use ''.join(seq) instead]");
    for (uint32_t i = 0; i < list->n; i++) {
        hs_jv item = list->item[i];
        if (a[1].type > HS_JV_NONE)
            HS_TRY(hs_jinja_path(vm, item, a[1], &item));
        HS_TRY(hs_jop_binary(vm, '+', *out, item, out));
    }
    return HLWQ_OK;
}

static hlwq_status f_join(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jlist *list;
    hs_jv by = hs_jv_text("");
    hs_text t = {0};
    hlwq_status st = HLWQ_OK;
    HS_TRY(hs_jv_iterate(vm, a[0], &list));
    if (a[1].type != HS_JV_MISSING)
        HS_TRY(hs_jv_str(vm, a[1], &by));
    for (uint32_t i = 0; i < list->n && st == HLWQ_OK; i++) {
        hs_jv item = list->item[i];
        if (i)
            st = hs_jv_print(vm, by, &t);
        if (st == HLWQ_OK && a[2].type > HS_JV_NONE)
            st = hs_jinja_path(vm, item, a[2], &item);
        if (st == HLWQ_OK)
            st = hs_jv_print(vm, item, &t);
    }
    if (st == HLWQ_OK)
        return hs_jv_take(vm, &t, out);
    hs_text_close(&t);
    return st;
}

/* ---- map, select and their like ---------------------------------------------------------------- */

/* The arguments of the filter or test that is the `skip`th argument here. */
static hs_jargs rest(const hs_jargs *args, uint32_t skip)
{
    if (args->n == skip)
        return (hs_jargs){0};
    return (hs_jargs){args->item + skip, args->name + skip, args->n - skip, args->positional - skip};
}

/* map(attribute='a.b', default=x). */
static hlwq_status map_attribute(hs_jvm *vm, const hs_jlist *list, const hs_jargs *args, hs_jv *out)
{
    hs_jv path = {0}, fallback = {0};
    hs_jbuild build = {0};
    for (uint32_t i = 0; i < args->n; i++) {
        if (strcmp(args->name[i], "attribute") == 0)
            path = args->item[i];
        else if (strcmp(args->name[i], "default") == 0)
            fallback = args->item[i];
        else
            return hs_jvm_fail(vm, "Unexpected keyword argument '%s'", args->name[i]);
    }
    if (path.type == HS_JV_MISSING && list->n)
        return hs_jvm_fail(vm, "map requires a filter argument");
    for (uint32_t i = 0; i < list->n; i++) {
        hs_jv item = list->item[i];
        if (path.type != HS_JV_NONE)
            HS_TRY(hs_jinja_path(vm, item, path, &item));
        if (item.type == HS_JV_UNDEFINED && fallback.type > HS_JV_NONE)
            item = fallback;
        HS_TRY(hs_jbuild_add(vm, &build, item));
    }
    return hs_jbuild_done(vm, &build, HS_JV_ITERATOR, out);
}

/* What falsehood runs through here is nothing, whatever it is. */
static hlwq_status iterate_true(hs_jvm *vm, hs_jv v, const hs_jlist **list)
{
    static const hs_jlist empty;
    *list = &empty;
    return hs_jv_truth(v) ? hs_jv_iterate(vm, v, list) : HLWQ_OK;
}

static hlwq_status f_map(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    const hs_jargs *args = vm->args;
    const hs_jlist *list;
    HS_TRY(iterate_true(vm, a[0], &list));
    if (!args->positional)
        return map_attribute(vm, list, args, out);
    hs_jv name = args->item[0];
    const hs_jentry *filter = name.type == HS_JV_STRING ? hs_jinja_filter(name.text, name.bytes) : NULL;
    hs_jargs more = rest(args, 1);
    hs_jbuild build = {0};
    if (!filter && list->n)
        return hs_jvm_fail(vm, "no filter named '%.*s'", name.type == HS_JV_STRING ? (int)name.bytes : 0, name.text);
    for (uint32_t i = 0; i < list->n; i++) {
        hs_jv item;
        HS_TRY(hs_jcall_entry(vm, filter, list->item[i], &more, &item));
        HS_TRY(hs_jbuild_add(vm, &build, item));
    }
    return hs_jbuild_done(vm, &build, HS_JV_ITERATOR, out);
}

static hlwq_status choose(hs_jvm *vm, hs_jv value, bool by_attribute, bool wanted, hs_jv *out)
{
    const hs_jargs *args = vm->args;
    const hs_jlist *list;
    const hs_jentry *test = NULL;
    uint32_t skip = by_attribute;
    hs_jbuild build = {0};
    HS_TRY(iterate_true(vm, value, &list));
    if (args->positional < skip)
        return hs_jvm_fail(vm, "Missing parameter for attribute name");
    if (args->positional > skip) {
        hs_jv name = args->item[skip++];
        test = name.type == HS_JV_STRING ? hs_jinja_test(name.text, name.bytes) : NULL;
        if (!test && list->n)
            return hs_jvm_fail(vm, "no test named '%.*s'", name.type == HS_JV_STRING ? (int)name.bytes : 0, name.text);
    }
    hs_jargs more = rest(args, skip);
    for (uint32_t i = 0; i < list->n; i++) {
        hs_jv item = list->item[i], holds;
        if (by_attribute)
            HS_TRY(hs_jinja_path(vm, item, args->item[0], &item));
        holds = item;
        if (test)
            HS_TRY(hs_jcall_entry(vm, test, item, &more, &holds));
        if (hs_jv_truth(holds) == wanted)
            HS_TRY(hs_jbuild_add(vm, &build, list->item[i]));
    }
    return hs_jbuild_done(vm, &build, HS_JV_ITERATOR, out);
}

static hlwq_status f_select(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return choose(vm, a[0], false, true, out);
}

static hlwq_status f_reject(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return choose(vm, a[0], false, false, out);
}

static hlwq_status f_selectattr(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return choose(vm, a[0], true, true, out);
}

static hlwq_status f_rejectattr(hs_jvm *vm, const hs_jv *a, hs_jv *out)
{
    return choose(vm, a[0], true, false, out);
}

const hs_jentry hs_jinja_sequence_filters[] = {
    {"batch", "linecount fill_with=", f_batch},
    {"dictsort", "case_sensitive= by= reverse=", f_dictsort},
    {"first", "", f_first},
    {"groupby", "attribute default= case_sensitive=", f_groupby},
    {"join", "d= attribute=", f_join},
    {"last", "", f_last},
    {"list", "", f_list},
    {"map", "*", f_map},
    {"max", "case_sensitive= attribute=", f_max},
    {"min", "case_sensitive= attribute=", f_min},
    {"reject", "*", f_reject},
    {"rejectattr", "*", f_rejectattr},
    {"reverse", "", f_reverse},
    {"select", "*", f_select},
    {"selectattr", "*", f_selectattr},
    {"slice", "slices fill_with=", f_slice},
    {"sort", "reverse= case_sensitive= attribute=", f_sort},
    {"sum", "attribute= start=", f_sum},
    {"unique", "case_sensitive= attribute=", f_unique},
    {NULL, NULL, NULL},
};
