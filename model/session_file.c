/*
 * model/session_file.c - written from front to back, so that a disk that fills up is noticed before the old file goes;
 * read the same way.
 *
 *   header    128 bytes: magic, version, identity, XXH3 of the rest
 *   section   32 bytes: kind, flags, number, 0, bytes; XXH3 of that. Then blocks until `bytes` are there.
 *   block     16 bytes: bytes stored, bytes unpacked, hash; then what is stored: lz4 where that is smaller
 *
 * The hash of a block covers its place as well (section and number), so blocks cannot change places.  The last section
 * is of kind 0 and ends the file.
 */
#include "model/session_file.h"

#include "base/size.h"

#include <inttypes.h>
#include <lz4.h>
#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static const char magic[8] = "HLWQSES\n";

enum { SECTION_BYTES = 32, BLOCK_BYTES = 16, OPTIONAL = 1, BODY = HS_SESSION_HEADER - 8 };

static void put_number(uint8_t *to, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get_number(const uint8_t *from, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)from[i] << 8 * i;
    return v;
}

static uint64_t block_hash(uint32_t section, uint32_t block, uint32_t stored, uint32_t bytes, const void *data)
{
    uint8_t place[24];
    put_number(place, section, 4);
    put_number(place + 4, block, 4);
    put_number(place + 8, stored, 4);
    put_number(place + 12, bytes, 4);
    put_number(place + 16, XXH3_64bits(data, stored), 8);
    return XXH3_64bits(place, sizeof place);
}

static uint64_t packed_bytes(void)
{
    return (uint64_t)LZ4_compressBound(HS_SESSION_BLOCK) + BLOCK_BYTES;
}

uint64_t hs_session_file_bytes(void)
{
    return HS_SESSION_BLOCK + packed_bytes() + 3 * 4096;
}

static hlwq_status buffers(hs_mem *mem, uint8_t **raw, uint8_t **packed, hlwq_error *err)
{
    void *p;
    HS_TRY(hs_mem_alloc(mem, HS_MEM_IO, HS_SESSION_BLOCK + packed_bytes(), "session file buffer", &p, err));
    *raw = p;
    *packed = *raw + HS_SESSION_BLOCK;
    return HLWQ_OK;
}

bool hs_session_file_is(const char *path)
{
    hs_file f;
    char head[sizeof magic] = {0};
    if (hs_file_open(&f, path, NULL) != HLWQ_OK)
        return false;
    bool is = f.bytes >= sizeof head && hs_file_read(&f, 0, head, sizeof head, path, NULL) == HLWQ_OK &&
              memcmp(head, magic, sizeof head) == 0;
    hs_file_close(&f);
    return is;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void fill_header(uint8_t *h, const hs_session_identity *id, uint32_t positions)
{
    memset(h, 0, HS_SESSION_HEADER);
    memcpy(h, magic, sizeof magic);
    put_number(h + 8, HS_SESSION_VERSION, 4);
    put_number(h + 12, positions, 4);
    put_number(h + 16, id->model, 8);
    put_number(h + 24, id->numeric, 4);
    put_number(h + 28, id->device, 4);
    put_number(h + 32, id->kv, 4);
    put_number(h + 36, id->page, 4);
    put_number(h + 40, id->vocab, 4);
    put_number(h + 44, id->layers, 4);
    put_number(h + 48, id->kv_width, 4);
    put_number(h + 56, id->state_bytes, 8);
    put_number(h + BODY, XXH3_64bits(h, BODY), 8);
}

hlwq_status hs_session_create(hs_session_writer *w, hs_mem *mem, const char *path, const hs_session_identity *identity,
                              uint32_t positions, hlwq_error *err)
{
    uint8_t header[HS_SESSION_HEADER];
    *w = (hs_session_writer){.mem = mem, .out = {.fd = -1}};
    HS_TRY(hs_output_open(&w->out, path, true, err));
    hlwq_status st = buffers(mem, &w->raw, &w->packed, err);
    fill_header(header, identity, positions);
    if (st == HLWQ_OK)
        st = hs_output_write(&w->out, header, sizeof header, err);
    if (st != HLWQ_OK)
        hs_session_drop(w);
    return st;
}

static hlwq_status flush(hs_session_writer *w, hlwq_error *err)
{
    uint8_t *head = w->packed;
    int n = LZ4_compress_default((const char *)w->raw, (char *)head + BLOCK_BYTES, (int)w->held,
                                 (int)(packed_bytes() - BLOCK_BYTES));
    uint32_t stored = (uint32_t)n;
    if (n <= 0 || stored >= w->held) {
        stored = w->held;
        memcpy(head + BLOCK_BYTES, w->raw, stored);
    }
    put_number(head, stored, 4);
    put_number(head + 4, w->held, 4);
    put_number(head + 8, block_hash(w->section, w->block, stored, w->held, head + BLOCK_BYTES), 8);
    w->block++;
    w->held = 0;
    return hs_output_write(&w->out, head, BLOCK_BYTES + stored, err);
}

hlwq_status hs_session_begin(hs_session_writer *w, hs_section kind, bool optional, uint64_t bytes, hlwq_error *err)
{
    uint8_t h[SECTION_BYTES] = {0};
    if (w->left || w->held || w->section >= HS_SESSION_SECTIONS_MAX)
        return hs_fail(err, HLWQ_ERR_ARG, "%s: section %u is not complete, or one too many", w->out.path, w->section);
    w->section++;
    w->block = 0;
    w->left = bytes;
    put_number(h, (uint32_t)kind, 4);
    put_number(h + 4, optional ? OPTIONAL : 0, 4);
    put_number(h + 8, w->section, 4);
    put_number(h + 16, bytes, 8);
    put_number(h + 24, XXH3_64bits(h, 24), 8);
    return hs_output_write(&w->out, h, sizeof h, err);
}

void *hs_session_room(hs_session_writer *w, uint64_t *bytes)
{
    *bytes = hs_min_u64(w->left, HS_SESSION_BLOCK - w->held);
    return w->raw + w->held;
}

hlwq_status hs_session_filled(hs_session_writer *w, uint64_t bytes, hlwq_error *err)
{
    w->held += (uint32_t)bytes;
    w->left -= bytes;
    return w->held == HS_SESSION_BLOCK || (!w->left && w->held) ? flush(w, err) : HLWQ_OK;
}

hlwq_status hs_session_put(hs_session_writer *w, const void *data, uint64_t bytes, hlwq_error *err)
{
    const uint8_t *from = data;
    while (bytes) {
        uint64_t room;
        void *to = hs_session_room(w, &room);
        if (!room)
            return hs_fail(err, HLWQ_ERR_ARG, "%s: section %u is longer than was said", w->out.path, w->section);
        uint64_t n = hs_min_u64(bytes, room);
        memcpy(to, from, n);
        HS_TRY(hs_session_filled(w, n, err));
        from += n;
        bytes -= n;
    }
    return HLWQ_OK;
}

hlwq_status hs_session_commit(hs_session_writer *w, hlwq_error *err)
{
    hlwq_status st = hs_session_begin(w, HS_SECTION_END, false, 0, err);
    if (st == HLWQ_OK)
        st = hs_output_commit(&w->out, err);
    hs_session_drop(w);
    return st;
}

void hs_session_drop(hs_session_writer *w)
{
    hs_output_drop(&w->out);
    hs_mem_free(w->mem, w->raw);
    w->raw = w->packed = NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

static hlwq_status damaged(const hs_session_reader *r, hlwq_error *err)
{
    return hs_fail(err, HLWQ_ERR_FORMAT,
                   "%s is damaged: section %u, block %u at byte %" PRIu64 " is not what was written", r->path,
                   r->section, r->block, r->at);
}

/* HLWQ_ERR_FORMAT where the file ends before. */
static hlwq_status read_at(hs_session_reader *r, void *out, uint64_t bytes, hlwq_error *err)
{
    uint64_t end;
    if (!hs_add_u64(r->at, bytes, &end) || end > r->file.bytes)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s is cut short: it ends at byte %" PRIu64 ", in section %u", r->path,
                       r->file.bytes, r->section);
    HS_TRY(hs_file_read(&r->file, r->at, out, bytes, r->path, err));
    r->at = end;
    return HLWQ_OK;
}

static const char *kv_text(uint32_t kv, char out[16])
{
    uint32_t k = kv >> 4 & 15, v = kv & 15;
    if (kv < 16)
        snprintf(out, 16, "%s", kv ? "f32" : "f16");
    else if (k == v)
        snprintf(out, 16, "q%u", k);
    else
        snprintf(out, 16, "k%uv%u", k, v);
    return out;
}

static hlwq_status check_identity(const uint8_t *h, const char *path, const hs_session_identity *id, hlwq_error *err)
{
    char one[16], two[16];
    uint32_t device = (uint32_t)get_number(h + 28, 4), kv = (uint32_t)get_number(h + 32, 4);
    if (get_number(h + 16, 8) != id->model)
        return hs_fail(err, HLWQ_ERR_ARG,
                       "%s was saved with another model (%016" PRIx64 ", this one is %016" PRIx64 ")", path,
                       get_number(h + 16, 8), id->model);
    if (get_number(h + 24, 4) != id->numeric)
        return hs_fail(
            err, HLWQ_ERR_UNSUPPORTED,
            "%s was saved by a program that computes in another way (%u, this one is %u): it would not go on "
            "with the same tokens",
            path, (uint32_t)get_number(h + 24, 4), id->numeric);
    if (device != id->device)
        return hs_fail(err, HLWQ_ERR_ARG, "%s was saved with --device %s%s, this is --device %s%s", path,
                       device & 1 ? "cuda" : "cpu", device & 16 ? " --exact" : "", id->device & 1 ? "cuda" : "cpu",
                       id->device & 16 ? " --exact" : "");
    if (kv != id->kv)
        return hs_fail(err, HLWQ_ERR_ARG, "%s was saved with --kv %s, this is --kv %s", path, kv_text(kv, one),
                       kv_text(id->kv, two));
    if (get_number(h + 36, 4) != id->page || get_number(h + 40, 4) != id->vocab ||
        get_number(h + 44, 4) != id->layers || get_number(h + 48, 4) != id->kv_width ||
        get_number(h + 56, 8) != id->state_bytes)
        return hs_fail(err, HLWQ_ERR_ARG, "%s was saved with a model of another shape", path);
    return HLWQ_OK;
}

static hlwq_status read_header(hs_session_reader *r, const hs_session_identity *identity, hlwq_error *err)
{
    uint8_t h[HS_SESSION_HEADER] = {0};
    HS_TRY(hs_file_read(&r->file, 0, h, hs_min_u64(sizeof h, r->file.bytes), r->path, err));
    if (memcmp(h, magic, sizeof magic) != 0)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s is not a session", r->path);
    uint32_t version = (uint32_t)get_number(h + 8, 4);
    if (version > HS_SESSION_VERSION)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "%s is a session of version %u, this program reads up to %d; a newer one is needed", r->path,
                       version, HS_SESSION_VERSION);
    r->at = 0;
    HS_TRY(read_at(r, h, sizeof h, err));
    if (get_number(h + BODY, 8) != XXH3_64bits(h, BODY) || version == 0)
        return damaged(r, err);
    r->tokens = (uint32_t)get_number(h + 12, 4);
    return check_identity(h, r->path, identity, err);
}

hlwq_status hs_session_open_file(hs_session_reader *r, hs_mem *mem, const char *path,
                                 const hs_session_identity *identity, hlwq_error *err)
{
    *r = (hs_session_reader){.mem = mem, .file = {.fd = -1}, .path = path};
    HS_TRY(hs_file_open(&r->file, path, err));
    hlwq_status st = read_header(r, identity, err);
    if (st == HLWQ_OK)
        st = buffers(mem, &r->raw, &r->packed, err);
    if (st != HLWQ_OK)
        hs_session_close_file(r);
    return st;
}

void hs_session_close_file(hs_session_reader *r)
{
    if (!r->path)
        return;
    hs_file_close(&r->file);
    hs_mem_free(r->mem, r->raw);
    *r = (hs_session_reader){.file = {.fd = -1}};
}

void hs_session_rewind(hs_session_reader *r)
{
    r->at = HS_SESSION_HEADER;
    r->section = r->block = 0;
    r->left = 0;
}

hlwq_status hs_session_block(hs_session_reader *r, const void **data, uint64_t *bytes, hlwq_error *err)
{
    uint8_t head[BLOCK_BYTES];
    *data = r->raw;
    *bytes = 0;
    if (!r->left)
        return HLWQ_OK;
    uint64_t at = r->at;
    HS_TRY(read_at(r, head, sizeof head, err));
    uint32_t stored = (uint32_t)get_number(head, 4), raw = (uint32_t)get_number(head + 4, 4);
    if (raw == 0 || raw > hs_min_u64(r->left, HS_SESSION_BLOCK) || stored == 0 || stored > raw) {
        r->at = at;
        return damaged(r, err);
    }
    HS_TRY(read_at(r, r->packed, stored, err));
    bool whole = get_number(head + 8, 8) == block_hash(r->section, r->block, stored, raw, r->packed);
    if (whole && stored == raw)
        memcpy(r->raw, r->packed, raw);
    else if (whole)
        whole = LZ4_decompress_safe((const char *)r->packed, (char *)r->raw, (int)stored, (int)raw) == (int)raw;
    if (!whole) {
        r->at = at;
        return damaged(r, err);
    }
    r->block++;
    r->left -= raw;
    *bytes = raw;
    return HLWQ_OK;
}

static hlwq_status skip_rest(hs_session_reader *r, hlwq_error *err)
{
    const void *data;
    uint64_t bytes;
    while (r->left)
        HS_TRY(hs_session_block(r, &data, &bytes, err));
    return HLWQ_OK;
}

hlwq_status hs_session_section(hs_session_reader *r, hs_section *kind, uint64_t *bytes, hlwq_error *err)
{
    for (;;) {
        uint8_t h[SECTION_BYTES];
        HS_TRY(skip_rest(r, err));
        r->section++;
        r->block = 0;
        uint64_t at = r->at;
        HS_TRY(read_at(r, h, sizeof h, err));
        if (get_number(h + 24, 8) != XXH3_64bits(h, 24) || get_number(h + 8, 4) != r->section ||
            r->section > HS_SESSION_SECTIONS_MAX + 1) {
            r->at = at;
            return damaged(r, err);
        }
        uint32_t k = (uint32_t)get_number(h, 4), flags = (uint32_t)get_number(h + 4, 4);
        *bytes = r->left = get_number(h + 16, 8);
        *kind = (hs_section)k;
        if (k == HS_SECTION_END) {
            if (r->at != r->file.bytes || r->left)
                return hs_fail(err, HLWQ_ERR_FORMAT, "%s is damaged: %" PRIu64 " bytes follow its end", r->path,
                               r->file.bytes - r->at);
            return hs_file_unchanged(&r->file, r->path, err);
        }
        if (k < HS_SECTION_COUNT)
            return HLWQ_OK;
        if (!(flags & OPTIONAL))
            return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                           "%s has a part of kind %u that this program does not know; a newer one is needed", r->path,
                           k);
    }
}

hlwq_status hs_session_take(hs_session_reader *r, void *out, uint64_t bytes, hlwq_error *err)
{
    const void *data;
    uint64_t n;
    if (r->left < bytes || bytes > HS_SESSION_BLOCK)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: section %u has %" PRIu64 " bytes and must have %" PRIu64, r->path,
                       r->section, r->left, bytes);
    HS_TRY(hs_session_block(r, &data, &n, err));
    if (n != bytes)
        return hs_fail(err, HLWQ_ERR_FORMAT, "%s: section %u begins with %" PRIu64 " bytes, not %" PRIu64, r->path,
                       r->section, n, bytes);
    memcpy(out, data, bytes);
    return HLWQ_OK;
}
