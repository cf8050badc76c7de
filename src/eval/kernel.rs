//! The kernel distance (Bińkowski et al. 2018, "Demystifying MMD GANs", section 4: KID where the features are
//! Inception's).

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocks::{Block, block_pairs, blocks, mean_and_deviation, products};
use super::features::Features;
use crate::error::{Error, Result};
use crate::run::seed::{RngStream, rng_for};

const NAME: &str = "kernel distance";

/// Which images of both sets are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Subsets {
    /// All at once, whatever their numbers: no deviation, and the least noise that few images allow.
    All,
    /// `count` times `size` images of each set, drawn without repetition by a seed.
    Drawn { count: usize, size: usize, seed: u64 },
}

impl Subsets {
    /// As torch-fidelity takes them: 100 of 1,000.
    pub fn torch_fidelity(seed: u64) -> Subsets {
        Subsets::Drawn { count: 100, size: 1000, seed }
    }

    /// As clean-fid takes them: 100 of 1,000, or of as many images as the smaller set has.
    pub fn clean_fid(seed: u64, a: &Features, b: &Features) -> Subsets {
        Subsets::Drawn { count: 100, size: a.len().min(b.len()).min(1000), seed }
    }
}

/// The mean over subsets of the unbiased squared maximum mean discrepancy with the kernel (x·y/width + 1)³. It may be
/// slightly negative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelDistance {
    pub value: f64,
    /// Over the subsets.
    pub deviation: f64,
    pub subsets: Subsets,
    pub width: usize,
    /// Images of each side.
    pub images: [usize; 2],
    pub warnings: Vec<String>,
}

/// The kernel distance of two sets; the same bits for any number of threads.
///
/// # Errors
/// `Metric` where the sets have different widths, or fewer images than a subset, or than two.
pub fn kernel_distance(a: &Features, b: &Features, subsets: Subsets) -> Result<KernelDistance> {
    a.check_width(b, NAME)?;
    let images = [a.len(), b.len()];
    let values = match subsets {
        Subsets::All => {
            a.check_count(2, NAME)?;
            b.check_count(2, NAME)?;
            vec![discrepancy(a, None, b, None)]
        }
        Subsets::Drawn { count, size, seed } => {
            check(images, count, size)?;
            let drawn = |subset: usize| {
                let [x, y] = [0, 1].map(|side| draw(images[side], size, seed, 2 * subset + side));
                discrepancy(a, Some(&x), b, Some(&y))
            };
            (0..count).into_par_iter().map(drawn).collect()
        }
    };
    let (value, deviation) = mean_and_deviation(&values);
    let warnings = warnings(subsets, images);
    Ok(KernelDistance { value, deviation, subsets, width: a.width(), images, warnings })
}

fn check(images: [usize; 2], count: usize, size: usize) -> Result<()> {
    if count == 0 || size < 2 {
        let why = format!("{count} subsets of {size} images: at least one subset of two images is needed");
        return Err(Error::metric(NAME, why));
    }
    let fewest = images[0].min(images[1]);
    if fewest < size {
        let why = format!(
            "subsets of {size} images cannot be drawn of {fewest}; take smaller subsets, or all images at once"
        );
        return Err(Error::metric(NAME, why));
    }
    Ok(())
}

fn warnings(subsets: Subsets, images: [usize; 2]) -> Vec<String> {
    let fewest = images[0].min(images[1]);
    match subsets {
        Subsets::Drawn { count, size, .. } if count > 1 && size == fewest && images[0] == images[1] => {
            vec![format!(
                "each of the {count} subsets holds all {size} images: they are one, and their deviation of 0 says nothing"
            )]
        }
        _ => Vec::new(),
    }
}

/// `size` of `count` rows, ascending: the first steps of a shuffle by Fisher and Yates.
fn draw(count: usize, size: usize, seed: u64, index: usize) -> Vec<usize> {
    let mut rng = rng_for(seed, index as u64, RngStream::Subsets);
    let mut rows: Vec<usize> = (0..count).collect();
    for at in 0..size {
        rows.swap(at, at + rng.below(count - at));
    }
    rows.truncate(size);
    rows.sort_unstable();
    rows
}

/// Of rows that `picks` name, or of all.
fn discrepancy(a: &Features, picks_a: Option<&[usize]>, b: &Features, picks_b: Option<&[usize]>) -> f64 {
    let (m, n) = (picks_a.map_or(a.len(), <[_]>::len), picks_b.map_or(b.len(), <[_]>::len));
    let within = |set: &Features, picks, count: usize| {
        let sum = |(x, y): (Range<usize>, Range<usize>)| {
            let is_diagonal = x == y;
            let sum = kernel_sum(&Block::new(set, picks, x), &Block::new(set, picks, y), is_diagonal);
            if is_diagonal { sum } else { 2.0 * sum }
        };
        sum_in_order(block_pairs(count), sum) / (count as f64 * (count - 1) as f64)
    };
    let columns = blocks(n);
    let pairs = blocks(m).into_iter().flat_map(|x| columns.iter().map(move |y| (x.clone(), y.clone())));
    let between = |(x, y)| kernel_sum(&Block::new(a, picks_a, x), &Block::new(b, picks_b, y), false);
    let across = sum_in_order(pairs.collect(), between) / (m as f64 * n as f64);
    within(a, picks_a, m) + within(b, picks_b, n) - 2.0 * across
}

fn sum_in_order<T: Send>(items: Vec<T>, f: impl Fn(T) -> f64 + Sync + Send) -> f64 {
    items.into_par_iter().map(f).collect::<Vec<f64>>().iter().sum()
}

/// The kernel of every row of `a` with every row of `b`; without that of a row with itself where they are one block.
fn kernel_sum(a: &Block, b: &Block, is_one: bool) -> f64 {
    let width = a.matrix().ncols() as f64;
    let mut sum = 0.0;
    for (i, row) in products(a, b).chunks_exact(b.rows.len()).enumerate() {
        let kernel = |(j, product): (usize, &f64)| {
            let base = product / width + 1.0;
            if is_one && i == j { 0.0 } else { base * base * base }
        };
        sum += row.iter().enumerate().map(kernel).sum::<f64>();
    }
    sum
}
