/*
 * model/work.h - what an interrupted convert or quantize goes on from: a folder beside its output.
 *
 * Each file carries the run's key (everything the output depends on, hashed) and a checksum of its own, and appears
 * only when whole: what loads was written by a run that would have gone on to write the same output.
 */
#ifndef HS_MODEL_WORK_H
#define HS_MODEL_WORK_H

#include "base/error.h"

typedef struct hs_work {
    char *folder; /* OUTPUT.work */
    uint64_t key;
} hs_work;

hlwq_status hs_work_open(hs_work *w, const char *output, uint64_t key, hlwq_error *err);
void hs_work_close(hs_work *w); /* the folder stays */

/* Two pieces under one name; b may be NULL. */
hlwq_status hs_work_save(const hs_work *w, const char *name, const void *a, uint64_t a_bytes, const void *b,
                         uint64_t b_bytes, hlwq_error *err);

/* False where there is no such file, or it is another run's, of another size, or damaged. */
bool hs_work_load(const hs_work *w, const char *name, void *a, uint64_t a_bytes, void *b, uint64_t b_bytes);

/* "FOLDER/NAME", malloc'ed; NULL when memory is gone. */
char *hs_work_path(const hs_work *w, const char *name);

/* Removes what was saved, and the folder if nothing of others' is in it. */
void hs_work_remove(const hs_work *w);

/* Names: of a layer's file, and of a container in the making. */
enum { HS_WORK_NAME = 24 };
void hs_work_layer_name(char out[HS_WORK_NAME], uint32_t layer);
#define HS_WORK_PARTIAL "partial.hlwq"

#endif
