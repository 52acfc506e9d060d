/*
 * model/convert_write.h - the extents of a store into a container, one after another, each step ahead of the next.
 */
#ifndef HS_MODEL_CONVERT_WRITE_H
#define HS_MODEL_CONVERT_WRITE_H

#include "model/work.h"
#include "offload/store.h"

/*
 * Writes o->output.  What is needed to go on after an interruption is kept in `work` from time to time; on success it
 * is gone.  The pool makes an extent while what the next ones are made of is being read and those before it are being
 * written.  Adds to *report.
 */
hlwq_status hs_convert_write(hs_store *store, hs_mem *mem, hs_pool *pool, const hlwq_convert_options *o,
                             hlwq_convert_report *report, hlwq_error *err);

/* Compares what a model's file holds with what it was made from, as fp32; HLWQ_ERR_FORMAT where they differ too much.
 */
hlwq_status hs_convert_compare(const hlwq_convert_options *o, hs_mem *mem, hs_pool *pool, const hs_log *log,
                               hlwq_error *err);

#endif
