//! The grid that training draws: for fixed captions the real picture beside the generated ones.

use super::sheet::{GAP, Look, Sheet, Tile};
use super::text::{HEADING, REMARK, Style};
use crate::data::Picture;

pub struct SampleRow {
    pub caption: String,
    pub real: Picture,
    /// Of every stage, smallest first.
    pub generated: Vec<Picture>,
}

/// A row for each caption, which stands below it: the real picture, then the generated one of every stage.
pub fn sample_table(title: &str, remark: &str, rows: &[SampleRow]) -> Picture {
    let largest = |row: &SampleRow| row.generated.iter().map(|picture| picture.width).max();
    let side = rows.iter().filter_map(largest).max().unwrap_or(0).clamp(128, 192);
    let columns = 1 + rows.iter().map(|row| row.generated.len()).max().unwrap_or(0);
    let mut sheet = Sheet::of_columns(columns, side).title(title).remark(remark).space(GAP);
    for (i, row) in rows.iter().enumerate() {
        // What a column shows is said once.
        let label = |words: String| if i == 0 { words } else { String::new() };
        let mut tiles = vec![Tile::new(row.real.clone(), label("real".to_string()))];
        let generated = row.generated.iter();
        tiles.extend(generated.map(|p| Tile::new(p.clone(), label(format!("generated, {0}²", p.width)))));
        let caption = Style { size: 15.0, ..HEADING };
        sheet = sheet.tiles(&tiles, Look { side, label: REMARK.centered() }).words(&row.caption, caption);
        sheet = if i + 1 < rows.len() { sheet.rule() } else { sheet };
    }
    sheet.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_the_real_picture_and_every_stage() {
        let flat = |side: usize, value: u8| Picture {
            width: side,
            height: side,
            pixels: vec![value; side * side * 3],
        };
        let row = SampleRow {
            caption: String::new(),
            real: flat(64, 3),
            generated: vec![flat(16, 5), flat(64, 7)],
        };
        let table = sample_table("", "", &[row]);
        let count = |value: u8| table.pixels.chunks(3).filter(|pixel| *pixel == [value; 3]).count();
        assert_eq!([3, 5, 7].map(count), [128 * 128; 3]);
    }
}
