//! The cascaded generator (MirrorGAN, section 3.2 and figure 2; AttnGAN, section 3.1):
//!
//! ```text
//! s ── F_ca ── c ─┐
//!             z ──┴─ F_0 ── h_0 ── F_1 ── h_1 ── F_2 ── h_2
//!                           G_0          G_1          G_2
//!                           I_0          I_1          I_2
//! ```

use serde::{Deserialize, Serialize};

use crate::engine::nn::{BatchNorm, Conv2d, Linear, Mode, Scope};
use crate::engine::ops::norm::Activation;
use crate::engine::ops::pointwise::{glu, reparameterize, tanh};
use crate::engine::ops::shape::{concat, slice, transpose};
use crate::engine::tensor::{IntTensor, Tensor};

use super::ADVERSARIAL_POLICY;
use super::glam::{AttentionStage, StageSizes, UpBlock};
use super::stem::TextEmbedding;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorConfig {
    /// Channels of every h_i: GF_DIM.
    pub width: usize,
    /// Width of z.
    pub noise: usize,
    /// Width of the augmented condition c.
    pub condition: usize,
    /// Stages; the first has no attention.
    pub stages: usize,
    /// Doublings of the side in the first stage, from 4×4.
    pub first_ups: usize,
    /// Residual blocks in each later stage: R_NUM.
    pub residual_blocks: usize,
    /// Attend to the sentence as well as to words (MirrorGAN); AttnGAN attends to words alone.
    pub sentence_attention: bool,
    /// One image, from the last stage (AttnDCGAN), in place of one from each.
    pub single_head: bool,
}

/// The side at which the first stage begins.
const FIRST_SIDE: usize = 4;

impl GeneratorConfig {
    /// The side of h_k, k from 0.
    pub fn stage_side(&self, k: usize) -> usize {
        FIRST_SIDE << (self.first_ups + k)
    }

    /// The sides of the generated images, smallest first.
    pub fn image_sides(&self) -> Vec<usize> {
        let first = if self.single_head { self.stages - 1 } else { 0 };
        (first..self.stages).map(|k| self.stage_side(k)).collect()
    }
}

/// The generator's outputs for a batch of captions.
pub struct Generated {
    /// [B,S,S,3] in [-1, 1], smallest first.
    pub images: Vec<Tensor>,
    /// Of each attention stage, [B,H,W,T]: each pixel's attention over the words. Off the tape.
    pub attention: Vec<Tensor>,
    /// Mean of the augmented condition [B,C].
    pub mu: Tensor,
    /// Logarithm of its variance [B,C].
    pub logvar: Tensor,
}

/// A stage that is finished while later ones are not begun. Off the tape.
pub struct Stage<'a> {
    /// From 0; only stages that have an image are counted.
    pub number: usize,
    /// [B,S,S,3] in [-1, 1].
    pub image: &'a Tensor,
    /// [B,H,W,T]; the first stage has none.
    pub attention: Option<&'a Tensor>,
}

pub struct Generator {
    augmentation: ConditioningAugmentation,
    first: FirstStage,
    stages: Vec<AttentionStage>,
    heads: Vec<Conv2d>,
}

impl Generator {
    /// `features` is D, the width of a word feature and of the sentence vector.
    pub fn new(scope: &Scope, features: usize, config: &GeneratorConfig) -> Generator {
        let scope = &scope.with(ADVERSARIAL_POLICY);
        let &GeneratorConfig { width, condition, residual_blocks, sentence_attention, .. } = config;
        let sizes = StageSizes { width, features, condition, residual_blocks, sentence_attention };
        let head = |name: &str| Conv2d::same3x3(&scope.at(name).at("img").at(0), width, 3);
        let stage = |k: usize| AttentionStage::new(&scope.at(format!("h_net{k}")), &sizes);
        Generator {
            augmentation: ConditioningAugmentation::new(&scope.at("ca_net"), features, condition),
            first: FirstStage::new(&scope.at("h_net1"), config),
            stages: (2..=config.stages).map(stage).collect(),
            heads: match config.single_head {
                true => vec![head("img_net")],
                false => (1..=config.stages).map(|k| head(&format!("img_net{k}"))).collect(),
            },
        }
    }

    /// `noise` is z [B,Z]; `eps` [B,C] is the augmentation's noise; both are standard normal.
    pub fn forward(
        &self,
        noise: &Tensor,
        text: &TextEmbedding,
        lengths: &IntTensor,
        eps: &Tensor,
        mode: Mode,
    ) -> Generated {
        let Augmented { c, mu, logvar } = self.augmentation.forward(&text.sentence, eps);
        let (hs, attention) = self.hidden(noise, &c, text, lengths, mode, |_, _, _| ());
        let with_head = &hs[self.without_head()..];
        let images = self.heads.iter().zip(with_head).map(|(head, h)| tanh(&head.forward(h))).collect();
        Generated { images, attention, mu, logvar }
    }

    /// In evaluation, and `each` is called with every stage as soon as its image is there. The images are those of
    /// [`Generator::forward`], bit for bit; a tape would add up gradients in another order.
    pub fn forward_by_stage(
        &self,
        noise: &Tensor,
        text: &TextEmbedding,
        lengths: &IntTensor,
        eps: &Tensor,
        mut each: impl FnMut(Stage),
    ) -> Generated {
        let Augmented { c, mu, logvar } = self.augmentation.forward(&text.sentence, eps);
        let (first, mut images) = (self.without_head(), Vec::new());
        let (_, attention) = self.hidden(noise, &c, text, lengths, Mode::Eval, |k, h, attention| {
            let Some(number) = k.checked_sub(first) else { return };
            let image = tanh(&self.heads[number].forward(h));
            each(Stage { number, image: &image, attention });
            images.push(image);
        });
        Generated { images, attention, mu, logvar }
    }

    /// Stages before the first that has an image.
    fn without_head(&self) -> usize {
        1 + self.stages.len() - self.heads.len()
    }

    /// Every h_k and the attention of every stage but the first; `each` sees number, h_k and attention as they are made.
    fn hidden(
        &self,
        noise: &Tensor,
        c: &Tensor,
        text: &TextEmbedding,
        lengths: &IntTensor,
        mode: Mode,
        mut each: impl FnMut(usize, &Tensor, Option<&Tensor>),
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        let mut hs = vec![self.first.forward(noise, c, mode)];
        each(0, &hs[0], None);
        let mut attention = Vec::new();
        for (stage, k) in self.stages.iter().zip(1..) {
            let (h, map) = stage.forward(&hs[k - 1], c, text, lengths, mode);
            each(k, &h, Some(&map));
            hs.push(h);
            attention.push(map);
        }
        (hs, attention)
    }
}

/// F_ca, conditioning augmentation: a condition drawn about the sentence vector (StackGAN, section 3.2).
struct ConditioningAugmentation {
    fc: Linear,
    width: usize,
}

struct Augmented {
    c: Tensor,
    mu: Tensor,
    logvar: Tensor,
}

impl ConditioningAugmentation {
    fn new(scope: &Scope, features: usize, width: usize) -> ConditioningAugmentation {
        ConditioningAugmentation { fc: Linear::with_bias(&scope.at("fc"), features, 4 * width), width }
    }

    /// c = μ + exp(logvar/2) · ε
    fn forward(&self, sentence: &Tensor, eps: &Tensor) -> Augmented {
        let x = glu(&self.fc.forward(sentence));
        let (mu, logvar) = (slice(&x, 1, 0, self.width), slice(&x, 1, self.width, self.width));
        Augmented { c: reparameterize(&mu, &logvar, eps), mu, logvar }
    }
}

/// F_0: condition and noise to a 4×4 map, doubled `first_ups` times to h_0.
struct FirstStage {
    fc: Linear,
    norm: BatchNorm,
    ups: Vec<UpBlock>,
}

impl FirstStage {
    fn new(scope: &Scope, config: &GeneratorConfig) -> FirstStage {
        // Each doubling halves the channels, down to `width`.
        let channels = config.width << config.first_ups;
        // The GLU halves them once more.
        let gated = 2 * channels * FIRST_SIDE * FIRST_SIDE;
        FirstStage {
            fc: Linear::new(&scope.at("fc").at(0), config.condition + config.noise, gated),
            norm: BatchNorm::new(&scope.at("fc").at(1), gated),
            ups: (0..config.first_ups)
                .map(|i| UpBlock::new(&scope.at(format!("upsample{}", i + 1)), channels >> i))
                .collect(),
        }
    }

    fn forward(&self, noise: &Tensor, c: &Tensor, mode: Mode) -> Tensor {
        let x = self.fc.forward(&concat(&[c, noise], 1).to_activation_dtype());
        let x = self.norm.forward(&x, mode, Activation::Glu, None);
        let [batch, wide] = x.dims();
        // Published weights order these features as [C,H,W].
        let channels = wide / (FIRST_SIDE * FIRST_SIDE);
        let h = transpose(&x.reshape([batch, channels, FIRST_SIDE, FIRST_SIDE]), &[0, 2, 3, 1]);
        self.ups.iter().fold(h, |h, up| up.forward(&h, mode))
    }
}
