//! What the phases of training have in common.

use std::path::Path;

use super::initial::InitialWeights;
use crate::data::{Batch, Picture};
use crate::engine::nn::archive::NotFinite;
use crate::engine::nn::{Adam, AdamConfig, Archive, Store};
use crate::engine::tensor::{Grads, Tensor};
use crate::error::{Error, Result};
use crate::eval::{Features, Metric, r_precision};
use crate::files::Origin;
use crate::infer::features::{Codes, Watch};
use crate::infer::frozen::weight_file;
use crate::mirrorgan::backbone::{BackboneConfig, load_imagenet};
use crate::mirrorgan::losses::Terms;
use crate::run::{Context, Inputs, Phase};

/// Steps taken in a phase before this one, and the epoch it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub step: u64,
    pub epoch: u64,
}

/// The networks that one phase trains. A step is [`PhaseTrainer::load`], then [`PhaseTrainer::compute`]; neither waits
/// for the device, so the loop reads the terms only when they are due.
pub(super) trait PhaseTrainer {
    /// Initial weights that come from files, before the first step of the phase; the file that the backbone's come from.
    fn begin(&mut self) -> Result<Option<Origin>> {
        Ok(None)
    }

    /// Begins with the weights of another checkpoint of this phase, instead of [`PhaseTrainer::begin`].
    fn adopt(&mut self, weights: &InitialWeights) -> Result<()>;

    /// A batch of the loader as tensors.
    fn load(&self, batch: Batch) -> Inputs;

    /// The random inputs of a step, by name.
    fn noise(&self, _: Position, _: &Inputs) -> Vec<(&'static str, Tensor)> {
        Vec::new()
    }

    /// Takes a step; returns the terms of the losses before it, on the device and off the tape. What `gauges` ask for
    /// waits for the device.
    fn compute(&mut self, at: Position, batch: &Inputs, gauges: Option<&mut Gauges>) -> Terms;

    /// Writes all that [`PhaseTrainer::restore`] needs to go on as if there had been no break.
    fn save(&mut self, files: &WeightFiles) -> Result<()>;

    fn restore(&mut self, folder: &Path) -> Result<()>;

    /// The other phases whose checkpoints these networks began with or use.
    fn builds_on(&self) -> Vec<(Phase, u64)> {
        Vec::new()
    }

    /// The learning rate of each optimizer, by the network that it trains.
    fn learning_rates(&self) -> Vec<(&'static str, f64)>;

    /// What the networks make of fixed captions or images after `step`, and what it is called; none where there is nothing to see.
    fn sample(&mut self, _step: u64) -> Option<(&'static str, Picture)> {
        None
    }

    /// The captions of [`PhaseTrainer::sample`], from the top.
    fn captions(&self) -> &[String] {
        &[]
    }

    /// Losses and metrics on `eval.follow_images` held-out images, by name, as the networks are now; none where `watch` ended it.
    fn measure(&mut self, watch: &mut dyn Watch) -> Result<Option<Vec<(String, f32)>>>;

    /// The one of [`PhaseTrainer::measure`]'s by which the best checkpoint is kept.
    fn followed(&self) -> Followed {
        Followed { name: R_PRECISION, higher_is_better: true }
    }

    /// The metric of the finished phase.
    fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<Evaluation>;
}

/// What a step tells beside its losses, by tag: norms of gradients, how often discriminators are right.
pub(super) type Gauges = Vec<(String, f64)>;

/// Takes the norm of a network's gradients.
pub(super) fn gauge_norm(gauges: &mut Option<&mut Gauges>, network: &str, adam: &Adam, gradients: &Grads) {
    if let Some(gauges) = gauges {
        gauges.push(gradient_norm(network, adam.norm(gradients)));
    }
}

/// The gauge of a network's global gradient norm.
pub(super) fn gradient_norm(network: &str, norm: f32) -> (String, f64) {
    (format!("gradient_norm/{network}"), f64::from(norm))
}

/// The measure by which the best checkpoint of a phase is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed {
    pub name: &'static str,
    pub higher_is_better: bool,
}

/// How an evaluation ended.
pub(super) enum Evaluation {
    Metric(Metric),
    /// Why these data give no metric.
    None(String),
    Interrupted,
}

/// The weight files of a checkpoint under construction.
pub(super) struct WeightFiles<'a> {
    pub folder: &'a Path,
    pub step: u64,
    pub preset: &'a str,
}

impl WeightFiles<'_> {
    /// Writes the file of a network, or of the optimizers.
    ///
    /// # Errors
    /// `NotFinite` where a number is not, so that every checkpoint is one to go on from.
    pub fn write(&self, name: &str, mut archive: Archive) -> Result<()> {
        if let Some(NotFinite { name: tensor, value, .. }) = archive.not_finite() {
            let term = format!("{name}: {tensor}");
            return Err(Error::NotFinite { step: self.step, term, value, advice: String::new() });
        }
        archive.set_metadata("step", self.step.to_string());
        archive.set_metadata("preset", self.preset);
        archive.write(weight_file(self.folder, name))
    }
}

/// A network in training, its parameters, and their optimizer.
pub(super) struct Trainable<N> {
    pub network: N,
    pub store: Store,
    pub adam: Adam,
}

impl<N> Trainable<N> {
    pub fn new((network, store): (N, Store), adam: AdamConfig) -> Trainable<N> {
        Trainable { network, adam: Adam::new(store.params(), adam), store }
    }

    /// Writes the weights, and puts the optimizer's state into a section of `optimizer`.
    pub fn save(&self, files: &WeightFiles, name: &str, optimizer: &mut Archive) -> Result<()> {
        optimizer.add_section(name, self.adam.archive());
        files.write(name, self.store.archive())
    }

    pub fn restore(&mut self, folder: &Path, name: &str, optimizer: &mut Archive) -> Result<()> {
        self.store.load(Archive::read(weight_file(folder, name))?)?;
        self.adam.load(optimizer.take_section(name))
    }
}

/// Gives the backbone in `store` the ImageNet weights that its configuration names.
pub(super) fn begin_backbone(store: &Store, backbone: &BackboneConfig) -> Result<Option<Origin>> {
    let Some(file) = backbone.weights.as_ref().map(Path::new) else { return Ok(None) };
    load_imagenet(store, backbone.kind, file)?;
    Origin::read(file).map(Some)
}

pub(super) const R_PRECISION: &str = "r_precision";
/// The loss on held-out images.
pub(super) const HELD_OUT_LOSS: &str = "held_out_loss";

/// The R-precision of `of`, such as real images.
pub(super) fn r_precision_metric(context: &Context, of: &str, codes: Option<Codes>) -> Evaluation {
    let Some(codes) = codes else { return Evaluation::Interrupted };
    let (candidates, seed) = (context.config.eval.candidates, context.config.run.seed);
    let value = match top_1(&codes, candidates, seed) {
        Ok(value) => value,
        Err(error) => {
            return Evaluation::None(format!(
                "no R-precision of {of} (eval.candidates = {candidates}): {}",
                error.reason()
            ));
        }
    };
    let count = codes.classes.len();
    let chance = 1.0 / candidates as f32;
    let message =
        format!("R-precision of {count} {of} among {candidates} captions: {value:.3} (chance {chance:.3})");
    Evaluation::Metric(Metric { name: R_PRECISION.to_string(), value, message })
}

/// The share of images that find their caption among the candidates.
fn top_1(codes: &Codes, candidates: usize, seed: u64) -> Result<f32> {
    let features = |rows: &[Vec<f32>]| {
        let width = rows.first().map_or(1, Vec::len);
        Features::of_rows(width, rows.iter().map(Vec::as_slice))
    };
    let (images, captions) = (features(&codes.images)?, features(&codes.captions)?);
    Ok(r_precision(&images, &captions, &codes.classes, candidates, 1, seed)?.top[0].value as f32)
}
