/*
 * kernels/cuda_absent.c - stands in for kernels/cuda in builds without it.
 */
#include "kernels/backend.h"
#include "kernels/measure.h"

const bool hs_backend_cuda_built = false;

hlwq_status hs_backend_cuda_probe(const hs_limits *limits, hlwq_error *err)
{
    (void)limits;
    return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "this build knows no graphics cards: it was made without CUDA");
}

void hs_backend_cuda_room(uint64_t *free_bytes, uint64_t *context_bytes)
{
    *free_bytes = *context_bytes = 0;
}

hlwq_status hs_backend_cuda_measure(hs_card_facts *facts, uint64_t bytes, hlwq_error *err)
{
    (void)bytes;
    *facts = (hs_card_facts){0};
    return hs_backend_cuda_probe(NULL, err);
}

hlwq_status hs_backend_cuda_open(hs_backend **be, const hs_limits *limits, const hs_cuda_options *options,
                                 hlwq_error *err)
{
    (void)options;
    *be = NULL;
    return hs_backend_cuda_probe(limits, err);
}

hlwq_status hs_measure_product_cuda(const hs_product_case *c, double *seconds, uint64_t *bytes, double *rate,
                                    hlwq_error *err)
{
    (void)c;
    *seconds = *rate = 0;
    *bytes = 0;
    return hs_backend_cuda_probe(NULL, err);
}
