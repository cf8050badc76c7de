// Softmax over rows: up to 32 neighboring threads a row, or for long rows a block.
#include "prelude.cuh"

struct SoftmaxDims {
    int rows, c;
    // Threads a row where a warp holds one or more of them: a power of two up to 32.
    int lanes;
};

// Results for each group of `lanes` threads of a warp.
struct Lanes {
    int lanes;
    template <class Op>
    __device__ __forceinline__ float reduce(float x) const {
        for (int step = lanes / 2; step > 0; step >>= 1) x = Op::join(x, __shfl_xor_sync(0xffffffffu, x, step));
        return x;
    }
};

struct Block {
    float* shared;
    template <class Op>
    __device__ __forceinline__ float reduce(float x) const {
        return block_reduce<Op, 256>(x, shared);
    }
};

// y = e^(x - max) / Σ e^(x - max): this thread takes N elements from `first` and every `step`. c is 0 where there is no row.
template <int N, class Team>
__device__ __forceinline__ void softmax_row(real* y, const real* x, int c, int first, int step, Team team) {
    float v[N], top = Max::none(), sum = 0.0f;
    for (int at = first; at < c; at += step) {
        fetch(v, x + at);
#pragma unroll
        for (int i = 0; i < N; i++) top = fmaxf(top, v[i]);
    }
    top = team.template reduce<Max>(top);
    for (int at = first; at < c; at += step) {
        fetch(v, x + at);
#pragma unroll
        for (int i = 0; i < N; i++) sum += expf(v[i] - top);
    }
    float scale = 1.0f / team.template reduce<Sum>(sum);
    for (int at = first; at < c; at += step) {
        fetch(v, x + at);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = expf(v[i] - top) * scale;
        put(y + at, v);
    }
}

// dx = y · (dy - Σ dy · y)
template <int N, class Team>
__device__ __forceinline__ void softmax_row_gradient(real* dx, const real* dy, const real* y, int c, int first, int step, Team team) {
    float v[N], w[N], sum = 0.0f;
    for (int at = first; at < c; at += step) {
        fetch(v, dy + at);
        fetch(w, y + at);
#pragma unroll
        for (int i = 0; i < N; i++) sum += v[i] * w[i];
    }
    sum = team.template reduce<Sum>(sum);
    for (int at = first; at < c; at += step) {
        fetch(v, dy + at);
        fetch(w, y + at);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = w[i] * (v[i] - sum);
        put(dx + at, v);
    }
}

// y = e^x / Σ e^x along each row: x, y [rows,c]; `lanes` threads a row
extern "C" __global__ void __launch_bounds__(256) softmax_lanes_fwd(real* __restrict__ y, const real* __restrict__ x, SoftmaxDims d) {
    constexpr int N = Pack<real>::N;
    int row = thread_index() / d.lanes, lane = thread_index() % d.lanes, c = row < d.rows ? d.c : 0;
    if (packable<real>(d.c)) {
        softmax_row<N>(y + row * d.c, x + row * d.c, c, lane * N, d.lanes * N, Lanes{d.lanes});
    } else {
        softmax_row<1>(y + row * d.c, x + row * d.c, c, lane, d.lanes, Lanes{d.lanes});
    }
}

// dx = y · (dy - Σ dy · y) along each row: dx, dy, y [rows,c]; `lanes` threads a row
extern "C" __global__ void __launch_bounds__(256) softmax_lanes_bwd(real* __restrict__ dx, const real* __restrict__ dy, const real* __restrict__ y, SoftmaxDims d) {
    constexpr int N = Pack<real>::N;
    int row = thread_index() / d.lanes, lane = thread_index() % d.lanes, c = row < d.rows ? d.c : 0, at = row * d.c;
    if (packable<real>(d.c)) {
        softmax_row_gradient<N>(dx + at, dy + at, y + at, c, lane * N, d.lanes * N, Lanes{d.lanes});
    } else {
        softmax_row_gradient<1>(dx + at, dy + at, y + at, c, lane, d.lanes, Lanes{d.lanes});
    }
}

// y = e^x / Σ e^x along each row: x, y [rows,c]; a block a row
extern "C" __global__ void __launch_bounds__(256) softmax_block_fwd(real* __restrict__ y, const real* __restrict__ x, SoftmaxDims d) {
    constexpr int N = Pack<real>::N;
    __shared__ float shared[8];
    int at = blockIdx.x * d.c;
    if (packable<real>(d.c)) {
        softmax_row<N>(y + at, x + at, d.c, threadIdx.x * N, 256 * N, Block{shared});
    } else {
        softmax_row<1>(y + at, x + at, d.c, threadIdx.x, 256, Block{shared});
    }
}

// dx = y · (dy - Σ dy · y) along each row: dx, dy, y [rows,c]; a block a row
extern "C" __global__ void __launch_bounds__(256) softmax_block_bwd(real* __restrict__ dx, const real* __restrict__ dy, const real* __restrict__ y, SoftmaxDims d) {
    constexpr int N = Pack<real>::N;
    __shared__ float shared[8];
    int at = blockIdx.x * d.c;
    if (packable<real>(d.c)) {
        softmax_row_gradient<N>(dx + at, dy + at, y + at, d.c, threadIdx.x * N, 256 * N, Block{shared});
    } else {
        softmax_row_gradient<1>(dx + at, dy + at, y + at, d.c, threadIdx.x, 256, Block{shared});
    }
}
