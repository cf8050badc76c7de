// Recurrent layers: Hochreiter and Schmidhuber, "Long short-term memory", 1997; Cho et al., EMNLP 2014.
// A block takes one or four rows of the batch through all of their steps, so no step waits for another block.
#include "prelude.cuh"

// `ld` is the length of a row of the matrix the steps multiply by, `rows` the batch rows of a
// block (1 or 4).
struct RnnDims {
    int batch, steps, hidden, ld, rows, reverse;
};

constexpr int THREADS = 512;

// Null is zero: absent first states, and gradients of outputs that nothing depends on.
__device__ __forceinline__ float or_zero(const real* p, int i) { return p ? to_float(p[i]) : 0.0f; }

// By the logistic function, as on the CPU.
__device__ __forceinline__ float squash(float x) { return 2.0f * logistic(2.0f * x) - 1.0f; }

// Into how many slices of its rows a product is cut, so that every thread has work; src/engine/ops/rnn/cuda.rs agrees.
__device__ __forceinline__ int slices_of(int groups, int rows) { return max(1, min(rows, THREADS / groups)); }

// part[slice][R][cols] = Σ over the slice's rows k of w[k][c] v[k][R]: neighbors read neighboring columns, V each.
template <int R, int V>
__device__ __forceinline__ void products(
    float* part, const float* __restrict__ w, const float* v, int rows, int cols
) {
    int groups = cols / V, slices = slices_of(groups, rows);
    for (int i = threadIdx.x; i < groups * slices; i += THREADS) {
        int c = i % groups * V, slice = i / groups;
        float sum[R][V] = {};
        const float* at = w + slice * cols + c;
#pragma unroll(R == 1 ? 8 : 4)
        for (int k = slice; k < rows; k += slices, at += slices * cols) {
            float x[V];
            fetch(x, at);
            float state[R];
            fetch(state, v + k * R);
#pragma unroll
            for (int r = 0; r < R; r++) {
                float value = state[r];
#pragma unroll
                for (int j = 0; j < V; j++) sum[r][j] += x[j] * value;
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++)
            put(part + (slice * R + r) * cols + c, sum[r]);
    }
}

// Sums G columns of what `products` wrote, `apart` from each other, over the slices in their order.
template <int R, int G>
__device__ __forceinline__ void totals(
    float (&sum)[G], const float* part, int slices, int cols, int r, int c, int apart
) {
#pragma unroll
    for (int g = 0; g < G; g++) sum[g] = 0.0f;
#pragma unroll 1
    for (int slice = 0; slice < slices; slice++)
#pragma unroll
        for (int g = 0; g < G; g++) sum[g] += part[(slice * R + r) * cols + c + g * apart];
}

template <int R>
__device__ __forceinline__ float total(const float* part, int slices, int cols, int r, int c) {
    float sum[1];
    totals<R, 1>(sum, part, slices, cols, r, c, 0);
    return sum[0];
}

// One row of the batch: index(step) is that of the step in [B·T]. A row beyond the batch has no steps.
struct Row {
    int first, length, reverse;
    __device__ int index(int step) const { return first + (reverse ? length - 1 - step : step); }
};

// The row of the batch that is the r-th of this block.
__device__ __forceinline__ Row row_of(const RnnDims& d, const int* lengths, int r) {
    int b = blockIdx.x * d.rows + r;
    return {b * d.steps, b < d.batch ? lengths[b] : 0, d.reverse};
}

template <int R>
__device__ __forceinline__ int longest_of(const RnnDims& d, const int* lengths) {
    int longest = 0;
    for (int r = 0; r < R; r++) longest = max(longest, row_of(d, lengths, r).length);
    return longest;
}

// Loads W_ih x of the G gates of the i-th unit of the block's rows, if its row has the step.
template <int R, int G>
__device__ __forceinline__ void input_of(
    float (&a)[G], const float* gates, const RnnDims& d, const int* lengths, int step, int i
) {
    int n = d.hidden;
    Row row = row_of(d, lengths, i / n);
    if (step >= row.length) return;
#pragma unroll
    for (int g = 0; g < G; g++) a[g] = gates[(row.index(step) * 4 + g) * n + i % n];
}

// Runs the steps of a cell with G gates from the state h. cell(row, step, r, j, input) computes the next state of unit j
// from the gates' share of W_ih x and from what `products` wrote to `part`.
template <int R, int G, class Cell>
__device__ __forceinline__ void forward_steps(
    const RnnDims& d, const int* lengths, const float* gates, const float* w, int longest, float* part, const float* h, Cell cell
) {
    int n = d.hidden;
    for (int step = 0; step < longest; step++) {
        // Loads the input of a thread's first unit while the state is multiplied.
        float ahead[G] = {};
        if (threadIdx.x < R * n) input_of<R, G>(ahead, gates, d, lengths, step, threadIdx.x);
        products<R, 4>(part, w, h, n, d.ld);
        __syncthreads();
        for (int i = threadIdx.x; i < R * n; i += THREADS) {
            int r = i / n;
            Row row = row_of(d, lengths, r);
            if (step >= row.length) continue;
            if (i != threadIdx.x) input_of<R, G>(ahead, gates, d, lengths, step, i);
            cell(row, step, r, i % n, ahead);
        }
        __syncthreads();
    }
}

// Runs the steps backward. saved(row, step, b, j) loads what the forward pass saved of unit j; cell(row, step, r, j, saved)
// writes the gradient that goes through W_hh to `delta`.
template <int R, int V, int G, class Saved, class Cell>
__device__ __forceinline__ void backward_steps(
    const RnnDims& d, const int* lengths, const float* w, int longest, float* part, const float* delta, Saved saved, Cell cell
) {
    int n = d.hidden;
    auto ahead = decltype(saved(Row{}, 0, 0, 0)){};
    for (int step = longest; step >= 0; step--) {
        if (step < longest) {
            for (int i = threadIdx.x; i < R * n; i += THREADS) {
                int r = i / n, j = i % n;
                Row row = row_of(d, lengths, r);
                if (step >= row.length) continue;
                if (i != threadIdx.x) ahead = saved(row, step, blockIdx.x * R + r, j);
                cell(row, step, r, j, ahead);
            }
        }
        // Loads what the previous step saved while this one is multiplied.
        if (threadIdx.x < R * n) {
            int r = threadIdx.x / n;
            Row row = row_of(d, lengths, r);
            if (step > 0 && step - 1 < row.length) ahead = saved(row, step - 1, blockIdx.x * R + r, threadIdx.x % n);
        }
        if (step == longest) continue;
        __syncthreads();
        products<R, V>(part, w, delta, G * n, n);
        __syncthreads();
    }
}

// ---------------------------------------------------------------- LSTM

struct LstmForward {
    real *y, *h_last, *c_last;
    float *gates, *cells;
    const float *w, *b_ih, *b_hh;
    const real *h0, *c0;
    const int* lengths;
};

template <int R>
__device__ __forceinline__ void lstm_cell(
    const LstmForward& p, const RnnDims& d, const Row& row, int step, int r, int j, const float (&a)[4], const float* part,
    float* h, float* c
) {
    int n = d.hidden, slices = slices_of(d.ld / 4, n), at = row.index(step);
    float gate[4];
    totals<R, 4>(gate, part, slices, d.ld, r, j, n);
#pragma unroll
    for (int g = 0; g < 4; g++) gate[g] = a[g] + (gate[g] + (p.b_ih[g * n + j] + p.b_hh[g * n + j]));
    float i = logistic(gate[0]), f = logistic(gate[1]), g = squash(gate[2]), o = logistic(gate[3]);
    float cell = f * c[j * R + r] + i * g, state = o * squash(cell);
    float* saved = p.gates + at * 4 * n + j;
    saved[0] = i, saved[n] = f, saved[2 * n] = g, saved[3 * n] = o;
    p.cells[at * n + j] = cell;
    set(p.y[at * n + j], state);
    c[j * R + r] = cell;
    h[j * R + r] = state;
}

template <int R>
__device__ __forceinline__ void lstm_steps(const LstmForward& p, const RnnDims& d) {
    extern __shared__ float4 room[];
    int n = d.hidden, longest = longest_of<R>(d, p.lengths);
    float *part = reinterpret_cast<float*>(room), *h = part + slices_of(d.ld / 4, n) * R * d.ld, *c = h + R * n;
    for (int i = threadIdx.x; i < R * n; i += THREADS) {
        int r = i / n, j = i % n, b = blockIdx.x * R + r;
        bool real_row = b < d.batch;
        h[j * R + r] = real_row ? or_zero(p.h0, b * n + j) : 0.0f;
        c[j * R + r] = real_row ? or_zero(p.c0, b * n + j) : 0.0f;
    }
    __syncthreads();
    auto cell = [&](const Row& row, int step, int r, int j, const float (&a)[4]) {
        lstm_cell<R>(p, d, row, step, r, j, a, part, h, c);
    };
    forward_steps<R, 4>(d, p.lengths, p.gates, p.w, longest, part, h, cell);
    for (int r = 0; r < R; r++) {
        int b = blockIdx.x * R + r;
        if (b >= d.batch) break;
        for (int j = threadIdx.x; j < n; j += THREADS) {
            set(p.h_last[b * n + j], h[j * R + r]);
            set(p.c_last[b * n + j], c[j * R + r]);
        }
        Row row = row_of(d, p.lengths, r);
        for (int i = row.length * n + threadIdx.x; i < d.steps * n; i += THREADS) set(p.y[row.first * n + i], 0.0f);
    }
}

// i, f, o = σ(·), g = tanh(·) of W_ih x + b_ih + W_hh h + b_hh;  c' = f·c + i·g;  h' = o·tanh(c').
// gates [B,T,4H] holds W_ih x before and i, f, g, o after; y and cells [B,T,H]; w = W_hhᵀ [H,ld]; states [B,H].
extern "C" __global__ void __launch_bounds__(512, 1) lstm_fwd(
    real* y, real* h_last, real* c_last, float* gates, float* cells, const float* w, const float* b_ih,
    const float* b_hh, OPTIONAL const real* h0, OPTIONAL const real* c0, const int* lengths, RnnDims d
) {
    LstmForward p = {y, h_last, c_last, gates, cells, w, b_ih, b_hh, h0, c0, lengths};
    if (d.rows == 4) lstm_steps<4>(p, d);
    else lstm_steps<1>(p, d);
}

struct LstmBackward {
    float* sums;
    real *dh0, *dc0;
    const real *dy, *dh_last, *dc_last;
    const float *gates, *cells;
    const real* c0;
    const float* w;
    const int* lengths;
};

// What the forward pass saved of one unit's step, and the gradient of its output.
struct LstmSaved {
    float i, f, g, o, cell, previous, dy;
};

__device__ __forceinline__ LstmSaved lstm_saved(
    const LstmBackward& p, const RnnDims& d, const Row& row, int step, int b, int j
) {
    int n = d.hidden, at = row.index(step);
    const float* gates = p.gates + at * 4 * n + j;
    float previous = step > 0 ? p.cells[row.index(step - 1) * n + j] : or_zero(p.c0, b * n + j);
    return {gates[0], gates[n], gates[2 * n], gates[3 * n], p.cells[at * n + j], previous, or_zero(p.dy, at * n + j)};
}

template <int R, int V>
__device__ __forceinline__ void lstm_cell_bwd(
    const LstmBackward& p, const RnnDims& d, const Row& row, int step, int r, int j, const LstmSaved& s, const float* part,
    float* delta, float* dc
) {
    int n = d.hidden, at = row.index(step), b = blockIdx.x * R + r;
    bool last = step == row.length - 1;
    float dh = last ? or_zero(p.dh_last, b * n + j) : total<R>(part, slices_of(n / V, 4 * n), n, r, j);
    float dcell = last ? or_zero(p.dc_last, b * n + j) : dc[j * R + r];
    dh += s.dy;
    float c = squash(s.cell);
    dcell += dh * s.o * (1.0f - c * c);
    float sums[4] = {
        dcell * s.g * s.i * (1.0f - s.i), dcell * s.previous * s.f * (1.0f - s.f), dcell * s.i * (1.0f - s.g * s.g),
        dh * c * s.o * (1.0f - s.o)
    };
#pragma unroll
    for (int g = 0; g < 4; g++) {
        delta[(g * n + j) * R + r] = sums[g];
        p.sums[(at * 4 + g) * n + j] = sums[g];
    }
    dc[j * R + r] = dcell * s.f;
}

template <int R, int V>
__device__ __forceinline__ void lstm_steps_bwd(const LstmBackward& p, const RnnDims& d) {
    extern __shared__ float4 room[];
    int n = d.hidden, longest = longest_of<R>(d, p.lengths);
    float* part = reinterpret_cast<float*>(room);
    float *delta = part + slices_of(n / V, 4 * n) * R * n, *dc = delta + 4 * R * n;
    for (int i = threadIdx.x; i < 4 * R * n; i += THREADS) delta[i] = 0.0f;
    for (int r = 0; r < R; r++) {
        Row row = row_of(d, p.lengths, r);
        if (blockIdx.x * R + r >= d.batch) break;
        for (int i = row.length * 4 * n + threadIdx.x; i < d.steps * 4 * n; i += THREADS)
            p.sums[row.first * 4 * n + i] = 0.0f;
    }
    __syncthreads();
    auto saved = [&](const Row& row, int step, int b, int j) { return lstm_saved(p, d, row, step, b, j); };
    auto cell = [&](const Row& row, int step, int r, int j, const LstmSaved& s) {
        lstm_cell_bwd<R, V>(p, d, row, step, r, j, s, part, delta, dc);
    };
    backward_steps<R, V, 4>(d, p.lengths, p.w, longest, part, delta, saved, cell);
    for (int i = threadIdx.x; i < R * n; i += THREADS) {
        int r = i / n, j = i % n, b = blockIdx.x * R + r;
        if (b >= d.batch) break;
        set(p.dh0[b * n + j], total<R>(part, slices_of(n / V, 4 * n), n, r, j));
        set(p.dc0[b * n + j], dc[j * R + r]);
    }
}

// Backward through time: sums [B,T,4H] = the gradient of the gates before their activations, zero beyond the length;
// dh0, dc0 [B,H] of the first state. Saved as lstm_fwd wrote them; w = W_hh [4H,H].
extern "C" __global__ void __launch_bounds__(512) lstm_bwd(
    float* sums, real* dh0, real* dc0, OPTIONAL const real* dy, OPTIONAL const real* dh_last, OPTIONAL const real* dc_last,
    const float* gates, const float* cells, OPTIONAL const real* c0, const float* w, const int* lengths, RnnDims d
) {
    LstmBackward p = {sums, dh0, dc0, dy, dh_last, dc_last, gates, cells, c0, w, lengths};
    if (d.rows == 4) lstm_steps_bwd<4, 4>(p, d);
    else if (d.hidden % 4 == 0) lstm_steps_bwd<1, 4>(p, d);
    else lstm_steps_bwd<1, 1>(p, d);
}

// ---------------------------------------------------------------- GRU

struct GruForward {
    real *y, *h_last;
    float* gates;
    const float *w, *b_ih, *b_hh;
    const real* h0;
    const int* lengths;
};

template <int R>
__device__ __forceinline__ void gru_cell(
    const GruForward& p, const RnnDims& d, const Row& row, int step, int r, int j, const float (&a)[3], const float* part,
    float* h
) {
    int n = d.hidden, slices = slices_of(d.ld / 4, n), at = row.index(step);
    float sum[3], q[3];
    totals<R, 3>(q, part, slices, d.ld, r, j, n);
#pragma unroll
    for (int g = 0; g < 3; g++) {
        sum[g] = a[g] + p.b_ih[g * n + j];
        q[g] += p.b_hh[g * n + j];
    }
    float reset = logistic(sum[0] + q[0]), z = logistic(sum[1] + q[1]), next = squash(sum[2] + reset * q[2]);
    float state = next + z * (h[j * R + r] - next);
    float* saved = p.gates + at * 4 * n + j;
    saved[0] = reset, saved[n] = z, saved[2 * n] = next, saved[3 * n] = q[2];
    set(p.y[at * n + j], state);
    h[j * R + r] = state;
}

template <int R>
__device__ __forceinline__ void gru_steps(const GruForward& p, const RnnDims& d) {
    extern __shared__ float4 room[];
    int n = d.hidden, longest = longest_of<R>(d, p.lengths);
    float *part = reinterpret_cast<float*>(room), *h = part + slices_of(d.ld / 4, n) * R * d.ld;
    for (int i = threadIdx.x; i < R * n; i += THREADS) {
        int r = i / n, j = i % n, b = blockIdx.x * R + r;
        h[j * R + r] = b < d.batch ? or_zero(p.h0, b * n + j) : 0.0f;
    }
    __syncthreads();
    auto cell = [&](const Row& row, int step, int r, int j, const float (&a)[3]) {
        gru_cell<R>(p, d, row, step, r, j, a, part, h);
    };
    forward_steps<R, 3>(d, p.lengths, p.gates, p.w, longest, part, h, cell);
    for (int r = 0; r < R; r++) {
        int b = blockIdx.x * R + r;
        if (b >= d.batch) break;
        for (int j = threadIdx.x; j < n; j += THREADS) set(p.h_last[b * n + j], h[j * R + r]);
        Row row = row_of(d, p.lengths, r);
        for (int i = row.length * n + threadIdx.x; i < d.steps * n; i += THREADS) set(p.y[row.first * n + i], 0.0f);
    }
}

// With a = W_ih x + b_ih and q = W_hh h + b_hh: r = σ(a_r + q_r);  z = σ(a_z + q_z);  n = tanh(a_n + r·q_n);
// h' = (1 - z)·n + z·h. gates [B,T,4H] holds W_ih x in its first 3H before and r, z, n, q_n after; y [B,T,H];
// w = W_hhᵀ [H,ld]; states [B,H].
extern "C" __global__ void __launch_bounds__(512) gru_fwd(
    real* y, real* h_last, float* gates, const float* w, const float* b_ih, const float* b_hh, OPTIONAL const real* h0,
    const int* lengths, RnnDims d
) {
    GruForward p = {y, h_last, gates, w, b_ih, b_hh, h0, lengths};
    if (d.rows == 4) gru_steps<4>(p, d);
    else gru_steps<1>(p, d);
}

struct GruBackward {
    float *da, *dq;
    real* dh0;
    const real *dy, *dh_last;
    const float* gates;
    const real *y, *h0;
    const float* w;
    const int* lengths;
};

struct GruSaved {
    float r, z, n, q, previous, dy;
};

__device__ __forceinline__ GruSaved gru_saved(
    const GruBackward& p, const RnnDims& d, const Row& row, int step, int b, int j
) {
    int n = d.hidden, at = row.index(step);
    const float* gates = p.gates + at * 4 * n + j;
    float previous = step > 0 ? to_float(p.y[row.index(step - 1) * n + j]) : or_zero(p.h0, b * n + j);
    return {gates[0], gates[n], gates[2 * n], gates[3 * n], previous, or_zero(p.dy, at * n + j)};
}

// `around` is the part of dh that does not pass the gates.
template <int R, int V>
__device__ __forceinline__ void gru_cell_bwd(
    const GruBackward& p, const RnnDims& d, const Row& row, int step, int r, int j, const GruSaved& s, const float* part,
    float* delta, float* around
) {
    int n = d.hidden, at = row.index(step), b = blockIdx.x * R + r;
    float dh = step == row.length - 1
        ? or_zero(p.dh_last, b * n + j)
        : around[j * R + r] + total<R>(part, slices_of(n / V, 3 * n), n, r, j);
    dh += s.dy;
    float dn = dh * (1.0f - s.z) * (1.0f - s.n * s.n);
    float dr = dn * s.q * s.r * (1.0f - s.r);
    float dz = dh * (s.previous - s.n) * s.z * (1.0f - s.z);
    float a[3] = {dr, dz, dn}, q[3] = {dr, dz, dn * s.r};
#pragma unroll
    for (int g = 0; g < 3; g++) {
        delta[(g * n + j) * R + r] = q[g];
        p.da[(at * 3 + g) * n + j] = a[g];
        p.dq[(at * 3 + g) * n + j] = q[g];
    }
    around[j * R + r] = dh * s.z;
}

template <int R, int V>
__device__ __forceinline__ void gru_steps_bwd(const GruBackward& p, const RnnDims& d) {
    extern __shared__ float4 room[];
    int n = d.hidden, longest = longest_of<R>(d, p.lengths);
    float* part = reinterpret_cast<float*>(room);
    float *delta = part + slices_of(n / V, 3 * n) * R * n, *around = delta + 3 * R * n;
    for (int i = threadIdx.x; i < 3 * R * n; i += THREADS) delta[i] = 0.0f;
    for (int r = 0; r < R; r++) {
        Row row = row_of(d, p.lengths, r);
        if (blockIdx.x * R + r >= d.batch) break;
        for (int i = (row.first + row.length) * 3 * n + threadIdx.x; i < (row.first + d.steps) * 3 * n; i += THREADS)
            p.da[i] = p.dq[i] = 0.0f;
    }
    __syncthreads();
    auto saved = [&](const Row& row, int step, int b, int j) { return gru_saved(p, d, row, step, b, j); };
    auto cell = [&](const Row& row, int step, int r, int j, const GruSaved& s) {
        gru_cell_bwd<R, V>(p, d, row, step, r, j, s, part, delta, around);
    };
    backward_steps<R, V, 3>(d, p.lengths, p.w, longest, part, delta, saved, cell);
    for (int i = threadIdx.x; i < R * n; i += THREADS) {
        int r = i / n, j = i % n, b = blockIdx.x * R + r;
        if (b >= d.batch) break;
        set(p.dh0[b * n + j], around[j * R + r] + total<R>(part, slices_of(n / V, 3 * n), n, r, j));
    }
}

// Backward through time: da of W_ih x + b_ih and dq of W_hh h + b_hh [B,T,3H], zero beyond the length; dh0 [B,H] of the
// first state. Saved as gru_fwd wrote them; w = W_hh [3H,H].
extern "C" __global__ void __launch_bounds__(512) gru_bwd(
    float* da, float* dq, real* dh0, OPTIONAL const real* dy, OPTIONAL const real* dh_last, const float* gates,
    const real* y, OPTIONAL const real* h0, const float* w, const int* lengths, RnnDims d
) {
    GruBackward p = {da, dq, dh0, dy, dh_last, gates, y, h0, w, lengths};
    if (d.rows == 4) gru_steps_bwd<4, 4>(p, d);
    else if (d.hidden % 4 == 0) gru_steps_bwd<1, 4>(p, d);
    else gru_steps_bwd<1, 1>(p, d);
}

// ---------------------------------------------------------------- around the steps

// y [cols,ld] = wᵀ of w [rows,cols], zero in the columns beyond `rows`. Blocks of 32 by 8 threads, as one of 256.
extern "C" __global__ void __launch_bounds__(256) rnn_transpose(
    float* __restrict__ y, const float* __restrict__ w, int rows, int cols, int ld
) {
    __shared__ float tile[32][33];
    int x = threadIdx.x % 32, row = blockIdx.x * 32, col = blockIdx.y * 32;
    for (int i = threadIdx.x / 32; i < 32; i += 8)
        tile[i][x] = row + i < rows && col + x < cols ? w[(row + i) * cols + col + x] : 0.0f;
    __syncthreads();
    for (int i = threadIdx.x / 32; i < 32; i += 8)
        if (col + i < cols && row + x < ld) y[(col + i) * ld + row + x] = tile[x][i];
}

// previous [B,T,H] = h before every step, zero beyond the length: y [B,T,H] of the previous step, or h0 [B,H].
extern "C" __global__ void __launch_bounds__(256) rnn_previous_hidden(
    real* __restrict__ previous, const real* __restrict__ y, OPTIONAL const real* __restrict__ h0,
    const int* __restrict__ lengths, RnnDims d
) {
    int n = d.hidden, size = d.batch * d.steps * n;
    for (int i = thread_index(); i < size; i += thread_count()) {
        int j = i % n, b = i / (d.steps * n), t = i / n % d.steps, length = lengths[b];
        bool first = t == (d.reverse ? length - 1 : 0);
        float value = 0.0f;
        if (t < length) value = first ? or_zero(h0, b * n + j) : to_float(y[d.reverse ? i + n : i - n]);
        set(previous[i], value);
    }
}
