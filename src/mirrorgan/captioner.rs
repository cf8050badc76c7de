//! STREAM: describes the generated image again, in words, and compares with what was asked for
//! (MirrorGAN, section 3.3, equations 6 to 8). An image network, then an LSTM that writes the caption.

use serde::{Deserialize, Serialize};

use crate::engine::nn::{BatchNorm, Embedding, Initializer, Linear, Lstm, Mode, Scope};
use crate::engine::ops::loss::cross_entropy;
use crate::engine::ops::norm::{Activation, batch_norm_eval};
use crate::engine::ops::resample::bilinear;
use crate::engine::ops::shape::{concat, slice};
use crate::engine::tensor::{DType, IntTensor, Tensor, no_grad};

use super::backbone::{Backbone, BackboneConfig};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionerConfig {
    pub backbone: BackboneConfig,
    /// The side that images are resized to; none, which a file writes as 0, leaves them as they are.
    #[serde(with = "zero_is_none")]
    pub resize: Option<usize>,
    /// Shift and scale images as ImageNet's networks expect; the published code did not.
    pub imagenet_normalization: bool,
    /// Width of the image feature and of a word's embedding.
    pub embedding: usize,
    /// Width of the LSTM.
    pub hidden: usize,
    /// Ask for an end token after the last word; published captions have none.
    pub learn_end: bool,
}

/// TOML has no null: none is 0.
mod zero_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(side: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
        side.unwrap_or(0).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
        Ok(Some(usize::deserialize(deserializer)?).filter(|&side| side > 0))
    }
}

/// Index 0, which also pads: the caption is over.
pub const END: i32 = 0;

pub struct Captioner {
    encoder: CaptionEncoder,
    decoder: CaptionDecoder,
    learn_end: bool,
}

impl Captioner {
    /// The two halves are two files as published: give them two scopes.
    pub fn new(encoder: &Scope, decoder: &Scope, vocabulary: usize, config: &CaptionerConfig) -> Captioner {
        Captioner {
            encoder: CaptionEncoder::new(encoder, config),
            decoder: CaptionDecoder::new(decoder, vocabulary, config.embedding, config.hidden),
            learn_end: config.learn_end,
        }
    }

    /// Equation 10: how unlikely the caption is, given the image; the mean over words.
    pub fn loss(&self, images: &Tensor, captions: &IntTensor, lengths: &IntTensor, mode: Mode) -> Tensor {
        let feature = self.encoder.forward(images, mode);
        if self.learn_end {
            let (captions, lengths) = with_end(captions, lengths);
            self.decoder.loss(&feature, &captions, &lengths)
        } else {
            self.decoder.loss(&feature, captions, lengths)
        }
    }

    /// The caption that the model writes for each image, word by most likely word.
    pub fn describe(&self, images: &Tensor, longest: usize) -> Vec<Vec<i32>> {
        no_grad(|| self.decoder.greedy(&self.encoder.forward(images, Mode::Eval), longest, Some(END)))
    }
}

/// Captions one column longer, where each has room for its end token.
fn with_end(captions: &IntTensor, lengths: &IntTensor) -> (IntTensor, IntTensor) {
    let width = captions.shape().last_dim();
    let (mut ids, mut longer) = (Vec::new(), Vec::new());
    for (row, &length) in captions.as_slice().chunks(width).zip(lengths.as_slice()) {
        ids.extend_from_slice(&row[..length as usize]);
        ids.resize(ids.len() + width + 1 - length as usize, END);
        longer.push(length + 1);
    }
    (IntTensor::new(ids, [lengths.len(), width + 1]), IntTensor::new(longer, [lengths.len()]))
}

/// Images to a feature, x_{-1} of equation 6.
pub struct CaptionEncoder {
    backbone: Backbone,
    linear: Linear,
    norm: BatchNorm,
    resize: Option<usize>,
    imagenet_normalization: bool,
}

/// The share of a batch in this norm's running statistics, as published.
const MOMENTUM: f32 = 0.01;

impl CaptionEncoder {
    pub fn new(scope: &Scope, config: &CaptionerConfig) -> CaptionEncoder {
        let backbone = Backbone::new(scope, &config.backbone);
        CaptionEncoder {
            linear: Linear::with_bias(&scope.at("linear"), backbone.pooled_width(), config.embedding),
            norm: BatchNorm::new(&scope.at("bn"), config.embedding).momentum(MOMENTUM),
            backbone,
            resize: config.resize,
            imagenet_normalization: config.imagenet_normalization,
        }
    }

    /// Images [B,S,S,3] in [-1, 1] -> [B,E].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Tensor {
        let mut x = images.clone();
        if let Some(side) = self.resize {
            x = bilinear(&x, side, side);
        }
        if self.imagenet_normalization {
            x = imagenet_normalized(&x);
        }
        let pooled = self.backbone.forward(&x, mode).pooled;
        self.norm.forward(&self.linear.forward(&pooled), mode, Activation::None, None).cast(DType::F32)
    }
}

/// ImageNet's mean and deviation of red, green and blue in [0, 1].
const IMAGENET: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

/// From [-1, 1] to ImageNet's zero mean and unit deviation.
fn imagenet_normalized(x: &Tensor) -> Tensor {
    let channel = |f: fn((f32, f32)) -> f32| Tensor::from_vec(IMAGENET.map(f).to_vec(), [3]);
    // Twice as wide as [0, 1], and begun one lower.
    let (mean, variance) = (channel(|(m, _)| 2.0 * m - 1.0), channel(|(_, d)| 4.0 * d * d));
    let (one, zero) = (Tensor::full([3], 1.0), Tensor::zeros([3]));
    batch_norm_eval(x, &one, &zero, &mean, &variance, Activation::None, None, 0.0)
}

/// An LSTM that is shown the image first and then each word, and says the next (equations 7 and 8).
pub struct CaptionDecoder {
    embed: Embedding,
    lstm: Lstm,
    linear: Linear,
}

impl CaptionDecoder {
    pub fn new(scope: &Scope, vocabulary: usize, embedding: usize, hidden: usize) -> CaptionDecoder {
        let normal = Initializer::Normal { mean: 0.0, deviation: 1.0 };
        CaptionDecoder {
            embed: Embedding::new(&scope.at("embed"), vocabulary, embedding, normal),
            lstm: Lstm::new(&scope.at("lstm"), embedding, hidden),
            linear: Linear::with_bias(&scope.at("linear"), hidden, vocabulary),
        }
    }

    /// Teacher forcing: shown (feature, w_0 .. w_{T-2}), the scores [B,T,V] for (w_0 .. w_{T-1}).
    pub fn logits(&self, feature: &Tensor, captions: &IntTensor) -> Tensor {
        let [batch, embedding] = feature.dims();
        let words = captions.shape().last_dim();
        let first = feature.reshape([batch, 1, embedding]);
        let shown = concat(&[&first, &self.embed.forward(captions)], 1);
        let lengths = IntTensor::new(vec![words as i32; batch], [batch]);
        let run = self.lstm.forward(&slice(&shown, 1, 0, words), &lengths, None);
        self.linear.forward(&run.outputs)
    }

    /// Cross entropy, averaged over all real words of the batch.
    pub fn loss(&self, feature: &Tensor, captions: &IntTensor, lengths: &IntTensor) -> Tensor {
        let logits = self.logits(feature, captions);
        let [batch, words, vocabulary] = logits.dims();
        let mut targets = captions.as_slice().to_vec();
        for (row, &length) in targets.chunks_mut(words).zip(lengths.as_slice()) {
            row[length as usize..].fill(LEFT_OUT);
        }
        let targets = IntTensor::new(targets, [batch * words]);
        cross_entropy(&logits.reshape([batch * words, vocabulary]), &targets)
    }

    /// The most likely word again and again, `steps` times or until all have said `end`, which is cut off.
    pub fn greedy(&self, feature: &Tensor, steps: usize, end: Option<i32>) -> Vec<Vec<i32>> {
        let [batch, embedding] = feature.dims();
        let one = IntTensor::new(vec![1; batch], [batch]);
        let mut said = vec![Vec::new(); batch];
        let (mut x, mut state) = (feature.reshape([batch, 1, embedding]), None);
        for _ in 0..steps {
            let run = self.lstm.forward(&x, &one, state.as_ref().map(|(h, c)| (h, c)));
            let best = argmax_rows(&self.linear.forward(&run.h));
            said.iter_mut().zip(&best).for_each(|(caption, &word)| caption.push(word));
            if end.is_some_and(|end| said.iter().all(|caption| caption.contains(&end))) {
                break;
            }
            x = self.embed.forward(&IntTensor::new(best, [batch, 1]));
            state = Some((run.h, run.c));
        }
        said.iter().map(|caption| caption.iter().copied().take_while(|&w| Some(w) != end).collect()).collect()
    }
}

/// A target that cross entropy leaves out.
const LEFT_OUT: i32 = -1;

fn argmax_rows(scores: &Tensor) -> Vec<i32> {
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as i32;
    scores.to_vec().chunks(scores.shape().last_dim()).map(best).collect()
}
