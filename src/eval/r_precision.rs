//! R-precision (AttnGAN, section 4): does an image find its caption among captions of other classes?

use crate::run::seed::{RngStream, rng_for};

/// The share of images whose own caption is nearer than `candidates - 1` captions of other classes, drawn at random.
/// Images and captions are vectors of one space; image i belongs to caption i and to `classes[i]`. None where there are
/// too few captions of other classes.
pub fn r_precision(
    images: &[Vec<f32>],
    captions: &[Vec<f32>],
    classes: &[i32],
    candidates: usize,
    seed: u64,
) -> Option<f32> {
    let count = classes.len();
    let mut found = 0;
    for image in 0..count {
        let mut others: Vec<usize> = (0..count).filter(|&i| classes[i] != classes[image]).collect();
        if others.len() < candidates - 1 {
            return None;
        }
        rng_for(seed, image as u64, RngStream::Evaluation).shuffle(&mut others);
        let similarity = |caption: usize| cosine(&images[image], &captions[caption]);
        let own = similarity(image);
        found += usize::from(others[..candidates - 1].iter().all(|&other| similarity(other) < own));
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
    fn images_that_equal_their_captions_find_them_all() {
        let images: Vec<Vec<f32>> = (0..20).map(one_hot).collect();
        let classes: Vec<i32> = (0..20).collect();
        assert_eq!(r_precision(&images, &images, &classes, 10, 0), Some(1.0));
        let shifted: Vec<Vec<f32>> = (0..20).map(|i| one_hot((i + 1) % 20)).collect();
        assert_eq!(r_precision(&images, &shifted, &classes, 10, 0), Some(0.0));
        assert_eq!(r_precision(&images, &shifted, &classes, 21, 0), None);
    }
}
