//! DAMSM: the deep attentional multimodal similarity model, which says how well an image matches a caption, word
//! by word and as a whole (AttnGAN, section 3.2, equations 6 to 14).

use serde::{Deserialize, Serialize};

use crate::engine::nn::{Conv2d, Initializer, Linear, Mode, Policy, Scope};
use crate::engine::ops::matching::{cosine_scores, matching_loss, word_scores};
use crate::engine::tensor::{DType, IntTensor, Tensor};

use super::backbone::{Backbone, BackboneConfig};
use super::losses::Terms;
use super::stem::TextEmbedding;

/// Both projections begin uniform in ±0.1, as published.
const PROJECTION: Initializer = Initializer::Uniform(0.1);

/// Images to the space of the words.
pub struct ImageEncoder {
    backbone: Backbone,
    regions: Conv2d,
    code: Linear,
}

/// An image in the space of the words: its regions [B,N,D] and, as a whole, its code [B,D].
pub struct ImageEmbedding {
    pub regions: Tensor,
    pub code: Tensor,
}

impl ImageEncoder {
    /// `features` is D, the width of words and sentence.
    pub fn new(scope: &Scope, features: usize, config: &BackboneConfig) -> ImageEncoder {
        let backbone = Backbone::new(scope, config);
        let heads = scope.with(Policy { weight: PROJECTION, ..scope.policy() });
        ImageEncoder {
            regions: Conv2d::pointwise(&heads.at("emb_features"), backbone.map_width(), features),
            code: Linear::with_bias(&heads.at("emb_cnn_code"), backbone.pooled_width(), features),
            backbone,
        }
    }

    /// Images [B,S,S,3] in [-1, 1].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> ImageEmbedding {
        let seen = self.backbone.forward(images, mode);
        let regions = self.regions.forward(&seen.map).cast(DType::F32);
        let [batch, height, width, features] = regions.dims();
        ImageEmbedding {
            regions: regions.reshape([batch, height * width, features]),
            code: self.code.forward(&seen.pooled).cast(DType::F32),
        }
    }
}

/// How sharply the model attends to regions (γ1), sums over words (γ2) and chooses in the batch (γ3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gammas {
    pub gamma1: f32,
    pub gamma2: f32,
    pub gamma3: f32,
}

/// The four terms of the DAMSM loss (equation 14): words w0, w1 and sentence s0, s1, each in both directions.
/// Pairs of one class other than the match are left out.
pub fn damsm_loss(
    image: &ImageEmbedding,
    meaning: &TextEmbedding,
    lengths: &IntTensor,
    classes: Option<&IntTensor>,
    gammas: Gammas,
) -> Terms {
    let Gammas { gamma1, gamma2, gamma3 } = gammas;
    let by_word = word_scores(&meaning.words, lengths, &image.regions, gamma1, gamma2);
    let whole = cosine_scores(&image.code, &meaning.sentence);
    let (w0, w1) = matching_loss(&by_word, gamma3, classes);
    let (s0, s1) = matching_loss(&whole, gamma3, classes);
    Terms::from([("w0", w0), ("w1", w1), ("s0", s0), ("s1", s1)])
}
