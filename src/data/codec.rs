//! Decodes and encodes JPEG and PNG files.

use std::io::Cursor;
use std::path::Path;

use image::{ImageDecoder, ImageEncoder, ImageFormat, ImageReader};

use super::picture::Picture;
use crate::error::{Error, Result};
use crate::files::atomic;

/// An image, and whether its file held gray values only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub picture: Picture,
    pub gray: bool,
}

/// Reads a JPEG or PNG; gray images become RGB, and a JPEG that stops before its end is an error.
///
/// # Errors
/// `Io` when it cannot be read; `Data` when it is neither, damaged or truncated.
pub fn decode(path: &Path) -> Result<Decoded> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    decode_bytes(&bytes).map_err(|why| Error::data(path, why))
}

/// As [`decode`], from memory; the error says why.
pub fn decode_bytes(bytes: &[u8]) -> std::result::Result<Decoded, String> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    match reader.format() {
        Some(ImageFormat::Jpeg) if !jpeg_is_whole(bytes) => {
            return Err("a truncated JPEG: it stops before its end marker; fetch the file again".into());
        }
        Some(ImageFormat::Jpeg | ImageFormat::Png) => {}
        _ => return Err("neither JPEG nor PNG; convert it to one of them".into()),
    }
    let damaged = |error: image::ImageError| format!("a damaged image ({error}); fetch the file again");
    let decoder = reader.into_decoder().map_err(damaged)?;
    let gray = !decoder.color_type().has_color();
    let rgb = image::DynamicImage::from_decoder(decoder).map_err(damaged)?.into_rgb8();
    let picture =
        Picture { width: rgb.width() as usize, height: rgb.height() as usize, pixels: rgb.into_raw() };
    Ok(Decoded { picture, gray })
}

/// Walks a JPEG's segments to its end marker. Decoders fill a missing end with gray and do not complain.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let Some(marker) = next_marker(bytes, at) {
        let after = marker + 2;
        match bytes[marker + 1] {
            END_OF_IMAGE => return true,
            START_OF_SCAN => at = after,
            _ => match bytes.get(after..after + 2) {
                Some(length) => at = after + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
    false
}

/// The place of the next `ff xx` that is a marker with content, not a stuffed byte, filler or restart.
fn next_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let pairs = bytes.get(from..)?.windows(2);
    let place = pairs.into_iter().position(|pair| match pair {
        [0xff, kind] => !matches!(kind, 0x00 | 0x01 | 0xd0..=0xd7 | 0xff),
        _ => false,
    });
    place.map(|place| from + place)
}

/// Writes `rgb` (`width · height · 3` bytes, rows from the top) as a PNG, whole or not at all.
///
/// # Errors
/// `Io` when the folder cannot be written.
///
/// # Panics
/// When `rgb` has another length.
pub fn save_png(path: impl AsRef<Path>, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
    assert_eq!(rgb.len(), width * height * 3, "an RGB image of {width}×{height} has three bytes a pixel");
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8)
        .expect("a PNG written to memory cannot fail");
    atomic::write(path, &bytes)
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
