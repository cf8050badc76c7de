//! What the stages of training have in common.

use std::path::Path;
use std::sync::Arc;

use super::inputs::Inputs;
use crate::config::Config;
use crate::data::loader::CACHE_BYTES;
use crate::data::{Dataset, EvalBatches, Item, LoaderConfig, Picture};
use crate::error::{Error, Result};

use super::checkpoint::{Checkpoint, Checkpoints};

/// The stages, in the order in which each needs the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Damsm,
    Stream,
    Gan,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Damsm => "damsm",
            Kind::Stream => "stream",
            Kind::Gan => "gan",
        }
    }

    /// Samples in a batch, steps, and epochs where the steps are 0.
    pub(super) fn length(self, config: &Config) -> (usize, u64, u64) {
        match self {
            Kind::Damsm => (config.damsm.batch, config.damsm.steps, config.damsm.epochs),
            Kind::Stream => (config.stream.batch, config.stream.steps, config.stream.epochs),
            Kind::Gan => (config.train.batch, config.train.steps, config.train.epochs),
        }
    }

    /// The key of the batch size in a configuration.
    pub(super) fn batch_key(self) -> &'static str {
        match self {
            Kind::Damsm => "damsm.batch",
            Kind::Stream => "stream.batch",
            Kind::Gan => "train.batch",
        }
    }
}

/// A place in a stage: steps taken before this one, and the epoch it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub step: u64,
    pub epoch: u64,
}

/// A number by which a finished stage is judged.
pub struct Figure {
    pub name: String,
    pub value: f32,
    pub told: String,
}

/// A network, or a few, in training.
pub(super) trait Stage {
    /// Learns from a batch; returns the terms of the losses as they were before.
    fn step(&mut self, at: At, batch: &Inputs) -> Vec<(String, f32)>;

    /// Writes all that [`Stage::load`] needs to go on as if there had been no break.
    fn save(&mut self, folder: &Path) -> Result<()>;

    fn load(&mut self, folder: &Path) -> Result<()>;

    /// Fixed captions with fixed noise, as they look now; nothing where the stage paints nothing.
    fn paint(&mut self) -> Option<Picture> {
        None
    }

    /// The captions that [`Stage::paint`] paints, from the top.
    fn captions(&self) -> &[String] {
        &[]
    }

    /// What the finished stage is judged by; nothing where the data are too few.
    fn figure(&mut self) -> Result<Option<Figure>>;
}

/// What every stage is given.
pub struct Context<'a> {
    pub config: &'a Config,
    pub dataset: &'a Dataset,
    pub run: &'a Path,
}

impl Context<'_> {
    /// Words of the vocabulary.
    pub fn words(&self) -> usize {
        self.dataset.vocabulary.len()
    }

    /// The newest checkpoint of a stage that must be finished by now.
    pub(super) fn finished(&self, kind: Kind) -> Result<Checkpoint> {
        let name = kind.name();
        match Checkpoints::of(self.run, name).latest()? {
            Some(checkpoint) if checkpoint.state.finished => Ok(checkpoint),
            _ => {
                let why = format!(
                    "the {name} stage is not finished in {}; train it with --stage {name}, or all with --stage all",
                    self.run.display()
                );
                Err(Error::config("stage", why))
            }
        }
    }

    pub(super) fn loader(&self, kind: Kind) -> LoaderConfig {
        let config = self.config;
        LoaderConfig {
            batch: kind.length(config).0,
            sizes: if kind == Kind::Gan { config.gan.sizes() } else { vec![config.gan.largest()] },
            words: config.data.words_train,
            train: true,
            augment: config.data.augment,
            workers: config.data.workers,
            seed: config.train.seed,
            cache_bytes: CACHE_BYTES,
        }
    }

    /// Test pictures of the largest size with a caption each, at most `count`, spread evenly over the classes.
    /// Where nothing is kept for testing, training pictures.
    pub fn held_out(&self, count: usize, batch: usize) -> Result<EvalBatches> {
        let items = if self.dataset.test.is_empty() { &self.dataset.train } else { &self.dataset.test };
        let count = count.min(items.len());
        let chosen: Vec<Item> = (0..count).map(|i| items[i * items.len() / count].clone()).collect();
        let loader = LoaderConfig {
            batch,
            sizes: vec![self.config.gan.largest()],
            words: self.config.data.words_eval,
            train: false,
            ..self.loader(Kind::Gan)
        };
        EvalBatches::new(Arc::new(chosen), loader, 0)
    }
}
