// Products of matrices: y[M,N] = a[M,K] b[K,N], either factor as it lies or transposed; sums of columns.
#include "gemm.cuh"

// Numbers of elements; `*_row` and `*_batch` are the distances of rows and of the products of a batch.
struct MatmulDims {
    int m, n, k;
    int row, a_row, b_row;
    int batch, a_batch, b_batch;
    // Shares of the sum over k. Whether y, a and b can be read and written 16 bytes at a time.
    int splits, packed, a_packed, b_packed;
    int accumulate;
};

struct JoinDims {
    int products, m, n, row, batch, splits, accumulate;
};

// Adds bias and what was there before, and stores: to y, or to z where y is null.
__device__ __forceinline__ float finished(float sum, const real* y, const float* z, const float* bias, int at, int column,
                                          bool accumulate) {
    if (bias) sum += bias[column];
    if (accumulate) sum += y ? to_float(y[at]) : z[at];
    return sum;
}

// y[p] (+)= a[p] b[p] + bias; rounded to y, or in float to z. With several shares of k each
// goes to [split][p][M,N] of the same.
template <class T, template <class, int> class A, template <class, int> class B>
__device__ __forceinline__ void product(real* y, float* z, const real* a, const real* b, const float* bias, const MatmulDims& d) {
    if constexpr (T::MATH != TF32 || HAS_TF32) {
        int across = (d.n + T::BN - 1) / T::BN;
        int m0 = blockIdx.x / across * T::BM, n0 = blockIdx.x % across * T::BN;
        int split = blockIdx.z % d.splits, p = blockIdx.z / d.splits, products = gridDim.z / d.splits;
        int slices = (d.k + T::BK - 1) / T::BK;
        int share = (slices + d.splits - 1) / d.splits, from = min(split * share, slices);
        A<T, T::BM> left(a + p * d.a_batch, d.a_row, m0, d.m, from * T::BK, d.k, d.a_packed);
        B<T, T::BN> right(b + p * d.b_batch, d.b_row, n0, d.n, from * T::BK, d.k, d.b_packed);
        const float* sums = multiply<T>(left, right, min(share, slices - from));
        // A share's own sums.
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
extern "C" __global__ void __launch_bounds__(256, BLOCKS_256)
matmul_nn_128x128(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<NATIVE, 128, 128, 64, 32>, Along, Across>(y, z, a, b, bias, d);
}

// a[M,K] b[K,N]
extern "C" __global__ void __launch_bounds__(128, BLOCKS_128)
matmul_nn_64x64(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<NATIVE, 64, 64, 32, 32>, Along, Across>(y, z, a, b, bias, d);
}

// a[M,K] b[N,K]ᵀ
extern "C" __global__ void __launch_bounds__(256, BLOCKS_256)
matmul_nt_128x128(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<NATIVE, 128, 128, 64, 32>, Along, Along>(y, z, a, b, bias, d);
}

// a[M,K] b[N,K]ᵀ
extern "C" __global__ void __launch_bounds__(128, BLOCKS_128)
matmul_nt_64x64(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<NATIVE, 64, 64, 32, 32>, Along, Along>(y, z, a, b, bias, d);
}

// a[K,M]ᵀ b[K,N]
extern "C" __global__ void __launch_bounds__(256, BLOCKS_256)
matmul_tn_128x128(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<NATIVE, 128, 128, 64, 32>, Across, Across>(y, z, a, b, bias, d);
}

// a[K,M]ᵀ b[K,N]
extern "C" __global__ void __launch_bounds__(128, BLOCKS_128)
matmul_tn_64x64(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<NATIVE, 64, 64, 32, 32>, Across, Across>(y, z, a, b, bias, d);
}

// a[M,K] b[K,N]
extern "C" __global__ void __launch_bounds__(256, 2)
matmul_nn_128x128_tf32(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<TF32, 128, 128, 64, 32>, Along, Across>(y, z, a, b, bias, d);
}

// a[M,K] b[K,N]
extern "C" __global__ void __launch_bounds__(128, 4)
matmul_nn_64x64_tf32(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<TF32, 64, 64, 32, 32>, Along, Across>(y, z, a, b, bias, d);
}

// a[M,K] b[N,K]ᵀ
extern "C" __global__ void __launch_bounds__(256, 2)
matmul_nt_128x128_tf32(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<TF32, 128, 128, 64, 32>, Along, Along>(y, z, a, b, bias, d);
}

// a[M,K] b[N,K]ᵀ
extern "C" __global__ void __launch_bounds__(128, 4)
matmul_nt_64x64_tf32(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<TF32, 64, 64, 32, 32>, Along, Along>(y, z, a, b, bias, d);
}

// a[K,M]ᵀ b[K,N]
extern "C" __global__ void __launch_bounds__(256, 2)
matmul_tn_128x128_tf32(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<TF32, 128, 128, 64, 32>, Across, Across>(y, z, a, b, bias, d);
}

// a[K,M]ᵀ b[K,N]
extern "C" __global__ void __launch_bounds__(128, 4)
matmul_tn_64x64_tf32(real* y, float* z, const real* a, const real* b, const float* bias, MatmulDims d) {
    product<Tile<TF32, 64, 64, 32, 32>, Across, Across>(y, z, a, b, bias, d);
}

// y[p,M,N] (+)= Σ_s parts[s,p,M,N] + bias, in the order of s; rounded to y, or in float to z.
extern "C" __global__ void __launch_bounds__(256)
matmul_join(real* __restrict__ y, float* __restrict__ z, const float* __restrict__ parts, const float* __restrict__ bias, JoinDims d) {
    int n = d.products * d.m * d.n;
    for (int i = thread_index(); i < n; i += thread_count()) {
        int column = i % d.n, row = i / d.n;
        int at = row / d.m * d.batch + row % d.m * d.row + column;
        float sum = finished(join_parts(parts + i, n, d.splits), y, z, bias, at, column, d.accumulate);
        if (y)
            set(y[at], sum);
        else
            z[at] = sum;
    }
}

// parts[block y, n] = Σ over a share of the rows of x[rows,n]; a block takes `width` (a power of two) columns.
extern "C" __global__ void __launch_bounds__(256)
matmul_columns(float* __restrict__ parts, const real* __restrict__ x, int rows, int n, int share, int width) {
    __shared__ float sums[256];
    int column = blockIdx.x * width + threadIdx.x % width, lines = 256 / width;
    int from = blockIdx.y * share, to = min(from + share, rows);
    float sum = 0.0f;
    if (column < n) {
#pragma unroll 4
        for (int row = from + threadIdx.x / width; row < to; row += lines) sum += to_float(x[row * n + column]);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= width || column >= n) return;
    for (int line = 1; line < lines; line++) sum += sums[line * width + threadIdx.x];
    parts[blockIdx.y * n + column] = sum;
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
