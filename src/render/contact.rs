//! Contact sheets: many pictures, each with its words.

use super::sheet::{GAP, Look, Sheet, Tile, shown_side};
use super::text::{LABEL, Style};
use crate::data::Picture;

/// Pictures that belong together, such as those of one caption; without a heading they follow the ones before.
pub struct Section {
    pub heading: String,
    pub tiles: Vec<Tile>,
}

/// Columns of a sheet whose pictures are small or large.
const WIDTH: usize = 1120;

/// All pictures at one size with their labels, under a title.
pub fn contact_sheet(title: &str, remark: &str, sections: &[Section]) -> Picture {
    let side = sections.iter().map(|section| shown_side(&section.tiles, 128)).max().unwrap_or(128);
    let most = sections.iter().map(|section| section.tiles.len()).max().unwrap_or(1).max(1);
    let columns = most.min(WIDTH / (side + GAP)).min(balanced(most, WIDTH / (side + GAP)));
    let label = Style { size: 13.0, lines: 4, ..LABEL };
    let mut sheet = Sheet::of_columns(columns, side).title(title).remark(remark).space(GAP);
    for section in sections {
        if !section.heading.is_empty() {
            sheet = sheet.heading(&section.heading);
        }
        sheet = sheet.tiles(&section.tiles, Look { side, label }).space(GAP);
    }
    sheet.finish()
}

/// Columns, at most `limit`, with which `count` tiles leave no short last row, if there are such above half the limit.
fn balanced(count: usize, limit: usize) -> usize {
    (limit / 2 + 1..=limit).rev().find(|columns| count.is_multiple_of(*columns)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_pictures_stand_in_a_square() {
        let flat = || Picture { width: 256, height: 256, pixels: vec![9; 256 * 256 * 3] };
        let tiles = (0..16).map(|i| Tile::new(flat(), format!("seed {i}"))).collect();
        let sheet = contact_sheet("a red bird", "", &[Section { heading: String::new(), tiles }]);
        assert_eq!(sheet.width, 4 * 256 + 3 * GAP + 48);
        assert!(sheet.height > 4 * 256 && sheet.height < 4 * 330, "{}", sheet.height);
        assert_eq!((balanced(16, 8), balanced(7, 8), balanced(11, 8)), (8, 7, 8));
    }

    #[test]
    fn small_pictures_are_enlarged_and_large_ones_reduced() {
        for (side, shown) in [(16, 128), (512, 256)] {
            let picture = Picture { width: side, height: side, pixels: vec![9; side * side * 3] };
            let tiles = vec![Tile::new(picture, "")];
            let sheet = contact_sheet("", "", &[Section { heading: String::new(), tiles }]);
            let dark = sheet.pixels.chunks(sheet.width * 3).filter(|row| row.contains(&9)).count();
            assert_eq!(dark, shown);
        }
    }
}
