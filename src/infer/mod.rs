//! Trained networks of a run: loading them, sampling images, features of the held-out images; networks that evaluate pictures.

pub mod evaluator;
pub mod features;
pub mod frozen;
mod preprocess;
mod sampler;

pub use preprocess::image_square;
pub use sampler::{Prompt, Sample, Sampler};
