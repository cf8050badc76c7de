//! An image file as the networks were trained to read it.

use std::path::Path;

use crate::data::{Cut, DecodeConfig, prepare};
use crate::engine::Tensor;
use crate::error::Result;

/// What an evaluation shows of an image: cut by its box, if it has one, scaled, and the square in the middle;
/// [1,S,S,3] in [-1, 1]. `bbox` is `[x, y, width, height]` in pixels.
pub fn image_square(
    path: &Path,
    bbox: Option<[f32; 4]>,
    side: usize,
    decode: &DecodeConfig,
) -> Result<Tensor> {
    let picture = prepare(path, bbox, side, decode)?;
    let cut = picture.cut(side, Cut::center(&picture, side));
    let mut values = Vec::new();
    cut.normalize_into(&mut values);
    Ok(Tensor::from_vec(values, [1, side, side, 3]))
}
