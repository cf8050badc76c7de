//! Mean and covariance of features.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::features::Features;
use crate::error::Result;

/// Images that are centered and multiplied at a time.
const ROWS: usize = 512;
/// The side of a square of the covariance, which one thread computes.
const TILE: usize = 256;

/// The first two moments of a set of features.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub mean: Vec<f64>,
    /// Unbiased (divided by images - 1), symmetric, [width, width].
    pub covariance: Vec<f64>,
    /// Of how many images; a file of another program does not say.
    pub images: Option<usize>,
}

impl Moments {
    /// Of at least two images. Beside the features it takes two matrices of the covariance's size and a few MiB.
    ///
    /// # Errors
    /// `Metric` where there are fewer than two images.
    pub fn of(features: &Features) -> Result<Moments> {
        features.check_count(2, "covariance of features")?;
        let mean = mean(features);
        let tiles = tiles(features, &mean);
        let covariance = assembled(features, &tiles);
        Ok(Moments { mean, covariance, images: Some(features.len()) })
    }

    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// The sum of the variances.
    pub fn trace(&self) -> f64 {
        self.covariance.iter().step_by(self.width() + 1).sum()
    }
}

fn mean(features: &Features) -> Vec<f64> {
    let mut mean = vec![0.0; features.width()];
    for at in 0..features.len() {
        mean.iter_mut().zip(features.row(at)).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    mean.iter_mut().for_each(|sum| *sum /= features.len() as f64);
    mean
}

/// A square of Xᵀ X, X being the centered features.
struct Tile {
    row: usize,
    column: usize,
    sums: Vec<f64>,
}

/// The squares on and above the diagonal. Each adds up in the order of the images, on one thread.
fn tiles(features: &Features, mean: &[f64]) -> Vec<Tile> {
    let width = features.width();
    let side = |from: usize| TILE.min(width - from);
    let starts: Vec<usize> = (0..width).step_by(TILE).collect();
    let upper = starts.iter().flat_map(|&row| starts.iter().map(move |&column| (row, column)));
    let upper = upper.filter(|(row, column)| row <= column);
    let mut tiles: Vec<Tile> =
        upper.map(|(row, column)| Tile { row, column, sums: vec![0.0; side(row) * side(column)] }).collect();
    let mut centered = vec![0.0; ROWS.min(features.len()) * width];
    for begin in (0..features.len()).step_by(ROWS) {
        let count = ROWS.min(features.len() - begin);
        centered.par_chunks_exact_mut(width).take(count).enumerate().for_each(|(at, out)| {
            let values = features.row(begin + at).iter().zip(mean);
            out.iter_mut().zip(values).for_each(|(out, (&x, mean))| *out = f64::from(x) - mean);
        });
        let rows = MatRef::from_row_major_slice(&centered[..count * width], count, width);
        tiles.par_iter_mut().for_each(|tile| {
            let (height, breadth) = (side(tile.row), side(tile.column));
            let left = rows.subcols(tile.row, height).transpose();
            let sums = MatMut::from_row_major_slice_mut(&mut tile.sums, height, breadth);
            matmul(sums, Accum::Add, left, rows.subcols(tile.column, breadth), 1.0, Par::Seq);
        });
    }
    tiles
}

fn assembled(features: &Features, tiles: &[Tile]) -> Vec<f64> {
    let (width, degrees) = (features.width(), (features.len() - 1) as f64);
    let mut covariance = vec![0.0; width * width];
    for tile in tiles {
        let breadth = TILE.min(width - tile.column);
        for (i, row) in tile.sums.chunks_exact(breadth).enumerate() {
            for (j, sum) in row.iter().enumerate() {
                let (i, j) = (tile.row + i, tile.column + j);
                // On the diagonal a product's two halves may differ in the last bit: the upper one counts.
                if i <= j {
                    covariance[i * width + j] = sum / degrees;
                    covariance[j * width + i] = sum / degrees;
                }
            }
        }
    }
    covariance
}
