//! Drawing on pictures: tiles, rectangles, sizes.

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Rgb};

use crate::data::Picture;

pub(super) const PAPER: [u8; 3] = [255, 255, 255];
pub(super) const LINE: [u8; 3] = [205, 205, 210];

pub(super) fn blank(width: usize, height: usize) -> Picture {
    Picture { width, height, pixels: PAPER.repeat(width * height) }
}

pub(super) fn paste(canvas: &mut Picture, tile: &Picture, [left, top]: [usize; 2]) {
    for (y, row) in tile.pixels.chunks(tile.width * 3).enumerate() {
        let at = ((top + y) * canvas.width + left) * 3;
        canvas.pixels[at..at + row.len()].copy_from_slice(row);
    }
}

/// Fills a rectangle, whatever of it lies on the canvas.
pub(super) fn fill(
    canvas: &mut Picture,
    [left, top]: [usize; 2],
    [width, height]: [usize; 2],
    color: [u8; 3],
) {
    let right = (left + width).min(canvas.width);
    for y in top..(top + height).min(canvas.height) {
        for x in left..right {
            canvas.pixels[(y * canvas.width + x) * 3..][..3].copy_from_slice(&color);
        }
    }
}

/// Scaled smoothly so that the longer side is `side`; where that is a whole multiple or the same, nothing else is lost.
pub(super) fn scaled(picture: &Picture, side: usize) -> Picture {
    let longest = picture.width.max(picture.height);
    if longest == side {
        return picture.clone();
    }
    let size = |length: usize| ((length * side) as f64 / longest as f64).round().max(1.0) as u32;
    let (width, height) = (size(picture.width), size(picture.height));
    let source: ImageBuffer<Rgb<u8>, &[u8]> =
        ImageBuffer::from_raw(picture.width as u32, picture.height as u32, picture.pixels.as_slice())
            .expect("a picture has three bytes a pixel");
    let scaled = imageops::resize(&source, width, height, FilterType::CatmullRom);
    Picture { width: width as usize, height: height as usize, pixels: scaled.into_raw() }
}

/// The luminance of a pixel, from 0 to 255 (Rec. 709).
pub(super) fn luminance(pixel: &[u8]) -> f32 {
    0.2126 * f32::from(pixel[0]) + 0.7152 * f32::from(pixel[1]) + 0.0722 * f32::from(pixel[2])
}

/// The picture in pale grays, from 150 to 255, so that what a color map darkens is told from what is dark itself.
pub(super) fn pale(picture: &Picture) -> Picture {
    let gray = |pixel: &[u8]| [(150.0 + luminance(pixel) * (105.0 / 255.0)).round() as u8; 3];
    Picture { pixels: picture.pixels.chunks(3).flat_map(gray).collect(), ..*picture }
}

/// Values from 0 to 1 as colors: light yellow to dark violet, even to the eye (inferno, its lightest first).
pub(super) fn heat(value: f32) -> [u8; 3] {
    let color = colorous::INFERNO.eval_continuous(f64::from(0.92 - 0.80 * value.clamp(0.0, 1.0)));
    [color.r, color.g, color.b]
}

/// The color of `value` over a pale pixel: nothing at 0, nearly all of it from a third on.
pub(super) fn heated(pixel: &[u8], value: f32) -> [u8; 3] {
    let alpha = (value * 3.0).clamp(0.0, 1.0) * 0.85;
    let color = heat(value);
    std::array::from_fn(|i| (f32::from(pixel[i]) * (1.0 - alpha) + f32::from(color[i]) * alpha).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_color_map_darkens_evenly() {
        let lights: Vec<f32> = (0..=20).map(|i| luminance(&heat(i as f32 / 20.0))).collect();
        assert!(lights.windows(2).all(|pair| pair[0] > pair[1]), "{lights:?}");
        assert_eq!(heated(&[200, 200, 200], 0.0), [200; 3]);
    }

    #[test]
    fn what_is_pale_is_never_dark() {
        let picture = Picture { width: 2, height: 1, pixels: vec![0, 0, 0, 255, 255, 255] };
        assert_eq!(pale(&picture).pixels, [150, 150, 150, 255, 255, 255]);
    }

    #[test]
    fn pictures_are_scaled_to_their_longer_side() {
        let picture = Picture { width: 4, height: 2, pixels: vec![90; 24] };
        let large = scaled(&picture, 10);
        assert_eq!((large.width, large.height), (10, 5));
        assert!(large.pixels.iter().all(|&value| value == 90));
    }
}
