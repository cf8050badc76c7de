//! Random numbers as a function of seed, use and index: a resumed run draws what it would have drawn without the
//! break, and the noise of a caption does not depend on the other captions of a call.

use crate::engine::tensor::Rng;
use crate::engine::tensor::rng::mix;

/// What numbers are drawn for; each use has its own numbers.
#[derive(Clone, Copy, Debug)]
pub enum RngStream {
    Weights,
    Dropout,
    Noise,
    Samples,
    Infer,
    Evaluation,
    Subsets,
    Directions,
    Splits,
    Captions,
}

/// The numbers for one use at `index`: of a step, of a caption, of a network.
pub fn rng_for(seed: u64, index: u64, stream: RngStream) -> Rng {
    Rng::new(mix(mix(seed) ^ index), stream as u32)
}
