/*
 * model/convert.c - from a model directory to a container, or from any model to a directory.
 */
#include "model/engine.h"

#include "loader/formats/eoq_file.h"
#include "loader/formats/gguf.h"
#include "model/convert_write.h"
#include "model/export.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

hlwq_convert_options hlwq_convert_options_default(void)
{
    return (hlwq_convert_options){.bits = 5};
}

hlwq_status hs_matrix_format(hs_dtype *dtype, const char *format, uint32_t bits, hlwq_error *err)
{
    *dtype = bits ? hs_dtype_of_bits(bits) : HS_F32;
    if (!format && (bits == 0 || (bits >= 2 && bits <= 6)))
        return HLWQ_OK;
    for (hs_dtype d = HS_I4; format && d <= HS_I4G64Z; d++)
        if (strcasecmp(format, hs_dtype_name(d)) == 0) {
            *dtype = d;
            return HLWQ_OK;
        }
    if (format)
        return hs_fail(err, HLWQ_ERR_ARG, "\"%.20s\" is none of the formats I4, I4Z, I4G64, I4G64Z", format);
    return hs_fail(err, HLWQ_ERR_ARG, "--bits is %u, but must be 2..6", bits);
}

/* Of head or embeddings: 6 bits unless something else is asked or the matrices stay as they are. */
static hlwq_status outer_format(hs_dtype *dtype, const char *what, uint32_t bits, hs_dtype matrix, hlwq_error *err)
{
    if (bits && bits != 16 && (bits < 2 || bits > 6))
        return hs_fail(err, HLWQ_ERR_ARG, "%s is %u, but must be 2..6 or 16", what, bits);
    *dtype = bits == 16 ? HS_BF16 : bits ? hs_dtype_of_bits(bits) : hs_dtype_packed(matrix) ? HS_Q6 : HS_F32;
    return HLWQ_OK;
}

/* The precision plan: matrices as asked, everything small as it is. */
hlwq_status hs_plan_precision(hs_precision *p, const hlwq_convert_options *o, hlwq_error *err)
{
    *p = (hs_precision){0};
    HS_TRY(hs_matrix_format(&p->matrix, o->format, o->bits, err));
    HS_TRY(outer_format(&p->head, "--head-bits", o->head_bits, p->matrix, err));
    return outer_format(&p->embed, "--embed-bits", o->embed_bits, p->matrix, err);
}

static hlwq_status convert(hs_store *store, hs_mem *mem, hs_pool *pool, const hlwq_convert_options *o,
                           hlwq_convert_report *report, hlwq_error *err)
{
    /* A damaged tokenizer is found now, not by whoever runs the result. */
    hs_tokenizer *tokenizer;
    HS_TRY(hs_store_tokenizer(&tokenizer, mem, store, err));
    hs_tokenizer_free(tokenizer);
    return hs_convert_write(store, mem, pool, o, report, err);
}

static hlwq_status open_source(hs_store **store, hs_mem *mem, const hlwq_convert_options *o, const hs_precision *p,
                               const hs_log *log, hlwq_error *err)
{
    if (!hs_path_exists(o->source))
        return hs_fail(err, HLWQ_ERR_IO, "%s does not exist", o->source);
    if (!hs_path_is_directory(o->source) && !hs_gguf_is(o->source) && !hs_eoq_file_is(o->source))
        return hs_fail(err, HLWQ_ERR_IO, "%s is not a model directory, nor a GGUF or .eoq file", o->source);
    return hs_store_open(store, mem, o->source, p, log, err);
}

/* A directory for other programs: from anything that can be opened. */
static hlwq_status export_model(hs_mem *mem, hs_pool *pool, const hlwq_convert_options *o, const hs_log *log,
                                hlwq_error *err)
{
    static const char *const kind[] = {"bf16", "compressed-tensors", "gptq"};
    hs_export e = {.format = HS_I4, .overwrite = o->overwrite, .progress = o->progress, .user = o->user};
    hs_store *store;
    uint32_t k = 0;
    while (k < 3 && strcasecmp(o->to, kind[k]) != 0)
        k++;
    e.kind = (hs_export_kind)k;
    if (k == 3)
        return hs_fail(err, HLWQ_ERR_ARG, "\"%.40s\" is none of compressed-tensors, gptq and bf16", o->to);
    if (o->format)
        HS_TRY(hs_matrix_format(&e.format, o->format, 0, err));
    if (e.kind == HS_EXPORT_GPTQ && hs_dtype_zeros(e.format))
        return hs_fail(err, HLWQ_ERR_ARG, "gptq is written without zero points: i4 or i4g64, not %s", o->format);
    if (!hs_path_exists(o->source))
        return hs_fail(err, HLWQ_ERR_IO, "%s does not exist", o->source);
    HS_TRY(hs_store_open(&store, mem, o->source, NULL, log, err));
    hlwq_status st = hs_export_write(store, mem, pool, o->output, &e, err);
    hs_store_close(store);
    return st;
}

hlwq_status hlwq_convert(const hlwq_convert_options *o, hlwq_error *err)
{
    if (!o->source || !o->output)
        return hs_fail(err, HLWQ_ERR_ARG, "convert needs a source and an output");
    hs_precision p;
    if (!o->to)
        HS_TRY(hs_plan_precision(&p, o, err));
    hs_mem *mem = hs_mem_open(0);
    if (!mem)
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory to convert");
    hs_log log = {o->log, o->user};
    hs_pool *pool = NULL;
    hs_store *store = NULL;
    hlwq_convert_report report = {0};
    hlwq_status st = hs_pool_open(o->threads, &pool, err);
    if (st == HLWQ_OK && o->to)
        st = export_model(mem, pool, o, &log, err);
    else if (st == HLWQ_OK)
        st = open_source(&store, mem, o, &p, &log, err);
    if (st == HLWQ_OK && store) {
        st = convert(store, mem, pool, o, &report, err);
        hs_store_close(store);
    }
    report.peak_bytes = hs_mem_peak_bytes(mem);
    if (st == HLWQ_OK && o->verify)
        st = hs_convert_compare(o, mem, pool, &log, err);
    if (o->report)
        *o->report = report;
    hs_pool_close(pool);
    hs_mem_close(mem);
    return st;
}
