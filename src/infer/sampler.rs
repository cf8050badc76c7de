//! Samples images from a trained run, in batches: the text encoder and the generator.

use super::frozen::{self, GENERATOR, RAW_GENERATOR};
use super::prompt::{Prompt, suggestions};
use super::request::{NoiseValues, Request, Text};
use super::samples::Samples;
use crate::config::Config;
use crate::data::Vocabulary;
use crate::engine::ops::shape::slice;
use crate::engine::tensor::no_grad;
use crate::engine::{IntTensor, Tensor};
use crate::error::{Error, Result};
use crate::mirrorgan::generator::{Generator, Stage};
use crate::mirrorgan::stem::{TextEmbedding, TextEncoder};
use crate::run::{Checkpoint, Checkpoints, Phase, RunFolder};

pub struct Sampler {
    pub config: Config,
    pub vocabulary: Vocabulary,
    /// The generator's, such as `gan/step-000123`.
    pub checkpoint: String,
    /// The file stem of its weights.
    pub weights: &'static str,
    text: TextEncoder,
    generator: Generator,
}

/// Which weights of the generator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Weights {
    /// The averaged ones of the newest checkpoint.
    #[default]
    Newest,
    /// The averaged ones at a step of the GAN phase.
    Step(u64),
    /// The averaged ones of the checkpoint that did best on held-out images.
    Best,
    /// Those that the newest checkpoint goes on training with.
    Raw,
}

impl Sampler {
    /// With the newest checkpoint of each phase, finished or not, unless `weights` asks for another generator.
    pub fn open(run: &RunFolder, weights: Weights) -> Result<Sampler> {
        let (config, vocabulary) = (run.config()?, run.vocabulary()?);
        let damsm = run.newest(Phase::Damsm)?;
        let gan = match weights {
            Weights::Newest | Weights::Raw => run.newest(Phase::Gan)?,
            Weights::Step(step) => Checkpoints::of(run.root(), Phase::Gan).at(step)?,
            Weights::Best => best(run)?,
        };
        let network = if weights == Weights::Raw { RAW_GENERATOR } else { GENERATOR };
        let text = frozen::text_encoder(&damsm.folder, vocabulary.len(), &config)?;
        let generator = frozen::generator(&gan.folder, network, &config)?;
        Ok(Sampler { config, vocabulary, checkpoint: gan.name(), weights: network, text, generator })
    }

    /// As [`Prompt::of`], by the run's tokenizer and vocabulary.
    pub fn prompt(&self, caption: &str) -> std::result::Result<Prompt, String> {
        Prompt::of(caption, &self.config, &self.vocabulary)
    }

    /// For each unknown word, words spelled like it.
    pub fn suggestions(&self, unknown: &[String]) -> Vec<String> {
        suggestions(unknown, &self.vocabulary)
    }

    /// Generates what is asked for, in order and in batches of at most `batch`, and hands each batch to `each`, which says whether to
    /// go on. Whether all was generated. Nothing of a batch is kept when the next begins.
    ///
    /// On the CPU a sample is the same, bit for bit, whatever the batch and however many threads; on CUDA up to the order of
    /// sums. Whoever uses the samples calls [`Samples::require_finite`].
    pub fn generate<E>(
        &self,
        requests: impl IntoIterator<Item = Request>,
        batch: usize,
        mut each: impl FnMut(&Samples) -> std::result::Result<bool, E>,
    ) -> std::result::Result<bool, E> {
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let next: Vec<Request> = requests.by_ref().take(batch.max(1)).collect();
            let goes_on = each(&self.sample(&next))?;
            if !goes_on && requests.peek().is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One batch.
    pub fn sample(&self, requests: &[Request]) -> Samples {
        self.sample_by_stage(requests, |_| ())
    }

    /// As [`Sampler::sample`], and `each` is called with every stage as soon as its images are there.
    pub fn sample_by_stage(&self, requests: &[Request], each: impl FnMut(Stage)) -> Samples {
        let config = &self.config.generator;
        let noises: Vec<NoiseValues> = requests.iter().map(|request| request.noise.values(config)).collect();
        let stack = |width: usize, part: fn(&NoiseValues) -> &[f32]| {
            Tensor::from_vec(noises.iter().flat_map(part).copied().collect(), [requests.len(), width])
        };
        let (z, eps) = (stack(config.noise, |noise| &noise.z), stack(config.condition, |noise| &noise.eps));
        no_grad(|| {
            let (embedding, lengths) = self.embed(requests);
            let generated = self.generator.forward_by_stage(&z, &embedding, &lengths, &eps, each);
            Samples { z, eps, lengths, embedding, generated }
        })
    }

    /// The embedding of a caption, [1,T,D] and [1,D].
    pub fn embedding(&self, ids: &[i32]) -> TextEmbedding {
        let (words, lengths) = self.padded([ids]);
        let embedding = no_grad(|| self.text.forward(&words, &lengths, None));
        TextEmbedding { words: slice(&embedding.words, 1, 0, ids.len()), sentence: embedding.sentence }
    }

    /// Embeddings with room for `data.words_eval` words whatever the captions, so that no sum depends on the batch.
    fn embed(&self, requests: &[Request]) -> (TextEmbedding, IntTensor) {
        // A row whose embedding is given holds a word that is not looked at.
        let ids = requests.iter().map(|request| match &request.text {
            Text::Words(ids) => &ids[..],
            Text::Embedding(_) => &[0],
        });
        let (words, lengths) = self.padded(ids);
        let encoded = self.text.forward(&words, &lengths, None);
        if requests.iter().all(|request| matches!(request.text, Text::Words(_))) {
            return (encoded, lengths);
        }
        let [rows, room, width] = encoded.words.dims();
        let (mut words, mut sentences) = (encoded.words.to_vec(), encoded.sentence.to_vec());
        let mut lengths = lengths.as_slice().to_vec();
        for (row, request) in requests.iter().enumerate() {
            let Text::Embedding(given) = &request.text else { continue };
            let given_words = given.words.to_vec();
            words[row * room * width..][..given_words.len()].copy_from_slice(&given_words);
            sentences[row * width..][..width].copy_from_slice(&given.sentence.to_vec());
            lengths[row] = (given_words.len() / width) as i32;
        }
        let words = Tensor::from_vec(words, [rows, room, width]);
        let embedding = TextEmbedding { words, sentence: Tensor::from_vec(sentences, [rows, width]) };
        (embedding, IntTensor::new(lengths, [rows]))
    }

    /// Word ids [B,T], 0 beyond each length, and lengths [B].
    fn padded<'a>(&self, captions: impl IntoIterator<Item = &'a [i32]>) -> (IntTensor, IntTensor) {
        let (room, mut words, mut lengths) = (self.config.data.words_eval, Vec::new(), Vec::new());
        for ids in captions {
            assert!(
                (1..=room).contains(&ids.len()),
                "a caption of {} words, where 1 to {room} fit",
                ids.len()
            );
            words.extend(ids);
            lengths.push(ids.len() as i32);
            words.resize(lengths.len() * room, 0);
        }
        let rows = lengths.len();
        (IntTensor::new(words, [rows, room]), IntTensor::new(lengths, [rows]))
    }
}

fn best(run: &RunFolder) -> Result<Checkpoint> {
    let checkpoints = Checkpoints::of(run.root(), Phase::Gan);
    let Some(best) = checkpoints.best() else {
        let why = "no checkpoint of the gan phase was found to be the best: the run was not measured as it was trained (run.eval_every)";
        return Err(Error::data(run.root(), why));
    };
    checkpoints.at(best.step)
}
