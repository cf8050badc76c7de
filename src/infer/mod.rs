//! Trained networks of a run: loading them, sampling images, features of the held-out images; networks that evaluate pictures.

pub mod evaluator;
pub mod features;
pub mod frozen;
mod preprocess;
mod request;
mod sampler;
mod samples;

pub use preprocess::image_square;
pub use request::{Draw, Noise, NoiseValues, Request, Text, between_noises, between_texts};
pub use sampler::{Prompt, Sampler, Weights};
pub use samples::Samples;
