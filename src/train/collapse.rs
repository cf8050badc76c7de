//! Notices when adversarial training has gone wrong in one of its two known ways.

use crate::engine::Tensor;

/// The share of the real images' diversity below which generated ones are all alike.
const ALIKE: f64 = 0.25;
/// The share that must have been there before: networks begin with images that are alike.
const DIVERSE: f64 = 0.5;
/// The share of right answers at which a discriminator teaches nothing, and for how many readings in a row.
const CERTAIN: f64 = 0.995;
const READINGS: usize = 20;

/// The tags of what is watched.
pub(super) const DIVERSITY: &str = "diversity";
pub(super) const ACCURACY: &str = "accuracy";

/// How far the codes of images lie from their mean.
#[derive(Default)]
pub(super) struct Spread {
    count: f64,
    sums: Vec<f64>,
    squares: f64,
}

impl Spread {
    /// Takes codes [B,D].
    pub fn take(&mut self, codes: &Tensor) {
        for row in codes.to_vec().chunks(codes.shape().last_dim()) {
            self.sums.resize(row.len(), 0.0);
            self.sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            self.squares += row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            self.count += 1.0;
        }
    }

    /// The root of the mean squared distance from the mean.
    fn deviation(&self) -> f64 {
        let mean = self.sums.iter().map(|sum| (sum / self.count).powi(2)).sum::<f64>();
        (self.squares / self.count - mean).max(0.0).sqrt()
    }

    /// None of fewer than two images, or where the others are all alike.
    pub fn share_of(&self, other: &Spread) -> Option<f64> {
        let (own, other) = (self.deviation(), other.deviation());
        (self.count > 1.0 && own.is_finite() && other > 0.0).then(|| own / other)
    }
}

#[derive(Default)]
pub(super) struct CollapseWatch {
    diversest: f64,
    is_alike: bool,
    certain: usize,
}

impl CollapseWatch {
    /// Takes the diversity of generated images, as a share of the real ones'; a sentence where it has collapsed.
    pub fn diversity(&mut self, share: f64) -> Option<String> {
        self.diversest = self.diversest.max(share);
        let alike = share < ALIKE && self.diversest >= DIVERSE;
        let was_alike = std::mem::replace(&mut self.is_alike, alike);
        (alike && !was_alike).then(|| {
            format!(
                "generated images have become alike: they differ {:.0} % as much as real ones do, after {:.0} %. The generator has \
                 collapsed; go on from an earlier checkpoint (the best one is kept) with a lower gan.discriminator_adam.lr",
                100.0 * share,
                100.0 * self.diversest
            )
        })
    }

    /// Takes the shares of images that the discriminators judge rightly; a sentence where they have won.
    pub fn accuracies(&mut self, shares: impl IntoIterator<Item = f64>) -> Option<String> {
        let mut shares = shares.into_iter().peekable();
        let certain = shares.peek().is_some() && shares.all(|share| share >= CERTAIN);
        self.certain = if certain { self.certain + 1 } else { 0 };
        (self.certain == READINGS).then(|| {
            format!(
                "the discriminators were right about all real and all generated images at each of the last {READINGS} readings: \
                 the generator learns little from them; a lower gan.discriminator_adam.lr lets it catch up"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_deviation_from_the_mean() {
        let spread = |values: Vec<f32>| {
            let mut spread = Spread::default();
            spread.take(&Tensor::from_vec(values, [2, 2]));
            spread
        };
        let (one, two) = (spread(vec![1.0, 0.0, -1.0, 0.0]), spread(vec![5.0, 3.0, 9.0, 3.0]));
        assert_eq!([one.deviation(), two.deviation()], [1.0, 2.0]);
        assert_eq!(one.share_of(&two), Some(0.5));
        assert_eq!(one.share_of(&spread(vec![1.0; 4])), None);
    }

    #[test]
    fn images_that_become_alike_are_named_once() {
        let mut watch = CollapseWatch::default();
        // Alike from the start is a beginning.
        assert_eq!(watch.diversity(0.1), None);
        assert_eq!(watch.diversity(0.8), None);
        assert!(watch.diversity(0.2).unwrap().contains("20 % as much as real ones do, after 80 %"));
        assert_eq!(watch.diversity(0.1), None);
        assert_eq!(watch.diversity(0.7), None);
        assert!(watch.diversity(0.2).is_some());
    }

    #[test]
    fn discriminators_that_always_win_are_named_once() {
        let mut watch = CollapseWatch::default();
        let count = |watch: &mut CollapseWatch, shares: [f64; 2], times: usize| {
            (0..times).filter_map(|_| watch.accuracies(shares)).count()
        };
        assert_eq!(count(&mut watch, [1.0, 1.0], READINGS - 1), 0);
        assert_eq!(count(&mut watch, [1.0, 0.5], 1), 0);
        assert_eq!(count(&mut watch, [1.0, 1.0], 3 * READINGS), 1);
        assert_eq!((0..99).filter_map(|_| watch.accuracies([])).count(), 0);
    }
}
