//! Sums and means.

use super::Case;
use super::rows::parallel_total;
use crate::engine::device::cpu::{for_chunks, map};
use crate::engine::device::cuda::{Buffer, Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Tensor, run};

/// The grid of a sum of `n` elements, and a buffer for the f64 sums of its blocks. Their number depends on n alone, so
/// that the sum is the same on every device.
pub(super) fn sum_blocks(g: &Gpu, n: usize) -> (Grid, Buffer) {
    let blocks = n.div_ceil(4096).clamp(1, 1024);
    (Grid::new([blocks, 1, 1], 256), g.scratch(2 * blocks))
}

/// y = factor / divisor · Σ of the f64 that `partial` holds.
pub(super) fn sum_partials(g: &Gpu, y: Out, partial: In, factor: f32, divisor: usize) {
    let dims = k::TotalDims { count: (partial.len() / 2) as i32, factor, divisor: divisor as i32 };
    k::reduce_total_fwd(g, Grid::new([1, 1, 1], 256), y, partial, dims);
}

/// y = Σ x, a scalar.
pub fn sum(x: &Tensor) -> Tensor {
    divided_sum(["sum_fwd", "sum_bwd"], x, 1)
}

/// y = Σ x / n, a scalar.
pub fn mean(x: &Tensor) -> Tensor {
    divided_sum(["mean_fwd", "mean_bwd"], x, x.len())
}

fn divided_sum([forward, backward]: [&'static str; 2], x: &Tensor, divisor: usize) -> Tensor {
    let (mut y, factor) = (x.new_empty_f32([]), 1.0 / divisor as f64);
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| y[0] = (factor * parallel_total(x, |x| x)) as f32;
    run(forward, [&mut y], [x], cpu, |g, [y], [x]| {
        let (grid, mut partial) = sum_blocks(g, x.len());
        k::reduce_sum_fwd(g, grid, partial.out(), x, x.len() as i32);
        sum_partials(g, y, partial.view(), 1.0, divisor);
    });
    let (shape, dtype) = (x.shape(), x.dtype());
    record1(y, [x], move |dy, _| {
        let mut dx = dy.new_empty_of(dtype, shape);
        let cpu = |[dx]: [&mut [f32]; 1], [dy]: [&[f32]; 1]| dx.fill((factor * dy[0] as f64) as f32);
        run(backward, [&mut dx], [&dy], cpu, |g, [dx], [dy]| {
            k::reduce_sum_bwd(g, Grid::packs(dx.len()), dx, dy, dx.len() as i32, divisor as i32);
        });
        [Some(dx)]
    })
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
    let mut y = x.new_empty([b, d]);
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        let sums = map(b, |i| {
            let mut sum = vec![0.0f64; d];
            for row in x[i * n * d..(i + 1) * n * d].chunks(d) {
                sum.iter_mut().zip(row).for_each(|(s, &x)| *s += x as f64);
            }
            sum
        });
        y.iter_mut().zip(sums.iter().flatten()).for_each(|(y, s)| *y = (factor as f64 * s) as f32);
    };
    run(name, [&mut y], [x], cpu, |g, [y], [x]| sum_middle_cuda(g, y, x, [b, n, d], factor));
    y
}

fn sum_middle_cuda(g: &Gpu, y: Out, x: In, [b, n, d]: [usize; 3], factor: f32) {
    let lanes = d.next_power_of_two().min(32);
    let blocks = b * d.div_ceil(lanes);
    // With few columns the rows are shared too, at least sixteen a thread.
    let most = (n / (256 / lanes * 16)).clamp(1, 64);
    let share = n.div_ceil(512usize.div_ceil(blocks.max(1)).clamp(1, most)).max(1);
    let shares = n.div_ceil(share).max(1);
    let [b, n, d, lanes, share] = [b, n, d, lanes, share].map(|n| n as i32);
    let (dims, grid) = (k::MiddleDims { b, n, d, lanes, share, factor }, Grid::new([blocks, shares, 1], 256));
    if shares == 1 {
        return k::reduce_middle_fwd(g, grid, y, None, x, dims);
    }
    let mut partial = g.scratch(2 * shares * y.len());
    k::reduce_middle_fwd(g, grid, y, Some(partial.out()), x, dims);
    let (all, shares) = (Grid::elements(y.len()), shares as i32);
    k::reduce_shares_fwd(g, all, y, partial.view(), y.len() as i32, shares, factor);
}

/// y [B,N,D] = factor · x [B,D], for every n.
pub(super) fn spread_middle(name: &'static str, x: &Tensor, [b, n, d]: [usize; 3], factor: f32) -> Tensor {
    let mut y = x.new_empty([b, n, d]);
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        for_chunks(y, n * d, |i, y| {
            let x = &x[i * d..(i + 1) * d];
            y.chunks_mut(d).for_each(|y| y.iter_mut().zip(x).for_each(|(y, x)| *y = factor * x));
        });
    };
    run(name, [&mut y], [x], cpu, |g, [y], [x]| {
        let dims = k::SpreadDims { b: b as i32, n: n as i32, d: d as i32, factor };
        k::reduce_spread_fwd(g, Grid::per_pack(y.read(), d), y, x, dims);
    });
    y
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("sum", "", |x| vec![sum(&x[0])]).input([3, 7]).bf16(&[0]),
        Case::new("sum", "several blocks", |x| vec![sum(&x[0])])
            .input_in([7, 1501, 3], -0.5, 1.0)
            .large()
            .bf16(&[0]),
        Case::new("mean", "", |x| vec![mean(&x[0])]).input([3, 7]).bf16(&[0]),
        Case::new("mean", "several blocks", |x| vec![mean(&x[0])])
            .input_in([64, 333], -0.5, 1.0)
            .large()
            .bf16(&[0]),
        Case::new("mean_rows", "", |x| vec![mean_rows(&x[0])]).input([3, 4, 5]).bf16(&[0]),
        Case::new("mean_rows", "shared rows", |x| vec![mean_rows(&x[0])])
            .input([2, 4200, 5])
            .large()
            .bf16(&[0]),
        Case::new("mean_rows", "shared rows in packs", |x| vec![mean_rows(&x[0])])
            .input([3, 700, 64])
            .large()
            .bf16(&[0]),
        Case::new("mean_rows", "wide", |x| vec![mean_rows(&x[0])]).input([4, 64, 257]).large().bf16(&[0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    #[test]
    fn a_sum_over_many_chunks_is_exact() {
        let x = Rng::new(1, 0).uniform([5 * 16 * 1024 + 13], 0.0, 1.0);
        let exact: f64 = x.to_vec().iter().map(|&x| x as f64).sum();
        assert!((sum(&x).item() as f64 / exact - 1.0).abs() < 1e-7);
        assert!((mean(&x).item() as f64 * x.len() as f64 / exact - 1.0).abs() < 1e-6);
    }
}
