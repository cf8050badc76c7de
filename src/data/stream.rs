//! Random streams of the data floor: one for each (seed, epoch, index), so that order of work cannot matter.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

/// The generator of one item in one epoch; equal arguments give equal streams on every machine.
pub fn stream(seed: u64, epoch: u64, index: u64) -> Xoshiro256PlusPlus {
    let key = mix(mix(mix(seed) ^ epoch) ^ index);
    Xoshiro256PlusPlus::seed_from_u64(key)
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
