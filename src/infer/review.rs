//! What the other networks of a run say of a generated picture: STREAM describes it, DAMSM matches it with its words.

use super::{Samples, frozen};
use crate::config::Config;
use crate::data::Vocabulary;
use crate::engine::nn::Mode;
use crate::engine::tensor::no_grad;
use crate::error::Result;
use crate::mirrorgan::captioner::Captioner;
use crate::mirrorgan::damsm::{ImageEncoder, cosine, word_matches};
use crate::run::{Checkpoints, Phase, RunFolder};

/// The networks that are there; an imported run may lack both.
pub struct Reviewer {
    captioner: Option<Captioner>,
    encoder: Option<ImageEncoder>,
    words: Vec<String>,
    longest: usize,
    gamma1: f32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Review {
    /// STREAM's words, each with its probability given the picture and the words before it; none without a captioner.
    pub description: Option<Vec<(String, f32)>>,
    /// None without DAMSM's image encoder.
    pub matching: Option<Matching>,
}

/// Cosines between a picture and its caption, from -1 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    /// Of each word with the regions that it attends to.
    pub words: Vec<f32>,
    /// Of the sentence with the whole picture.
    pub sentence: f32,
}

impl Reviewer {
    /// The newest captioner and image encoder.
    ///
    /// # Errors
    /// Those of files that are there and cannot be read.
    pub fn open(run: &RunFolder, config: &Config, vocabulary: &Vocabulary) -> Result<Reviewer> {
        let captioner = Checkpoints::of(run.root(), Phase::Captioner).latest()?;
        let captioner = captioner.map(|of| frozen::captioner(&of.folder, vocabulary.len(), config));
        let damsm = run.newest(Phase::Damsm)?;
        let has_encoder = frozen::weight_file(&damsm.folder, frozen::IMAGE_ENCODER).exists();
        let encoder = has_encoder.then(|| frozen::image_encoder(&damsm.folder, config));
        Ok(Reviewer {
            captioner: captioner.transpose()?,
            encoder: encoder.transpose()?,
            words: vocabulary.words().to_vec(),
            longest: config.data.words_eval,
            gamma1: config.damsm.gammas.gamma1,
        })
    }

    pub fn describes(&self) -> bool {
        self.captioner.is_some()
    }

    pub fn matches(&self) -> bool {
        self.encoder.is_some()
    }

    /// Reviews one picture, a batch of [`Samples::sample`].
    pub fn review(&self, sample: &Samples) -> Review {
        let image = sample.largest();
        let word = |(id, probability): (i32, f32)| Some((self.words.get(id as usize)?.clone(), probability));
        let describe = |captioner: &Captioner| {
            let described = captioner.describe_with_probabilities(image, self.longest).remove(0);
            described.into_iter().filter_map(word).collect()
        };
        let matching = |encoder: &ImageEncoder| {
            no_grad(|| {
                let seen = encoder.forward(image, Mode::Eval);
                let flat = |x: &crate::engine::Tensor| x.reshape([x.shape().rows(), x.shape().last_dim()]);
                let words = word_matches(&flat(&sample.embedding.words), &flat(&seen.regions), self.gamma1);
                Matching {
                    words,
                    sentence: cosine(&seen.global.to_vec(), &sample.embedding.sentence.to_vec()),
                }
            })
        };
        Review {
            description: self.captioner.as_ref().map(describe),
            matching: self.encoder.as_ref().map(matching),
        }
    }
}
