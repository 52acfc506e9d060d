/*
 * model/jinja_dict.c - dictionaries: keys in the order they came, found by hash once there are more than a few.
 */
#include "model/jinja_private.h"

enum { INDEX_FROM = 12 }; /* more keys have an index */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

/* Equal keys have equal hashes: 1, 1.0 and true are one key. */
static uint64_t hash(hs_jv v)
{
    uint64_t h = 0xCBF29CE484222325u;
    switch ((hs_jv_type)v.type) {
    case HS_JV_BOOL:
    case HS_JV_INT: return mix(h, (uint64_t)hs_jv_whole(v));
    case HS_JV_FLOAT:
        if (v.real >= -9e18 && v.real <= 9e18 && v.real == (double)(int64_t)v.real)
            return mix(h, (uint64_t)(int64_t)v.real);
        memcpy(&h, &v.real, sizeof h);
        return mix(1, h);
    case HS_JV_STRING:
        for (uint32_t i = 0; i < v.bytes; i++)
            h = (h ^ (unsigned char)v.text[i]) * 0x100000001B3u;
        return mix(h, v.bytes);
    case HS_JV_TUPLE:
        for (uint32_t i = 0; i < v.list->n && i < 4; i++)
            h = mix(h, v.list->item[i].type == HS_JV_TUPLE ? 7 : hash(v.list->item[i]));
        return h;
    default: return h;
    }
}

hlwq_status hs_jv_hashable(hs_jvm *vm, hs_jv v)
{
    if (v.type == HS_JV_LIST || v.type == HS_JV_DICT || v.type == HS_JV_VIEW)
        return hs_jvm_fail(vm, "unhashable type: '%s'", hs_jv_type_name(v));
    if (v.type != HS_JV_TUPLE)
        return HLWQ_OK;
    HS_TRY(hs_jvm_enter(vm));
    hlwq_status st = HLWQ_OK;
    for (uint32_t i = 0; i < v.list->n && st == HLWQ_OK; i++)
        st = hs_jv_hashable(vm, v.list->item[i]);
    vm->depth--;
    return st;
}

static void index_key(hs_jdict *d, uint32_t at)
{
    uint32_t slot = (uint32_t)hash(d->key[at]) & (d->slots - 1);
    while (d->index[slot])
        slot = (slot + 1) & (d->slots - 1);
    d->index[slot] = at + 1;
}

static hlwq_status grow(hs_jvm *vm, hs_jdict *d, uint32_t capacity)
{
    void *key, *value, *slots;
    HS_TRY(hs_jvm_step(vm, 1 + capacity / 4));
    HS_TRY(hs_jvm_alloc(vm, capacity, sizeof(hs_jv), &key));
    HS_TRY(hs_jvm_alloc(vm, capacity, sizeof(hs_jv), &value));
    if (d->n) {
        memcpy(key, d->key, d->n * sizeof(hs_jv));
        memcpy(value, d->value, d->n * sizeof(hs_jv));
    }
    d->key = key;
    d->value = value;
    d->capacity = capacity;
    if (capacity <= INDEX_FROM)
        return HLWQ_OK;
    uint32_t n = 32;
    while (n < capacity * 2)
        n *= 2;
    HS_TRY(hs_jvm_alloc(vm, n, sizeof(uint32_t), &slots));
    d->index = slots;
    d->slots = n;
    for (uint32_t i = 0; i < d->n; i++)
        index_key(d, i);
    return HLWQ_OK;
}

hlwq_status hs_jdict_new(hs_jvm *vm, uint32_t capacity, hs_jv *out)
{
    void *d;
    HS_TRY(hs_jvm_alloc(vm, 1, sizeof(hs_jdict), &d));
    *out = (hs_jv){.type = HS_JV_DICT, .dict = d};
    return capacity ? grow(vm, d, capacity) : HLWQ_OK;
}

/* Keys are compared without the depth and step limits of hs_jv_equal: both are known to be hashable. */
static bool same_key(hs_jvm *vm, hs_jv a, hs_jv b)
{
    bool equal;
    if (a.type == HS_JV_STRING && b.type == HS_JV_STRING)
        return a.bytes == b.bytes && memcmp(a.text, b.text, a.bytes) == 0;
    hlwq_error *err = vm->err;
    vm->err = NULL;
    bool same = hs_jv_equal(vm, a, b, &equal) == HLWQ_OK && equal;
    vm->err = err;
    return same;
}

hs_jv *hs_jdict_find(hs_jvm *vm, const hs_jdict *d, hs_jv key)
{
    if (key.type == HS_JV_STRING)
        vm->fuel -= key.bytes / 32; /* paid here; the next step notices */
    if (!d->slots) {
        for (uint32_t i = 0; i < d->n; i++)
            if (same_key(vm, d->key[i], key))
                return &d->value[i];
        return NULL;
    }
    for (uint32_t slot = (uint32_t)hash(key) & (d->slots - 1); d->index[slot]; slot = (slot + 1) & (d->slots - 1)) {
        vm->fuel--; /* keys made to collide pay for it */
        if (same_key(vm, d->key[d->index[slot] - 1], key))
            return &d->value[d->index[slot] - 1];
    }
    return NULL;
}

hlwq_status hs_jdict_put(hs_jvm *vm, hs_jdict *d, hs_jv key, hs_jv value)
{
    hs_jv *old = hs_jdict_find(vm, d, key);
    HS_TRY(hs_jvm_step(vm, 1));
    if (old) {
        *old = value;
        return HLWQ_OK;
    }
    if (d->n == d->capacity)
        HS_TRY(grow(vm, d, d->capacity ? d->capacity * 2 : 4));
    d->key[d->n] = key;
    d->value[d->n] = value;
    if (d->slots)
        index_key(d, d->n);
    d->n++;
    return HLWQ_OK;
}

hlwq_status hs_jdict_view(hs_jvm *vm, const hs_jdict *d, const char *name, hs_jv *out)
{
    HS_TRY(hs_jlist_new(vm, HS_JV_VIEW, d->n, out));
    out->list->name = name;
    for (uint32_t i = 0; i < d->n; i++) {
        hs_jv *item = &out->list->item[i];
        if (strcmp(name, "dict_items") != 0) {
            *item = strcmp(name, "dict_keys") == 0 ? d->key[i] : d->value[i];
            continue;
        }
        HS_TRY(hs_jlist_new(vm, HS_JV_TUPLE, 2, item));
        item->list->item[0] = d->key[i];
        item->list->item[1] = d->value[i];
    }
    return HLWQ_OK;
}
