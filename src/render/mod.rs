//! Images for people: grids of images, sheets of attention maps with captions.

pub mod grid;
mod text;
