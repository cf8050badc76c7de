//! What the threads that talk to clients know of a run; the networks stay with the worker.

use serde_json::{Value, json};

use super::limits;
use super::worker::Studio;
use crate::config::Config;
use crate::data::Vocabulary;
use crate::infer::{Draw, NAMED, NoiseValues, Prompt};

pub(super) struct Model {
    pub config: Config,
    pub vocabulary: Vocabulary,
    pub batch: usize,
    about: Value,
}

impl Model {
    /// `name` is the run's, `device` what computes.
    pub fn of(studio: &Studio, name: &str, device: &str) -> Model {
        let sampler = &studio.sampler;
        let (config, vocabulary) = (sampler.config.clone(), sampler.vocabulary.clone());
        let about = json!({
            "run": name,
            "checkpoint": sampler.checkpoint,
            "weights": sampler.weights,
            "engine": env!("CARGO_PKG_VERSION"),
            "device": device,
            "sides": config.generator.image_sides(),
            "longest_caption": config.data.words_eval,
            "tokenizer": config.data.open.tokenizer.name(),
            "describes": studio.reviewer.describes(),
            "matches": studio.reviewer.matches(),
            "limits": {
                "characters": limits::CHARACTERS,
                "samples": limits::SAMPLES,
                "frames": limits::FRAMES,
            },
        });
        Model { config, vocabulary, batch: studio.batch, about }
    }

    pub fn about(&self) -> &Value {
        &self.about
    }

    /// All words that a caption may have.
    pub fn words(&self) -> &[String] {
        &self.vocabulary.words()[1..]
    }

    pub fn prompt(&self, caption: &str) -> Result<Prompt, String> {
        Prompt::of(caption, &self.config, &self.vocabulary)
    }

    /// Which words of a caption are used, and what may have been meant by the others.
    pub fn read(&self, caption: &str) -> Value {
        let prompt = Prompt::read(caption, &self.config, &self.vocabulary);
        // Each search looks at the whole vocabulary.
        let near = |(i, word): (usize, &String)| {
            let suggestions = if i < NAMED { self.vocabulary.near(word, 3) } else { Vec::new() };
            json!({ "word": word, "suggestions": suggestions })
        };
        json!({
            "words": prompt.words,
            "unknown": prompt.unknown.iter().enumerate().map(near).collect::<Vec<_>>(),
            "beyond": prompt.beyond,
        })
    }

    /// The noise of a seed, z times `noise` and the condition's noise times `condition`.
    pub fn noise(&self, seed: u64, truncation: Option<f32>, noise: f32, condition: f32) -> NoiseValues {
        let draw = Draw { seed, number: 0, truncation };
        let mut values = draw.values(&self.config.generator);
        values.z.iter_mut().for_each(|z| *z *= noise);
        values.eps.iter_mut().for_each(|eps| *eps *= condition);
        values
    }

    /// What a picture's text chunk says of it.
    pub fn comment(&self, mut about: Value) -> String {
        for key in ["checkpoint", "weights", "engine"] {
            about[key] = self.about[key].clone();
        }
        about.to_string()
    }
}
