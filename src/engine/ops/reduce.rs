//! Sums and means.

use super::Case;
use crate::engine::device::cpu::{for_chunks, map};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Tensor, run};

const CHUNK: usize = 16 * 1024;

/// Σ f(x) in f64, in eight lanes so that it becomes SIMD.
pub(super) fn total(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0f64; 8];
    let eights = x.chunks_exact(8);
    let rest: f64 = eights.remainder().iter().map(|&x| f(x) as f64).sum();
    for eight in eights {
        lanes.iter_mut().zip(eight).for_each(|(sum, &x)| *sum += f(x) as f64);
    }
    rest + lanes.iter().sum::<f64>()
}

/// [`total`] of chunks in parallel, added up in order: the same for any number of threads.
pub(super) fn parallel_total(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> f64 {
    let chunk = |i: usize| total(&x[i * CHUNK..x.len().min((i + 1) * CHUNK)], &f);
    map(x.len().div_ceil(CHUNK), chunk).iter().sum()
}

/// y = Σ x, a scalar.
pub fn sum(x: &Tensor) -> Tensor {
    scaled_sum("sum_fwd", x, 1.0)
}

/// y = Σ x / n, a scalar.
pub fn mean(x: &Tensor) -> Tensor {
    scaled_sum("mean_fwd", x, 1.0 / x.len() as f64)
}

fn scaled_sum(name: &'static str, x: &Tensor, factor: f64) -> Tensor {
    let mut y = x.empty([]);
    run(name, [&mut y], [x], |[y], [x]| y[0] = (factor * parallel_total(x, |x| x)) as f32);
    let shape = x.shape();
    record1(y, [x], move |dy, _| [Some(Tensor::full(shape, (factor * dy.item() as f64) as f32))])
}

/// The mean over the middle dimension: x [B,N,D] -> y [B,D].
#[track_caller]
pub fn mean_rows(x: &Tensor) -> Tensor {
    let [b, n, d] = x.dims();
    let y = sum_middle("mean_rows_fwd", x, [b, n, d], 1.0 / n as f32);
    record1(y, [x], move |dy, _| [Some(spread_middle("mean_rows_bwd", &dy, [b, n, d], 1.0 / n as f32))])
}

/// y [B,D] = factor · Σₙ x [B,N,D]
pub(super) fn sum_middle(name: &'static str, x: &Tensor, [b, n, d]: [usize; 3], factor: f32) -> Tensor {
    let mut y = x.empty([b, d]);
    run(name, [&mut y], [x], |[y], [x]| {
        let sums = map(b, |i| {
            let mut sum = vec![0.0f64; d];
            for row in x[i * n * d..(i + 1) * n * d].chunks(d) {
                sum.iter_mut().zip(row).for_each(|(s, &x)| *s += x as f64);
            }
            sum
        });
        y.iter_mut().zip(sums.iter().flatten()).for_each(|(y, s)| *y = (factor as f64 * s) as f32);
    });
    y
}

/// y [B,N,D] = factor · x [B,D], for every n.
pub(super) fn spread_middle(name: &'static str, x: &Tensor, [b, n, d]: [usize; 3], factor: f32) -> Tensor {
    let mut y = x.empty([b, n, d]);
    run(name, [&mut y], [x], |[y], [x]| {
        for_chunks(y, n * d, |i, y| {
            let x = &x[i * d..(i + 1) * d];
            y.chunks_mut(d).for_each(|y| y.iter_mut().zip(x).for_each(|(y, x)| *y = factor * x));
        });
    });
    y
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("sum", "", |x| vec![sum(&x[0])]).input([3, 7]),
        Case::new("mean", "", |x| vec![mean(&x[0])]).input([3, 7]),
        Case::new("mean_rows", "", |x| vec![mean_rows(&x[0])]).input([3, 4, 5]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    #[test]
    fn a_sum_over_many_chunks_is_exact() {
        let x = Rng::new(1, 0).uniform([5 * CHUNK + 13], 0.0, 1.0);
        let exact: f64 = x.to_vec().iter().map(|&x| x as f64).sum();
        assert!((sum(&x).item() as f64 / exact - 1.0).abs() < 1e-7);
        assert!((mean(&x).item() as f64 * x.len() as f64 / exact - 1.0).abs() < 1e-6);
    }
}
