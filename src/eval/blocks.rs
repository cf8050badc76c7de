//! Products and distances of rows in f64, block by block, so that memory does not grow with the number of images.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::features::Features;

/// Rows of a block.
pub(super) const BLOCK: usize = 256;

/// Rows of a set in f64, with the squares of their lengths.
pub(super) struct Block {
    pub rows: Range<usize>,
    values: Vec<f64>,
    squares: Vec<f64>,
}

impl Block {
    /// The rows at `rows` of a set, or of the part of it that `picks` names.
    pub fn new(features: &Features, picks: Option<&[usize]>, rows: Range<usize>) -> Block {
        let mut values = Vec::with_capacity(rows.len() * features.width());
        for at in rows.clone() {
            let row = features.row(picks.map_or(at, |picks| picks[at]));
            values.extend(row.iter().map(|&x| f64::from(x)));
        }
        let squares = values.chunks_exact(features.width()).map(|row| dot(row, row)).collect();
        Block { rows, values, squares }
    }

    fn row(&self, at: usize) -> &[f64] {
        let width = self.values.len() / self.rows.len();
        &self.values[at * width..][..width]
    }

    pub fn matrix(&self) -> MatRef<'_, f64> {
        let rows = self.rows.len();
        MatRef::from_row_major_slice(&self.values, rows, self.values.len() / rows)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The blocks of so many rows.
pub(super) fn blocks(count: usize) -> Vec<Range<usize>> {
    (0..count).step_by(BLOCK).map(|begin| begin..(begin + BLOCK).min(count)).collect()
}

/// What `f` makes of each range, on all threads, in the order of the ranges.
pub(super) fn in_order<T: Send, R: Send + Sync>(items: Vec<T>, f: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    items.into_par_iter().map(f).collect()
}

/// Every block of rows with itself and each later one.
pub(super) fn block_pairs(count: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let all = blocks(count);
    let with_later = |(at, a): (usize, &Range<usize>)| {
        all[at..].iter().map(|b| (a.clone(), b.clone())).collect::<Vec<_>>()
    };
    all.iter().enumerate().flat_map(with_later).collect()
}

/// The products of the rows of `a` with those of `b`, row by row of `a`.
pub(super) fn products(a: &Block, b: &Block) -> Vec<f64> {
    let (m, n) = (a.rows.len(), b.rows.len());
    let mut out = vec![0.0; m * n];
    let view = MatMut::from_row_major_slice_mut(&mut out, m, n);
    matmul(view, Accum::Replace, a.matrix(), b.matrix().transpose(), 1.0, Par::Seq);
    out
}

/// The squares of the Euclidean distances, row by row of `a`: 0 for equal rows, and exact for close ones.
pub(super) fn squared_distances(a: &Block, b: &Block) -> Vec<f64> {
    let mut out = products(a, b);
    for (i, row) in out.chunks_exact_mut(b.rows.len()).enumerate() {
        for (j, out) in row.iter_mut().enumerate() {
            let squares = a.squares[i] + b.squares[j];
            *out = squares - 2.0 * *out;
            // What is left of a difference of large numbers says little: take the difference first.
            if *out < CLOSE * squares {
                *out = a.row(i).iter().zip(b.row(j)).map(|(x, y)| (x - y) * (x - y)).sum();
            }
        }
    }
    out
}

const CLOSE: f64 = 1e-6;

/// The cosine of two rows, from their product; 0 where one has no direction.
pub(super) fn cosine(product: f64, a: &Block, i: usize, b: &Block, j: usize) -> f64 {
    let lengths = (a.squares[i] * b.squares[j]).sqrt();
    if lengths > 0.0 { product / lengths } else { 0.0 }
}

/// Mean and population deviation of some numbers.
pub(super) fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}
