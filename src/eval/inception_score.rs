//! Inception Score (Salimans et al. 2016, "Improved techniques for training GANs", section 4).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocks::mean_and_deviation;
use super::features::Features;
use crate::error::{Error, Result};
use crate::run::seed::{RngStream, rng_for};

const NAME: &str = "Inception Score";

/// exp of the mean over images of KL(p(class | image) ‖ p(class)), each split by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InceptionScore {
    /// The mean over the splits.
    pub value: f64,
    /// Over the splits.
    pub deviation: f64,
    pub splits: usize,
    /// The seed of the order in which images came into splits; none where it was that of their numbers.
    pub shuffle: Option<u64>,
    pub images: usize,
    pub classes: usize,
    pub warnings: Vec<String>,
}

/// The Inception Score from a classifier's logits. Images go into splits by their numbers, or in an order that the seed
/// `shuffle` draws.
///
/// # Errors
/// `Metric` where there are fewer images than splits, or no splits, or fewer than two classes.
pub fn inception_score(logits: &Features, splits: usize, shuffle: Option<u64>) -> Result<InceptionScore> {
    let (images, classes) = (logits.len(), logits.width());
    if splits == 0 || images < splits {
        let why = format!("{images} images in {splits} splits: each split needs an image");
        return Err(Error::metric(NAME, why));
    }
    if classes < 2 {
        return Err(Error::metric(NAME, "logits of one class; features of a classifier are needed"));
    }
    let mut order: Vec<usize> = (0..images).collect();
    if let Some(seed) = shuffle {
        rng_for(seed, 0, RngStream::Splits).shuffle(&mut order);
    }
    let split = |at: usize| score(logits, &order[at * images / splits..(at + 1) * images / splits]);
    let scores: Vec<f64> = (0..splits).into_par_iter().map(split).collect();
    let (value, deviation) = mean_and_deviation(&scores);
    let few = images < splits * classes;
    let warning = || {
        format!(
            "{images} images in {splits} splits are fewer than {classes} a split, one for each class: the score is \
             biased downwards and compares only with the same number of images"
        )
    };
    let warnings = few.then(warning).into_iter().collect();
    Ok(InceptionScore { value, deviation, splits, shuffle, images, classes, warnings })
}

fn score(logits: &Features, rows: &[usize]) -> f64 {
    let mut log = vec![0.0; logits.width()];
    let mut marginal = vec![0.0; logits.width()];
    for &row in rows {
        log_softmax(logits.row(row), &mut log);
        marginal.iter_mut().zip(&log).for_each(|(sum, log)| *sum += log.exp());
    }
    marginal.iter_mut().for_each(|sum| *sum = (*sum / rows.len() as f64).ln());
    let mut divergence = 0.0;
    for &row in rows {
        log_softmax(logits.row(row), &mut log);
        // p log(p / q) is 0 where p is.
        let term = |(log, marginal): (&f64, &f64)| {
            let p = log.exp();
            if p > 0.0 { p * (log - marginal) } else { 0.0 }
        };
        divergence += log.iter().zip(&marginal).map(term).sum::<f64>();
    }
    (divergence / rows.len() as f64).exp()
}

fn log_softmax(logits: &[f32], out: &mut [f64]) {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    out.iter_mut().zip(logits).for_each(|(out, &x)| *out = f64::from(x) - largest);
    let sum = out.iter().map(|x| x.exp()).sum::<f64>().ln();
    out.iter_mut().for_each(|out| *out -= sum);
}
