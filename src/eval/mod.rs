//! What a trained model is judged by: pictures to look at, and figures.

pub mod grid;
pub mod painter;
pub mod r_precision;
mod text;
