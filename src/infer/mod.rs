//! Trained networks of a run: loading them, sampling images, features of the held-out images; networks that evaluate pictures.

pub mod evaluator;
pub mod features;
pub mod frozen;
mod preprocess;
mod prompt;
mod request;
mod review;
mod sampler;
mod samples;

pub use preprocess::image_square;
pub use prompt::{NAMED, Prompt, suggestions};
pub use request::{Draw, Noise, NoiseValues, Place, Request, Text, between_noises, between_texts};
pub use review::{Matching, Review, Reviewer};
pub use sampler::{Sampler, Weights};
pub use samples::Samples;
