/*
 * model/quantize_text.h - windows of tokens, spread over a text of any size.
 */
#ifndef HS_MODEL_QUANTIZE_TEXT_H
#define HS_MODEL_QUANTIZE_TEXT_H

#include "offload/store.h"

/*
 * At most `most` windows of `window` ids each, one after another in *ids (malloc'ed).  Reads as much of the file as it
 * needs: pieces at equal distances, each from the first white space on.  Fewer where the text is short.
 */
hlwq_status hs_quantize_text(hs_mem *mem, const hs_store *store, const char *path, uint32_t window, uint32_t most,
                             int32_t **ids, uint32_t *windows, hlwq_error *err);

#endif
