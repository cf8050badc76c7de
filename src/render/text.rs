//! Words beneath images.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::data::Picture;

const SIZE: RasterHeight = RasterHeight::Size16;

/// Height of a line in pixels.
pub(super) const LINE: usize = SIZE.val();

/// Writes `text` in black, centered on column `center`, from row `top` down; cuts it off at `width` pixels.
pub(super) fn write_centered(on: &mut Picture, text: &str, center: usize, top: usize, width: usize) {
    let step = get_raster_width(FontWeight::Regular, SIZE);
    let letters: Vec<char> = text.chars().take(width / step).collect();
    let left = center.saturating_sub(letters.len() * step / 2);
    for (i, letter) in letters.into_iter().enumerate() {
        write_letter(on, letter, left + i * step, top);
    }
}

fn write_letter(on: &mut Picture, letter: char, left: usize, top: usize) {
    // The font holds Latin letters; others are shown as such.
    let raster =
        [letter, char::REPLACEMENT_CHARACTER].map(|letter| get_raster(letter, FontWeight::Regular, SIZE));
    let Some(raster) = raster.into_iter().flatten().next() else { return };
    for (y, row) in raster.rows().enumerate() {
        for (x, &ink) in row.iter().enumerate() {
            darken(on, left + x, top + y, ink);
        }
    }
}

fn darken(on: &mut Picture, x: usize, y: usize, ink: u8) {
    if x < on.width && y < on.height {
        let at = (y * on.width + x) * 3;
        on.pixels[at..at + 3].iter_mut().for_each(|p| *p = p.saturating_sub(ink));
    }
}
