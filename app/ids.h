/*
 * app/ids.h - token ids written as decimal numbers.
 */
#ifndef HS_APP_IDS_H
#define HS_APP_IDS_H

#include "base/error.h"

/*
 * Ids separated by white space, each below `vocab` (0 = any int32).  *ids is malloc'ed, never NULL on success.
 * `what` names the text in sentences.
 */
hlwq_status app_parse_ids(const char *text, size_t bytes, const char *what, uint32_t vocab, int32_t **ids,
                          size_t *count, hlwq_error *err);

#endif
