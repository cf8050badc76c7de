//! Precision and recall by nearest neighbors (Kynkäänniemi et al. 2019, "Improved precision and recall metric for
//! assessing generative models", section 2).

use serde::{Deserialize, Serialize};

use super::blocks::{Block, blocks, in_order, squared_distances};
use super::features::Features;
use crate::error::{Error, Result};

const NAME: &str = "precision and recall";

/// The share of generated images within the real ones' manifold, and of real images within the generated ones'. A
/// manifold is a ball around each image that reaches to its `k`-th neighbor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrecisionRecall {
    pub precision: f64,
    pub recall: f64,
    /// Their harmonic mean.
    pub f_score: f64,
    pub k: usize,
    pub width: usize,
    pub generated: usize,
    pub real: usize,
    pub warnings: Vec<String>,
}

/// Precision and recall; the published ones have k = 3.
///
/// # Errors
/// `Metric` where the sets have different widths, or no more than `k` images, or `k` is 0.
pub fn precision_recall(generated: &Features, real: &Features, k: usize) -> Result<PrecisionRecall> {
    generated.check_width(real, NAME)?;
    if k == 0 {
        return Err(Error::metric(NAME, "no neighbors: k must be at least 1"));
    }
    generated.check_count(k + 1, NAME)?;
    real.check_count(k + 1, NAME)?;
    let (generated_radii, real_radii) = (radii(generated, k), radii(real, k));
    let (within, covered) = memberships(generated, &generated_radii, real, &real_radii);
    let share = |of: &[bool]| of.iter().filter(|is| **is).count() as f64 / of.len() as f64;
    let (precision, recall) = (share(&within), share(&covered));
    let (few, many) = (generated.len().min(real.len()), generated.len().max(real.len()));
    let uneven = || {
        format!(
            "{} generated and {} real images: balls are smaller where there are more; take as many of each",
            generated.len(),
            real.len()
        )
    };
    Ok(PrecisionRecall {
        precision,
        recall,
        f_score: 2.0 * precision * recall / (precision + recall).max(1e-5),
        k,
        width: real.width(),
        generated: generated.len(),
        real: real.len(),
        warnings: (many > 2 * few).then(uneven).into_iter().collect(),
    })
}

/// The squared distance of each row from its `k`-th neighbor.
fn radii(set: &Features, k: usize) -> Vec<f64> {
    let all = blocks(set.len());
    let of_block = |rows: std::ops::Range<usize>| {
        let block = Block::new(set, None, rows.clone());
        let mut nearest = vec![Vec::with_capacity(k + 1); rows.len()];
        for others in &all {
            let other = Block::new(set, None, others.clone());
            let distances = squared_distances(&block, &other);
            for (i, row) in distances.chunks_exact(others.len()).enumerate() {
                let own = rows.start + i;
                for (j, &distance) in row.iter().enumerate().filter(|(j, _)| others.start + j != own) {
                    keep_smallest(&mut nearest[i], k, (distance, j));
                }
            }
        }
        nearest.iter().map(|nearest: &Vec<(f64, usize)>| nearest[k - 1].0).collect::<Vec<f64>>()
    };
    in_order(all.clone(), of_block).concat()
}

/// Keeps the `count` smallest of what it is shown, ascending; of equal distances, what came first.
pub(super) fn keep_smallest<T>(kept: &mut Vec<(f64, T)>, count: usize, item: (f64, T)) {
    if kept.len() == count && kept.last().is_none_or(|last| item.0 >= last.0) {
        return;
    }
    let at = kept.partition_point(|other| other.0 <= item.0);
    kept.insert(at, item);
    kept.truncate(count);
}

/// Which generated images lie in a real one's ball, and which real ones in a generated one's.
fn memberships(
    generated: &Features,
    generated_radii: &[f64],
    real: &Features,
    real_radii: &[f64],
) -> (Vec<bool>, Vec<bool>) {
    let of_block = |rows: std::ops::Range<usize>| {
        let block = Block::new(generated, None, rows.clone());
        let (mut within, mut covered) = (vec![false; rows.len()], vec![false; real.len()]);
        for others in blocks(real.len()) {
            let distances = squared_distances(&block, &Block::new(real, None, others.clone()));
            for (i, row) in distances.chunks_exact(others.len()).enumerate() {
                for (j, &distance) in row.iter().enumerate() {
                    let other = others.start + j;
                    within[i] |= distance <= real_radii[other];
                    covered[other] |= distance <= generated_radii[rows.start + i];
                }
            }
        }
        (within, covered)
    };
    let mut covered = vec![false; real.len()];
    let mut within = Vec::with_capacity(generated.len());
    for (of_rows, of_real) in in_order(blocks(generated.len()), of_block) {
        within.extend(of_rows);
        covered.iter_mut().zip(of_real).for_each(|(all, one)| *all |= one);
    }
    (within, covered)
}
