// Random numbers by counter (Philox4x32-10, Salmon et al., SC 2011) and the noise made of them: the same numbers, bit
// for bit, as src/engine/tensor/rng.rs makes on the CPU. So every operation here rounds once, as written: no fused
// multiply-add, no library function.
#include "prelude.cuh"

// A position in a random sequence: the key, the number of the sequence, and the blocks of four drawn before.
struct RandomDims {
    unsigned long long seed, drawn;
    unsigned stream;
    int n;
};

// The four numbers of block `i` from that position.
__device__ __forceinline__ uint4 block_at(RandomDims d, int i) {
    unsigned long long at = d.drawn + i;
    return philox(make_uint4((unsigned)at, (unsigned)(at >> 32), d.stream, 0),
                  make_uint2((unsigned)d.seed, (unsigned)(d.seed >> 32)));
}

// Blocks of four to y[n]: f(block) gives four floats.
template <class F>
__device__ __forceinline__ void fill(float* y, RandomDims d, F f) {
    int blocks = (d.n + 3) / 4;
    for (int i = thread_index(); i < blocks; i += thread_count()) {
        Pack<float> p = f(block_at(d, i));
        if (4 * i + 4 <= d.n) {
            store_pack(y + 4 * i, p);
        } else {
#pragma unroll
            for (int k = 0; k < 3; k++)
                if (4 * i + k < d.n) y[4 * i + k] = p.v[k];
        }
    }
}

// y = lo + span u, u uniform in [0, 1): y [n]
extern "C" __global__ void __launch_bounds__(256)
    random_uniform(float* __restrict__ y, RandomDims d, float lo, float span) {
    fill(y, d, [=](uint4 b) {
        auto place = [=](unsigned bits) { return __fadd_rn(lo, __fmul_rn(span, unit(bits))); };
        return Pack<float>{{place(b.x), place(b.y), place(b.z), place(b.w)}};
    });
}

// The natural logarithm of x in (0, 1]: exponent apart, ln(m) = 2 artanh((m-1)/(m+1)) by its series.
__device__ __forceinline__ float logarithm(float x) {
    unsigned bits = __float_as_uint(x);
    float m = __uint_as_float((bits & 0x007fffffu) | 0x3f800000u);
    int e = (int)(bits >> 23) - 127;
    if (m > 1.41421356237309504880f) {
        m = __fmul_rn(m, 0.5f);
        e++;
    }
    float t = __fdiv_rn(__fadd_rn(m, -1.0f), __fadd_rn(m, 1.0f)), s = __fmul_rn(t, t);
    float series = __fadd_rn(1.0f / 7.0f, __fmul_rn(s, 1.0f / 9.0f));
    series = __fadd_rn(0.2f, __fmul_rn(s, series));
    series = __fadd_rn(1.0f / 3.0f, __fmul_rn(s, series));
    series = __fadd_rn(1.0f, __fmul_rn(s, series));
    return __fadd_rn(__fmul_rn(__fmul_rn(2.0f, t), series), __fmul_rn((float)e, 0.693147180559945309417f));
}

// Sine and cosine of 2πx for x in [0, 1): the nearest quarter turn apart, Taylor's series on the rest.
__device__ __forceinline__ float2 sin_cos_turns(float x) {
    float turns = __fmul_rn(x, 4.0f), quarter = floorf(__fadd_rn(turns, 0.5f));
    float y = __fmul_rn(__fadd_rn(turns, -quarter), 1.57079632679489661923f), s = __fmul_rn(y, y);
    auto less = [=](float a, float b) { return __fadd_rn(a, -__fmul_rn(s, b)); };
    float sin = __fmul_rn(y, less(1.0f, less(1.0f / 6.0f, less(1.0f / 120.0f, less(1.0f / 5040.0f, 1.0f / 362880.0f)))));
    float cos = less(1.0f, less(0.5f, less(1.0f / 24.0f, less(1.0f / 720.0f, 1.0f / 40320.0f))));
    switch ((int)quarter & 3) {
        case 0: return make_float2(sin, cos);
        case 1: return make_float2(cos, -sin);
        case 2: return make_float2(-sin, -cos);
        default: return make_float2(-cos, sin);
    }
}

// Box and Muller's transformation: two standard normals of two uniforms.
__device__ __forceinline__ float2 normal_pair(unsigned a, unsigned b) {
    float u = __fmul_rn(__fadd_rn((float)(a >> 8), 1.0f), 1.0f / 16777216.0f);
    float radius = __fsqrt_rn(__fmul_rn(-2.0f, logarithm(u)));
    float2 turn = sin_cos_turns(unit(b));
    return make_float2(__fmul_rn(radius, turn.y), __fmul_rn(radius, turn.x));
}

// y standard normal: y [n]
extern "C" __global__ void __launch_bounds__(256) random_normal(float* __restrict__ y, RandomDims d) {
    fill(y, d, [](uint4 b) {
        float2 first = normal_pair(b.x, b.y), second = normal_pair(b.z, b.w);
        return Pack<float>{{first.x, first.y, second.x, second.y}};
    });
}

// y = x scale with probability 1 - p, else 0 (Srivastava et al., 2014), scale = 1 / (1 - p): x, y [n]. Backward
// calls it with dy and redraws the mask.
extern "C" __global__ void __launch_bounds__(256)
    dropout_fwd(real* __restrict__ y, const real* __restrict__ x, RandomDims d, float p, float scale) {
    constexpr int N = Pack<real>::N;
    auto kept = [=](float x, unsigned bits) { return unit(bits) < p ? 0.0f : scale * x; };
    int packs = d.n / N;
    for (int i = thread_index(); i < packs; i += thread_count()) {
        Pack<real> v = load_pack(x + i * N);
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            uint4 b = block_at(d, i * (N / 4) + k / 4);
            v.v[k] = kept(v.v[k], b.x);
            v.v[k + 1] = kept(v.v[k + 1], b.y);
            v.v[k + 2] = kept(v.v[k + 2], b.z);
            v.v[k + 3] = kept(v.v[k + 3], b.w);
        }
        store_pack(y + i * N, v);
    }
    int i = packs * N + thread_index();
    if (i < d.n) {
        uint4 b = block_at(d, i / 4);
        unsigned bits = i % 4 < 2 ? (i % 4 == 0 ? b.x : b.y) : (i % 4 == 2 ? b.z : b.w);
        set(y[i], kept(to_float(x[i]), bits));
    }
}
