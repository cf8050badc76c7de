//! Random numbers for data: one generator for each (seed, epoch, index), so that the order of work does not matter.
//!
//! They are Xoshiro256++ seeded through SplitMix64, not the engine's Philox: the `rand` crate's distributions and
//! shuffles are drawn from it on the host.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::engine::tensor::rng::mix;

/// The generator for one item in one epoch; equal arguments give equal numbers on every machine.
pub fn rng_for(seed: u64, epoch: u64, index: u64) -> Xoshiro256PlusPlus {
    let key = mix(mix(mix(seed) ^ epoch) ^ index);
    Xoshiro256PlusPlus::seed_from_u64(key)
}
