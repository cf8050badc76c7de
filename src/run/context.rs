use std::path::Path;
use std::sync::Arc;

use super::checkpoint::{Checkpoint, Checkpoints};
use super::inputs::Inputs;
use super::phase::Phase;
use crate::config::Config;
use crate::data::loader::CACHE_BYTES;
use crate::data::{Dataset, EvalBatches, Item, LoaderConfig};
use crate::error::{Error, Result};

/// What every phase reads: configuration, data set, run folder.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub config: &'a Config,
    pub dataset: &'a Dataset,
    pub run: &'a Path,
    /// Phases may build on ones that are not finished, as in a call with `--steps`.
    pub on_unfinished: bool,
}

impl Context<'_> {
    /// Words of the vocabulary.
    pub fn words(&self) -> usize {
        self.dataset.vocabulary.len()
    }

    /// The newest checkpoint of a phase that another one needs.
    pub fn trained(&self, phase: Phase) -> Result<Checkpoint> {
        let (name, run) = (phase.name(), self.run.display());
        let (state, resume) = match Checkpoints::of(self.run, phase).latest()? {
            Some(checkpoint) if checkpoint.state.finished || self.on_unfinished => return Ok(checkpoint),
            Some(checkpoint) => {
                (format!("is not finished (it is at step {})", checkpoint.state.step), "--resume ")
            }
            None => ("is not trained yet".to_string(), ""),
        };
        let why = format!(
            "the {name} phase {state} in {run}; train it with {resume}--phase {name}, or all with {resume}--phase all"
        );
        Err(Error::config("--phase", why))
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
        let (items, count) = (self.held_out_items(), self.held_out_count(count));
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

    /// As [`Context::held_out`], in one batch; none where none of the images can be used.
    pub fn samples(&self, count: usize) -> Result<Option<Inputs>> {
        let batch = self.held_out(count, count)?.next().transpose()?.filter(|batch| !batch.is_empty());
        Ok(batch.map(|batch| Inputs::new(batch, &[self.config.largest_side()])))
    }

    /// How many images [`Context::held_out`] takes.
    pub fn held_out_count(&self, count: usize) -> usize {
        count.min(self.held_out_items().len())
    }

    fn held_out_items(&self) -> &[Item] {
        if self.dataset.test.is_empty() { &self.dataset.train } else { &self.dataset.test }
    }
}
