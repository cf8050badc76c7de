//! What a call generates: every sample is a function of its number.

use serde_json::{Value, json};

use super::captions::Asked;
use super::swap::Swapped;
use crate::infer::{Draw, Request};

/// The noises of each caption.
pub(super) enum Draws {
    /// Noises of one seed.
    Samples { seed: u64, count: u64 },
    /// The first noise of each seed.
    Seeds(Vec<u64>),
}

impl Draws {
    fn count(&self) -> usize {
        match self {
            Draws::Samples { count, .. } => *count as usize,
            Draws::Seeds(seeds) => seeds.len(),
        }
    }

    /// Seed and number within the seed.
    fn at(&self, index: usize) -> (u64, u64) {
        match self {
            Draws::Samples { seed, .. } => (*seed, index as u64),
            Draws::Seeds(seeds) => (seeds[index], 0),
        }
    }
}

/// Captions, each with its noises, each of these with the caption's variants: itself, and itself with words swapped.
pub(super) struct Plan {
    pub asked: Vec<Asked>,
    /// Of each caption; as many for each.
    pub swapped: Vec<Vec<Swapped>>,
    pub draws: Draws,
    pub truncation: Option<f32>,
}

/// One sample.
pub(super) struct Job<'a> {
    /// The caption's number, from 0.
    pub caption: usize,
    pub asked: &'a Asked,
    pub swapped: Option<&'a Swapped>,
    /// The sample's number among those of its caption, from 1.
    pub number: usize,
    pub draw: Draw,
    sample: u64,
}

impl Plan {
    pub(super) fn count(&self) -> usize {
        self.asked.len() * self.of_caption()
    }

    /// Samples of each caption.
    pub(super) fn of_caption(&self) -> usize {
        self.draws.count() * self.variants()
    }

    pub(super) fn variants(&self) -> usize {
        1 + self.swapped.first().map_or(0, Vec::len)
    }

    pub(super) fn job(&self, index: usize) -> Job<'_> {
        let (caption, within) = (index / self.of_caption(), index % self.of_caption());
        let (seed, sample) = self.draws.at(within / self.variants());
        let variant = within % self.variants();
        let swapped = variant.checked_sub(1).map(|swap| &self.swapped[caption][swap]);
        let asked = swapped.map_or(&self.asked[caption], |swapped| &swapped.asked);
        let draw = Draw { seed, number: noise_of(caption, sample), truncation: self.truncation };
        Job { caption, asked, swapped, number: within + 1, draw, sample }
    }
}

/// The number of a caption's noise: the noise does not depend on how many samples the captions before have.
pub(super) fn noise_of(caption: usize, sample: u64) -> u64 {
    (caption as u64) << 32 | sample
}

impl Job<'_> {
    pub(super) fn request(&self) -> Request {
        Request::words(self.asked.prompt.ids.clone(), self.draw)
    }

    /// How it differs from its caption's other samples.
    pub(super) fn name(&self) -> String {
        format!("seed {}, sample {}", self.draw.seed, self.sample + 1)
    }

    /// The same where all samples have one seed, or all seeds one sample.
    pub(super) fn short_name(&self, plan: &Plan) -> String {
        match plan.draws {
            Draws::Samples { .. } => format!("sample {}", self.sample + 1),
            Draws::Seeds(_) => format!("seed {}", self.draw.seed),
        }
    }

    /// What is recorded of it, but the call.
    pub(super) fn about(&self) -> Value {
        let Asked { caption, line, prompt, .. } = self.asked;
        let mut about = json!({
            "caption": caption,
            "line": line,
            "words": prompt.words,
            "left_out": self.asked.left_out(),
            "seed": self.draw.seed,
            "sample": self.sample + 1,
            "noise": self.draw.number,
            "truncation": self.draw.truncation,
        });
        if let Some(swapped) = self.swapped {
            about["swapped_to"] = json!(swapped.to);
        }
        about
    }
}
