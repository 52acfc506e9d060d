/*
 * kernels/cuda/sim/runtime.cc - the device, errors, and the mutex around everything.
 *
 * Every function of the API is sim_enter, its work, sim_leave.  sim_enter counts the call and makes it fail when its
 * turn has come.  An error of a kernel is sticky: from then on every call returns it, and what gives memory back still
 * gives it back, so that leaks can be counted.
 */
#include "kernels/cuda/sim/private.h"

#include <execinfo.h>
#include <stdio.h>
#include <time.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static __thread cudaError_t last_error;
__thread bool sim_in_host_func;
cudaError_t sim_sticky;

void sim_lock(void)
{
    pthread_mutex_lock(&mutex);
}

void sim_unlock(void)
{
    pthread_mutex_unlock(&mutex);
}

void sim_wake(void)
{
    pthread_cond_broadcast(&changed);
}

/* A flag may also be set by a plain store that wakes nobody: look again after a millisecond. */
void sim_wait_a_little(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    pthread_cond_timedwait(&changed, &mutex, &t);
}

/* The place of a call: which function of the API, who calls it, and who calls that. The same all through a process. */
static uint64_t site(void)
{
    enum { OURS = 2, CALLERS = 4 };
    void *frame[OURS + CALLERS];
    uint64_t hash = 0;
    int n = backtrace(frame, OURS + CALLERS);
    for (int i = OURS; i < n; i++)
        hash = (hash ^ reinterpret_cast<uintptr_t>(frame[i])) * 0x9E3779B97F4A7C15u;
    return hash;
}

cudaError_t sim_enter(sim_call kind)
{
    sim_lock();
    if (sim_in_host_func)
        return cudaErrorNotPermitted;
    if (!sim_options.devices)
        return cudaErrorNoDevice;
    if (sim_sticky)
        return sim_sticky;
    if (kind == SIM_CALL_FREE || kind == SIM_CALL_ASK)
        return cudaSuccess;
    if (sim_options.site && sim_stats.calls < sim_options.site_room)
        sim_options.site[sim_stats.calls] = site();
    if (++sim_stats.calls != sim_options.fail_at)
        return cudaSuccess;
    sim_stats.failed_at = true;
    if (kind == SIM_CALL_ALLOC)
        return cudaErrorMemoryAllocation;
    if (kind == SIM_CALL_WAIT)
        return sim_sticky = cudaErrorLaunchFailure;
    return cudaErrorUnknown;
}

cudaError_t sim_leave(cudaError_t e)
{
    if (e)
        last_error = e; /* what is not ready, too: a later cudaGetLastError says so */
    sim_unlock();
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    sim_lock();
    cudaError_t e = sim_sticky ? sim_sticky : last_error;
    sim_unlock();
    return e;
}

void sim_forget_error(void)
{
    last_error = cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return e;
}

#define ERRORS(X)                                                                                                      \
    X(cudaSuccess, "no error")                                                                                         \
    X(cudaErrorInvalidValue, "invalid argument")                                                                       \
    X(cudaErrorMemoryAllocation, "out of memory")                                                                      \
    X(cudaErrorInitializationError, "initialization error")                                                            \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                                                 \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                                            \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")                     \
    X(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable")                                \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                                                       \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                         \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                                                \
    X(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device")                     \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                                       \
    X(cudaErrorIllegalState, "the operation cannot be performed in the present state")                                 \
    X(cudaErrorNotReady, "device not ready")                                                                           \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                             \
    X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                                        \
    X(cudaErrorLaunchTimeout, "the launch timed out and was terminated")                                               \
    X(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped")             \
    X(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region")                   \
    X(cudaErrorIllegalInstruction, "an illegal instruction was encountered")                                           \
    X(cudaErrorMisalignedAddress, "misaligned address")                                                                \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                                            \
    X(cudaErrorNotPermitted, "operation not permitted")                                                                \
    X(cudaErrorNotSupported, "operation not supported")                                                                \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                           \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")                    \
    X(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences")                  \
    X(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began")                         \
    X(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work")                                            \
    X(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream")                      \
    X(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream")  \
    X(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream")               \
    X(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread")   \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorName(cudaError_t e)
{
#define NAME(value, text)                                                                                              \
    case value: return #value;
    switch (e) {
        ERRORS(NAME)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t e)
{
#define TEXT(value, text)                                                                                              \
    case value: return text;
    switch (e) {
        ERRORS(TEXT)
    }
    return "unrecognized error code";
}

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    if (count)
        *count = 0;
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && !count)
        e = cudaErrorInvalidValue;
    if (!e)
        *count = sim_options.devices;
    return sim_leave(e);
}

cudaError_t cudaSetDevice(int device)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    return sim_leave(!e && device != 0 ? cudaErrorInvalidDevice : e);
}

cudaError_t cudaGetDevice(int *device)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e)
        *device = 0;
    return sim_leave(e);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && (!p || device != 0))
        e = cudaErrorInvalidDevice;
    if (e)
        return sim_leave(e);
    int arch = sim_options.arch;
    int optin = arch == 75 ? 64 : arch == 80 ? 163 : arch == 90 ? 227 : 99;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "hlwq-stream simulator (sm_%d)", arch);
    p->totalGlobalMem = sim_options.vram_bytes;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = (size_t)optin << 10;
    p->sharedMemPerMultiprocessor = (size_t)(optin + (arch > 75)) << 10;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->major = arch / 10;
    p->minor = arch % 10;
    p->multiProcessorCount = 8;
    p->l2CacheSize = 4 << 20;
    p->memoryBusWidth = 128;
    p->canMapHostMemory = p->unifiedAddressing = p->concurrentKernels = 1;
    p->asyncEngineCount = 2;
    p->hostRegisterSupported = !sim_options.register_fails;
    return sim_leave(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device)
{
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e)
        return e;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; return cudaSuccess;
    case cudaDevAttrWarpSize: *value = p.warpSize; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; return cudaSuccess;
    case cudaDevAttrIntegrated: *value = p.integrated; return cudaSuccess;
    case cudaDevAttrCanMapHostMemory: *value = p.canMapHostMemory; return cudaSuccess;
    case cudaDevAttrMemoryClockRate: *value = 1000000; return cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; return cudaSuccess;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; return cudaSuccess;
    case cudaDevAttrAsyncEngineCount: *value = p.asyncEngineCount; return cudaSuccess;
    case cudaDevAttrUnifiedAddressing: *value = p.unifiedAddressing; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; return cudaSuccess;
    case cudaDevAttrHostRegisterSupported: *value = p.hostRegisterSupported; return cudaSuccess;
    }
    sim_lock();
    return sim_leave(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    cudaError_t e = sim_enter(SIM_CALL_QUEUE);
    if (!e && least)
        *least = 0;
    if (!e && greatest)
        *greatest = -5;
    return sim_leave(e);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = sim_options.devices ? 13000 : 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
    hs_sim_stats before = hs_sim_read_stats();
    hs_sim_reset();
    sim_lock();
    sim_stats.calls = before.calls; /* what has happened has happened; what was there is gone */
    sim_stats.failed_at = before.failed_at;
    sim_stats.launches = before.launches;
    sim_stats.blocks = before.blocks;
    sim_stats.h2d_bytes = before.h2d_bytes;
    sim_stats.d2h_bytes = before.d2h_bytes;
    sim_stats.d2d_bytes = before.d2d_bytes;
    sim_stats.h2h_bytes = before.h2h_bytes;
    sim_stats.device_peak_bytes = before.device_peak_bytes;
    sim_stats.pinned_peak_bytes = before.pinned_peak_bytes;
    sim_stats.graph_peak_bytes = before.graph_peak_bytes;
    sim_unlock();
    return cudaSuccess;
}
