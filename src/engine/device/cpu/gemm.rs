//! Products of matrices given as slices with strides, by the register tile.

use std::cell::RefCell;

use super::tile::{Matrix, Microkernel, Product, Strided, with_microkernel};
use super::{Buffer, for_chunks, map, odd_pitch, threads};

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

    /// Rows and columns from `row` and `column` on, no more than so many.
    fn part(self, [row, column]: [usize; 2], [rows, cols]: [usize; 2]) -> Mat<'a> {
        let data = &self.data[row * self.row_stride + column * self.col_stride..];
        Mat { data, rows: rows.min(self.rows - row), cols: cols.min(self.cols - column), ..self }
    }
}

/// out[M,N] (+)= a[M,K] b[K,N], where the rows of `out` lie `out_stride` elements apart.
///
/// `parallel` spreads the product over all threads; leave it off inside a parallel loop. Every element is summed term by term in
/// the order of K, so that neither threads nor the other rows and columns, nor how many they are, change its bits.
#[track_caller]
pub fn gemm(out: &mut [f32], out_stride: usize, a: Mat, b: Mat, accumulate: bool, parallel: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "a {m}×{k} matrix cannot be multiplied by a {}×{n} one", b.rows);
    if m * n == 0 {
        return;
    }
    assert!(
        out_stride >= n && out.len() >= (m - 1) * out_stride + n,
        "the product {m}×{n} does not fit its output"
    );
    let parts = if parallel && m * n * k > 1 << 18 && threads() > 1 { 2 * threads() } else { 1 };
    let out = &mut out[..(m - 1) * out_stride + n];
    with_microkernel!(kernel => Multiplication { kernel, a, b, add: accumulate, parts }.run(out, out_stride))
}

/// A product, cut into so many parts for the threads.
#[derive(Clone, Copy)]
struct Multiplication<'a, M> {
    kernel: M,
    a: Mat<'a>,
    b: Mat<'a>,
    add: bool,
    parts: usize,
}

impl<M: Microkernel> Multiplication<'_, M> {
    /// With the columns of `b` in vectors or, where that is less work, the rows of `a`, which gives the transpose of the result.
    fn run(self, out: &mut [f32], pitch: usize) {
        let (m, n) = (self.a.rows, self.b.cols);
        let other = Multiplication { a: self.b.t(), b: self.a.t(), ..self };
        if self.cost() <= other.cost() + 2 * m * n {
            return self.in_parts(out, pitch);
        }
        let mut transpose = Buffer::uninit(n * m);
        if self.add {
            copy(transpose.as_mut_slice(), m, Mat::strided(out, m, n, pitch).t());
        }
        other.in_parts(transpose.as_mut_slice(), m);
        copy(out, pitch, Mat::rows(transpose.as_slice(), n, m).t());
    }

    /// About the cycles: two vectors of columns a cycle, and an element of `b` that must be turned.
    fn cost(self) -> usize {
        let Multiplication { a, b, .. } = self;
        let turned = if b.col_stride == 1 { 0 } else { b.rows * b.cols };
        a.rows * b.cols.div_ceil(M::LANES) * a.cols / 2 + turned
    }

    /// Threads share the columns or, where there are more of these, the rows.
    fn in_parts(self, out: &mut [f32], pitch: usize) {
        let Multiplication { a, b, add, parts, .. } = self;
        let (m, n, k) = (a.rows, b.cols, a.cols);
        if parts == 1 {
            return self.serial(out, pitch);
        }
        let share = |n: usize, whole: usize, least: usize| {
            let share = n.div_ceil(parts);
            share.next_multiple_of(if share >= whole { whole } else { least })
        };
        if m > n {
            let rows = share(m, 2 * M::ROWS, M::ROWS);
            return for_chunks(out, rows * pitch, |i, out| {
                Multiplication { a: a.part([i * rows, 0], [rows, k]), ..self }.serial(out, pitch);
            });
        }
        let width = share(n, M::WIDTH, M::LANES);
        let sums = map(n.div_ceil(width), |i| {
            let b = b.part([0, i * width], [k, width]);
            let mut sums = Buffer::uninit(m * b.cols);
            if add {
                copy(sums.as_mut_slice(), b.cols, Mat::strided(&out[i * width..], m, b.cols, pitch));
            }
            Multiplication { b, ..self }.serial(sums.as_mut_slice(), b.cols);
            sums
        });
        for (i, sums) in sums.iter().enumerate() {
            let sums = sums.as_slice();
            copy(&mut out[i * width..], pitch, Mat::rows(sums, m, sums.len() / m));
        }
    }

    /// On this thread: some rows at a time, so that they and their sums stay in the second-level cache; terms and columns by
    /// tiles of `b`, which stay in the first.
    fn serial(self, out: &mut [f32], pitch: usize) {
        const ROWS: usize = 240;
        let Multiplication { kernel, a, b, add, .. } = self;
        let (m, n, k) = (a.rows, b.cols, a.cols);
        if k == 0 && !add {
            out.chunks_mut(pitch).for_each(|row| row[..n].fill(0.0));
        }
        let width = M::WIDTH.min(n.next_multiple_of(M::LANES));
        let depth = M::depth(width);
        let mut workspace = WORKSPACE.take();
        let Workspace { tile, rows } = &mut workspace;
        for (row, out) in (0..m).step_by(ROWS).zip(out.chunks_mut(ROWS * pitch)) {
            for term in (0..k).step_by(depth) {
                let mut a = a.part([row, term], [ROWS, depth]);
                // Elements far apart are gathered where several tiles read them.
                if a.col_stride != 1 && n > 2 * width {
                    let pitch = odd_pitch(a.cols);
                    a = Mat::strided(pack(a, pitch, rows), a.rows, a.cols, pitch);
                }
                for column in (0..n).step_by(width) {
                    let b = b.part([term, column], [depth, width]);
                    let sums = Product { data: &mut out[column..], pitch, add: add || term > 0 };
                    let width = b.cols.next_multiple_of(M::LANES);
                    let in_place = b.cols == width && b.col_stride == 1 && a.rows <= 2 * M::ROWS;
                    let columns = match in_place {
                        true => Strided { data: b.data, stride: b.row_stride },
                        false => Strided { data: pack(b, width, tile), stride: width },
                    };
                    let rows = Matrix { data: a.data, row: a.row_stride, element: a.col_stride };
                    kernel.multiply([a.rows, a.cols, b.cols], sums, rows, columns);
                }
            }
        }
        WORKSPACE.set(workspace);
    }
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Copies of a tile of `b` and of rows of `a`.
#[derive(Default)]
struct Workspace {
    tile: Vec<f32>,
    rows: Vec<f32>,
}

/// A copy of `x` in rows of `width`, with zeros beyond its columns.
fn pack<'p>(x: Mat, width: usize, packed: &'p mut Vec<f32>) -> &'p [f32] {
    packed.resize((x.rows * width).max(packed.len()), 0.0);
    let packed = &mut packed[..x.rows * width];
    if x.cols < width {
        packed.chunks_exact_mut(width).for_each(|row| row[x.cols..].fill(0.0));
    }
    copy(packed, width, x);
    packed
}

/// Copies a matrix to rows that begin `pitch` elements apart.
fn copy(to: &mut [f32], pitch: usize, x: Mat) {
    if x.col_stride != 1 && x.rows > x.cols {
        for column in 0..x.cols {
            let from = x.data[column * x.col_stride..].iter().step_by(x.row_stride);
            to[column..].iter_mut().step_by(pitch).zip(from).take(x.rows).for_each(|(to, from)| *to = *from);
        }
        return;
    }
    for (row, to) in to.chunks_mut(pitch).take(x.rows).enumerate() {
        let (to, from) = (&mut to[..x.cols], &x.data[row * x.row_stride..]);
        match x.col_stride {
            1 => to.copy_from_slice(&from[..x.cols]),
            distance => to.iter_mut().zip(from.iter().step_by(distance)).for_each(|(to, from)| *to = *from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes around those of tiles, all layouts, against sums in f64; and a batch of one and a batch of many give a row the same
    /// bits, on one thread and on all.
    #[test]
    fn products_of_all_layouts_do_not_depend_on_other_rows_or_threads() {
        const ROWS: usize = 130;
        let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<f32>>();
        for (n, k) in [
            (1, 300),
            (5, 1),
            (5, 2),
            (8, 8),
            (16, 200),
            (32, 40),
            (64, 200),
            (97, 96),
            (33, 512),
            (1024, 200),
            (40, 2000),
        ] {
            let (a, b) = (wave(ROWS * k), wave(n * k));
            for (a_turned, b_turned, accumulate) in [
                (false, false, false),
                (true, false, false),
                (false, true, false),
                (true, true, true),
                (false, false, true),
            ] {
                let b = if b_turned { Mat::rows(&b, n, k).t() } else { Mat::rows(&b, k, n) };
                let a = if a_turned { Mat::rows(&a, k, ROWS).t() } else { Mat::rows(&a, ROWS, k) };
                let product = |rows: usize, parallel: bool| {
                    let mut out = vec![0.5; rows * n];
                    gemm(&mut out, n, a.part([0, 0], [rows, k]), b, accumulate, parallel);
                    out
                };
                let all = product(ROWS, true);
                let at = |x: Mat, i: usize, j: usize| f64::from(x.data[i * x.row_stride + j * x.col_stride]);
                for (i, found) in all.iter().enumerate().step_by(7) {
                    let exact = (0..k).map(|term| at(a, i / n, term) * at(b, term, i % n)).sum::<f64>();
                    let exact = exact + if accumulate { 0.5 } else { 0.0 };
                    let error = (f64::from(*found) - exact).abs();
                    assert!(error < 1e-6 * (k + 10) as f64, "{n}×{k}: element {i} is {exact}, not {found}");
                }
                for rows in [1, 2, 3, 16, 65, ROWS] {
                    let same = product(rows, false) == all[..rows * n];
                    assert!(same, "{rows} rows, {n}×{k}, {a_turned} {b_turned} {accumulate}");
                }
            }
        }
    }

    #[test]
    fn a_product_of_no_terms_is_zero_or_what_was_there() {
        for (accumulate, wanted) in [(false, 0.0), (true, 2.0)] {
            let mut out = vec![2.0; 6];
            gemm(&mut out, 3, Mat::rows(&[], 2, 0), Mat::rows(&[], 0, 3), accumulate, false);
            assert_eq!(out, [wanted; 6]);
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
