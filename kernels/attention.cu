// Attention of pixels to a sequence of keys (Xu et al., "AttnGAN", CVPR 2018, section 3.1, where they are words) and over
// channels (Qiao et al., "MirrorGAN", CVPR 2019, equation 4). Both take the softmax of <pixel, key> over the T keys of an
// image: the projected sequence, or the rows of w·diag(s), one for each channel.
#include "prelude.cuh"

// The sizes of an attention: `lanes` threads share a pixel, CHANNELS channels each, `rounds` times; `together` keys
// are in shared memory at a time.
struct AttentionDims {
    int pixels, channels, keys, lanes, rounds, together;
};

constexpr int THREADS = 128;  // at most: the host takes fewer where there are many keys
constexpr int CHANNELS = 16;  // of a pixel that a thread holds
constexpr int PIXELS = 2;     // that a thread works at

// A block's threads and its shared memory: keys [together][width], weights [T][stride], a column a pixel.
struct Attention {
    const AttentionDims& d;
    int lane, group, groups, tile, stride, width;
    float *keys, *weights;

    __device__ Attention(const AttentionDims& d, float* shared) : d(d) {
        lane = threadIdx.x % d.lanes;
        group = threadIdx.x / d.lanes;
        groups = blockDim.x / d.lanes;
        tile = groups * PIXELS;
        stride = tile + 1;
        width = d.rounds * d.lanes * CHANNELS;
        keys = shared;
        weights = shared + d.together * width;
    }

    // The first of the neighboring channels that make a lane's k-th pack of a round.
    template <class T>
    __device__ int channel(int round, int k) const {
        return (round * (CHANNELS / Pack<T>::N) + k) * d.lanes * Pack<T>::N + lane * Pack<T>::N;
    }

    // keys = n rows of [C], each element times that of `scale` where there is one; zero where they are padded.
    template <class T>
    __device__ void stage(const float* __restrict__ from, int n, const T* __restrict__ scale) const {
        for (int i = threadIdx.x; i < n * width; i += blockDim.x) {
            int t = i / width, c = i % width;
            float key = 0.0f;
            if (c < d.channels) key = from[t * d.channels + c] * (scale ? to_float(scale[c]) : 1.0f);
            keys[i] = key;
        }
    }

    // A thread's channels of one pixel, or zeros.
    __device__ void load(float (&x)[CHANNELS], const real* __restrict__ row, int round, bool inside) const {
        constexpr int N = Pack<real>::N;
        bool packs = packable<real>(d.channels);
#pragma unroll
        for (int k = 0; k < CHANNELS / N; k++) {
            int c = channel<real>(round, k);
            if (packs && inside && c < d.channels) {
                Pack<real> p = load_pack(row + c);
#pragma unroll
                for (int i = 0; i < N; i++) x[k * N + i] = p.v[i];
            } else {
#pragma unroll
                for (int i = 0; i < N; i++)
                    x[k * N + i] = !packs && inside && c + i < d.channels ? to_float(row[c + i]) : 0.0f;
            }
        }
    }

    __device__ void store(real* __restrict__ row, const float (&x)[CHANNELS], int round) const {
        constexpr int N = Pack<real>::N;
        bool packs = packable<real>(d.channels);
#pragma unroll
        for (int k = 0; k < CHANNELS / N; k++) {
            int c = channel<real>(round, k);
            Pack<real> p;
#pragma unroll
            for (int i = 0; i < N; i++) p.v[i] = x[k * N + i];
            if (packs && c < d.channels) store_pack(row + c, p);
#pragma unroll
            for (int i = 0; i < N; i++)
                if (!packs && c + i < d.channels) set(row[c + i], p.v[i]);
        }
    }

    // A thread's channels of one key.
    __device__ void key(float (&e)[CHANNELS], int t, int round) const {
        constexpr int N = Pack<real>::N;
#pragma unroll
        for (int k = 0; k < CHANNELS / N; k++)
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                float4 q = *reinterpret_cast<const float4*>(keys + t * width + channel<real>(round, k) + i);
                e[k * N + i] = q.x, e[k * N + i + 1] = q.y, e[k * N + i + 2] = q.z, e[k * N + i + 3] = q.w;
            }
    }

    // The sum over the lanes of a pixel; every lane gets it.
    __device__ float over_lanes(float x) const {
        for (int step = d.lanes / 2; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
        return x;
    }

    __device__ float most_of_lanes(float x) const {
        for (int step = d.lanes / 2; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
        return x;
    }

    // weights[t][pixel] = <x_pixel, key_t> of the tile that begins at row x, of which `rows` are in the image. Stages
    // the keys the first time, and every time where not all of them fit.
    template <class T>
    __device__ void score(
        const real* __restrict__ x, int rows, const float* __restrict__ from, int keys_used, const T* scale, bool staged
    ) const {
        for (int first = 0; first < keys_used; first += d.together) {
            int n = min(d.together, keys_used - first);
            if (!staged || keys_used > d.together) {
                __syncthreads();
                stage(from + first * d.channels, n, scale);
                __syncthreads();
            }
            for (int round = 0; round < d.rounds; round++) {
                float v[PIXELS][CHANNELS];
#pragma unroll
                for (int i = 0; i < PIXELS; i++) {
                    int p = group + i * groups;
                    load(v[i], x + p * d.channels, round, p < rows);
                }
                for (int t = 0; t < n; t++) {
                    float e[CHANNELS];
                    key(e, t, round);
#pragma unroll
                    for (int i = 0; i < PIXELS; i++) {
                        float sum = 0.0f;
#pragma unroll
                        for (int c = 0; c < CHANNELS; c++) sum += v[i][c] * e[c];
                        sum = over_lanes(sum);
                        float& weight = weights[(first + t) * stride + group + i * groups];
                        if (lane == 0) weight = round == 0 ? sum : weight + sum;
                    }
                }
            }
        }
        __syncwarp();
    }

    // Softmax down each pixel's column; its lanes take turns.
    __device__ void softmax(int keys_used) const {
#pragma unroll
        for (int i = 0; i < PIXELS; i++) {
            float* column = weights + group + i * groups;
            float most = Max::none(), sum = 0.0f;
            for (int t = lane; t < keys_used; t += d.lanes) most = fmaxf(most, column[t * stride]);
            most = most_of_lanes(most);
            for (int t = lane; t < keys_used; t += d.lanes) {
                float e = expf(column[t * stride] - most);
                column[t * stride] = e;
                sum += e;
            }
            float scale = 1.0f / over_lanes(sum);
            for (int t = lane; t < keys_used; t += d.lanes) column[t * stride] *= scale;
        }
        __syncwarp();
    }

    // y_pixel = Σ_t weights[t][pixel] key_t.
    template <class T>
    __device__ void mix(
        real* __restrict__ y, int rows, const float* __restrict__ from, int keys_used, const T* scale
    ) const {
        for (int round = 0; round < d.rounds; round++) {
            float sum[PIXELS][CHANNELS] = {};
            for (int first = 0; first < keys_used; first += d.together) {
                int n = min(d.together, keys_used - first);
                if (keys_used > d.together) {
                    __syncthreads();
                    stage(from + first * d.channels, n, scale);
                    __syncthreads();
                }
                for (int t = 0; t < n; t++) {
                    float e[CHANNELS];
                    key(e, t, round);
#pragma unroll
                    for (int i = 0; i < PIXELS; i++) {
                        float weight = weights[(first + t) * stride + group + i * groups];
#pragma unroll
                        for (int c = 0; c < CHANNELS; c++) sum[i][c] += weight * e[c];
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < PIXELS; i++) {
                int p = group + i * groups;
                if (p < rows) store(y + p * d.channels, sum[i], round);
            }
        }
    }

    // y [rows,T] = the weights of a tile, zero from `keys_used` on, each times its key's `scale` where there is one.
    template <class Y>
    __device__ void write(Y* __restrict__ y, int rows, int keys_used, const real* __restrict__ scale) const {
        for (int i = threadIdx.x; i < rows * d.keys; i += blockDim.x) {
            int p = i / d.keys, t = i % d.keys;
            float weight = t < keys_used ? weights[t * stride + p] : 0.0f;
            set(y[i], scale ? weight * to_float(scale[t]) : weight);
        }
    }
};

// beta_n = softmax_t <h_n, e_t> over the image's own keys; context_n = Σ_t beta_nt e_t.
// h, context [B,P,C], e [B,T,C], beta [B,P,T], lengths [B]; a block takes every gridDim.x-th tile of one image.
extern "C" __global__ void __launch_bounds__(128) cross_attention_fwd(
    real* __restrict__ context, real* __restrict__ beta, const real* __restrict__ h, const float* __restrict__ e,
    const int* __restrict__ lengths, AttentionDims d
) {
    extern __shared__ float4 room[];
    Attention a(d, reinterpret_cast<float*>(room));
    int image = blockIdx.y, length = lengths[image];
    const float* keys = e + image * d.keys * d.channels;
    bool staged = false;
    for (int first = blockIdx.x * a.tile; first < d.pixels; first += gridDim.x * a.tile) {
        int at = image * d.pixels + first, rows = min(a.tile, d.pixels - first);
        a.score(h + at * d.channels, rows, keys, length, (const real*)nullptr, staged);
        staged = true;
        a.softmax(length);
        __syncthreads();
        a.write(beta + at * d.keys, rows, length, nullptr);
        a.mix(context + at * d.channels, rows, keys, length, (const real*)nullptr);
        __syncthreads();
    }
}

// ds_nt = beta_nt (<dy_n, e_t> - Σ_u beta_nu <dy_n, e_u>), which cross_attention_bwd_e reads, and
// dh_n = Σ_t ds_nt e_t where it is wanted. dh, dy [B,P,C], ds, beta [B,P,T], e [B,T,C].
extern "C" __global__ void __launch_bounds__(128, 5) cross_attention_bwd(
    OPTIONAL real* __restrict__ dh, float* __restrict__ ds, const real* __restrict__ dy, const float* __restrict__ e,
    const real* __restrict__ beta, const int* __restrict__ lengths, AttentionDims d
) {
    extern __shared__ float4 room[];
    Attention a(d, reinterpret_cast<float*>(room));
    int image = blockIdx.y, length = lengths[image];
    const float* keys = e + image * d.keys * d.channels;
    bool staged = false;
    for (int first = blockIdx.x * a.tile; first < d.pixels; first += gridDim.x * a.tile) {
        int at = image * d.pixels + first, rows = min(a.tile, d.pixels - first);
        a.score(dy + at * d.channels, rows, keys, length, (const real*)nullptr, staged);
        staged = true;
#pragma unroll
        for (int i = 0; i < PIXELS; i++) {
            int p = a.group + i * a.groups;
            float* column = a.weights + p;
            const real* own = beta + (at + min(p, rows - 1)) * d.keys;
            // Rounded weights do not sum to one.
            float mean = 0.0f, all = 0.0f;
            for (int t = a.lane; t < length; t += d.lanes) {
                mean += column[t * a.stride] * to_float(own[t]);
                all += to_float(own[t]);
            }
            mean = a.over_lanes(mean) / a.over_lanes(all);
            for (int t = a.lane; t < length; t += d.lanes)
                column[t * a.stride] = to_float(own[t]) * (column[t * a.stride] - mean);
        }
        __syncthreads();
        a.write(ds + at * d.keys, rows, length, nullptr);
        if (dh) a.mix(dh + at * d.channels, rows, keys, length, (const real*)nullptr);
        __syncthreads();
    }
}

// y_n = s · softmax_channels(w (h_n · s)), products element by element. y, h [B,P,C], s [B,C], w [C,C].
extern "C" __global__ void __launch_bounds__(128) channel_attention_fwd(
    real* __restrict__ y, const real* __restrict__ h, const real* __restrict__ s, const float* __restrict__ w,
    AttentionDims d
) {
    extern __shared__ float4 room[];
    Attention a(d, reinterpret_cast<float*>(room));
    const real* scale = s + blockIdx.y * d.channels;
    bool staged = false;
    for (int first = blockIdx.x * a.tile; first < d.pixels; first += gridDim.x * a.tile) {
        int at = blockIdx.y * d.pixels + first, rows = min(a.tile, d.pixels - first);
        a.score(h + at * d.channels, rows, w, d.keys, scale, staged);
        staged = true;
        a.softmax(d.keys);
        __syncthreads();
        a.write(y + at * d.keys, rows, d.keys, scale);
        __syncthreads();
    }
}

// Recomputes the softmax p: dlogits_n = p_n (dy_n·s - <dy_n·s, p_n>), dh_n = Σ_c dlogits_nc w_c·s, and
// ds [B,blocks,C], the part of s's gradient that does not pass the softmax: Σ dy_n·p_n over a block's pixels.
// dh, dlogits, h, dy [B,P,C], s [B,C], w [C,C]; shared memory has C numbers more a slice of the block's threads.
extern "C" __global__ void __launch_bounds__(128, 5) channel_attention_bwd(
    OPTIONAL real* __restrict__ dh, float* __restrict__ dlogits, float* __restrict__ ds, const real* __restrict__ h,
    const real* __restrict__ s, const float* __restrict__ w, const real* __restrict__ dy, AttentionDims d
) {
    extern __shared__ float4 room[];
    Attention a(d, reinterpret_cast<float*>(room));
    const real* scale = s + blockIdx.y * d.channels;
    // Sums of dy·p: entry i belongs to thread i % blockDim.x, which holds channel i % C of the pixels of slice i / C.
    int slices = max(1, (int)blockDim.x / d.channels);
    float* sums = a.weights + d.keys * a.stride;
    for (int i = threadIdx.x; i < slices * d.channels; i += blockDim.x) sums[i] = 0.0f;
    bool staged = false;
    for (int first = blockIdx.x * a.tile; first < d.pixels; first += gridDim.x * a.tile) {
        int at = blockIdx.y * d.pixels + first, rows = min(a.tile, d.pixels - first);
        a.score(h + at * d.channels, rows, w, d.keys, scale, staged);
        staged = true;
        a.softmax(d.keys);
        __syncthreads();
        for (int i = threadIdx.x; i < slices * d.channels; i += blockDim.x) {
            int c = i % d.channels;
            float sum = 0.0f;
            for (int p = i / d.channels; p < rows; p += slices)
                sum += to_float(dy[(at + p) * d.channels + c]) * a.weights[c * a.stride + p];
            sums[i] += sum;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PIXELS; i++) {
            int p = a.group + i * a.groups;
            float* column = a.weights + p;
            const real* own = dy + (at + min(p, rows - 1)) * d.channels;
            float mean = 0.0f;
            for (int t = a.lane; t < d.keys; t += d.lanes)
                mean += column[t * a.stride] * (to_float(own[t]) * to_float(scale[t]));
            mean = a.over_lanes(mean);
            for (int t = a.lane; t < d.keys; t += d.lanes)
                column[t * a.stride] *= to_float(own[t]) * to_float(scale[t]) - mean;
        }
        __syncthreads();
        a.write(dlogits + at * d.keys, rows, d.keys, nullptr);
        if (dh) a.mix(dh + at * d.channels, rows, w, d.keys, scale);
        __syncthreads();
    }
    __syncthreads();
    for (int c = threadIdx.x; c < d.channels; c += blockDim.x) {
        float sum = 0.0f;
        for (int slice = 0; slice < slices; slice++) sum += sums[slice * d.channels + c];
        ds[(blockIdx.y * gridDim.x + blockIdx.x) * d.channels + c] = sum;
    }
}

// ---------------------------------------------------------------- sums over pixels

// The sizes of sums over pixels: `block` pixels an image and block, rows of T and of C numbers.
struct PixelSums {
    int pixels, block, keys, channels;
};

// sum[i][j] += Σ over a warp's pixels of a[n][t + i] x[n][c + j]. A lane has W keys and four channels; the eight
// lanes of a quarter neighbor each other in x.
template <int W, class A, class X>
__device__ __forceinline__ void add_outer(
    float (&sum)[W][4], const A* __restrict__ a, const X* __restrict__ x, int first, int last, int t, int c,
    const PixelSums& d
) {
    bool packs = d.channels % 4 == 0;
#pragma unroll 4
    for (int n = first; n < last; n += THREADS / 32) {
        float v[4] = {}, u[W];
        if (packs) {
            if (c < d.channels) fetch(v, x + n * d.channels + c);
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (c + j < d.channels) v[j] = to_float(x[n * d.channels + c + j]);
        }
#pragma unroll
        for (int i = 0; i < W; i++) u[i] = t + i < d.keys ? to_float(a[n * d.keys + t + i]) : 0.0f;
#pragma unroll
        for (int i = 0; i < W; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) sum[i][j] += u[i] * v[j];
    }
}

// partial [B,blocks,T,C] of a block's 4·W keys and 32 channels: the warps' sums, in their order.
template <int W, class Add>
__device__ __forceinline__ void pixel_sums(float* __restrict__ partial, const PixelSums& d, Add add) {
    __shared__ float warps[THREADS / 32][4 * W][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, panels = (d.channels + 31) / 32;
    int t0 = blockIdx.y / panels * 4 * W, c0 = blockIdx.y % panels * 32;
    int t = lane / 8 * W, c = lane % 8 * 4, image = blockIdx.z;
    int first = image * d.pixels + blockIdx.x * d.block, last = min(first + d.block, (image + 1) * d.pixels);
    float sum[W][4] = {};
    add(sum, first + warp, last, t0 + t, c0 + c);
#pragma unroll
    for (int i = 0; i < W; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) warps[warp][t + i][c + j] = sum[i][j];
    __syncthreads();
    float* out = partial + (image * gridDim.x + blockIdx.x) * d.keys * d.channels;
    for (int i = threadIdx.x; i < 4 * W * 32; i += THREADS) {
        int key = t0 + i / 32, channel = c0 + i % 32;
        float total = warps[0][i / 32][i % 32];
        for (int w = 1; w < THREADS / 32; w++) total += warps[w][i / 32][i % 32];
        if (key < d.keys && channel < d.channels) out[key * d.channels + channel] = total;
    }
}

// partial [B,blocks,T,C] = Σ over a block's pixels of ds_n ⊗ h_n + beta_n ⊗ dy_n. ds, beta [B,P,T], h, dy [B,P,C]; a
// block has 20 keys and 32 channels of one image's `block` pixels.
extern "C" __global__ void __launch_bounds__(128) cross_attention_bwd_e(
    float* __restrict__ partial, const float* __restrict__ ds, const real* __restrict__ h,
    const real* __restrict__ beta, const real* __restrict__ dy, PixelSums d
) {
    pixel_sums<5>(partial, d, [&](float(&sum)[5][4], int first, int last, int t, int c) {
        add_outer<5>(sum, ds, h, first, last, t, c, d);
        add_outer<5>(sum, beta, dy, first, last, t, c, d);
    });
}

// partial [B,blocks,C,C] = Σ over a block's pixels of dlogits_n ⊗ h_n, both [B,P,C]; a block has 32 rows and columns.
extern "C" __global__ void __launch_bounds__(128) channel_attention_bwd_m(
    float* __restrict__ partial, const float* __restrict__ dlogits, const real* __restrict__ h, PixelSums d
) {
    pixel_sums<8>(partial, d, [&](float(&sum)[8][4], int first, int last, int t, int c) {
        add_outer<8>(sum, dlogits, h, first, last, t, c, d);
    });
}

// sum [B,N] = Σ over the blocks of partial [B,blocks,N], in their order.
extern "C" __global__ void __launch_bounds__(256) attention_sum(
    float* __restrict__ sum, const float* __restrict__ partial, int images, int blocks, int n
) {
    for (int i = thread_index(); i < images * n; i += thread_count()) {
        const float* at = partial + i / n * blocks * n + i % n;
        float total = 0.0f;
        for (int block = 0; block < blocks; block++) total += at[block * n];
        sum[i] = total;
    }
}

// With m_b = Σ_n dlogits_n ⊗ h_n of image b [B,C,C], and `direct` [B,C] the part of s's gradient that does not pass the softmax:
// ds_bj = direct_bj + Σ_i w_ij m_bij;  dw_ij = Σ_b m_bij s_bj. ds, s [B,C], dw, w [C,C]; a thread an output.
extern "C" __global__ void __launch_bounds__(256) channel_attention_bwd_w(
    OPTIONAL real* __restrict__ ds, OPTIONAL float* __restrict__ dw, const float* __restrict__ m,
    const float* __restrict__ direct, const real* __restrict__ s, const float* __restrict__ w, int images, int channels
) {
    int n = channels * channels;
    for (int i = thread_index(); i < n + images * channels; i += thread_count()) {
        if (i < n ? !dw : !ds) continue;
        float sum = 0.0f;
        if (i < n) {
            for (int b = 0; b < images; b++) sum += m[b * n + i] * to_float(s[b * channels + i % channels]);
            dw[i] = sum;
        } else {
            int b = (i - n) / channels, j = (i - n) % channels;
            for (int k = 0; k < channels; k++) sum += w[k * channels + j] * m[b * n + k * channels + j];
            set(ds[i - n], direct[i - n] + sum);
        }
    }
}
