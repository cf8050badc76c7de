//! Words in pictures. Latin, Greek, Cyrillic, Hebrew, Arabic and more come from a font in the binary; other scripts from the
//! system's fonts, which are looked for when the first such letter comes. A letter that no font has is a box.

use std::sync::{LazyLock, Mutex, PoisonError};

use cosmic_text::{
    Align, Attrs, Buffer as Paragraph, Color, Ellipsize, EllipsizeHeightLimit, Family, FontSystem, Metrics,
    Shaping, SwashCache, Wrap, fontdb,
};

use crate::data::Picture;

/// How words are written.
#[derive(Clone, Copy)]
pub(super) struct Style {
    /// Pixels of a line's letters.
    pub size: f32,
    pub color: [u8; 3],
    pub centered: bool,
    /// More lines than these end with an ellipsis.
    pub lines: usize,
}

pub(super) const INK: [u8; 3] = [28, 28, 32];
pub(super) const MUTED: [u8; 3] = [118, 118, 126];

/// Headings; names of parts; words beneath pictures; numbers and remarks.
pub(super) const TITLE: Style = Style { size: 22.0, color: INK, centered: false, lines: 3 };
pub(super) const HEADING: Style = Style { size: 16.0, color: INK, centered: false, lines: 2 };
pub(super) const LABEL: Style = Style { size: 15.0, color: INK, centered: true, lines: 1 };
pub(super) const REMARK: Style = Style { size: 13.0, color: MUTED, centered: false, lines: 2 };
pub(super) const NUMBER: Style = Style { size: 12.0, color: MUTED, centered: true, lines: 1 };

impl Style {
    pub(super) fn centered(self) -> Style {
        Style { centered: true, ..self }
    }

    pub(super) fn lines(self, lines: usize) -> Style {
        Style { lines, ..self }
    }

    /// Pixels from one line to the next.
    fn line(self) -> f32 {
        (self.size * 1.35).round()
    }
}

const FAMILY: &str = "DejaVu Sans";

struct Typesetter {
    fonts: FontSystem,
    glyphs: SwashCache,
    /// Whether the system's fonts are there too.
    has_system: bool,
}

static TYPESETTER: LazyLock<Mutex<Typesetter>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    let fonts = FontSystem::new_with_locale_and_db("en".to_string(), fonts);
    Mutex::new(Typesetter { fonts, glyphs: SwashCache::new(), has_system: false })
});

/// Writes `text` from `[left, top]` on, wrapped at `width` pixels. Returns the height in pixels.
pub(super) fn write(
    on: &mut Picture,
    text: &str,
    style: Style,
    [left, top]: [usize; 2],
    width: usize,
) -> usize {
    let mut setter = TYPESETTER.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut set, height) = setter.set(text, style, width);
    let Typesetter { fonts, glyphs, .. } = &mut *setter;
    let [r, g, b] = style.color;
    set.draw(fonts, glyphs, Color::rgb(r, g, b), |x, y, w, h, color| {
        for (x, y) in (0..h as i32).flat_map(|dy| (0..w as i32).map(move |dx| (x + dx, y + dy))) {
            ink(on, left as i32 + x, top as i32 + y, color);
        }
    });
    height
}

/// The height that [`write`] needs.
pub(super) fn height(text: &str, style: Style, width: usize) -> usize {
    TYPESETTER.lock().unwrap_or_else(PoisonError::into_inner).set(text, style, width).1
}

/// Whether a letter of `text` is a box.
pub(super) fn has_boxes(text: &str) -> bool {
    !text.is_ascii() && boxes(text) > 0
}

/// How many letters of `text` no font has.
fn boxes(text: &str) -> usize {
    let mut setter = TYPESETTER.lock().unwrap_or_else(PoisonError::into_inner);
    missing(&setter.set(text, LABEL.lines(usize::MAX), 1000).0)
}

/// Letters that no font has are glyph 0.
fn missing(set: &Paragraph) -> usize {
    set.layout_runs().flat_map(|run| run.glyphs).filter(|glyph| glyph.glyph_id == 0).count()
}

impl Typesetter {
    fn set(&mut self, text: &str, style: Style, width: usize) -> (Paragraph, usize) {
        let set = self.shortened(text, style, width);
        if missing(&set) == 0 || self.has_system {
            let height = set.layout_runs().map(|run| run.line_top + run.line_height).fold(0.0, f32::max);
            return (set, height.ceil() as usize);
        }
        self.has_system = true;
        self.fonts.db_mut().load_system_fonts();
        self.set(text, style, width)
    }

    /// The text, or as much of its beginning as fits with an ellipsis behind.
    fn shortened(&mut self, text: &str, style: Style, width: usize) -> Paragraph {
        let whole = self.lay(text, style, width);
        if style.lines == 1 || whole.layout_runs().count() <= style.lines {
            return whole;
        }
        // Paragraphs that end with an ellipsis of their own begin each further line with the blank at which it was broken.
        let letters: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let cut = |count: usize| format!("{}…", text[..letters[count]].trim_end());
        let (mut fits, mut too_long) = (0, letters.len());
        while too_long - fits > 1 {
            let middle = (fits + too_long) / 2;
            match self.lay(&cut(middle), style, width).layout_runs().count() <= style.lines {
                true => fits = middle,
                false => too_long = middle,
            }
        }
        self.lay(&cut(fits), style, width)
    }

    fn lay(&mut self, text: &str, style: Style, width: usize) -> Paragraph {
        let mut set = Paragraph::new(&mut self.fonts, Metrics::new(style.size, style.line()));
        set.set_size(Some(width as f32), None);
        if style.lines == 1 {
            set.set_wrap(Wrap::None);
            set.set_ellipsize(Ellipsize::End(EllipsizeHeightLimit::Lines(1)));
        } else {
            set.set_wrap(Wrap::WordOrGlyph);
        }
        let align = if style.centered { Align::Center } else { Align::Left };
        let attributes = Attrs::new().family(Family::Name(FAMILY));
        let one_line = text.replace(['\n', '\r', '\t'], " ");
        set.set_text(&one_line, &attributes, Shaping::Advanced, Some(align));
        set.shape_until_scroll(&mut self.fonts, false);
        set
    }
}

fn ink(on: &mut Picture, x: i32, y: i32, color: Color) {
    let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
    if x >= on.width || y >= on.height {
        return;
    }
    let at = (y * on.width + x) * 3;
    let alpha = u32::from(color.a());
    for (value, ink) in on.pixels[at..at + 3].iter_mut().zip([color.r(), color.g(), color.b()]) {
        *value = ((u32::from(*value) * (255 - alpha) + u32::from(ink) * alpha + 127) / 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::canvas;

    /// The pixels of a word, and how wide they reach.
    fn drawn(text: &str) -> (Vec<u8>, usize) {
        let mut on = canvas::blank(300, 30);
        write(&mut on, text, Style { centered: false, ..LABEL }, [0, 0], 300);
        let dark = |x: usize| (0..30).any(|y| on.pixels[(y * 300 + x) * 3] < 128);
        let reach = (0..300).rev().find(|&x| dark(x)).unwrap_or(0);
        (on.pixels, reach)
    }

    #[test]
    fn letters_of_many_scripts_stand_in_the_binary() {
        for text in [
            "a red bird",
            "ένα κόκκινο πουλί",
            "красная птица",
            "oiseau élégant",
            "ציפור",
            "طائر أحمر",
            "1/T ≥ 0.65 × 64²",
        ] {
            assert_eq!(boxes(text), 0, "{text}");
            assert!(drawn(text).1 > 20, "{text}");
        }
        assert!(drawn("αβγ").0 != drawn("абв").0);
    }

    /// Without a font of the system a letter is a box; with one it is not.
    #[test]
    fn han_characters_are_letters_or_boxes() {
        let (red, bird) = (drawn("红"), drawn("鸟"));
        assert!(red.1 > 5 && bird.1 > 5, "something is drawn");
        let has_font = boxes("红鸟") == 0;
        assert_eq!(red.0 != bird.0, has_font, "two letters of a font differ, two boxes do not");
    }

    #[test]
    fn long_texts_are_wrapped_and_end_with_an_ellipsis() {
        let long =
            "a small red bird with black wings and a long bill and a white belly and a grey crown ".repeat(4);
        let line = height("a", REMARK, 200);
        assert_eq!(height(&long, REMARK, 200), 2 * line);
        assert_eq!(height(&long, REMARK.lines(5), 200), 5 * line);
        assert_eq!(height("a b", REMARK, 200), line);
        // Every line begins at the left edge, where an i stands as where it is alone.
        let mut on = canvas::blank(200, 60);
        write(&mut on, &"iiiiiiii ".repeat(40), REMARK, [0, 0], 200);
        let left = |from: usize, to: usize| {
            let dark = |x: usize| (from..to).any(|y| on.pixels[(y * 200 + x) * 3] < 200);
            (0..200).find(|&x| dark(x)).unwrap()
        };
        assert_eq!(left(0, line), left(line, 2 * line));
    }
}
