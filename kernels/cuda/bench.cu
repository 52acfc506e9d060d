/*
 * bench.cu - how fast a card reads its memory, and its products their weights.
 *
 * Products are launched for eight matrices at once, as a layer's experts are: one of a small matrix would measure the
 * launch.  Times are the card's own, between two events.
 */
#include "kernels/cuda/backend.h"

extern "C" {
#include "kernels/measure.h"
}

#include <stdlib.h>

enum { ROUNDS = 7, AT_ONCE = 8, READ_BYTES = 256 << 20, READ_THREADS = 256 };

typedef struct bench {
    cudaStream_t stream;
    cudaEvent_t from, to;
    uint8_t *weights, *host;
    float *x, *y;
    gpu_q8 q;
    gpu_job *job;
} bench;

static int ascending(const void *x, const void *y)
{
    float a = *static_cast<const float *>(x), b = *static_cast<const float *>(y);
    return a < b ? -1 : a > b;
}

/* Reads words in turn; what it makes of them is used, so that they are read. */
static __global__ void __launch_bounds__(READ_THREADS) read_kernel(const uint4 *p, uint64_t n, uint32_t *out)
{
    uint32_t sum = 0;
    for (uint64_t i = (uint64_t)blockIdx.x * READ_THREADS + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * READ_THREADS) {
        uint4 v = gpu_load_stream(p + i);
        sum ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 0x9E3779B9u)
        *out = sum;
}

/* Matrices of a case, one after another, and what multiplies them. */
static hlwq_status make(bench *b, const hs_product_case *c, const hs_planes *planes, const hs_codebook *book,
                        uint64_t each, uint64_t copies, hs_matrix *w, hlwq_error *err)
{
    uint64_t outputs = (uint64_t)c->tokens * c->rows, random = 88172645463325252u;
    b->host = static_cast<uint8_t *>(calloc(1, each));
    gpu_job *job = static_cast<gpu_job *>(calloc(copies, sizeof(gpu_job)));
    if (!b->host || !job) {
        free(job);
        return hs_fail(err, HLWQ_ERR_NOMEM, "no memory for a kernel measurement");
    }
    for (uint64_t i = 0; i < planes->bytes; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        b->host[i] = (uint8_t)(random >> 56);
    }
    for (uint64_t i = 0; i < planes->norms_bytes; i += 2)
        b->host[planes->norms + i + 1] = 0x38; /* norms near a half */
    *w = hs_matrix_at(c->dtype, c->rows, c->cols, planes, b->weights, book);
    cudaError_t code = cudaSuccess;
    for (uint64_t i = 0; i < copies && code == cudaSuccess; i++) {
        hs_matrix m = hs_matrix_at(c->dtype, c->rows, c->cols, planes, b->weights + i * each, book);
        job[i] = gpu_job_of(&m, b->y + i % AT_ONCE * outputs, c->rows, 0, c->tokens, 0);
        code = cudaMemcpyAsync(b->weights + i * each, b->host, planes->bytes, cudaMemcpyHostToDevice, b->stream);
    }
    if (code == cudaSuccess)
        code = cudaMemcpyAsync(b->job, job, copies * sizeof(gpu_job), cudaMemcpyHostToDevice, b->stream);
    if (code == cudaSuccess)
        code = cudaMemsetAsync(b->x, 0x3E, (uint64_t)c->tokens * c->cols * sizeof(float), b->stream);
    if (code == cudaSuccess)
        code = cudaStreamSynchronize(b->stream);
    free(job);
    CUDA_DO("a measurement", code);
    b->q.form = gpu_form_of(w);
    CUDA_DO("a measurement", gpu_run_q8(b->x, NULL, c->cols, c->tokens, b->q, b->stream));
    return HLWQ_OK;
}

static hlwq_status median(bench *b, const gpu_product *p, const gpu_job *job, uint64_t copies, uint64_t read_bytes,
                          double *seconds, hlwq_error *err)
{
    float took[ROUNDS];
    for (int i = -1; i < ROUNDS; i++) {
        CUDA_DO("a measurement", cudaEventRecord(b->from, b->stream));
        for (uint64_t k = 0; p && k < copies; k += AT_ONCE) {
            gpu_product one = *p;
            one.job = job + k;
            CUDA_DO("a measurement", gpu_run_product(&one, b->stream));
        }
        if (!p)
            CUDA_DO("a measurement", gpu_launch(read_kernel, dim3(2048), dim3(READ_THREADS), 0, b->stream,
                                                reinterpret_cast<const uint4 *>(b->weights), read_bytes / 16,
                                                reinterpret_cast<uint32_t *>(b->y)));
        CUDA_DO("a measurement", cudaEventRecord(b->to, b->stream));
        CUDA_DO("a measurement", cudaStreamSynchronize(b->stream));
        CUDA_DO("a measurement", cudaEventElapsedTime(&took[i < 0 ? 0 : i], b->from, b->to));
    }
    qsort(took, ROUNDS, sizeof *took, ascending);
    *seconds = (double)took[ROUNDS / 2] * 1e-3;
    return HLWQ_OK;
}

static hlwq_status measure(bench *b, const hs_product_case *c, double *seconds, uint64_t *bytes, double *rate,
                           hlwq_error *err)
{
    hs_codebook book;
    hs_planes planes;
    hs_matrix w;
    HS_TRY(hs_product_case_open(c, &book, &planes, err));
    uint64_t each = (planes.bytes + 4095) / 4096 * 4096,
             copies = c->resident_bytes / each / AT_ONCE * AT_ONCE + AT_ONCE;
    uint64_t read = copies * each;
    if (read > READ_BYTES && c->resident_bytes >= READ_BYTES)
        read = READ_BYTES;
    uint64_t acts = (uint64_t)c->tokens * planes.blocks, outputs = (uint64_t)c->tokens * c->rows;
    CUDA_DO("opening a stream", cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
    CUDA_DO("opening an event", cudaEventCreateWithFlags(&b->from, cudaEventDefault));
    CUDA_DO("opening an event", cudaEventCreateWithFlags(&b->to, cudaEventDefault));
    CUDA_DO("a measurement", cudaMalloc(&b->weights, copies * each));
    CUDA_DO("a measurement", cudaMalloc(&b->job, copies * sizeof(gpu_job)));
    CUDA_DO("a measurement", cudaMalloc(&b->x, (uint64_t)c->tokens * c->cols * sizeof(float)));
    CUDA_DO("a measurement", cudaMalloc(&b->y, AT_ONCE * outputs * sizeof(float)));
    CUDA_DO("a measurement", cudaMalloc(&b->q.q, acts * HS_BLOCK));
    CUDA_DO("a measurement", cudaMalloc(&b->q.of, 2 * acts * sizeof(uint2)));
    HS_TRY(make(b, c, &planes, &book, each, copies, &w, err));
    gpu_product p = {};
    p.w = gpu_format_of(&w);
    p.jobs = AT_ONCE;
    p.m = c->tokens;
    p.rows = c->rows;
    p.a = b->q;
    HS_TRY(median(b, &p, b->job, copies, 0, seconds, err));
    *seconds /= (double)copies;
    *bytes = planes.bytes;
    double reading;
    HS_TRY(median(b, NULL, NULL, 0, read, &reading, err));
    *rate = (double)read / reading;
    return HLWQ_OK;
}

extern "C" hlwq_status hs_measure_product_cuda(const hs_product_case *c, double *seconds, uint64_t *bytes, double *rate,
                                               hlwq_error *err)
{
    bench b = {};
    hs_limits none = {};
    HS_TRY(hs_backend_cuda_probe(&none, err));
    hlwq_status st = measure(&b, c, seconds, bytes, rate, err);
    void *all[] = {b.weights, b.job, b.x, b.y, b.q.q, b.q.of};
    for (void *p : all)
        (void)cudaFree(p);
    if (b.from)
        (void)cudaEventDestroy(b.from);
    if (b.to)
        (void)cudaEventDestroy(b.to);
    if (b.stream)
        (void)cudaStreamDestroy(b.stream);
    free(b.host);
    return st;
}
