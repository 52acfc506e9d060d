/*
 * model/image.h - what a text of n tokens has left in a network, as pieces of memory in a fixed order.
 *
 * First the DeltaNet states; then, page by page and in it layer by layer, keys and values in the one form that the next
 * token will read them in: codes, or as they came.  Pieces lie in the backend's memory.
 */
#ifndef HS_MODEL_IMAGE_H
#define HS_MODEL_IMAGE_H

#include "model/network.h"

typedef struct hs_image {
    const hs_states *states;
    uint32_t tokens, layers;           /* layers with attention */
    uint32_t coded, pages;             /* of a layer: in codes; in all */
    uint32_t first_page;               /* pages before it are left out */
    uint64_t plain_bytes, coded_bytes; /* of a page */
} hs_image;

typedef struct hs_piece {
    void *at; /* NULL: away (hs_states_away) */
    uint64_t bytes;
    uint32_t layer, page;
} hs_piece;

/* All of it; with `tail_only`, without the pages that stay as they are when a text goes on. */
hs_image hs_image_of(const hs_states *states, uint32_t tokens, bool tail_only);

uint64_t hs_image_pieces(const hs_image *image);
hs_piece hs_image_piece(const hs_image *image, uint64_t i);
uint64_t hs_image_bytes(const hs_image *image);

/* From or to `bytes` bytes of a piece, wherever it is. */
hlwq_status hs_image_get(const hs_image *image, const hs_piece *piece, uint64_t offset, void *to, uint64_t bytes,
                         hlwq_error *err);
hlwq_status hs_image_put(const hs_image *image, const hs_piece *piece, uint64_t offset, const void *from,
                         uint64_t bytes, hlwq_error *err);

#endif
