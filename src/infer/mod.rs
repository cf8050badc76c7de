//! Trained networks of a run, ready to use.

pub mod frozen;
pub mod sampler;

pub use sampler::{Prompt, Sample, Sampler};
