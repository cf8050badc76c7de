// Losses that are means over their inputs. Forward kernels write partial sums in f64; reduce_total_fwd adds them up.
#include "prelude.cuh"

struct CrossEntropyDims {
    int n, v;
    // Rows with a target.
    int counted;
};

// Calls f(value) for what this thread takes of a row that the block shares.
template <class F>
__device__ __forceinline__ void each_in_row(const real* x, int v, F f) {
    constexpr int N = Pack<real>::N;
    if (packable<real>(v)) {
        for (int at = threadIdx.x * N; at < v; at += 256 * N) {
            Pack<real> p = load_pack(x + at);
#pragma unroll
            for (int i = 0; i < N; i++) f(p.v[i]);
        }
    } else {
        for (int at = threadIdx.x; at < v; at += 256) f(to_float(x[at]));
    }
}

// log_sums = ln Σ e^x, partial = log_sums - x[target], or 0 without one: x [n,v], targets [n] -> [n], [n] in f64.
// A block a row.
extern "C" __global__ void __launch_bounds__(256) loss_cross_entropy_fwd(float* __restrict__ partial, float* __restrict__ log_sums, const real* __restrict__ x, const int* __restrict__ targets, CrossEntropyDims d) {
    __shared__ float shared[8];
    int row = blockIdx.x;
    const real* from = x + row * d.v;
    float top = Max::none(), sum = 0.0f;
    each_in_row(from, d.v, [&](float x) { top = fmaxf(top, x); });
    top = block_reduce<Max, 256>(top, shared);
    each_in_row(from, d.v, [&](float x) { sum += expf(x - top); });
    sum = block_reduce<Sum, 256>(sum, shared);
    if (threadIdx.x == 0) {
        float log_sum = top + logf(sum);
        int target = targets[row];
        log_sums[row] = log_sum;
        doubles(partial)[row] = target >= 0 ? log_sum - to_float(from[target]) : 0.0f;
    }
}

// dx = dy / counted · (e^(x - log_sum) - onehot(target)), 0 without a target: dx, x [n,v], log_sums, targets [n]
extern "C" __global__ void __launch_bounds__(256) loss_cross_entropy_bwd(real* __restrict__ dx, const float* __restrict__ dy, const real* __restrict__ x, const float* __restrict__ log_sums, const int* __restrict__ targets, CrossEntropyDims d) {
    float factor = (float)((double)dy[0] / d.counted);
    for (int i = thread_index(); i < d.n * d.v; i += thread_count()) {
        int row = i / d.v, target = targets[row];
        float g = 0.0f;
        if (target >= 0) {
            g = factor * expf(to_float(x[i]) - log_sums[row]);
            if (i - row * d.v == target) g -= factor;
        }
        set(dx[i], g);
    }
}

// partial[block] = Σ max(x,0) - x · target + ln(1 + e^-|x|): x [n] -> [blocks] in f64
extern "C" __global__ void __launch_bounds__(256) loss_bce_fwd(float* __restrict__ partial, const real* __restrict__ x, int n, float target) {
    __shared__ double shared[8];
    double sum = 0.0;
    each_of(x, n, [&](int, float x) { sum += fmaxf(x, 0.0f) - x * target + log1pf(expf(-fabsf(x))); });
    sum = block_reduce<Sum, 256>(sum, shared);
    if (threadIdx.x == 0) doubles(partial)[blockIdx.x] = sum;
}

// dx = dy / n · (σ(x) - target): dx, x [n]
extern "C" __global__ void __launch_bounds__(256) loss_bce_bwd(real* __restrict__ dx, const float* __restrict__ dy, const real* __restrict__ x, int n, float target) {
    float factor = (float)((double)dy[0] / n);
    map_each(dx, x, n, [=](float x) { return factor * (logistic(x) - target); });
}

// partial[block] = Σ max(0, 1 - sign · x): x [n] -> [blocks] in f64
extern "C" __global__ void __launch_bounds__(256) loss_hinge_fwd(float* __restrict__ partial, const real* __restrict__ x, int n, float sign) {
    __shared__ double shared[8];
    double sum = 0.0;
    each_of(x, n, [&](int, float x) { sum += fmaxf(1.0f - sign * x, 0.0f); });
    sum = block_reduce<Sum, 256>(sum, shared);
    if (threadIdx.x == 0) doubles(partial)[blockIdx.x] = sum;
}

// dx = -sign · dy / n where sign · x < 1, else 0: dx, x [n]
extern "C" __global__ void __launch_bounds__(256) loss_hinge_bwd(real* __restrict__ dx, const float* __restrict__ dy, const real* __restrict__ x, int n, float sign) {
    float factor = (float)((double)dy[0] / n);
    map_each(dx, x, n, [=](float x) { return sign * x < 1.0f ? -sign * factor : 0.0f; });
}

// partial[block] = Σ 1 + logvar - mu² - e^logvar: mu, logvar [n] -> [blocks] in f64
extern "C" __global__ void __launch_bounds__(256) loss_kl_fwd(float* __restrict__ partial, const real* __restrict__ mu, const real* __restrict__ logvar, int n) {
    __shared__ double shared[8];
    double sum = 0.0;
    each_of(mu, n, [&](int, float m) { sum -= m * m; });
    each_of(logvar, n, [&](int, float l) { sum += 1.0f + l - expf(l); });
    sum = block_reduce<Sum, 256>(sum, shared);
    if (threadIdx.x == 0) doubles(partial)[blockIdx.x] = sum;
}

// dmu = dy / n · mu: dmu, mu [n]
extern "C" __global__ void __launch_bounds__(256) loss_kl_mu_bwd(real* __restrict__ dmu, const float* __restrict__ dy, const real* __restrict__ mu, int n) {
    float factor = (float)((double)dy[0] / n);
    map_each(dmu, mu, n, [=](float m) { return factor * m; });
}

// dlogvar = dy / n · ½ · (e^logvar - 1): dlogvar, logvar [n]
extern "C" __global__ void __launch_bounds__(256) loss_kl_logvar_bwd(real* __restrict__ dlogvar, const float* __restrict__ dy, const real* __restrict__ logvar, int n) {
    float factor = (float)((double)dy[0] / n);
    map_each(dlogvar, logvar, n, [=](float l) { return 0.5f * factor * (expf(l) - 1.0f); });
}
