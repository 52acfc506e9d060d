/*
 * kernels/cuda/gpu.h - the one header of the CUDA code: CUDA under nvcc, a simulator under any other compiler.
 *
 * Kernels and the host code around them are ordinary CUDA with CUDA's names.  What C++ has no syntax for, or what
 * needs inline PTX, has a gpu_ name with two bodies: gpu_nvcc.h for the device, sim/device.h for the simulator
 * (sim/sim.h says what it finds).  Nothing else in this folder may tell the two worlds apart.
 *
 * Rules for kernels, which the simulator relies on:
 *   - no <<<>>>, no extern __shared__, no asm: gpu_launch, GPU_DYNAMIC_SHARED and the wrappers below;
 *   - one warp collective or barrier per source line: the line is how the simulator tells them apart;
 *   - a mask names exactly the lanes that come, and a shuffle reads from a lane that the mask names;
 *   - __syncthreads is met by every thread of the block, so no thread has left before it;
 *   - waiting for another stream or the host is gpu_flag_wait, never a loop of one's own;
 *   - no float atomics, no fast-math intrinsics: results are the same bits every time.
 *
 * gpu_launch(kernel, grid, block, shared_bytes, stream, args...)   cudaError_t; args are converted to the parameters
 * GPU_DYNAMIC_SHARED(T, name)      T *name: the launch's shared_bytes, 16-byte aligned
 * gpu_arch()                       75, 80, ... of the code that runs; a constant to nvcc
 * gpu_prmt(a, b, selector)         PTX prmt.b32: bytes 0-3 of a, 4-7 of b; bit 3 of a selector nibble spreads the sign
 * gpu_dp4a_us(a, b, c)             c + sum of unsigned bytes of a times signed bytes of b; __dp4a is signed by signed
 * gpu_warp_sum_int(v)              the sum over all 32 lanes, in each of them
 * gpu_half_to_float, gpu_float_to_half    fp16 as bit patterns; to nearest even
 * gpu_mma_s8_16832(d, a, b)        mma.m16n8k32.row.col.s32.s8.s8.s32, d += a b, sm_80 and later
 * gpu_mma_s8_8816(d, a, b)         mma.m8n8k16.row.col.s32.s8.s8.s32, sm_75 and later
 * gpu_mma_f16_16816(d, a, b)       mma.m16n8k16.row.col.f32.f16.f16.f32, sm_80 and later
 * gpu_cp_async16(shared, global), gpu_cp_async_commit(), gpu_cp_async_wait<N>()
 *                                  16 bytes to shared memory in the background; a plain copy on sm_75
 * gpu_load_stream(p)               a load of uint4, uint2 or uint32_t that is used once: past L1, read-only data
 * gpu_flag_set(flag, v)            all that this thread has seen, then *flag = v, for host and device
 * gpu_flag_wait(flag, at_least)    until *flag >= at_least
 * hs_gpu_host_flag_set(flag, v), hs_gpu_host_flag_wait(flag, at_least, stream)
 *                                  the same two from the host; the wait ends with an error when the device has failed,
 *                                  or the stream has nothing left to do, and the flag will never come
 */
#ifndef HS_KERNELS_CUDA_GPU_H
#define HS_KERNELS_CUDA_GPU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#include "kernels/cuda/gpu_nvcc.h"
#else
#include "kernels/cuda/sim/cuda_api.h"
#include "kernels/cuda/sim/device.h"
#endif

#endif
