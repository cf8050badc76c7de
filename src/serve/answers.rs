//! Pictures as clients get them: all at once, as events while they are made, or as an animation.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::api::{Animate, Caption, Generate, Way, enqueue};
use super::body::Body;
use super::problem::Problem;
use super::queue::{AttentionMap, Event};
use super::state::State;
use super::worker::PATIENCE;
use crate::data::Picture;
use crate::infer::{Prompt, Review};
use crate::render::{Frame, gif, with_held_ends};

/// How long a picture may take once its turn has come.
const GENERATING: Duration = Duration::from_secs(60);

pub(super) async fn model(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    Json(state.model.about().clone())
}

pub(super) async fn vocabulary(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    Json(json!({ "words": state.model.words() }))
}

/// Which words of a caption are known. Looking for near words reads the whole vocabulary, hence a thread of its own.
pub(super) async fn prompt(
    Shared(state): Shared<Arc<State>>,
    Body(asked): Body<Caption>,
) -> Result<Json<Value>, Problem> {
    asked.check()?;
    let read = tokio::task::spawn_blocking(move || state.model.read(&asked.caption));
    read.await.map(Json).map_err(|_| Problem::internal())
}

pub(super) async fn generate(
    Shared(state): Shared<Arc<State>>,
    Body(asked): Body<Generate>,
) -> Result<Json<Value>, Problem> {
    let (items, prompt) = asked.items(&state.model)?;
    let (_, heard) = enqueue(&state, items, asked.wanted())?;
    let samples = within_limit(collect(&asked, heard)).await?;
    Ok(Json(json!({ "prompt": left_out(&prompt), "samples": samples })))
}

async fn within_limit<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let limit = PATIENCE + GENERATING;
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Problem::too_late(limit.as_secs())))
}

/// Every picture with all that was said of it.
async fn collect(asked: &Generate, mut heard: UnboundedReceiver<Event>) -> Result<Vec<Value>, Problem> {
    let sample = |seed: &u64| json!({ "seed": seed, "stages": [] });
    let mut samples: Vec<Value> = asked.seeds.iter().map(sample).collect();
    while let Some(event) = heard.recv().await {
        match event {
            Event::Stage { sample, side, png, attention, .. } => {
                let stage = stage_json(side, &png, attention.as_ref());
                samples[sample]["stages"].as_array_mut().ok_or_else(Problem::internal)?.push(stage);
            }
            Event::Review { sample, review } => samples[sample]["review"] = review_json(&review),
            Event::Failed(problem) => return Err(problem),
            Event::Picture { .. } => {}
        }
    }
    match samples.iter().all(|sample| sample["stages"].as_array().is_some_and(|stages| !stages.is_empty())) {
        true => Ok(samples),
        false => Err(Problem::internal()),
    }
}

/// The same as events: `queued`, then `stage` and `review` of each picture, and `done` or `error`.
pub(super) async fn stream(
    Shared(state): Shared<Arc<State>>,
    Body(asked): Body<Generate>,
) -> Result<Response, Problem> {
    let (items, prompt) = asked.items(&state.model)?;
    let (before, mut heard) = enqueue(&state, items, asked.wanted())?;
    let (messages, stream) = unbounded_channel::<Result<Message, Infallible>>();
    let say = move |kind: &str, value: &Value| {
        let message = Message::default().event(kind).data(value.to_string());
        messages.send(Ok(message)).is_ok()
    };
    tokio::spawn(async move {
        say("queued", &json!({ "before": before, "prompt": left_out(&prompt) }));
        while let Some(event) = heard.recv().await {
            let (kind, value) = message(event, &asked.seeds);
            // A client that is gone drops the stream, and with `heard` the work that is left.
            if !say(kind, &value) || kind == "error" {
                return;
            }
        }
        say("done", &json!({}));
    });
    let events = Sse::new(UnboundedReceiverStream::new(stream));
    Ok(events.keep_alive(KeepAlive::new().interval(Duration::from_secs(5))).into_response())
}

fn message(event: Event, seeds: &[u64]) -> (&'static str, Value) {
    let whose = |mut value: Value, sample: usize| {
        value["sample"] = json!(sample);
        value["seed"] = json!(seeds[sample]);
        value
    };
    match event {
        Event::Stage { sample, stage, side, png, attention } => {
            let mut value = stage_json(side, &png, attention.as_ref());
            value["stage"] = json!(stage);
            ("stage", whose(value, sample))
        }
        Event::Review { sample, review } => ("review", whose(review_json(&review), sample)),
        Event::Failed(problem) => ("error", problem.json()),
        Event::Picture { sample, .. } => ("picture", whose(json!({}), sample)),
    }
}

pub(super) async fn animate(
    Shared(state): Shared<Arc<State>>,
    Body(asked): Body<Animate>,
) -> Result<Response, Problem> {
    let items = asked.items(&state.model)?;
    let (_, mut heard) = enqueue(&state, items, Animate::WANTED)?;
    let is_stages = asked.way == Way::Stages;
    let pictures = within_limit(async {
        let mut frames: Vec<(usize, Picture)> = Vec::new();
        while let Some(event) = heard.recv().await {
            match event {
                Event::Picture { stage, picture, .. } if is_stages => frames.push((stage, picture)),
                Event::Picture { sample, picture, is_last: true, .. } => frames.push((sample, picture)),
                Event::Failed(problem) => return Err(problem),
                _ => {}
            }
        }
        frames.sort_by_key(|(number, _)| *number);
        if frames.is_empty() { Err(Problem::internal()) } else { Ok(frames) }
    })
    .await?;
    let pictures: Vec<Picture> = pictures.into_iter().map(|(_, picture)| picture).collect();
    let encode = move || gif(if is_stages { held(pictures) } else { with_held_ends(pictures) });
    let bytes = tokio::task::spawn_blocking(encode).await.map_err(|_| Problem::internal())?;
    Ok(([(CONTENT_TYPE, "image/gif")], bytes).into_response())
}

/// The stages one after the other, all at the size of the last.
fn held(pictures: Vec<Picture>) -> Vec<Frame> {
    let side = pictures.last().map_or(0, |last| last.width);
    let frame = |picture: Picture| Frame { picture: enlarged(&picture, side), milliseconds: 700 };
    pictures.into_iter().map(frame).collect()
}

/// Every pixel as a square, so that a coarse stage looks coarse.
fn enlarged(picture: &Picture, side: usize) -> Picture {
    let pixel = |i: usize| {
        let (y, x) = (i / side * picture.height / side, i % side * picture.width / side);
        &picture.pixels[(y * picture.width + x) * 3..][..3]
    };
    Picture { width: side, height: side, pixels: (0..side * side).flat_map(pixel).copied().collect() }
}

fn left_out(prompt: &Prompt) -> Value {
    json!({ "words": prompt.words, "unknown": prompt.unknown, "beyond": prompt.beyond })
}

fn stage_json(side: usize, png: &[u8], attention: Option<&AttentionMap>) -> Value {
    let map = |map: &AttentionMap| {
        json!({
            "height": map.height,
            "width": map.width,
            "words": map.words,
            "largest": map.largest,
            "values": STANDARD.encode(&map.values),
        })
    };
    json!({ "side": side, "png": STANDARD.encode(png), "attention": attention.map(map) })
}

fn review_json(review: &Review) -> Value {
    let description = review.description.as_ref().map(|words| {
        // The geometric mean: the probability of a caption is the product of its words'.
        let logarithms: f32 = words.iter().map(|(_, probability)| probability.ln()).sum();
        let word = |(word, probability): &(String, f32)| json!({ "word": word, "probability": probability });
        json!({
            "text": words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(" "),
            "confidence": if words.is_empty() { 0.0 } else { (logarithms / words.len() as f32).exp() },
            "words": words.iter().map(word).collect::<Vec<_>>(),
        })
    });
    let matching = review.matching.as_ref();
    json!({
        "description": description,
        "match": matching.map(|found| json!({ "words": found.words, "sentence": found.sentence })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_the_geometric_mean() {
        let words = [("red", 0.5), ("bird", 0.125)].map(|(word, p)| (word.to_string(), p)).to_vec();
        let value = review_json(&Review { description: Some(words), matching: None });
        assert_eq!(value["description"]["text"], "red bird");
        assert!((value["description"]["confidence"].as_f64().unwrap() - 0.25).abs() < 1e-6);
        assert_eq!(value["match"], Value::Null);
    }

    #[test]
    fn a_coarse_stage_is_enlarged_in_squares() {
        let picture = Picture { width: 2, height: 2, pixels: (0..12).collect() };
        let large = enlarged(&picture, 4);
        assert_eq!(&large.pixels[..12], [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        assert_eq!(&large.pixels[45..], [9, 10, 11]);
    }
}
