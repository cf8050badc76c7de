//! What clients may ask for, and how it becomes pictures that wait for the device.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::limits::{CHARACTERS, FACTOR, FRAMES, SAMPLES};
use super::model::Model;
use super::problem::Problem;
use super::queue::{Event, Item, Refused, Sink, Wanted};
use super::state::State;
use crate::infer::{Place, Prompt, between_noises};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Caption {
    pub caption: String,
}

/// What leads to a picture, but its seed.
#[derive(Deserialize)]
pub(super) struct Controls {
    caption: String,
    /// z is drawn within ±2 and multiplied by this.
    #[serde(default)]
    truncation: Option<f32>,
    /// z is multiplied by this.
    #[serde(default = "one")]
    noise: f32,
    /// The noise of the conditioning augmentation is multiplied by this.
    #[serde(default = "one")]
    condition: f32,
    /// The sentence vector is multiplied by this.
    #[serde(default = "one")]
    sentence: f32,
}

#[derive(Deserialize)]
pub(super) struct Generate {
    #[serde(flatten)]
    controls: Controls,
    #[serde(default = "first_seed")]
    pub seeds: Vec<u64>,
    #[serde(default = "yes")]
    attention: bool,
    #[serde(default = "yes")]
    review: bool,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// Through the seeds' noises.
    Noise,
    /// From the caption to another, with the first seed's noise.
    Caption,
    /// The stages of one picture.
    Stages,
}

#[derive(Deserialize)]
pub(super) struct Animate {
    #[serde(flatten)]
    controls: Controls,
    #[serde(default = "first_seed")]
    seeds: Vec<u64>,
    pub way: Way,
    /// The caption at the other end.
    #[serde(default)]
    to: Option<String>,
    #[serde(default = "some_frames")]
    frames: usize,
    #[serde(flatten)]
    unknown: Unknown,
}

/// Keys that mean nothing here; `deny_unknown_fields` does not go with `flatten`.
type Unknown = BTreeMap<String, IgnoredAny>;

fn one() -> f32 {
    1.0
}
fn yes() -> bool {
    true
}
fn first_seed() -> Vec<u64> {
    vec![0]
}
fn some_frames() -> usize {
    12
}

impl Caption {
    pub fn check(&self) -> Result<(), Problem> {
        check_length(&self.caption)
    }
}

fn check_length(caption: &str) -> Result<(), Problem> {
    match caption.chars().nth(CHARACTERS) {
        Some(_) => {
            Err(Problem::bad(format!("a caption of more than {CHARACTERS} characters")).hint("write less"))
        }
        None => Ok(()),
    }
}

fn check_keys(unknown: &Unknown) -> Result<(), Problem> {
    match unknown.keys().next() {
        Some(key) => Err(Problem::bad(format!("'{}' is no key of this request", shortened(key)))
            .hint("/openapi.json says what a request may hold")),
        None => Ok(()),
    }
}

/// The beginning of what a client sent, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn check_seeds(seeds: &[u64], most: usize) -> Result<(), Problem> {
    match seeds.len() {
        0 => Err(Problem::bad("no seed").hint("give one or more, such as \"seeds\": [0]")),
        count if count > most => {
            let error = format!("{count} seeds, where at most {most} are generated at once");
            Err(Problem::bad(error).hint("send several requests"))
        }
        _ => Ok(()),
    }
}

impl Controls {
    fn prompt(&self, caption: &str, model: &Model) -> Result<Prompt, Problem> {
        check_length(caption)?;
        let unknown = |why: String| {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)
                .hint("/api/vocabulary lists the words of this run")
        };
        model.prompt(caption).map_err(unknown)
    }

    fn check(&self) -> Result<(), Problem> {
        let factors = [("noise", self.noise), ("condition", self.condition), ("sentence", self.sentence)];
        if let Some((name, value)) = factors.into_iter().find(|(_, value)| !(0.0..=FACTOR).contains(value)) {
            return Err(
                Problem::bad(format!("{name} is {value}")).hint(format!("give a number from 0 to {FACTOR}"))
            );
        }
        match self.truncation {
            Some(value) if !(value > 0.0 && value <= 1.0) => {
                Err(Problem::bad(format!("truncation is {value}"))
                    .hint("give a number above 0, up to 1, or null"))
            }
            _ => Ok(()),
        }
    }

    fn item(&self, seed: u64, prompt: &Prompt, model: &Model) -> Item {
        let about = json!({
            "caption": self.caption,
            "words": prompt.words,
            "seed": seed,
            "truncation": self.truncation,
            "noise": self.noise,
            "condition": self.condition,
            "sentence": self.sentence,
        });
        Item {
            ids: prompt.ids.clone(),
            to: None,
            noise: model.noise(seed, self.truncation, self.noise, self.condition),
            sentence: self.sentence,
            caption: self.caption.clone(),
            comment: model.comment(about),
        }
    }
}

impl Generate {
    /// The pictures that are asked for, and the words that they are generated from.
    pub fn items(&self, model: &Model) -> Result<(Vec<Item>, Prompt), Problem> {
        check_keys(&self.unknown)?;
        self.controls.check()?;
        check_seeds(&self.seeds, SAMPLES)?;
        let prompt = self.controls.prompt(&self.controls.caption, model)?;
        let items = self.seeds.iter().map(|&seed| self.controls.item(seed, &prompt, model)).collect();
        Ok((items, prompt))
    }

    pub fn wanted(&self) -> Wanted {
        Wanted { pngs: true, attention: self.attention, review: self.review }
    }
}

impl Animate {
    pub const WANTED: Wanted = Wanted { pngs: false, attention: false, review: false };

    /// The frames, or the one picture whose stages are the frames.
    pub fn items(&self, model: &Model) -> Result<Vec<Item>, Problem> {
        check_keys(&self.unknown)?;
        self.controls.check()?;
        check_seeds(&self.seeds, SAMPLES)?;
        if !(2..=FRAMES).contains(&self.frames) {
            let error = format!("{} frames", self.frames);
            return Err(Problem::bad(error).hint(format!("give 2 to {FRAMES}")));
        }
        let prompt = self.controls.prompt(&self.controls.caption, model)?;
        match self.way {
            Way::Stages => Ok(vec![self.controls.item(self.seeds[0], &prompt, model)]),
            Way::Noise => self.through_noises(&prompt, model),
            Way::Caption => self.to_caption(&prompt, model),
        }
    }

    fn through_noises(&self, prompt: &Prompt, model: &Model) -> Result<Vec<Item>, Problem> {
        if self.seeds.len() < 2 {
            return Err(Problem::bad("one seed is no way").hint("give two or more seeds"));
        }
        let stations: Vec<Item> =
            self.seeds.iter().map(|&seed| self.controls.item(seed, prompt, model)).collect();
        let frame = |frame: usize| {
            let Place { from, to, at } = Place::of(frame, self.frames, stations.len());
            let noise = between_noises(&stations[from].noise, &stations[to].noise, at);
            Item { noise, ..self.controls.item(self.seeds[from], prompt, model) }
        };
        Ok((0..self.frames).map(frame).collect())
    }

    fn to_caption(&self, prompt: &Prompt, model: &Model) -> Result<Vec<Item>, Problem> {
        let Some(to) = &self.to else {
            return Err(Problem::bad("no caption to go to").hint("give it as \"to\""));
        };
        let end = self.controls.prompt(to, model)?;
        let frame = |frame: usize| {
            let at = frame as f32 / (self.frames - 1) as f32;
            Item { to: Some((end.ids.clone(), at)), ..self.controls.item(self.seeds[0], prompt, model) }
        };
        Ok((0..self.frames).map(frame).collect())
    }
}

/// Lets pictures wait for the device; what comes of them is heard at the other end.
pub(super) fn enqueue(
    state: &State,
    items: Vec<Item>,
    wanted: Wanted,
) -> Result<(usize, UnboundedReceiver<Event>), Problem> {
    let (events, heard) = unbounded_channel();
    match state.queue.push(items, Sink::new(events, wanted, state.metrics.clone())) {
        Ok(before) => Ok((before, heard)),
        Err(Refused::Closed) => Err(Problem::stopping()),
        Err(Refused::Full { requests, pictures }) => {
            let batches = pictures.div_ceil(state.model.batch);
            Err(Problem::busy(requests, state.metrics.estimate(batches)))
        }
    }
}
