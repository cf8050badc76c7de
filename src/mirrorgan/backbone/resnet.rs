//! ResNet-152 (He et al., 2016) without its head, under the names that STREAM's published code gives: torchvision's children
//! by number.

use super::Features;
use crate::engine::nn::{BatchNorm, Conv2d, Mode, Scope};
use crate::engine::ops::conv::Conv;
use crate::engine::ops::norm::Activation;
use crate::engine::ops::pool::{global_avg_pool, max_pool};
use crate::engine::tensor::Tensor;

/// Blocks, inner channels and first stride of each group; the number is the child's.
const GROUPS: [(usize, usize, usize, usize); 4] =
    [(4, 3, 64, 1), (5, 8, 128, 2), (6, 36, 256, 2), (7, 3, 512, 2)];
/// Outputs of a block are so many times wider than its inner channels.
const EXPANSION: usize = 4;
/// The group whose output is [`Features::map`]: a region for each 16×16 pixels.
const MAP: usize = 2;

/// Channels of [`Features::map`] and of [`Features::pooled`].
pub const WIDTHS: [usize; 2] = [GROUPS[MAP].2 * EXPANSION, GROUPS[3].2 * EXPANSION];

/// torchvision's names of the children, where they are not `layerN`.
pub const CHILDREN: [(&str, &str); 6] =
    [("conv1", "0"), ("bn1", "1"), ("layer1", "4"), ("layer2", "5"), ("layer3", "6"), ("layer4", "7")];

pub struct Resnet152 {
    conv: Conv2d,
    norm: BatchNorm,
    groups: Vec<Vec<Bottleneck>>,
}

impl Resnet152 {
    pub fn new(scope: &Scope) -> Resnet152 {
        const STEM: usize = 64;
        let mut channels = STEM;
        let group = |(child, blocks, width, stride): (usize, usize, usize, usize)| {
            let scope = scope.at(child);
            let block = |i: usize| {
                let inputs = std::mem::replace(&mut channels, width * EXPANSION);
                Bottleneck::new(&scope.at(i), inputs, width, if i == 0 { stride } else { 1 })
            };
            (0..blocks).map(block).collect()
        };
        Resnet152 {
            conv: Conv2d::new(&scope.at(0), 3, STEM, [7, 7], Conv::new(2, 3)),
            norm: BatchNorm::new(&scope.at(1), STEM),
            groups: GROUPS.into_iter().map(group).collect(),
        }
    }

    /// Images [B,S,S,3].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Features {
        let x = images.to_activation_dtype();
        let x = self.norm.after(&self.conv, &x, mode, Activation::Relu, None);
        let mut x = max_pool(&x, 3, 2, 1);
        let mut map = None;
        for (number, group) in self.groups.iter().enumerate() {
            x = group.iter().fold(x, |x, block| block.forward(&x, mode));
            if number == MAP {
                map = Some(x.clone());
            }
        }
        Features { map: map.unwrap_or_else(|| x.clone()), pooled: global_avg_pool(&x) }
    }
}

/// relu(x + norm(1×1(relu(norm(3×3(relu(norm(1×1(x)))))))), with a projection of x where its shape changes.
struct Bottleneck {
    layers: [(Conv2d, BatchNorm); 3],
    projection: Option<(Conv2d, BatchNorm)>,
}

impl Bottleneck {
    fn new(scope: &Scope, inputs: usize, width: usize, stride: usize) -> Bottleneck {
        let outputs = width * EXPANSION;
        let layer = |number: usize, from: usize, to: usize, k: usize, conv: Conv| {
            let convolution = Conv2d::new(&scope.at(format!("conv{number}")), from, to, [k, k], conv);
            (convolution, BatchNorm::new(&scope.at(format!("bn{number}")), to))
        };
        let layers = [
            layer(1, inputs, width, 1, Conv::new(1, 0)),
            layer(2, width, width, 3, Conv::new(stride, 1)),
            layer(3, width, outputs, 1, Conv::new(1, 0)),
        ];
        let projection = || {
            let scope = scope.at("downsample");
            let conv = Conv2d::new(&scope.at(0), inputs, outputs, [1, 1], Conv::new(stride, 0));
            (conv, BatchNorm::new(&scope.at(1), outputs))
        };
        Bottleneck { layers, projection: (inputs != outputs || stride != 1).then(projection) }
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let apply = |(conv, norm): &(Conv2d, BatchNorm), x: &Tensor, act, residual: Option<&Tensor>| {
            norm.after(conv, x, mode, act, residual)
        };
        let residual = match &self.projection {
            Some(projection) => apply(projection, x, Activation::None, None),
            None => x.clone(),
        };
        let y = apply(&self.layers[0], x, Activation::Relu, None);
        let y = apply(&self.layers[1], &y, Activation::Relu, None);
        apply(&self.layers[2], &y, Activation::Relu, Some(&residual))
    }
}
