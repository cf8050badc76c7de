//! Pictures to look at: one image, tables of images, and sheets that show which word looked where.

use super::text::{LINE, write_centered};
use crate::data::Picture;
use crate::engine::Tensor;

/// Between the pictures of a table.
const GAP: usize = 2;
const PAPER: u8 = 255;

/// Image `index` of [B,S,S,3] in [-1, 1].
pub fn picture(images: &Tensor, index: usize) -> Picture {
    let [_, height, width, channels] = images.dims();
    let values = images.to_vec();
    let values = &values[index * height * width * channels..][..height * width * channels];
    let byte = |&v: &f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    Picture { width, height, pixels: values.iter().map(byte).collect() }
}

/// Rows of pictures, each enlarged to the size of the largest.
pub fn table(rows: &[Vec<Picture>]) -> Picture {
    let side = rows.iter().flatten().map(|p| p.width.max(p.height)).max().unwrap_or(1);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut paper = blank(columns * (side + GAP) + GAP, rows.len() * (side + GAP) + GAP);
    for (y, row) in rows.iter().enumerate() {
        for (x, tile) in row.iter().enumerate() {
            let place = [GAP + x * (side + GAP), GAP + y * (side + GAP)];
            paste(&mut paper, &enlarged(tile, side), place);
        }
    }
    paper
}

/// Side of a tile of an attention sheet, unless the picture is larger.
const TILE: usize = 128;
/// Tiles in a row of an attention sheet.
const ACROSS: usize = 6;

/// The picture alone, then once for each word with what the word looked at lit up and the word beneath.
///
/// `maps` is [B,H,W,T]: how much each place of picture `index` looks at each word.
pub fn attention_sheet(picture: &Picture, maps: &Tensor, index: usize, words: &[String]) -> Picture {
    let side = picture.width.max(TILE);
    let large = enlarged(picture, side);
    let lit = |word: usize| light_up(&large, &word_map(maps, index, word));
    let mut tiles = vec![(large.clone(), String::new())];
    tiles.extend(words.iter().enumerate().map(|(i, word)| (lit(i), word.clone())));

    let across = tiles.len().min(ACROSS);
    let (wide, high) = (side + GAP, side + LINE + 2 * GAP);
    let mut paper = blank(across * wide + GAP, tiles.len().div_ceil(across) * high + GAP);
    for (i, (tile, word)) in tiles.iter().enumerate() {
        let [left, top] = [GAP + i % across * wide, GAP + i / across * high];
        paste(&mut paper, tile, [left, top]);
        write_centered(&mut paper, word, left + side / 2, top + side + GAP, side);
    }
    paper
}

/// How much each place looks at a word, as shares of the most that any place does.
struct Map {
    height: usize,
    width: usize,
    shares: Vec<f32>,
}

fn word_map(maps: &Tensor, index: usize, word: usize) -> Map {
    let [_, height, width, words] = maps.dims();
    let places = maps.to_vec();
    let places = places[index * height * width * words..][..height * width * words].chunks(words);
    let shares: Vec<f32> = places.map(|place| place[word]).collect();
    let most = shares.iter().copied().fold(1e-6, f32::max);
    Map { height, width, shares: shares.into_iter().map(|share| share / most).collect() }
}

/// Dims what the word did not look at and warms what it did.
fn light_up(picture: &Picture, map: &Map) -> Picture {
    const WARM: [f32; 3] = [255.0, 160.0, 40.0];
    let mut lit = picture.clone();
    for y in 0..picture.height {
        for x in 0..picture.width {
            let place = [y as f32 / picture.height as f32, x as f32 / picture.width as f32];
            let share = map.at(place);
            let pixel = &mut lit.pixels[(y * picture.width + x) * 3..][..3];
            for (value, warm) in pixel.iter_mut().zip(WARM) {
                let dimmed = f32::from(*value) * (0.3 + 0.5 * share);
                *value = (dimmed + 0.3 * share * warm).clamp(0.0, 255.0) as u8;
            }
        }
    }
    lit
}

impl Map {
    /// Between the four nearest places; `place` is in shares of height and width.
    fn at(&self, place: [f32; 2]) -> f32 {
        let along = |at: f32, count: usize| {
            let at = (at * count as f32 - 0.5).clamp(0.0, (count - 1) as f32);
            (at as usize, (at as usize + 1).min(count - 1), at.fract())
        };
        let ((y0, y1, fy), (x0, x1, fx)) = (along(place[0], self.height), along(place[1], self.width));
        let mix = |a: f32, b: f32, share: f32| a + (b - a) * share;
        let share = |y: usize, x: usize| self.shares[y * self.width + x];
        mix(mix(share(y0, x0), share(y0, x1), fx), mix(share(y1, x0), share(y1, x1), fx), fy)
    }
}

fn blank(width: usize, height: usize) -> Picture {
    Picture { width, height, pixels: vec![PAPER; width * height * 3] }
}

/// Each pixel a square of pixels, to `side` or the nearest size below it.
fn enlarged(picture: &Picture, side: usize) -> Picture {
    let times = (side / picture.width.max(picture.height)).max(1);
    let (width, height) = (picture.width * times, picture.height * times);
    let pixel =
        |i: usize| &picture.pixels[(i / width / times * picture.width + i % width / times) * 3..][..3];
    Picture { width, height, pixels: (0..width * height).flat_map(pixel).copied().collect() }
}

fn paste(paper: &mut Picture, tile: &Picture, [left, top]: [usize; 2]) {
    for (y, row) in tile.pixels.chunks(tile.width * 3).enumerate() {
        let at = ((top + y) * paper.width + left) * 3;
        paper.pixels[at..at + row.len()].copy_from_slice(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_holds_every_picture_at_the_size_of_the_largest() {
        let image = |side: usize, value: f32| picture(&Tensor::full([1, side, side, 3], value), 0);
        let table = table(&[vec![image(2, -1.0), image(4, 1.0)], vec![image(2, 0.0), image(4, -1.0)]]);
        assert_eq!((table.width, table.height), (2 * 6 + 2, 2 * 6 + 2));
        let pixel = |x: usize, y: usize| table.pixels[(y * table.width + x) * 3];
        assert_eq!([pixel(0, 0), pixel(2, 2), pixel(5, 5), pixel(8, 2), pixel(2, 8)], [255, 0, 0, 255, 128]);
    }

    #[test]
    fn a_sheet_lights_what_a_word_looked_at() {
        let white = picture(&Tensor::full([1, 16, 16, 3], 1.0), 0);
        // The only word is looked at from the left half.
        let map = (0..16).map(|i| if i % 4 < 2 { 1.0 } else { 0.0 }).collect();
        let sheet = attention_sheet(&white, &Tensor::from_vec(map, [1, 4, 4, 1]), 0, &["bird".to_string()]);
        let row = &sheet.pixels[sheet.width * 3 * 64..][..sheet.width * 3];
        let second = GAP + TILE + GAP;
        assert!(row[(second + 8) * 3] > 200 && row[(second + TILE - 8) * 3] < 100);
    }
}
