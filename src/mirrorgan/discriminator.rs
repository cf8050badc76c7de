//! Discriminators: is this image real, and does it match this sentence? (AttnGAN, section 3.1; MirrorGAN, section
//! 3.4.) Key names and layers: `D_NET64`, `D_NET128`, `D_NET256` and `D_GET_LOGITS` of AttnGAN's code.

use serde::{Deserialize, Serialize};

use crate::engine::nn::{BatchNorm, Conv2d, Mode, Scope};
use crate::engine::ops::conv::Conv;
use crate::engine::ops::norm::Activation;
use crate::engine::ops::shape::{concat, tile};
use crate::engine::tensor::Tensor;

use super::{ADVERSARIAL_POLICY, LEAKY_SLOPE};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Channels after the first halving: DF_DIM.
    pub width: usize,
    /// Also score the image without the sentence.
    pub unconditional: bool,
    /// What keeps its layers in bounds.
    pub norm: DiscriminatorNorm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscriminatorNorm {
    /// Batch norm after all layers but the first, as published.
    Batch,
    /// Filters of spectral norm 1 in all layers, which have biases then, and no batch norm (Miyato et al., 2018).
    Spectral,
}

impl DiscriminatorNorm {
    /// A convolution of the features.
    fn conv(
        self,
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        kernel: [usize; 2],
        geometry: Conv,
    ) -> Conv2d {
        match self {
            DiscriminatorNorm::Batch => Conv2d::new(scope, inputs, outputs, kernel, geometry),
            DiscriminatorNorm::Spectral => {
                Conv2d::with_bias(scope, inputs, outputs, kernel, geometry).spectral(scope)
            }
        }
    }
}

/// The side of the last feature map, which the heads score.
const MAP: usize = 4;
/// Halvings under the key `img_code_s16`: the map is then 1/16 of the image.
const S16: usize = 4;

pub struct Discriminator {
    first: Conv2d,
    blocks: Vec<Block>,
    conditional: ConditionalHead,
    unconditional: Option<LogitHead>,
}

impl Discriminator {
    /// For images of `side`², a power of two from 8 on; `features` is D, the width of the sentence vector.
    pub fn new(scope: &Scope, side: usize, features: usize, config: &DiscriminatorConfig) -> Discriminator {
        let scope = &scope.with(ADVERSARIAL_POLICY);
        let downs = (side / MAP).ilog2() as usize;
        assert_eq!(MAP << downs, side, "a discriminator's image side is a power of two");
        let channels = config.width << (downs.min(S16) - 1);
        let code = scope.at("img_code_s16");
        let norm = config.norm;
        let first = norm.conv(&code.at(0), 3, config.width, [4, 4], Conv::new(2, 1));
        let mut blocks = Vec::new();
        for i in 1..downs.min(S16) {
            let at = [code.at(3 * i - 1), code.at(3 * i)];
            blocks.push(Block::down(at, config.width << (i - 1), norm));
        }
        blocks.extend(beyond_s16(scope, channels, downs.saturating_sub(S16), norm));
        let unconditional = || LogitHead::new(&scope.at("UNCOND_DNET"), channels, norm);
        Discriminator {
            first,
            blocks,
            conditional: ConditionalHead::new(&scope.at("COND_DNET"), channels, features, norm),
            unconditional: config.unconditional.then(unconditional),
        }
    }

    /// Image [B,S,S,3] -> features [B,4,4,C].
    pub fn features(&self, image: &Tensor, mode: Mode) -> Tensor {
        let [features] = self.features_of([image], mode);
        features
    }

    /// [`features`](Discriminator::features) of several batches, each with its own statistics. They go through each layer one after
    /// the other, so that backward has all parts of a layer's gradient together, and need not keep those of the other layers.
    pub fn features_of<const N: usize>(&self, images: [&Tensor; N], mode: Mode) -> [Tensor; N] {
        let first = |image: &Tensor| {
            self.first.rectified(&image.to_activation_dtype(), Activation::LeakyRelu(LEAKY_SLOPE))
        };
        self.blocks.iter().fold(images.map(first), |xs, block| xs.map(|x| block.forward(&x, mode)))
    }

    /// Logits [B] of features with sentences [B,D].
    pub fn conditional(&self, features: &Tensor, sentence: &Tensor, mode: Mode) -> Tensor {
        self.conditional.forward(features, sentence, mode)
    }

    /// Logits [B] of features alone, if this discriminator has that head.
    pub fn unconditional(&self, features: &Tensor) -> Option<Tensor> {
        self.unconditional.as_ref().map(|head| head.forward(features))
    }
}

/// For images over 64²: further halvings, each to twice the channels, then as many 3×3 blocks to half of them.
fn beyond_s16(scope: &Scope, channels: usize, halvings: usize, norm: DiscriminatorNorm) -> Vec<Block> {
    let part = |name: String| {
        let scope = scope.at(name);
        [scope.at(0), scope.at(1)]
    };
    let mut blocks = Vec::new();
    for i in 1..=halvings {
        let at = part(format!("img_code_s{}", 16 << i));
        blocks.push(Block::down(at, channels << (i - 1), norm));
    }
    for i in 1..=halvings {
        let at = part(format!("img_code_s{}_{i}", 16 << halvings));
        let wide = channels << (halvings - i + 1);
        blocks.push(Block::same(at, wide, wide / 2, norm));
    }
    blocks
}

/// Convolution, batch norm where there is one, LeakyReLU.
struct Block {
    conv: Conv2d,
    norm: Option<BatchNorm>,
}

impl Block {
    /// `at` are the scopes of convolution and batch norm.
    fn new(at: [Scope; 2], conv: Conv2d, outputs: usize, norm: DiscriminatorNorm) -> Block {
        let batch_norm = || BatchNorm::new(&at[1], outputs);
        Block { conv, norm: (norm == DiscriminatorNorm::Batch).then(batch_norm) }
    }

    /// 4×4, stride 2: half the side, twice the channels.
    fn down(at: [Scope; 2], inputs: usize, norm: DiscriminatorNorm) -> Block {
        let conv = norm.conv(&at[0], inputs, 2 * inputs, [4, 4], Conv::new(2, 1));
        Block::new(at, conv, 2 * inputs, norm)
    }

    /// 3×3, stride 1: the side stays.
    fn same(at: [Scope; 2], inputs: usize, outputs: usize, norm: DiscriminatorNorm) -> Block {
        let conv = norm.conv(&at[0], inputs, outputs, [3, 3], Conv::new(1, 1));
        Block::new(at, conv, outputs, norm)
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        const ACT: Activation = Activation::LeakyRelu(LEAKY_SLOPE);
        match &self.norm {
            Some(norm) => norm.after(&self.conv, x, mode, ACT, None),
            None => self.conv.rectified(x, ACT),
        }
    }
}

/// A 4×4 map to one logit.
struct LogitHead(Conv2d);

impl LogitHead {
    fn new(scope: &Scope, channels: usize, norm: DiscriminatorNorm) -> LogitHead {
        let scope = scope.at("outlogits").at(0);
        let conv = Conv2d::with_bias(&scope, channels, 1, [MAP, MAP], Conv::new(MAP, 0));
        LogitHead(match norm {
            DiscriminatorNorm::Batch => conv,
            DiscriminatorNorm::Spectral => conv.spectral(&scope),
        })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let logits = self.0.forward(x);
        logits.reshape([logits.len()])
    }
}

/// A map and a sentence, which is repeated at every pixel, to one logit.
struct ConditionalHead {
    joint: Block,
    logit: LogitHead,
}

impl ConditionalHead {
    fn new(scope: &Scope, channels: usize, features: usize, norm: DiscriminatorNorm) -> ConditionalHead {
        let joint = scope.at("jointConv");
        ConditionalHead {
            joint: Block::same([joint.at(0), joint.at(1)], channels + features, channels, norm),
            logit: LogitHead::new(scope, channels, norm),
        }
    }

    fn forward(&self, x: &Tensor, sentence: &Tensor, mode: Mode) -> Tensor {
        let joined = concat(&[x, &tile(&sentence.cast(x.dtype()), MAP, MAP)], 3);
        self.logit.forward(&self.joint.forward(&joined, mode))
    }
}
