//! A page that is filled from the top: headings, rows of tiles, color bars.

use super::canvas::{LINE, blank, fill, heated, paste, scaled};
use super::text::{self, HEADING, LABEL, NUMBER, REMARK, Style, TITLE};
use crate::data::Picture;

/// Pixels around a page, between tiles, and between parts of a page.
const MARGIN: usize = 24;
pub(super) const GAP: usize = 12;
const PART: usize = 18;

/// A picture with words beneath.
pub struct Tile {
    pub picture: Picture,
    pub label: String,
    /// A smaller line below the label.
    pub remark: String,
}

impl Tile {
    pub fn new(picture: Picture, label: impl Into<String>) -> Tile {
        Tile { picture, label: label.into(), remark: String::new() }
    }

    pub fn remark(self, remark: impl Into<String>) -> Tile {
        Tile { remark: remark.into(), ..self }
    }
}

/// How the tiles of a row look.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// Every picture is scaled to this side.
    pub side: usize,
    pub label: Style,
}

impl Look {
    pub(super) fn of(side: usize) -> Look {
        Look { side, label: LABEL }
    }
}

/// A page of a fixed width.
pub(super) struct Sheet {
    /// Between the margins.
    width: usize,
    parts: Vec<Picture>,
    /// The place of the part that follows the title.
    head: usize,
    has_boxes: bool,
}

/// Said below the title where letters are missing.
const BOXES: &str =
    "Each box is a letter that no font of this system has: install a font of its script, such as Noto Sans.";

impl Sheet {
    pub(super) fn new(width: usize) -> Sheet {
        Sheet { width, parts: Vec::new(), head: 0, has_boxes: false }
    }

    /// Wide enough for `columns` tiles of `side`, and for a heading.
    pub(super) fn of_columns(columns: usize, side: usize) -> Sheet {
        const LEAST: usize = 480;
        Sheet::new((columns * (side + GAP)).saturating_sub(GAP).max(LEAST))
    }

    pub(super) fn title(self, text: &str) -> Sheet {
        let sheet = self.words(text, TITLE);
        Sheet { head: sheet.parts.len(), ..sheet }
    }

    pub(super) fn heading(self, text: &str) -> Sheet {
        self.space(PART).words(text, HEADING).space(4)
    }

    pub(super) fn remark(self, text: &str) -> Sheet {
        self.space(2).words(text, REMARK)
    }

    pub(super) fn words(mut self, text: &str, style: Style) -> Sheet {
        if !text.is_empty() {
            let mut part = blank(self.width, text::height(text, style, self.width));
            text::write(&mut part, text, style, [0, 0], self.width);
            self.parts.push(part);
            self.has_boxes |= text::has_boxes(text);
        }
        self
    }

    pub(super) fn space(mut self, height: usize) -> Sheet {
        self.parts.push(blank(self.width, height));
        self
    }

    pub(super) fn rule(mut self) -> Sheet {
        let mut part = blank(self.width, 2 * GAP + 1);
        fill(&mut part, [0, GAP], [self.width, 1], LINE);
        self.parts.push(part);
        self
    }

    /// How many tiles of `side` stand side by side.
    pub(super) fn columns(&self, side: usize) -> usize {
        ((self.width + GAP) / (side + GAP)).max(1)
    }

    /// Tiles from left to right, in as many rows as they need.
    pub(super) fn tiles(mut self, tiles: &[Tile], look: Look) -> Sheet {
        for (i, row) in tiles.chunks(self.columns(look.side)).enumerate() {
            if i > 0 {
                self = self.space(GAP);
            }
            let part = row_of(row, look, self.width);
            self.parts.push(part);
            self.has_boxes |= row.iter().any(|tile| text::has_boxes(&tile.label));
        }
        self
    }

    /// The color map from 0 to 1, with the numbers that its ends and its middle stand for.
    pub(super) fn color_bar(mut self, ends: [f32; 2], words: &str) -> Sheet {
        const SIZE: [usize; 2] = [240, 14];
        /// Room for half a number beside each end.
        const SIDE: usize = 30;
        let mut part = blank(self.width, (SIZE[1] + 20).max(34));
        for x in 0..SIZE[0] {
            let color = heated(&[225; 3], x as f32 / (SIZE[0] - 1) as f32);
            fill(&mut part, [SIDE + x, 0], [1, SIZE[1]], color);
        }
        for (at, value) in [(0, ends[0]), (SIZE[0] / 2, (ends[0] + ends[1]) / 2.0), (SIZE[0], ends[1])] {
            fill(&mut part, [SIDE + at.min(SIZE[0] - 1), SIZE[1]], [1, 4], LINE);
            let number = number_on(ends[1] - ends[0], value);
            text::write(&mut part, &number, NUMBER, [at, SIZE[1] + 3], 2 * SIDE);
        }
        let left = SIZE[0] + 2 * SIDE + GAP;
        if self.width > left + 100 {
            text::write(&mut part, words, REMARK, [left, 0], self.width - left);
        }
        self.parts.push(part);
        self
    }

    pub(super) fn finish(mut self) -> Picture {
        if self.has_boxes {
            let below = self.parts.split_off(self.head);
            self = self.remark(BOXES);
            self.parts.extend(below);
        }
        let content = column(&self.parts);
        let mut page = blank(self.width + 2 * MARGIN, content.height + 2 * MARGIN);
        paste(&mut page, &content, [MARGIN, MARGIN]);
        page
    }
}

/// A number on a scale of this span, with the digits that tell a quarter of the span.
pub(super) fn number_on(span: f32, value: f32) -> String {
    let decimals = (4.0 / span).log10().ceil().clamp(2.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

/// One row: pictures, labels, remarks; each line as high as its highest.
fn row_of(row: &[Tile], look: Look, width: usize) -> Picture {
    let side = look.side;
    let remark = NUMBER.lines(2);
    let highest = |of: &dyn Fn(&Tile) -> (String, Style)| {
        let heights = row.iter().map(of).filter(|(words, _)| !words.is_empty());
        heights.map(|(words, style)| text::height(&words, style, side)).max().unwrap_or(0)
    };
    let labels = highest(&|tile| (tile.label.clone(), look.label));
    let remarks = highest(&|tile| (tile.remark.clone(), remark));
    let mut part = blank(width, side + 4 + labels + remarks);
    for (i, tile) in row.iter().enumerate() {
        let left = i * (side + GAP);
        let picture = scaled(&tile.picture, side);
        paste(&mut part, &picture, [left + (side - picture.width) / 2, (side - picture.height) / 2]);
        text::write(&mut part, &tile.label, look.label, [left, side + 4], side);
        text::write(&mut part, &tile.remark, remark, [left, side + 4 + labels], side);
    }
    part
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

/// The side at which a picture is shown: itself, if it is large enough.
pub(super) fn shown_side(pictures: &[Tile], least: usize) -> usize {
    const LARGEST: usize = 256;
    let largest = pictures.iter().map(|tile| tile.picture.width.max(tile.picture.height)).max();
    largest.unwrap_or(least).clamp(least, LARGEST)
}

/// Frames from left to right under a title, at most eight in a row.
pub fn strip(title: &str, remark: &str, frames: &[Tile]) -> Picture {
    const COLUMNS: usize = 8;
    let look = Look::of(shown_side(frames, 128));
    let sheet = Sheet::of_columns(frames.len().clamp(1, COLUMNS), look.side);
    sheet.title(title).remark(remark).space(PART).tiles(frames, look).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_digits_of_its_scale() {
        assert_eq!([0.0, 0.05, 0.1].map(|value| number_on(0.1, value)), ["0.00", "0.05", "0.10"]);
        // An even share of 64 × 64 regions, and four times it.
        let near = [1.0, 2.0, 4.0].map(|share| number_on(3.0 / 4096.0, share / 4096.0));
        assert_eq!(near, ["0.0002", "0.0005", "0.0010"]);
        assert_eq!(number_on(1e-9, 0.25), "0.250000");
    }

    /// No font has letters for private use.
    #[test]
    fn letters_that_no_font_has_are_explained() {
        let height = |title: &str, label: &str| {
            let tiles = [Tile::new(blank(8, 8), label)];
            Sheet::new(600).title(title).remark("seed 0").tiles(&tiles, Look::of(64)).finish().height
        };
        let plain = height("a red bird", "red");
        assert_eq!(height("ένα πουλί", "красный"), plain);
        for (title, label) in [("a \u{10FFFD} bird", "red"), ("a red bird", "\u{10FFFD}")] {
            assert!(height(title, label) > plain, "{title:?} {label:?}");
        }
    }
}
