use std::path::Path;
use std::sync::Arc;

use super::checkpoint::{Checkpoint, Checkpoints};
use super::phase::Phase;
use crate::config::Config;
use crate::data::loader::CACHE_BYTES;
use crate::data::{Dataset, EvalBatches, Item, LoaderConfig};
use crate::error::{Error, Result};

/// What every phase reads: configuration, data set, run folder.
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

    /// The newest checkpoint of a phase that must be finished by now.
    pub fn finished(&self, phase: Phase) -> Result<Checkpoint> {
        match Checkpoints::of(self.run, phase).latest()? {
            Some(checkpoint) if checkpoint.state.finished => Ok(checkpoint),
            _ => {
                let (name, run) = (phase.name(), self.run.display());
                let why = format!(
                    "the {name} phase is not finished in {run}; train it with --phase {name}, or all with --phase all"
                );
                Err(Error::config("phase", why))
            }
        }
    }

    /// The sides of the images that a phase trains on, smallest first.
    pub fn image_sides(&self, phase: Phase) -> Vec<usize> {
        match phase {
            Phase::Gan => self.config.generator.image_sides(),
            Phase::Damsm | Phase::Captioner => vec![self.config.largest_side()],
        }
    }

    pub fn loader(&self, phase: Phase) -> LoaderConfig {
        let config = self.config;
        LoaderConfig {
            batch: phase.schedule(config).batch,
            sizes: self.image_sides(phase),
            words: config.data.words_train,
            train: true,
            augment: config.data.augment,
            workers: config.data.workers,
            seed: config.run.seed,
            cache_bytes: CACHE_BYTES,
            decode: config.data.decode,
        }
    }

    /// Test images of the largest size with a caption each, at most `count`, spread evenly over the classes.
    /// Where the data set keeps none for testing, training images.
    pub fn held_out(&self, count: usize, batch: usize) -> Result<EvalBatches> {
        let items = if self.dataset.test.is_empty() { &self.dataset.train } else { &self.dataset.test };
        let count = count.min(items.len());
        let chosen: Vec<Item> = (0..count).map(|i| items[i * items.len() / count].clone()).collect();
        let loader = LoaderConfig {
            batch,
            sizes: vec![self.config.largest_side()],
            words: self.config.data.words_eval,
            train: false,
            ..self.loader(Phase::Gan)
        };
        EvalBatches::new(Arc::new(chosen), loader, 0)
    }
}
