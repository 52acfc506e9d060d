/*
 * model/quantize_text.c - reads a calibration text in pieces.
 */
#include "model/quantize_text.h"

#include "base/size.h"
#include "model/engine.h"

#include <inttypes.h>
#include <stdlib.h>

enum { BYTES_PER_TOKEN = 16 }; /* as many as a window may need: texts have 3 to 5 */

typedef struct reading {
    const hs_tokenizer *tokenizer;
    const char *path;
    hs_file file;
    uint32_t window, vocab;
    char *piece;
    int32_t *ids;
    uint32_t windows;
} reading;

static hlwq_status read_piece(reading *r, uint64_t offset, uint64_t bytes, hlwq_error *err)
{
    int32_t *ids;
    size_t n;
    uint64_t from = 0;
    HS_TRY(hs_file_read(&r->file, offset, r->piece, bytes, r->path, err));
    while (offset && from < bytes && r->piece[from] != ' ' && r->piece[from] != '\n')
        from++;
    uint64_t end = bytes;
    while (end > from && ((unsigned char)r->piece[end - 1] & 0x80)) /* no half character */
        end--;
    HS_TRY(hs_tokenizer_encode(r->tokenizer, r->piece + from, end - from, false, &ids, &n, err));
    hlwq_status st = HLWQ_OK;
    for (size_t i = 0; i < n && i < r->window; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= r->vocab)
            st = hs_fail(err, HLWQ_ERR_FORMAT, "the tokenizer makes id %" PRId32 ", the vocabulary has %u", ids[i],
                         r->vocab);
    if (st == HLWQ_OK && n >= r->window)
        memcpy(r->ids + (size_t)r->windows++ * r->window, ids, r->window * sizeof *ids);
    free(ids);
    return st;
}

static hlwq_status read_pieces(reading *r, uint32_t most, hlwq_error *err)
{
    uint64_t piece = (uint64_t)r->window * BYTES_PER_TOKEN;
    if (r->file.bytes < piece)
        piece = r->file.bytes;
    r->piece = malloc(piece + 1);
    r->ids = malloc((size_t)most * r->window * sizeof *r->ids);
    if (!r->piece || !r->ids)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for %u windows of text", most);
    /* Windows overlap where the text is too short for so many: then there are fewer. */
    uint64_t step = hs_max_u64(r->file.bytes / most, (uint64_t)r->window * 4);
    for (uint64_t at = 0; at + piece <= r->file.bytes && r->windows < most; at += step)
        HS_TRY(read_piece(r, at, piece, err));
    if (r->windows == 0)
        return hs_fail(err, HLWQ_ERR_ARG, "%s has no %u tokens in a row", r->path, r->window);
    return HLWQ_OK;
}

hlwq_status hs_quantize_text(hs_mem *mem, const hs_store *store, const char *path, uint32_t window, uint32_t most,
                             int32_t **ids, uint32_t *windows, hlwq_error *err)
{
    hs_tokenizer *tokenizer;
    *ids = NULL;
    HS_TRY(hs_store_tokenizer(&tokenizer, mem, store, err));
    if (!tokenizer)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "%s has no tokenizer", hs_store_path(store));
    reading r = {.tokenizer = tokenizer, .path = path, .window = window, .vocab = hs_store_table(store)->config.vocab};
    hlwq_status st = hs_file_open(&r.file, path, err);
    if (st == HLWQ_OK) {
        st = read_pieces(&r, most, err);
        hs_file_close(&r.file);
    }
    hs_tokenizer_free(tokenizer);
    free(r.piece);
    if (st != HLWQ_OK) {
        free(r.ids);
        return st;
    }
    *ids = r.ids;
    *windows = r.windows;
    return HLWQ_OK;
}
