//! What a caption's change changes in its picture.

use super::canvas::{heated, pale};
use super::sheet::{GAP, Look, Sheet, Tile, shown_side};
use crate::data::Picture;

/// A picture from the same noise and a changed caption.
pub struct Change {
    pub label: String,
    pub picture: Picture,
}

/// The difference from which on the scale is full, at least: less than this is hardly seen.
const LEAST: f32 = 0.1;

/// The original and each change side by side; below each change how far every pixel moved, as the mean of its channels'
/// differences, all on one scale.
///
/// # Panics
/// Where the pictures differ in size.
pub fn change_sheet(title: &str, remark: &str, original: Change, changes: Vec<Change>) -> Picture {
    let differences: Vec<Vec<f32>> =
        changes.iter().map(|c| difference(&original.picture, &c.picture)).collect();
    let largest = differences.iter().flatten().copied().fold(LEAST, f32::max);
    let faded = pale(&original.picture);
    let marked = |differences: &Vec<f32>| {
        let pixels = faded.pixels.chunks(3).zip(differences);
        let pixels = pixels.flat_map(|(pixel, difference)| heated(pixel, difference / largest)).collect();
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        Tile::new(Picture { pixels, ..faded }, format!("mean {mean:.3}"))
    };
    let marks: Vec<Tile> = differences.iter().map(marked).collect();
    let mut tiles = vec![Tile::new(original.picture.clone(), original.label)];
    tiles.extend(changes.into_iter().map(|change| Tile::new(change.picture, change.label)));
    // The marks stand below their pictures.
    let mut below = vec![Tile::new(faded.clone(), "what changed")];
    below.extend(marks);
    let look = Look::of(shown_side(&tiles, 200));
    let columns = tiles.len().min(5);
    let mut sheet = Sheet::of_columns(columns, look.side).title(title).remark(remark).space(GAP);
    let columns = sheet.columns(look.side);
    while !tiles.is_empty() {
        let rest = tiles.split_off(columns.min(tiles.len()));
        let rest_below = below.split_off(columns.min(below.len()));
        sheet = sheet.tiles(&tiles, look).space(GAP / 2).tiles(&below, look).space(GAP);
        (tiles, below) = (rest, rest_below);
    }
    let words = "The mean difference of a pixel's channels; from black to white it is 1.";
    sheet.space(GAP).color_bar([0.0, largest], words).finish()
}

/// The mean difference of the channels of every pixel, from 0 to 1.
fn difference(a: &Picture, b: &Picture) -> Vec<f32> {
    assert_eq!((a.width, a.height), (b.width, b.height), "pictures of two sizes cannot be compared");
    let of = |(a, b): (&[u8], &[u8])| {
        a.iter().zip(b).map(|(a, b)| f32::from(a.abs_diff(*b))).sum::<f32>() / (3.0 * 255.0)
    };
    a.pixels.chunks(3).zip(b.pixels.chunks(3)).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_s_difference_is_the_mean_of_its_channels() {
        let picture = |pixels: Vec<u8>| Picture { width: 2, height: 1, pixels };
        let (a, b) = (picture(vec![0, 0, 0, 9, 9, 9]), picture(vec![255, 0, 0, 9, 9, 9]));
        assert_eq!(difference(&a, &b), [1.0 / 3.0, 0.0]);
    }

    /// Equal pictures are pale; where one differs there is color.
    #[test]
    fn what_changed_is_marked() {
        let flat = |value: u8| Picture { width: 8, height: 8, pixels: vec![value; 8 * 8 * 3] };
        let mut spot = flat(90);
        spot.pixels[..12].fill(255);
        let sheet = |picture: Picture| {
            let change = |label: &str, picture| Change { label: label.to_string(), picture };
            change_sheet("t", "", change("a", flat(90)), vec![change("b", picture)])
        };
        let colored =
            |picture: &Picture| picture.pixels.chunks(3).filter(|p| p[0].abs_diff(p[2]) > 20).count();
        assert!(colored(&sheet(spot)) > colored(&sheet(flat(90))) + 200);
    }
}
