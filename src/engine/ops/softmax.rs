//! Softmax over the last dimension.

use super::Case;
use super::rows::{exp_shifted, largest, total};
use crate::engine::device::cpu::{for_chunks, rows_per_chunk};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Tensor, run};

/// y = e^x / Σ e^x along each row: x [..,C] -> y [..,C].
pub fn softmax(x: &Tensor) -> Tensor {
    let c = x.shape().last_dim();
    let chunk = rows_per_chunk(c) * c;
    let mut y = x.new_empty(x.shape());
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        for_chunks(y, chunk, |i, y| {
            for (y, x) in y.chunks_mut(c).zip(x[i * chunk..].chunks(c)) {
                exp_shifted(y, x, largest(x));
                let scale = (1.0 / total(y, |y| y)) as f32;
                y.iter_mut().for_each(|y| *y *= scale);
            }
        });
    };
    run("softmax_fwd", [&mut y], [x], cpu, |g, [y], [x]| match layout(y, c) {
        (grid, dims, Team::Lanes) => k::softmax_lanes_fwd(g, grid, y, x, dims),
        (grid, dims, Team::Block) => k::softmax_block_fwd(g, grid, y, x, dims),
    });
    let saved = y.detach();
    record1(y, [x], move |dy, _| {
        let mut dx = dy.new_empty(dy.shape());
        let cpu = |[dx]: [&mut [f32]; 1], [dy, y]: [&[f32]; 2]| {
            for_chunks(dx, chunk, |i, dx| {
                let rest = dy[i * chunk..].chunks(c).zip(y[i * chunk..].chunks(c));
                dx.chunks_mut(c).zip(rest).for_each(|(dx, (dy, y))| softmax_row_gradient(dx, dy, y));
            });
        };
        let cuda = |g: &Gpu, [dx]: [Out; 1], [dy, y]: [In; 2]| match layout(dx, c) {
            (grid, dims, Team::Lanes) => k::softmax_lanes_bwd(g, grid, dx, dy, y, dims),
            (grid, dims, Team::Block) => k::softmax_block_bwd(g, grid, dx, dy, y, dims),
        };
        run("softmax_bwd", [&mut dx], [&dy, &saved], cpu, cuda);
        [Some(dx)]
    })
}

/// Which threads take a row on a GPU.
enum Team {
    /// Up to 32 neighboring threads, as many as there are packs.
    Lanes,
    Block,
}

fn layout(y: Out, c: usize) -> (Grid, k::SoftmaxDims, Team) {
    let (rows, pack) = (y.len() / c.max(1), 16 / y.dtype().bytes());
    let pieces = if c.is_multiple_of(pack) { c / pack } else { c };
    let lanes = pieces.next_power_of_two().min(32);
    let dims = k::SoftmaxDims { rows: rows as i32, c: c as i32, lanes: lanes as i32 };
    if pieces > 512 {
        (Grid::new([rows, 1, 1], 256), dims, Team::Block)
    } else {
        (Grid::elements(rows * lanes), dims, Team::Lanes)
    }
}

/// dx = y · (dy - Σ dy · y)
fn softmax_row_gradient(dx: &mut [f32], dy: &[f32], y: &[f32]) {
    let pairs = || dy.iter().zip(y);
    dx.iter_mut().zip(pairs()).for_each(|(dx, (dy, y))| *dx = dy * y);
    let mean = total(dx, |dx| dx) as f32;
    dx.iter_mut().zip(pairs()).for_each(|(dx, (dy, y))| *dx = y * (dy - mean));
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("softmax", "rows", |x| vec![softmax(&x[0])]).input_in([5, 13], -3.0, 3.0).bf16(&[0]),
        Case::new("softmax", "image", |x| vec![softmax(&x[0])]).input([2, 3, 3, 6]).bf16(&[0]),
        Case::new("softmax", "few columns", |x| vec![softmax(&x[0])])
            .input_in([701, 3], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("softmax", "words", |x| vec![softmax(&x[0])])
            .input_in([2, 200, 18], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("softmax", "packs", |x| vec![softmax(&x[0])])
            .input_in([131, 64], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("softmax", "a warp a row", |x| vec![softmax(&x[0])])
            .input_in([19, 257], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("softmax", "a block a row", |x| vec![softmax(&x[0])])
            .input_in([9, 4128], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("softmax", "an odd block a row", |x| vec![softmax(&x[0])])
            .input_in([7, 2051], -3.0, 3.0)
            .large()
            .bf16(&[0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_and_masked_scores_are_safe() {
        let x = Tensor::from_vec(vec![1000.0, 999.0, f32::NEG_INFINITY], [1, 3]);
        let y = softmax(&x).to_vec();
        let odds = 1.0 / (1.0 + (-1.0f64).exp());
        assert!((y[0] as f64 - odds).abs() < 1e-7 && (y[1] as f64 - (1.0 - odds)).abs() < 1e-7, "{y:?}");
        assert_eq!(y[2], 0.0);
    }

    #[test]
    fn many_chunks_agree_with_the_formula() {
        let x = crate::engine::tensor::Rng::new(4, 0).normal([900, 50]);
        let y = softmax(&x);
        for (x, y) in x.as_slice().chunks(50).zip(y.as_slice().chunks(50)) {
            let sum: f64 = x.iter().map(|&x| (x as f64).exp()).sum();
            x.iter().zip(y).for_each(|(&x, &y)| assert!(((x as f64).exp() / sum - y as f64).abs() < 1e-7));
        }
    }
}
