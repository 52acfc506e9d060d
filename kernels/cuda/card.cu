/*
 * card.cu - whether there is a card that this build can use, and the memory that using it takes before anything is put
 * there: CUDA's context, and the code of all kernels.
 *
 * It is the card that the calling thread has: the first one that CUDA shows (CUDA_VISIBLE_DEVICES), unless a program
 * that this is a part of has chosen another.
 */
#include "kernels/cuda/device.h"

#include <stdlib.h>

enum { OLDEST = 75 /* compute capability that there is code for */ };

extern "C" const bool hs_backend_cuda_built = true;

static hlwq_status none_found(cudaError_t code, hlwq_error *err)
{
    int driver = 0, runtime = 0;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    bool known = cudaDriverGetVersion(&driver) == cudaSuccess && cudaRuntimeGetVersion(&runtime) == cudaSuccess;
    (void)cudaGetLastError();
    if (known && driver == 0)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "there is no graphics card that CUDA can use: this machine has no NVIDIA driver");
    if (known && code == cudaErrorInsufficientDriver)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "the NVIDIA driver of this machine is for CUDA %d.%d, this program needs one for CUDA %d",
                       driver / 1000, driver % 1000 / 10, runtime / 1000);
    if ((code == cudaErrorNoDevice || code == cudaSuccess) && visible)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "there is no graphics card that CUDA can use: CUDA_VISIBLE_DEVICES is \"%.80s\"", visible);
    return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "there is no graphics card that CUDA can use: %s",
                   code != cudaSuccess ? cudaGetErrorString(code) : "none was found");
}

static cudaError_t load_all(void)
{
    GPU_TRY(gpu_load_append());
    GPU_TRY(gpu_load_attention());
    GPU_TRY(gpu_load_choose());
    GPU_TRY(gpu_load_delta());
    GPU_TRY(gpu_load_product());
    GPU_TRY(gpu_load_rows());
    GPU_TRY(gpu_load_sample());
    GPU_TRY(gpu_load_split());
    GPU_TRY(gpu_load_table());
    return gpu_load_turns();
}

/* The first call that needs a context makes it. */
static hlwq_status begin(int arch, hlwq_error *err)
{
    cudaError_t code = load_all();
    if (code != cudaSuccess)
        (void)cudaGetLastError();
    switch (code) {
    case cudaSuccess: return HLWQ_OK;
    case cudaErrorMemoryAllocation:
        return hs_fail(err, HLWQ_ERR_NOMEM, "other programs have all of the graphics card's memory");
    case cudaErrorDevicesUnavailable:
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "the graphics card is busy: another program has it for itself, or its compute mode forbids it");
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "this build has no code for the graphics card, which is of compute capability %d.%d", arch / 10,
                       arch % 10);
    default:
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED, "the graphics card cannot be used: %s", cudaGetErrorString(code));
    }
}

extern "C" hlwq_status hs_backend_cuda_probe(const hs_limits *limits, hlwq_error *err)
{
    int devices = 0, device = 0, major = 0, minor = 0;
    if (limits->experts > 512 || limits->head_dim > 256)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "the CUDA backend takes at most 512 experts and heads of 256, this model has %u and %u",
                       limits->experts, limits->head_dim);
    cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess || devices == 0)
        return none_found(code, err);
    code = cudaGetDevice(&device);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (code != cudaSuccess)
        return none_found(code, err);
    if (10 * major + minor < OLDEST)
        return hs_fail(err, HLWQ_ERR_UNSUPPORTED,
                       "the graphics card is of compute capability %d.%d, this program needs %d.%d", major, minor,
                       OLDEST / 10, OLDEST % 10);
    return begin(10 * major + minor, err);
}

/*
 * Before a context there is nothing to ask; what one takes is the difference that making it makes, unless others have
 * memory of the card, too: then it is at most what one of such a card takes, a part of which is local memory for every
 * thread that can be there.  350 MiB of a card with 24 multiprocessors, 676 of one with 132.
 */
extern "C" void hs_backend_cuda_room(uint64_t *free_bytes, uint64_t *context_bytes)
{
    enum { CONTEXT_BYTES = 280 << 20, MULTIPROCESSOR_BYTES = 3 << 20 };
    size_t now = 0, total = 0;
    int device = 0, multiprocessors = 0;
    *free_bytes = *context_bytes = 0;
    cudaError_t code = cudaGetDevice(&device);
    if (code == cudaSuccess)
        code = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (code == cudaSuccess)
        code = cudaMemGetInfo(&now, &total);
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        return;
    }
    uint64_t most = CONTEXT_BYTES + (uint64_t)MULTIPROCESSOR_BYTES * (uint64_t)multiprocessors;
    *free_bytes = now;
    *context_bytes = total - now < most ? total - now : most;
}
