//! DAMSM, the deep attentional multimodal similarity model: how well an image matches a caption, word by word and
//! as a whole (AttnGAN, section 3.2).

use serde::{Deserialize, Serialize};

use crate::engine::nn::{Conv2d, Initializer, Linear, Mode, Policy, Scope};
use crate::engine::ops::matching::{cosine_scores, matching_loss, word_scores};
use crate::engine::ops::matmul::{linear, matmul};
use crate::engine::ops::pointwise::scale;
use crate::engine::ops::shape::transpose;
use crate::engine::ops::softmax::softmax;
use crate::engine::tensor::{DType, IntTensor, Tensor};

use super::backbone::{Backbone, BackboneConfig, BackboneKind, Preprocessing};
use super::losses::Terms;
use super::stem::TextEmbedding;

/// Initial weights of both projections. Source: `CNN_ENCODER.init_trainable_weights` of AttnGAN's code.
const PROJECTION: Initializer = Initializer::Uniform(0.1);

/// Embeds images in the space of words and sentences.
pub struct ImageEncoder {
    backbone: Backbone,
    /// The backbone's norms follow [`Mode`] although its weights are frozen: while DAMSM trains, the running statistics of
    /// Inception-v3 adapt to its images. Source: `cnn_model.train()` in `pretrain_DAMSM.py`.
    adapts: bool,
    regions: Conv2d,
    global: Linear,
}

/// Images as vectors of that space.
pub struct ImageEmbedding {
    /// Region features v [B,N,D].
    pub regions: Tensor,
    /// Global image vectors [B,D].
    pub global: Tensor,
}

impl ImageEncoder {
    /// `features` is D, the width of a word feature and of the sentence vector.
    pub fn new(scope: &Scope, features: usize, config: &BackboneConfig) -> ImageEncoder {
        // The small network was never trained on ImageNet, and sees images as they are.
        let imagenet_normalization = config.kind.is_pretrained();
        let backbone = Backbone::new(scope, config, Preprocessing { resize: None, imagenet_normalization });
        let heads = scope.with(Policy { weight: PROJECTION, ..scope.policy() });
        ImageEncoder {
            regions: Conv2d::pointwise(&heads.at("emb_features"), backbone.map_width(), features),
            global: Linear::with_bias(&heads.at("emb_cnn_code"), backbone.pooled_width(), features),
            adapts: matches!(config.kind, BackboneKind::Small | BackboneKind::InceptionV3),
            backbone,
        }
    }

    /// Images [B,S,S,3] in [-1, 1].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> ImageEmbedding {
        let features = self.backbone.forward(images, if self.adapts { mode } else { Mode::Eval });
        let regions = self.regions.forward(&features.map).cast(DType::F32);
        let [batch, height, width, depth] = regions.dims();
        ImageEmbedding {
            regions: regions.reshape([batch, height * width, depth]),
            global: self.global.forward(&features.pooled).cast(DType::F32),
        }
    }
}

/// How sharp are the attention to regions (γ1), the log-sum-exp over words (γ2) and the softmax over the batch (γ3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gammas {
    pub gamma1: f32,
    pub gamma2: f32,
    pub gamma3: f32,
}

/// Each word's attention over the regions of an image, [T,N], of words [T,D] and regions [N,D]: equations 8 and 9 of AttnGAN.
pub fn region_attention(words: &Tensor, regions: &Tensor, gamma1: f32) -> Tensor {
    let over_words = softmax(&linear(regions, words, None));
    softmax(&scale(&transpose(&over_words, &[1, 0]), gamma1))
}

/// How well each word [T,D] matches the regions [N,D] that it attends to: their cosines, equation 10 of AttnGAN.
pub fn word_matches(words: &Tensor, regions: &Tensor, gamma1: f32) -> Vec<f32> {
    let contexts = matmul(&region_attention(words, regions, gamma1), regions).to_vec();
    let width = words.shape().last_dim();
    words.to_vec().chunks(width).zip(contexts.chunks(width)).map(|(word, seen)| cosine(word, seen)).collect()
}

/// The cosine of two vectors; 0 where one has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// The four terms of the DAMSM loss: w0, w1 for words and s0, s1 for sentences, each in both directions. Within a
/// batch, a pair of one class that is not the match itself is masked out.
pub fn damsm_loss(
    image: &ImageEmbedding,
    text: &TextEmbedding,
    lengths: &IntTensor,
    classes: Option<&IntTensor>,
    gammas: Gammas,
) -> Terms {
    let Gammas { gamma1, gamma2, gamma3 } = gammas;
    let word_similarity = word_scores(&text.words, lengths, &image.regions, gamma1, gamma2);
    let sentence_similarity = cosine_scores(&image.global, &text.sentence);
    let (w0, w1) = matching_loss(&word_similarity, gamma3, classes);
    let (s0, s1) = matching_loss(&sentence_similarity, gamma3, classes);
    Terms::from([("w0", w0), ("w1", w1), ("s0", s0), ("s1", s1)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    /// The score of a word and an image is that of the word and the regions it attends to.
    #[test]
    fn the_attention_is_that_of_the_word_scores() {
        let mut rng = Rng::new(7, 0);
        let (words, regions) = (rng.normal([1, 3, 8]), rng.normal([1, 5, 8]));
        let expected = word_scores(&words, &IntTensor::new(vec![3], [1]), &regions, 4.0, 5.0).item();
        let (words, regions) = (words.reshape([3, 8]), regions.reshape([5, 8]));
        let attention = region_attention(&words, &regions, 4.0).to_vec();
        assert!(attention.chunks(5).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
        let similarities = word_matches(&words, &regions, 4.0);
        let score = similarities.iter().map(|s| (5.0 * s).exp()).sum::<f32>().ln();
        assert!((score - expected).abs() < 1e-4, "{score} {expected}");
    }
}
