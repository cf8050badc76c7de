//! Pictures within the page.

use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, RgbaImage};

use crate::data::Picture;
use crate::error::{Error, Result};

/// PNG files beyond this many bytes are written as JPEG where that is smaller.
const LARGE: usize = 48 << 10;
const QUALITY: u8 = 88;

/// A picture as an address that holds it.
pub(super) struct Inline {
    pub address: String,
    pub width: u32,
    pub height: u32,
}

/// The PNG file at `path`.
///
/// # Errors
/// `Io` where it cannot be read, `Data` where it is no picture.
pub(super) fn file(path: &Path) -> Result<Inline> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let decoded = image::load_from_memory_with_format(&bytes, ImageFormat::Png);
    let picture = decoded.map_err(|e| Error::data(path, format!("not a picture that can be shown ({e})")))?;
    let (width, height) = (picture.width(), picture.height());
    if bytes.len() > LARGE {
        let smaller = jpeg(&picture.to_rgb8().into());
        if smaller.len() < bytes.len() {
            return Ok(Inline { address: address("jpeg", &smaller), width, height });
        }
    }
    Ok(Inline { address: address("png", &bytes), width, height })
}

pub(super) fn picture(picture: &Picture) -> Inline {
    let (width, height) = (picture.width as u32, picture.height as u32);
    let image = image::RgbImage::from_raw(width, height, picture.pixels.clone());
    let image = image.expect("a picture has three bytes a pixel");
    Inline { address: address("png", &png(&image.into())), width, height }
}

/// Colors with their opacity.
pub(super) fn layer(layer: RgbaImage) -> Inline {
    let (width, height) = layer.dimensions();
    Inline { address: address("png", &png(&layer.into())), width, height }
}

fn png(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).expect("a PNG written to memory cannot fail");
    bytes.into_inner()
}

fn jpeg(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    image.write_with_encoder(encoder).expect("a JPEG written to memory cannot fail");
    bytes
}

fn address(kind: &str, bytes: &[u8]) -> String {
    format!("data:image/{kind};base64,{}", STANDARD.encode(bytes))
}
