//! The objectives of the GAN (MirrorGAN, section 3.4; AttnGAN, section 3.1). The weights of a discriminator's terms
//! are those of the published code, where the papers write ½ for each.

use serde::{Deserialize, Serialize};

use crate::engine::nn::Mode;
use crate::engine::ops::loss::{bce_with_logits, hinge, kl};
use crate::engine::ops::pointwise::{add, add_all, mul, scale};
use crate::engine::ops::pool::{Border, avg_pool};
use crate::engine::ops::reduce::mean;
use crate::engine::ops::shape::slice;
use crate::engine::tensor::Tensor;

use super::discriminator::Discriminator;
use super::generator::Generated;

/// What a discriminator's logits are measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adversarial {
    /// Binary cross-entropy, as published.
    Bce,
    /// The hinge loss; the generator raises the logits themselves (Lim and Ye, 2017).
    Hinge,
}

impl Adversarial {
    /// The discriminator's loss on images that it is to take for real.
    fn real(self, logits: &Tensor) -> Tensor {
        match self {
            Adversarial::Bce => bce_with_logits(logits, 1.0),
            Adversarial::Hinge => hinge(logits, 1.0),
        }
    }

    /// The discriminator's loss on images that it is to take for generated, or for another sentence's.
    fn fake(self, logits: &Tensor) -> Tensor {
        match self {
            Adversarial::Bce => bce_with_logits(logits, 0.0),
            Adversarial::Hinge => hinge(logits, -1.0),
        }
    }

    /// The generator's loss on images that are to be taken for real.
    fn fooled(self, logits: &Tensor) -> Tensor {
        match self {
            Adversarial::Bce => bce_with_logits(logits, 1.0),
            Adversarial::Hinge => scale(&mean(logits), -1.0),
        }
    }
}

/// The losses of generator and discriminators among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    pub adversarial: Adversarial,
    /// Weight of the augmented condition's divergence from a standard normal.
    pub lambda_kl: f32,
    /// Weight of the squared difference between a stage's image and the next one's at its size.
    pub lambda_consistency: f32,
}

impl Objective {
    /// That of both papers' code.
    pub const PUBLISHED: Objective =
        Objective { adversarial: Adversarial::Bce, lambda_kl: 1.0, lambda_consistency: 0.0 };
}

/// A loss as the weighted sum of named terms. Terms stay on the device and unweighted until they are read.
#[derive(Clone, Default)]
pub struct Terms(Vec<Term>);

#[derive(Clone)]
struct Term {
    name: String,
    weight: f32,
    /// A scalar.
    value: Tensor,
}

impl Terms {
    /// Adds a term of weight 1.
    pub fn push(&mut self, name: impl Into<String>, value: Tensor) {
        self.0.push(Term { name: name.into(), weight: 1.0, value });
    }

    /// Adds the terms of `other`, each times `weight`.
    pub fn add_weighted(&mut self, weight: f32, other: Terms) {
        self.0.extend(other.0.into_iter().map(|term| Term { weight: weight * term.weight, ..term }));
    }

    /// Adds the terms of `other`.
    pub fn append(&mut self, other: Terms) {
        self.0.extend(other.0);
    }

    /// Σ weight · value: the loss itself.
    pub fn total(&self) -> Tensor {
        let weighted = |term: &Term| match term.weight {
            1.0 => term.value.clone(),
            weight => scale(&term.value, weight),
        };
        add_all(&self.0.iter().map(weighted).collect::<Vec<_>>().iter().collect::<Vec<_>>())
    }

    /// The same terms off the tape, to be read after the step without keeping its graph.
    pub fn detach(&self) -> Terms {
        Terms(self.0.iter().map(|term| Term { value: term.value.detach(), ..term.clone() }).collect())
    }

    /// The terms before their weights.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|term| (term.name.as_str(), &term.value))
    }

    /// The terms as numbers. Waits for the device.
    pub fn values(&self) -> Vec<Loss> {
        let loss = |Term { name, weight, value }: &Term| Loss {
            name: name.clone(),
            value: value.item(),
            weight: *weight,
        };
        self.0.iter().map(loss).collect()
    }
}

/// A term of a loss as a number: its own value, and its weight in the sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    pub name: String,
    pub value: f32,
    pub weight: f32,
}

impl<const N: usize> From<[(&str, Tensor); N]> for Terms {
    fn from(terms: [(&str, Tensor); N]) -> Terms {
        let mut all = Terms::default();
        terms.into_iter().for_each(|(name, value)| all.push(name, value));
        all
    }
}

/// L_D of one stage. Real images score as real, alone and with their sentence; generated images as fake, alone and
/// with their sentence; and real images with the sentence of another image as fake.
///
/// Real and generated images pass through the features separately, so that each batch has its own statistics. The
/// mismatched pairs are images 0..B-1 with sentences 1..B. `fake` must be off the tape, so that this loss does not
/// reach the generator.
pub fn discriminator_loss(
    adversarial: Adversarial,
    d: &Discriminator,
    real: &Tensor,
    fake: &Tensor,
    sentence: &Tensor,
) -> Judged {
    let train = Mode::Train;
    let [real, fake] = d.features_of([real, fake], train);
    let pairs = real.shape()[0] - 1;
    assert!(pairs > 0, "mismatched pairs need a batch of at least two");
    let (wrong, wrong_sentence) = (slice(&real, 0, 0, pairs), slice(sentence, 0, 1, pairs));

    let logits = [d.conditional(&real, sentence, train), d.conditional(&fake, sentence, train)];
    let (cond_real, cond_fake) = (adversarial.real(&logits[0]), adversarial.fake(&logits[1]));
    let cond_wrong = adversarial.fake(&d.conditional(&wrong, &wrong_sentence, train));
    let (loss, [real, fake]) = match (d.unconditional(&real), d.unconditional(&fake)) {
        (Some(real), Some(fake)) => {
            let losses = (adversarial.real(&real), adversarial.fake(&fake));
            let of_real = mean_of(&[&losses.0, &cond_real]);
            (add(&of_real, &mean_of(&[&losses.1, &cond_fake, &cond_wrong])), [real, fake])
        }
        _ => (add(&cond_real, &mean_of(&[&cond_fake, &cond_wrong])), logits),
    };
    Judged { loss, real: real.detach(), fake: fake.detach() }
}

/// A discriminator's loss, and the logits that it gave to real and generated images: those of the head without
/// captions where it has one. Off the tape.
pub struct Judged {
    pub loss: Tensor,
    pub real: Tensor,
    pub fake: Tensor,
}

impl Judged {
    /// The shares of real and of generated images that were taken for what they are. Waits for the device.
    pub fn accuracies(&self) -> [f64; 2] {
        let share = |logits: &Tensor, right: fn(&f32) -> bool| {
            let logits = logits.to_vec();
            logits.iter().filter(|&logit| right(logit)).count() as f64 / logits.len().max(1) as f64
        };
        [share(&self.real, |&logit| logit > 0.0), share(&self.fake, |&logit| logit < 0.0)]
    }
}

/// The mean of several losses.
fn mean_of(losses: &[&Tensor]) -> Tensor {
    scale(&add_all(losses), 1.0 / losses.len() as f32)
}

/// L_G of one stage: generated images score as real, alone and with their sentence.
pub fn adversarial_loss(
    adversarial: Adversarial,
    d: &Discriminator,
    fake: &Tensor,
    sentence: &Tensor,
) -> Tensor {
    let features = d.features(fake, Mode::Train);
    let conditional = adversarial.fooled(&d.conditional(&features, sentence, Mode::Train));
    match d.unconditional(&features) {
        Some(logits) => add(&conditional, &adversarial.fooled(&logits)),
        None => conditional,
    }
}

/// How far each stage's image is from the next one's at its size, as the mean of squares, summed over the stages. The smaller one learns of
/// it, so that early stages paint what the words made of the last; StackGAN++'s color consistency (section 3.3 there) compares only moments.
fn consistency(images: &[Tensor]) -> Tensor {
    let pairs = images.iter().zip(&images[1..]);
    let distances: Vec<Tensor> = pairs
        .map(|(image, next)| {
            let next = avg_pool(&next.detach(), 2, 2, 0, Border::Counts);
            let difference = add(image, &scale(&next, -1.0));
            mean(&mul(&difference, &difference))
        })
        .collect();
    add_all(&distances.iter().collect::<Vec<_>>())
}

/// The generator's terms without a captioner and DAMSM: L_G of each stage, `g0`, `g1`, .., and `kl`, the divergence
/// of the augmented condition from a standard normal.
pub fn generator_loss(
    objective: Objective,
    discriminators: &[Discriminator],
    generated: &Generated,
    sentence: &Tensor,
) -> Terms {
    let mut terms = Terms::default();
    for (i, (d, image)) in discriminators.iter().zip(&generated.images).enumerate() {
        terms.push(format!("g{i}"), adversarial_loss(objective.adversarial, d, image, sentence));
    }
    terms.add_weighted(objective.lambda_kl, Terms::from([("kl", kl(&generated.mu, &generated.logvar))]));
    if objective.lambda_consistency > 0.0 && generated.images.len() > 1 {
        let loss = consistency(&generated.images);
        terms.add_weighted(objective.lambda_consistency, Terms::from([("consistency", loss)]));
    }
    terms
}
