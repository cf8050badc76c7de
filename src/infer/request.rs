//! What a sample is generated from: words or their embedding, and noise that is drawn or given.

use crate::engine::Tensor;
use crate::mirrorgan::generator::GeneratorConfig;
use crate::mirrorgan::stem::TextEmbedding;
use crate::run::seed::{RngStream, rng_for};

#[derive(Clone)]
pub struct Request {
    pub text: Text,
    pub noise: Noise,
}

#[derive(Clone)]
pub enum Text {
    /// The ids of a caption's words; at least one.
    Words(Vec<i32>),
    /// Word features [1,T,D] and a sentence vector [1,D].
    Embedding(TextEmbedding),
}

#[derive(Clone)]
pub enum Noise {
    Drawn(Draw),
    Given(NoiseValues),
}

/// Noise as a function of seed and number: equal draws are equal noise, whatever else is generated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub seed: u64,
    /// Which of the seed's noises.
    pub number: u64,
    /// z is drawn within ±2 and multiplied by this, as DF-GAN does (Tao et al., CVPR 2022, `truncated_noise` of its code).
    pub truncation: Option<f32>,
}

/// z, and the noise of the conditioning augmentation.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseValues {
    pub z: Vec<f32>,
    pub eps: Vec<f32>,
}

impl Request {
    pub fn words(ids: Vec<i32>, draw: Draw) -> Request {
        Request { text: Text::Words(ids), noise: Noise::Drawn(draw) }
    }
}

impl Noise {
    pub(super) fn values(&self, config: &GeneratorConfig) -> NoiseValues {
        match self {
            Noise::Drawn(draw) => draw.values(config),
            Noise::Given(values) => values.clone(),
        }
    }
}

impl Draw {
    pub fn values(&self, config: &GeneratorConfig) -> NoiseValues {
        /// Where DF-GAN cuts the normal distribution, before it scales.
        const BOUND: f32 = 2.0;
        let mut rng = rng_for(self.seed, self.number, RngStream::Infer);
        let mut z = rng.normals(config.noise);
        let eps = rng.normals(config.condition);
        let Some(truncation) = self.truncation else { return NoiseValues { z, eps } };
        while z.iter().any(|z| z.abs() > BOUND) {
            let again = rng.normals(z.len());
            z.iter_mut().zip(again).filter(|(z, _)| z.abs() > BOUND).for_each(|(z, again)| *z = again);
        }
        z.iter_mut().for_each(|z| *z *= truncation);
        NoiseValues { z, eps }
    }
}

/// A place between two of several stations: the one before, the one after, and how far from the one to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub from: usize,
    pub to: usize,
    pub at: f32,
}

impl Place {
    /// Place `frame` of `frames`, two or more, that lie evenly on the way through all stations, from the first to the last.
    pub fn of(frame: usize, frames: usize, stations: usize) -> Place {
        let (legs, last) = (stations - 1, frames - 1);
        // Whole numbers, so that a station is met exactly.
        let (from, rest) = (frame * legs / last, frame * legs % last);
        Place { from, to: (from + 1).min(legs), at: rest as f32 / last as f32 }
    }
}

/// Between two noises on the great circle (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985), z and eps
/// each by itself: lengths stay those of normal noise, where a straight line would pass near 0. `at` 0 is the first, 1 the second.
pub fn between_noises(from: &NoiseValues, to: &NoiseValues, at: f32) -> NoiseValues {
    NoiseValues { z: slerp(&from.z, &to.z, at), eps: slerp(&from.eps, &to.eps, at) }
}

fn slerp(from: &[f32], to: &[f32], at: f32) -> Vec<f32> {
    if at == 0.0 || at == 1.0 {
        return if at == 0.0 { from } else { to }.to_vec();
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let cosine = dot(from, to) / (dot(from, from) * dot(to, to)).sqrt();
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let at = f64::from(at);
    // Where both point the same or the opposite way there is no one great circle.
    let [a, b] = match angle.sin() > 1e-4 {
        true => [1.0 - at, at].map(|part| (part * angle).sin() / angle.sin()),
        false => [1.0 - at, at],
    };
    from.iter().zip(to).map(|(x, y)| (a * f64::from(*x) + b * f64::from(*y)) as f32).collect()
}

/// Between two captions' embeddings [1,T,D] on a straight line; `at` 0 is the first, 1 the second. Between the ends the words of
/// the shorter caption are spread over the longer one's.
pub fn between_texts(from: &TextEmbedding, to: &TextEmbedding, at: f32) -> TextEmbedding {
    if at == 0.0 || at == 1.0 {
        return if at == 0.0 { from } else { to }.clone();
    }
    let ([_, a, width], [_, b, _]) = (from.words.dims(), to.words.dims());
    let words = a.max(b);
    let spread = |words_of: &Tensor, own: usize| {
        let values = words_of.to_vec();
        let row = |i: usize| values[i * own / words * width..][..width].to_vec();
        (0..words).flat_map(row).collect::<Vec<f32>>()
    };
    let line = |x: Vec<f32>, y: Vec<f32>| {
        x.into_iter().zip(y).map(|(x, y)| (1.0 - at) * x + at * y).collect::<Vec<f32>>()
    };
    TextEmbedding {
        words: Tensor::from_vec(line(spread(&from.words, a), spread(&to.words, b)), [1, words, width]),
        sentence: Tensor::from_vec(line(from.sentence.to_vec(), to.sentence.to_vec()), [1, width]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GeneratorConfig {
        GeneratorConfig {
            width: 2,
            noise: 1001,
            condition: 37,
            stages: 1,
            first_ups: 1,
            residual_blocks: 1,
            sentence_attention: true,
            single_head: false,
        }
    }

    #[test]
    fn frames_meet_every_station() {
        let at = |frame| Place::of(frame, 5, 3);
        let expected = [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5), (2, 0.0)];
        assert_eq!([0, 1, 2, 3, 4].map(|frame| (at(frame).from, at(frame).at)), expected);
        assert_eq!(Place::of(1, 2, 2), Place { from: 1, to: 1, at: 0.0 });
    }

    #[test]
    fn truncated_noise_keeps_its_bounds_and_what_lies_within() {
        let draw = |truncation| Draw { seed: 3, number: 5, truncation }.values(&config());
        let plain = draw(None);
        assert!(plain.z.iter().any(|z| z.abs() > 2.0));
        for truncation in [0.88, 0.5, 1.0] {
            let cut = draw(Some(truncation));
            assert!(cut.z.iter().all(|z| z.abs() <= 2.0 * truncation));
            assert_eq!(cut.eps, plain.eps);
            let kept = plain.z.iter().zip(&cut.z).filter(|(plain, _)| plain.abs() <= 2.0);
            assert!(
                kept.clone().count() > 900 && kept.clone().all(|(plain, cut)| plain * truncation == *cut)
            );
            let spread = (cut.z.iter().map(|z| z * z).sum::<f32>() / 1001.0).sqrt();
            // The deviation of a normal variable within ±2 is 0.88.
            assert!((spread / truncation - 0.88).abs() < 0.06, "{spread}");
        }
    }

    #[test]
    fn noise_between_has_the_length_of_noise() {
        let [a, b] = [1, 2].map(|seed| Draw { seed, number: 0, truncation: None }.values(&config()));
        assert_eq!((between_noises(&a, &b, 0.0), between_noises(&a, &b, 1.0)), (a.clone(), b.clone()));
        let length = |x: &NoiseValues| x.z.iter().map(|z| z * z).sum::<f32>().sqrt();
        let half = between_noises(&a, &b, 0.5);
        assert!((length(&half) / length(&a) - 1.0).abs() < 0.1, "{} {}", length(&half), length(&a));
        let same = between_noises(&a, &a, 0.3);
        assert!(same.z.iter().zip(&a.z).all(|(x, y)| (x - y).abs() < 1e-5));
    }

    #[test]
    fn a_shorter_caption_is_spread_over_a_longer_one() {
        let text = |words: Vec<f32>, sentence: f32| TextEmbedding {
            words: Tensor::from_vec(words.clone(), [1, words.len(), 1]),
            sentence: Tensor::from_vec(vec![sentence], [1, 1]),
        };
        let (short, long) = (text(vec![1.0, 2.0], 0.0), text(vec![10.0, 20.0, 30.0, 40.0], 8.0));
        let half = between_texts(&short, &long, 0.5);
        assert_eq!(half.words.to_vec(), [5.5, 10.5, 16.0, 21.0]);
        assert_eq!(half.sentence.to_vec(), [4.0]);
        assert_eq!(between_texts(&short, &long, 0.0).words.to_vec(), [1.0, 2.0]);
    }
}
