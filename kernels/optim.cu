// Steps of an optimizer over all parameters at once: a table names the tensors, a block takes a chunk of one of them.
#include "prelude.cuh"

// Elements a block takes.
constexpr int CHUNK = 8192;

// A parameter p of `len` numbers whose chunks begin at `first`: its gradient, the gradient's running moments, its
// average. A null gradient leaves p as it is; a null average is not kept.
struct AdamSlot {
    unsigned long long p, g, m, v, average;
    int len, first;
};

// m += (1 - β₁)(g - m),  v = β₂ v + (1 - β₂) g²,  p -= step_size m / (√v / √(1 - β₂ᵗ) + eps),
// average = decay average + (1 - decay) p, with g times the factor and step_size = lr / (1 - β₁ᵗ)
struct AdamDims {
    int slots;
    float factor, one_minus_beta1, beta2, one_minus_beta2, step_size, bias_correction2_sqrt, eps, decay, one_minus_decay;
};

// A gradient of `len` numbers whose chunks begin at `first`.
struct NormSlot {
    unsigned long long x;
    int len, first;
};

// The slot that chunk `chunk` belongs to: the last that begins at or before it.
template <class Slot>
__device__ __forceinline__ Slot slot_of(const Slot* slots, int n, int chunk) {
    int low = 0;
    while (n > 1) {
        int half = n / 2;
        if (slots[low + half].first <= chunk) low += half;
        n -= half;
    }
    return slots[low];
}

// Everything is read before anything is written, so that all reads are under way at once.
template <int N>
__device__ __forceinline__ void adam_step(const AdamSlot& s, const AdamDims& d, int i) {
    float *p = (float*)s.p + i, *m = (float*)s.m + i, *v = (float*)s.v + i, *average = (float*)s.average + i;
    float weight[N], g[N] = {}, first[N] = {}, second[N] = {}, mean[N] = {};
    fetch(weight, p);
    if (s.g) {
        fetch(g, (const float*)s.g + i);
        fetch(first, m);
        fetch(second, v);
    }
    if (s.average) fetch(mean, average);
    if (s.g) {
#pragma unroll
        for (int k = 0; k < N; k++) {
            float gradient = d.factor * g[k];
            first[k] += d.one_minus_beta1 * (gradient - first[k]);
            second[k] = d.beta2 * second[k] + d.one_minus_beta2 * gradient * gradient;
            weight[k] -= d.step_size * (first[k] / (sqrtf(second[k]) / d.bias_correction2_sqrt + d.eps));
        }
        put(m, first);
        put(v, second);
        put(p, weight);
    }
    if (s.average) {
#pragma unroll
        for (int k = 0; k < N; k++) mean[k] = d.decay * mean[k] + d.one_minus_decay * weight[k];
        put(average, mean);
    }
}

// Adam (Kingma and Ba, 2015) with clipped gradients (factor g) and averages: a block for each chunk of each slot
extern "C" __global__ void __launch_bounds__(256) adam(const AdamSlot* __restrict__ slots, AdamDims d) {
    AdamSlot s = slot_of(slots, d.slots, blockIdx.x);
    int begin = ((int)blockIdx.x - s.first) * CHUNK, end = min(s.len, begin + CHUNK), packed = begin + (end - begin) / 4 * 4;
    for (int i = begin + 4 * threadIdx.x; i < packed; i += 4 * 256) adam_step<4>(s, d, i);
    if (packed + (int)threadIdx.x < end) adam_step<1>(s, d, packed + threadIdx.x);
}

// shared[0] = the sum over a block of 256 threads, added up pair by pair.
__device__ __forceinline__ void tree_sum(double sum, double* shared) {
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 128; step > 0; step >>= 1) {
        if (threadIdx.x < step) shared[threadIdx.x] += shared[threadIdx.x + step];
        __syncthreads();
    }
}

// parts [chunks] of double = Σ x² of a chunk each
extern "C" __global__ void __launch_bounds__(256)
    squared_norm_parts(float* __restrict__ parts, const NormSlot* __restrict__ slots, int n) {
    __shared__ double shared[256];
    NormSlot s = slot_of(slots, n, blockIdx.x);
    const float* x = (const float*)s.x;
    int begin = ((int)blockIdx.x - s.first) * CHUNK, end = min(s.len, begin + CHUNK), packed = begin + (end - begin) / 4 * 4;
    double sum = 0.0;
    for (int i = begin + 4 * threadIdx.x; i < packed; i += 4 * 256) {
        Pack<float> q = load_pack(x + i);
#pragma unroll
        for (int k = 0; k < 4; k++) sum += q.v[k] * q.v[k];
    }
    if (packed + (int)threadIdx.x < end) sum += x[packed + threadIdx.x] * x[packed + threadIdx.x];
    tree_sum(sum, shared);
    if (threadIdx.x == 0) doubles(parts)[blockIdx.x] = shared[0];
}

// y [2] = Σ parts, a double as a float and what the float leaves over: parts [n] of double, one block
extern "C" __global__ void __launch_bounds__(256)
    squared_norm_total(float* __restrict__ y, const float* __restrict__ parts, int n) {
    __shared__ double shared[256];
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) sum += doubles(parts)[i];
    tree_sum(sum, shared);
    if (threadIdx.x == 0) {
        y[0] = (float)shared[0];
        y[1] = shared[0] < 3e38 ? (float)(shared[0] - (double)y[0]) : 0.0f;
    }
}
