//! Sheets of attention: a caption's picture at every stage, and what each word looked at.

use super::canvas::{heated, pale, scaled};
use super::sheet::{GAP, Look, Sheet, Tile, number_on};
use super::text::{LABEL, MUTED, Style};
use crate::data::Picture;
use crate::engine::Tensor;

/// The side of a picture at each stage, of one under a word, and of one under a word that says nothing of the image.
const STAGE: usize = 256;
const WORD: usize = 168;
const FUNCTION_WORD: usize = 96;
/// Words in a row.
const COLUMNS: usize = 7;

/// What an even share of attention would be.
#[derive(Clone, Copy)]
pub enum Even {
    /// A pixel's attention is shared by T words.
    Words,
    /// A word's attention is shared by the regions of the image.
    Regions,
}

/// Attention of one image between its places and the words of its caption.
pub struct Attention {
    height: usize,
    width: usize,
    words: usize,
    /// [H,W,T]
    values: Vec<f32>,
}

impl Attention {
    /// Of image `index` of [B,H,W,T], its first `words` words.
    pub fn of(maps: &Tensor, index: usize, words: usize) -> Attention {
        let [_, height, width, room] = maps.dims();
        let all = maps.to_vec();
        let pixels = all[index * height * width * room..][..height * width * room].chunks(room);
        let values = pixels.flat_map(|pixel| &pixel[..words]).copied().collect();
        Attention { height, width, words, values }
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// A word's value at each place, row by row.
    pub fn of_word(&self, word: usize) -> impl Iterator<Item = f32> {
        self.values.iter().skip(word).step_by(self.words).copied()
    }

    pub fn largest_of(&self, word: usize) -> f32 {
        self.of_word(word).fold(0.0, f32::max)
    }

    /// Bilinear interpolation of a word's map at `point`, [y, x] in [0, 1).
    fn at(&self, word: usize, point: [f32; 2]) -> f32 {
        let along = |at: f32, count: usize| {
            let at = (at * count as f32 - 0.5).clamp(0.0, (count - 1) as f32);
            (at as usize, (at as usize + 1).min(count - 1), at.fract())
        };
        let ((y0, y1, fy), (x0, x1, fx)) = (along(point[0], self.height), along(point[1], self.width));
        let lerp = |a: f32, b: f32, t: f32| a + (b - a) * t;
        let value = |y: usize, x: usize| self.values[(y * self.width + x) * self.words + word];
        lerp(lerp(value(y0, x0), value(y0, x1), fx), lerp(value(y1, x0), value(y1, x1), fx), fy)
    }
}

/// One scale for every word and map of a sheet: from an even share to the largest value.
#[derive(Clone, Copy)]
pub struct Scale {
    even: f32,
    largest: f32,
}

impl Scale {
    pub fn of(maps: &[Attention], even: Even) -> Scale {
        let largest = maps.iter().flat_map(|map| &map.values).copied().fold(0.0, f32::max);
        let share = |map: &Attention| match even {
            Even::Words => 1.0 / map.words as f32,
            Even::Regions => 1.0 / (map.height * map.width) as f32,
        };
        let even = maps.first().map_or(0.0, share);
        // A lone word has all attention, which is its even share too.
        let even = if even < 1.0 { even } else { 0.0 };
        Scale { even, largest: largest.max(even * 1.001) }
    }

    /// Where a value stands, from 0 for an even share to 1 for the largest.
    pub fn of_value(&self, value: f32) -> f32 {
        ((value - self.even) / (self.largest - self.even)).clamp(0.0, 1.0)
    }

    /// A value with the digits that tell it from others.
    pub fn text_of(&self, value: f32) -> String {
        number_on(self.largest - self.even, value)
    }
}

/// The picture of every stage, then for each map the last picture under each word's attention: words that say what is seen
/// first, function words small and last. `remark` says what the sheet shows. All words and maps share one scale, on which
/// nothing is drawn up to an even share; the largest value of each word stands below it.
pub fn attention_sheet(
    caption: &str,
    remark: &str,
    stages: Vec<Tile>,
    maps: &[Attention],
    words: &[String],
    even: Even,
) -> Picture {
    let (telling, function): (Vec<usize>, Vec<usize>) =
        (0..words.len()).partition(|&i| !is_function_word(&words[i]));
    // Rows of nearly equal length.
    let wide = telling.len().div_ceil(telling.len().div_ceil(COLUMNS).max(1)).max(1);
    let across = (wide * (WORD + GAP)).max(stages.len() * (STAGE + GAP)).max(FUNCTION_WORD + GAP) - GAP;
    let mut sheet = Sheet::new(across.max(600)).title(caption).remark(remark);
    let last = stages.last().map(|tile| tile.picture.clone());
    sheet = sheet.space(GAP).tiles(&stages, Look::of(STAGE));
    let Some(last) = last.filter(|_| !maps.is_empty()) else { return sheet.finish() };
    let (scale, last) = (Scale::of(maps, even), pale(&scaled(&last, STAGE)));
    let explained = match even {
        Even::Words => {
            "A word's share of each place's attention. Up to an even share, 1 / number of words, nothing is drawn; what is pale is the picture."
        }
        Even::Regions => {
            "Where each word looks. Up to an even share, 1 / number of regions, nothing is drawn; what is pale is the picture."
        }
    };
    sheet = sheet.space(GAP).color_bar([scale.even, scale.largest], explained);
    for map in maps {
        let tile = |&word: &usize| {
            let picture = lit(&last, map, word, scale);
            Tile::new(picture, &words[word]).remark(format!("max {}", scale.text_of(map.largest_of(word))))
        };
        sheet = sheet.heading(&format!("Attention at {} × {}", map.height, map.width));
        sheet = sheet.tiles(&telling.iter().map(tile).collect::<Vec<_>>(), Look::of(WORD));
        let muted = Look { side: FUNCTION_WORD, label: Style { color: MUTED, size: 13.0, ..LABEL } };
        sheet = sheet.space(GAP).tiles(&function.iter().map(tile).collect::<Vec<_>>(), muted);
    }
    sheet.finish()
}

/// A pale picture under the colors of a word's attention.
fn lit(pale: &Picture, map: &Attention, word: usize, scale: Scale) -> Picture {
    let mut lit = pale.clone();
    let (width, height) = (lit.width, lit.height);
    for (i, pixel) in lit.pixels.chunks_mut(3).enumerate() {
        let point = [(i / width) as f32 / height as f32, (i % width) as f32 / width as f32];
        pixel.copy_from_slice(&heated(pixel, scale.of_value(map.at(word, point))));
    }
    lit
}

/// English words that say nothing of what is seen.
fn is_function_word(word: &str) -> bool {
    const WORDS: &str = " a an the this that these those it its it's is are was were be been being has have had having \
        with without and or but of on in at to from by for as which who whose where there their his her he she they \
        also very so than then some any all both each other while ";
    WORDS.contains(&format!(" {} ", word.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::super::canvas::luminance;
    use super::*;

    fn attention(values: Vec<f32>, words: usize) -> Attention {
        Attention::of(&Tensor::from_vec(values, [1, 2, 2, words]), 0, words)
    }

    #[test]
    fn all_words_share_one_scale_which_begins_at_an_even_share() {
        // Of two words the first has nearly all of the left half, and both the same of the right one.
        let map = attention(vec![0.9, 0.1, 0.5, 0.5, 0.9, 0.1, 0.5, 0.5], 2);
        let scale = Scale::of(std::slice::from_ref(&map), Even::Words);
        assert_eq!((scale.even, scale.largest), (0.5, 0.9));
        assert_eq!(
            [0.1, 0.5, 0.7, 0.9].map(|v| (scale.of_value(v) * 100.0).round()),
            [0.0, 0.0, 50.0, 100.0]
        );
        let white = Picture { width: 8, height: 8, pixels: vec![255; 8 * 8 * 3] };
        let white = pale(&scaled(&white, STAGE));
        let [first, second] = [0, 1].map(|word| lit(&white, &map, word, scale));
        let light =
            |picture: &Picture, x: usize| luminance(&picture.pixels[(128 * picture.width + x) * 3..][..3]);
        assert!(light(&first, 10) < 60.0 && light(&first, 250) == 255.0);
        assert!(
            second.pixels.iter().all(|&value| value == 255),
            "a word of no more than an even share is not lit"
        );
        assert_eq!([map.largest_of(0), map.largest_of(1)], [0.9, 0.5]);
    }

    #[test]
    fn a_lone_word_has_a_scale() {
        let map = attention(vec![1.0; 4], 1);
        let scale = Scale::of(std::slice::from_ref(&map), Even::Words);
        assert_eq!((scale.of_value(1.0), scale.of_value(0.0)), (1.0, 0.0));
    }

    #[test]
    fn words_beyond_a_caption_are_left_out() {
        let map = Attention::of(&Tensor::from_vec(vec![0.3, 0.7, 0.0, 0.4, 0.6, 0.0], [1, 1, 2, 3]), 0, 2);
        assert_eq!(map.values, [0.3, 0.7, 0.4, 0.6]);
    }

    #[test]
    fn a_black_picture_is_told_from_attention() {
        let black = Picture { width: 8, height: 8, pixels: vec![0; 8 * 8 * 3] };
        let map = attention(vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0], 2);
        let scale = Scale::of(std::slice::from_ref(&map), Even::Words);
        let lit = lit(&pale(&scaled(&black, STAGE)), &map, 0, scale);
        let light = |x: usize| luminance(&lit.pixels[(128 * lit.width + x) * 3..][..3]);
        assert!(light(250) >= 150.0 && light(5) < 60.0);
    }

    #[test]
    fn function_words_stand_last() {
        for word in ["a", "With", "and", "the", "this", "is", "has"] {
            assert!(is_function_word(word), "{word}");
        }
        for word in ["red", "bird", "wings", "an.", "红", "s"] {
            assert!(!is_function_word(word), "{word}");
        }
    }
}
