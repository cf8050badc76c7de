// Depthwise convolution: each channel has its own k×k filter. Images x [b,h,w,c] and y [b,oh,ow,c]; w [c,k,k], read as
// taps [k·k,c], always float. Output o reads input o·stride - top + r (left + s) through tap (r,s); gradients are gathered.
#include "prelude.cuh"

struct DepthwiseDims {
    int b, h, w, c, oh, ow, k, stride, top, left;
};

// w [c,n] -> taps [n,c]
extern "C" __global__ void __launch_bounds__(256) depthwise_taps_fwd(float* __restrict__ taps, const float* __restrict__ w, int n, int c) {
    int i = thread_index();
    if (i < n * c) taps[i] = w[i % c * n + i / c];
}

// N channels of one output.
template <int K, int N>
__device__ __forceinline__ void convolve(real* y, const real* x, const float* taps, DepthwiseDims d) {
    int i = thread_index();
    if (i >= d.b * d.oh * d.ow * d.c / N) return;
    int width = d.c / N, channel = i % width * N, pixel = i / width, line = pixel / d.ow;
    int row = line % d.oh * d.stride - d.top, col = pixel % d.ow * d.stride - d.left;
    const real* image = x + line / d.oh * d.h * d.w * d.c + channel;
    float sum[N] = {}, v[N], t[N];
#pragma unroll 1
    for (int r = 0; r < K; r++) {
        if (row + r < 0 || row + r >= d.h) continue;
#pragma unroll
        for (int s = 0; s < K; s++) {
            if (col + s < 0 || col + s >= d.w) continue;
            fetch(v, image + ((row + r) * d.w + col + s) * d.c);
            fetch(t, taps + (r * K + s) * d.c + channel);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += v[j] * t[j];
        }
    }
    put(y + i * N, sum);
}

// y = x ∗ w: x [b,h,w,c], taps [k·k,c] -> y [b,oh,ow,c]; k is 3 or 5
extern "C" __global__ void __launch_bounds__(256) depthwise_fwd(real* __restrict__ y, const real* __restrict__ x, const float* __restrict__ taps, DepthwiseDims d) {
    constexpr int N = Pack<real>::N;
    if (packable<real>(d.c)) {
        if (d.k == 3) convolve<3, N>(y, x, taps, d);
        else convolve<5, N>(y, x, taps, d);
    } else {
        if (d.k == 3) convolve<3, 1>(y, x, taps, d);
        else convolve<5, 1>(y, x, taps, d);
    }
}

// N channels of one input's gradient: over the outputs that read it, in the order of the taps.
template <int K, int N>
__device__ __forceinline__ void input_gradient(real* dx, const real* dy, const float* taps, DepthwiseDims d) {
    int i = thread_index();
    if (i >= d.b * d.h * d.w * d.c / N) return;
    int width = d.c / N, channel = i % width * N, pixel = i / width, line = pixel / d.w;
    int row = line % d.h + d.top, col = pixel % d.w + d.left;
    const real* image = dy + line / d.h * d.oh * d.ow * d.c + channel;
    // Filters come four at a time, for want of registers.
    constexpr int HALF = N == 1 ? 1 : 4;
    float sum[N] = {}, v[N], t[HALF];
#pragma unroll 1
    for (int r = row % d.stride; r < K; r += d.stride) {
        int from = (row - r) / d.stride;
        if (row < r || from >= d.oh) continue;
#pragma unroll 1
        for (int s = col % d.stride; s < K; s += d.stride) {
            int at = (col - s) / d.stride;
            if (col < s || at >= d.ow) continue;
            fetch(v, image + (from * d.ow + at) * d.c);
#pragma unroll
            for (int half = 0; half < N; half += HALF) {
                fetch(t, taps + (r * K + s) * d.c + channel + half);
#pragma unroll
                for (int j = 0; j < HALF; j++) sum[half + j] += v[half + j] * t[j];
            }
        }
    }
    put(dx + i * N, sum);
}

// dx = Σ dy w over the outputs that read x: dy [b,oh,ow,c], taps [k·k,c] -> dx [b,h,w,c]
extern "C" __global__ void __launch_bounds__(256) depthwise_bwd(real* __restrict__ dx, const real* __restrict__ dy, const float* __restrict__ taps, DepthwiseDims d) {
    constexpr int N = Pack<real>::N;
    if (packable<real>(d.c)) {
        if (d.k == 3) input_gradient<3, N>(dx, dy, taps, d);
        else input_gradient<5, N>(dx, dy, taps, d);
    } else {
        if (d.k == 3) input_gradient<3, 1>(dx, dy, taps, d);
        else input_gradient<5, 1>(dx, dy, taps, d);
    }
}

// A block has 32 channels side by side and 8 lines of outputs at a time, of the `share` lines that it sums.
template <int K>
__device__ __forceinline__ void filter_gradient(float* partial, const real* dy, const real* x, int share, DepthwiseDims d, float* shared) {
    int lane = threadIdx.x / 32, channel = blockIdx.x * 32 + threadIdx.x % 32;
    int first = blockIdx.y * share, end = min(first + share, d.b * d.oh);
    float sum[K * K] = {};
    if (channel < d.c) {
#pragma unroll 1
        for (int line = first + lane; line < end; line += 8) {
            const real* image = x + line / d.oh * d.h * d.w * d.c + channel;
            int row = line % d.oh * d.stride - d.top;
#pragma unroll 1
            for (int o = 0; o < d.ow; o++) {
                float g = to_float(dy[(line * d.ow + o) * d.c + channel]);
                int col = o * d.stride - d.left;
#pragma unroll
                for (int r = 0; r < K; r++) {
#pragma unroll
                    for (int s = 0; s < K; s++) {
                        bool inside = row + r >= 0 && row + r < d.h && col + s >= 0 && col + s < d.w;
                        if (inside) sum[r * K + s] += g * to_float(image[((row + r) * d.w + col + s) * d.c]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (int tap = 0; tap < K * K; tap++) {
        shared[threadIdx.x] = sum[tap];
        __syncthreads();
        if (lane == 0 && channel < d.c) {
            float total = 0.0f;
            for (int l = 0; l < 8; l++) total += shared[l * 32 + threadIdx.x];
            partial[(blockIdx.y * K * K + tap) * d.c + channel] = total;
        }
        __syncthreads();
    }
}

// dy [b,oh,ow,c], x [b,h,w,c] -> partial [shares,k·k,c]. Grid: ⌈c / 32⌉ by shares.
extern "C" __global__ void __launch_bounds__(256) depthwise_bwd_w(float* __restrict__ partial, const real* __restrict__ dy, const real* __restrict__ x, int share, DepthwiseDims d) {
    __shared__ float shared[256];
    if (d.k == 3) filter_gradient<3>(partial, dy, x, share, d, shared);
    else filter_gradient<5>(partial, dy, x, share, d, shared);
}

// dw = Σ over the shares: partial [shares,n,c] -> dw [c,n]
extern "C" __global__ void __launch_bounds__(256) depthwise_sum_bwd_w(float* __restrict__ dw, const float* __restrict__ partial, int shares, int n, int c) {
    int i = thread_index();
    if (i >= n * c) return;
    double sum = 0.0;
    for (int s = 0; s < shares; s++) sum += partial[s * n * c + i];
    dw[i % c * n + i / c] = (float)sum;
}
