// Shared by all kernels: storage types, 16-byte accesses, reductions, random numbers.
#pragma once

// Before a pointer parameter of a kernel: null where there is no tensor (build.rs makes an `Option` of it).
#define OPTIONAL

// ---------------------------------------------------------------- storage

// A bf16 number as it lies in memory; arithmetic is done in float.
struct bf16 {
    unsigned short bits;
};

// `real` is how activations are stored: each file is compiled once with float and once with bf16.
#if STORAGE_BF16
typedef bf16 real;
#else
typedef float real;
#endif

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

// Rounds to nearest, ties to even; a NaN stays one.
__device__ __forceinline__ unsigned short bf16_bits(float x) {
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (unsigned short)(u >> 16 | 0x40u);
    return (unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

__device__ __forceinline__ void set(float& to, float x) { to = x; }
__device__ __forceinline__ void set(bf16& to, float x) { to.bits = bf16_bits(x); }

// ---------------------------------------------------------------- 16 bytes at once

// As many numbers as 16 bytes of T hold, in float.
template <class T>
struct Pack {
    static constexpr int N = 16 / sizeof(T);
    float v[N];
};

// Whether rows of so many elements of T from a 16-byte boundary can be read and written in packs.
template <class T>
__device__ __forceinline__ bool packable(int elements) { return elements % Pack<T>::N == 0; }

__device__ __forceinline__ Pack<float> load_pack(const float* p) {
    float4 q = *reinterpret_cast<const float4*>(p);
    return {{q.x, q.y, q.z, q.w}};
}

__device__ __forceinline__ Pack<bf16> load_pack(const bf16* p) {
    uint4 q = *reinterpret_cast<const uint4*>(p);
    unsigned u[4] = {q.x, q.y, q.z, q.w};
    Pack<bf16> r;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        r.v[2 * i] = __uint_as_float(u[i] << 16);
        r.v[2 * i + 1] = __uint_as_float(u[i] & 0xffff0000u);
    }
    return r;
}

__device__ __forceinline__ void store_pack(float* p, const Pack<float>& x) {
    *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
}

__device__ __forceinline__ void store_pack(bf16* p, const Pack<bf16>& x) {
    unsigned u[4];
#pragma unroll
    for (int i = 0; i < 4; i++) u[i] = bf16_bits(x.v[2 * i]) | (unsigned)bf16_bits(x.v[2 * i + 1]) << 16;
    *reinterpret_cast<uint4*>(p) = make_uint4(u[0], u[1], u[2], u[3]);
}

// ---------------------------------------------------------------- loops

// The calling thread's index among all threads of a one-dimensional grid, and their number.
__device__ __forceinline__ int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int thread_count() { return gridDim.x * blockDim.x; }

// ---------------------------------------------------------------- sums, in one order

struct Sum {
    template <class X>
    __device__ static X join(X a, X b) { return a + b; }
};

struct Max {
    __device__ static float none() { return __int_as_float(0xff800000); }
    __device__ static float join(float a, float b) { return fmaxf(a, b); }
};

// Over the 32 lanes of a warp; every lane gets the result.
template <class Op, class X>
__device__ __forceinline__ X warp_reduce(X x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = Op::join(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Over a block of THREADS (a multiple of 32); every thread gets the result. `shared` holds THREADS / 32 numbers and
// may be used again at once.
template <class Op, int THREADS, class X>
__device__ __forceinline__ X block_reduce(X x, X* shared) {
    constexpr int WARPS = THREADS / 32;
    x = warp_reduce<Op>(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    X total = shared[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) total = Op::join(total, shared[w]);
    __syncthreads();
    return total;
}

// ---------------------------------------------------------------- functions

// 1 / (1 + e^-x)
__device__ __forceinline__ float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

// ---------------------------------------------------------------- random numbers

// Ten rounds of Philox4x32 (Salmon et al., SC 2011), as src/engine/tensor/rng.rs has them.
__device__ __forceinline__ uint4 philox(uint4 c, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned high0 = __umulhi(c.x, 0xD2511F53u), low0 = c.x * 0xD2511F53u;
        unsigned high1 = __umulhi(c.z, 0xCD9E8D57u), low1 = c.z * 0xCD9E8D57u;
        c = make_uint4(high1 ^ c.y ^ key.x, low1, high0 ^ c.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return c;
}

// 24 bits as a number in [0, 1).
__device__ __forceinline__ float unit(unsigned bits) { return (float)(bits >> 8) * (1.0f / 16777216.0f); }

// ---------------------------------------------------------------- numbers that lie together

// The N numbers at p, in float: one, half a pack of bf16 (four), or whole packs of T.
template <int N, class T>
__device__ __forceinline__ void fetch(float (&v)[N], const T* p) {
    constexpr int WHOLE = Pack<T>::N;
    static_assert(N == 1 || N == 4 || N % WHOLE == 0, "one number, half a pack of bf16, or whole packs");
    if constexpr (N == 1) {
        v[0] = to_float(*p);
    } else if constexpr (N < WHOLE) {
        uint2 q = *reinterpret_cast<const uint2*>(p);
        v[0] = __uint_as_float(q.x << 16);
        v[1] = __uint_as_float(q.x & 0xffff0000u);
        v[2] = __uint_as_float(q.y << 16);
        v[3] = __uint_as_float(q.y & 0xffff0000u);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += WHOLE) {
            Pack<T> q = load_pack(p + i);
#pragma unroll
            for (int k = 0; k < WHOLE; k++) v[i + k] = q.v[k];
        }
    }
}

template <int N, class T>
__device__ __forceinline__ void put(T* p, const float (&v)[N]) {
    constexpr int WHOLE = Pack<T>::N;
    static_assert(N == 1 || N == 4 || N % WHOLE == 0, "one number, half a pack of bf16, or whole packs");
    if constexpr (N == 1) {
        set(*p, v[0]);
    } else if constexpr (N < WHOLE) {
        unsigned low = bf16_bits(v[0]) | (unsigned)bf16_bits(v[1]) << 16;
        *reinterpret_cast<uint2*>(p) = make_uint2(low, bf16_bits(v[2]) | (unsigned)bf16_bits(v[3]) << 16);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += WHOLE) {
            Pack<T> q;
#pragma unroll
            for (int k = 0; k < WHOLE; k++) q.v[k] = v[i + k];
            store_pack(p + i, q);
        }
    }
}

// Calls f(i, value of x[i]) for what this thread takes of x [n], in packs; x begins on a 16-byte boundary.
template <class T, class F>
__device__ __forceinline__ void each_of(const T* x, int n, F f) {
    constexpr int N = Pack<T>::N;
    for (int at = thread_index() * N; at < n; at += thread_count() * N) {
        if (at + N <= n) {
            Pack<T> p = load_pack(x + at);
#pragma unroll
            for (int i = 0; i < N; i++) f(at + i, p.v[i]);
        } else {
            for (int i = at; i < n; i++) f(i, to_float(x[i]));
        }
    }
}

// y[i] = f(x[i]) for what this thread takes of x and y [n], in packs.
template <class T, class F>
__device__ __forceinline__ void map_each(T* y, const T* x, int n, F f) {
    constexpr int N = Pack<T>::N;
    for (int at = thread_index() * N; at < n; at += thread_count() * N) {
        if (at + N <= n) {
            Pack<T> p = load_pack(x + at);
#pragma unroll
            for (int i = 0; i < N; i++) p.v[i] = f(p.v[i]);
            store_pack(y + at, p);
        } else {
            for (int i = at; i < n; i++) set(y[i], f(to_float(x[i])));
        }
    }
}

// y[i] = f(a[i], b[i]); y may be a.
template <class F>
__device__ __forceinline__ void map2(real* y, const real* a, const real* b, int n, F f) {
    constexpr int N = Pack<real>::N;
    int packs = n / N;
    for (int i = thread_index(); i < packs; i += thread_count()) {
        Pack<real> p = load_pack(a + i * N), q = load_pack(b + i * N);
#pragma unroll
        for (int k = 0; k < N; k++) p.v[k] = f(p.v[k], q.v[k]);
        store_pack(y + i * N, p);
    }
    int i = packs * N + thread_index();
    if (i < n) set(y[i], f(to_float(a[i]), to_float(b[i])));
}

// ---------------------------------------------------------------- f64

// Numbers of f64 kept in a scratch buffer of twice as many floats.
__device__ __forceinline__ double* doubles(float* scratch) { return reinterpret_cast<double*>(scratch); }
__device__ __forceinline__ const double* doubles(const float* scratch) {
    return reinterpret_cast<const double*>(scratch);
}
