//! Batch normalization fused with what follows it: a residual, an activation or the gated linear unit.
//!
//! Ioffe and Szegedy, "Batch normalization", ICML 2015. With z = scale · x + shift + residual, scale = γ / std and
//! shift = β - mean · scale, y is the activation of z. The backward pass recomputes z instead of saving it.

mod cases;
mod cpu;
mod cuda;
pub mod spectral;

use crate::engine::device::cuda::{Grid, k};
use crate::engine::ops::Case;
use crate::engine::tensor::tape::record_many;
use crate::engine::tensor::{Tensor, run, same_shape};

/// Of batch normalization and of spectral normalization.
pub fn cases() -> Vec<Case> {
    cases::cases().into_iter().chain(spectral::cases()).collect()
}

/// What follows the normalization; `Glu` halves the channels: a · σ(b) of [a | b].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    /// min(max(z, 0), 6)
    Relu6,
    LeakyRelu(f32),
    Glu,
}

impl Activation {
    /// What negative values are multiplied by, if the activation is a rectifier.
    fn slope(self) -> Option<f32> {
        match self {
            Activation::Relu | Activation::Relu6 => Some(0.0),
            Activation::LeakyRelu(slope) => Some(slope),
            Activation::None | Activation::Glu => None,
        }
    }

    /// What negative values are multiplied by, and what greater values become; none for the gate, which is no rectifier.
    pub(super) fn rectifier(self) -> Option<[f32; 2]> {
        (self != Activation::Glu).then(|| [self.slope().unwrap_or(1.0), self.ceiling()])
    }

    /// What greater values become; infinite where nothing is cut off.
    fn ceiling(self) -> f32 {
        if self == Activation::Relu6 { 6.0 } else { f32::INFINITY }
    }
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
    batch_norm_train_with_moments(x, None, gamma, beta, act, residual, eps)
}

/// [`batch_norm_train`] with the moments that the writer of x computed beside it: `moments` [tiles,3,C] holds n, mean
/// and Σ (x - mean)² of each tile of rows, by channel.
#[track_caller]
#[allow(clippy::too_many_arguments)] // the formula has that many letters
pub fn batch_norm_train_with_moments(
    x: &Tensor,
    moments: Option<&Tensor>,
    gamma: &Tensor,
    beta: &Tensor,
    act: Activation,
    residual: Option<&Tensor>,
    eps: f32,
) -> BatchNorm {
    let c = x.shape().last_dim();
    check_channels(x, [gamma, beta]);
    let [mut mean, mut variance, mut inv_std, mut scale, mut shift] = [(); 5].map(|()| x.new_empty_f32([c]));
    let outs = [&mut mean, &mut variance, &mut inv_std, &mut scale, &mut shift];
    let (rows, dtype) = (x.shape().rows(), x.dtype());
    if let Some(moments) = moments {
        let [tiles, three, channels] = moments.dims();
        assert!(
            three == 3 && channels == c,
            "batch_norm: moments of {:?} are not those of {:?}",
            moments.shape(),
            x.shape()
        );
        let cpu = |[mean, variance, rest @ ..]: [&mut [f32]; 5], [moments, gamma, beta]: [&[f32]; 3]| {
            cpu::merge_moments(moments, mean, variance);
            cpu::scale_and_shift(rest, gamma, beta, mean, variance, eps);
        };
        run("batch_norm_stats", outs, [moments, gamma, beta], cpu, |g, outs, [moments, gamma, beta]| {
            cuda::statistics(g, outs, moments, tiles, [gamma, beta], eps);
        });
    } else {
        let cpu = |[mean, variance, rest @ ..]: [&mut [f32]; 5], [x, gamma, beta]: [&[f32]; 3]| {
            cpu::moments(x, mean, variance);
            cpu::scale_and_shift(rest, gamma, beta, mean, variance, eps);
        };
        run("batch_norm_moments", outs, [x, gamma, beta], cpu, |g, outs, [x, gamma, beta]| {
            cuda::moments_and_statistics(g, outs, x, [rows, c], dtype, [gamma, beta], eps);
        });
    }
    let saved = BatchNormSaved { x: x.clone(), mean: mean.clone(), inv_std, scale, shift };
    let y = saved.recorded(gamma, beta, act, residual, Moments::OfTheBatch);
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
    check_channels(x, [gamma, beta, mean, variance]);
    let [mut inv_std, mut scale, mut shift] = [(); 3].map(|()| variance.new_empty(variance.shape()));
    run(
        "batch_norm_scale_shift",
        [&mut inv_std, &mut scale, &mut shift],
        [gamma, beta, mean, variance],
        |outs, [gamma, beta, mean, variance]| cpu::scale_and_shift(outs, gamma, beta, mean, variance, eps),
        |g, [inv_std, scale, shift], [gamma, beta, mean, variance]| {
            let (grid, c) = (Grid::elements(mean.len()), mean.len() as i32);
            k::batch_norm_scale_shift_fwd(g, grid, inv_std, scale, shift, gamma, beta, mean, variance, c, eps);
        },
    );
    let saved = BatchNormSaved { x: x.clone(), mean: mean.detach(), inv_std, scale, shift };
    saved.recorded(gamma, beta, act, residual, Moments::Given)
}

/// What [`batch_norm_eval`] normalizes by, [C] each, where none of it is trained.
pub struct ConstantNorm {
    pub gamma: Tensor,
    pub beta: Tensor,
    pub mean: Tensor,
    pub variance: Tensor,
    pub eps: f32,
}

impl ConstantNorm {
    /// As a map by channel: γ / √(variance + eps), and β - mean times that.
    pub fn scale_and_shift(&self) -> (Vec<f32>, Vec<f32>) {
        let [gamma, beta, mean, variance] =
            [&self.gamma, &self.beta, &self.mean, &self.variance].map(Tensor::to_vec);
        let [mut inv_std, mut scale, mut shift] = [(); 3].map(|()| vec![0.0; gamma.len()]);
        let outs = [&mut inv_std[..], &mut scale[..], &mut shift[..]];
        cpu::scale_and_shift(outs, &gamma, &beta, &mean, &variance, self.eps);
        (scale, shift)
    }
}

/// Mixes a batch into the running statistics [mean, variance, batches seen], in place:
/// mean = (1 - share) mean + share m, variance = (1 - share) variance + share · unbiased · v, batches += 1.
#[track_caller]
pub fn batch_norm_track(running: [&mut Tensor; 3], batch: [&Tensor; 2], share: f32, unbiased: f32) {
    same_shape("batch_norm_track", running[0], batch[0]);
    same_shape("batch_norm_track", running[1], batch[1]);
    same_shape("batch_norm_track", running[0], running[1]);
    let blend = |running: &mut [f32], new: &[f32], factor: f32| {
        running.iter_mut().zip(new).for_each(|(r, &n)| *r = (1.0 - share) * *r + share * factor * n);
    };
    let cpu = |[mean, variance, batches]: [&mut [f32]; 3], [m, v]: [&[f32]; 2]| {
        blend(mean, m, 1.0);
        blend(variance, v, unbiased);
        batches[0] += 1.0;
    };
    run("batch_norm_track", running, batch, cpu, |g, [mean, variance, batches], [m, v]| {
        let c = m.len();
        k::batch_norm_track(g, Grid::elements(c), mean, variance, batches, m, v, c as i32, share, unbiased);
    });
}

#[track_caller]
fn check_channels<const N: usize>(x: &Tensor, by_channel: [&Tensor; N]) {
    let shape = x.shape();
    for by_channel in by_channel.map(Tensor::shape) {
        assert_eq!(
            *by_channel,
            [shape.last_dim()],
            "batch_norm: {shape:?} has not the channels of {by_channel:?}"
        );
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Moments {
    OfTheBatch,
    Given,
}

/// x [.., C], and by channel [C] what normalizes it: z = scale · x + shift. `T` is a tensor, or a view of its elements.
struct BatchNormSaved<T = Tensor> {
    x: T,
    mean: T,
    inv_std: T,
    scale: T,
    shift: T,
}

impl<T> BatchNormSaved<T> {
    fn new([x, mean, inv_std, scale, shift]: [T; 5]) -> BatchNormSaved<T> {
        BatchNormSaved { x, mean, inv_std, scale, shift }
    }

    /// In the order of [`BatchNormSaved::new`].
    fn each(&self) -> [&T; 5] {
        [&self.x, &self.mean, &self.inv_std, &self.scale, &self.shift]
    }
}

/// What the backward pass recomputes z and its activation from, beside [`BatchNormSaved`].
struct ActivationBackward {
    act: Activation,
    /// None also where there is no activation: then the gradient does not depend on z.
    residual: Option<Tensor>,
}

impl BatchNormSaved {
    /// Rows and channels of x.
    fn size(&self) -> [usize; 2] {
        [self.x.shape().rows(), self.x.shape().last_dim()]
    }

    #[track_caller]
    fn recorded(
        self,
        gamma: &Tensor,
        beta: &Tensor,
        act: Activation,
        residual: Option<&Tensor>,
        moments: Moments,
    ) -> Tensor {
        let shape = self.x.shape();
        if let Some(residual) = residual {
            same_shape("batch_norm with a residual", &self.x, residual);
            assert!(act != Activation::Glu, "batch_norm: a residual {:?} cannot be gated", residual.shape());
        }
        let halves = act != Activation::Glu || shape.last_dim().is_multiple_of(2);
        assert!(halves, "batch_norm: Glu splits the channels in two; {shape:?} is odd");
        let y = self.forward(act, residual);
        let activation = ActivationBackward {
            act,
            residual: residual.filter(|_| act != Activation::None).map(Tensor::detach),
        };
        let saved = BatchNormSaved {
            x: self.x.detach(),
            mean: self.mean,
            inv_std: self.inv_std,
            scale: self.scale,
            shift: self.shift,
        };
        record_many(vec![y], [Some(&self.x), Some(gamma), Some(beta), residual], move |dys, wanted| {
            let Some(dy) = &dys[0] else { return vec![None; wanted.len()] };
            saved.backward(dy, &activation, moments, wanted)
        })
        .swap_remove(0)
    }

    fn forward(&self, act: Activation, residual: Option<&Tensor>) -> Tensor {
        let (x, [rows, c], dtype) = (&self.x, self.size(), self.x.dtype());
        let c_out = if act == Activation::Glu { c / 2 } else { c };
        let mut y = x.new_empty(x.shape().with_last(c_out));
        run(
            "batch_norm_fwd",
            [&mut y],
            (x, residual, [&self.scale, &self.shift]),
            |[y], (x, residual, [scale, shift])| {
                cpu::forward(y, c_out, x, residual, &cpu::ScaleShift { scale, shift }, act);
            },
            |g, [y], (x, residual, [scale, shift])| {
                let tiling = cuda::RowTiling::of(act, [rows, c], dtype);
                let (grid, d) = (tiling.grid(g), tiling.dims(act));
                if act == Activation::Glu {
                    k::batch_norm_glu_fwd(g, grid, y, x, scale, shift, d);
                } else {
                    k::batch_norm_fwd(g, grid, y, x, residual, scale, shift, d);
                }
            },
        );
        y
    }

    /// The gradients of x, gamma, beta and the residual.
    fn backward(
        &self,
        dy: &Tensor,
        activation: &ActivationBackward,
        moments: Moments,
        wanted: &[bool],
    ) -> Vec<Option<Tensor>> {
        let &[wanted_x, wanted_gamma, wanted_beta, wanted_residual] = wanted else { unreachable!() };
        let of_the_batch = moments == Moments::OfTheBatch;
        let sums = (wanted_gamma || wanted_beta || wanted_x && of_the_batch).then(|| self.sums(dy, activation));
        // Without an activation the residual's gradient is dy itself.
        let computed = wanted_residual && activation.residual.is_some();
        let [dx, dr] =
            self.input_gradients(dy, activation, sums.as_ref().filter(|_| of_the_batch), [wanted_x, computed]);
        let dr = if activation.residual.is_some() { dr } else { wanted_residual.then(|| dy.clone()) };
        let [dgamma, dbeta] = sums.map_or([None, None], |sums| sums.map(Some));
        vec![dx, dgamma.filter(|_| wanted_gamma), dbeta.filter(|_| wanted_beta), dr]
    }

    /// dγ = Σ dz · x̂ and dβ = Σ dz over rows, with x̂ = (x - mean) / std.
    fn sums(&self, dy: &Tensor, activation: &ActivationBackward) -> [Tensor; 2] {
        let (size, dtype) = (self.size(), self.x.dtype());
        let (mut dgamma, mut dbeta) = (self.x.new_empty_f32([size[1]]), self.x.new_empty_f32([size[1]]));
        let act = activation.act;
        run(
            "batch_norm_bwd_w",
            [&mut dgamma, &mut dbeta],
            (dy, activation.residual.as_ref(), self.each()),
            |outs, (dy, residual, saved)| cpu::sums(outs, dy, residual, &BatchNormSaved::new(saved), act),
            |g, outs, (dy, residual, saved)| {
                cuda::sums(g, outs, dy, residual, &BatchNormSaved::new(saved), act, size, dtype);
            },
        );
        [dgamma, dbeta]
    }

    /// dx = γ / std · (dz - (dβ + x̂ · dγ) / N), where constant moments leave out what is subtracted; and the
    /// residual's gradient, which is dz.
    fn input_gradients(
        &self,
        dy: &Tensor,
        activation: &ActivationBackward,
        sums: Option<&[Tensor; 2]>,
        wanted: [bool; 2],
    ) -> [Option<Tensor>; 2] {
        if wanted == [false, false] {
            return [None, None];
        }
        let (size, dtype, act) = (self.size(), self.x.dtype(), activation.act);
        let [mut dx, mut dr] = wanted.map(|wanted| wanted.then(|| self.x.new_empty(self.x.shape())));
        run(
            "batch_norm_bwd",
            [dx.as_mut(), dr.as_mut()],
            (dy, activation.residual.as_ref(), self.each(), sums.map(|sums| sums.each_ref())),
            |outs, (dy, residual, saved, sums)| {
                cpu::input_gradients(outs, dy, residual, &BatchNormSaved::new(saved), sums, act);
            },
            |g, outs, (dy, residual, saved, sums)| {
                let tiling = cuda::RowTiling::of_backward(act, size, dtype);
                cuda::input_gradients(g, outs, dy, residual, &BatchNormSaved::new(saved), sums, act, &tiling);
            },
        );
        [dx, dr]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

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
                let ceiling = act.ceiling() as f64;
                let slope = if z[i] > 0.0 { 1.0 } else { act.slope().unwrap_or(1.0) as f64 };
                let inside = if z[i] <= ceiling { slope } else { 0.0 };
                (y[i], dz[i]) = ((slope * z[i]).min(ceiling), inside * dy);
            }
        }
        let dgamma: Vec<f64> = (0..c).map(|j| n * mean_over(&|i| dz[i] * unit[i], j)).collect();
        let dbeta: Vec<f64> = (0..c).map(|j| n * mean_over(&|i| dz[i], j)).collect();
        let centered = |i: usize, j: usize| dz[i] - (dbeta[j] + unit[i] * dgamma[j]) / n;
        let dx = (0..x.len()).map(|i| v[1][i % c] / std[i % c] * centered(i, i % c)).collect();
        [y, dx, dgamma, dbeta]
    }

    #[test]
    fn many_chunks_agree_with_the_textbook() {
        for (act, residual) in [
            (Activation::Glu, false),
            (Activation::LeakyRelu(0.2), true),
            (Activation::Relu, false),
            (Activation::Relu6, true),
            (Activation::None, true),
        ] {
            let shape = [2, 53, 37, 24];
            let draw = |stream| Rng::new(9, stream).normal(shape);
            let mut ins =
                vec![draw(0).leaf(), Rng::new(9, 1).normal([24]).leaf(), Rng::new(9, 2).normal([24]).leaf()];
            ins.extend(residual.then(|| draw(3).leaf()));
            let y = batch_norm_train(&ins[0], &ins[1], &ins[2], act, ins.get(3), 1e-5).y;
            let dy = Rng::new(9, 4).normal(y.shape());
            let expected = textbook(&ins, act, dy.as_slice());
            let loss = crate::engine::ops::reduce::sum(&crate::engine::ops::pointwise::mul(&y, &dy));
            let mut grads = crate::engine::tensor::backward(&loss, &ins.iter().collect::<Vec<_>>());
            let found =
                [y, grads.take(&ins[0]).unwrap(), grads.take(&ins[1]).unwrap(), grads.take(&ins[2]).unwrap()];
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
