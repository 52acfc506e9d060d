/*
 * app/plan_text.h - plans and what became of them, as text and as JSON.
 */
#ifndef HS_APP_PLAN_TEXT_H
#define HS_APP_PLAN_TEXT_H

#include "app/console.h"
#include "base/text.h"

void app_plan_table(hs_text *t, const hlwq_plan *p);
void app_plan_json(hs_text *t, const hlwq_plan *p);            /* one object, no newline after it */
void app_prediction(hs_text *t, const hlwq_diagnosis *d);      /* one line */
void app_prediction_json(hs_text *t, const hlwq_diagnosis *d); /* the plan's fields, and "predicted" */

/* `"cache": {..}, "io": {..}` */
void app_streaming_json(hs_text *t, const hlwq_streaming *s);

/* `"drafts": {..}` */
void app_speculation_json(hs_text *t, const hlwq_speculation *s);
void app_note_drafts(const hlwq_speculation *s); /* and what they are worth now; nothing where there were none */

#endif
