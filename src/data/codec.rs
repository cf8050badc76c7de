//! Encodes JPEG and PNG files.

use std::path::Path;

use image::ImageEncoder;

use super::picture::Picture;
use crate::error::Result;
use crate::files::atomic;

/// Writes `rgb` (`width · height · 3` bytes, rows from the top) as a PNG, whole or not at all.
///
/// # Errors
/// `Io` when the folder cannot be written.
///
/// # Panics
/// When `rgb` has another length.
pub fn save_png(path: impl AsRef<Path>, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
    save_png_with_text(path, width, height, rgb, &[])
}

/// As [`save_png`], with text chunks of these keywords.
pub fn save_png_with_text(
    path: impl AsRef<Path>,
    width: usize,
    height: usize,
    rgb: &[u8],
    texts: &[(&str, &str)],
) -> Result<()> {
    atomic::write(path, &png_with_text(width, height, rgb, texts))
}

/// The bytes of a PNG with text chunks of these keywords.
pub fn png_with_text(width: usize, height: usize, rgb: &[u8], texts: &[(&str, &str)]) -> Vec<u8> {
    assert_eq!(rgb.len(), width * height * 3, "an RGB image of {width}×{height} has three bytes a pixel");
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        let added = encoder.add_itxt_chunk(keyword.to_string(), text.replace('\0', " "));
        added.expect("keywords are short and Latin");
    }
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(rgb));
    written.expect("a PNG written to memory cannot fail");
    bytes
}

/// The bytes of a JPEG file of `picture`; `quality` is from 1 to 100.
pub(super) fn jpeg(picture: &Picture, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)
        .write_image(
            &picture.pixels,
            picture.width as u32,
            picture.height as u32,
            image::ExtendedColorType::Rgb8,
        )
        .expect("a JPEG written to memory cannot fail");
    bytes
}
