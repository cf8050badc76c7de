//! Layers: an operator and its parameters, which have PyTorch's names.

use super::Mode;
use super::init::Initializer;
use super::store::{Param, Scope};
use crate::engine::ops::conv::{self, Conv};
use crate::engine::ops::depthwise::{Depthwise, depthwise_conv2d};
use crate::engine::ops::norm::{self, Activation};
use crate::engine::ops::{embed, matmul};
use crate::engine::tensor::{IntTensor, Tensor, no_grad};

/// Convolution of images [B,H,W,Cin] -> [B,H',W',Cout].
pub struct Conv2d {
    weight: Param,
    bias: Option<Param>,
    geometry: Conv,
}

impl Conv2d {
    /// Without a bias; `kernel` is [height, width].
    pub fn new(scope: &Scope, inputs: usize, outputs: usize, kernel: [usize; 2], geometry: Conv) -> Conv2d {
        let [r, s] = kernel;
        let weight = scope.filter("weight", [outputs, r, s, inputs], scope.policy().weight);
        Conv2d { weight, bias: None, geometry }
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

    /// The filters, for operators that apply a 1×1 convolution as a matrix.
    pub fn weight(&self) -> Tensor {
        self.weight.tensor()
    }
}

/// A convolution that a batch norm follows. On a GPU it can also return the moments of its result's channels, which
/// saves the batch norm a pass over the result.
pub trait Convolution {
    /// The result, and the moments of its channels if they are wanted and cheap.
    fn convolve(&self, x: &Tensor, moments: bool) -> (Tensor, Option<Tensor>);
}

impl Convolution for Conv2d {
    #[track_caller]
    fn convolve(&self, x: &Tensor, moments: bool) -> (Tensor, Option<Tensor>) {
        let _open = self.weight.enter();
        match (moments, &self.bias) {
            (true, None) => conv::conv2d_with_moments(x, &self.weight.tensor(), self.geometry),
            _ => {
                let bias = self.bias.as_ref().map(Param::tensor);
                (conv::conv2d(x, &self.weight.tensor(), bias.as_ref(), self.geometry), None)
            }
        }
    }
}

impl Convolution for UpConv {
    #[track_caller]
    fn convolve(&self, x: &Tensor, moments: bool) -> (Tensor, Option<Tensor>) {
        let _open = self.weight.enter();
        match moments {
            true => conv::upsample2x_conv3x3_with_moments(x, &self.weight.tensor()),
            false => (conv::upsample2x_conv3x3(x, &self.weight.tensor()), None),
        }
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
    #[track_caller]
    fn convolve(&self, x: &Tensor, _: bool) -> (Tensor, Option<Tensor>) {
        let _open = self.weight.enter();
        let [_, h, w, _] = x.dims();
        let depthwise = Depthwise::same([h, w], self.window, self.stride);
        (depthwise_conv2d(x, &self.weight.tensor(), depthwise), None)
    }
}

/// Nearest neighbor to twice the size, then 3×3: [B,H,W,Cin] -> [B,2H,2W,Cout].
pub struct UpConv {
    weight: Param,
}

impl UpConv {
    pub fn new(scope: &Scope, inputs: usize, outputs: usize) -> UpConv {
        UpConv { weight: scope.filter("weight", [outputs, 3, 3, inputs], scope.policy().weight) }
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
