//! Pictures to look at: grids of images, sheets of attention maps, words beneath them.

pub mod grid;
mod text;
