//! Layers: an operator and its parameters, which have PyTorch's names.

use std::sync::{Arc, Mutex, PoisonError};

use super::Mode;
use super::init::Initializer;
use super::store::{Param, Scope};
use crate::engine::ops::conv::{self, Conv, FrozenFilters, Windows};
use crate::engine::ops::depthwise::{Depthwise, depthwise_conv2d};
use crate::engine::ops::norm::spectral;
use crate::engine::ops::norm::{self, Activation, ConstantNorm};
use crate::engine::ops::{embed, matmul};
use crate::engine::tensor::tape::is_recorded;
use crate::engine::tensor::{IntTensor, Tensor, no_grad};

/// Convolution of images [B,H,W,Cin] -> [B,H',W',Cout].
pub struct Conv2d {
    weight: Param,
    bias: Option<Param>,
    geometry: Conv,
    frozen: Frozen,
    spectral: Option<SpectralNorm>,
}

/// Filters in the form that a frozen layer keeps, and the values that they follow from.
#[derive(Default)]
struct Frozen {
    kept: Mutex<Option<(Arc<FrozenFilters>, Vec<Tensor>)>>,
}

impl Frozen {
    /// The filters and, where one follows, the norm as one convolution; none where the filters are trained. They are made
    /// anew when a value that they follow from has changed.
    fn filters(
        &self,
        weight: &Param,
        bias: Option<&Param>,
        norm: Option<&ConstantNorm>,
        windows: impl Into<Windows>,
    ) -> Option<Arc<FrozenFilters>> {
        if weight.is_trainable() || bias.is_some_and(|b| b.is_trainable() || norm.is_some()) {
            return None;
        }
        let (weight, bias) = (weight.tensor(), bias.map(Param::tensor));
        let of_norm = norm.map(|n| [&n.gamma, &n.beta, &n.mean, &n.variance].map(Tensor::clone));
        let of: Vec<Tensor> =
            [weight.clone()].into_iter().chain(bias.clone()).chain(of_norm.into_iter().flatten()).collect();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |then: &[Tensor]| {
            then.len() == of.len() && then.iter().zip(&of).all(|(then, now)| then.shares_storage(now))
        };
        if let Some((filters, _)) = kept.as_ref().filter(|(_, then)| same(then)) {
            return Some(filters.clone());
        }
        let filters = Arc::new(match norm {
            Some(norm) => FrozenFilters::normalized(&weight, norm, windows),
            None => FrozenFilters::new(&weight, bias.as_ref(), windows),
        });
        *kept = Some((filters.clone(), of));
        Some(filters)
    }
}

impl Conv2d {
    /// Without a bias; `kernel` is [height, width].
    pub fn new(scope: &Scope, inputs: usize, outputs: usize, kernel: [usize; 2], geometry: Conv) -> Conv2d {
        let [r, s] = kernel;
        let weight = scope.filter("weight", [outputs, r, s, inputs], scope.policy().weight);
        Conv2d { weight, bias: None, geometry, frozen: Frozen::default(), spectral: None }
    }

    pub fn with_bias(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        kernel: [usize; 2],
        geometry: Conv,
    ) -> Conv2d {
        let fan_in = inputs * kernel[0] * kernel[1];
        let layer = Conv2d::new(scope, inputs, outputs, kernel, geometry);
        Conv2d { bias: Some(scope.param("bias", &[outputs], fan_in, scope.policy().bias)), ..layer }
    }

    /// With filters of spectral norm 1; `scope` is this layer's.
    pub fn spectral(self, scope: &Scope) -> Conv2d {
        let outputs = self.weight.tensor().shape()[0];
        Conv2d { spectral: Some(SpectralNorm::new(scope, outputs)), ..self }
    }

    /// The filters as they are applied.
    fn filters(&self) -> Tensor {
        let weight = self.weight.tensor();
        self.spectral.as_ref().map_or_else(|| weight.clone(), |norm| norm.of(&weight))
    }

    /// 3×3 that keeps height and width.
    pub fn same3x3(scope: &Scope, inputs: usize, outputs: usize) -> Conv2d {
        Conv2d::new(scope, inputs, outputs, [3, 3], Conv::new(1, 1))
    }

    /// 1×1: a linear map of each pixel.
    pub fn pointwise(scope: &Scope, inputs: usize, outputs: usize) -> Conv2d {
        Conv2d::new(scope, inputs, outputs, [1, 1], Conv::new(1, 0))
    }

    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.convolve(x, false).0
    }

    /// act(conv(x)) in one; `Glu` is no such activation.
    #[track_caller]
    pub fn rectified(&self, x: &Tensor, act: Activation) -> Tensor {
        let _open = self.weight.enter();
        if let Some(filters) = self.frozen(None) {
            return conv::conv2d_frozen(x, &filters, None, act);
        }
        let bias = self.bias.as_ref().map(Param::tensor);
        conv::conv2d_rectified(x, &self.filters(), bias.as_ref(), self.geometry, act)
    }

    /// The filters, for operators that apply a 1×1 convolution as a matrix.
    pub fn weight(&self) -> Tensor {
        self.weight.tensor()
    }
}

/// Filters over their largest singular value, by a power iteration with every pass that learns (Miyato et al., 2018).
struct SpectralNorm {
    /// u [Cout]
    left: Param,
}

impl SpectralNorm {
    fn new(scope: &Scope, outputs: usize) -> SpectralNorm {
        SpectralNorm { left: scope.buffer("weight_u", &[outputs], (outputs as f32).sqrt().recip()) }
    }

    fn of(&self, weight: &Tensor) -> Tensor {
        if is_recorded([weight]) {
            // Not in place: what was recorded before may still read it.
            self.left.update(|left| *left = spectral::power_iteration(weight, left).detach());
        }
        spectral::spectral_norm(weight, &self.left.tensor())
    }
}

/// A convolution that a batch norm follows. On a GPU it can also return the moments of its result's channels, which
/// saves the batch norm a pass over the result.
pub trait Convolution {
    fn param(&self) -> &Param;

    /// The result, and the moments of its channels if they are wanted and cheap.
    fn apply(&self, x: &Tensor, moments: bool) -> (Tensor, Option<Tensor>);

    /// The filters and, where one follows, the norm as one convolution; none where the filters are trained.
    fn frozen(&self, _norm: Option<&ConstantNorm>) -> Option<Arc<FrozenFilters>> {
        None
    }

    /// [`apply`](Convolution::apply), by frozen filters where there are any.
    #[track_caller]
    fn convolve(&self, x: &Tensor, moments: bool) -> (Tensor, Option<Tensor>) {
        let _open = self.param().enter();
        match self.frozen(None).filter(|_| !moments) {
            Some(filters) => (conv::conv2d_frozen(x, &filters, None, Activation::None), None),
            None => self.apply(x, moments),
        }
    }

    /// act(norm(conv(x)) + residual) in one, where this convolution is frozen and can do that.
    #[track_caller]
    fn convolve_normalized(
        &self,
        x: &Tensor,
        norm: &ConstantNorm,
        act: Activation,
        residual: Option<&Tensor>,
    ) -> Option<Tensor> {
        let _open = self.param().enter();
        Some(conv::conv2d_frozen(x, &self.frozen(Some(norm))?, residual, act))
    }
}

impl Convolution for Conv2d {
    fn param(&self) -> &Param {
        &self.weight
    }

    #[track_caller]
    fn apply(&self, x: &Tensor, moments: bool) -> (Tensor, Option<Tensor>) {
        match (moments, &self.bias) {
            (true, None) => conv::conv2d_with_moments(x, &self.filters(), self.geometry),
            _ => {
                let bias = self.bias.as_ref().map(Param::tensor);
                (conv::conv2d(x, &self.filters(), bias.as_ref(), self.geometry), None)
            }
        }
    }

    fn frozen(&self, norm: Option<&ConstantNorm>) -> Option<Arc<FrozenFilters>> {
        match self.spectral {
            Some(_) => None,
            None => self.frozen.filters(&self.weight, self.bias.as_ref(), norm, self.geometry),
        }
    }
}

impl Convolution for UpConv {
    fn param(&self) -> &Param {
        &self.weight
    }

    #[track_caller]
    fn apply(&self, x: &Tensor, moments: bool) -> (Tensor, Option<Tensor>) {
        match moments {
            true => conv::upsample2x_conv3x3_with_moments(x, &self.weight.tensor()),
            false => (conv::upsample2x_conv3x3(x, &self.weight.tensor()), None),
        }
    }

    fn frozen(&self, norm: Option<&ConstantNorm>) -> Option<Arc<FrozenFilters>> {
        self.frozen.filters(&self.weight, None, norm, Windows::Upsampled2x)
    }
}

/// Depthwise convolution with TensorFlow's "SAME" padding: [B,H,W,C] -> [B,⌈H/stride⌉,..,C].
pub struct DepthwiseConv2d {
    weight: Param,
    window: usize,
    stride: usize,
}

impl DepthwiseConv2d {
    pub fn same(scope: &Scope, channels: usize, window: usize, stride: usize) -> DepthwiseConv2d {
        let weight = scope.depthwise_filter("weight", [channels, window, window], scope.policy().weight);
        DepthwiseConv2d { weight, window, stride }
    }
}

impl Convolution for DepthwiseConv2d {
    fn param(&self) -> &Param {
        &self.weight
    }

    #[track_caller]
    fn apply(&self, x: &Tensor, _: bool) -> (Tensor, Option<Tensor>) {
        let [_, h, w, _] = x.dims();
        let depthwise = Depthwise::same([h, w], self.window, self.stride);
        (depthwise_conv2d(x, &self.weight.tensor(), depthwise), None)
    }
}

/// Nearest neighbor to twice the size, then 3×3: [B,H,W,Cin] -> [B,2H,2W,Cout].
pub struct UpConv {
    weight: Param,
    frozen: Frozen,
}

impl UpConv {
    pub fn new(scope: &Scope, inputs: usize, outputs: usize) -> UpConv {
        let weight = scope.filter("weight", [outputs, 3, 3, inputs], scope.policy().weight);
        UpConv { weight, frozen: Frozen::default() }
    }

    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.convolve(x, false).0
    }
}

/// y = x Wᵀ + b for [..,in] -> [..,out].
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    pub fn new(scope: &Scope, inputs: usize, outputs: usize) -> Linear {
        let weight = scope.param("weight", &[outputs, inputs], inputs, scope.policy().weight);
        Linear { weight, bias: None }
    }

    pub fn with_bias(scope: &Scope, inputs: usize, outputs: usize) -> Linear {
        let layer = Linear::new(scope, inputs, outputs);
        Linear { bias: Some(scope.param("bias", &[outputs], inputs, scope.policy().bias)), ..layer }
    }

    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let _open = self.weight.enter();
        let bias = self.bias.as_ref().map(Param::tensor);
        matmul::linear(x, &self.weight.tensor(), bias.as_ref())
    }

    /// y = x Wᵀ, whether there is a bias or not.
    #[track_caller]
    pub fn forward_unbiased(&self, x: &Tensor) -> Tensor {
        let _open = self.weight.enter();
        matmul::linear(x, &self.weight.tensor(), None)
    }
}

/// A table of vectors, one for each id.
pub struct Embedding {
    table: Param,
}

impl Embedding {
    pub fn new(scope: &Scope, count: usize, width: usize, how: Initializer) -> Embedding {
        Embedding { table: scope.param("weight", &[count, width], width, how) }
    }

    /// [..] -> [..,width]
    #[track_caller]
    pub fn forward(&self, ids: &IntTensor) -> Tensor {
        let _open = self.table.enter();
        embed::embedding(&self.table.tensor(), ids)
    }
}

/// Batch normalization over all but the last dimension (Ioffe and Szegedy, 2015), with the activation and the
/// residual connection that follow it.
pub struct BatchNorm {
    scale: Param,
    shift: Param,
    mean: Param,
    variance: Param,
    batches: Param,
    momentum: f32,
    epsilon: f32,
}

impl BatchNorm {
    /// With PyTorch's momentum and epsilon.
    pub fn new(scope: &Scope, channels: usize) -> BatchNorm {
        BatchNorm {
            scale: scope.param("weight", &[channels], 1, scope.policy().scale),
            shift: scope.param("bias", &[channels], 1, Initializer::Constant(0.0)),
            mean: scope.buffer("running_mean", &[channels], 0.0),
            variance: scope.buffer("running_var", &[channels], 1.0),
            batches: scope.counter("num_batches_tracked"),
            momentum: 0.1,
            epsilon: 1e-5,
        }
    }

    /// The weight of a batch's statistics in the running ones.
    pub fn momentum(self, momentum: f32) -> BatchNorm {
        BatchNorm { momentum, ..self }
    }

    /// What is added to the variance.
    pub fn epsilon(self, epsilon: f32) -> BatchNorm {
        BatchNorm { epsilon, ..self }
    }

    /// act(norm(conv(x)) + residual)
    #[track_caller]
    pub fn after(
        &self,
        conv: &impl Convolution,
        x: &Tensor,
        mode: Mode,
        act: Activation,
        residual: Option<&Tensor>,
    ) -> Tensor {
        let constants = if mode == Mode::Eval { self.constants() } else { None };
        if let Some(y) = constants.and_then(|norm| conv.convolve_normalized(x, &norm, act, residual)) {
            return y;
        }
        let (y, moments) = conv.convolve(x, mode == Mode::Train);
        self.normalize(&y, moments.as_ref(), mode, act, residual)
    }

    /// act(norm(x) + residual)
    #[track_caller]
    pub fn forward(&self, x: &Tensor, mode: Mode, act: Activation, residual: Option<&Tensor>) -> Tensor {
        self.normalize(x, None, mode, act, residual)
    }

    #[track_caller]
    fn normalize(
        &self,
        x: &Tensor,
        moments: Option<&Tensor>,
        mode: Mode,
        act: Activation,
        residual: Option<&Tensor>,
    ) -> Tensor {
        let _open = self.scale.enter();
        let (scale, shift, eps) = (self.scale.tensor(), self.shift.tensor(), self.epsilon);
        match mode {
            Mode::Eval => {
                let (mean, variance) = (self.mean.tensor(), self.variance.tensor());
                norm::batch_norm_eval(x, &scale, &shift, &mean, &variance, act, residual, eps)
            }
            Mode::Train => {
                let batch =
                    norm::batch_norm_train_with_moments(x, moments, &scale, &shift, act, residual, eps);
                no_grad(|| self.remember(&batch.mean, &batch.variance, x.shape().rows()));
                batch.y
            }
        }
    }

    /// What it normalizes by in evaluation; none where that is trained.
    fn constants(&self) -> Option<ConstantNorm> {
        let frozen = !self.scale.is_trainable() && !self.shift.is_trainable();
        frozen.then(|| {
            let [gamma, beta, mean, variance] =
                [&self.scale, &self.shift, &self.mean, &self.variance].map(Param::tensor);
            ConstantNorm { gamma, beta, mean, variance, eps: self.epsilon }
        })
    }

    fn remember(&self, mean: &Tensor, variance: &Tensor, rows: usize) {
        let unbiased = rows as f32 / rows.saturating_sub(1).max(1) as f32;
        let batch = [mean, variance];
        self.mean.update(|m| {
            self.variance.update(|v| {
                self.batches.update(|n| norm::batch_norm_track([m, v, n], batch, self.momentum, unbiased));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Source, Store};
    use super::*;
    use crate::engine::ops::reduce::sum;
    use crate::engine::tensor::{Rng, backward};

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        let off = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
        assert!(off < 1e-5, "{off}");
    }

    #[test]
    fn a_frozen_layer_follows_the_values_it_was_made_of() {
        let make =
            |scope: &Scope| (Conv2d::same3x3(&scope.at("conv"), 3, 5), BatchNorm::new(&scope.at("bn"), 5));
        let ((conv, norm), store) = Store::build(Source::Init(Rng::new(1, 0)), make).unwrap();
        let x = Rng::new(2, 0).uniform([2, 7, 6, 3], -1.0, 1.0).leaf();
        let results = |y: Tensor| {
            let dx = backward(&sum(&y), &[&x]).take(&x).expect("y depends on x");
            [y.to_vec(), dx.to_vec()]
        };
        let apart = || results(norm.forward(&conv.forward(&x), Mode::Eval, Activation::Relu, None));
        let folded = || results(norm.after(&conv, &x, Mode::Eval, Activation::Relu, None));
        let agree = || folded().iter().zip(apart()).for_each(|(f, a)| assert_close(f, &a));
        agree();
        assert!(conv.frozen.kept.lock().unwrap().is_none(), "filters that are trained are kept");
        store.freeze();
        agree();
        let before = folded();
        norm.after(&conv, &x, Mode::Train, Activation::Relu, None);
        agree();
        assert_ne!(folded(), before, "the statistics were adapted");
        conv.weight.update(|w| w.as_mut_slice()[0] += 1.0);
        agree();
        let kept = conv.frozen(norm.constants().as_ref()).unwrap();
        folded();
        assert!(
            Arc::ptr_eq(&kept, &conv.frozen(norm.constants().as_ref()).unwrap()),
            "made anew for nothing"
        );
    }
}
