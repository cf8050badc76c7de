use std::path::Path;
use std::sync::Arc;

use super::checkpoint::{Checkpoint, Checkpoints};
use super::phase::Phase;
use crate::config::Config;
use crate::data::loader::CACHE_BYTES;
use crate::data::{Dataset, EvalBatches, Item, LoaderConfig};
use crate::error::{Error, Result};

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
    pub fn finished(&self, kind: Phase) -> Result<Checkpoint> {
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

    pub fn loader(&self, kind: Phase) -> LoaderConfig {
        let config = self.config;
        LoaderConfig {
            batch: kind.length(config).0,
            sizes: if kind == Phase::Gan { config.gan.sizes() } else { vec![config.gan.largest()] },
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
            ..self.loader(Phase::Gan)
        };
        EvalBatches::new(Arc::new(chosen), loader, 0)
    }
}
