//! Batch normalization on the CPU.

use std::ops::Range;

use super::{Activation, BatchNormSaved};
use crate::engine::device::cpu::{for_chunks, map, rows_per_chunk};
use crate::engine::ops::rows::{add, glu_rows, glu_rows_bwd};

/// Rows summed in f32 before f64 takes over.
const BLOCK: usize = 32;

fn chunk_rows(c: usize) -> usize {
    rows_per_chunk(c).max(BLOCK)
}

/// Adds up what `add` puts into `width` f32 sums for each block of `rows`.
fn sum_blocks(rows: Range<usize>, width: usize, mut add: impl FnMut(Range<usize>, &mut [f32])) -> Vec<f64> {
    let (mut total, mut part) = (vec![0.0; width], vec![0.0; width]);
    for block in rows.clone().step_by(BLOCK) {
        part.fill(0.0);
        add(block..rows.end.min(block + BLOCK), &mut part);
        total.iter_mut().zip(&part).for_each(|(t, &p)| *t += p as f64);
    }
    total
}

/// Several rows of `c`.
fn rows_of(x: &[f32], rows: Range<usize>, c: usize) -> &[f32] {
    &x[rows.start * c..rows.end * c]
}

/// The blocks of `out`, rows of `width` from row `first` on, and which rows they are.
fn blocks(out: &mut [f32], first: usize, width: usize) -> impl Iterator<Item = (Range<usize>, &mut [f32])> {
    let parts = (first..).step_by(BLOCK).zip(out.chunks_mut(BLOCK * width));
    parts.map(move |(from, out)| (from..from + out.len() / width, out))
}

/// Mean and biased variance by channel. Each chunk takes two passes, the second in cache, about its own mean; Chan's
/// formula merges the chunks: no cancellation, however far the mean lies from 0.
pub(super) fn moments(x: &[f32], mean: &mut [f32], variance: &mut [f32]) {
    let c = mean.len();
    let (rows, step) = (x.len() / c, chunk_rows(c));
    let chunks = map(rows.div_ceil(step), |i| {
        let rows = i * step..rows.min((i + 1) * step);
        let count = rows.len() as f64;
        let mut mean = sum_blocks(rows.clone(), c, |block, sum| {
            rows_of(x, block, c).chunks_exact(c).for_each(|x| add(sum, x));
        });
        mean.iter_mut().for_each(|m| *m /= count);
        let about: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
        let squares = sum_blocks(rows, c, |block, sum| {
            for x in rows_of(x, block, c).chunks_exact(c) {
                let rest = x.iter().zip(&about);
                sum.iter_mut().zip(rest).for_each(|(s, (x, m))| *s += (x - m) * (x - m));
            }
        });
        (count, mean, squares)
    });
    for j in 0..c {
        let (mut n, mut m, mut s) = (0.0, 0.0, 0.0);
        for (count, means, squares) in &chunks {
            let (delta, sum) = (means[j] - m, n + count);
            m += delta * count / sum;
            s += squares[j] + delta * delta * n * count / sum;
            n = sum;
        }
        (mean[j], variance[j]) = (m as f32, (s / n) as f32);
    }
}

/// The moments of all tiles of `moments` [tiles,3,C], by Chan's formula.
pub(super) fn merge_moments(moments: &[f32], mean: &mut [f32], variance: &mut [f32]) {
    let c = mean.len();
    for j in 0..c {
        let (mut n, mut m, mut s) = (0.0f64, 0.0, 0.0);
        for tile in moments.chunks_exact(3 * c) {
            let [count, tile_mean, squares] = [tile[j], tile[c + j], tile[2 * c + j]].map(f64::from);
            if count > 0.0 {
                let (delta, sum) = (tile_mean - m, n + count);
                m += delta * count / sum;
                s += squares + delta * delta * n * count / sum;
                n = sum;
            }
        }
        (mean[j], variance[j]) = (m as f32, (s / n) as f32);
    }
}

/// inv_std = 1 / √(variance + eps), scale = γ · inv_std, shift = β - mean · scale.
pub(super) fn scale_and_shift(
    [inv_std, scale, shift]: [&mut [f32]; 3],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    eps: f32,
) {
    for j in 0..mean.len() {
        inv_std[j] = (1.0 / (variance[j] as f64 + eps as f64).sqrt()) as f32;
        scale[j] = gamma[j] * inv_std[j];
        shift[j] = beta[j] - mean[j] * scale[j];
    }
}

pub(super) struct ScaleShift<'a> {
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
}

impl ScaleShift<'_> {
    /// z = scale · x + shift + r in every row
    fn apply(&self, z: &mut [f32], x: &[f32], r: Option<&[f32]>) {
        let c = self.scale.len();
        for (z, x) in z.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            let rest = x.iter().zip(self.scale.iter().zip(self.shift));
            z.iter_mut().zip(rest).for_each(|(z, (x, (scale, shift)))| *z = x * scale + shift);
        }
        if let Some(r) = r {
            z.iter_mut().zip(r).for_each(|(z, r)| *z += r);
        }
    }
}

/// y [rows,c_out] = the activation of z.
pub(super) fn forward(
    y: &mut [f32],
    c_out: usize,
    x: &[f32],
    residual: Option<&[f32]>,
    normalize: &ScaleShift<'_>,
    act: Activation,
) {
    let c = normalize.scale.len();
    let rows = chunk_rows(c);
    for_chunks(y, rows * c_out, |chunk, y| {
        let mut z = vec![0.0; if act == Activation::Glu { BLOCK * c } else { 0 }];
        for (block, y) in blocks(y, chunk * rows, c_out) {
            let (x, residual) = (rows_of(x, block.clone(), c), residual.map(|r| rows_of(r, block, c)));
            if act == Activation::Glu {
                let z = &mut z[..x.len()];
                normalize.apply(z, x, residual);
                glu_rows(y, z, c_out);
            } else {
                normalize.apply(y, x, residual);
                act.rectify(y);
            }
        }
    });
}

impl Activation {
    fn rectify(self, z: &mut [f32]) {
        if let Some(slope) = self.slope() {
            z.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { slope * *z });
        }
        if self == Activation::Relu6 {
            let ceiling = self.ceiling();
            z.iter_mut().for_each(|z| *z = if *z > ceiling { ceiling } else { *z });
        }
    }
}

/// What dz, the gradient before the activation, is computed from.
struct Backward<'a> {
    act: Activation,
    dy: &'a [f32],
    residual: Option<&'a [f32]>,
    x: &'a [f32],
    normalize: ScaleShift<'a>,
}

impl<'a> Backward<'a> {
    fn new(
        dy: &'a [f32],
        residual: Option<&'a [f32]>,
        saved: &BatchNormSaved<&'a [f32]>,
        act: Activation,
    ) -> Backward<'a> {
        let normalize = ScaleShift { scale: saved.scale, shift: saved.shift };
        Backward { act, dy, residual, x: saved.x, normalize }
    }

    /// Room for [`dz`](Backward::dz) of a block, none where there is no activation.
    fn room(&self) -> Vec<f32> {
        let rows = if self.act == Activation::None { 0 } else { BLOCK };
        vec![0.0; rows * self.normalize.scale.len()]
    }

    /// dz of some rows: dy itself where there is no activation, else computed at the begin of `z`.
    fn dz<'b>(&'b self, z: &'b mut [f32], rows: Range<usize>) -> &'b [f32] {
        let c = self.normalize.scale.len();
        let c_out = if self.act == Activation::Glu { c / 2 } else { c };
        let dy = rows_of(self.dy, rows.clone(), c_out);
        if self.act == Activation::None {
            return dy;
        }
        let z = &mut z[..rows.len() * c];
        self.normalize.apply(z, rows_of(self.x, rows.clone(), c), self.residual.map(|r| rows_of(r, rows, c)));
        if self.act == Activation::Relu6 {
            let ceiling = self.act.ceiling();
            z.iter_mut().zip(dy).for_each(|(z, dy)| *z = if *z > 0.0 && *z <= ceiling { *dy } else { 0.0 });
        } else if let Some(slope) = self.act.slope() {
            z.iter_mut().zip(dy).for_each(|(z, dy)| *z = if *z > 0.0 { *dy } else { slope * dy });
        } else {
            glu_rows_bwd(z, dy, c_out);
        }
        z
    }
}

/// dγ = Σ dz · (x - mean) / std and dβ = Σ dz.
pub(super) fn sums(
    [dgamma, dbeta]: [&mut [f32]; 2],
    dy: &[f32],
    residual: Option<&[f32]>,
    saved: &BatchNormSaved<&[f32]>,
    act: Activation,
) {
    let (c, backward) = (dgamma.len(), Backward::new(dy, residual, saved, act));
    let (rows, step) = (saved.x.len() / c, chunk_rows(c));
    let chunks = map(rows.div_ceil(step), |chunk| {
        let mut z = backward.room();
        sum_blocks(chunk * step..rows.min((chunk + 1) * step), 2 * c, |block, sums| {
            let (dz, x) = (backward.dz(&mut z, block.clone()), rows_of(saved.x, block, c));
            let rows = dz.chunks_exact(c).zip(x.chunks_exact(c));
            rows.for_each(|(dz, x)| add_products(sums, dz, x, saved.mean));
        })
    });
    for j in 0..c {
        dgamma[j] = (chunks.iter().map(|s| s[j]).sum::<f64>() * saved.inv_std[j] as f64) as f32;
        dbeta[j] = chunks.iter().map(|s| s[c + j]).sum::<f64>() as f32;
    }
}

/// sums += [dz · (x - mean) | dz]
fn add_products(sums: &mut [f32], dz: &[f32], x: &[f32], mean: &[f32]) {
    let (products, plain) = sums.split_at_mut(dz.len());
    plain.iter_mut().zip(dz).for_each(|(s, dz)| *s += dz);
    let rest = dz.iter().zip(x.iter().zip(mean));
    products.iter_mut().zip(rest).for_each(|(s, (dz, (x, m)))| *s += dz * (x - m));
}

/// The gradients of x and of the residual; `sums` are dγ and dβ where the moments depend on x.
pub(super) fn input_gradients(
    [dx, dr]: [Option<&mut [f32]>; 2],
    dy: &[f32],
    residual: Option<&[f32]>,
    saved: &BatchNormSaved<&[f32]>,
    sums: Option<[&[f32]; 2]>,
    act: Activation,
) {
    let c = saved.mean.len();
    let (step, n) = (chunk_rows(c), (saved.x.len() / c) as f32);
    let backward = Backward::new(dy, residual, saved, act);
    let [slope, offset]: [Vec<f32>; 2] = match sums {
        Some([dgamma, dbeta]) => [
            dgamma.iter().zip(saved.inv_std).map(|(d, i)| d / n * i).collect(),
            dbeta.iter().map(|d| d / n).collect(),
        ],
        None => [vec![0.0; c], vec![0.0; c]],
    };
    if let Some(dx) = dx {
        for_chunks(dx, step * c, |chunk, dx| {
            let mut z = backward.room();
            for (block, dx) in blocks(dx, chunk * step, c) {
                let (dz, x) = (backward.dz(&mut z, block.clone()), rows_of(saved.x, block, c));
                for (dx, (dz, x)) in dx.chunks_exact_mut(c).zip(dz.chunks_exact(c).zip(x.chunks_exact(c))) {
                    subtract_statistics(dx, dz, x, saved.mean, [saved.scale, &slope, &offset]);
                }
            }
        });
    }
    if let Some(dr) = dr {
        for_chunks(dr, step * c, |chunk, dr| {
            for (block, dr) in blocks(dr, chunk * step, c) {
                backward.dz(dr, block);
            }
        });
    }
}

/// dx = scale · (dz - offset - slope · (x - mean))
fn subtract_statistics(
    dx: &mut [f32],
    dz: &[f32],
    x: &[f32],
    mean: &[f32],
    [scale, slope, offset]: [&[f32]; 3],
) {
    let rest = dz.iter().zip(x.iter().zip(mean)).zip(scale.iter().zip(slope.iter().zip(offset)));
    dx.iter_mut().zip(rest).for_each(|(dx, ((dz, (x, m)), (scale, (slope, offset))))| {
        *dx = scale * (dz - offset - slope * (x - m));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    #[test]
    fn moments_stay_exact_far_from_zero() {
        let x = Rng::new(5, 0).normal([40_001, 3]).to_vec();
        let x: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + [0.0, 100.0, -1000.0][i % 3]).collect();
        let (mut mean, mut variance) = ([0.0; 3], [0.0; 3]);
        moments(&x, &mut mean, &mut variance);
        for j in 0..3 {
            let channel: Vec<f64> = x.iter().skip(j).step_by(3).map(|&x| x as f64).collect();
            let n = channel.len() as f64;
            let m = channel.iter().sum::<f64>() / n;
            let v = channel.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / n;
            assert!((mean[j] as f64 - m).abs() <= 1e-6 * m.abs().max(1.0), "mean {} {m}", mean[j]);
            assert!((variance[j] as f64 / v - 1.0).abs() <= 1e-6, "variance {} {v}", variance[j]);
        }
    }
}
