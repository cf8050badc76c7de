//! Random numbers as a function of seed and place: a run that goes on draws what it would have drawn, and a
//! caption gets the same noise in whatever company it comes.

use crate::engine::tensor::Rng;

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

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of x reaches every bit of the result.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
