//! GLAM, the global-local collaborative attentive module: a stage of the cascade that attends to words and sentence
//! and doubles the side (MirrorGAN, section 3.2 and figure 2; AttnGAN, section 3.1).

use crate::engine::nn::{BatchNorm, Conv2d, Linear, Mode, Scope, UpConv};
use crate::engine::ops::attention::{channel_attention, cross_attention};
use crate::engine::ops::norm::Activation;
use crate::engine::ops::shape::concat;
use crate::engine::tensor::{IntTensor, Tensor};

use super::stem::TextEmbedding;

/// F_i: attention, residual blocks, one doubling: h_{i-1} [B,H,W,C] -> h_i [B,2H,2W,C].
pub struct AttentionStage {
    words: Conv2d,
    sentence: Option<SentenceAttention>,
    residual: Vec<ResidualBlock>,
    up: UpBlock,
}

/// Attention to the sentence: projects it to C, weighs its channels by h, and maps h and both contexts, 3C, to 2C.
struct SentenceAttention {
    project: Linear,
    weigh: Conv2d,
    mix: Conv2d,
}

/// The sizes of a stage; all attention stages have the same.
pub(super) struct StageSizes {
    pub width: usize,
    pub features: usize,
    pub condition: usize,
    pub residual_blocks: usize,
    pub sentence_attention: bool,
}

impl AttentionStage {
    pub(super) fn new(scope: &Scope, sizes: &StageSizes) -> AttentionStage {
        let (width, att) = (sizes.width, scope.at("att"));
        let sentence = || SentenceAttention {
            project: Linear::with_bias(&att.at("linear"), sizes.condition, width),
            weigh: Conv2d::pointwise(&att.at("conv_sentence_vis"), width, width),
            mix: Conv2d::pointwise(&scope.at("conv"), 3 * width, 2 * width),
        };
        let block = |r| ResidualBlock::new(&scope.at("residual").at(r).at("block"), 2 * width);
        AttentionStage {
            words: Conv2d::pointwise(&att.at("conv_context"), sizes.features, width),
            sentence: sizes.sentence_attention.then(sentence),
            residual: (0..sizes.residual_blocks).map(block).collect(),
            up: UpBlock::new(&scope.at("upsample"), 2 * width),
        }
    }

    /// Returns h_i and each pixel's attention over the words [B,H,W,T]. `condition` is c, the augmented sentence.
    pub fn forward(
        &self,
        h: &Tensor,
        condition: &Tensor,
        text: &TextEmbedding,
        lengths: &IntTensor,
        mode: Mode,
    ) -> (Tensor, Tensor) {
        let words = text.words.cast(h.dtype());
        let (context, attention) = cross_attention(h, &words, &as_matrix(&self.words), lengths);
        let mut x = match &self.sentence {
            Some(sentence) => sentence.join(h, &context, condition),
            None => concat(&[h, &context], 3),
        };
        for block in &self.residual {
            x = block.forward(&x, mode);
        }
        (self.up.forward(&x, mode), attention)
    }
}

impl SentenceAttention {
    /// [h | word context | sentence context] to 2C channels.
    fn join(&self, h: &Tensor, words: &Tensor, condition: &Tensor) -> Tensor {
        let projected = self.project.forward(condition).cast(h.dtype());
        let sentence = channel_attention(h, &projected, &as_matrix(&self.weigh));
        self.mix.forward(&concat(&[h, words, &sentence], 3))
    }
}

/// The [out,in] matrix of a 1×1 convolution.
fn as_matrix(conv: &Conv2d) -> Tensor {
    let weight = conv.weight();
    let [outputs, _, _, inputs] = weight.dims();
    weight.reshape([outputs, inputs])
}

/// Doubles height and width and halves the channels: nearest 2×, 3×3, batch norm, GLU.
pub struct UpBlock {
    conv: UpConv,
    norm: BatchNorm,
}

impl UpBlock {
    pub(super) fn new(scope: &Scope, channels: usize) -> UpBlock {
        UpBlock {
            conv: UpConv::new(&scope.at(1), channels, channels),
            norm: BatchNorm::new(&scope.at(2), channels),
        }
    }

    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        self.norm.after(&self.conv, x, mode, Activation::Glu, None)
    }
}

/// x + norm(conv(glu(norm(conv(x)))))
struct ResidualBlock {
    first: (Conv2d, BatchNorm),
    second: (Conv2d, BatchNorm),
}

impl ResidualBlock {
    fn new(scope: &Scope, channels: usize) -> ResidualBlock {
        let layer = |index, outputs| {
            let conv = Conv2d::same3x3(&scope.at(index), channels, outputs);
            (conv, BatchNorm::new(&scope.at(index + 1), outputs))
        };
        // The GLU between them halves the channels.
        ResidualBlock { first: layer(0, 2 * channels), second: layer(3, channels) }
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let (conv, norm) = &self.first;
        let y = norm.after(conv, x, mode, Activation::Glu, None);
        let (conv, norm) = &self.second;
        norm.after(conv, &y, mode, Activation::None, Some(x))
    }
}
