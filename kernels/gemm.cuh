// One tiled product c[M,N] = Σ_k a[m,k] b[n,k] for matrices, convolution windows and their gradients.
//
// A block computes a BM×BN tile; each of its warps a WM×WN part of it. Blocks of 64 bytes of K go through a ring of
// STAGES buffers in shared memory, copied asynchronously where 16 bytes lie together, else gathered one by one. Loaders
// define where the elements come from, the epilogue where the sums go. An operand has the same order in shared memory as
// in global memory: K-major (rows of the tile, 64 bytes of K each) or MN-major (rows of K). Chunks of 16 bytes are
// swizzled within their rows, so that the reads and writes below have no bank conflicts.
#pragma once
#include "mma.cuh"

enum Arithmetic { FMA, TF32, BF16 };

// What a file's plain kernels compute with: bf16 goes to the tensor cores wherever there are some.
#if STORAGE_BF16 && TENSOR_CORES
constexpr Arithmetic NATIVE = BF16;
#else
constexpr Arithmetic NATIVE = FMA;
#endif

// TF32 kernels are empty where they cannot run.
constexpr bool HAS_TF32 = TENSOR_CORES && sizeof(real) == 4;

extern __shared__ __align__(128) char shared_bytes[];

// ---------------------------------------------------------------- shapes

// The shape of a tile. BLOCKS_*: blocks that a multiprocessor shall hold, with plain multiply-adds and with tensor cores.
template <Arithmetic MATH_, int BM_, int BN_, int WM_, int WN_, int BLOCKS_FMA, int BLOCKS_MMA>
struct Tile {
    static constexpr Arithmetic MATH = MATH_;
    static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_;
    static constexpr int THREADS = BM / WM * (BN / WN) * 32, BLOCKS = MATH == FMA ? BLOCKS_FMA : BLOCKS_MMA;
    // Elements of a block of K and of a chunk, chunks of a block of K.
    static constexpr int BK = 64 / sizeof(real), CHUNK = 16 / sizeof(real), CHUNKS = 4;
    static constexpr int STAGES = 4, A_BYTES = BM * 64, STAGE_BYTES = (BM + BN) * 64;
    // Sums of one thread.
    static constexpr int SUMS = WM * WN / 32;
    // Finished sums lie in rows of so many floats; 8 more than a power of two keeps fragments off each other's banks.
    static constexpr int ROW = BN + 8;
    static constexpr int RING_BYTES = STAGES * STAGE_BYTES, SUM_BYTES = BM * ROW * 4;
    // Behind both lies one number for each row.
    static constexpr int TABLE = RING_BYTES > SUM_BYTES ? RING_BYTES : SUM_BYTES;
    static_assert(THREADS % CHUNKS == 0 && BM * CHUNKS % THREADS == 0 && BN * CHUNKS % THREADS == 0);
    __device__ static int* table() { return reinterpret_cast<int*>(shared_bytes + TABLE); }
};

// The tiles: src/engine/ops/gemm.rs, `TILES`, has a row for each. 128×128 and 128×64 for many rows and columns, 64×64 for
// small products, 128×32 for few columns.
template <Arithmetic MATH>
using Tile128x128 = Tile<MATH, 128, 128, 64, 32, 1, 2>;
template <Arithmetic MATH>
using Tile128x64 = Tile<MATH, 128, 64, 64, 32, 3, 3>;
template <Arithmetic MATH>
using Tile64x64 = Tile<MATH, 64, 64, 32, 32, 3, 4>;
template <Arithmetic MATH>
using Tile128x32 = Tile<MATH, 128, 32, 32, 32, 3, 4>;

// INSTANCES(name, (parameters), (arguments), tiles..) makes kernels of the function template `name<Tile>`: for each tile
// name_TILE, which computes in the file's own arithmetic, and name_TILE_tf32. build.rs reads the same line and writes
// the launchers and a table of them.
#define INSTANCE(name, parameters, arguments, tile, suffix, math)                                     \
    extern "C" __global__ void __launch_bounds__(Tile##tile<math>::THREADS, Tile##tile<math>::BLOCKS) \
    name##_##tile##suffix parameters { name<Tile##tile<math>> arguments; }
#define INSTANCES_1(name, parameters, arguments, tile)       \
    INSTANCE(name, parameters, arguments, tile, , NATIVE)    \
    INSTANCE(name, parameters, arguments, tile, _tf32, TF32)
#define INSTANCES_2(n, p, a, tile, ...) INSTANCES_1(n, p, a, tile) INSTANCES_1(n, p, a, __VA_ARGS__)
#define INSTANCES_3(n, p, a, tile, ...) INSTANCES_1(n, p, a, tile) INSTANCES_2(n, p, a, __VA_ARGS__)
#define INSTANCES_4(n, p, a, tile, ...) INSTANCES_1(n, p, a, tile) INSTANCES_3(n, p, a, __VA_ARGS__)
#define INSTANCES_5(n, p, a, tile, ...) INSTANCES_1(n, p, a, tile) INSTANCES_4(n, p, a, __VA_ARGS__)
#define INSTANCES_6(n, p, a, tile, ...) INSTANCES_1(n, p, a, tile) INSTANCES_5(n, p, a, __VA_ARGS__)
#define INSTANCES_COUNT(a, b, c, d, e, f, chosen, ...) chosen
#define INSTANCES(n, p, a, ...)                                                                              \
    INSTANCES_COUNT(__VA_ARGS__, INSTANCES_6, INSTANCES_5, INSTANCES_4, INSTANCES_3, INSTANCES_2, INSTANCES_1, ) \
    (n, p, a, __VA_ARGS__)

// How an operand of ROWS rows (columns for b) lies in shared memory, and which chunks a thread brings.
template <class T, int ROWS, bool K_MAJOR>
struct Layout;

template <class T, int ROWS>
struct Layout<T, ROWS, true> {
    static constexpr int PASSES = ROWS * T::CHUNKS / T::THREADS;
    // Row of pass i, and first k of this thread's chunks.
    __device__ static int row(int i) { return threadIdx.x / T::CHUNKS + i * (T::THREADS / T::CHUNKS); }
    __device__ static int k() { return threadIdx.x % T::CHUNKS * T::CHUNK; }
    __device__ static int mine(int i) { return at(row(i), threadIdx.x % T::CHUNKS); }
    __device__ static int at(int row, int chunk) { return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4); }
};

template <class T, int ROWS>
struct Layout<T, ROWS, false> {
    static constexpr int PER_K = ROWS / T::CHUNK;
    static constexpr int PASSES = ROWS * T::CHUNKS / T::THREADS;
    // k of pass i, and first row of this thread's chunks.
    __device__ static int k(int i) { return threadIdx.x / PER_K + i * (T::THREADS / PER_K); }
    __device__ static int row() { return threadIdx.x % PER_K * T::CHUNK; }
    __device__ static int mine(int i) { return at(k(i), threadIdx.x % PER_K); }
    __device__ static int at(int k, int chunk) {
        // A fragment is read as 8 rows of one chunk (16 bits) or as 4 rows of two (32 bits).
        int swizzle = sizeof(real) == 4 ? (k & 3) * 2 : PER_K >= 8 ? k & 7 : k >> 1 & 3;
        return k * (ROWS * (int)sizeof(real)) + ((chunk ^ swizzle) << 4);
    }
};

// ---------------------------------------------------------------- loaders

// A loader says where the chunk of pass i lies and whether it lies inside (`chunk`), collects its elements one by one,
// zeros outside (`gather`), and goes to the next block of K (`advance`). `packed`: whether chunks are 16 bytes that lie
// together on their boundary, wholly inside or wholly outside (or filled up with zeros).

// A matrix in K-major order: element (row, k) is data[row·stride + k].
template <class T, int ROWS>
struct KMajor {
    static constexpr bool K_MAJOR = true;
    typedef Layout<T, ROWS, true> SharedLayout;
    const real* data;
    int rows[SharedLayout::PASSES];  // offset of each row, negative outside
    int k, end;
    bool packed;

    __device__ KMajor(const real* data, int stride, int first, int count, int k0, int end, bool packed)
        : data(data), k(k0 + SharedLayout::k()), end(end), packed(packed) {
#pragma unroll
        for (int i = 0; i < SharedLayout::PASSES; i++) {
            int row = first + SharedLayout::row(i);
            rows[i] = row < count ? row * stride : -1;
        }
    }
    __device__ bool chunk(int i, const real*& p) const {
        bool inside = rows[i] >= 0 && k < end;
        p = data + (inside ? rows[i] + k : 0);
        return inside;
    }
    __device__ void gather(int i, real (&to)[T::CHUNK]) const {
#pragma unroll
        for (int j = 0; j < T::CHUNK; j++) to[j] = rows[i] >= 0 && k + j < end ? data[rows[i] + k + j] : real{};
    }
    __device__ void advance() { k += T::BK; }
};

// A matrix in MN-major order: element (row, k) is data[k·stride + row].
template <class T, int ROWS>
struct MnMajor {
    static constexpr bool K_MAJOR = false;
    typedef Layout<T, ROWS, false> SharedLayout;
    const real* data;
    int stride, row, count, k, end;
    bool packed;

    __device__ MnMajor(const real* data, int stride, int first, int count, int k0, int end, bool packed)
        : data(data), stride(stride), row(first + SharedLayout::row()), count(count), k(k0), end(end), packed(packed) {}
    __device__ bool chunk(int i, const real*& p) const {
        int at = k + SharedLayout::k(i);
        bool inside = at < end && row < count;
        p = data + (inside ? at * stride + row : 0);
        return inside;
    }
    __device__ void gather(int i, real (&to)[T::CHUNK]) const {
        int at = k + SharedLayout::k(i);
#pragma unroll
        for (int j = 0; j < T::CHUNK; j++) to[j] = at < end && row + j < count ? data[at * stride + row + j] : real{};
    }
    __device__ void advance() { k += T::BK; }
};

// Copies the loader's block of K to shared memory and goes to the next.
template <class T, class Loader>
__device__ __forceinline__ void load_k_block(char* to, Loader& from) {
    if (from.packed) {
#pragma unroll
        for (int i = 0; i < Loader::SharedLayout::PASSES; i++) {
            const real* p;
            bool inside = from.chunk(i, p);
            copy16(to + Loader::SharedLayout::mine(i), p, inside);
        }
    } else {
#pragma unroll
        for (int i = 0; i < Loader::SharedLayout::PASSES; i++) {
            union {
                real elements[T::CHUNK];
                uint4 whole;
            } chunk;
            from.gather(i, chunk.elements);
            *reinterpret_cast<uint4*>(to + Loader::SharedLayout::mine(i)) = chunk.whole;
        }
    }
    from.advance();
}

// ---------------------------------------------------------------- arithmetic

__device__ __forceinline__ void load4(float (&to)[4], const float* p) {
    float4 q = *reinterpret_cast<const float4*>(p);
    to[0] = q.x, to[1] = q.y, to[2] = q.z, to[3] = q.w;
}

__device__ __forceinline__ void load4(float (&to)[4], const bf16* p) {
    uint2 q = *reinterpret_cast<const uint2*>(p);
    to[0] = __uint_as_float(q.x << 16), to[1] = __uint_as_float(q.x & 0xffff0000u);
    to[2] = __uint_as_float(q.y << 16), to[3] = __uint_as_float(q.y & 0xffff0000u);
}

// One thread's sums, their place in the tile, and how a block of K is added to them.
template <class T, Arithmetic MATH, bool A_K_MAJOR, bool B_K_MAJOR>
struct Sums;

// Plain multiply-adds: the lanes of a warp are 8 down and 4 across.
template <class T, bool A_K_MAJOR, bool B_K_MAJOR>
struct Sums<T, FMA, A_K_MAJOR, B_K_MAJOR> {
    static_assert(A_K_MAJOR || !B_K_MAJOR);
    static constexpr int TM = T::WM / 8, TN = T::WN / 4;
    typedef Layout<T, T::BM, A_K_MAJOR> A;
    typedef Layout<T, T::BN, B_K_MAJOR> B;
    float sum[TM][TN];

    __device__ Sums() {
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++) sum[i][j] = 0.0f;
    }
    __device__ static int first_row() { return threadIdx.x / 32 / (T::BN / T::WN) * T::WM; }
    __device__ static int first_column() { return threadIdx.x / 32 % (T::BN / T::WN) * T::WN; }
    // Neighboring lanes read neighboring rows (K-major) or neighboring chunks (MN-major).
    __device__ static int row(int i) {
        int lane = threadIdx.x % 32 / 4;
        return first_row() + (A_K_MAJOR ? lane + 8 * i : lane * 4 + 32 * (i / 4) + i % 4);
    }
    __device__ static int column(int j) {
        int lane = threadIdx.x % 4;
        return first_column() + (B_K_MAJOR ? lane + 4 * j : lane * 4 + 16 * (j / 4) + j % 4);
    }
    // Four elements of K from k of one row.
    template <class SharedLayout>
    __device__ static void along(float (&to)[4], const char* from, int row, int k) {
        load4(to, reinterpret_cast<const real*>(from + SharedLayout::at(row, k / T::CHUNK)) + k % T::CHUNK);
    }
    // Four rows from `row` of one k.
    template <class SharedLayout>
    __device__ static void across(float (&to)[4], const char* from, int row, int k) {
        load4(to, reinterpret_cast<const real*>(from + SharedLayout::at(k, row / T::CHUNK)) + row % T::CHUNK);
    }
    __device__ void add(const char* a, const char* b) {
#pragma unroll 1
        for (int k = 0; k < T::BK; k += 4) {
            float x[TM][4];
            if (A_K_MAJOR) {
#pragma unroll
                for (int i = 0; i < TM; i++) along<A>(x[i], a, row(i), k);
            }
            if (B_K_MAJOR) {
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    float y[4];
                    along<B>(y, b, column(j), k);
#pragma unroll
                    for (int s = 0; s < 4; s++)
#pragma unroll
                        for (int i = 0; i < TM; i++) sum[i][j] = fmaf(x[i][s], y[s], sum[i][j]);
                }
            } else {
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    float y[TN], z[TM];
#pragma unroll
                    for (int j = 0; j < TN; j += 4) {
                        float four[4];
                        across<B>(four, b, column(j), k + s);
#pragma unroll
                        for (int v = 0; v < 4; v++) y[j + v] = four[v];
                    }
#pragma unroll
                    for (int i = 0; i < TM; i += 4) {
                        float four[4];
                        if (!A_K_MAJOR) across<A>(four, a, row(i), k + s);
#pragma unroll
                        for (int v = 0; v < 4; v++) z[i + v] = A_K_MAJOR ? x[i + v][s] : four[v];
                    }
#pragma unroll
                    for (int i = 0; i < TM; i++)
#pragma unroll
                        for (int j = 0; j < TN; j++) sum[i][j] = fmaf(z[i], y[j], sum[i][j]);
                }
            }
        }
    }
    __device__ void store(float* to) const {
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++) to[row(i) * T::ROW + column(j)] = sum[i][j];
    }
};

#if TENSOR_CORES

// Tensor cores: 16×8 fragments; one step is two chunks of K, 16 of bf16 or 8 of TF32.
template <class T, bool A_K_MAJOR, bool B_K_MAJOR>
struct Fragments {
    static constexpr int MI = T::WM / 16, NI = T::WN / 8;
    typedef Layout<T, T::BM, A_K_MAJOR> A;
    typedef Layout<T, T::BN, B_K_MAJOR> B;
    float sum[MI][NI][4];

    __device__ Fragments() {
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int v = 0; v < 4; v++) sum[i][j][v] = 0.0f;
    }
    __device__ static int first_row() { return threadIdx.x / 32 / (T::BN / T::WN) * T::WM; }
    __device__ static int first_column() { return threadIdx.x / 32 % (T::BN / T::WN) * T::WN; }
    // The 16 rows from `row`, step `step` of K.
    __device__ static void load_a(unsigned (&to)[4], const char* a, int row, int step) {
        int lane = threadIdx.x % 32;
        if (A_K_MAJOR) {
            load_matrices(to, a + A::at(row + lane % 16, step * 2 + lane / 16));
        } else if (sizeof(real) == 2) {
            load_matrices_transposed(to, a + A::at(step * 16 + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
        } else {
#pragma unroll
            for (int v = 0; v < 4; v++) {
                int m = row + lane / 4 + v % 2 * 8, k = step * 8 + lane % 4 + v / 2 * 4;
                to[v] = *reinterpret_cast<const unsigned*>(a + A::at(k, m / 4) + m % 4 * 4);
            }
        }
    }
    // The 16 columns from `column`, step `step` of K: two fragments of 8, each two registers.
    __device__ static void load_b(unsigned (&to)[4], const char* b, int column, int step) {
        int lane = threadIdx.x % 32;
        if (B_K_MAJOR) {
            load_matrices(to, b + B::at(column + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
        } else if (sizeof(real) == 2) {
            load_matrices_transposed(to, b + B::at(step * 16 + lane % 16, column / 8 + lane / 16));
        } else {
#pragma unroll
            for (int v = 0; v < 4; v++) {
                int n = column + lane / 4 + v / 2 * 8, k = step * 8 + lane % 4 + v % 2 * 4;
                to[v] = *reinterpret_cast<const unsigned*>(b + B::at(k, n / 4) + n % 4 * 4);
            }
        }
    }
    __device__ void add(const char* a, const char* b) {
#pragma unroll
        for (int step = 0; step < T::CHUNKS / 2; step++) {
            unsigned x[MI][4], y[NI / 2][4];
#pragma unroll
            for (int j = 0; j < NI / 2; j++) {
                load_b(y[j], b, first_column() + j * 16, step);
                if (T::MATH == TF32) {
#pragma unroll
                    for (int v = 0; v < 4; v++) y[j][v] = to_tf32(y[j][v]);
                }
            }
#pragma unroll
            for (int i = 0; i < MI; i++) {
                load_a(x[i], a, first_row() + i * 16, step);
                if (T::MATH == TF32) {
#pragma unroll
                    for (int v = 0; v < 4; v++) x[i][v] = to_tf32(x[i][v]);
                }
#pragma unroll
                for (int j = 0; j < NI; j++) {
                    if (T::MATH == TF32) {
                        mma_tf32(sum[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
                    } else {
                        mma_bf16(sum[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
                    }
                }
            }
        }
    }
    __device__ void store(float* to) const {
        int row = first_row() + threadIdx.x % 32 / 4, column = first_column() + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    *reinterpret_cast<float2*>(to + (row + i * 16 + half * 8) * T::ROW + column + j * 8) =
                        make_float2(sum[i][j][half * 2], sum[i][j][half * 2 + 1]);
    }
};

template <class T, bool A_K_MAJOR, bool B_K_MAJOR>
struct Sums<T, TF32, A_K_MAJOR, B_K_MAJOR> : Fragments<T, A_K_MAJOR, B_K_MAJOR> {};
template <class T, bool A_K_MAJOR, bool B_K_MAJOR>
struct Sums<T, BF16, A_K_MAJOR, B_K_MAJOR> : Fragments<T, A_K_MAJOR, B_K_MAJOR> {};

#endif

// ---------------------------------------------------------------- the product

// The tile's sums over `k_blocks` blocks of K, left in shared memory as [BM][T::ROW] floats for all threads to read.
template <class T, class A, class B>
__device__ __forceinline__ const float* multiply(A a, B b, int k_blocks) {
    {
        Sums<T, T::MATH, A::K_MAJOR, B::K_MAJOR> sums;
        auto load = [&](int block) {
            char* stage = shared_bytes + block % T::STAGES * T::STAGE_BYTES;
            load_k_block<T>(stage, a);
            load_k_block<T>(stage + T::A_BYTES, b);
        };
#pragma unroll 1
        for (int block = 1 - T::STAGES; block < k_blocks; block++) {
            if (block >= 0) {
                wait_copies<T::STAGES - 2>();
                __syncthreads();
            }
            // Into the buffer that everyone has just finished with.
            if (block + T::STAGES - 1 < k_blocks) load(block + T::STAGES - 1);
            commit_copies();
            if (block >= 0) {
                const char* stage = shared_bytes + block % T::STAGES * T::STAGE_BYTES;
                sums.add(stage, stage + T::A_BYTES);
            }
        }
        wait_copies<0>();
        __syncthreads();
        sums.store(reinterpret_cast<float*>(shared_bytes));
    }
    __syncthreads();
    return reinterpret_cast<const float*>(shared_bytes);
}

// Calls f(row, column, values) for every Pack<real>::N neighbors of the tile; each thread keeps its column.
template <class T, class F>
__device__ __forceinline__ void for_packs(const float* sums, F f) {
    constexpr int N = Pack<real>::N, PACKS = T::BN / N;
    static_assert(T::THREADS % PACKS == 0);
    int column = threadIdx.x % PACKS * N;
#pragma unroll 4
    for (int row = threadIdx.x / PACKS; row < T::BM; row += T::THREADS / PACKS) {
        Pack<real> values;
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            float four[4];
            load4(four, sums + row * T::ROW + column + i);
#pragma unroll
            for (int v = 0; v < 4; v++) values.v[i + v] = four[v];
        }
        f(row, column, values);
    }
}

// Stores the first `count` of a pack; all of them at once where `packed`.
template <class T>
__device__ __forceinline__ void store_some(T* to, const Pack<real>& x, int count, bool packed) {
    constexpr int N = Pack<real>::N;
    if (packed && count >= N) {
#pragma unroll
        for (int i = 0; i < N; i += Pack<T>::N) {
            Pack<T> part;
#pragma unroll
            for (int v = 0; v < Pack<T>::N; v++) part.v[v] = x.v[(i + v) % N];
            store_pack(to + i, part);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count) set(to[i], x.v[i]);
    }
}

// n / divisor[0] for 0 ≤ n < 2³¹ by multiplication (Granlund and Montgomery, PLDI 1994); the host makes the factor and
// the shift.
__device__ __forceinline__ int quotient(int n, const unsigned (&divisor)[3]) {
    return divisor[0] == 1 ? n : (int)(__umulhi((unsigned)n, divisor[1]) >> divisor[2]);
}

// Σ_s workspace[s·stride], in the order of s.
__device__ __forceinline__ float reduce_splits(const float* workspace, long long stride, int splits) {
    float sum = 0.0f;
#pragma unroll 4
    for (int s = 0; s < splits; s++) sum += workspace[s * stride];
    return sum;
}
