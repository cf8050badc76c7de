//! Random numbers as a function of seed and place: a run that goes on draws what it would have drawn, and a
//! caption gets the same noise in whatever company it comes.

use crate::engine::tensor::Rng;
use crate::engine::tensor::rng::mix;

/// What numbers are drawn for; each purpose has a stream of its own.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    Weights,
    Dropout,
    Noise,
    Samples,
    Infer,
    Evaluation,
}

/// The stream of `purpose` at `place`: a step, a caption, the number of a network.
pub fn stream(seed: u64, place: u64, purpose: Purpose) -> Rng {
    Rng::new(mix(mix(seed) ^ place), purpose as u32)
}
