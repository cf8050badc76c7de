//! A trained run, ready to paint: the text encoder and the averaged generator.

use crate::config::Config;
use crate::data::{Vocabulary, captions};
use crate::engine::nn::Mode;
use crate::engine::tensor::no_grad;
use crate::engine::{Ids, Tensor};
use crate::error::{Error, Result};
use crate::mirrorgan::generator::{Generated, Generator};
use crate::mirrorgan::stem::{Meaning, TextEncoder};
use crate::train::noise::{Purpose, stream};
use crate::train::{Checkpoint, Checkpoints, Kind, RunFolder, damsm, gan};

pub struct Painter {
    pub config: Config,
    pub vocabulary: Vocabulary,
    text: TextEncoder,
    generator: Generator,
}

/// A caption's known words, and those that are not known.
pub struct Wish {
    pub ids: Vec<i32>,
    pub words: Vec<String>,
    pub unknown: Vec<String>,
}

/// One picture of one caption (B = 1), and what it was made from.
pub struct Painting {
    pub z: Tensor,
    pub eps: Tensor,
    pub meaning: Meaning,
    pub made: Generated,
}

impl Painter {
    /// With the newest checkpoint, finished or not.
    pub fn open(run: &RunFolder) -> Result<Painter> {
        let (config, vocabulary) = (run.config()?, run.vocabulary()?);
        let (matching, newest) = (newest(run, Kind::Damsm)?, newest(run, Kind::Gan)?);
        let text = damsm::frozen_text_encoder(&matching.folder, vocabulary.len(), &config)?;
        let generator = gan::frozen_generator(&newest.folder, &config)?;
        Ok(Painter { config, vocabulary, text, generator })
    }

    /// The words of a caption; the error says why there is nothing to paint.
    pub fn wish(&self, caption: &str) -> std::result::Result<Wish, String> {
        let encoded = captions::encode(caption, &self.vocabulary);
        let ids = captions::fit_eval(&encoded.ids, self.config.data.words_eval);
        if ids.is_empty() && encoded.unknown.is_empty() {
            return Err("an empty caption; write a sentence about what to paint".to_string());
        }
        if ids.is_empty() {
            let told = self.suggestions(&encoded.unknown).join("; ");
            return Err(format!("not one word of '{caption}' is known: {told}"));
        }
        let words = ids.iter().filter_map(|&id| self.vocabulary.word(id)).map(str::to_string).collect();
        Ok(Wish { ids, words, unknown: encoded.unknown })
    }

    /// For each unknown word, words spelt like it.
    pub fn suggestions(&self, unknown: &[String]) -> Vec<String> {
        let suggest = |word: &String| match self.vocabulary.near(word, 3) {
            near if near.is_empty() => format!("'{word}' is not in the vocabulary"),
            near => format!("'{word}' is not in the vocabulary (near it: {})", near.join(", ")),
        };
        unknown.iter().map(suggest).collect()
    }

    /// Paints alone, so that a picture does not depend on what it is painted beside; `place` is its number.
    pub fn paint(&self, ids: &[i32], seed: u64, place: u64) -> Painting {
        let mut rng = stream(seed, place, Purpose::Infer);
        let z = rng.normal([1, self.config.gan.noise]);
        let eps = rng.normal([1, self.config.gan.condition]);
        let (captions, lengths) =
            (Ids::new(ids.to_vec(), [1, ids.len()]), Ids::new(vec![ids.len() as i32], [1]));
        no_grad(|| {
            let meaning = self.text.forward(&captions, &lengths, None);
            let made = self.generator.forward(&z, &meaning, &lengths, &eps, Mode::Eval);
            Painting { z, eps, meaning, made }
        })
    }
}

fn newest(run: &RunFolder, kind: Kind) -> Result<Checkpoint> {
    let name = kind.name();
    Checkpoints::of(run.root(), name).latest()?.ok_or_else(|| {
        Error::data(run.root(), format!("there is no checkpoint of the {name} stage yet; train it first"))
    })
}
