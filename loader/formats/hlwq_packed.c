/*
 * loader/formats/hlwq_packed.c - checks the three tensors against each other.
 */
#include "loader/formats/hlwq_packed.h"

#include "base/size.h"

#include <inttypes.h>
#include <string.h>

static bool ends_with(const char *name, size_t n, const char *suffix)
{
    size_t s = strlen(suffix);
    return n > s && memcmp(name + n - s, suffix, s) == 0;
}

bool hs_hlwq_packed_name(const char *name, size_t *base_bytes)
{
    static const char *const suffix[] = {"__packed", "__norms", "__meta"};
    size_t n = strlen(name);
    for (int i = 0; i < 3; i++)
        if (ends_with(name, n, suffix[i])) {
            *base_bytes = n - strlen(suffix[i]);
            return true;
        }
    return false;
}

void hs_hlwq_slice_name(char *name)
{
    size_t n = strlen(name);
    if (ends_with(name, n, ".weight") && strstr(name, "_proj_e")) {
        name[n - 7] = 0;
        return;
    }
    char *slice = strstr(name, ".weight_e");
    if (slice)
        memmove(slice, slice + 7, strlen(slice + 7) + 1);
}

static hlwq_status bad(const hs_hf *hf, const hs_raw *r, const char *why, uint64_t got, uint64_t want, hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s: %s is %" PRIu64 ", should be %" PRIu64, hf->path[r->file],
                   r->entry.name, why, got, want);
}

/* The book of that width, noted as the author's. */
static hlwq_status book_of(hs_hf *hf, uint32_t bits, uint32_t *book, hlwq_error *err)
{
    for (uint32_t i = 0; i < hf->n_books; i++)
        if (hf->book[i].bits == bits) {
            *book = i;
            return HLWQ_OK;
        }
    if (hf->n_books == sizeof hf->book / sizeof *hf->book)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: too many codebooks", hf->dir);
    hf->book[hf->n_books] = (hs_levels){.bits = bits};
    *book = hf->n_books++;
    return HLWQ_OK;
}

hlwq_status hs_hlwq_packed_tensor(hs_hf *hf, const hs_raw *packed, const hs_raw *norms, const hs_raw *meta, hs_tensor *out,
                                  hlwq_error *err)
{
    const hs_st_entry *p = &packed->entry;
    const char *path = hf->path[packed->file];
    if (!norms || !meta)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s has no %s beside it", path, p->name,
                       norms ? "__meta" : "__norms");
    const hs_st_entry *m = &meta->entry, *q = &norms->entry;
    int64_t value[5] = {0};
    if (p->dtype != HS_U8 || p->rank != 1 || q->dtype != HS_F16 || m->dtype != HS_I64 || m->rank != 1 ||
        (m->dim[0] != 4 && m->dim[0] != 5))
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: tensor %.200s and its norms and meta are not U8, F16 and I64 [4 or 5]",
                       path, p->name);
    HS_TRY(hs_file_read(&hf->file[meta->file], m->offset, value, m->bytes, hf->path[meta->file], err));
    uint64_t rows = (uint64_t)value[0], blocks = (uint64_t)value[1], codes, n_norms;
    if (value[2] != HS_BLOCK)
        return bad(hf, meta, "block size", (uint64_t)value[2], HS_BLOCK, err);
    if (value[0] < 1 || value[1] < 1 || !hs_mul_u64(rows, blocks, &n_norms) || !hs_mul_u64(n_norms, HS_BLOCK, &codes))
        return bad(hf, meta, "number of rows", rows, 1, err);
    if ((uint64_t)value[3] != codes)
        return bad(hf, meta, "number of codes", (uint64_t)value[3], codes, err);
    if (q->bytes != n_norms * 2)
        return bad(hf, norms, "size", q->bytes, n_norms * 2, err);
    uint64_t bits = p->bytes / (codes / 8);
    if (bits < 2 || bits > 6 || bits * (codes / 8) != p->bytes)
        return bad(hf, packed, "size", p->bytes, codes / 8 * 5, err);
    if (m->dim[0] == 5 && (value[4] < 1 || hs_ceil_div((uint64_t)value[4], HS_BLOCK) != blocks))
        return bad(hf, meta, "blocks per row", blocks, hs_ceil_div((uint64_t)value[4], HS_BLOCK), err);
    *out = (hs_tensor){.dtype = hs_dtype_of_bits((uint32_t)bits),
                       .encoding = HS_ENC_HLWQ_PACKED,
                       .rank = 2,
                       .dim = {rows, (uint64_t)value[4]},
                       .data = {packed->file, p->offset, p->bytes},
                       .norms = {norms->file, q->offset, q->bytes}};
    if (out->dim[1] == 0)
        out->dim[1] = blocks * HS_BLOCK; /* narrowed when the schema says how wide it is */
    return book_of(hf, (uint32_t)bits, &out->book, err);
}
