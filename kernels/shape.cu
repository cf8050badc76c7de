// Concatenation, slices and transposition: bits are copied, as many at once as alignment allows.
#include "prelude.cuh"

struct SliceDims {
    // Rows, their length, and which part of them: columns start .. start + width.
    int rows, row, start, width;
};

// Copies pieces of type U; lengths in `d` count `real` and are multiples of a piece.
template <class U>
__device__ __forceinline__ SliceDims in_pieces(SliceDims d) {
    constexpr int N = sizeof(U) / sizeof(real);
    return {d.rows, d.row / N, d.start / N, d.width / N};
}

template <class U>
__device__ __forceinline__ bool whole(SliceDims d) {
    constexpr int N = sizeof(U) / sizeof(real);
    return d.row % N == 0 && d.start % N == 0 && d.width % N == 0;
}

template <class U>
__device__ __forceinline__ void paste(real* to, const real* from, SliceDims dims) {
    SliceDims d = in_pieces<U>(dims);
    U* y = reinterpret_cast<U*>(to);
    const U* x = reinterpret_cast<const U*>(from);
    for (int i = thread_index(); i < d.rows * d.width; i += thread_count()) {
        y[i / d.width * d.row + d.start + i % d.width] = x[i];
    }
}

// y[:, start..start+width] = part: part [rows,width], y [rows,row]
extern "C" __global__ void __launch_bounds__(256) shape_concat_fwd(real* __restrict__ y, const real* __restrict__ part, SliceDims d) {
    if (whole<uint4>(d)) {
        paste<uint4>(y, part, d);
    } else if (whole<uint2>(d)) {
        paste<uint2>(y, part, d);
    } else {
        paste<real>(y, part, d);
    }
}

template <class U>
__device__ __forceinline__ void cut(real* to, const real* from, SliceDims dims) {
    SliceDims d = in_pieces<U>(dims);
    U* y = reinterpret_cast<U*>(to);
    const U* x = reinterpret_cast<const U*>(from);
    for (int i = thread_index(); i < d.rows * d.width; i += thread_count()) {
        y[i] = x[i / d.width * d.row + d.start + i % d.width];
    }
}

// y = x[:, start..start+width]: x [rows,row] -> y [rows,width]
extern "C" __global__ void __launch_bounds__(256) shape_slice_fwd(real* __restrict__ y, const real* __restrict__ x, SliceDims d) {
    if (whole<uint4>(d)) {
        cut<uint4>(y, x, d);
    } else if (whole<uint2>(d)) {
        cut<uint2>(y, x, d);
    } else {
        cut<real>(y, x, d);
    }
}

template <class U>
__device__ __forceinline__ void uncut(real* to, const real* from, SliceDims dims) {
    SliceDims d = in_pieces<U>(dims);
    U* dx = reinterpret_cast<U*>(to);
    const U* dy = reinterpret_cast<const U*>(from);
    for (int i = thread_index(); i < d.rows * d.row; i += thread_count()) {
        int row = i / d.row, column = i % d.row - d.start;
        U piece = {};
        if (column >= 0 && column < d.width) piece = dy[row * d.width + column];
        dx[i] = piece;
    }
}

// dx = 0 but for dx[:, start..start+width] = dy: dy [rows,width] -> dx [rows,row]
extern "C" __global__ void __launch_bounds__(256) shape_slice_bwd(real* __restrict__ dx, const real* __restrict__ dy, SliceDims d) {
    if (whole<uint4>(d)) {
        uncut<uint4>(dx, dy, d);
    } else if (whole<uint2>(d)) {
        uncut<uint2>(dx, dy, d);
    } else {
        uncut<real>(dx, dy, d);
    }
}

struct PermuteDims {
    // Of y, in elements, outermost first; and how far a step along each goes in x.
    int dims[4];
    int strides[4];
};

template <class U>
__device__ __forceinline__ void turn(real* to, const real* from, PermuteDims d) {
    constexpr int N = sizeof(U) / sizeof(real);
    U* y = reinterpret_cast<U*>(to);
    const U* x = reinterpret_cast<const U*>(from);
    int width = d.dims[3] / N, count = d.dims[0] * d.dims[1] * d.dims[2] * width;
    for (int i = thread_index(); i < count; i += thread_count()) {
        int row = i / width, plane = row / d.dims[2];
        int at = i % width * N * d.strides[3] + row % d.dims[2] * d.strides[2] + plane % d.dims[1] * d.strides[1]
            + plane / d.dims[1] * d.strides[0];
        y[i] = x[at / N];
    }
}

// y[i,j,k,l] = x[i · strides[0] + j · strides[1] + k · strides[2] + l · strides[3]]: y [dims]
extern "C" __global__ void __launch_bounds__(256) shape_transpose_fwd(real* __restrict__ y, const real* __restrict__ x, PermuteDims d) {
    constexpr int N = 16 / sizeof(real);
    // Rows that stay rows move in packs; with rows of whole packs, all other strides are whole too.
    if (d.strides[3] == 1 && d.dims[3] % N == 0) {
        turn<uint4>(y, x, d);
    } else {
        turn<real>(y, x, d);
    }
}

struct MatrixDims {
    int rows, cols;
};

// y[b] = x[b]ᵀ, through tiles of 32×32 in shared memory: x [b,rows,cols] -> y [b,cols,rows]. A block a tile.
extern "C" __global__ void __launch_bounds__(256) shape_matrix_transpose_fwd(real* __restrict__ y, const real* __restrict__ x, MatrixDims d) {
    __shared__ real tile[32][33];
    int across = (d.cols + 31) / 32, down = (d.rows + 31) / 32;
    int b = blockIdx.x / (across * down), row = blockIdx.x / across % down * 32, col = blockIdx.x % across * 32;
    int lane = threadIdx.x % 32, line = threadIdx.x / 32, at = b * d.rows * d.cols;
    for (int i = line; i < 32; i += 8) {
        if (row + i < d.rows && col + lane < d.cols) tile[i][lane] = x[at + (row + i) * d.cols + col + lane];
    }
    __syncthreads();
    for (int i = line; i < 32; i += 8) {
        if (col + i < d.cols && row + lane < d.rows) y[at + (col + i) * d.rows + row + lane] = tile[lane][i];
    }
}
