//! Random numbers of the data floor: one for each (seed, epoch, index), so that order of work cannot matter.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::engine::tensor::rng::mix;

/// The generator of one item in one epoch; equal arguments give equal numbers on every machine.
pub fn rng_for(seed: u64, epoch: u64, index: u64) -> Xoshiro256PlusPlus {
    let key = mix(mix(mix(seed) ^ epoch) ^ index);
    Xoshiro256PlusPlus::seed_from_u64(key)
}
