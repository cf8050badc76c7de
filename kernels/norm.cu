// Batch normalization (Ioffe and Szegedy, 2015) in one pass with what follows it: a residual, a rectifier, or the gated
// linear unit (Dauphin et al., 2017).
//
//   z = scale x + shift + residual,  scale = γ inv_std,  shift = β - mean scale,  inv_std = 1 / √(variance + eps)
//   y = z where z > 0, else slope z (slope 1 is no activation), at most the ceiling;  gated: y = a σ(b) with z = [a | b]
//
// x, residual, dx [rows,C]; y, dy [rows,C], gated [rows,C/2]; γ, β and all that is by channel [C], always float.
//
// A thread takes `width` neighboring channels, a block `columns` threads side by side and 256 / columns rows at a time;
// blockIdx.y counts the blocks along the channels (gated: along the first half of them), blockIdx.x along the rows.
#include "prelude.cuh"

struct NormDims {
    int rows, c, columns, width;
    int depth;  // rows a block sums
    float slope, ceiling;
};

struct TileDims {
    int tiles, c;
    float eps;
};

// N neighboring numbers, in float; N is 1, that of a pack of `real`, or 4: half a pack of bf16.
template <int N>
struct Channels {
    float v[N];
};

template <int N, class T>
__device__ __forceinline__ Channels<N> load(const T* p) {
    Channels<N> r;
    fetch(r.v, p);
    return r;
}

// A thread's first channel `j`, and its row `lane` among the `lanes` rows that the block has at a time.
struct Position {
    int lanes, lane, j;
    bool inside;
    __device__ __forceinline__ Position(const NormDims& d, int channels) {
        lanes = 256 / d.columns;
        lane = threadIdx.x / d.columns;
        j = (blockIdx.y * d.columns + threadIdx.x % d.columns) * d.width;
        inside = lane < lanes && j < channels;
    }
};

// ---------------------------------------------------------------- moments

constexpr int PACK = Pack<real>::N;

// Adds the moments b of `nb` numbers to a of `na` (Chan, Golub and LeVeque, 1979).
__device__ __forceinline__ void merge_moments(float& mean, float& squares, float na, float mean_b, float squares_b, float nb) {
    float n = na + nb, share = n > 0.0f ? nb / n : 0.0f, delta = mean_b - mean;
    mean += delta * share;
    squares += squares_b + delta * delta * na * share;
}

// (n, mean, Σ (x - mean)²) of the block's rows. Takes four rows at a time and merges their moments into the thread's;
// at the end merges the block's lanes pair by pair.
template <int N>
__device__ __forceinline__ void moments(float* sums, const real* x, const NormDims& d, float* shared) {
    Position at(d, d.c);
    int last = min(d.rows, ((int)blockIdx.x + 1) * d.depth), row = blockIdx.x * d.depth + at.lane;
    float mean[N] = {}, squares[N] = {};
    float n = 0.0f;
    if (at.inside) {
        x += at.j;
        for (; row + 3 * at.lanes < last; row += 4 * at.lanes) {
            Channels<N> a = load<N>(x + row * d.c), b = load<N>(x + (row + at.lanes) * d.c);
            Channels<N> e = load<N>(x + (row + 2 * at.lanes) * d.c), f = load<N>(x + (row + 3 * at.lanes) * d.c);
            float share = 4.0f / (n + 4.0f), weight = n * share;
#pragma unroll
            for (int i = 0; i < N; i++) {
                float m = 0.25f * ((a.v[i] + b.v[i]) + (e.v[i] + f.v[i])), delta = m - mean[i];
                float p = a.v[i] - m, q = b.v[i] - m, r = e.v[i] - m, s = f.v[i] - m;
                mean[i] += delta * share;
                squares[i] += (p * p + q * q) + (r * r + s * s) + delta * delta * weight;
            }
            n += 4.0f;
        }
        for (; row < last; row += at.lanes) {
            Channels<N> a = load<N>(x + row * d.c);
            float share = 1.0f / (n + 1.0f), weight = n * share;
#pragma unroll
            for (int i = 0; i < N; i++) {
                float delta = a.v[i] - mean[i];
                mean[i] += delta * share;
                squares[i] += delta * delta * weight;
            }
            n += 1.0f;
        }
    }
    float *means = shared, *others = shared + 256 * N, *counts = shared + 512 * N;
    int t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < N; i++) {
        means[i * 256 + t] = mean[i];
        others[i * 256 + t] = squares[i];
    }
    counts[t] = n;
    __syncthreads();
    for (int step = 128; step > 0; step >>= 1) {
        if (at.lane < step && at.lane + step < at.lanes) {
            int from = t + step * d.columns;
            float nb = counts[from];
#pragma unroll
            for (int i = 0; i < N; i++) {
                merge_moments(mean[i], squares[i], n, means[i * 256 + from], others[i * 256 + from], nb);
                means[i * 256 + t] = mean[i];
                others[i * 256 + t] = squares[i];
            }
            n += nb;
            counts[t] = n;
        }
        __syncthreads();
    }
    if (at.inside && at.lane == 0) {
        float* out = sums + blockIdx.x * 3 * d.c + at.j;
        float count[N];
#pragma unroll
        for (int i = 0; i < N; i++) count[i] = n;
        put(out, count);
        put(out + d.c, mean);
        put(out + 2 * d.c, squares);
    }
}

// x [rows,C] -> sums [tiles,3,C]: n, mean, Σ (x - mean)² of `depth` rows each
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_moments_fwd(float* __restrict__ sums, const real* __restrict__ x, NormDims d) {
    __shared__ float shared[256 * (2 * PACK + 1)];
    if (d.width == PACK) moments<PACK>(sums, x, d, shared);
    else moments<1>(sums, x, d, shared);
}

// A block of the kernels below has 8 channels side by side and 32 tiles at a time.
struct Moments {
    double n, mean, squares;
};

// The 32 numbers that the lanes of a channel hold, added up pair by pair; lane 0 has the sum.
__device__ __forceinline__ double lane_sum(double x, double* shared) {
    int lane = threadIdx.x / 8;
    shared[threadIdx.x] = x;
    __syncthreads();
    for (int step = 16; step > 0; step >>= 1) {
        if (lane < step) shared[threadIdx.x] = x = x + shared[threadIdx.x + 8 * step];
        __syncthreads();
    }
    return x;
}

// The moments of tiles first..last of channel j, in the lanes 0. About the first tile's mean, so that nothing
// cancels: with e = mean_t - that mean, Σ (x - mean)² = Σ (squares_t + n_t e²) - (Σ n_t e)² / n.
__device__ __forceinline__ Moments merge_tiles(const float* sums, int first, int last, int j, int c, double* shared) {
    double n = 0.0, shifted = 0.0, squares = 0.0, about = 0.0;
    if (j < c && first < last) {
        about = sums[(first * 3 + 1) * c + j];
        for (int tile = first + threadIdx.x / 8; tile < last; tile += 32) {
            const float* from = sums + tile * 3 * c + j;
            double count = from[0], e = from[c] - about;
            n += count;
            shifted += count * e;
            squares += from[2 * c] + count * e * e;
        }
    }
    n = lane_sum(n, shared);
    shifted = lane_sum(shifted, shared);
    squares = lane_sum(squares, shared);
    double e = n > 0.0 ? shifted / n : 0.0;
    squares -= e * shifted;
    return {n, about + e, squares > 0.0 ? squares : 0.0};
}

// Many tiles to fewer: sums [tiles,3,C] -> fewer [gridDim.y,3,C]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_merge_fwd(float* __restrict__ fewer, const float* __restrict__ sums, TileDims d) {
    __shared__ double shared[256];
    int j = blockIdx.x * 8 + threadIdx.x % 8, depth = (d.tiles + gridDim.y - 1) / gridDim.y;
    int first = blockIdx.y * depth, last = min(d.tiles, first + depth);
    Moments m = merge_tiles(sums, first, last, j, d.c, shared);
    if (j < d.c && threadIdx.x < 8) {
        float* out = fewer + blockIdx.y * 3 * d.c + j;
        out[0] = (float)m.n;
        out[d.c] = (float)m.mean;
        out[2 * d.c] = (float)m.squares;
    }
}

// inv_std = 1 / √(variance + eps), scale = γ inv_std, shift = β - mean scale, of channel j.
__device__ __forceinline__ void scale_and_shift(float* inv_std, float* scale, float* shift, float gamma, float beta, float mean,
                                       float variance, float eps, int j) {
    float inverse = (float)(1.0 / sqrt((double)variance + (double)eps)), slope = gamma * inverse;
    inv_std[j] = inverse;
    scale[j] = slope;
    shift[j] = beta - mean * slope;
}

// sums [tiles,3,C], γ, β [C] -> mean, biased variance, inv_std, scale, shift [C]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_stats_fwd(float* __restrict__ mean, float* __restrict__ variance, float* __restrict__ inv_std,
                            float* __restrict__ scale, float* __restrict__ shift, const float* __restrict__ sums,
                            const float* __restrict__ gamma, const float* __restrict__ beta, TileDims d) {
    __shared__ double shared[256];
    int j = blockIdx.x * 8 + threadIdx.x % 8;
    Moments m = merge_tiles(sums, 0, d.tiles, j, d.c, shared);
    if (j < d.c && threadIdx.x < 8) {
        mean[j] = (float)m.mean;
        variance[j] = (float)(m.squares / m.n);
        scale_and_shift(inv_std, scale, shift, gamma[j], beta[j], (float)m.mean, (float)(m.squares / m.n), d.eps, j);
    }
}

// γ, β, mean, variance [C] -> inv_std, scale, shift [C]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_scale_shift_fwd(float* __restrict__ inv_std, float* __restrict__ scale, float* __restrict__ shift,
                          const float* __restrict__ gamma, const float* __restrict__ beta,
                          const float* __restrict__ mean, const float* __restrict__ variance, int c, float eps) {
    int j = thread_index();
    if (j < c) scale_and_shift(inv_std, scale, shift, gamma[j], beta[j], mean[j], variance[j], eps, j);
}

// mean = (1 - share) mean + share m,  variance = (1 - share) variance + share unbiased v,  batches += 1: [C], [C], [1]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_track(float* __restrict__ mean, float* __restrict__ variance, float* __restrict__ batches,
                     const float* __restrict__ m, const float* __restrict__ v, int c, float share, float unbiased) {
    int j = thread_index();
    if (j < c) {
        mean[j] = (1.0f - share) * mean[j] + share * m[j];
        variance[j] = (1.0f - share) * variance[j] + share * unbiased * v[j];
    }
    if (j == 0) *batches += 1.0f;
}

// ---------------------------------------------------------------- forward

template <int N>
__device__ __forceinline__ Channels<N> normalized(Channels<N> x, const Channels<N>& scale, const Channels<N>& shift) {
#pragma unroll
    for (int i = 0; i < N; i++) x.v[i] = x.v[i] * scale.v[i] + shift.v[i];
    return x;
}

template <int N>
__device__ __forceinline__ Channels<N> plus(Channels<N> a, const Channels<N>& b) {
#pragma unroll
    for (int i = 0; i < N; i++) a.v[i] += b.v[i];
    return a;
}

__device__ __forceinline__ float rectified(float z, const NormDims& d) {
    z = z > 0.0f ? z : d.slope * z;
    return z > d.ceiling ? d.ceiling : z;
}

template <int N>
__device__ __forceinline__ void forward(real* __restrict__ y, const real* __restrict__ x,
                                        const real* __restrict__ residual, const float* scale, const float* shift,
                                        const NormDims& d) {
    Position at(d, d.c);
    if (!at.inside) return;
    Channels<N> scales = load<N>(scale + at.j), shifts = load<N>(shift + at.j);
#pragma unroll 2
    for (int row = blockIdx.x * at.lanes + at.lane; row < d.rows; row += gridDim.x * at.lanes) {
        int i = row * d.c + at.j;
        Channels<N> z = normalized(load<N>(x + i), scales, shifts);
        if (residual) z = plus(z, load<N>(residual + i));
#pragma unroll
        for (int k = 0; k < N; k++) z.v[k] = rectified(z.v[k], d);
        put(y + i, z.v);
    }
}

// y = rectified z: x, residual (or none), y [rows,C]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_fwd(real* __restrict__ y, const real* __restrict__ x, OPTIONAL const real* __restrict__ residual,
                   const float* __restrict__ scale, const float* __restrict__ shift, NormDims d) {
    if (d.width == PACK) forward<PACK>(y, x, residual, scale, shift, d);
    else forward<1>(y, x, residual, scale, shift, d);
}

template <int N>
__device__ __forceinline__ void gated(real* __restrict__ y, const real* __restrict__ x, const float* scale,
                                      const float* shift, const NormDims& d) {
    int half = d.c / 2;
    Position at(d, half);
    if (!at.inside) return;
    Channels<N> scale_a = load<N>(scale + at.j), shift_a = load<N>(shift + at.j);
    Channels<N> scale_b = load<N>(scale + half + at.j), shift_b = load<N>(shift + half + at.j);
#pragma unroll 2
    for (int row = blockIdx.x * at.lanes + at.lane; row < d.rows; row += gridDim.x * at.lanes) {
        const real* from = x + row * d.c + at.j;
        Channels<N> a = normalized(load<N>(from), scale_a, shift_a), b = normalized(load<N>(from + half), scale_b, shift_b);
#pragma unroll
        for (int k = 0; k < N; k++) a.v[k] *= logistic(b.v[k]);
        put(y + row * half + at.j, a.v);
    }
}

// y = a σ(b), z = [a | b]: x [rows,C], y [rows,C/2]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_glu_fwd(real* __restrict__ y, const real* __restrict__ x, const float* __restrict__ scale,
                       const float* __restrict__ shift, NormDims d) {
    if (d.width == PACK) gated<PACK>(y, x, scale, shift, d);
    else gated<1>(y, x, scale, shift, d);
}

// ---------------------------------------------------------------- backward: dz is the gradient before the activation

// dz of a rectifier, from the recomputed z.
template <int N>
__device__ __forceinline__ Channels<N> rectified_bwd(Channels<N> dy, const Channels<N>& z, const NormDims& d) {
#pragma unroll
    for (int k = 0; k < N; k++) dy.v[k] = z.v[k] > d.ceiling ? 0.0f : z.v[k] > 0.0f ? dy.v[k] : d.slope * dy.v[k];
    return dy;
}

// dz = [da | db] of the gate, in the place of z = [a | b].
template <int N>
__device__ __forceinline__ void gated_bwd(Channels<N>& a, Channels<N>& b, const Channels<N>& dy) {
#pragma unroll
    for (int k = 0; k < N; k++) {
        float open = logistic(b.v[k]), through = dy.v[k] * open;
        b.v[k] = through * a.v[k] * (1.0f - open);
        a.v[k] = through;
    }
}

// A lane's sums [2][N] of channels j.. become the block's; lane 0 writes them to sums [2,C] of the tile.
template <int N>
__device__ __forceinline__ void write_lane_sums(float* sums, float (&total)[2][N], const Position& at, int j,
                                                const NormDims& d, float* shared) {
    int t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < 2 * N; i++) shared[i * 256 + t] = total[i / N][i % N];
    __syncthreads();
    for (int step = 128; step > 0; step >>= 1) {
        if (at.lane < step && at.lane + step < at.lanes) {
#pragma unroll
            for (int i = 0; i < 2 * N; i++) {
                total[i / N][i % N] += shared[i * 256 + t + step * d.columns];
                shared[i * 256 + t] = total[i / N][i % N];
            }
        }
        __syncthreads();
    }
    if (at.inside && at.lane == 0) {
        float* out = sums + blockIdx.x * 2 * d.c + j;
        put(out, total[0]);
        put(out + d.c, total[1]);
    }
}

template <int N>
__device__ __forceinline__ void sum_products(float (&total)[2][N], const Channels<N>& dz, const Channels<N>& x,
                                             const Channels<N>& mean) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        total[0][i] += dz.v[i] * (x.v[i] - mean.v[i]);
        total[1][i] += dz.v[i];
    }
}

template <int N>
__device__ __forceinline__ void bwd_sums(float* sums, const real* __restrict__ dy, const real* __restrict__ x,
                                              const real* __restrict__ residual, const float* mean, const float* scale,
                                              const float* shift, const NormDims& d, float* shared) {
    Position at(d, d.c);
    float total[2][N] = {};
    if (at.inside) {
        Channels<N> means = load<N>(mean + at.j), scales = load<N>(scale + at.j), shifts = load<N>(shift + at.j);
        int last = min(d.rows, ((int)blockIdx.x + 1) * d.depth);
#pragma unroll 2
        for (int row = blockIdx.x * d.depth + at.lane; row < last; row += at.lanes) {
            int i = row * d.c + at.j;
            Channels<N> v = load<N>(x + i), z = normalized(v, scales, shifts);
            if (residual) z = plus(z, load<N>(residual + i));
            sum_products(total, rectified_bwd(load<N>(dy + i), z, d), v, means);
        }
    }
    write_lane_sums(sums, total, at, at.j, d, shared);
}

// sums [tiles,2,C] = Σ dz (x - mean), Σ dz over `depth` rows each
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_bwd_w(float* __restrict__ sums, const real* __restrict__ dy, const real* __restrict__ x,
                     OPTIONAL const real* __restrict__ residual, const float* __restrict__ mean,
                     const float* __restrict__ scale, const float* __restrict__ shift, NormDims d) {
    __shared__ float shared[256 * 2 * PACK];
    if (d.width == PACK) bwd_sums<PACK>(sums, dy, x, residual, mean, scale, shift, d, shared);
    else bwd_sums<1>(sums, dy, x, residual, mean, scale, shift, d, shared);
}

template <int N>
__device__ __forceinline__ void gated_bwd_sums(float* sums, const real* __restrict__ dy, const real* __restrict__ x,
                                           const float* mean, const float* scale, const float* shift,
                                           const NormDims& d, float* shared) {
    int half = d.c / 2;
    Position at(d, half);
    float total_a[2][N] = {}, total_b[2][N] = {};
    if (at.inside) {
        Channels<N> mean_a = load<N>(mean + at.j), scale_a = load<N>(scale + at.j), shift_a = load<N>(shift + at.j);
        int k = at.j + half;
        Channels<N> mean_b = load<N>(mean + k), scale_b = load<N>(scale + k), shift_b = load<N>(shift + k);
        int last = min(d.rows, ((int)blockIdx.x + 1) * d.depth);
        for (int row = blockIdx.x * d.depth + at.lane; row < last; row += at.lanes) {
            const real* from = x + row * d.c + at.j;
            Channels<N> xa = load<N>(from), xb = load<N>(from + half);
            Channels<N> a = normalized(xa, scale_a, shift_a), b = normalized(xb, scale_b, shift_b);
            gated_bwd(a, b, load<N>(dy + row * half + at.j));
            sum_products(total_a, a, xa, mean_a);
            sum_products(total_b, b, xb, mean_b);
        }
    }
    write_lane_sums(sums, total_a, at, at.j, d, shared);
    write_lane_sums(sums, total_b, at, at.j + half, d, shared);
}

// batch_norm_bwd_w behind the gate, four channels at a time (a pack of bf16 takes too many registers): dy [rows,C/2]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_glu_bwd_w(float* __restrict__ sums, const real* __restrict__ dy, const real* __restrict__ x,
                         const float* __restrict__ mean, const float* __restrict__ scale,
                         const float* __restrict__ shift, NormDims d) {
    __shared__ float shared[256 * 2 * 4];
    if (d.width == 4) gated_bwd_sums<4>(sums, dy, x, mean, scale, shift, d, shared);
    else gated_bwd_sums<1>(sums, dy, x, mean, scale, shift, d, shared);
}

// dγ = inv_std Σ dz (x - mean), dβ = Σ dz: sums [tiles,2,C] -> [C]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_sum_tiles_bwd_w(float* __restrict__ dgamma, float* __restrict__ dbeta, const float* __restrict__ sums,
                              const float* __restrict__ inv_std, TileDims d) {
    __shared__ double shared[256];
    int j = blockIdx.x * 8 + threadIdx.x % 8;
    double products = 0.0, plain = 0.0;
    if (j < d.c) {
        for (int tile = threadIdx.x / 8; tile < d.tiles; tile += 32) {
            products += sums[tile * 2 * d.c + j];
            plain += sums[(tile * 2 + 1) * d.c + j];
        }
    }
    products = lane_sum(products, shared);
    plain = lane_sum(plain, shared);
    if (j < d.c && threadIdx.x < 8) {
        dgamma[j] = (float)(products * inv_std[j]);
        dbeta[j] = (float)plain;
    }
}

// dx = scale (dz - offset - slope (x - mean)) with offset = dβ / rows and slope = inv_std dγ / rows, both 0 where the
// moments are constants. Kept as mean, scale, -scale slope and -scale offset.
template <int N>
struct SubtractStatistics {
    Channels<N> mean, scale, slope, offset;

    __device__ __forceinline__ SubtractStatistics(const float* mean_, const float* scale_, const float* inv_std,
                                      const float* dgamma, const float* dbeta, int j, int rows) {
        mean = load<N>(mean_ + j);
        scale = load<N>(scale_ + j);
#pragma unroll
        for (int i = 0; i < N; i++) {
            slope.v[i] = dgamma ? -scale.v[i] * (dgamma[j + i] / rows * inv_std[j + i]) : 0.0f;
            offset.v[i] = dbeta ? -scale.v[i] * (dbeta[j + i] / rows) : 0.0f;
        }
    }

    __device__ __forceinline__ Channels<N> operator()(Channels<N> dz, const Channels<N>& x) const {
#pragma unroll
        for (int i = 0; i < N; i++)
            dz.v[i] = slope.v[i] * (x.v[i] - mean.v[i]) + (scale.v[i] * dz.v[i] + offset.v[i]);
        return dz;
    }
};

template <int N>
__device__ __forceinline__ void backward(real* __restrict__ dx, real* __restrict__ dr, const real* __restrict__ dy,
                                         const real* __restrict__ x, const real* __restrict__ residual,
                                         const float* mean, const float* inv_std, const float* scale,
                                         const float* shift, const float* dgamma, const float* dbeta,
                                         const NormDims& d) {
    Position at(d, d.c);
    if (!at.inside) return;
    SubtractStatistics<N> center(mean, scale, inv_std, dgamma, dbeta, at.j, d.rows);
    Channels<N> shifts = load<N>(shift + at.j);
#pragma unroll 2
    for (int row = blockIdx.x * at.lanes + at.lane; row < d.rows; row += gridDim.x * at.lanes) {
        int i = row * d.c + at.j;
        Channels<N> v = load<N>(x + i), z = normalized(v, center.scale, shifts);
        if (residual) z = plus(z, load<N>(residual + i));
        Channels<N> dz = rectified_bwd(load<N>(dy + i), z, d);
        if (dr) put(dr + i, dz.v);
        if (dx) put(dx + i, center(dz, v).v);
    }
}

// dx and the residual's gradient dr = dz, either of which may be absent: all [rows,C]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_bwd(OPTIONAL real* __restrict__ dx, OPTIONAL real* __restrict__ dr, const real* __restrict__ dy,
                   const real* __restrict__ x, OPTIONAL const real* __restrict__ residual, const float* __restrict__ mean,
                   const float* __restrict__ inv_std, const float* __restrict__ scale,
                   const float* __restrict__ shift, OPTIONAL const float* __restrict__ dgamma,
                   OPTIONAL const float* __restrict__ dbeta, NormDims d) {
    if (d.width == PACK) backward<PACK>(dx, dr, dy, x, residual, mean, inv_std, scale, shift, dgamma, dbeta, d);
    else backward<1>(dx, dr, dy, x, residual, mean, inv_std, scale, shift, dgamma, dbeta, d);
}

template <int N>
__device__ __forceinline__ void gated_bwd_x(real* __restrict__ dx, const real* __restrict__ dy,
                                               const real* __restrict__ x, const float* mean, const float* inv_std,
                                               const float* scale, const float* shift, const float* dgamma,
                                               const float* dbeta, const NormDims& d) {
    int half = d.c / 2;
    Position at(d, half);
    if (!at.inside) return;
    SubtractStatistics<N> center_a(mean, scale, inv_std, dgamma, dbeta, at.j, d.rows);
    SubtractStatistics<N> center_b(mean, scale, inv_std, dgamma, dbeta, at.j + half, d.rows);
    Channels<N> shift_a = load<N>(shift + at.j), shift_b = load<N>(shift + half + at.j);
    for (int row = blockIdx.x * at.lanes + at.lane; row < d.rows; row += gridDim.x * at.lanes) {
        int i = row * d.c + at.j;
        Channels<N> xa = load<N>(x + i), xb = load<N>(x + i + half);
        Channels<N> a = normalized(xa, center_a.scale, shift_a), b = normalized(xb, center_b.scale, shift_b);
        gated_bwd(a, b, load<N>(dy + row * half + at.j));
        put(dx + i, center_a(a, xa).v);
        put(dx + i + half, center_b(b, xb).v);
    }
}

// dx behind the gate, four channels at a time: dy [rows,C/2], dx [rows,C]
extern "C" __global__ void __launch_bounds__(256)
    batch_norm_glu_bwd(real* __restrict__ dx, const real* __restrict__ dy, const real* __restrict__ x,
                       const float* __restrict__ mean, const float* __restrict__ inv_std,
                       const float* __restrict__ scale, const float* __restrict__ shift,
                       OPTIONAL const float* __restrict__ dgamma, OPTIONAL const float* __restrict__ dbeta, NormDims d) {
    if (d.width == 4) gated_bwd_x<4>(dx, dy, x, mean, inv_std, scale, shift, dgamma, dbeta, d);
    else gated_bwd_x<1>(dx, dy, x, mean, inv_std, scale, shift, dgamma, dbeta, d);
}
