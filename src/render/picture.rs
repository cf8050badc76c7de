//! Tensors to pictures.

use crate::data::Picture;
use crate::engine::Tensor;

/// The images [B,H,W,3] in [-1, 1], as 8-bit RGB.
pub fn pictures(images: &Tensor) -> Vec<Picture> {
    let [_, height, width, channels] = images.dims();
    let byte = |&v: &f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let values = images.to_vec();
    let each = values.chunks(height * width * channels);
    each.map(|values| Picture { width, height, pixels: values.iter().map(byte).collect() }).collect()
}
