// Pooling of images [b,h,w,c] over windows to [b,oh,ow,c]. Gradients are gathered: each input sums over the windows
// that read it, in their order.
#include "prelude.cuh"

struct PoolDims {
    int b, h, w, c, oh, ow;
    // Windows of k×k at steps of stride; with k = 0, bins that divide the image.
    int k, stride, pad;
    // Averages divide by the pixels that a window has inside of the image; otherwise by k·k.
    int inside;
};

struct Range {
    int from, to;
};

// What output i reads along an axis of n inputs and m outputs.
__device__ __forceinline__ Range window(int i, int n, int m, PoolDims d) {
    if (d.k == 0) return {i * n / m, ((i + 1) * n + m - 1) / m};
    int start = i * d.stride - d.pad;
    return {max(start, 0), min(start + d.k, n)};
}

// Which outputs read input r along an axis of n inputs and m outputs.
__device__ __forceinline__ Range readers(int r, int n, int m, PoolDims d) {
    if (d.k == 0) return {r * m / n, ((r + 1) * m + n - 1) / n};
    int past = r + d.pad - d.k + d.stride;
    return {max(past, 0) / d.stride, min((r + d.pad) / d.stride + 1, m)};
}

// 1 / the divisor of a window: all of k×k, pad and all, or its pixels inside of the image, which are all of a bin's.
__device__ __forceinline__ float share(Range rows, Range cols, PoolDims d) {
    int area = d.inside ? (rows.to - rows.from) * (cols.to - cols.from) : d.k * d.k;
    return 1.0f / area;
}

// A pixel of images of height h and width w, and N channels of it from `channel`.
struct Pixel {
    int b, row, col, channel;
};

template <int N>
__device__ __forceinline__ Pixel place(int i, int h, int w, int c) {
    int width = c / N, pixel = i / width, line = pixel / w;
    return {line / h, line % h, pixel % w, i % width * N};
}

// The maximum of a window and which of its pixels it is, counted from the corner of the window before it is clipped: the
// first maximum, or the last NaN.
template <int N>
__device__ __forceinline__ void largest(float (&top)[N], int (&winner)[N], const real* x, Pixel p, PoolDims d) {
    Range rows = window(p.row, d.h, d.oh, d), cols = window(p.col, d.w, d.ow, d);
    int corner = (p.row * d.stride - d.pad) * d.k + p.col * d.stride - d.pad;
#pragma unroll
    for (int j = 0; j < N; j++) {
        top[j] = Max::none();
        winner[j] = rows.from * d.k + cols.from - corner;
    }
#pragma unroll 1
    for (int r = rows.from; r < rows.to; r++) {
#pragma unroll 1
        for (int s = cols.from; s < cols.to; s++) {
            float v[N];
            fetch(v, x + ((p.b * d.h + r) * d.w + s) * d.c + p.channel);
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (v[j] > top[j] || v[j] != v[j]) {
                    top[j] = v[j];
                    winner[j] = r * d.k + s - corner;
                }
            }
        }
    }
}

template <int N>
__device__ __forceinline__ void max_pool(real* y, const real* x, PoolDims d) {
    int i = thread_index();
    if (i >= d.b * d.oh * d.ow * d.c / N) return;
    float top[N];
    int winner[N];
    largest(top, winner, x, place<N>(i, d.oh, d.ow, d.c), d);
    put(y + i * N, top);
}

// y = max of x over each window: x [b,h,w,c] -> y [b,oh,ow,c]
extern "C" __global__ void __launch_bounds__(256) pool_max_fwd(real* __restrict__ y, const real* __restrict__ x, PoolDims d) {
    if (packable<real>(d.c)) {
        max_pool<Pack<real>::N>(y, x, d);
    } else {
        max_pool<1>(y, x, d);
    }
}

// The argmax of N outputs, 16 bits each.
template <int N>
__device__ __forceinline__ void put_winners(unsigned short* p, const int (&winner)[N]) {
    if constexpr (N == 1) {
        *p = winner[0];
    } else {
        uint2 q = make_uint2(winner[0] | winner[1] << 16, winner[2] | winner[3] << 16);
        if constexpr (N == 8) {
            *reinterpret_cast<uint4*>(p) =
                make_uint4(q.x, q.y, winner[4] | winner[5] << 16, winner[6] | winner[7] << 16);
        } else {
            *reinterpret_cast<uint2*>(p) = q;
        }
    }
}

template <int N>
__device__ __forceinline__ void fetch_winners(int (&winner)[N], const unsigned short* p) {
    if constexpr (N == 1) {
        winner[0] = *p;
    } else {
        unsigned u[N / 2];
        if constexpr (N == 8) {
            uint4 q = *reinterpret_cast<const uint4*>(p);
            u[0] = q.x, u[1] = q.y, u[2] = q.z, u[3] = q.w;
        } else {
            uint2 q = *reinterpret_cast<const uint2*>(p);
            u[0] = q.x, u[1] = q.y;
        }
#pragma unroll
        for (int j = 0; j < N; j++) winner[j] = u[j / 2] >> (j % 2 * 16) & 0xffff;
    }
}

template <int N>
__device__ __forceinline__ void find_winners(unsigned short* argmax, const real* x, PoolDims d) {
    int i = thread_index();
    if (i >= d.b * d.oh * d.ow * d.c / N) return;
    float top[N];
    int winner[N];
    largest(top, winner, x, place<N>(i, d.oh, d.ow, d.c), d);
    put_winners(argmax + i * N, winner);
}

// Which pixel of each window is its largest: x [b,h,w,c] -> argmax [b,oh,ow,c], 16 bits each
extern "C" __global__ void __launch_bounds__(256) pool_argmax_bwd(float* __restrict__ argmax, const real* __restrict__ x, PoolDims d) {
    unsigned short* to = reinterpret_cast<unsigned short*>(argmax);
    if (packable<real>(d.c)) {
        find_winners<Pack<real>::N>(to, x, d);
    } else {
        find_winners<1>(to, x, d);
    }
}

template <int N>
__device__ __forceinline__ void max_pool_gradient(real* dx, const real* dy, const unsigned short* argmax, PoolDims d) {
    int i = thread_index();
    if (i >= d.b * d.h * d.w * d.c / N) return;
    Pixel p = place<N>(i, d.h, d.w, d.c);
    Range rows = readers(p.row, d.h, d.oh, d), cols = readers(p.col, d.w, d.ow, d);
    float sum[N] = {}, v[N];
    int winner[N];
#pragma unroll 1
    for (int r = rows.from; r < rows.to; r++) {
#pragma unroll 1
        for (int s = cols.from; s < cols.to; s++) {
            int self = (p.row + d.pad - r * d.stride) * d.k + p.col + d.pad - s * d.stride;
            int at = ((p.b * d.oh + r) * d.ow + s) * d.c + p.channel;
            fetch(v, dy + at);
            fetch_winners(winner, argmax + at);
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (winner[j] == self) sum[j] += v[j];
            }
        }
    }
    put(dx + i * N, sum);
}

// dx = Σ dy over the windows that x won: dy, argmax [b,oh,ow,c] -> dx [b,h,w,c]
extern "C" __global__ void __launch_bounds__(256) pool_max_bwd(real* __restrict__ dx, const real* __restrict__ dy, const float* __restrict__ argmax, PoolDims d) {
    const unsigned short* from = reinterpret_cast<const unsigned short*>(argmax);
    if (packable<real>(d.c)) {
        max_pool_gradient<Pack<real>::N>(dx, dy, from, d);
    } else {
        max_pool_gradient<1>(dx, dy, from, d);
    }
}

template <int N>
__device__ __forceinline__ void average(real* y, const real* x, PoolDims d) {
    int i = thread_index();
    if (i >= d.b * d.oh * d.ow * d.c / N) return;
    Pixel p = place<N>(i, d.oh, d.ow, d.c);
    Range rows = window(p.row, d.h, d.oh, d), cols = window(p.col, d.w, d.ow, d);
    float sum[N] = {}, v[N], factor = share(rows, cols, d);
#pragma unroll 1
    for (int r = rows.from; r < rows.to; r++) {
#pragma unroll 1
        for (int s = cols.from; s < cols.to; s++) {
            fetch(v, x + ((p.b * d.h + r) * d.w + s) * d.c + p.channel);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += v[j];
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] *= factor;
    put(y + i * N, sum);
}

// y = mean of x over each window or bin: x [b,h,w,c] -> y [b,oh,ow,c]
extern "C" __global__ void __launch_bounds__(256) pool_average_fwd(real* __restrict__ y, const real* __restrict__ x, PoolDims d) {
    if (packable<real>(d.c)) {
        average<Pack<real>::N>(y, x, d);
    } else {
        average<1>(y, x, d);
    }
}

template <int N>
__device__ __forceinline__ void average_gradient(real* dx, const real* dy, PoolDims d) {
    int i = thread_index();
    if (i >= d.b * d.h * d.w * d.c / N) return;
    Pixel p = place<N>(i, d.h, d.w, d.c);
    Range rows = readers(p.row, d.h, d.oh, d), cols = readers(p.col, d.w, d.ow, d);
    float sum[N] = {}, v[N];
#pragma unroll 1
    for (int r = rows.from; r < rows.to; r++) {
#pragma unroll 1
        for (int s = cols.from; s < cols.to; s++) {
            float factor = share(window(r, d.h, d.oh, d), window(s, d.w, d.ow, d), d);
            fetch(v, dy + ((p.b * d.oh + r) * d.ow + s) * d.c + p.channel);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += factor * v[j];
        }
    }
    put(dx + i * N, sum);
}

// dx = Σ dy / divisor over the windows that read x: dy [b,oh,ow,c] -> dx [b,h,w,c]
extern "C" __global__ void __launch_bounds__(256, 4) pool_average_bwd(real* __restrict__ dx, const real* __restrict__ dy, PoolDims d) {
    if (packable<real>(d.c)) {
        average_gradient<Pack<real>::N>(dx, dy, d);
    } else {
        average_gradient<1>(dx, dy, d);
    }
}
