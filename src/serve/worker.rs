//! The one thread that computes: it owns the networks, takes batches from the queue and tells each client of its pictures.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use rayon::prelude::*;

use super::metrics::Metrics;
use super::problem::Problem;
use super::queue::{AttentionMap, Event, Item, Piece, Queue};
use crate::data::{Picture, png_with_text};
use crate::engine::Tensor;
use crate::engine::ops::pointwise::scale;
use crate::error::{Error, Result, chain, note};
use crate::infer::{Draw, Noise, Request, Reviewer, Sampler, Text, Weights, between_texts};
use crate::mirrorgan::generator::Stage;
use crate::mirrorgan::stem::TextEmbedding;
use crate::render::{Attention, pictures};
use crate::run::RunFolder;

/// How long a request may wait for its turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// The networks of a run, at work for clients.
pub struct Studio {
    pub(super) sampler: Sampler,
    pub(super) reviewer: Reviewer,
    pub(super) batch: usize,
    checkpoint: PathBuf,
}

impl Studio {
    /// Opens a run and generates one picture, so that a run that cannot is refused before anyone asks it; `batch` pictures
    /// are computed together.
    ///
    /// # Errors
    /// Those of [`Sampler::open`] and [`Reviewer::open`]; `Data` where the picture is none, or where the vocabulary is empty.
    pub fn open(run: &RunFolder, weights: Weights, batch: usize) -> Result<Studio> {
        let sampler = Sampler::open(run, weights)?;
        let reviewer = Reviewer::open(run, &sampler.config, &sampler.vocabulary)?;
        if sampler.vocabulary.is_empty() {
            return Err(Error::data(run.root(), "the vocabulary has no words; train it anew"));
        }
        let checkpoint = run.root().join(&sampler.checkpoint);
        let studio = Studio { sampler, reviewer, batch: batch.max(1), checkpoint };
        let first = Request::words(vec![1], Draw { seed: 0, number: 0, truncation: None });
        let samples = studio.sampler.sample(&[first]);
        samples.require_finite(&studio.checkpoint)?;
        studio.reviewer.review(&samples.sample(0));
        Ok(studio)
    }

    /// Serves the queue until it is closed and empty.
    pub(super) fn work(&self, queue: &Queue, metrics: &Metrics) {
        while let Some(pieces) = queue.take(self.batch) {
            let (late, pieces): (Vec<_>, Vec<_>) = pieces
                .into_iter()
                .filter(|piece| !piece.sink.is_abandoned())
                .partition(|piece| piece.sink.since.elapsed() > PATIENCE);
            tell(&late, &Problem::too_late(PATIENCE.as_secs()));
            if pieces.is_empty() {
                continue;
            }
            let began = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| self.generate(&pieces))) {
                Ok(Ok(())) => metrics.batch(pieces.len(), began.elapsed().as_secs_f64()),
                Ok(Err(error)) => fail(&pieces, &error),
                Err(payload) => match payload.downcast::<Error>() {
                    Ok(error) => fail(&pieces, &error),
                    Err(_) => tell(&pieces, &Problem::internal()),
                },
            }
        }
    }

    fn generate(&self, pieces: &[Piece]) -> Result<()> {
        let requests: Vec<Request> = pieces.iter().map(|piece| self.request(&piece.item)).collect();
        let last = self.sampler.config.generator.image_sides().len() - 1;
        let samples =
            self.sampler.sample_by_stage(&requests, |stage| self.send_stage(pieces, &requests, stage, last));
        samples.require_finite(&self.checkpoint)?;
        for (row, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.sink.wanted.review) {
            let review = self.reviewer.review(&samples.sample(row));
            piece.sink.send(Event::Review { sample: piece.sample, review });
        }
        Ok(())
    }

    fn request(&self, item: &Item) -> Request {
        let noise = Noise::Given(item.noise.clone());
        if item.to.is_none() && item.sentence == 1.0 {
            return Request { text: Text::Words(item.ids.clone()), noise };
        }
        let own = self.sampler.embedding(&item.ids);
        let text = match &item.to {
            Some((ids, at)) => between_texts(&own, &self.sampler.embedding(ids), *at),
            None => own,
        };
        let sentence = scale(&text.sentence, item.sentence);
        Request { text: Text::Embedding(TextEmbedding { sentence, ..text }), noise }
    }

    /// Sends what a stage made of every picture. What is no number is not sent: the batch fails at its end.
    fn send_stage(&self, pieces: &[Piece], requests: &[Request], stage: Stage, last: usize) {
        let number = stage.number;
        let made: Vec<Picture> = pictures(stage.image);
        let maps: Vec<Option<AttentionMap>> = (pieces.iter().zip(requests).enumerate())
            .map(|(row, (piece, request))| {
                let map = stage.attention.filter(|_| piece.sink.wanted.attention)?;
                Some(attention_map(map, row, words(request)))
            })
            .collect();
        let finite = stage.image.to_vec().iter().all(|value| value.is_finite());
        let work: Vec<_> = pieces.iter().zip(made).zip(maps).filter(|_| finite).collect();
        work.into_par_iter().for_each(|((piece, picture), attention)| {
            let (sample, side) = (piece.sample, picture.width);
            if piece.sink.wanted.pngs {
                let png = png(&picture, &piece.item);
                piece.sink.send(Event::Stage { sample, stage: number, side, png, attention });
            } else {
                piece.sink.send(Event::Picture { sample, stage: number, is_last: number == last, picture });
            }
        });
    }
}

fn words(request: &Request) -> usize {
    match &request.text {
        Text::Words(ids) => ids.len(),
        Text::Embedding(text) => text.words.shape()[1],
    }
}

/// Of picture `row` of [B,H,W,T], its first `words` words.
fn attention_map(maps: &Tensor, row: usize, words: usize) -> AttentionMap {
    let map = Attention::of(maps, row, words);
    let [height, width] = map.size();
    let largest = (0..words).map(|word| map.largest_of(word)).fold(0.0, f32::max);
    let unit = if largest > 0.0 { 255.0 / largest } else { 0.0 };
    let values = (0..words).flat_map(|word| map.of_word(word)).map(|value| (value * unit).round() as u8);
    AttentionMap { height, width, words, largest, values: values.collect() }
}

/// A PNG that says what it shows and what led to it.
fn png(picture: &Picture, item: &Item) -> Vec<u8> {
    let software = concat!("engine ", env!("CARGO_PKG_VERSION"));
    let texts = [("Description", &item.caption[..]), ("Software", software), ("Comment", &item.comment)];
    png_with_text(picture.width, picture.height, &picture.pixels, &texts)
}

/// An error of the world: the terminal has all of it, the client what is no secret of this machine's.
fn fail(pieces: &[Piece], error: &Error) {
    note(format!("error: {}", chain(error, ": ")));
    let problem = match error {
        Error::OutOfMemory { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the device has no memory left")
                .hint("ask for fewer pictures; engine serve --batch N computes fewer together")
        }
        _ => Problem::internal(),
    };
    tell(pieces, &problem);
}

/// Tells every request once.
fn tell(pieces: &[Piece], problem: &Problem) {
    let mut seen = HashSet::new();
    for piece in pieces.iter().filter(|piece| seen.insert(Arc::as_ptr(&piece.sink))) {
        piece.sink.send(Event::Failed(problem.clone()));
    }
}
