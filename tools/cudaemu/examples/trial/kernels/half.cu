// What needs NVIDIA's headers: the wmma API and half-precision arithmetic.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <mma.h>
using namespace nvcuda;
// one warp per 16x16 tile of C; M,N,K multiples of 16
extern "C" __global__ void wmma_gemm(const half* A, const half* B, float* C, int M, int N, int K) {
  int tm = blockIdx.y * 16, tn = blockIdx.x * 16;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> c;
  wmma::fill_fragment(c, 0.f);
  for (int k = 0; k < K; k += 16) {
    wmma::load_matrix_sync(a, A + tm * K + k, K);
    wmma::load_matrix_sync(b, B + k * N + tn, N);
    wmma::mma_sync(c, a, b, c);
  }
  wmma::store_matrix_sync(C + tm * N + tn, c, N, wmma::mem_row_major);
}

// elementwise half arithmetic: gelu-like + half2 packing
extern "C" __global__ void half_ew(const half2* x, half2* y, const __nv_bfloat16* u, __nv_bfloat16* v, int n2) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n2) {
    float2 f = __half22float2(x[i]);
    f.x = f.x / (1.f + __expf(-f.x)); f.y = tanhf(f.y);
    y[i] = __hadd2(__floats2half2_rn(f.x, f.y), __hmul2(x[i], x[i]));
    v[i] = __float2bfloat16(__bfloat162float(u[i]) * 0.5f + sinf(__bfloat162float(u[i])));
  }
}
