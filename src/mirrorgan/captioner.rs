//! The captioner, STREAM in the paper: an image network, then an LSTM that writes a caption. Its loss says how far a
//! generated image is from its caption (MirrorGAN, section 3.3).

use serde::{Deserialize, Serialize};

use crate::engine::nn::{BatchNorm, Embedding, Initializer, Linear, Lstm, Mode, Scope};
use crate::engine::ops::loss::cross_entropy;
use crate::engine::ops::norm::Activation;
use crate::engine::ops::shape::{concat, slice};
use crate::engine::tensor::{DType, IntTensor, Tensor, no_grad};

use super::backbone::{Backbone, BackboneConfig, Preprocessing};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionerConfig {
    pub backbone: BackboneConfig,
    /// The side that images are resized to; none leaves them as they are.
    #[serde(with = "super::optional")]
    pub resize: Option<usize>,
    /// Shift and scale images as networks trained on ImageNet expect; the published code did not.
    pub imagenet_normalization: bool,
    /// Width of the image's feature and of a word's embedding.
    pub embedding: usize,
    /// Width of the LSTM.
    pub hidden: usize,
    /// Train with an end token after the last word; published captions have none.
    pub learn_end: bool,
}

/// The end token; the same id pads captions.
pub const END: i32 = 0;

pub struct Captioner {
    encoder: CaptionEncoder,
    decoder: CaptionDecoder,
    learn_end: bool,
}

impl Captioner {
    /// Encoder and decoder are two files as published, hence two scopes.
    pub fn new(encoder: &Scope, decoder: &Scope, vocabulary: usize, config: &CaptionerConfig) -> Captioner {
        Captioner {
            encoder: CaptionEncoder::new(encoder, config),
            decoder: CaptionDecoder::new(decoder, vocabulary, config.embedding, config.hidden),
            learn_end: config.learn_end,
        }
    }

    /// The caption's negative log-likelihood given the image, averaged over words (MirrorGAN, section 3.4).
    pub fn loss(&self, images: &Tensor, captions: &IntTensor, lengths: &IntTensor, mode: Mode) -> Tensor {
        let feature = self.encoder.forward(images, mode);
        if self.learn_end {
            let (captions, lengths) = with_end(captions, lengths);
            self.decoder.loss(&feature, &captions, &lengths)
        } else {
            self.decoder.loss(&feature, captions, lengths)
        }
    }

    /// How many predictions the loss of a caption of `words` words is the mean of.
    pub fn predicted(&self, words: usize) -> usize {
        words + usize::from(self.learn_end)
    }

    /// A caption of at most `max_words` for each image, by greedy decoding.
    pub fn describe(&self, images: &Tensor, max_words: usize) -> Vec<Vec<i32>> {
        no_grad(|| self.decoder.greedy(&self.encoder.forward(images, Mode::Eval), max_words, Some(END)))
    }

    /// As [`Captioner::describe`], each word with its probability given the image and the words before it.
    pub fn describe_with_probabilities(&self, images: &Tensor, max_words: usize) -> Vec<Vec<(i32, f32)>> {
        no_grad(|| {
            let feature = self.encoder.forward(images, Mode::Eval);
            self.decoder.greedy_with_probabilities(&feature, max_words, Some(END))
        })
    }
}

/// The captions one column wider, each with its end token.
fn with_end(captions: &IntTensor, lengths: &IntTensor) -> (IntTensor, IntTensor) {
    let width = captions.shape().last_dim();
    let (mut ids, mut with_end) = (Vec::new(), Vec::new());
    for (row, &length) in captions.as_slice().chunks(width).zip(lengths.as_slice()) {
        ids.extend_from_slice(&row[..length as usize]);
        ids.resize(ids.len() + width + 1 - length as usize, END);
        with_end.push(length + 1);
    }
    (IntTensor::new(ids, [lengths.len(), width + 1]), IntTensor::new(with_end, [lengths.len()]))
}

/// Images to the LSTM's first input, x_{-1} in the paper.
pub struct CaptionEncoder {
    backbone: Backbone,
    is_frozen: bool,
    linear: Linear,
    norm: BatchNorm,
}

/// The momentum of this norm's running statistics. Source: `EncoderCNN` of the PyTorch image captioning tutorial
/// that MirrorGAN took STREAM from.
const MOMENTUM: f32 = 0.01;

impl CaptionEncoder {
    pub fn new(scope: &Scope, config: &CaptionerConfig) -> CaptionEncoder {
        let &CaptionerConfig { resize, imagenet_normalization, .. } = config;
        let preprocessing = Preprocessing { resize, imagenet_normalization };
        let backbone = Backbone::new(scope, &config.backbone, preprocessing);
        CaptionEncoder {
            linear: Linear::with_bias(&scope.at("linear"), backbone.pooled_width(), config.embedding),
            norm: BatchNorm::new(&scope.at("bn"), config.embedding).momentum(MOMENTUM),
            is_frozen: config.backbone.kind.is_pretrained(),
            backbone,
        }
    }

    /// Images [B,S,S,3] in [-1, 1] -> [B,E].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Tensor {
        let of_backbone = if self.is_frozen { Mode::Eval } else { mode };
        let pooled = self.backbone.forward(images, of_backbone).pooled;
        self.norm.forward(&self.linear.forward(&pooled), mode, Activation::None, None).cast(DType::F32)
    }
}

/// An LSTM that reads the image's feature, then the caption word by word, and predicts each next word.
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

    /// Teacher forcing: inputs (feature, w_0 .. w_{T-2}), logits [B,T,V] for (w_0 .. w_{T-1}).
    pub fn logits(&self, feature: &Tensor, captions: &IntTensor) -> Tensor {
        let [batch, embedding] = feature.dims();
        let words = captions.shape().last_dim();
        let first = feature.reshape([batch, 1, embedding]);
        let inputs = concat(&[&first, &self.embed.forward(captions)], 1);
        let lengths = IntTensor::new(vec![words as i32; batch], [batch]);
        let lstm = self.lstm.forward(&slice(&inputs, 1, 0, words), &lengths, None);
        self.linear.forward(&lstm.outputs)
    }

    /// Cross entropy, averaged over all words of the batch; padding does not count.
    pub fn loss(&self, feature: &Tensor, captions: &IntTensor, lengths: &IntTensor) -> Tensor {
        let logits = self.logits(feature, captions);
        let [batch, words, vocabulary] = logits.dims();
        let mut targets = captions.as_slice().to_vec();
        for (row, &length) in targets.chunks_mut(words).zip(lengths.as_slice()) {
            row[length as usize..].fill(IGNORE_INDEX);
        }
        let targets = IntTensor::new(targets, [batch * words]);
        cross_entropy(&logits.reshape([batch * words, vocabulary]), &targets)
    }

    /// The most likely word at each of at most `steps` steps, until every caption has `end`, where it is cut off.
    pub fn greedy(&self, feature: &Tensor, steps: usize, end: Option<i32>) -> Vec<Vec<i32>> {
        let captions = self.greedy_with_probabilities(feature, steps, end);
        captions.into_iter().map(|caption| caption.into_iter().map(|(word, _)| word).collect()).collect()
    }

    /// As [`CaptionDecoder::greedy`], each word with its probability.
    pub fn greedy_with_probabilities(
        &self,
        feature: &Tensor,
        steps: usize,
        end: Option<i32>,
    ) -> Vec<Vec<(i32, f32)>> {
        let [batch, embedding] = feature.dims();
        let one = IntTensor::new(vec![1; batch], [batch]);
        let mut captions: Vec<Vec<(i32, f32)>> = vec![Vec::new(); batch];
        let (mut x, mut state) = (feature.reshape([batch, 1, embedding]), None);
        let is_end = |&(word, _): &(i32, f32)| Some(word) == end;
        for _ in 0..steps {
            let lstm = self.lstm.forward(&x, &one, state.as_ref().map(|(h, c)| (h, c)));
            let best = most_likely(&self.linear.forward(&lstm.h));
            captions.iter_mut().zip(&best).for_each(|(caption, &word)| caption.push(word));
            if captions.iter().all(|caption| caption.iter().any(is_end)) {
                break;
            }
            let words = best.into_iter().map(|(word, _)| word).collect();
            x = self.embed.forward(&IntTensor::new(words, [batch, 1]));
            state = Some((lstm.h, lstm.c));
        }
        captions
            .into_iter()
            .map(|caption| caption.into_iter().take_while(|word| !is_end(word)).collect())
            .collect()
    }
}

/// A target that cross entropy ignores.
const IGNORE_INDEX: i32 = -1;

/// The largest logit of each row, and its softmax.
fn most_likely(logits: &Tensor) -> Vec<(i32, f32)> {
    let best = |row: &[f32]| {
        let word = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
        let total: f32 = row.iter().map(|logit| (logit - row[word]).exp()).sum();
        (word as i32, 1.0 / total)
    };
    logits.to_vec().chunks(logits.shape().last_dim()).map(best).collect()
}
