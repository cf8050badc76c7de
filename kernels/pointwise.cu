// Element by element.
#include "prelude.cuh"

// y[n] = x[n], widened
extern "C" __global__ void __launch_bounds__(256) cast_to_f32(float* __restrict__ y, const bf16* __restrict__ x, int n) {
    for (int i = 4 * thread_index(); i < n; i += 4 * thread_count())
        for (int j = i; j < min(i + 4, n); j++) y[j] = to_float(x[j]);
}

// y[n] = x[n], rounded to nearest
extern "C" __global__ void __launch_bounds__(256) cast_to_bf16(bf16* __restrict__ y, const float* __restrict__ x, int n) {
    for (int i = 4 * thread_index(); i < n; i += 4 * thread_count())
        for (int j = i; j < min(i + 4, n); j++) set(y[j], x[j]);
}

// sum[n] += x[n]
extern "C" __global__ void __launch_bounds__(256) accumulate(real* __restrict__ sum, const real* __restrict__ x, int n) {
    for (int i = 4 * thread_index(); i < n; i += 4 * thread_count())
        for (int j = i; j < min(i + 4, n); j++) set(sum[j], to_float(sum[j]) + to_float(x[j]));
}
