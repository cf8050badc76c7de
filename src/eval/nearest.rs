//! Nearest neighbors: does a generated picture repeat one that was learnt from?

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::blocks::{Block, blocks, in_order, squared_distances};
use super::features::Features;
use super::precision_recall::keep_smallest;
use crate::error::{Error, Result};

const NAME: &str = "nearest neighbors";
/// Rounding may swap rows that lie equally far to twelve digits: as many more are kept until distances are exact.
const SLACK: usize = 8;

/// An image of the set, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbor {
    pub image: u64,
    /// Euclidean; 0 for equal features.
    pub distance: f64,
}

/// For each row of `queries` the `k` nearest rows of `set`, nearest first; of equally near ones the lower number.
///
/// # Errors
/// `Metric` where the sets have different widths or `set` has fewer than `k` images.
pub fn nearest(queries: &Features, set: &Features, k: usize) -> Result<Vec<Vec<Neighbor>>> {
    queries.check_width(set, NAME)?;
    if k == 0 {
        return Err(Error::metric(NAME, "no neighbors: k must be at least 1"));
    }
    set.check_count(k, NAME)?;
    let of_block = |rows: Range<usize>| {
        let block = Block::new(queries, None, rows.clone());
        let mut kept = vec![Vec::with_capacity(k + SLACK + 1); rows.len()];
        for others in blocks(set.len()) {
            let distances = squared_distances(&block, &Block::new(set, None, others.clone()));
            for (kept, row) in kept.iter_mut().zip(distances.chunks_exact(others.len())) {
                for (&distance, other) in row.iter().zip(others.clone()) {
                    keep_smallest(kept, k + SLACK, (distance, other));
                }
            }
        }
        rows.zip(kept).map(|(row, kept)| sorted(queries.row(row), set, kept, k)).collect::<Vec<_>>()
    };
    Ok(in_order(blocks(queries.len()), of_block).concat())
}

fn sorted(query: &[f32], set: &Features, kept: Vec<(f64, usize)>, k: usize) -> Vec<Neighbor> {
    let exact = |row: usize| {
        let squares = query.iter().zip(set.row(row)).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let neighbor = |(_, row): (f64, usize)| Neighbor { image: set.images()[row], distance: exact(row) };
    let mut neighbors: Vec<Neighbor> = kept.into_iter().map(neighbor).collect();
    neighbors.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.image.cmp(&b.image)));
    neighbors.truncate(k);
    neighbors
}
