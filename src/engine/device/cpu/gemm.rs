//! Products of matrices given as slices with strides: the one call into the GEMM crate.

use gemm::Parallelism;

/// A matrix seen in a slice: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix.
    #[track_caller]
    pub fn rows(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        Mat::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows lie `row_stride` elements apart.
    #[track_caller]
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Mat<'a> {
        let end = if rows * cols == 0 { 0 } else { (rows - 1) * row_stride + cols };
        assert!(
            data.len() >= end,
            "a {rows}×{cols} matrix of row stride {row_stride} is longer than {}",
            data.len()
        );
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, free of cost.
    pub fn t(self) -> Mat<'a> {
        Mat {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// out[M,N] (+)= a[M,K] b[K,N], where the rows of `out` lie `out_stride` elements apart.
///
/// `parallel` spreads the product over all threads; leave it off inside a parallel loop. The result does not
/// depend on it: the sum over K is never split. Nor does a row of a result of more than one column depend on the other rows, or on how
/// many there are, as long as K is at most 512.
#[track_caller]
pub fn gemm(out: &mut [f32], out_stride: usize, a: Mat, b: Mat, accumulate: bool, parallel: bool) {
    if a.rows == 1 && b.cols > 0 {
        return gemm_row(&mut out[..b.cols], a, b, accumulate, parallel);
    }
    // The crate sums few elements of two operands that lie along K in another order than many.
    const FEW: usize = 16 * 16;
    if a.rows * b.cols <= FEW && a.col_stride == 1 && b.row_stride == 1 && a.rows > 1 {
        let by_columns: Vec<f32> =
            (0..a.cols).flat_map(|k| (0..a.rows).map(move |row| a.data[row * a.row_stride + k])).collect();
        let a = Mat { data: &by_columns, rows: a.cols, cols: a.rows, row_stride: a.rows, col_stride: 1 }.t();
        return gemm(out, out_stride, a, b, accumulate, parallel);
    }
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "a {m}×{k} matrix cannot be multiplied by a {}×{n} one", b.rows);
    if m * n == 0 {
        return;
    }
    assert!(
        out_stride >= n && out.len() >= (m - 1) * out_stride + n,
        "the product {m}×{n} does not fit its output"
    );
    let threads = if parallel && m * n * k > 1 << 18 { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: `Mat` and the assertion above keep every address inside its slice; `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            threads,
        );
    }
}

/// The crate sums a lone row in another order than rows of many: it is computed twice, as two rows that lie in one place.
fn gemm_row(out: &mut [f32], a: Mat, b: Mat, accumulate: bool, parallel: bool) {
    let n = out.len();
    let mut both = if accumulate { out.repeat(2) } else { vec![0.0; 2 * n] };
    gemm(&mut both, n, Mat { rows: 2, row_stride: 0, ..a }, b, accumulate, parallel);
    out.copy_from_slice(&both[..n]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of one and a batch of many give a row the same bits.
    #[test]
    fn a_row_does_not_depend_on_the_others() {
        const ROWS: usize = 130;
        let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
        for (n, k) in
            [(5, 1), (5, 2), (8, 8), (16, 200), (32, 40), (64, 200), (96, 96), (33, 512), (1024, 200)]
        {
            let (a, b) = (wave(ROWS * k), wave(n * k));
            for (transposed, accumulate) in [(false, false), (true, false), (false, true)] {
                let b = if transposed { Mat::rows(&b, n, k).t() } else { Mat::rows(&b, k, n) };
                let product = |rows: usize| {
                    let mut out = vec![0.5; rows * n];
                    gemm(&mut out, n, Mat::rows(&a, rows, k), b, accumulate, true);
                    out
                };
                let all = product(ROWS);
                for rows in [1, 2, 3, 16, 65] {
                    assert!(
                        product(rows) == all[..rows * n],
                        "{rows} rows, {n}×{k}, {transposed} {accumulate}"
                    );
                }
            }
        }
    }

    #[test]
    fn strides_transposes_and_accumulation() {
        let a: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let mut out = vec![1.0; 8];
        // [3,2]ᵀ · [3,2] into a 2×2 block of a 2×4 buffer
        gemm(&mut out, 4, Mat::strided(&a, 3, 2, 4).t(), Mat::strided(&a, 3, 2, 4), true, false);
        assert_eq!(out, [81.0, 93.0, 1.0, 1.0, 93.0, 108.0, 1.0, 1.0]);
    }
}
