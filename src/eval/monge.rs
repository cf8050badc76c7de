//! The Monge inception distance of torch-fidelity 0.5: squared Wasserstein distances along random directions (Bonneel et
//! al. 2015, "Sliced and Radon Wasserstein barycenters of measures", section 3).

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::blocks::{Block, blocks, mean_and_deviation};
use super::features::Features;
use crate::error::{Error, Result};
use crate::run::seed::{RngStream, rng_for};

const NAME: &str = "Monge inception distance";
/// Directions that are projected on at a time.
const TOGETHER: usize = 64;

/// 3 · width · the mean over unit directions of the squared Wasserstein-2 distance of both sets along the direction. For
/// two normal distributions that differ by a shift it is three times the shift's square.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MongeDistance {
    pub value: f64,
    /// How far the mean over the directions is from that over all of them: its standard error.
    pub error: f64,
    pub directions: usize,
    pub seed: u64,
    pub width: usize,
    /// Images of each side.
    pub images: [usize; 2],
    pub warnings: Vec<String>,
}

/// The distance along `directions` directions drawn by `seed`; torch-fidelity takes 1,000. The sets may differ in size.
/// Beside the features it takes 1 KiB an image and thread.
///
/// # Errors
/// `Metric` where the sets have different widths, one is empty, or there are no directions.
pub fn monge_distance(a: &Features, b: &Features, directions: usize, seed: u64) -> Result<MongeDistance> {
    a.check_width(b, NAME)?;
    a.check_count(1, NAME)?;
    b.check_count(1, NAME)?;
    if directions == 0 {
        return Err(Error::metric(NAME, "no directions: at least one is needed"));
    }
    let drawn: Vec<Vec<f64>> = (0..directions).map(|at| direction(a.width(), seed, at)).collect();
    let along = |some: &[Vec<f64>]| {
        let (left, right) = (projections(a, some), projections(b, some));
        left.iter().zip(&right).map(|(x, y)| squared_wasserstein(x, y)).collect::<Vec<f64>>()
    };
    let squares = drawn.par_chunks(TOGETHER).map(along).collect::<Vec<_>>().concat();
    let (mean, deviation) = mean_and_deviation(&squares);
    let scale = 3.0 * a.width() as f64;
    Ok(MongeDistance {
        value: scale * mean,
        error: scale * deviation / (directions as f64).sqrt(),
        directions,
        seed,
        width: a.width(),
        images: [a.len(), b.len()],
        warnings: Vec::new(),
    })
}

/// A unit vector, uniform on the sphere.
fn direction(width: usize, seed: u64, index: usize) -> Vec<f64> {
    let normal = rng_for(seed, index as u64, RngStream::Directions).normal([width]).to_vec();
    let length = normal.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    normal.iter().map(|&x| f64::from(x) / length).collect()
}

/// The features along each direction, ascending.
fn projections(set: &Features, directions: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let directions = Mat::from_fn(set.width(), directions.len(), |i, j| directions[j][i]);
    let mut all = Mat::zeros(set.len(), directions.ncols());
    for rows in blocks(set.len()) {
        let out = all.as_mut().subrows_mut(rows.start, rows.len());
        let block = Block::new(set, None, rows);
        matmul(out, Accum::Replace, block.matrix(), directions.as_ref(), 1.0, Par::Seq);
    }
    let sorted = |column: usize| {
        let mut values: Vec<f64> = all.col(column).iter().copied().collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    (0..directions.ncols()).map(sorted).collect()
}

/// Of two sorted samples: the mean over quantiles of the squared difference.
fn squared_wasserstein(x: &[f64], y: &[f64]) -> f64 {
    let (m, n) = (x.len() as u64, y.len() as u64);
    // In units of 1 / (m n) sample i of x holds the quantiles from i n to (i + 1) n, and so on.
    let (mut i, mut j, mut from, mut sum) = (0, 0, 0, 0.0);
    while from < m * n {
        let (end_x, end_y) = ((i + 1) * n, (j + 1) * m);
        let to = end_x.min(end_y);
        let difference = x[i as usize] - y[j as usize];
        sum += (to - from) as f64 * difference * difference;
        i += u64::from(end_x == to);
        j += u64::from(end_y == to);
        from = to;
    }
    sum / (m as f64 * n as f64)
}
