//! An image file as the networks were trained to read it.

use std::path::Path;

use crate::data::{Cut, DecodeConfig, prepare};
use crate::engine::Tensor;
use crate::error::Result;

/// The center of an image as a square of `side`, [1,S,S,3] in [-1, 1].
pub fn center_square(path: &Path, side: usize) -> Result<Tensor> {
    let picture = prepare(path, None, side, &DecodeConfig::default())?;
    let cut = picture.cut(side, Cut::center(&picture, side));
    let mut values = Vec::new();
    cut.normalize_into(&mut values);
    Ok(Tensor::from_vec(values, [1, side, side, 3]))
}
