//! Decodes image files. Memory is bounded before it is taken: a file of a megabyte may hold a billion pixels.

use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use serde::{Deserialize, Serialize};

use super::picture::Picture;
use crate::error::{Error, Result};
use crate::files::kind;

/// How image files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodeConfig {
    /// Images of more pixels are skipped, as stored and as scaled.
    pub max_pixels: usize,
    /// Images with a longer side are skipped, as stored and as scaled.
    pub max_side: usize,
    /// Images are turned as their EXIF orientation says; bounding boxes refer to the turned image.
    pub exif_orientation: bool,
}

impl DecodeConfig {
    /// Its keys in a configuration's `[data]`, with their values.
    pub fn keys(&self) -> [(&'static str, String); 3] {
        let DecodeConfig { max_pixels, max_side, exif_orientation } = self;
        [
            ("max_pixels", max_pixels.to_string()),
            ("max_side", max_side.to_string()),
            ("exif_orientation", exif_orientation.to_string()),
        ]
    }
}

impl Default for DecodeConfig {
    fn default() -> DecodeConfig {
        DecodeConfig { max_pixels: 100_000_000, max_side: 65_535, exif_orientation: false }
    }
}

/// An image, and what its file says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub picture: Picture,
    /// The file holds gray values only.
    pub gray: bool,
    /// The file's EXIF data ask to turn or mirror the image.
    pub oriented: bool,
}

/// Bytes of color profiles and the like in a file.
const METADATA: usize = 64 << 20;

/// Images of more pixels are decoded one at a time, so that threads do not add up their memory.
const LARGE: usize = 16 << 20;

static LARGE_ONE: Mutex<()> = Mutex::new(());

/// Reads a JPEG, PNG or WebP file; gray images become RGB, and a JPEG that stops before its end is an error.
///
/// # Errors
/// `Io` when it cannot be read; `Data` when it is none of them, damaged, truncated or larger than `config` allows.
pub fn decode(path: &Path, config: &DecodeConfig) -> Result<Decoded> {
    let refused = |why: String| Error::data(path, why);
    let io = |source| Error::io(path, source);
    let file = File::open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() {
        return Err(refused("not a file".into()));
    }
    let most = config.max_pixels.saturating_mul(8).saturating_add(METADATA);
    let length = usize::try_from(found.len()).unwrap_or(usize::MAX);
    if length > most {
        let mib = length >> 20;
        return Err(refused(format!(
            "a file of {mib} MiB is larger than an image of data.max_pixels = {} can be",
            config.max_pixels
        )));
    }
    require_memory(length).map_err(refused)?;
    let mut bytes = Vec::with_capacity(length);
    file.take(most as u64).read_to_end(&mut bytes).map_err(io)?;
    decode_bytes(&bytes, config).map_err(refused)
}

/// As [`decode`], from memory; the error says why.
pub fn decode_bytes(bytes: &[u8], config: &DecodeConfig) -> std::result::Result<Decoded, String> {
    let format = image::guess_format(bytes).ok();
    let Some(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) = format else {
        return Err(match kind::of_bytes(bytes) {
            _ if bytes.is_empty() => "an empty file; fetch it again".into(),
            Some(kind) if kind.ends_with("image") => format!("{kind}; convert it to JPEG or PNG"),
            Some(kind) => format!("{kind}, neither JPEG, PNG nor WebP"),
            None => "neither JPEG, PNG nor WebP; convert it to one of them".into(),
        });
    };
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err("a truncated JPEG: it stops before its end marker; fetch the file again".into());
    }
    // A decoder that fails on hostile bytes must not end a training.
    catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, config)))
        .unwrap_or_else(|_| Err("a damaged image (its decoder failed); fetch the file again".into()))
}

fn decode_as(
    format: ImageFormat,
    bytes: &[u8],
    config: &DecodeConfig,
) -> std::result::Result<Decoded, String> {
    let damaged = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => format!(
            "an image far over data.max_side = {}, or more than {} MiB of metadata",
            config.max_side,
            METADATA >> 20
        ),
        error => format!("a damaged image ({error}); fetch the file again"),
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(METADATA as u64);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    if width == 0 || height == 0 {
        return Err("an image without pixels".into());
    }
    require_size(width, height, config).map_err(|over| format!("the image has {over}"))?;
    let pixels = width * height;
    // Values as stored, coefficients of a progressive JPEG or planes of a WebP, and RGB.
    let stored = usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX);
    require_memory(stored.saturating_add(9 * pixels))?;
    let _alone = (pixels > LARGE).then(|| LARGE_ONE.lock().unwrap_or_else(PoisonError::into_inner));
    let gray = !decoder.color_type().has_color();
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    if config.exif_orientation {
        image.apply_orientation(orientation);
    }
    let rgb = image.into_rgb8();
    let picture =
        Picture { width: rgb.width() as usize, height: rgb.height() as usize, pixels: rgb.into_raw() };
    Ok(Decoded { picture, gray, oriented: orientation != Orientation::NoTransforms })
}

/// Refuses an image over the limits; the error says how large it is and which limit that breaks.
pub(super) fn require_size(
    width: usize,
    height: usize,
    config: &DecodeConfig,
) -> std::result::Result<(), String> {
    let (key, limit) = if width.max(height) > config.max_side {
        ("data.max_side", config.max_side)
    } else if width.checked_mul(height).is_none_or(|pixels| pixels > config.max_pixels) {
        ("data.max_pixels", config.max_pixels)
    } else {
        return Ok(());
    };
    Err(format!("{width}×{height} pixels, over {key} = {limit}; make it smaller, or raise the limit"))
}

/// Whether so many bytes are to be had now. They are given back at once: an allocation inside a decoder that fails
/// would end the process.
pub(super) fn require_memory(bytes: usize) -> std::result::Result<(), String> {
    let why = |_| format!("out of memory: the image needs {} MiB", bytes >> 20);
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(why)
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
