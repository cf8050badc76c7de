//! Batches, prepared ahead of the step on threads of their own; the threads' timing does not change them.
//!
//! Batch `k` is a pure function of the items, the configuration and `k`. Of `n` workers, worker `w` prepares
//! the batches `start + w`, `start + w + n`, ... into a bounded queue of its own, and the loader takes from the
//! queues in turn: order needs no sorting, and a run that starts at step `k` gets batch `k`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::captions::{fit_eval, fit_train};
use super::crop::{Cut, prepare};
use super::dataset::{Item, Skip};
use super::decode::DecodeConfig;
use super::picture::Picture;
use super::rng::rng_for;
use crate::error::{Error, Result};

/// Bytes of prepared images kept in memory unless told otherwise.
pub const CACHE_BYTES: usize = 512 << 20;

/// Batches that a worker may be ahead of the step.
const AHEAD: usize = 2;

/// The rng index that shuffles an epoch; items use the indices below.
const SHUFFLE: u64 = u64::MAX;

/// How batches are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Samples in a batch.
    pub batch: usize,
    /// Sides of the stages' images, ascending, such as `[64, 128, 256]`.
    pub sizes: Vec<usize>,
    /// Words of a caption (T); shorter ones are padded with 0.
    pub words: usize,
    /// Training shuffles and draws a caption; otherwise items come in order with their first caption.
    pub train: bool,
    /// Training cuts and mirrors at random; without it, and otherwise, images are cut in the middle.
    pub augment: bool,
    /// Threads that prepare batches; at least one works.
    pub workers: usize,
    pub seed: u64,
    /// Prepared images are kept in memory up to this many bytes.
    pub cache_bytes: usize,
    pub decode: DecodeConfig,
}

/// A batch of B samples, sorted by falling caption length.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// One entry a stage: `[B, size, size, 3]`, values in [−1, 1].
    pub images: Vec<Vec<f32>>,
    /// `[B, T]` word ids, padded with 0.
    pub captions: Vec<i32>,
    /// `[B]` words of each caption, from 1 to T.
    pub lengths: Vec<i32>,
    /// `[B]`
    pub classes: Vec<i32>,
    /// `[B]` ids of the items.
    pub keys: Vec<String>,
    pub epoch: u64,
    /// Images that could not be used and were replaced by the next good one; a loader names each once.
    pub skipped: Vec<Skip>,
}

impl Batch {
    /// How many samples there are (B).
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// An endless sequence of batches; dropping it ends its threads.
pub struct Loader {
    source: Arc<Source>,
    /// One for each worker; dropping them ends the workers.
    queues: Vec<Receiver<Result<Batch>>>,
    workers: Vec<JoinHandle<()>>,
    taken: usize,
    /// Unusable images that were named.
    named: HashSet<PathBuf>,
}

impl Loader {
    /// Starts preparing batches from `start_step` on.
    ///
    /// # Errors
    /// `Config` when the batch is larger than the data set, the sizes or words make no sense, or no thread starts.
    pub fn new(items: Arc<Vec<Item>>, config: LoaderConfig, start_step: u64) -> Result<Loader> {
        let source = Arc::new(Source::new(items, config)?);
        source.require_whole_batch()?;
        let count = source.config.workers.max(1);
        let mut loader =
            Loader { source, queues: Vec::new(), workers: Vec::new(), taken: 0, named: HashSet::new() };
        for worker in 0..count {
            let (sender, queue) = sync_channel(AHEAD);
            let source = Arc::clone(&loader.source);
            let steps = (start_step + worker as u64..).step_by(count);
            let thread = thread::Builder::new().name(format!("loader-{worker}"));
            let started = thread.spawn(move || work(&source, steps, &sender));
            // Dropping the loader ends those that did start.
            loader.workers.push(started.map_err(|error| no_thread(worker, count, &error))?);
            loader.queues.push(queue);
        }
        Ok(loader)
    }

    /// The batch of the next step, waiting for it if need be.
    ///
    /// # Errors
    /// `Data` when no image of the data set can be used.
    ///
    /// # Panics
    /// When a worker panicked.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let queue = &self.queues[self.taken % self.queues.len()];
        self.taken += 1;
        let batch = queue.recv().expect("a worker of the loader panicked; its message stands above");
        batch.map(|mut batch| {
            batch.skipped.retain(|skip| self.named.insert(skip.file.clone()));
            batch
        })
    }

    /// Whole batches in an epoch; what is left over joins none of them.
    pub fn batches_per_epoch(&self) -> u64 {
        self.source.batches_per_epoch()
    }

    /// Images found unusable so far, each once, in the order of the items.
    pub fn skipped(&self) -> Vec<Skip> {
        self.source.skipped()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.queues.clear();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn no_thread(worker: usize, count: usize, error: &std::io::Error) -> Error {
    let why = format!(
        "the system starts no more threads ({error}) after {worker} of {count}; take fewer here or with --threads, or \
         raise the limit (ulimit -u)"
    );
    Error::config("data.workers", why)
}

/// Prepares the batches of `steps` until the loader is dropped.
fn work(source: &Source, steps: impl Iterator<Item = u64>, sender: &SyncSender<Result<Batch>>) {
    for step in steps {
        if sender.send(source.batch(step)).is_err() {
            return;
        }
    }
}

/// All items once, in order, without augmentation; the last batch may be smaller.
///
/// Every item takes its caption number `caption`, or that number modulo its count where it has fewer: eleven
/// passes with 0 to 10 give the published protocol of 30,000 images.
pub struct EvalBatches {
    source: Source,
    caption: usize,
    at: usize,
}

impl EvalBatches {
    /// # Errors
    /// `Config` when there is no item, or the batch, sizes or words make no sense.
    pub fn new(items: Arc<Vec<Item>>, config: LoaderConfig, caption: usize) -> Result<EvalBatches> {
        let source = Source::new(items, LoaderConfig { train: false, ..config })?;
        if source.items.is_empty() {
            return Err(Error::config("data", "no image to evaluate on: this split is empty"));
        }
        Ok(EvalBatches { source, caption, at: 0 })
    }
}

/// An image that cannot be used is left out of its batch, not replaced: metrics count each item once.
impl Iterator for EvalBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let end = (self.at + self.source.config.batch).min(self.source.items.len());
        if self.at == end {
            return None;
        }
        let sample = |index| {
            let picture = self.source.picture(index)?;
            Ok(picture.map(|picture| self.source.eval_sample(index, &picture, self.caption)))
        };
        let tried: Result<Vec<_>> = (self.at..end).into_par_iter().map(sample).collect();
        self.at = end;
        Some(tried.map(|tried| {
            let mut skipped = Vec::new();
            let keep =
                |sample: std::result::Result<Sample, Skip>| sample.map_err(|skip| skipped.push(skip)).ok();
            let samples = tried.into_iter().filter_map(keep).collect();
            self.source.assemble(samples, 0, skipped)
        }))
    }
}

/// An image cut for every stage, with its caption.
struct Sample {
    index: usize,
    images: Vec<Picture>,
    caption: Vec<i32>,
}

/// What batches are made from. The workers share it; nothing in it depends on their order.
struct Source {
    items: Arc<Vec<Item>>,
    config: LoaderConfig,
    /// For each item the prepared image, or why there is none, once known.
    prepared: Vec<OnceLock<std::result::Result<Arc<Picture>, String>>>,
    cached: AtomicUsize,
}

impl Source {
    fn new(items: Arc<Vec<Item>>, config: LoaderConfig) -> Result<Source> {
        let ascending = config.sizes.windows(2).all(|pair| pair[0] < pair[1]);
        if config.sizes.is_empty() || config.sizes[0] == 0 || !ascending {
            let why = format!("{:?} must be ascending sides in pixels, such as [64, 128, 256]", config.sizes);
            return Err(Error::config("sizes", why));
        }
        if config.batch == 0 || config.words == 0 {
            return Err(Error::config("batch, words", "both must be at least 1"));
        }
        if let Some(packed) = items.iter().find_map(|item| item.packed.as_ref()) {
            packed.packing().require(config.sizes[config.sizes.len() - 1], &config.decode)?;
        }
        let prepared = (0..items.len()).map(|_| OnceLock::new()).collect();
        Ok(Source { items, config, prepared, cached: AtomicUsize::new(0) })
    }

    fn require_whole_batch(&self) -> Result<()> {
        let (batch, items) = (self.config.batch, self.items.len());
        if batch <= items {
            return Ok(());
        }
        let why = format!(
            "a batch of {batch} is larger than the data set of {items} images; set it to {items} or less, or add data"
        );
        Err(Error::config("batch", why))
    }

    fn batches_per_epoch(&self) -> u64 {
        (self.items.len() / self.config.batch) as u64
    }

    /// Batch number `step`, counted from 0 over all epochs.
    fn batch(&self, step: u64) -> Result<Batch> {
        let epoch = step / self.batches_per_epoch();
        let first = (step % self.batches_per_epoch()) as usize * self.config.batch;
        let order = self.order(epoch);
        let mut skipped = Vec::new();
        let chosen = order[first..first + self.config.batch].iter();
        let samples = chosen.map(|index| self.sample(*index, epoch, &mut skipped)).collect::<Result<_>>()?;
        Ok(self.assemble(samples, epoch, skipped))
    }

    /// The indices of the items in the order of an epoch.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        if self.config.train {
            order.shuffle(&mut rng_for(self.config.seed, epoch, SHUFFLE));
        }
        order
    }

    /// The sample at `index`, or at the next index that has a usable image.
    fn sample(&self, index: usize, epoch: u64, skipped: &mut Vec<Skip>) -> Result<Sample> {
        let count = self.items.len();
        for index in (index..index + count).map(|index| index % count) {
            match self.picture(index)? {
                Ok(picture) if self.config.train => {
                    let mut rng = rng_for(self.config.seed, epoch, index as u64);
                    return Ok(self.train_sample(index, &picture, &mut rng));
                }
                Ok(picture) => return Ok(self.eval_sample(index, &picture, 0)),
                Err(skip) => skipped.push(skip),
            }
        }
        let Skip { file, why } = &skipped[0];
        Err(Error::data(file, format!("{why}; and none of the other images can be used either")))
    }

    fn train_sample(&self, index: usize, picture: &Picture, rng: &mut Xoshiro256PlusPlus) -> Sample {
        let side = self.largest();
        let cut =
            if self.config.augment { Cut::random(picture, side, rng) } else { Cut::center(picture, side) };
        let captions = &self.items[index].captions;
        let chosen = &captions[rng.random_range(0..captions.len())];
        let caption = fit_train(chosen, self.config.words, rng);
        Sample { index, images: self.stages(picture, cut), caption }
    }

    fn eval_sample(&self, index: usize, picture: &Picture, caption: usize) -> Sample {
        let captions = &self.items[index].captions;
        let caption = fit_eval(&captions[caption % captions.len()], self.config.words);
        let cut = Cut::center(picture, self.largest());
        Sample { index, images: self.stages(picture, cut), caption }
    }

    fn largest(&self) -> usize {
        *self.config.sizes.last().expect("sizes were checked")
    }

    /// The cut for every stage; the smaller ones are resized from the largest.
    fn stages(&self, picture: &Picture, cut: Cut) -> Vec<Picture> {
        let square = picture.cut(self.largest(), cut);
        let smaller = &self.config.sizes[..self.config.sizes.len() - 1];
        let mut images: Vec<Picture> = smaller.iter().map(|size| square.resized(*size, *size)).collect();
        images.push(square);
        images
    }

    /// The prepared image at `index`, from memory where it is kept, or why it cannot be used. A damaged pack is an error,
    /// since training without some of its images would be another training.
    fn picture(&self, index: usize) -> Result<std::result::Result<Arc<Picture>, Skip>> {
        let item = &self.items[index];
        let picture = match (self.prepared[index].get(), &item.packed) {
            (Some(known), _) => known.clone(),
            // The system keeps a pack's pages in memory; a second copy here would gain nothing.
            (None, Some(packed)) => {
                let fresh = packed.picture(&item.id)?.map(Arc::new);
                if fresh.is_err() {
                    self.keep(index, &fresh);
                }
                fresh
            }
            (None, None) => {
                let fresh = prepare(&item.image, item.bbox, self.largest(), &self.config.decode);
                let fresh = fresh.map(Arc::new).map_err(Error::reason);
                self.keep(index, &fresh);
                fresh
            }
        };
        Ok(picture.map_err(|why| Skip { file: item.image.clone(), why }))
    }

    fn keep(&self, index: usize, picture: &std::result::Result<Arc<Picture>, String>) {
        let bytes = picture.as_ref().map_or(0, |picture| picture.pixels.len());
        let used = self.cached.fetch_add(bytes, Ordering::Relaxed);
        if used + bytes > self.config.cache_bytes || self.prepared[index].set(picture.clone()).is_err() {
            self.cached.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn skipped(&self) -> Vec<Skip> {
        let known = self.items.iter().zip(&self.prepared);
        known
            .filter_map(|(item, slot)| match slot.get() {
                Some(Err(why)) => Some(Skip { file: item.image.clone(), why: why.clone() }),
                _ => None,
            })
            .collect()
    }

    fn assemble(&self, mut samples: Vec<Sample>, epoch: u64, skipped: Vec<Skip>) -> Batch {
        samples.sort_by_key(|sample| std::cmp::Reverse(sample.caption.len()));
        let item = |sample: &Sample| &self.items[sample.index];
        let padded = |sample: &Sample| {
            let padding = self.config.words - sample.caption.len();
            sample.caption.iter().copied().chain(std::iter::repeat_n(0, padding)).collect::<Vec<i32>>()
        };
        let stage = |(stage, side): (usize, &usize)| {
            let mut values = Vec::with_capacity(samples.len() * side * side * 3);
            samples.iter().for_each(|sample| sample.images[stage].normalize_into(&mut values));
            values
        };
        Batch {
            images: self.config.sizes.iter().enumerate().map(stage).collect(),
            captions: samples.iter().flat_map(padded).collect(),
            lengths: samples.iter().map(|sample| sample.caption.len() as i32).collect(),
            classes: samples.iter().map(|sample| item(sample).class).collect(),
            keys: samples.iter().map(|sample| item(sample).id.clone()).collect(),
            epoch,
            skipped,
        }
    }
}
