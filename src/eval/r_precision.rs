//! R-precision (AttnGAN, section 4): does an image find its caption among captions of other classes?

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocks::mean_and_deviation;
use super::features::Features;
use crate::error::{Error, Result};
use crate::run::seed::{RngStream, rng_for};

const NAME: &str = "R-precision";

/// The share of images whose own caption is among the `k` nearest of its candidates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Top {
    pub k: usize,
    pub value: f64,
    /// Over the folds.
    pub deviation: f64,
}

/// R-precision for k = 1, 2 and 3, as MirrorGAN's table 2 has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RPrecision {
    pub top: [Top; 3],
    /// Captions that an image chooses from, its own among them.
    pub candidates: usize,
    pub folds: usize,
    pub seed: u64,
    pub images: usize,
    pub warnings: Vec<String>,
}

/// R-precision by the cosine of DAMSM's codes. Row i of `images` belongs to row i of `captions` and to `classes[i]`; the
/// `candidates - 1` wrong captions of a row are drawn by `seed` and the row's place from all captions of other classes. A
/// wrong caption that is as near as the own one stands before it. The published figures have 100 candidates and 10 folds.
///
/// # Errors
/// `Metric` where codes have different widths, there are fewer than two candidates or more folds than images, or an image
/// has too few captions of other classes.
///
/// # Panics
/// Where there are not as many images, captions and classes.
pub fn r_precision(
    images: &Features,
    captions: &Features,
    classes: &[i32],
    candidates: usize,
    folds: usize,
    seed: u64,
) -> Result<RPrecision> {
    let count = classes.len();
    assert!(images.len() == count && captions.len() == count, "a caption and a class for each image");
    images.check_width(captions, NAME)?;
    check(classes, candidates, folds)?;
    let wrong = |image: usize| {
        let mut others: Vec<usize> = (0..count).filter(|&i| classes[i] != classes[image]).collect();
        rng_for(seed, image as u64, RngStream::Evaluation).shuffle(&mut others);
        let similarity = |caption: usize| cosine(images.row(image), captions.row(caption));
        let own = similarity(image);
        others[..candidates - 1].iter().filter(|&&other| similarity(other) >= own).count()
    };
    let before: Vec<usize> = (0..count).into_par_iter().map(wrong).collect();
    let top = |k: usize| {
        let share = |before: &[usize]| before.iter().filter(|&&b| b < k).count() as f64 / before.len() as f64;
        let of_fold = |fold: usize| share(&before[fold * count / folds..(fold + 1) * count / folds]);
        let (_, deviation) = mean_and_deviation(&(0..folds).map(of_fold).collect::<Vec<_>>());
        Top { k, value: share(&before), deviation }
    };
    let (top, warnings) = ([1, 2, 3].map(top), Vec::new());
    Ok(RPrecision { top, candidates, folds, seed, images: count, warnings })
}

/// How many captions an image of any class can choose from: its own, and all of other classes.
pub fn most_candidates(classes: &[i32]) -> usize {
    let mut sizes = std::collections::BTreeMap::new();
    classes.iter().for_each(|class| *sizes.entry(class).or_insert(0) += 1);
    classes.len() - sizes.values().max().copied().unwrap_or(0) + 1
}

fn check(classes: &[i32], candidates: usize, folds: usize) -> Result<()> {
    let count = classes.len();
    if candidates < 2 {
        return Err(Error::metric(
            NAME,
            format!("{candidates} candidates: a caption needs another beside it"),
        ));
    }
    if folds == 0 || count < folds {
        return Err(Error::metric(
            NAME,
            format!("{count} images in {folds} folds: each fold needs an image"),
        ));
    }
    if most_candidates(classes) < candidates {
        let why = format!(
            "among {count} images some have fewer than {} captions of other classes; take fewer candidates or more images",
            candidates - 1
        );
        return Err(Error::metric(NAME, why));
    }
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-8)
}
