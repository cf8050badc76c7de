// f16 and bf16 GEMM: cp.async, ldmatrix and mma.sync.m16n8k16, double-buffered.
#include "ptx.cuh"
typedef unsigned short u16;
// block tile 64x64x32, 4 warps (2x2), each warp 32x32.  M,N mult of 64, K mult of 32.
template <bool BF16>
__device__ __forceinline__ void mma_gemm_body(const u16* __restrict__ A, const u16* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
  constexpr int PA = 40, PB = 72;   // padded rows (halfs)
  __shared__ __align__(16) u16 As[2][64 * PA];
  __shared__ __align__(16) u16 Bs[2][32 * PB];
  int t = threadIdx.x, lane = t & 31, w = t >> 5, wm = (w >> 1) * 32, wn = (w & 1) * 32;
  int r0 = blockIdx.y * 64, c0 = blockIdx.x * 64;
  float acc[2][4][4] = {};
  auto load = [&](int buf, int k0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {   // A: 64 rows x 32 halfs = 256 chunks of 8
      int c = t + i * 128, r = c / 4, cc = (c % 4) * 8;
      cp_async16(&As[buf][r * PA + cc], &A[(size_t)(r0 + r) * K + k0 + cc]);
      int rb = c / 8, cb = (c % 8) * 8;   // B: 32 rows x 64 halfs
      cp_async16(&Bs[buf][rb * PB + cb], &B[(size_t)(k0 + rb) * N + c0 + cb]);
    }
    cp_async_commit();
  };
  load(0, 0);
  int nk = K / 32;
  for (int ki = 0; ki < nk; ++ki) {
    int buf = ki & 1;
    if (ki + 1 < nk) { load(buf ^ 1, (ki + 1) * 32);
#ifndef PLANT_WAIT
      cp_async_wait<1>();
#endif
    } else cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < 32; kk += 16) {
      unsigned a[2][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) ldmatrix_x4(a[i], &As[buf][(wm + i * 16 + (lane & 15)) * PA + kk + (lane >> 4) * 8]);
#pragma unroll
      for (int j = 0; j < 4; ++j) ldmatrix_x2_trans(b[j], &Bs[buf][(kk + (lane & 15)) * PB + wn + j * 8]);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (BF16) mma_m16n8k16_bf16(acc[i][j], a[i], b[j]);
          else mma_m16n8k16_f16(acc[i][j], a[i], b[j]);
        }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int r = r0 + wm + i * 16 + (lane >> 2), c = c0 + wn + j * 8 + (lane & 3) * 2;
      C[(size_t)r * N + c] = acc[i][j][0];
      C[(size_t)r * N + c + 1] = acc[i][j][1];
      C[(size_t)(r + 8) * N + c] = acc[i][j][2];
      C[(size_t)(r + 8) * N + c + 1] = acc[i][j][3];
    }
}
extern "C" __global__ void __launch_bounds__(128) mma_gemm_f16(const u16* A, const u16* B, float* C, int M, int N, int K) { mma_gemm_body<false>(A, B, C, M, N, K); }
extern "C" __global__ void __launch_bounds__(128) mma_gemm_bf16(const u16* A, const u16* B, float* C, int M, int N, int K) { mma_gemm_body<true>(A, B, C, M, N, K); }
