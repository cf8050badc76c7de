//! Pictures as numbers: decode, crop by bounding box, resize as Pillow does, scale to [−1, 1].

use std::io::Cursor;
use std::path::Path;

use image::{ImageDecoder, ImageEncoder, ImageFormat, ImageReader};
use rand::{Rng, RngExt};

use super::resize;
use crate::error::{Error, Result};
use crate::files::atomic;

/// RGB, 8 bits a channel, rows from the top: `pixels.len() == width · height · 3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// A picture, and whether its file held gray values only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub picture: Picture,
    pub gray: bool,
}

/// A region in pixels: columns `left..right`, rows `top..bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

/// Reads a JPEG or PNG; gray pictures become RGB, and a JPEG that stops before its end is an error.
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
    let damaged = |error: image::ImageError| format!("a damaged picture ({error}); fetch the file again");
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

/// The published crop: a square about the box's center, half-side ¾ of its longer side, clipped to the picture.
///
/// `bbox` is `[x, y, width, height]` in pixels. Source: `get_imgs` of AttnGAN's `datasets.py`.
///
/// # Errors
/// Why there is nothing to crop: the box is empty or lies outside the picture.
pub fn bbox_crop(width: usize, height: usize, bbox: [f32; 4]) -> std::result::Result<Region, String> {
    let [x, y, w, h] = bbox.map(f32::trunc);
    let meets = x + w > 0.0 && y + h > 0.0 && x < width as f32 && y < height as f32;
    if !(meets && w >= 1.0 && h >= 1.0) {
        let [x, y, w, h] = bbox;
        return Err(format!(
            "the bounding box lies outside the picture ({w}×{h} at x {x}, y {y}; the picture has {width}×{height})"
        ));
    }
    let reach = (f64::from(w.max(h)) * 0.75) as i64;
    let center_x = ((2.0 * x + w) / 2.0) as i64;
    let center_y = ((2.0 * y + h) / 2.0) as i64;
    let clip = |at: i64, limit: usize| at.clamp(0, limit as i64) as usize;
    let region = Region {
        left: clip(center_x - reach, width),
        top: clip(center_y - reach, height),
        right: clip(center_x + reach, width),
        bottom: clip(center_y + reach, height),
    };
    if region.left >= region.right || region.top >= region.bottom {
        return Err(format!("the bounding box leaves nothing to crop ({w}×{h} of {width}×{height})"));
    }
    Ok(region)
}

/// Where a training or evaluation square is cut: the corner, and whether the square is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub left: usize,
    pub top: usize,
    pub mirrored: bool,
}

impl Cut {
    /// A corner anywhere inside and a mirror by the toss of a coin, as in training.
    pub fn random(picture: &Picture, side: usize, rng: &mut impl Rng) -> Cut {
        let top = rng.random_range(0..=picture.height - side);
        let left = rng.random_range(0..=picture.width - side);
        Cut { left, top, mirrored: rng.random_bool(0.5) }
    }

    /// The middle, not mirrored, as in evaluation.
    pub fn center(picture: &Picture, side: usize) -> Cut {
        Cut { left: (picture.width - side) / 2, top: (picture.height - side) / 2, mirrored: false }
    }
}

impl Picture {
    /// The pixels of `region`, which must lie inside.
    pub fn crop(&self, region: Region) -> Picture {
        let (width, height) = (region.right - region.left, region.bottom - region.top);
        let rows = (region.top..region.bottom).map(|row| (row * self.width + region.left) * 3);
        let pixels = rows.flat_map(|start| &self.pixels[start..start + width * 3]).copied().collect();
        Picture { width, height, pixels }
    }

    /// The square of `side` that `cut` names.
    pub fn cut(&self, side: usize, cut: Cut) -> Picture {
        let region = Region { left: cut.left, top: cut.top, right: cut.left + side, bottom: cut.top + side };
        let square = self.crop(region);
        if cut.mirrored { square.mirrored() } else { square }
    }

    /// Left and right exchanged.
    pub fn mirrored(&self) -> Picture {
        let rows = self.pixels.chunks_exact(self.width * 3);
        let pixels = rows.flat_map(|row| row.chunks_exact(3).rev()).flatten().copied().collect();
        Picture { pixels, ..*self }
    }

    /// Resizes with the antialiased triangle filter that Pillow calls bilinear.
    pub fn resized(&self, width: usize, height: usize) -> Picture {
        resize::bilinear(self, width, height)
    }

    /// Scales the shorter side to `side`, keeping the aspect (torchvision's `Resize(side)`).
    pub fn shorter_side(&self, side: usize) -> Picture {
        let along = |length: usize, shorter: usize| side * length / shorter;
        if self.width <= self.height {
            self.resized(side, along(self.height, self.width))
        } else {
            self.resized(along(self.width, self.height), side)
        }
    }

    /// Values `v / 127.5 − 1` appended to `out`: `[height, width, 3]` in [−1, 1].
    pub fn normalize_into(&self, out: &mut Vec<f32>) {
        out.extend(self.pixels.iter().map(|value| f32::from(*value) / 127.5 - 1.0));
    }
}

/// The side to which a picture's shorter side is scaled before a square of `side` is cut: `int(side · 76/64)`.
pub fn margin_side(side: usize) -> usize {
    side * 76 / 64
}

/// Decodes `path`, crops it by `bbox` and scales its shorter side to [`margin_side`]`(side)`: all that does not
/// change from epoch to epoch.
///
/// # Errors
/// As [`decode`]; `Data` too when the bounding box lies outside.
pub fn prepare(path: &Path, bbox: Option<[f32; 4]>, side: usize) -> Result<Picture> {
    let Decoded { picture, .. } = decode(path)?;
    let cropped = match bbox {
        Some(bbox) => {
            let region =
                bbox_crop(picture.width, picture.height, bbox).map_err(|why| Error::data(path, why))?;
            picture.crop(region)
        }
        None => picture,
    };
    Ok(cropped.shorter_side(margin_side(side)))
}

/// Writes `rgb` (`width · height · 3` bytes, rows from the top) as a PNG, whole or not at all.
///
/// # Errors
/// `Io` when the folder cannot be written.
///
/// # Panics
/// When `rgb` has another length.
pub fn save_png(path: impl AsRef<Path>, width: usize, height: usize, rgb: &[u8]) -> Result<()> {
    assert_eq!(rgb.len(), width * height * 3, "an RGB picture of {width}×{height} has three bytes a pixel");
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8)
        .expect("a PNG written to memory cannot fail");
    atomic::write(path, &bytes)
}

/// The bytes of a JPEG of `picture`; quality from 1 to 100.
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
