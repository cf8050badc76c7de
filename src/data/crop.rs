//! Which square of an image a network gets: crop by bounding box, scale, cut.

use std::path::Path;

use rand::{Rng, RngExt};

use super::decode::{DecodeConfig, Decoded, decode, require_memory, require_size};
use super::picture::{Picture, Region};
use crate::error::{Error, Result};

/// The published crop: a square about the box's center, half-side ¾ of its longer side, clipped to the image.
///
/// `bbox` is `[x, y, width, height]` in pixels. Source: `get_imgs` of AttnGAN's `datasets.py`.
///
/// # Errors
/// Why there is nothing to crop: the box is empty or lies outside the image.
pub fn bbox_crop(width: usize, height: usize, bbox: [f32; 4]) -> std::result::Result<Region, String> {
    let [x, y, w, h] = bbox.map(f32::trunc);
    let meets = x + w > 0.0 && y + h > 0.0 && x < width as f32 && y < height as f32;
    if !(meets && w >= 1.0 && h >= 1.0) {
        let [x, y, w, h] = bbox;
        return Err(format!(
            "the bounding box lies outside the image ({w}×{h} at x {x}, y {y}; the image has {width}×{height})"
        ));
    }
    let reach = (f64::from(w.max(h)) * 0.75) as i64;
    let center_x = ((2.0 * x + w) / 2.0) as i64;
    let center_y = ((2.0 * y + h) / 2.0) as i64;
    let clip = |at: i64, limit: usize| at.clamp(0, limit as i64) as usize;
    let region = Region {
        left: clip(center_x.saturating_sub(reach), width),
        top: clip(center_y.saturating_sub(reach), height),
        right: clip(center_x.saturating_add(reach), width),
        bottom: clip(center_y.saturating_add(reach), height),
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
    /// The square of `side` that `cut` names.
    pub fn cut(&self, side: usize, cut: Cut) -> Picture {
        let region = Region { left: cut.left, top: cut.top, right: cut.left + side, bottom: cut.top + side };
        let square = self.crop(region);
        if cut.mirrored { square.mirrored() } else { square }
    }
}

/// The side to which an image's shorter side is scaled before a square of `side` is cut: `int(side · 76/64)`.
pub fn margin_side(side: usize) -> usize {
    side * 76 / 64
}

/// Decodes `path`, crops it by `bbox` and scales its shorter side to [`margin_side`]`(side)`: all that does not
/// change from epoch to epoch. Every image that a network sees comes through here.
///
/// # Errors
/// As [`decode`]; `Data` too when the bounding box lies outside, or the scaled image is larger than `config` allows.
pub fn prepare(path: &Path, bbox: Option<[f32; 4]>, side: usize, config: &DecodeConfig) -> Result<Picture> {
    prepared(path, bbox, side, config).map(|decoded| decoded.picture)
}

/// Decodes `path` and crops it by `bbox`, at the image's own resolution; `side` is what [`prepare`] would be asked for.
///
/// # Errors
/// As [`prepare`].
pub fn cut_by_box(
    path: &Path,
    bbox: Option<[f32; 4]>,
    side: usize,
    config: &DecodeConfig,
) -> Result<Picture> {
    cropped(path, bbox, side, config).map(|decoded| decoded.picture)
}

/// As [`prepare`], with what the file says of itself.
pub(super) fn prepared(
    path: &Path,
    bbox: Option<[f32; 4]>,
    side: usize,
    config: &DecodeConfig,
) -> Result<Decoded> {
    let decoded = cropped(path, bbox, side, config)?;
    Ok(Decoded { picture: decoded.picture.shorter_side(margin_side(side)), ..decoded })
}

/// Decodes `path` and crops it by `bbox`; scaling it for `side` is possible.
pub(super) fn cropped(
    path: &Path,
    bbox: Option<[f32; 4]>,
    side: usize,
    config: &DecodeConfig,
) -> Result<Decoded> {
    let refused = |why: String| Error::data(path, why);
    let mut decoded = decode(path, config)?;
    if let Some(bbox) = bbox {
        let Picture { width, height, .. } = decoded.picture;
        decoded.picture = decoded.picture.crop(bbox_crop(width, height, bbox).map_err(refused)?);
    }
    let Picture { width, height, .. } = decoded.picture;
    let (to_width, to_height) = decoded.picture.scaled_size(margin_side(side));
    require_size(to_width, to_height, config).map_err(|over| {
        let shorter = margin_side(side);
        refused(format!("{width}×{height} pixels, scaled so that the shorter side has {shorter}, are {over}"))
    })?;
    // The rows are scaled before the columns, so a picture of either height stands between.
    require_memory(to_width.saturating_mul(height + to_height).saturating_mul(3)).map_err(refused)?;
    Ok(decoded)
}
