//! What each network is trained for (MirrorGAN, equations 9 to 13; AttnGAN, equations 3 to 5).

use crate::engine::nn::Mode;
use crate::engine::ops::loss::{bce_with_logits, kl};
use crate::engine::ops::pointwise::{add, add_all, scale};
use crate::engine::ops::shape::slice;
use crate::engine::tensor::Tensor;

use super::discriminator::Discriminator;
use super::generator::Generated;

const REAL: f32 = 1.0;
const FAKE: f32 = 0.0;

/// A loss as the sum of its named terms, so that each can be watched.
#[derive(Clone, Default)]
pub struct Terms(Vec<(String, Tensor)>);

impl Terms {
    pub fn push(&mut self, name: impl Into<String>, term: Tensor) {
        self.0.push((name.into(), term));
    }

    /// Adds the terms of `other`, each times `weight`.
    pub fn add_weighted(&mut self, weight: f32, other: Terms) {
        self.0.extend(other.0.into_iter().map(|(name, term)| (name, scale(&term, weight))));
    }

    /// The same numbers, off the tape.
    pub fn detach(&self) -> Terms {
        Terms(self.0.iter().map(|(name, term)| (name.clone(), term.detach())).collect())
    }

    /// The loss itself.
    pub fn total(&self) -> Tensor {
        add_all(&self.0.iter().map(|(_, term)| term).collect::<Vec<_>>())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, term)| (name.as_str(), term))
    }

    /// The terms as numbers, read from the device.
    pub fn values(&self) -> Vec<(String, f32)> {
        self.0.iter().map(|(name, term)| (name.clone(), term.item())).collect()
    }
}

impl<const N: usize> From<[(&str, Tensor); N]> for Terms {
    fn from(terms: [(&str, Tensor); N]) -> Terms {
        Terms(terms.map(|(name, term)| (name.to_owned(), term)).into())
    }
}

/// L_D of one stage: real images are real, with and without their sentence; generated ones are not, and neither is
/// a real image with another's sentence.
///
/// Real and generated images go through the features apart, each with statistics of its own. The wrong pairs are
/// images 0..B-1 with sentences 1..B. Give `fake` off the tape: this loss is no business of the generator's.
pub fn discriminator_loss(d: &Discriminator, real: &Tensor, fake: &Tensor, sentence: &Tensor) -> Tensor {
    let train = Mode::Train;
    let (on_real, on_fake) = (d.features(real, train), d.features(fake, train));
    let pairs = real.shape()[0] - 1;
    assert!(pairs > 0, "wrong pairs need a batch of at least two");
    let wrong = (slice(&on_real, 0, 0, pairs), slice(sentence, 0, 1, pairs));

    let cond_real = bce_with_logits(&d.conditional(&on_real, sentence, train), REAL);
    let cond_fake = bce_with_logits(&d.conditional(&on_fake, sentence, train), FAKE);
    let cond_wrong = bce_with_logits(&d.conditional(&wrong.0, &wrong.1, train), FAKE);
    match (d.unconditional(&on_real), d.unconditional(&on_fake)) {
        (Some(real), Some(fake)) => {
            let (real, fake) = (bce_with_logits(&real, REAL), bce_with_logits(&fake, FAKE));
            let ours = scale(&add(&real, &cond_real), 1.0 / 2.0);
            add(&ours, &scale(&add_all(&[&fake, &cond_fake, &cond_wrong]), 1.0 / 3.0))
        }
        _ => add(&cond_real, &scale(&add(&cond_fake, &cond_wrong), 1.0 / 2.0)),
    }
}

/// L_G of one stage: the discriminator shall take the image for real, with and without the sentence.
pub fn adversarial_loss(d: &Discriminator, fake: &Tensor, sentence: &Tensor) -> Tensor {
    let features = d.features(fake, Mode::Train);
    let conditional = bce_with_logits(&d.conditional(&features, sentence, Mode::Train), REAL);
    match d.unconditional(&features) {
        Some(scores) => add(&conditional, &bce_with_logits(&scores, REAL)),
        None => conditional,
    }
}

/// The generator's terms from the discriminators, g0, g1, .., and the augmentation's divergence from a standard
/// normal, kl. Captions and matching add theirs.
pub fn generator_loss(discriminators: &[Discriminator], made: &Generated, sentence: &Tensor) -> Terms {
    let mut terms = Terms::default();
    for (i, (d, image)) in discriminators.iter().zip(&made.images).enumerate() {
        terms.push(format!("g{i}"), adversarial_loss(d, image, sentence));
    }
    terms.push("kl", kl(&made.mu, &made.logvar));
    terms
}
