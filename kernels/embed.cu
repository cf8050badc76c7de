// Embedding: rows of a table by index. Tables and outputs are float.
#include "prelude.cuh"

struct EmbedDims {
    // Rows of the table, numbers, and the width of a row.
    int v, n, d;
};

template <int N>
__device__ __forceinline__ void gather(float* y, const float* table, const int* ids, EmbedDims d) {
    int width = d.d / N;
    for (int i = thread_index(); i < d.n * width; i += thread_count()) {
        int row = i / width, column = i % width * N;
        float v[N];
        fetch(v, table + ids[row] * d.d + column);
        put(y + row * d.d + column, v);
    }
}

// y[i,:] = table[ids[i],:]: table [v,d], ids [n] -> y [n,d]
extern "C" __global__ void __launch_bounds__(256) embed_gather_fwd(float* __restrict__ y, const float* __restrict__ table, const int* __restrict__ ids, EmbedDims d) {
    if (packable<float>(d.d)) {
        gather<4>(y, table, ids, d);
    } else {
        gather<1>(y, table, ids, d);
    }
}

// A warp takes 32·N columns of one row of the table and scans all indices, so that rows are added in their order.
template <int N>
__device__ __forceinline__ void scatter(float* dtable, const float* dy, const int* ids, EmbedDims d) {
    int lane = threadIdx.x % 32, warps = thread_count() / 32, pieces = (d.d + 32 * N - 1) / (32 * N);
    for (int piece = thread_index() / 32; piece < d.v * pieces; piece += warps) {
        int row = piece / pieces, column = (piece % pieces * 32 + lane) * N;
        float sum[N] = {}, v[N];
        for (int first = 0; first < d.n; first += 32) {
            bool found = first + lane < d.n && ids[first + lane] == row;
            for (unsigned rest = __ballot_sync(0xffffffffu, found); rest != 0; rest &= rest - 1) {
                if (column < d.d) {
                    fetch(v, dy + (first + __ffs(rest) - 1) * d.d + column);
#pragma unroll
                    for (int i = 0; i < N; i++) sum[i] += v[i];
                }
            }
        }
        if (column < d.d) put(dtable + row * d.d + column, sum);
    }
}

// dtable[r,:] = Σ dy[i,:] over the i with ids[i] = r: dy [n,d], ids [n] -> dtable [v,d]
extern "C" __global__ void __launch_bounds__(256) embed_scatter_bwd(float* __restrict__ dtable, const float* __restrict__ dy, const int* __restrict__ ids, EmbedDims d) {
    if (packable<float>(d.d)) {
        scatter<4>(dtable, dy, ids, d);
    } else {
        scatter<1>(dtable, dy, ids, d);
    }
}
