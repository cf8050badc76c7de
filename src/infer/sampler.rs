//! Samples images from a trained run: the text encoder and the averaged generator.

use std::path::Path;

use super::frozen;
use crate::config::Config;
use crate::data::{Vocabulary, captions};
use crate::engine::nn::Mode;
use crate::engine::tensor::no_grad;
use crate::engine::{IntTensor, Tensor};
use crate::error::{Error, Result};
use crate::mirrorgan::generator::{Generated, Generator};
use crate::mirrorgan::stem::{TextEmbedding, TextEncoder};
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Checkpoint, Checkpoints, Phase, RunFolder};

pub struct Sampler {
    pub config: Config,
    pub vocabulary: Vocabulary,
    /// The generator's, such as `gan/step-000123`.
    pub checkpoint: String,
    text: TextEncoder,
    generator: Generator,
}

/// A caption's words as they are used, and those that are left out.
#[derive(Debug)]
pub struct Prompt {
    pub ids: Vec<i32>,
    pub words: Vec<String>,
    pub unknown: Vec<String>,
    /// Known words beyond `data.words_eval`.
    pub beyond: Vec<String>,
}

/// The images of one caption (B = 1), and the inputs that they were generated from.
pub struct Sample {
    pub z: Tensor,
    pub eps: Tensor,
    pub embedding: TextEmbedding,
    pub generated: Generated,
}

impl Sampler {
    /// With the newest checkpoint of each phase, finished or not.
    pub fn open(run: &RunFolder) -> Result<Sampler> {
        let (config, vocabulary) = (run.config()?, run.vocabulary()?);
        let (damsm, gan) = (newest(run, Phase::Damsm)?, newest(run, Phase::Gan)?);
        let text = frozen::text_encoder(&damsm.folder, vocabulary.len(), &config)?;
        let generator = frozen::generator(&gan.folder, &config)?;
        Ok(Sampler { config, vocabulary, checkpoint: gan.name(), text, generator })
    }

    /// The words of a caption; the error says why nothing can be generated from it.
    pub fn prompt(&self, caption: &str) -> std::result::Result<Prompt, String> {
        let tokenizer = self.config.data.open.tokenizer;
        let encoded = captions::encode(caption, &self.vocabulary, tokenizer);
        let ids = captions::fit_eval(&encoded.ids, self.config.data.words_eval);
        if ids.is_empty() && encoded.unknown.is_empty() {
            return Err(match caption.chars().any(char::is_alphabetic) {
                true => format!("no word of '{}' is ASCII: {}", caption.trim(), tokenizer.why_wordless()),
                false => "an empty caption; write what the image should show".to_string(),
            });
        }
        if ids.is_empty() {
            let suggestions = self.suggestions(&encoded.unknown).join("; ");
            return Err(format!("not one word of '{caption}' is known: {suggestions}"));
        }
        let words = |ids: &[i32]| {
            let words = ids.iter().filter_map(|&id| self.vocabulary.word(id));
            words.map(str::to_string).collect::<Vec<_>>()
        };
        let (words, beyond) = (words(&ids), words(&encoded.ids[ids.len()..]));
        Ok(Prompt { ids, words, unknown: encoded.unknown, beyond })
    }

    /// For each unknown word, words spelled like it.
    pub fn suggestions(&self, unknown: &[String]) -> Vec<String> {
        let suggest = |word: &String| match self.vocabulary.near(word, 3) {
            near if near.is_empty() => format!("'{word}' is not in the vocabulary"),
            near => format!("'{word}' is not in the vocabulary (near it: {})", near.join(", ")),
        };
        let mut lines: Vec<String> = unknown.iter().take(NAMED).map(suggest).collect();
        if unknown.len() > NAMED {
            lines.push(format!("{} more words are not in the vocabulary", unknown.len() - NAMED));
        }
        lines
    }

    /// Generates one sample in a batch of its own, so that it does not depend on the others; `index` is its number.
    pub fn sample(&self, ids: &[i32], seed: u64, index: u64) -> Sample {
        let mut rng = rng_for(seed, index, RngStream::Infer);
        let z = rng.normal([1, self.config.generator.noise]);
        let eps = rng.normal([1, self.config.generator.condition]);
        let (captions, lengths) =
            (IntTensor::new(ids.to_vec(), [1, ids.len()]), IntTensor::new(vec![ids.len() as i32], [1]));
        no_grad(|| {
            let embedding = self.text.forward(&captions, &lengths, None);
            let generated = self.generator.forward(&z, &embedding, &lengths, &eps, Mode::Eval);
            Sample { z, eps, embedding, generated }
        })
    }
}

/// Unknown words of a caption that are named one by one.
const NAMED: usize = 8;

impl Sample {
    /// Refuses images and attention maps that are no numbers.
    ///
    /// # Errors
    /// `Data` with the checkpoint, whose weights lead to them.
    pub fn require_finite(&self, checkpoint: &Path) -> Result<()> {
        let Generated { images, attention, .. } = &self.generated;
        for (what, tensors) in [("image", images), ("attention map", attention)] {
            for (tensor, number) in tensors.iter().zip(1..) {
                if let Some(value) = tensor.to_vec().into_iter().find(|value| !value.is_finite()) {
                    let why = format!(
                        "{what} {number} of this caption holds {value}: the weights have diverged; take an earlier checkpoint, or train again with lower learning rates"
                    );
                    return Err(Error::data(checkpoint, why));
                }
            }
        }
        Ok(())
    }
}

fn newest(run: &RunFolder, phase: Phase) -> Result<Checkpoint> {
    Checkpoints::of(run.root(), phase).latest()?.ok_or_else(|| {
        let name = phase.name();
        Error::data(run.root(), format!("there is no checkpoint of the {name} phase yet; train or import it"))
    })
}
