// Convolutions over NHWC images as implicit GEMMs: windows are read in place and never written out.
//
// conv_fprop: y[pixel, n] = Σ_k window[pixel, k] w[n, k] with k = (row of the window, element of the row): in NHWC the
// taps of one window row and their channels lie side by side. conv_wgrad: dw[n, k] = Σ_pixel dy[pixel, n] window[pixel, k],
// with split-K over the pixels. src/engine/ops/conv/mod.rs has the table of passes that these two compute.
//
// Phase p of a dimension holds the output positions p, p + step, ..; the taps t ≡ p + pad (mod step) reach it, the
// largest first. src/engine/ops/conv/problem.rs explains `pad`.
#include "gemm.cuh"

struct ConvDims {
    int batch, cin, cout;
    int input[2], output[2];
    int window[2], pad[2], step[2], stride[2];
    // Elements of one row and of one phase of the packed filters.
    int filter_row, filter_phase;
    // Splits of the sum, and (wgrad) height and width of a phase's output as divisors.
    int splits;
    unsigned height[3], width[3];
};

struct FilterDims {
    int outputs, inputs;
    int window[2], pad[2], step[2];
    int row, phase;
    // Rows are inputs, not outputs; the last tap comes first; 4×4 taps summed from 3×3.
    int transposed, flipped, spread;
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
    __device__ Phase(const ConvDims& d, int index) {
        at[0] = index / d.step[1], at[1] = index % d.step[1];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            Reach r = reach(at[i], d.window[i], d.pad[i], d.step[i]);
            taps[i] = r.taps, origin[i] = r.origin;
            out[i] = (d.output[i] + d.step[i] - 1 - at[i]) / d.step[i];
        }
    }
    // Pixel of the whole output that pixel (b, i, j) of this phase is.
    __device__ int output_pixel(const ConvDims& d, int b, int i, int j) const {
        return (b * d.output[0] + at[0] + i * d.step[0]) * d.output[1] + at[1] + j * d.step[1];
    }
};

// ---------------------------------------------------------------- windows as operands

// Rows are output pixels, K runs along their windows.
template <class T, int ROWS>
struct WindowsKMajor {
    static constexpr bool K_MAJOR = true;
    typedef Layout<T, ROWS, true> SharedLayout;
    const real* x;
    // Offset of the window's first element, row of the image it lies in, elements left of it in that row.
    int base[SharedLayout::PASSES], top[SharedLayout::PASSES], left[SharedLayout::PASSES];
    // Row of the window and element of that row; elements of a window row and of an image row.
    int r, e, run, line, height, rows;
    bool packed;

    __device__ WindowsKMajor(const real* x, const ConvDims& d, const Phase& p, int first, int count, int k0) : x(x) {
        run = p.taps[1] * d.cin, line = d.input[1] * d.cin, height = d.input[0], rows = p.taps[0];
        packed = d.cin % T::CHUNK == 0;
        int k = k0 + SharedLayout::k();
        r = run > 0 ? k / run : 0, e = run > 0 ? k % run : 0;
#pragma unroll
        for (int i = 0; i < SharedLayout::PASSES; i++) {
            int m = first + SharedLayout::row(i);
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

// Image, row and column of pixel k of a phase, counted over the batch.
__device__ __forceinline__ void split_pixel(const ConvDims& d, int k, int& b, int& i, int& j) {
    int row = quotient(k, d.width);
    b = quotient(row, d.height);
    j = k - row * (int)d.width[0], i = row - b * (int)d.height[0];
}

// Rows are elements of the window, K runs over the output pixels.
template <class T, int ROWS>
struct WindowsMnMajor {
    static constexpr bool K_MAJOR = false;
    typedef Layout<T, ROWS, false> SharedLayout;
    const real* x;
    const ConvDims& d;
    const Phase& p;
    int r, e, run, line, k, end;
    bool packed;

    __device__ WindowsMnMajor(const real* x, const ConvDims& d, const Phase& p, int first, int k0, int end)
        : x(x), d(d), p(p), k(k0), end(end) {
        run = p.taps[1] * d.cin, line = d.input[1] * d.cin;
        packed = d.cin % T::CHUNK == 0;
        r = (first + SharedLayout::row()) / run, e = (first + SharedLayout::row()) % run;
    }
    // Where the window of output pixel `at` begins: row and element of its image, and offset of them in x.
    __device__ bool find(int at, int& top, int& left, int& offset) const {
        int b, i, j;
        split_pixel(d, at, b, i, j);
        top = i * d.stride[0] + p.origin[0], left = (j * d.stride[1] + p.origin[1]) * d.cin;
        offset = (b * d.input[0] + top) * line + left;
        return at < end;
    }
    __device__ bool inside(int top, int left) const {
        return (unsigned)top < (unsigned)d.input[0] && (unsigned)left < (unsigned)line;
    }
    __device__ bool chunk(int i, const real*& to) const {
        int top, left, offset;
        bool in = find(k + SharedLayout::k(i), top, left, offset) && r < p.taps[0] && inside(top + r, left + e);
        to = x + (in ? offset + r * line + e : 0);
        return in;
    }
    __device__ void gather(int i, real (&to)[T::CHUNK]) const {
        int top, left, offset, row = r, at = e;
        bool in = find(k + SharedLayout::k(i), top, left, offset);
#pragma unroll
        for (int j = 0; j < T::CHUNK; j++) {
            to[j] = in && row < p.taps[0] && inside(top + row, left + at) ? x[offset + row * line + at] : real{};
            if (++at == run) at = 0, row++;
        }
    }
    __device__ void advance() { k += T::BK; }
};

// Rows are channels of dy, K runs over the output pixels.
template <class T, int ROWS>
struct OutputGradients {
    static constexpr bool K_MAJOR = false;
    typedef Layout<T, ROWS, false> SharedLayout;
    const real* dy;
    const ConvDims& d;
    const Phase& p;
    int n, k, end;
    bool packed;

    __device__ OutputGradients(const real* dy, const ConvDims& d, const Phase& p, int first, int k0, int end)
        : dy(dy), d(d), p(p), n(first + SharedLayout::row()), k(k0), end(end), packed(d.cout % T::CHUNK == 0) {}
    __device__ int offset(int at) const {
        int pixel = at;
        if (d.step[0] * d.step[1] > 1) {
            int b, i, j;
            split_pixel(d, at, b, i, j);
            pixel = p.output_pixel(d, b, i, j);
        }
        return pixel * d.cout + n;
    }
    __device__ bool chunk(int i, const real*& to) const {
        int at = k + SharedLayout::k(i);
        bool in = at < end && n < d.cout;
        to = dy + (in ? offset(at) : 0);
        return in;
    }
    __device__ void gather(int i, real (&to)[T::CHUNK]) const {
        int at = k + SharedLayout::k(i), from = offset(at);
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
    // Merges two such triples (Chan, Golub and LeVeque 1979).
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

// y[output pixel, n] = bias[n] + Σ_k window[pixel, k] w[phase, n, k]; x[B,H,W,Cin], w packed, y[B,output,Cout].
// With `workspace` the sums of each split of k go there instead, [splits, pixels, Cout]. `moments`, if any, gets n, mean
// and Σ(x − mean)² of each tile of y, [phases · tiles, 3, Cout]. Block x is a tile, its columns first; z a phase and a
// split.
template <class T>
__device__ __forceinline__ void conv_fprop(real* y, float* workspace, float* moments, const real* x, const real* w,
                                           const float* bias, const ConvDims& d) {
    if constexpr (T::MATH != TF32 || HAS_TF32) {
        int across = (d.cout + T::BN - 1) / T::BN;
        int m0 = blockIdx.x / across * T::BM, n0 = blockIdx.x % across * T::BN;
        int split = blockIdx.z % d.splits, index = blockIdx.z / d.splits;
        Phase phase(d, index);
        int pixels = d.batch * phase.out[0] * phase.out[1];
        if (m0 >= pixels) return;
        for (int row = threadIdx.x; row < T::BM; row += T::THREADS) {
            int m = m0 + row, line = m / phase.out[1];
            T::table()[row] = phase.output_pixel(d, line / phase.out[0], line % phase.out[0], m % phase.out[1]);
        }
        int k_blocks = (phase.taps[0] * phase.taps[1] * d.cin + T::BK - 1) / T::BK;
        int per_split = (k_blocks + d.splits - 1) / d.splits, from = min(split * per_split, k_blocks);
        WindowsKMajor<T, T::BM> a(x, d, phase, m0, pixels, from * T::BK);
        KMajor<T, T::BN> b(w + index * d.filter_phase, d.filter_row, n0, d.cout, from * T::BK, d.filter_row,
                           d.filter_row % T::CHUNK == 0);
        const float* sums = multiply<T>(a, b, min(per_split, k_blocks - from));
        int rows = min(pixels - m0, T::BM);
        bool packed = d.cout % Pack<real>::N == 0;
        float* part = workspace + (long long)split * d.batch * d.output[0] * d.output[1] * d.cout;
        for_packs<T>(sums, [&](int row, int column, Pack<real>& v) {
            int count = d.cout - n0 - column;
            if (row >= rows || count <= 0) return;
            int at = T::table()[row] * d.cout + n0 + column;
            if (workspace) return store_some(part + at, v, count, packed);
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

INSTANCES(conv_fprop,
          (OPTIONAL real* y, OPTIONAL float* workspace, OPTIONAL float* moments, const real* x, const real* w,
           OPTIONAL const float* bias, ConvDims d),
          (y, workspace, moments, x, w, bias, d), 128x128, 128x64, 64x64, 128x32)

// dx from dy: conv_fprop of a transposed problem, under a name of its own for profilers.
template <class T>
__device__ __forceinline__ void conv_dgrad(real* dx, float* workspace, const real* dy, const real* w, const ConvDims& d) {
    conv_fprop<T>(dx, workspace, nullptr, dy, w, nullptr, d);
}
INSTANCES(conv_dgrad,
          (OPTIONAL real* dx, OPTIONAL float* workspace, const real* dy, const real* w, ConvDims d),
          (dx, workspace, dy, w, d), 128x128, 128x64, 64x64, 128x32)

// dw[n, k] = Σ_pixel dy[output pixel, n] window[pixel, k], of one split of the pixels: dw[phases · splits, Cout, K].
template <class T>
__device__ __forceinline__ void conv_wgrad(float* dw, const real* dy, const real* x, const ConvDims& d) {
    if constexpr (T::MATH != TF32 || HAS_TF32) {
        Phase phase(d, blockIdx.z / d.splits);
        int split = blockIdx.z % d.splits;
        int depth = phase.taps[0] * phase.taps[1] * d.cin, pixels = d.batch * phase.out[0] * phase.out[1];
        int across = (depth + T::BN - 1) / T::BN;
        int m0 = blockIdx.x / across * T::BM, n0 = blockIdx.x % across * T::BN;
        int k_blocks = (pixels + T::BK - 1) / T::BK;
        int per_split = (k_blocks + d.splits - 1) / d.splits, from = min(split * per_split, k_blocks);
        OutputGradients<T, T::BM> a(dy, d, phase, m0, from * T::BK, pixels);
        WindowsMnMajor<T, T::BN> b(x, d, phase, n0, from * T::BK, pixels);
        const float* sums = multiply<T>(a, b, min(per_split, k_blocks - from));
        float* part = dw + (long long)blockIdx.z * d.cout * depth;
        bool packed = depth % Pack<real>::N == 0;
        for_packs<T>(sums, [&](int row, int column, Pack<real>& v) {
            int count = depth - n0 - column;
            if (m0 + row < d.cout && count > 0)
                store_some(part + (long long)(m0 + row) * depth + n0 + column, v, count, packed);
        });
    }
}
INSTANCES(conv_wgrad, (float* dw, const real* dy, const real* x, ConvDims d), (dw, dy, x, d), 128x128, 64x64)

// ---------------------------------------------------------------- before and after

// y[i] = bias[i % Cout] + Σ_s workspace[s, i], in the order of s.
extern "C" __global__ void __launch_bounds__(256)
conv_reduce_splits_fprop(real* __restrict__ y, const float* __restrict__ workspace, OPTIONAL const float* __restrict__ bias, int n,
                         int cout, int splits) {
    for (int i = thread_index(); i < n; i += thread_count()) {
        float sum = reduce_splits(workspace + i, n, splits);
        set(y[i], bias ? sum + bias[i % cout] : sum);
    }
}

// y = rectified y + residual, where there is one: y, residual [n]
extern "C" __global__ void __launch_bounds__(256)
conv_activation_fwd(real* __restrict__ y, OPTIONAL const real* __restrict__ residual, float slope, float ceiling, int n) {
    auto rectified = [=](float z) { return fminf(z > 0.0f ? z : slope * z, ceiling); };
    if (residual) map2(y, y, residual, n, [=](float y, float residual) { return rectified(y + residual); });
    else map_each(y, y, n, rectified);
}

// dz from dy, for the rectifier that gave y: [n]
extern "C" __global__ void __launch_bounds__(256)
conv_activation_bwd(real* __restrict__ dz, const real* __restrict__ dy, const real* __restrict__ y, float slope, float ceiling,
                    int n) {
    map2(dz, dy, y, n, [=](float dy, float y) { return y > 0.0f ? y < ceiling ? dy : 0.0f : slope * dy; });
}

// dw[i] = Σ_s workspace[s, i], in the order of s.
extern "C" __global__ void __launch_bounds__(256)
conv_reduce_splits_wgrad(float* __restrict__ dw, const float* __restrict__ workspace, int n, int splits) {
    for (int i = thread_index(); i < n; i += thread_count()) dw[i] = reduce_splits(workspace + i, n, splits);
}

// dw[Cout,3,3,Cin] from the gradients [4 phases, splits, Cout, 2,2, Cin] of the 2×2 filters of upsample2x_conv3x3: in
// each phase a tap of the 3×3 filter is part of one sum.
extern "C" __global__ void __launch_bounds__(256)
conv_fold_phases(float* __restrict__ dw, const float* __restrict__ workspace, int cout, int cin, int splits) {
    int n = cout * 9 * cin;
    for (int i = thread_index(); i < n; i += thread_count()) {
        int c = i % cin, tap = i / cin % 9, o = i / cin / 9;
        float sum = 0.0f;
#pragma unroll 1
        for (int phase = 0; phase < 4; phase++) {
            // Phase 0 sees tap 0 | 1, 2; phase 1 sees 0, 1 | 2.
            int r = tap / 3 > (phase >> 1), s = tap % 3 > (phase & 1);
            long long split = (long long)cout * 4 * cin;
            sum += reduce_splits(workspace + phase * splits * split + (o * 4 + r * 2 + s) * cin + c, split, splits);
        }
        dw[i] = sum;
    }
}

// Filters w[outputs,R,S,inputs] in the order of windows: [phase][row][taps of the phase · channels], filled up
// with zeros; rows are outputs or (transposed) inputs. Block: x 32 outputs × 32 inputs, y a tap, z a phase.
extern "C" __global__ void __launch_bounds__(256)
conv_pack_filters(real* __restrict__ packed, const float* __restrict__ w, FilterDims d) {
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
        if (!d.flipped) r = d.window[0] - 1 - r, s = d.window[1] - 1 - s;
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
