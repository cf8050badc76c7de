//! Initial values of parameters.

use crate::engine::device::cpu::for_chunks;
use crate::engine::ops::matmul::{Mat, gemm};
use crate::engine::tensor::Rng;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initializer {
    Constant(f32),
    /// Uniform in ±bound.
    Uniform(f32),
    Normal {
        mean: f32,
        deviation: f32,
    },
    /// Uniform in ±1/√fan-in: PyTorch's default for linear and convolution layers, their biases too.
    FanIn,
    /// Orthonormal rows, or columns where there are more rows (Saxe, McClelland and Ganguli, 2014).
    Orthogonal,
}

/// The initial values of a scope's layers, unless a layer has its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    pub weight: Initializer,
    pub bias: Initializer,
    /// The scale of a batch norm; its shift is initially 0.
    pub scale: Initializer,
}

impl Default for Policy {
    /// PyTorch's.
    fn default() -> Policy {
        Policy { weight: Initializer::FanIn, bias: Initializer::FanIn, scale: Initializer::Constant(1.0) }
    }
}

impl Initializer {
    /// Values for `shape`, whose first dimension counts outputs. `fan_in` is the inputs that one output sums.
    pub fn draw(self, shape: &[usize], fan_in: usize, rng: &mut Rng) -> Vec<f32> {
        let count = shape.iter().product();
        let uniform = |bound: f32, rng: &mut Rng| rng.uniform([count], -bound, bound).to_vec();
        match self {
            Initializer::Constant(value) => vec![value; count],
            Initializer::Uniform(bound) => uniform(bound, rng),
            Initializer::FanIn => uniform(1.0 / (fan_in as f32).sqrt(), rng),
            Initializer::Normal { mean, deviation } => {
                rng.normal([count]).to_vec().into_iter().map(|x| mean + deviation * x).collect()
            }
            Initializer::Orthogonal => orthogonal(shape[0], count / shape[0], rng),
        }
    }
}

fn orthogonal(rows: usize, cols: usize, rng: &mut Rng) -> Vec<f32> {
    if rows > cols {
        return transposed(&orthogonal(cols, rows, rng), cols, rows);
    }
    let mut a = rng.normal([rows, cols]).to_vec();
    orthonormalize_rows(&mut a, cols);
    if 2 * rows > cols {
        // Nearly square matrices lose digits in the first pass.
        orthonormalize_rows(&mut a, cols);
    }
    a
}

/// Rows in a block: projecting a block on all earlier rows is one matrix product.
const BLOCK: usize = 64;

/// Gram-Schmidt by blocks of rows.
fn orthonormalize_rows(a: &mut [f32], cols: usize) {
    let rows = a.len() / cols;
    for from in (0..rows).step_by(BLOCK) {
        let (done, rest) = a.split_at_mut(from * cols);
        let block = &mut rest[..BLOCK.min(rows - from) * cols];
        project_out(block, done, cols);
        orthonormalize_block(block, cols);
    }
}

/// block -= (block doneᵀ) done
fn project_out(block: &mut [f32], done: &[f32], cols: usize) {
    let (n, earlier) = (block.len() / cols, done.len() / cols);
    if earlier == 0 {
        return;
    }
    let done = || Mat::rows(done, earlier, cols);
    let mut along = vec![0.0; n * earlier];
    gemm(&mut along, earlier, Mat::rows(block, n, cols), done().t(), false, true);
    along.iter_mut().for_each(|x| *x = -*x);
    gemm(block, cols, Mat::rows(&along, n, earlier), done(), true, true);
}

/// Modified Gram-Schmidt: subtracts each finished row's projection from all later rows.
fn orthonormalize_block(block: &mut [f32], cols: usize) {
    for i in 0..block.len() / cols {
        let (head, later) = block[i * cols..].split_at_mut(cols);
        let norm = dot(head, head).sqrt();
        head.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        let row = &*head;
        for_chunks(later, cols, |_, other| {
            let along = dot(other, row);
            other.iter_mut().zip(row).for_each(|(o, &r)| *o = (f64::from(*o) - along * f64::from(r)) as f32);
        });
    }
}

/// Eight partial sums in f64, which the compiler vectorizes.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 =
        a8.remainder().iter().zip(b8.remainder()).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    for (x, y) in a8.zip(b8) {
        for k in 0..8 {
            sums[k] += f64::from(x[k]) * f64::from(y[k]);
        }
    }
    tail + sums.iter().sum::<f64>()
}

fn transposed(a: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| a[i % rows * cols + i / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_rows_or_columns_are_orthonormal() {
        for (rows, cols) in [(5, 5), (130, 130), (70, 300), (300, 70), (1, 9)] {
            let a = orthogonal(rows, cols, &mut Rng::new(3, 0));
            let short = rows.min(cols);
            let at = |i: usize, k: usize| if rows <= cols { a[i * cols + k] } else { a[k * cols + i] } as f64;
            for i in 0..short {
                for j in 0..=i {
                    let product: f64 = (0..rows.max(cols)).map(|k| at(i, k) * at(j, k)).sum();
                    let wanted = f64::from(i == j);
                    assert!((product - wanted).abs() < 1e-5, "{rows}x{cols}: rows {i}, {j}: {product}");
                }
            }
        }
    }
}
