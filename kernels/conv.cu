// Convolutions: a window of taps slid over an NHWC image, as a matrix product that never writes its windows out.
//
// y[pixel, n] = Σ_k window[pixel, k] w[n, k], where k = (row of the window, element of the row): in NHWC the taps of one
// window row and their channels lie side by side. The same kernels make
//
//   forward                 the window of R×S taps over x
//   input gradient          for each of the stride² phases of x the taps that reach it, flipped, over dy
//   nearest 2×, then 3×3    the same with stride 2 and a 4×4 window of summed taps (four phases of 2×2 taps)
//   its input gradient      that 4×4 window with stride 2 over dy
//   weight gradient         dw[n, k] = Σ_pixel dy[pixel, n] window[pixel, k], summed over shares of the pixels
//
// Phase p of a dimension holds the canvas positions p, p + step, ..; the taps t ≡ p + pad (mod step) reach it, the
// largest first. A forward convolution has step 1, its taps counted from the end and pad = window − 1 − padding.
#include "gemm.cuh"

struct SlideDims {
    int batch, cin, cout;
    int image[2], canvas[2];
    int window[2], pad[2], step[2], stride[2];
    // Elements of one row and of one phase of the packed weights.
    int weight_row, weight_phase;
    // Shares of the sum, and (weight gradient) outputs down and across as divisors.
    int splits;
    unsigned down[3], across[3];
};

struct PackDims {
    int outputs, inputs;
    int window[2], pad[2], step[2];
    int row, phase;
    // Rows are inputs, not outputs; taps in their own order; 4×4 taps summed from 3×3.
    int transposed, unflipped, spread;
};

// ---------------------------------------------------------------- phases

// One dimension of one phase: how many taps, where the first lies for the first output, outputs.
struct Reach {
    int taps, last, origin;
};

__device__ __forceinline__ Reach reach(int phase, int window, int pad, int step) {
    int first = step == 1 ? 0 : (phase + pad) % step;
    int taps = first < window ? (window - 1 - first) / step + 1 : 0;
    int last = first + (taps - 1) * step;
    return {taps, last, taps > 0 ? (phase + pad - last) / step : 0};
}

struct Phase {
    int at[2], taps[2], origin[2], out[2];
    __device__ Phase(const SlideDims& d, int index) {
        at[0] = index / d.step[1], at[1] = index % d.step[1];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            Reach r = reach(at[i], d.window[i], d.pad[i], d.step[i]);
            taps[i] = r.taps, origin[i] = r.origin;
            out[i] = (d.canvas[i] + d.step[i] - 1 - at[i]) / d.step[i];
        }
    }
    // Pixel of the canvas that output (b, i, j) is.
    __device__ int target(const SlideDims& d, int b, int i, int j) const {
        return (b * d.canvas[0] + at[0] + i * d.step[0]) * d.canvas[1] + at[1] + j * d.step[1];
    }
};

// ---------------------------------------------------------------- windows as operands

// Rows are outputs, K runs along their windows.
template <class T, int ROWS>
struct Windows {
    static constexpr bool ALONG = true;
    typedef Layout<T, ROWS, true> Place;
    const real* x;
    // Offset of the window's first element, row of the image it lies in, elements left of it in that row.
    int base[Place::PASSES], top[Place::PASSES], left[Place::PASSES];
    // Row of the window and element of that row; elements of a window row and of an image row.
    int r, e, run, line, height, rows;
    bool packed;

    __device__ Windows(const real* x, const SlideDims& d, const Phase& p, int first, int count, int k0) : x(x) {
        run = p.taps[1] * d.cin, line = d.image[1] * d.cin, height = d.image[0], rows = p.taps[0];
        packed = d.cin % T::CHUNK == 0;
        int k = k0 + Place::k();
        r = run > 0 ? k / run : 0, e = run > 0 ? k % run : 0;
#pragma unroll
        for (int i = 0; i < Place::PASSES; i++) {
            int m = first + Place::row(i);
            int j = m % p.out[1], b = m / p.out[1] / p.out[0];
            top[i] = m / p.out[1] % p.out[0] * d.stride[0] + p.origin[0];
            left[i] = (j * d.stride[1] + p.origin[1]) * d.cin;
            base[i] = (b * height + top[i]) * line + left[i];
            if (m >= count) top[i] = -(1 << 30);
        }
    }
    __device__ bool inside(int i, int r, int e) const {
        return r < rows && (unsigned)(top[i] + r) < (unsigned)height && (unsigned)(left[i] + e) < (unsigned)line;
    }
    __device__ bool chunk(int i, const real*& p) const {
        bool in = inside(i, r, e);
        p = x + (in ? base[i] + r * line + e : 0);
        return in;
    }
    __device__ void gather(int i, real (&to)[T::CHUNK]) const {
        int row = r, at = e;
#pragma unroll
        for (int j = 0; j < T::CHUNK; j++) {
            to[j] = inside(i, row, at) ? x[base[i] + row * line + at] : real{};
            if (++at == run) at = 0, row++;
        }
    }
    __device__ void advance() {
        e += T::BK;
        while (e >= run) e -= run, r++;
    }
};

// The place in the image of output k, counted over the batch.
__device__ __forceinline__ void split_pixel(const SlideDims& d, int k, int& b, int& i, int& j) {
    int row = quotient(k, d.across);
    b = quotient(row, d.down);
    j = k - row * (int)d.across[0], i = row - b * (int)d.down[0];
}

// Rows are elements of the window, K runs over the outputs.
template <class T, int ROWS>
struct WindowsAcross {
    static constexpr bool ALONG = false;
    typedef Layout<T, ROWS, false> Place;
    const real* x;
    const SlideDims& d;
    const Phase& p;
    int r, e, run, line, k, end;
    bool packed;

    __device__ WindowsAcross(const real* x, const SlideDims& d, const Phase& p, int first, int k0, int end)
        : x(x), d(d), p(p), k(k0), end(end) {
        run = p.taps[1] * d.cin, line = d.image[1] * d.cin;
        packed = d.cin % T::CHUNK == 0;
        r = (first + Place::row()) / run, e = (first + Place::row()) % run;
    }
    // Where the window of output `at` begins: row and element of its picture, and offset of them in x.
    __device__ bool find(int at, int& top, int& left, int& offset) const {
        int b, i, j;
        split_pixel(d, at, b, i, j);
        top = i * d.stride[0] + p.origin[0], left = (j * d.stride[1] + p.origin[1]) * d.cin;
        offset = (b * d.image[0] + top) * line + left;
        return at < end;
    }
    __device__ bool inside(int top, int left) const {
        return (unsigned)top < (unsigned)d.image[0] && (unsigned)left < (unsigned)line;
    }
    __device__ bool chunk(int i, const real*& to) const {
        int top, left, offset;
        bool in = find(k + Place::k(i), top, left, offset) && r < p.taps[0] && inside(top + r, left + e);
        to = x + (in ? offset + r * line + e : 0);
        return in;
    }
    __device__ void gather(int i, real (&to)[T::CHUNK]) const {
        int top, left, offset, row = r, at = e;
        bool in = find(k + Place::k(i), top, left, offset);
#pragma unroll
        for (int j = 0; j < T::CHUNK; j++) {
            to[j] = in && row < p.taps[0] && inside(top + row, left + at) ? x[offset + row * line + at] : real{};
            if (++at == run) at = 0, row++;
        }
    }
    __device__ void advance() { k += T::BK; }
};

// Rows are channels of dy, K runs over the outputs.
template <class T, int ROWS>
struct Gradients {
    static constexpr bool ALONG = false;
    typedef Layout<T, ROWS, false> Place;
    const real* dy;
    const SlideDims& d;
    const Phase& p;
    int n, k, end;
    bool packed;

    __device__ Gradients(const real* dy, const SlideDims& d, const Phase& p, int first, int k0, int end)
        : dy(dy), d(d), p(p), n(first + Place::row()), k(k0), end(end), packed(d.cout % T::CHUNK == 0) {}
    __device__ int offset(int at) const {
        int pixel = at;
        if (d.step[0] * d.step[1] > 1) {
            int b, i, j;
            split_pixel(d, at, b, i, j);
            pixel = p.target(d, b, i, j);
        }
        return pixel * d.cout + n;
    }
    __device__ bool chunk(int i, const real*& to) const {
        int at = k + Place::k(i);
        bool in = at < end && n < d.cout;
        to = dy + (in ? offset(at) : 0);
        return in;
    }
    __device__ void gather(int i, real (&to)[T::CHUNK]) const {
        int at = k + Place::k(i), from = offset(at);
#pragma unroll
        for (int j = 0; j < T::CHUNK; j++) to[j] = at < end && n + j < d.cout ? dy[from + j] : real{};
    }
    __device__ void advance() { k += T::BK; }
};

// ---------------------------------------------------------------- sums of channels

__device__ __forceinline__ float stored(float x) {
#if STORAGE_BF16
    return to_float(bf16{bf16_bits(x)});
#else
    return x;
#endif
}

// n, mean and Σ(x − mean)² of the first `rows` rows of each column, as they will be stored; to[3, stride], of which this
// tile has `columns`.
template <class T>
__device__ __forceinline__ void column_moments(float* to, const float* sums, int rows, int columns, int stride) {
    constexpr int GROUPS = T::THREADS / T::BN, SHARE = T::BM / GROUPS;
    __shared__ float means[T::THREADS], squares[T::THREADS];
    int column = threadIdx.x % T::BN, group = threadIdx.x / T::BN;
    int from = group * SHARE, n = min(max(rows - from, 0), SHARE);
    const float* p = sums + from * T::ROW + column;
    float mean = 0.0f, square = 0.0f;
    for (int i = 0; i < n; i++) mean += stored(p[i * T::ROW]);
    if (n > 0) mean /= (float)n;
    for (int i = 0; i < n; i++) {
        float off = stored(p[i * T::ROW]) - mean;
        square = fmaf(off, off, square);
    }
    means[threadIdx.x] = mean, squares[threadIdx.x] = square;
    __syncthreads();
    if (group > 0 || column >= columns) return;
    // Chan, Golub and LeVeque's rule for joining two such triples.
    for (int g = 1; g < GROUPS; g++) {
        int more = min(max(rows - g * SHARE, 0), SHARE);
        if (more == 0) break;
        float off = means[g * T::BN + column] - mean, share = (float)more / (float)(n + more);
        mean += off * share;
        square += squares[g * T::BN + column] + off * off * (float)n * share;
        n += more;
    }
    to[column] = (float)n, to[stride + column] = mean, to[2 * stride + column] = square;
}

// ---------------------------------------------------------------- the kernels

// y[canvas pixel, n] = bias[n] + Σ_k window[pixel, k] w[phase, n, k]; x[B,H,W,Cin], w packed, y[B,canvas,Cout].
// With `parts` each share of the sum over k goes there instead, [splits, pixels, Cout]. `moments`, if any, gets n, mean
// and Σ(x − mean)² of each tile of y, [phases · tiles, 3, Cout]. Block x is a tile, its columns first; z a phase and a share.
template <class T>
__device__ __forceinline__ void slide(real* y, float* parts, float* moments, const real* x, const real* w,
                                      const float* bias, const SlideDims& d) {
    if constexpr (T::MATH != TF32 || HAS_TF32) {
        int across = (d.cout + T::BN - 1) / T::BN;
        int m0 = blockIdx.x / across * T::BM, n0 = blockIdx.x % across * T::BN;
        int split = blockIdx.z % d.splits, index = blockIdx.z / d.splits;
        Phase phase(d, index);
        int pixels = d.batch * phase.out[0] * phase.out[1];
        if (m0 >= pixels) return;
        for (int row = threadIdx.x; row < T::BM; row += T::THREADS) {
            int m = m0 + row, line = m / phase.out[1];
            T::table()[row] = phase.target(d, line / phase.out[0], line % phase.out[0], m % phase.out[1]);
        }
        int slices = (phase.taps[0] * phase.taps[1] * d.cin + T::BK - 1) / T::BK;
        int share = (slices + d.splits - 1) / d.splits, from = min(split * share, slices);
        Windows<T, T::BM> a(x, d, phase, m0, pixels, from * T::BK);
        Along<T, T::BN> b(w + index * d.weight_phase, d.weight_row, n0, d.cout, from * T::BK, d.weight_row,
                          d.weight_row % T::CHUNK == 0);
        const float* sums = multiply<T>(a, b, min(share, slices - from));
        int rows = min(pixels - m0, T::BM);
        bool packed = d.cout % Pack<real>::N == 0;
        float* part = parts + (long long)split * d.batch * d.canvas[0] * d.canvas[1] * d.cout;
        for_packs<T>(sums, [&](int row, int column, Pack<real>& v) {
            int count = d.cout - n0 - column;
            if (row >= rows || count <= 0) return;
            int at = T::table()[row] * d.cout + n0 + column;
            if (parts) return store_some(part + at, v, count, packed);
            if (bias) {
#pragma unroll
                for (int i = 0; i < Pack<real>::N; i++)
                    if (i < count) v.v[i] += bias[n0 + column + i];
            }
            store_some(y + at, v, count, packed);
        });
        if (moments) {
            int tile = index * ((pixels + T::BM - 1) / T::BM) + blockIdx.x / across;
            column_moments<T>(moments + (long long)tile * 3 * d.cout + n0, sums, rows, d.cout - n0, d.cout);
        }
    }
}

// dw[n, k] = Σ_pixel dy[canvas pixel, n] window[pixel, k], of one share of the pixels: dw[phases · splits, Cout, K].
template <class T>
__device__ __forceinline__ void outer(float* dw, const real* dy, const real* x, const SlideDims& d) {
    if constexpr (T::MATH != TF32 || HAS_TF32) {
        Phase phase(d, blockIdx.z / d.splits);
        int split = blockIdx.z % d.splits;
        int depth = phase.taps[0] * phase.taps[1] * d.cin, pixels = d.batch * phase.out[0] * phase.out[1];
        int across = (depth + T::BN - 1) / T::BN;
        int m0 = blockIdx.x / across * T::BM, n0 = blockIdx.x % across * T::BN;
        int slices = (pixels + T::BK - 1) / T::BK;
        int share = (slices + d.splits - 1) / d.splits, from = min(split * share, slices);
        Gradients<T, T::BM> a(dy, d, phase, m0, from * T::BK, pixels);
        WindowsAcross<T, T::BN> b(x, d, phase, n0, from * T::BK, pixels);
        const float* sums = multiply<T>(a, b, min(share, slices - from));
        float* part = dw + (long long)blockIdx.z * d.cout * depth;
        bool packed = depth % Pack<real>::N == 0;
        for_packs<T>(sums, [&](int row, int column, Pack<real>& v) {
            int count = depth - n0 - column;
            if (m0 + row < d.cout && count > 0)
                store_some(part + (long long)(m0 + row) * depth + n0 + column, v, count, packed);
        });
    }
}

// The tiles: 128×128 and 128×64 for many channels, 64×64 for small images, 128×32 for few channels.

extern "C" __global__ void __launch_bounds__(256, BLOCKS_256)
conv_slide_128x128(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<NATIVE, 128, 128, 64, 32>>(y, parts, moments, x, w, bias, d);
}

extern "C" __global__ void __launch_bounds__(128, 3)
conv_slide_128x64(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<NATIVE, 128, 64, 64, 32>>(y, parts, moments, x, w, bias, d);
}

extern "C" __global__ void __launch_bounds__(128, BLOCKS_128)
conv_slide_64x64(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<NATIVE, 64, 64, 32, 32>>(y, parts, moments, x, w, bias, d);
}

extern "C" __global__ void __launch_bounds__(128, BLOCKS_128)
conv_slide_128x32(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<NATIVE, 128, 32, 32, 32>>(y, parts, moments, x, w, bias, d);
}

extern "C" __global__ void __launch_bounds__(256, 2)
conv_slide_128x128_tf32(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<TF32, 128, 128, 64, 32>>(y, parts, moments, x, w, bias, d);
}

extern "C" __global__ void __launch_bounds__(128, 3)
conv_slide_128x64_tf32(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<TF32, 128, 64, 64, 32>>(y, parts, moments, x, w, bias, d);
}

extern "C" __global__ void __launch_bounds__(128, 4)
conv_slide_64x64_tf32(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<TF32, 64, 64, 32, 32>>(y, parts, moments, x, w, bias, d);
}

extern "C" __global__ void __launch_bounds__(128, 4)
conv_slide_128x32_tf32(real* y, float* parts, float* moments, const real* x, const real* w, const float* bias, SlideDims d) {
    slide<Tile<TF32, 128, 32, 32, 32>>(y, parts, moments, x, w, bias, d);
}

// Weight gradients.

extern "C" __global__ void __launch_bounds__(256, BLOCKS_256)
conv_outer_128x128_bwd_w(float* dw, const real* dy, const real* x, SlideDims d) {
    outer<Tile<NATIVE, 128, 128, 64, 32>>(dw, dy, x, d);
}

extern "C" __global__ void __launch_bounds__(128, BLOCKS_128)
conv_outer_64x64_bwd_w(float* dw, const real* dy, const real* x, SlideDims d) {
    outer<Tile<NATIVE, 64, 64, 32, 32>>(dw, dy, x, d);
}

extern "C" __global__ void __launch_bounds__(256, 2)
conv_outer_128x128_tf32_bwd_w(float* dw, const real* dy, const real* x, SlideDims d) {
    outer<Tile<TF32, 128, 128, 64, 32>>(dw, dy, x, d);
}

extern "C" __global__ void __launch_bounds__(128, 4)
conv_outer_64x64_tf32_bwd_w(float* dw, const real* dy, const real* x, SlideDims d) {
    outer<Tile<TF32, 64, 64, 32, 32>>(dw, dy, x, d);
}

// ---------------------------------------------------------------- before and after

// y[i] = bias[i % Cout] + Σ_s parts[s, i], in the order of s.
extern "C" __global__ void __launch_bounds__(256)
conv_join_fwd(real* __restrict__ y, const float* __restrict__ parts, const float* __restrict__ bias, int n, int cout, int splits) {
    for (int i = thread_index(); i < n; i += thread_count()) {
        float sum = join_parts(parts + i, n, splits);
        set(y[i], bias ? sum + bias[i % cout] : sum);
    }
}

// dw[i] = Σ_s parts[s, i], in the order of s.
extern "C" __global__ void __launch_bounds__(256)
conv_join_bwd_w(float* __restrict__ dw, const float* __restrict__ parts, int n, int splits) {
    for (int i = thread_index(); i < n; i += thread_count()) dw[i] = join_parts(parts + i, n, splits);
}

// dw[Cout,3,3,Cin] from the gradients [4 phases, splits, Cout, 2,2, Cin] of the taps that the 3×3 were summed to: in each
// phase a tap went into one sum.
extern "C" __global__ void __launch_bounds__(256)
conv_fold_bwd_w(float* __restrict__ dw, const float* __restrict__ parts, int cout, int cin, int splits) {
    int n = cout * 9 * cin;
    for (int i = thread_index(); i < n; i += thread_count()) {
        int c = i % cin, tap = i / cin % 9, o = i / cin / 9;
        float sum = 0.0f;
#pragma unroll 1
        for (int phase = 0; phase < 4; phase++) {
            // Phase 0 sees tap 0 | 1, 2; phase 1 sees 0, 1 | 2.
            int r = tap / 3 > (phase >> 1), s = tap % 3 > (phase & 1);
            long long share = (long long)cout * 4 * cin;
            sum += join_parts(parts + phase * splits * share + (o * 4 + r * 2 + s) * cin + c, share, splits);
        }
        dw[i] = sum;
    }
}

// Weights w[outputs,R,S,inputs] as the sliding windows want them: [phase][row][taps of the phase · channels], filled up
// with zeros; rows are outputs or (transposed) inputs. Block: x 32 outputs × 32 inputs, y a tap, z a phase.
extern "C" __global__ void __launch_bounds__(256)
conv_pack(real* __restrict__ packed, const float* __restrict__ w, PackDims d) {
    __shared__ float square[32][33];
    int across = (d.inputs + 31) / 32;
    int o0 = blockIdx.x / across * 32, i0 = blockIdx.x % across * 32;
    int p = blockIdx.z / d.step[1], q = blockIdx.z % d.step[1];
    Reach down = reach(p, d.window[0], d.pad[0], d.step[0]), right = reach(q, d.window[1], d.pad[1], d.step[1]);
    int tap = blockIdx.y, channels = d.transposed ? d.outputs : d.inputs, rows = d.transposed ? d.inputs : d.outputs;
    // A phase may have fewer taps than the rows have room for; one tap more fills them up to a multiple of 16 bytes.
    bool real_tap = tap < down.taps * right.taps;
    bool filling = tap == (d.window[0] + d.step[0] - 1) / d.step[0] * ((d.window[1] + d.step[1] - 1) / d.step[1]);
    int r = 0, s = 0;
    if (real_tap) {
        r = down.last - tap / right.taps * d.step[0], s = right.last - tap % right.taps * d.step[1];
        if (d.unflipped) r = d.window[0] - 1 - r, s = d.window[1] - 1 - s;
    }
    int lane = threadIdx.x % 32;
    for (int line = threadIdx.x / 32; line < 32; line += 8) {
        int o = o0 + line, i = i0 + lane;
        float sum = 0.0f;
        if (real_tap && o < d.outputs && i < d.inputs) {
            if (d.spread) {
                // Taps through which rows 2i−1 .. 2i+2 of the enlarged image read row i: {2}, {1, 2}, {0, 1}, {0}.
                for (int a = max(2 - r, 0); a <= min(3 - r, 2); a++)
                    for (int b = max(2 - s, 0); b <= min(3 - s, 2); b++)
                        sum += w[((o * 3 + a) * 3 + b) * d.inputs + i];
            } else {
                sum = w[((o * d.window[0] + r) * d.window[1] + s) * d.inputs + i];
            }
        }
        square[line][lane] = sum;
    }
    __syncthreads();
    int row0 = d.transposed ? i0 : o0, channel = (d.transposed ? o0 : i0) + lane;
    for (int line = threadIdx.x / 32; line < 32; line += 8) {
        int k = tap * channels + channel;
        if (row0 + line < rows && (channel < channels || filling) && k < d.row)
            set(packed[blockIdx.z * d.phase + (row0 + line) * d.row + k], d.transposed ? square[lane][line] : square[line][lane]);
    }
}
