// Element by element: sums, products, activations, the gated linear unit (Dauphin et al., 2017), reparameterization
// (Kingma and Welling, 2014). All tensors of a call have n elements, but for the gated unit.
#include "prelude.cuh"

// y[i] = f(i, x[i]), in packs and what is left over one by one.
template <class F>
__device__ __forceinline__ void map_indexed(real* __restrict__ y, const real* __restrict__ x, int n, F f) {
    constexpr int N = Pack<real>::N;
    int packs = n / N;
    for (int i = thread_index(); i < packs; i += thread_count()) {
        Pack<real> p = load_pack(x + i * N);
#pragma unroll
        for (int k = 0; k < N; k++) p.v[k] = f(i * N + k, p.v[k]);
        store_pack(y + i * N, p);
    }
    int i = packs * N + thread_index();
    if (i < n) set(y[i], f(i, to_float(x[i])));
}

// y[i] = f(x[i])
template <class F>
__device__ __forceinline__ void map1(real* __restrict__ y, const real* __restrict__ x, int n, F f) {
    map_indexed(y, x, n, [=](int, float x) { return f(x); });
}

// y = x, from one storage to the other, four at a time.
template <class To, class From>
__device__ __forceinline__ void cast(To* __restrict__ y, const From* __restrict__ x, int n) {
    int fours = n / 4;
    for (int i = thread_index(); i < fours; i += thread_count()) {
        float v[4];
        fetch(v, x + 4 * i);
        put(y + 4 * i, v);
    }
    int i = 4 * fours + thread_index();
    if (i < n) set(y[i], to_float(x[i]));
}

// y = x, widened
extern "C" __global__ void __launch_bounds__(256) cast_to_f32(float* __restrict__ y, const bf16* __restrict__ x, int n) {
    cast(y, x, n);
}

// y = x, rounded to nearest
extern "C" __global__ void __launch_bounds__(256) cast_to_bf16(bf16* __restrict__ y, const float* __restrict__ x, int n) {
    cast(y, x, n);
}

// y = a + b
extern "C" __global__ void __launch_bounds__(256)
    add_fwd(real* __restrict__ y, const real* __restrict__ a, const real* __restrict__ b, int n) {
    map2(y, a, b, n, [](float a, float b) { return a + b; });
}

// sum += x
extern "C" __global__ void __launch_bounds__(256) accumulate(real* __restrict__ sum, const real* __restrict__ x, int n) {
    map2(sum, sum, x, n, [](float sum, float x) { return sum + x; });
}

// y = a b; backward da = dy b, db = dy a
extern "C" __global__ void __launch_bounds__(256)
    mul_fwd(real* __restrict__ y, const real* __restrict__ a, const real* __restrict__ b, int n) {
    map2(y, a, b, n, [](float a, float b) { return a * b; });
}

// y = factor x; backward dx = factor dy
extern "C" __global__ void __launch_bounds__(256)
    scale_fwd(real* __restrict__ y, const real* __restrict__ x, float factor, int n) {
    map1(y, x, n, [=](float x) { return factor * x; });
}

// y = x scale + shift by channel; backward dx = dy scale: x, y [n] of rows of c; scale, shift [c]
extern "C" __global__ void __launch_bounds__(256)
    affine_channels_fwd(real* __restrict__ y, const real* __restrict__ x, const float* __restrict__ scale,
                        OPTIONAL const float* __restrict__ shift, int n, int c) {
    map_indexed(y, x, n, [=](int i, float x) { return shift ? x * scale[i % c] + shift[i % c] : x * scale[i % c]; });
}

// y = tanh(x)
extern "C" __global__ void __launch_bounds__(256) tanh_fwd(real* __restrict__ y, const real* __restrict__ x, int n) {
    map1(y, x, n, [](float x) { return tanhf(x); });
}

// dx = dy (1 - y²)
extern "C" __global__ void __launch_bounds__(256)
    tanh_bwd(real* __restrict__ dx, const real* __restrict__ dy, const real* __restrict__ y, int n) {
    map2(dx, dy, y, n, [](float dy, float y) { return dy * (1.0f - y * y); });
}

// y = √x
extern "C" __global__ void __launch_bounds__(256) sqrt_fwd(real* __restrict__ y, const real* __restrict__ x, int n) {
    map1(y, x, n, [](float x) { return sqrtf(x); });
}

// dx = dy / 2y
extern "C" __global__ void __launch_bounds__(256)
    sqrt_bwd(real* __restrict__ dx, const real* __restrict__ dy, const real* __restrict__ y, int n) {
    map2(dx, dy, y, n, [](float dy, float y) { return 0.5f * dy / y; });
}

// y = x / s: s a scalar
extern "C" __global__ void __launch_bounds__(256)
    div_by_fwd(real* __restrict__ y, const real* __restrict__ x, const float* __restrict__ s, int n) {
    float divisor = s[0];
    map1(y, x, n, [=](float x) { return x / divisor; });
}

// y = 1 / (1 + e^-x)
extern "C" __global__ void __launch_bounds__(256) sigmoid_fwd(real* __restrict__ y, const real* __restrict__ x, int n) {
    map1(y, x, n, [](float x) { return logistic(x); });
}

// dx = dy y (1 - y)
extern "C" __global__ void __launch_bounds__(256)
    sigmoid_bwd(real* __restrict__ dx, const real* __restrict__ dy, const real* __restrict__ y, int n) {
    map2(dx, dy, y, n, [](float dy, float y) { return dy * y * (1.0f - y); });
}

// y = a σ(b) with x = [a | b]: x [rows, 2c] -> y [rows, c]
extern "C" __global__ void __launch_bounds__(256)
    glu_fwd(real* __restrict__ y, const real* __restrict__ x, int rows, int c) {
    constexpr int N = Pack<real>::N;
    if (packable<real>(c)) {
        int across = c / N;
        for (int i = thread_index(); i < rows * across; i += thread_count()) {
            const real* from = x + (i + i / across * across) * N;
            Pack<real> a = load_pack(from), b = load_pack(from + c);
#pragma unroll
            for (int k = 0; k < N; k++) a.v[k] *= logistic(b.v[k]);
            store_pack(y + i * N, a);
        }
    } else {
        for (int i = thread_index(); i < rows * c; i += thread_count()) {
            const real* from = x + i + i / c * c;
            set(y[i], to_float(from[0]) * logistic(to_float(from[c])));
        }
    }
}

// da = dy σ(b), db = dy a σ(b) (1 - σ(b)): dy [rows, c], x = [a | b] and dx = [da | db] [rows, 2c]
extern "C" __global__ void __launch_bounds__(256)
    glu_bwd(real* __restrict__ dx, const real* __restrict__ dy, const real* __restrict__ x, int rows, int c) {
    constexpr int N = Pack<real>::N;
    if (packable<real>(c)) {
        int across = c / N;
        for (int i = thread_index(); i < rows * across; i += thread_count()) {
            int at = (i + i / across * across) * N;
            Pack<real> d = load_pack(dy + i * N), a = load_pack(x + at), b = load_pack(x + at + c);
#pragma unroll
            for (int k = 0; k < N; k++) {
                float open = logistic(b.v[k]), through = d.v[k] * open;
                b.v[k] = through * a.v[k] * (1.0f - open);
                a.v[k] = through;
            }
            store_pack(dx + at, a);
            store_pack(dx + at + c, b);
        }
    } else {
        for (int i = thread_index(); i < rows * c; i += thread_count()) {
            int at = i + i / c * c;
            float open = logistic(to_float(x[at + c])), through = to_float(dy[i]) * open;
            set(dx[at], through);
            set(dx[at + c], through * to_float(x[at]) * (1.0f - open));
        }
    }
}

// y = mu + spread, spread = e^(logvar / 2) eps; the noise is float however the rest is stored
extern "C" __global__ void __launch_bounds__(256)
    reparameterize_fwd(real* __restrict__ y, real* __restrict__ spread, const real* __restrict__ mu,
                       const real* __restrict__ logvar, const float* __restrict__ eps, int n) {
    for (int i = thread_index(); i < n; i += thread_count()) {
        float s = expf(0.5f * to_float(logvar[i])) * eps[i];
        set(spread[i], s);
        set(y[i], to_float(mu[i]) + s);
    }
}

// dlogvar = dy spread / 2
extern "C" __global__ void __launch_bounds__(256)
    reparameterize_bwd(real* __restrict__ dlogvar, const real* __restrict__ dy, const real* __restrict__ spread, int n) {
    map2(dlogvar, dy, spread, n, [](float dy, float s) { return 0.5f * dy * s; });
}
