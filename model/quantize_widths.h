/*
 * model/quantize_widths.h - how many bits each matrix gets.
 */
#ifndef HS_MODEL_QUANTIZE_WIDTHS_H
#define HS_MODEL_QUANTIZE_WIDTHS_H

#include "model/quantize.h"

/*
 * For whole --bits nothing changes.  Else a trial measures what matters (model/sensitivity.h), and `p` asks for the
 * widths that q->width then holds.  The widths are saved with the run.
 */
hlwq_status hs_quantize_widths(hs_quantize *q, hs_precision *p, const int32_t *ids, uint32_t windows, hlwq_error *err);

/* Hash of the sizes and times of the checkpoint's files. */
hlwq_status hs_quantize_source_key(const char *folder, uint64_t *key, hlwq_error *err);

#endif
