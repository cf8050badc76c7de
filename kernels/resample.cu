// Images [b,h,w,c] at another size [b,oh,ow,c]. Where outputs lie between inputs is computed as the CPU does, without
// fused multiply-add, so that both read the same pixels with the same weights.
#include "prelude.cuh"

struct ResampleDims {
    int b, h, w, c, oh, ow;
    // Inputs an output, by axis.
    float rows, cols;
};

// What an output reads along an axis: inputs `at` and `next`, and the weight of the second.
struct Tap {
    int at, next;
    float weight;
};

// Of n inputs, the nearest one before: ⌊i · scale⌋.
struct Nearest {
    __device__ static Tap tap(int i, int n, float scale) {
        int at = min((int)__fmul_rn((float)i, scale), n - 1);
        return {at, at, 0.0f};
    }
};

// Of n inputs, the two around (i + ½) · scale - ½.
struct Bilinear {
    __device__ static Tap tap(int i, int n, float scale) {
        float place = fmaxf(__fadd_rn(__fmul_rn((float)i + 0.5f, scale), -0.5f), 0.0f);
        int at = min((int)place, n - 1);
        return {at, min(at + 1, n - 1), place - (float)at};
    }
};

// a · (1 - weight) + b · weight; b is not read where its weight is 0.
template <int N>
__device__ __forceinline__ void mix(float (&a)[N], const real* first, const real* second, float weight) {
    fetch(a, first);
    if (weight == 0.0f) return;
    float b[N];
    fetch(b, second);
#pragma unroll
    for (int i = 0; i < N; i++) a[i] = (1.0f - weight) * a[i] + weight * b[i];
}

template <class Kind, int N>
__device__ __forceinline__ void resample(real* y, const real* x, ResampleDims d) {
    int width = d.c / N;
    int i = thread_index();
    if (i >= d.b * d.oh * d.ow * width) return;
    int channel = i % width * N, pixel = i / width, line = pixel / d.ow, b = line / d.oh;
    Tap row = Kind::tap(line % d.oh, d.h, d.rows), col = Kind::tap(pixel % d.ow, d.w, d.cols);
    const real* first = x + (b * d.h + row.at) * d.w * d.c + channel;
    const real* second = x + (b * d.h + row.next) * d.w * d.c + channel;
    float v[N];
    mix(v, first + col.at * d.c, second + col.at * d.c, row.weight);
    if (col.weight != 0.0f) {
        float u[N];
        mix(u, first + col.next * d.c, second + col.next * d.c, row.weight);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = (1.0f - col.weight) * v[j] + col.weight * u[j];
    }
    put(y + i * N, v);
}

// The weight with which an output reads input r.
__device__ __forceinline__ float weight_of(Tap tap, int r) {
    return (tap.at == r ? 1.0f - tap.weight : 0.0f) + (tap.next == r ? tap.weight : 0.0f);
}

// A range of the m outputs that contains all that read input r: one more on each side than the formula gives, against
// rounding.
struct Range {
    int from, to;
};

__device__ __forceinline__ Range readers(int r, int m, float scale) {
    return {max((int)floorf(__fdividef((float)r - 0.5f, scale) - 0.5f) - 1, 0),
            min((int)ceilf(__fdividef((float)r + 1.5f, scale) - 0.5f) + 2, m)};
}

template <class Kind, int N>
__device__ __forceinline__ void resample_gradient(real* dx, const real* dy, ResampleDims d) {
    int width = d.c / N;
    int i = thread_index();
    if (i >= d.b * d.h * d.w * width) return;
    int channel = i % width * N, pixel = i / width, line = pixel / d.w, b = line / d.h;
    int row = line % d.h, col = pixel % d.w;
    Range rows = readers(row, d.oh, d.rows), cols = readers(col, d.ow, d.cols);
    float sum[N] = {}, v[N];
#pragma unroll 1
    for (int s = cols.from; s < cols.to; s++) {
        float across = weight_of(Kind::tap(s, d.w, d.cols), col);
        if (across == 0.0f) continue;
#pragma unroll 1
        for (int r = rows.from; r < rows.to; r++) {
            float weight = across * weight_of(Kind::tap(r, d.h, d.rows), row);
            if (weight == 0.0f) continue;
            fetch(v, dy + ((b * d.oh + r) * d.ow + s) * d.c + channel);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += weight * v[j];
        }
    }
    put(dx + i * N, sum);
}

// y[i,j] = x[⌊i·h/oh⌋, ⌊j·w/ow⌋]: x [b,h,w,c] -> y [b,oh,ow,c]
extern "C" __global__ void __launch_bounds__(256) resample_nearest_fwd(real* __restrict__ y, const real* __restrict__ x, ResampleDims d) {
    if (packable<real>(d.c)) {
        resample<Nearest, Pack<real>::N>(y, x, d);
    } else {
        resample<Nearest, 1>(y, x, d);
    }
}

// dx = Σ dy over the outputs that copied x: dy [b,oh,ow,c] -> dx [b,h,w,c]
extern "C" __global__ void __launch_bounds__(256) resample_nearest_bwd(real* __restrict__ dx, const real* __restrict__ dy, ResampleDims d) {
    if (packable<real>(d.c)) {
        resample_gradient<Nearest, Pack<real>::N>(dx, dy, d);
    } else {
        resample_gradient<Nearest, 1>(dx, dy, d);
    }
}

// y[i,j] between the four pixels around ((i+½)·h/oh - ½, (j+½)·w/ow - ½): x [b,h,w,c] -> y [b,oh,ow,c]
extern "C" __global__ void __launch_bounds__(256) resample_bilinear_fwd(real* __restrict__ y, const real* __restrict__ x, ResampleDims d) {
    if (packable<real>(d.c)) {
        resample<Bilinear, Pack<real>::N>(y, x, d);
    } else {
        resample<Bilinear, 1>(y, x, d);
    }
}

// dx = Σ weight · dy over the outputs that read x: dy [b,oh,ow,c] -> dx [b,h,w,c]
extern "C" __global__ void __launch_bounds__(256) resample_bilinear_bwd(real* __restrict__ dx, const real* __restrict__ dy, ResampleDims d) {
    if (packable<real>(d.c)) {
        resample_gradient<Bilinear, Pack<real>::N>(dx, dy, d);
    } else {
        resample_gradient<Bilinear, 1>(dx, dy, d);
    }
}
