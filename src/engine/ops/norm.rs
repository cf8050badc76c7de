//! Batch normalisation in one pass with what follows it: a residual, an activation or the gated linear unit.

use super::Case;
use super::pointwise::logistic;
use crate::engine::device::cpu::{for_chunks, map, rows_per_chunk};
use crate::engine::tensor::tape::record_many;
use crate::engine::tensor::{Tensor, run, same_shape};

/// What follows the normalisation; `Glu` halves the channels: a · σ(b) of [a | b].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    LeakyRelu(f32),
    Glu,
}

/// The output, and the moments of the batch by channel (variance biased; both off the tape).
pub struct BatchNorm {
    pub y: Tensor,
    pub mean: Tensor,
    pub variance: Tensor,
}

/// y = act(γ · (x - mean) / √(variance + eps) + β + residual), with the moments of this batch over all but channels.
///
/// x, residual [.., C]; gamma, beta [C]; y [.., C], or [.., C/2] under `Glu`, which takes no residual.
#[track_caller]
pub fn batch_norm_train(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    act: Activation,
    residual: Option<&Tensor>,
    eps: f32,
) -> BatchNorm {
    let c = x.shape().last_dim();
    let (mut mean, mut variance) = (x.empty([c]), x.empty([c]));
    run("batch_norm_moments", [&mut mean, &mut variance], [x], |[mean, variance], [x]| {
        moments(x, mean, variance);
    });
    let norm = Norm::new(x, gamma, beta, [&mean, &variance], eps);
    let y = norm.recorded(act, residual, Moments::OfTheBatch);
    BatchNorm { y, mean, variance }
}

/// [`batch_norm_train`] with given moments [C], which are constants.
#[track_caller]
#[allow(clippy::too_many_arguments)] // the formula has that many letters
pub fn batch_norm_eval(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    act: Activation,
    residual: Option<&Tensor>,
    eps: f32,
) -> Tensor {
    Norm::new(x, gamma, beta, [mean, variance], eps).recorded(act, residual, Moments::Given)
}

#[derive(Clone, Copy, PartialEq)]
enum Moments {
    OfTheBatch,
    Given,
}

/// Rows summed in f32 before f64 takes over.
const BLOCK: usize = 32;

fn chunk_rows(c: usize) -> usize {
    rows_per_chunk(c).max(BLOCK)
}

/// Adds up what `add` puts into `width` f32 sums for each of `rows`.
fn sum_rows(rows: std::ops::Range<usize>, width: usize, add: impl Fn(usize, &mut [f32])) -> Vec<f64> {
    let (mut total, mut part) = (vec![0.0; width], vec![0.0; width]);
    for block in rows.clone().step_by(BLOCK) {
        part.fill(0.0);
        (block..rows.end.min(block + BLOCK)).for_each(|row| add(row, &mut part));
        total.iter_mut().zip(&part).for_each(|(t, &p)| *t += p as f64);
    }
    total
}

fn nth(data: &[f32], row: usize, width: usize) -> &[f32] {
    &data[row * width..][..width]
}

/// Mean and biased variance by channel. Each chunk takes two passes, the second in cache, about its own mean;
/// chunks are joined by Chan's formula: no cancellation, however far the mean lies from 0.
fn moments(x: &[f32], mean: &mut [f32], variance: &mut [f32]) {
    let c = mean.len();
    let (rows, step) = (x.len() / c, chunk_rows(c));
    let chunks = map(rows.div_ceil(step), |i| {
        let rows = i * step..rows.min((i + 1) * step);
        let count = rows.len() as f64;
        let mut mean = sum_rows(rows.clone(), c, |row, sum| {
            sum.iter_mut().zip(nth(x, row, c)).for_each(|(s, x)| *s += x);
        });
        mean.iter_mut().for_each(|m| *m /= count);
        let about: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
        let squares = sum_rows(rows, c, |row, sum| {
            let rest = nth(x, row, c).iter().zip(&about);
            sum.iter_mut().zip(rest).for_each(|(s, (x, m))| *s += (x - m) * (x - m));
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

/// The inputs, and what a channel is multiplied by and what is added to it.
struct Norm {
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    inv_std: Tensor,
}

impl Norm {
    #[track_caller]
    fn new(x: &Tensor, gamma: &Tensor, beta: &Tensor, [mean, variance]: [&Tensor; 2], eps: f32) -> Norm {
        for by_channel in [gamma, beta, mean, variance] {
            let (shape, by_channel) = (x.shape(), by_channel.shape());
            assert_eq!(*by_channel, [shape.last_dim()], "batch_norm: {shape:?} has not the channels of {by_channel:?}");
        }
        let mut inv_std = variance.empty(variance.shape());
        run("batch_norm_inv_std", [&mut inv_std], [variance], |[inv_std], [variance]| {
            let pairs = inv_std.iter_mut().zip(variance);
            pairs.for_each(|(i, &v)| *i = (1.0 / (v as f64 + eps as f64).sqrt()) as f32);
        });
        Norm { x: x.clone(), gamma: gamma.clone(), beta: beta.clone(), mean: mean.detach(), inv_std }
    }

    #[track_caller]
    fn recorded(self, act: Activation, residual: Option<&Tensor>, moments: Moments) -> Tensor {
        let shape = self.x.shape();
        if let Some(residual) = residual {
            same_shape("batch_norm with a residual", &self.x, residual);
            assert!(act != Activation::Glu, "batch_norm: a residual {:?} cannot be gated", residual.shape());
        }
        let halves = act != Activation::Glu || shape.last_dim().is_multiple_of(2);
        assert!(halves, "batch_norm: Glu splits the channels in two; {shape:?} is odd");
        let y = self.forward(act, residual);
        let mut ins = vec![self.x.clone(), self.gamma.clone(), self.beta.clone()];
        ins.extend(residual.cloned());
        // Without an activation the gradient does not ask what the residual was.
        let residual = residual.filter(|_| act != Activation::None).map(Tensor::detach);
        let saved = Norm { x: self.x.detach(), gamma: self.gamma.detach(), beta: self.beta.detach(), ..self };
        record_many(vec![y], &ins.iter().collect::<Vec<_>>(), move |dys, wanted| {
            let Some(dy) = &dys[0] else { return vec![None; wanted.len()] };
            saved.backward(dy, Gate { act, residual }, moments, wanted)
        })
        .swap_remove(0)
    }

    /// y = scale · x + shift, as far as a channel is concerned.
    fn affine(&self) -> Affine {
        let channels = self.gamma.as_slice().iter().zip(self.inv_std.as_slice());
        let scale: Vec<f32> = channels.map(|(g, i)| g * i).collect();
        let rest = self.beta.as_slice().iter().zip(self.mean.as_slice());
        let shift = scale.iter().zip(rest).map(|(s, (b, m))| b - m * s).collect();
        Affine { scale, shift }
    }

    fn forward(&self, act: Activation, residual: Option<&Tensor>) -> Tensor {
        let (x, c) = (&self.x, self.x.shape().last_dim());
        let (affine, rows) = (self.affine(), chunk_rows(c));
        let c_out = if act == Activation::Glu { c / 2 } else { c };
        let mut y = x.empty(x.shape().with_last(c_out));
        run("batch_norm_fwd", [&mut y], [x, residual.unwrap_or(x)], |[y], [x, r]| {
            for_chunks(y, rows * c_out, |i, y| {
                let mut z = vec![0.0; c];
                for (row, y) in (i * rows..).zip(y.chunks_exact_mut(c_out)) {
                    let residual = residual.map(|_| nth(r, row, c));
                    if act == Activation::Glu {
                        affine.apply(&mut z, nth(x, row, c), residual);
                        gated(y, &z);
                    } else {
                        affine.apply(y, nth(x, row, c), residual);
                        act.rectify(y);
                    }
                }
            });
        });
        y
    }

    fn backward(
        &self,
        dy: &Tensor,
        gate: Gate,
        moments: Moments,
        wanted: &[bool],
    ) -> Vec<Option<Tensor>> {
        let constant = moments == Moments::Given;
        let sums = (wanted[1] || wanted[2] || !constant).then(|| self.sums(dy, &gate));
        let dx = wanted[0].then(|| self.input_gradient(dy, &gate, sums.as_ref().filter(|_| !constant)));
        let mut grads = vec![dx, None, None];
        if let Some([dgamma, dbeta]) = sums {
            grads[1..].clone_from_slice(&[wanted[1].then_some(dgamma), wanted[2].then_some(dbeta)]);
        }
        grads.extend(wanted.get(3).map(|&wanted| wanted.then(|| self.residual_gradient(dy, &gate))));
        grads
    }

    /// dγ = Σ dz · x̂ and dβ = Σ dz over rows, with z what the activation sees and x̂ = (x - mean) / std.
    fn sums(&self, dy: &Tensor, gate: &Gate) -> [Tensor; 2] {
        let (x, c) = (&self.x, self.x.shape().last_dim());
        let (affine, step, rows) = (self.affine(), chunk_rows(c), x.shape().rows());
        let (mut dgamma, mut dbeta) = (x.empty([c]), x.empty([c]));
        let ins = [dy, x, gate.residual.as_ref().unwrap_or(x), &self.mean, &self.inv_std];
        run("batch_norm_bwd_w", [&mut dgamma, &mut dbeta], ins, |[dgamma, dbeta], [dy, x, r, mean, inv_std]| {
            let c_out = dy.len() / rows;
            let chunks = map(rows.div_ceil(step), |i| {
                let z = std::cell::RefCell::new(vec![0.0; c]);
                sum_rows(i * step..rows.min((i + 1) * step), 2 * c, |row, sums| {
                    let (mut z, x) = (z.borrow_mut(), nth(x, row, c));
                    let dz = gate.dz(&mut z, nth(dy, row, c_out), x, nth(r, row, c), &affine);
                    add_products(sums, dz, x, mean);
                })
            });
            for j in 0..c {
                dgamma[j] = (chunks.iter().map(|s| s[j]).sum::<f64>() * inv_std[j] as f64) as f32;
                dbeta[j] = chunks.iter().map(|s| s[c + j]).sum::<f64>() as f32;
            }
        });
        [dgamma, dbeta]
    }

    /// dx = γ / std · (dz - (dβ + x̂ · dγ) / N); constant moments leave out what is subtracted.
    fn input_gradient(&self, dy: &Tensor, gate: &Gate, sums: Option<&[Tensor; 2]>) -> Tensor {
        let (x, c) = (&self.x, self.x.shape().last_dim());
        let (affine, step, rows) = (self.affine(), chunk_rows(c), x.shape().rows());
        let n = rows as f32;
        let mean_of = |sum: &Tensor| -> Vec<f32> { sum.as_slice().iter().map(|s| s / n).collect() };
        let [slope, offset] = match sums {
            Some([dgamma, dbeta]) => {
                let slope = mean_of(dgamma).iter().zip(self.inv_std.as_slice()).map(|(d, i)| d * i).collect();
                [slope, mean_of(dbeta)]
            }
            None => [vec![0.0; c], vec![0.0; c]],
        };
        let mut dx = x.empty(x.shape());
        let ins = [dy, x, gate.residual.as_ref().unwrap_or(x), &self.mean];
        run("batch_norm_bwd", [&mut dx], ins, |[dx], [dy, x, r, mean]| {
            let c_out = dy.len() / rows;
            for_chunks(dx, step * c, |i, dx| {
                let mut z = vec![0.0; c];
                for (row, dx) in (i * step..).zip(dx.chunks_exact_mut(c)) {
                    let x = nth(x, row, c);
                    let dz = gate.dz(&mut z, nth(dy, row, c_out), x, nth(r, row, c), &affine);
                    centre(dx, dz, x, mean, [&affine.scale, &slope, &offset]);
                }
            });
        });
        dx
    }

    fn residual_gradient(&self, dy: &Tensor, gate: &Gate) -> Tensor {
        let Some(residual) = &gate.residual else { return dy.clone() };
        let (affine, c) = (self.affine(), self.x.shape().last_dim());
        let (step, mut dr) = (chunk_rows(c), dy.empty(dy.shape()));
        run("batch_norm_bwd_residual", [&mut dr], [dy, &self.x, residual], |[dr], [dy, x, r]| {
            for_chunks(dr, step * c, |i, dr| {
                for (row, dr) in (i * step..).zip(dr.chunks_exact_mut(c)) {
                    gate.dz(dr, nth(dy, row, c), nth(x, row, c), nth(r, row, c), &affine);
                }
            });
        });
        dr
    }
}

struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    /// z = scale · x + shift + r
    fn apply(&self, z: &mut [f32], x: &[f32], r: Option<&[f32]>) {
        let rest = x.iter().zip(self.scale.iter().zip(&self.shift));
        z.iter_mut().zip(rest).for_each(|(z, (x, (scale, shift)))| *z = x * scale + shift);
        if let Some(r) = r {
            z.iter_mut().zip(r).for_each(|(z, r)| *z += r);
        }
    }
}

impl Activation {
    /// What negative values are multiplied by, if the activation is a rectifier.
    fn slope(self) -> Option<f32> {
        match self {
            Activation::Relu => Some(0.0),
            Activation::LeakyRelu(slope) => Some(slope),
            Activation::None | Activation::Glu => None,
        }
    }

    fn rectify(self, z: &mut [f32]) {
        if let Some(slope) = self.slope() {
            z.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { slope * *z });
        }
    }
}

/// y = a · σ(b) with z = [a | b]
fn gated(y: &mut [f32], z: &[f32]) {
    let (a, b) = z.split_at(y.len());
    y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, &b))| *y = a * logistic(b));
}

/// The activation on the way back; it computes what it saw again instead of keeping it.
struct Gate {
    act: Activation,
    residual: Option<Tensor>,
}

impl Gate {
    /// The gradient of one row before the activation, in `z` unless it is `dy` itself.
    fn dz<'a>(&self, z: &'a mut [f32], dy: &'a [f32], x: &[f32], r: &[f32], affine: &Affine) -> &'a [f32] {
        if self.act == Activation::None {
            return dy;
        }
        affine.apply(z, x, self.residual.as_ref().map(|_| r));
        if let Some(slope) = self.act.slope() {
            z.iter_mut().zip(dy).for_each(|(z, dy)| *z = if *z > 0.0 { *dy } else { slope * dy });
        } else {
            let (a, b) = z.split_at_mut(dy.len());
            for ((a, b), dy) in a.iter_mut().zip(b).zip(dy) {
                let open = logistic(*b);
                *b = dy * *a * open * (1.0 - open);
                *a = dy * open;
            }
        }
        z
    }
}

/// sums += [dz · (x - mean) | dz]
fn add_products(sums: &mut [f32], dz: &[f32], x: &[f32], mean: &[f32]) {
    let (products, plain) = sums.split_at_mut(dz.len());
    plain.iter_mut().zip(dz).for_each(|(s, dz)| *s += dz);
    let rest = dz.iter().zip(x.iter().zip(mean));
    products.iter_mut().zip(rest).for_each(|(s, (dz, (x, m)))| *s += dz * (x - m));
}

/// dx = scale · (dz - offset - slope · (x - mean))
fn centre(dx: &mut [f32], dz: &[f32], x: &[f32], mean: &[f32], [scale, slope, offset]: [&[f32]; 3]) {
    let rest = dz.iter().zip(x.iter().zip(mean)).zip(scale.iter().zip(slope.iter().zip(offset)));
    dx.iter_mut().zip(rest).for_each(|(dx, ((dz, (x, m)), (scale, (slope, offset))))| {
        *dx = scale * (dz - offset - slope * (x - m));
    });
}

pub fn cases() -> Vec<Case> {
    const EPS: f32 = 1e-5;
    let train = |name, act: Activation, shape: &[usize], residual: bool| {
        let run = move |x: &[Tensor]| vec![batch_norm_train(&x[0], &x[1], &x[2], act, x.get(3), EPS).y];
        let c = *shape.last().unwrap();
        let case = Case::new("batch_norm_train", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        if residual { case.input(shape) } else { case }
    };
    let eval = |name, act: Activation, shape: &[usize], residual: bool| {
        let run = move |x: &[Tensor]| {
            vec![batch_norm_eval(&x[0], &x[1], &x[2], &x[3], &x[4], act, x.get(5), EPS)]
        };
        let c = *shape.last().unwrap();
        let case = Case::new("batch_norm_eval", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        let case = case.constant([c], -0.5, 0.5).constant([c], 0.5, 1.5);
        if residual { case.input(shape) } else { case }
    };
    let leaky = Activation::LeakyRelu(0.2);
    vec![
        train("plain", Activation::None, &[2, 3, 4, 5], false),
        train("residual", Activation::None, &[2, 3, 4, 5], true),
        train("relu", Activation::Relu, &[2, 3, 3, 4], false),
        train("leaky relu", leaky, &[2, 3, 3, 4], false),
        train("relu of a residual", Activation::Relu, &[2, 3, 3, 4], true),
        train("glu", Activation::Glu, &[2, 3, 3, 8], false),
        train("glu of rows", Activation::Glu, &[6, 10], false),
        eval("plain", Activation::None, &[2, 3, 4, 5], false),
        eval("residual", Activation::None, &[2, 3, 4, 5], true),
        eval("leaky relu of a residual", leaky, &[2, 3, 3, 4], true),
        eval("glu", Activation::Glu, &[2, 3, 3, 8], false),
    ]
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

    /// Output and gradients of x, gamma, beta by the textbook, channel by channel in f64.
    fn textbook(ins: &[Tensor], act: Activation, dy: &[f32]) -> [Vec<f64>; 4] {
        let v: Vec<Vec<f64>> = ins.iter().map(|t| t.to_vec().iter().map(|&x| x as f64).collect()).collect();
        let (x, c) = (&v[0], v[1].len());
        let (rows, n) = (x.len() / c, (x.len() / c) as f64);
        let mean_over = |f: &dyn Fn(usize) -> f64, j| (0..rows).map(|r| f(r * c + j)).sum::<f64>() / n;
        let mean: Vec<f64> = (0..c).map(|j| mean_over(&|i| x[i], j)).collect();
        let std: Vec<f64> =
            (0..c).map(|j| (mean_over(&|i| (x[i] - mean[j]).powi(2), j) + 1e-5).sqrt()).collect();
        let unit: Vec<f64> = (0..x.len()).map(|i| (x[i] - mean[i % c]) / std[i % c]).collect();
        let r = |i: usize| v.get(3).map_or(0.0, |r| r[i]);
        let z: Vec<f64> = (0..x.len()).map(|i| v[1][i % c] * unit[i] + v[2][i % c] + r(i)).collect();
        let (mut y, mut dz) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        for (i, &dy) in dy.iter().enumerate() {
            let dy = dy as f64;
            if act == Activation::Glu {
                let a = i / (c / 2) * c + i % (c / 2);
                let (b, open) = (a + c / 2, 1.0 / (1.0 + (-z[a + c / 2]).exp()));
                (y[i], dz[a], dz[b]) = (z[a] * open, dy * open, dy * z[a] * open * (1.0 - open));
            } else {
                let slope = if z[i] > 0.0 { 1.0 } else { act.slope().unwrap_or(1.0) as f64 };
                (y[i], dz[i]) = (slope * z[i], slope * dy);
            }
        }
        let dgamma: Vec<f64> = (0..c).map(|j| n * mean_over(&|i| dz[i] * unit[i], j)).collect();
        let dbeta: Vec<f64> = (0..c).map(|j| n * mean_over(&|i| dz[i], j)).collect();
        let centred = |i: usize, j: usize| dz[i] - (dbeta[j] + unit[i] * dgamma[j]) / n;
        let dx = (0..x.len()).map(|i| v[1][i % c] / std[i % c] * centred(i, i % c)).collect();
        [y, dx, dgamma, dbeta]
    }

    #[test]
    fn many_chunks_agree_with_the_textbook() {
        for (act, residual) in [
            (Activation::Glu, false),
            (Activation::LeakyRelu(0.2), true),
            (Activation::Relu, false),
            (Activation::None, true),
        ] {
            let shape = [2, 53, 37, 24];
            let draw = |stream| Rng::new(9, stream).normal(shape);
            let mut ins = vec![draw(0).leaf(), Rng::new(9, 1).normal([24]).leaf(), Rng::new(9, 2).normal([24]).leaf()];
            ins.extend(residual.then(|| draw(3).leaf()));
            let y = batch_norm_train(&ins[0], &ins[1], &ins[2], act, ins.get(3), 1e-5).y;
            let dy = Rng::new(9, 4).normal(y.shape());
            let expected = textbook(&ins, act, dy.as_slice());
            let loss = crate::engine::ops::reduce::sum(&crate::engine::ops::pointwise::mul(&y, &dy));
            let mut grads = crate::engine::tensor::backward(&loss, &ins.iter().collect::<Vec<_>>());
            let found = [y, grads.take(&ins[0]).unwrap(), grads.take(&ins[1]).unwrap(), grads.take(&ins[2]).unwrap()];
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let size = expected.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
                let errors = found.as_slice().iter().zip(expected).map(|(f, e)| (*f as f64 - e).abs());
                let worst = errors.fold(0.0, f64::max) / size;
                assert!(worst < 1e-6, "{act:?}: result {i} is off by {worst}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "[2, 3] has not the channels of [4]")]
    fn wrong_channels_are_named() {
        let (x, c) = (Tensor::zeros([2, 3]), Tensor::zeros([4]));
        batch_norm_train(&x, &c, &c, Activation::None, None, 1e-5);
    }
}
