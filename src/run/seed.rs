//! Random numbers as a function of seed and place: a run that goes on draws what it would have drawn, and a
//! caption gets the same noise in whatever company it comes.

use crate::engine::tensor::Rng;
use crate::engine::tensor::rng::mix;

/// What numbers are drawn for; each use has a stream of its own.
#[derive(Clone, Copy, Debug)]
pub enum RngStream {
    Weights,
    Dropout,
    Noise,
    Samples,
    Infer,
    Evaluation,
}

/// The numbers of `stream` at `index`: a step, a caption, the number of a network.
pub fn rng_for(seed: u64, index: u64, stream: RngStream) -> Rng {
    Rng::new(mix(mix(seed) ^ index), stream as u32)
}
