//! The networks that look at generated pictures.

use std::path::Path;

use super::Watch;
use super::metrics::{MetricName, Metrics};
use crate::data::Picture;
use crate::engine::nn::Mode;
use crate::engine::tensor::no_grad;
use crate::engine::{IntTensor, Tensor};
use crate::error::Result;
use crate::eval::protocol::{LogitKind, Protocol, ProtocolName};
use crate::infer::evaluator::{Evaluated, Evaluator, EvaluatorNetwork, UsedWeights};
use crate::infer::frozen::{self, CAPTION_CNN, CAPTION_RNN};
use crate::infer::{Sampler, Samples};
use crate::mirrorgan::captioner::Captioner;
use crate::run::{Checkpoints, Phase, RunFolder};

/// What is kept of a picture: numbers by the name of their column.
pub(super) type Row = Vec<(&'static str, Vec<f32>)>;

pub(super) struct Networks {
    pub evaluator: Evaluator,
    /// DAMSM's encoder, where R-precision is wanted and it is not the evaluator itself.
    encoder: Option<Evaluator>,
    captioner: Option<(Captioner, UsedWeights)>,
    logits: Option<LogitKind>,
    /// Whether sentence vectors are wanted.
    sentences: bool,
}

/// Opens the network of a protocol: with weights of a file, or those that are found; or the run's own encoder.
///
/// # Errors
/// As [`Evaluator::open`] and [`Evaluator::of_run`].
pub fn open_evaluator(
    protocol: &Protocol,
    weights: Option<&Path>,
    run: Option<&RunFolder>,
) -> Result<Evaluator> {
    match (protocol.recipe.network, run) {
        (EvaluatorNetwork::Encoder, Some(run)) if weights.is_none() => {
            Evaluator::of_run(&protocol.recipe, run)
        }
        _ => Evaluator::open(&protocol.recipe, weights),
    }
}

impl Networks {
    pub(super) fn open(
        run: &RunFolder,
        sampler: &Sampler,
        protocol: &Protocol,
        metrics: &mut Metrics,
        weights: Option<&Path>,
        watch: &mut dyn Watch,
    ) -> Result<Networks> {
        let evaluator = open_evaluator(protocol, weights, Some(run))?;
        evaluator.warning().iter().for_each(|warning| watch.note(&format!("warning: {warning}")));
        let mut encoder = None;
        if metrics.has(MetricName::RPrecision) && protocol.recipe.network != EvaluatorNetwork::Encoder {
            match Evaluator::of_run(&ProtocolName::Encoder.protocol().recipe, run) {
                Ok(opened) => encoder = Some(opened),
                Err(error) => watch.note(&metrics.leave_out(MetricName::RPrecision, error.to_string())?),
            }
        }
        let mut captioner = None;
        if metrics.has(MetricName::Caption) {
            match Checkpoints::of(run.root(), Phase::Captioner).latest()? {
                Some(checkpoint) => {
                    let config = &sampler.config;
                    let network = frozen::captioner(&checkpoint.folder, sampler.vocabulary.len(), config)?;
                    let kind = config.captioner.network.backbone.kind;
                    let networks = [CAPTION_CNN, CAPTION_RNN];
                    captioner = Some((network, UsedWeights::of_checkpoint(&checkpoint, &networks, kind)?));
                }
                None => {
                    let why = "this run has no captioner; train one with --phase captioner".to_string();
                    watch.note(&metrics.leave_out(MetricName::Caption, why)?);
                }
            }
        }
        let logits = wanted_logits(protocol, metrics);
        let sentences = metrics.has(MetricName::RPrecision);
        Ok(Networks { evaluator, encoder, captioner, logits, sentences })
    }

    pub(super) fn encoder_weights(&self) -> Option<UsedWeights> {
        self.encoder.as_ref().map(|encoder| encoder.weights().clone())
    }

    pub(super) fn captioner_weights(&self) -> Option<UsedWeights> {
        self.captioner.as_ref().map(|(_, weights)| weights.clone())
    }

    /// Whether DAMSM's codes are what the evaluator gives.
    pub(super) fn codes_are_features(&self) -> bool {
        self.encoder.is_none()
    }

    /// What is kept of each picture of a batch, by columns; of those for diversity features alone.
    pub(super) fn rows(
        &self,
        pictures: &[Picture],
        samples: &Samples,
        captions: &[Vec<i32>],
        only_features: bool,
    ) -> Result<Vec<Row>> {
        let evaluated = self.evaluator.evaluate(pictures)?;
        if only_features {
            return Ok(picture_rows(&evaluated, None));
        }
        let mut rows = picture_rows(&evaluated, self.logits);
        let mut add = |name: &'static str, values: Vec<Vec<f32>>| {
            rows.iter_mut().zip(values).for_each(|(row, values)| row.push((name, values)));
        };
        if let Some(encoder) = &self.encoder {
            add("codes", encoder.evaluate(pictures)?.features.iter().map(<[f32]>::to_vec).collect());
        }
        if self.sentences {
            let sentences = &samples.embedding.sentence;
            let width = sentences.shape().last_dim();
            add("sentences", sentences.to_vec().chunks_exact(width).map(<[f32]>::to_vec).collect());
        }
        if let Some((captioner, _)) = &self.captioner {
            let losses = pictures.iter().zip(captions).map(|(picture, ids)| loss(captioner, picture, ids));
            add("caption", losses.collect());
        }
        Ok(rows)
    }
}

/// The logits of an Inception Score, where it is wanted.
pub(super) fn wanted_logits(protocol: &Protocol, metrics: &Metrics) -> Option<LogitKind> {
    protocol.inception_score.filter(|_| metrics.has(MetricName::Is)).map(|score| score.logits)
}

/// What an evaluator says of each picture of a batch.
pub(super) fn picture_rows(evaluated: &Evaluated, logits: Option<LogitKind>) -> Vec<Row> {
    let mut rows: Vec<Row> = evaluated.features.iter().map(|row| vec![("features", row.to_vec())]).collect();
    if let (Some(kind), Some(logits)) = (logits, &evaluated.logits) {
        let logits = if kind == LogitKind::Biased { &logits.biased } else { &logits.unbiased };
        rows.iter_mut().zip(logits.iter()).for_each(|(row, logits)| row.push(("logits", logits.to_vec())));
    }
    rows
}

/// The cross-entropy of a caption, summed over its words, and how many words that are. One by one: a sum may depend on the batch.
fn loss(captioner: &Captioner, picture: &Picture, ids: &[i32]) -> Vec<f32> {
    let mut values = Vec::new();
    picture.normalize_into(&mut values);
    let image = Tensor::from_vec(values, [1, picture.height, picture.width, 3]);
    let words = IntTensor::new(ids.to_vec(), [1, ids.len()]);
    let lengths = IntTensor::new(vec![ids.len() as i32], [1]);
    let loss = no_grad(|| captioner.loss(&image, &words, &lengths, Mode::Eval)).item();
    let count = captioner.predicted(ids.len()) as f32;
    vec![loss * count, count]
}
