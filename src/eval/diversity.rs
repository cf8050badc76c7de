//! Diversity within a caption: a collapsed generator draws one picture for all noise.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::blocks::{Block, block_pairs, cosine, in_order, mean_and_deviation, products, squared_distances};
use super::features::Features;
use crate::error::{Error, Result};

const NAME: &str = "diversity";

/// Mean distances of pairs of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairDistances {
    pub euclidean: f64,
    /// 1 - cosine.
    pub cosine: f64,
    pub pairs: u64,
}

/// How far images of one caption lie apart, beside how far those of different captions do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diversity {
    /// Of pairs that share a caption: the mean over captions of each one's mean.
    pub within: PairDistances,
    /// Of `within.euclidean`, over the captions.
    pub deviation: f64,
    /// Of all pairs of different captions; none where there is one caption.
    pub between: Option<PairDistances>,
    /// `within` over `between`, Euclidean: near 0 where noise changes nothing, near 1 where captions change nothing.
    pub ratio: Option<f64>,
    /// Captions of more than one image.
    pub captions: usize,
    pub images: usize,
    pub width: usize,
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    euclidean: f64,
    cosine: f64,
    pairs: u64,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.euclidean += other.euclidean;
        self.cosine += other.cosine;
        self.pairs += other.pairs;
    }

    fn means(self) -> PairDistances {
        let count = self.pairs as f64;
        PairDistances { euclidean: self.euclidean / count, cosine: self.cosine / count, pairs: self.pairs }
    }
}

/// Distances of all pairs; `captions[i]` is the caption of row i, by any number.
///
/// # Errors
/// `Metric` where no caption has two images.
///
/// # Panics
/// Where there are not as many captions as rows.
pub fn diversity(features: &Features, captions: &[u64]) -> Result<Diversity> {
    assert_eq!(features.len(), captions.len(), "a caption for each row");
    let mut between = Sums::default();
    let mut within: BTreeMap<u64, Sums> = BTreeMap::new();
    let of_pair = |(a, b)| sums(features, captions, a, b);
    for (of_captions, of_others) in in_order(block_pairs(features.len()), of_pair) {
        between.add(of_others);
        for (caption, sums) in of_captions {
            within.entry(caption).or_default().add(sums);
        }
    }
    if within.is_empty() {
        let why = format!(
            "{} images, and no caption has two; several must be generated for a caption",
            features.len()
        );
        return Err(Error::metric(NAME, why));
    }
    let means: Vec<PairDistances> = within.into_values().map(Sums::means).collect();
    let (euclidean, deviation) = mean_and_deviation(&means.iter().map(|m| m.euclidean).collect::<Vec<_>>());
    let (cosine, _) = mean_and_deviation(&means.iter().map(|m| m.cosine).collect::<Vec<_>>());
    let pairs = means.iter().map(|m| m.pairs).sum();
    let between = (between.pairs > 0).then(|| between.means());
    let ratio = between.filter(|b| b.euclidean > 0.0).map(|b| euclidean / b.euclidean);
    let few =
        || format!("{} captions: that is too few to tell a generator's diversity from theirs", means.len());
    Ok(Diversity {
        within: PairDistances { euclidean, cosine, pairs },
        deviation,
        between,
        ratio,
        captions: means.len(),
        images: features.len(),
        width: features.width(),
        warnings: (means.len() < 10).then(few).into_iter().collect(),
    })
}

/// Of the pairs of two blocks of rows, each pair once: for each caption, and for different captions.
fn sums(
    features: &Features,
    captions: &[u64],
    a: Range<usize>,
    b: Range<usize>,
) -> (BTreeMap<u64, Sums>, Sums) {
    let (left, right) = (Block::new(features, None, a.clone()), Block::new(features, None, b.clone()));
    let (products, squares) = (products(&left, &right), squared_distances(&left, &right));
    let (mut within, mut between) = (BTreeMap::<u64, Sums>::new(), Sums::default());
    for (i, row) in a.clone().enumerate() {
        for (j, column) in b.clone().enumerate().filter(|(_, column)| *column > row) {
            let at = i * b.len() + j;
            let pair = Sums {
                euclidean: squares[at].sqrt(),
                cosine: 1.0 - cosine(products[at], &left, i, &right, j),
                pairs: 1,
            };
            match captions[row] == captions[column] {
                true => within.entry(captions[row]).or_default().add(pair),
                false => between.add(pair),
            }
        }
    }
    (within, between)
}
