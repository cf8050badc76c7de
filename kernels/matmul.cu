// Products of matrices: y[M,N] = a[M,K] b[K,N], either factor as it lies or transposed; sums of columns.
#include "gemm.cuh"

// Numbers of elements; `*_row` and `*_batch` are the distances of rows and of the products of a batch.
struct MatmulDims {
    int m, n, k;
    int row, a_row, b_row;
    int batch, a_batch, b_batch;
    // Splits of the sum over k. Whether y, a and b can be read and written 16 bytes at a time.
    int splits, packed, a_packed, b_packed;
    int accumulate;
};

struct ReduceDims {
    int products, m, n, row, batch, splits, accumulate;
};

// Adds bias and what was there before, and stores: to y, or to z where y is null.
__device__ __forceinline__ float finished(float sum, const real* y, const float* z, const float* bias, int at, int column,
                                          bool accumulate) {
    if (bias) sum += bias[column];
    if (accumulate) sum += y ? to_float(y[at]) : z[at];
    return sum;
}

// y[p] (+)= a[p] b[p] + bias; rounded to y, or in float to z. With several splits of k each
// goes to [split][p][M,N] of the same.
template <class T, template <class, int> class A, template <class, int> class B>
__device__ __forceinline__ void product(real* y, float* z, const real* a, const real* b, const float* bias, const MatmulDims& d) {
    if constexpr (T::MATH != TF32 || HAS_TF32) {
        int across = (d.n + T::BN - 1) / T::BN;
        int m0 = blockIdx.x / across * T::BM, n0 = blockIdx.x % across * T::BN;
        int split = blockIdx.z % d.splits, p = blockIdx.z / d.splits, products = gridDim.z / d.splits;
        int k_blocks = (d.k + T::BK - 1) / T::BK;
        int per_split = (k_blocks + d.splits - 1) / d.splits, from = min(split * per_split, k_blocks);
        A<T, T::BM> left(a + p * d.a_batch, d.a_row, m0, d.m, from * T::BK, d.k, d.a_packed);
        B<T, T::BN> right(b + p * d.b_batch, d.b_row, n0, d.n, from * T::BK, d.k, d.b_packed);
        const float* sums = multiply<T>(left, right, min(per_split, k_blocks - from));
        // The sums of this split.
        long long offset = d.splits > 1 ? (long long)split * products * d.batch : 0;
        if (y) y += offset;
        if (z) z += offset;
        for_packs<T>(sums, [&](int row, int column, Pack<real>& v) {
            int count = min(d.n - n0 - column, Pack<real>::N);
            if (m0 + row >= d.m || count <= 0) return;
            int at = p * d.batch + (m0 + row) * d.row + n0 + column;
            if (bias || d.accumulate) {
#pragma unroll
                for (int i = 0; i < Pack<real>::N; i++)
                    if (i < count) v.v[i] = finished(v.v[i], y, z, bias, at + i, n0 + column + i, d.accumulate);
            }
            if (y)
                store_some(y + at, v, count, d.packed);
            else
                store_some(z + at, v, count, d.packed);
        });
    }
}

// a[M,K] b[K,N]
template <class T>
__device__ __forceinline__ void matmul_nn(real* y, float* z, const real* a, const real* b, const float* bias, const MatmulDims& d) {
    product<T, KMajor, MnMajor>(y, z, a, b, bias, d);
}
INSTANCES(matmul_nn, (OPTIONAL real* y, OPTIONAL float* z, const real* a, const real* b, OPTIONAL const float* bias, MatmulDims d),
          (y, z, a, b, bias, d), 128x128, 64x64)

// a[M,K] b[N,K]ᵀ
template <class T>
__device__ __forceinline__ void matmul_nt(real* y, float* z, const real* a, const real* b, const float* bias, const MatmulDims& d) {
    product<T, KMajor, KMajor>(y, z, a, b, bias, d);
}
INSTANCES(matmul_nt, (OPTIONAL real* y, OPTIONAL float* z, const real* a, const real* b, OPTIONAL const float* bias, MatmulDims d),
          (y, z, a, b, bias, d), 128x128, 64x64)

// a[K,M]ᵀ b[K,N]
template <class T>
__device__ __forceinline__ void matmul_tn(real* y, float* z, const real* a, const real* b, const float* bias, const MatmulDims& d) {
    product<T, MnMajor, MnMajor>(y, z, a, b, bias, d);
}
INSTANCES(matmul_tn, (OPTIONAL real* y, OPTIONAL float* z, const real* a, const real* b, OPTIONAL const float* bias, MatmulDims d),
          (y, z, a, b, bias, d), 128x128, 64x64)

// y[p,M,N] (+)= Σ_s workspace[s,p,M,N] + bias, in the order of s; rounded to y, or in float to z.
extern "C" __global__ void __launch_bounds__(256)
matmul_reduce_splits(OPTIONAL real* __restrict__ y, OPTIONAL float* __restrict__ z, const float* __restrict__ workspace,
                     OPTIONAL const float* __restrict__ bias, ReduceDims d) {
    int n = d.products * d.m * d.n;
    for (int i = thread_index(); i < n; i += thread_count()) {
        int column = i % d.n, row = i / d.n;
        int at = row / d.m * d.batch + row % d.m * d.row + column;
        float sum = finished(reduce_splits(workspace + i, n, d.splits), y, z, bias, at, column, d.accumulate);
        if (y)
            set(y[at], sum);
        else
            z[at] = sum;
    }
}

// workspace[block y, n] = Σ over `per_split` rows of x[rows,n]; a block takes `width` (a power of two) columns.
extern "C" __global__ void __launch_bounds__(256)
matmul_columns(float* __restrict__ workspace, const real* __restrict__ x, int rows, int n, int per_split, int width) {
    __shared__ float sums[256];
    int column = blockIdx.x * width + threadIdx.x % width, lines = 256 / width;
    int from = blockIdx.y * per_split, to = min(from + per_split, rows);
    float sum = 0.0f;
    if (column < n) {
#pragma unroll 4
        for (int row = from + threadIdx.x / width; row < to; row += lines) sum += to_float(x[row * n + column]);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= width || column >= n) return;
    for (int line = 1; line < lines; line++) sum += sums[line * width + threadIdx.x];
    workspace[blockIdx.y * n + column] = sum;
}

// y[p, rows, to] = x[p, rows, columns] rounded and filled up with zeros; rows of x lie `row` apart, products `batch`.
extern "C" __global__ void __launch_bounds__(256)
matmul_round(bf16* __restrict__ y, const float* __restrict__ x, int products, int rows, int columns, int row, int batch, int to) {
    int n = products * rows * to;
    for (int i = thread_index(); i < n; i += thread_count()) {
        int column = i % to, line = i / to;
        set(y[i], column < columns ? x[line / rows * batch + line % rows * row + column] : 0.0f);
    }
}
