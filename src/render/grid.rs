//! Tensors to pictures, grids of pictures, and sheets of attention maps.

use super::text::{LINE, write_centered};
use crate::data::Picture;
use crate::engine::Tensor;

/// Pixels between the pictures of a grid.
const GAP: usize = 2;
const BACKGROUND: u8 = 255;

/// Image `index` of [B,H,W,3] in [-1, 1], as 8-bit RGB.
pub fn picture(images: &Tensor, index: usize) -> Picture {
    let [_, height, width, channels] = images.dims();
    let values = images.to_vec();
    let values = &values[index * height * width * channels..][..height * width * channels];
    let byte = |&v: &f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    Picture { width, height, pixels: values.iter().map(byte).collect() }
}

/// A grid of rows of pictures, each enlarged to the size of the largest.
pub fn table(rows: &[Vec<Picture>]) -> Picture {
    let side = rows.iter().flatten().map(|p| p.width.max(p.height)).max().unwrap_or(1);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut canvas = blank(columns * (side + GAP) + GAP, rows.len() * (side + GAP) + GAP);
    for (y, row) in rows.iter().enumerate() {
        for (x, tile) in row.iter().enumerate() {
            let corner = [GAP + x * (side + GAP), GAP + y * (side + GAP)];
            paste(&mut canvas, &enlarged(tile, side), corner);
        }
    }
    canvas
}

/// Pictures one below the other.
pub fn column(pictures: &[Picture]) -> Picture {
    let width = pictures.iter().map(|picture| picture.width).max().unwrap_or(0);
    let mut canvas = blank(width, pictures.iter().map(|picture| picture.height).sum());
    let mut top = 0;
    for picture in pictures {
        paste(&mut canvas, picture, [0, top]);
        top += picture.height;
    }
    canvas
}

/// Side of a tile of an attention sheet; a larger picture keeps its side.
const TILE: usize = 128;
/// Tiles in a row of an attention sheet.
const COLUMNS: usize = 6;

/// The picture, then for each word the picture lit by the word's attention map, with the word beneath.
///
/// `maps` is [B,H,W,T], each pixel's attention over the words; the sheet shows image `index` of the batch.
pub fn attention_sheet(picture: &Picture, maps: &Tensor, index: usize, words: &[String]) -> Picture {
    let side = picture.width.max(TILE);
    let large = enlarged(picture, side);
    let lit = |word: usize| light_up(&large, &word_map(maps, index, word));
    let mut tiles = vec![(large.clone(), String::new())];
    tiles.extend(words.iter().enumerate().map(|(i, word)| (lit(i), word.clone())));

    let across = tiles.len().min(COLUMNS);
    let (wide, high) = (side + GAP, side + LINE + 2 * GAP);
    let mut canvas = blank(across * wide + GAP, tiles.len().div_ceil(across) * high + GAP);
    for (i, (tile, word)) in tiles.iter().enumerate() {
        let [left, top] = [GAP + i % across * wide, GAP + i / across * high];
        paste(&mut canvas, tile, [left, top]);
        write_centered(&mut canvas, word, left + side / 2, top + side + GAP, side);
    }
    canvas
}

/// One word's attention map, scaled so that its largest value is 1.
struct Map {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

fn word_map(maps: &Tensor, index: usize, word: usize) -> Map {
    let [_, height, width, words] = maps.dims();
    let pixels = maps.to_vec();
    let pixels = pixels[index * height * width * words..][..height * width * words].chunks(words);
    let values: Vec<f32> = pixels.map(|pixel| pixel[word]).collect();
    let largest = values.iter().copied().fold(1e-6, f32::max);
    Map { height, width, values: values.into_iter().map(|value| value / largest).collect() }
}

/// Darkens pixels of low attention and tints those of high attention orange.
fn light_up(picture: &Picture, map: &Map) -> Picture {
    const WARM: [f32; 3] = [255.0, 160.0, 40.0];
    let mut lit = picture.clone();
    for y in 0..picture.height {
        for x in 0..picture.width {
            let weight = map.at([y as f32 / picture.height as f32, x as f32 / picture.width as f32]);
            let pixel = &mut lit.pixels[(y * picture.width + x) * 3..][..3];
            for (value, warm) in pixel.iter_mut().zip(WARM) {
                let dimmed = f32::from(*value) * (0.3 + 0.5 * weight);
                *value = (dimmed + 0.3 * weight * warm).clamp(0.0, 255.0) as u8;
            }
        }
    }
    lit
}

impl Map {
    /// Bilinear interpolation at `point`, [y, x] in [0, 1).
    fn at(&self, point: [f32; 2]) -> f32 {
        let along = |at: f32, count: usize| {
            let at = (at * count as f32 - 0.5).clamp(0.0, (count - 1) as f32);
            (at as usize, (at as usize + 1).min(count - 1), at.fract())
        };
        let ((y0, y1, fy), (x0, x1, fx)) = (along(point[0], self.height), along(point[1], self.width));
        let lerp = |a: f32, b: f32, t: f32| a + (b - a) * t;
        let value = |y: usize, x: usize| self.values[y * self.width + x];
        lerp(lerp(value(y0, x0), value(y0, x1), fx), lerp(value(y1, x0), value(y1, x1), fx), fy)
    }
}

fn blank(width: usize, height: usize) -> Picture {
    Picture { width, height, pixels: vec![BACKGROUND; width * height * 3] }
}

/// Enlarged by a whole factor, nearest neighbor, to at most `side`.
fn enlarged(picture: &Picture, side: usize) -> Picture {
    let times = (side / picture.width.max(picture.height)).max(1);
    let (width, height) = (picture.width * times, picture.height * times);
    let pixel =
        |i: usize| &picture.pixels[(i / width / times * picture.width + i % width / times) * 3..][..3];
    Picture { width, height, pixels: (0..width * height).flat_map(pixel).copied().collect() }
}

fn paste(canvas: &mut Picture, tile: &Picture, [left, top]: [usize; 2]) {
    for (y, row) in tile.pixels.chunks(tile.width * 3).enumerate() {
        let at = ((top + y) * canvas.width + left) * 3;
        canvas.pixels[at..at + row.len()].copy_from_slice(row);
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
