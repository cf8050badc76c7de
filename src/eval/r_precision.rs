//! R-precision (AttnGAN, section 4): does a picture find its caption among captions of other classes?

use super::Metric;
use crate::data::Batch;
use crate::engine::Tensor;
use crate::error::Result;
use crate::run::seed::{RngStream, rng_for};
use crate::run::{Context, Inputs};

/// Pictures and captions as vectors of one space.
#[derive(Default)]
struct Codes {
    pictures: Vec<Vec<f32>>,
    captions: Vec<Vec<f32>>,
    classes: Vec<i32>,
}

/// Measures with `code`, which gives the codes of a batch's pictures and its sentence vectors, both [B,D].
/// None where there are not enough classes to choose among.
pub fn measure(
    context: &Context,
    of: &str,
    mut code: impl FnMut(&Inputs) -> (Tensor, Tensor),
) -> Result<Option<Metric>> {
    let config = context.config;
    let (candidates, side) = (config.eval.candidates, config.gan.largest());
    let mut codes = Codes::default();
    for batch in context.held_out(config.eval.pictures, config.train.batch)? {
        let batch: Batch = batch?;
        if batch.is_empty() {
            continue;
        }
        codes.classes.extend(&batch.classes);
        let (pictures, captions) = code(&Inputs::new(batch, &[side]));
        codes.pictures.extend(rows(&pictures));
        codes.captions.extend(rows(&captions));
    }
    let Some(value) = r_precision(&codes, candidates, config.train.seed) else { return Ok(None) };
    let message = format!(
        "R-precision of {} {of} among {candidates} captions: {value:.3} (chance {:.3})",
        codes.classes.len(),
        1.0 / candidates as f32
    );
    Ok(Some(Metric { name: "r_precision".to_string(), value, message }))
}

fn rows(t: &Tensor) -> Vec<Vec<f32>> {
    t.to_vec().chunks(t.shape().last_dim()).map(<[f32]>::to_vec).collect()
}

/// The share of pictures whose own caption is nearer than `candidates - 1` of other classes, drawn by chance.
fn r_precision(codes: &Codes, candidates: usize, seed: u64) -> Option<f32> {
    let count = codes.classes.len();
    let mut found = 0;
    for picture in 0..count {
        let mut others: Vec<usize> =
            (0..count).filter(|&i| codes.classes[i] != codes.classes[picture]).collect();
        if others.len() < candidates - 1 {
            return None;
        }
        rng_for(seed, picture as u64, RngStream::Evaluation).shuffle(&mut others);
        let nearness = |caption: usize| cosine(&codes.pictures[picture], &codes.captions[caption]);
        let own = nearness(picture);
        found += usize::from(others[..candidates - 1].iter().all(|&other| nearness(other) < own));
    }
    (count > 0).then(|| found as f32 / count as f32)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_hot(i: usize) -> Vec<f32> {
        (0..20).map(|k| if k == i { 1.0 } else { 0.0 }).collect()
    }

    #[test]
    fn pictures_that_equal_their_captions_find_them_all() {
        let codes = Codes {
            pictures: (0..20).map(one_hot).collect(),
            captions: (0..20).map(one_hot).collect(),
            classes: (0..20).collect(),
        };
        assert_eq!(r_precision(&codes, 10, 0), Some(1.0));
        let turned = Codes { captions: (0..20).map(|i| one_hot((i + 1) % 20)).collect(), ..codes };
        assert_eq!(r_precision(&turned, 10, 0), Some(0.0));
        assert_eq!(r_precision(&turned, 21, 0), None);
    }
}
