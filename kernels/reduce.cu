// Sums and means, in f64: partial sums of blocks in a scratch buffer, added up in order by a second kernel.
#include "prelude.cuh"

// partial[block] = Σ x over the block's share: x [n] -> partial [blocks] in f64
extern "C" __global__ void __launch_bounds__(256) reduce_sum_fwd(float* __restrict__ partial, const real* __restrict__ x, int n) {
    __shared__ double shared[8];
    double sum = 0.0;
    each_of(x, n, [&](int, float x) { sum += x; });
    sum = block_reduce<Sum, 256>(sum, shared);
    if (threadIdx.x == 0) doubles(partial)[blockIdx.x] = sum;
}

struct TotalDims {
    int count;
    float factor;
    int divisor;
};

// y = factor / divisor · Σ partial: partial [count] in f64 -> y a scalar; one block
extern "C" __global__ void __launch_bounds__(256) reduce_total_fwd(float* __restrict__ y, const float* __restrict__ partial, TotalDims d) {
    __shared__ double shared[8];
    double sum = 0.0;
    for (int i = threadIdx.x; i < d.count; i += 256) sum += doubles(partial)[i];
    sum = block_reduce<Sum, 256>(sum, shared);
    if (threadIdx.x == 0) y[0] = (float)(d.factor * sum / d.divisor);
}

// dx = dy / divisor everywhere: dy a scalar -> dx [n]
extern "C" __global__ void __launch_bounds__(256) reduce_sum_bwd(real* __restrict__ dx, const float* __restrict__ dy, int n, int divisor) {
    constexpr int N = Pack<real>::N;
    float value = (float)(1.0 / divisor * dy[0]);
    Pack<real> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.v[i] = value;
    for (int at = thread_index() * N; at < n; at += thread_count() * N) {
        if (at + N <= n) {
            store_pack(dx + at, pack);
        } else {
            for (int i = at; i < n; i++) set(dx[i], value);
        }
    }
}

struct MiddleDims {
    int b, n, d;
    // A block takes `lanes` columns (a power of two up to 256), `share` rows of the middle dimension.
    int lanes, share;
    float factor;
};

// y = factor · Σₙ x, or with several shares the sums of each: x [b,n,d] -> y [b,d], or partial [shares,b,d] in f64.
// Grid: b · ⌈d / lanes⌉ by shares.
extern "C" __global__ void __launch_bounds__(256) reduce_middle_fwd(real* __restrict__ y, OPTIONAL float* __restrict__ partial, const real* __restrict__ x, MiddleDims d) {
    __shared__ double shared[256];
    int groups = (d.d + d.lanes - 1) / d.lanes, rows = 256 / d.lanes;
    int b = blockIdx.x / groups, lane = threadIdx.x % d.lanes, row = threadIdx.x / d.lanes;
    int column = blockIdx.x % groups * d.lanes + lane;
    int first = blockIdx.y * d.share, end = min(d.n, first + d.share);
    double sum = 0.0;
    if (column < d.d) {
        const real* from = x + b * d.n * d.d + column;
#pragma unroll 4
        for (int i = first + row; i < end; i += rows) sum += to_float(from[i * d.d]);
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (row > 0 || column >= d.d) return;
    for (int r = 1; r < rows; r++) sum += shared[r * d.lanes + lane];
    int to = b * d.d + column;
    if (gridDim.y == 1) {
        set(y[to], (float)(d.factor * sum));
    } else {
        doubles(partial)[blockIdx.y * d.b * d.d + to] = sum;
    }
}

// y = factor · Σ over the shares: partial [shares,n] in f64 -> y [n]
extern "C" __global__ void __launch_bounds__(256) reduce_shares_fwd(real* __restrict__ y, const float* __restrict__ partial, int n, int shares, float factor) {
    for (int i = thread_index(); i < n; i += thread_count()) {
        double sum = 0.0;
        for (int s = 0; s < shares; s++) sum += doubles(partial)[s * n + i];
        set(y[i], (float)(factor * sum));
    }
}

struct SpreadDims {
    int b, n, d;
    float factor;
};

template <int N>
__device__ __forceinline__ void spread(real* y, const real* x, SpreadDims d) {
    int width = d.d / N, count = d.b * d.n * width;
    for (int i = thread_index(); i < count; i += thread_count()) {
        int row = i / width, column = i % width * N;
        float v[N];
        fetch(v, x + row / d.n * d.d + column);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] *= d.factor;
        put(y + row * d.d + column, v);
    }
}

// y = factor · x for every n: x [b,d] -> y [b,n,d]
extern "C" __global__ void __launch_bounds__(256) reduce_spread_fwd(real* __restrict__ y, const real* __restrict__ x, SpreadDims d) {
    if (packable<real>(d.d)) {
        spread<Pack<real>::N>(y, x, d);
    } else {
        spread<1>(y, x, d);
    }
}
