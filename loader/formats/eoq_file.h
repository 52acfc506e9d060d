/*
 * loader/formats/eoq_file.h - .eoq files: all tensors of a model in one file, absmax codes that are entropy-coded.
 *
 * Config, tokenizer and template are what a model directory has, beside the file.  Each tensor has a scale a block of
 * weights in row-major order, and the codes of its weights as a stream of blocks that are decoded by themselves, so
 * rows are read as of any other format: nothing is decoded as a whole, nor kept.  (Format: docs/formats.md.)
 */
#ifndef HS_LOADER_FORMATS_EOQ_FILE_H
#define HS_LOADER_FORMATS_EOQ_FILE_H

#include "loader/hf_private.h"

/* True if the file begins as one of any version. */
bool hs_eoq_file_is(const char *path);

/* The one .eoq file of a directory that has no safetensors; *path stays NULL if there is none. */
hlwq_status hs_eoq_file_find(hs_arena *arena, const char *dir, char **path, hlwq_error *err);

/* The folder that a file lies in. */
hlwq_status hs_eoq_file_folder(hs_arena *arena, const char *path, char **folder, hlwq_error *err);

/*
 * Opens the file and fills hf->tensor, sorted; the whole file is read once, as its checksum is one for all of it.
 * Every size is checked.
 */
hlwq_status hs_eoq_file_list(hs_hf *hf, const char *path, const hs_log *log, hlwq_error *err);

/*
 * Rows first..first + rows - 1 of a tensor of such a file into a buffer as hs_hf_read_wide leaves it: a row has its
 * codes as signed bytes, and from `scales_at` on the scales of its blocks, rows are `step` apart.
 */
hlwq_status hs_eoq_file_read(const hs_hf *hf, const hs_source *source, uint64_t first, uint64_t rows, uint64_t step,
                             uint64_t scales_at, uint8_t *out, hlwq_error *err);

#endif
