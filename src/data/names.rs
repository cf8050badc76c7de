//! Text and names as other systems write them, brought into one form where they enter.
//!
//! Windows ends lines in CRLF and separates folders by `\`, macOS may spell é as two characters (NFD), editors begin
//! a file with a byte order mark. A key, such as `001.Sparrow/Sparrow_1`, has none of these and is in NFC.

use std::fmt;
use std::path::Path;

use unicode_normalization::UnicodeNormalization;

use crate::error::Error;
use crate::files::kind;

/// Endings of image files, which a list of names may have or lack.
const ENDINGS: [&str; 13] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif"];

/// Why bytes are no text, and the line to blame where there is one.
#[derive(Debug)]
pub struct TextError {
    line: Option<usize>,
    why: String,
}

impl TextError {
    pub fn into_error(self, file: &Path) -> Error {
        match self.line {
            Some(line) => Error::data_at(file, line, format!("{}; save it as UTF-8", self.why)),
            None => Error::data(file, self.why),
        }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} (line {line}); save the file as UTF-8", self.why),
            None => write!(f, "{}", self.why),
        }
    }
}

/// The text of a UTF-8 file, without its byte order mark.
pub fn text(bytes: Vec<u8>) -> Result<String, TextError> {
    let utf16 = || TextError { line: None, why: "UTF-16 text; save it as UTF-8".into() };
    if is_utf16(&bytes, 4) {
        return Err(utf16());
    }
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text)),
        Err(error) => error,
    };
    let bytes = error.as_bytes();
    if is_utf16(bytes, 0) {
        return Err(utf16());
    }
    if let Some(kind) = kind::of_bytes(bytes) {
        return Err(TextError { line: None, why: format!("{kind}, not text") });
    }
    let before = String::from_utf8_lossy(&bytes[..error.utf8_error().valid_up_to()]).into_owned();
    Err(TextError { line: Some(lines(&before).count()), why: "not UTF-8".into() })
}

/// Whether bytes are UTF-16: by their mark, or because at least `share` tenths of the pairs, and one, have a zero,
/// always on one side.
fn is_utf16(bytes: &[u8], share: usize) -> bool {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return true;
    }
    let zeros = |side: usize| bytes.iter().skip(side).step_by(2).filter(|byte| **byte == 0).count();
    let (first, second) = (zeros(0), zeros(1));
    let (more, less) = (first.max(second), first.min(second));
    bytes.len() >= 4 && more > 0 && more * 20 >= bytes.len() * share && less * 20 <= more
}

/// Lines that end in LF, CRLF or a lone CR.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split("\r\n").flat_map(|part| part.split(['\n', '\r']))
}

/// Lines that are not blank, trimmed, counted from 1.
pub fn rows(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(lines(text).map(trimmed)).filter(|(_, row)| !row.is_empty())
}

/// Without white space, byte order marks, zeros and DOS's end of file on either side.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\0' | '\u{1a}' | '\u{200b}' | '\u{feff}'))
}

/// A path of a list from its class folder on, in NFC, with `/` between folders.
pub fn path(name: &str) -> String {
    let name: String = trimmed(name).nfc().collect();
    let parts: Vec<&str> =
        name.split(['/', '\\']).map(str::trim).filter(|part| !part.is_empty() && *part != ".").collect();
    let folders = &parts[..parts.len().saturating_sub(1)];
    let is_class = |part: &&str| class_number(part).is_some();
    let first = match folders.first() {
        Some(folder) if !is_class(folder) => folders.iter().rposition(is_class).unwrap_or(0),
        _ => 0,
    };
    parts[first..].join("/")
}

/// As [`path`], without the ending of an image file: what images, boxes, captions and splits are matched by.
pub fn key(name: &str) -> String {
    let path = path(name);
    match ending(&path) {
        Some(_) => path[..path.rfind('.').unwrap_or(path.len())].to_string(),
        None => path,
    }
}

/// As [`key`], without its folders.
pub fn stem(name: &str) -> String {
    let key = key(name);
    key.rsplit_once('/').map_or(key.as_str(), |(_, stem)| stem).to_string()
}

/// The ending of an image file, where a path has one.
pub fn ending(path: &str) -> Option<&str> {
    let (stem, ending) = path.rsplit_once('/').map_or(path, |(_, file)| file).rsplit_once('.')?;
    (!stem.is_empty() && ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))).then_some(ending)
}

/// `001.Black_footed_Albatross` is class 1.
pub fn class_number(folder: &str) -> Option<i32> {
    folder.split_once('.')?.0.parse().ok().filter(|class| *class >= 0)
}

/// The first of `keys` beside the first of `others`, and what they seem to differ in.
pub fn difference<'a>(keys: &[&str], others: impl Iterator<Item = &'a str> + Clone) -> String {
    let lower = |key: &str| key.to_lowercase();
    let letters = |key: &str| key.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let ascii = |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    let file = |key: &str| key.rsplit_once('/').map_or(key, |(_, file)| file).to_string();
    type Fold<'f> = &'f dyn Fn(&str) -> String;
    let ways: [(&str, Fold); 4] = [
        ("upper and lower case", &lower),
        ("spaces or punctuation", &letters),
        ("letters that are not ASCII", &ascii),
        ("the class folder", &file),
    ];
    let Some(first) = keys.first() else { return String::new() };
    let pair = ways.iter().find_map(|(what, fold)| {
        let folded = fold(first);
        others.clone().find(|other| fold(other) == folded).map(|other| (*what, other))
    });
    match (pair, others.clone().next()) {
        (Some((what, other)), _) => format!("'{first}' here is '{other}' there: the names differ in {what}"),
        (None, Some(other)) => {
            format!(
                "the first is '{first}' here and '{other}' there: these seem to be lists of different data"
            )
        }
        (None, None) => format!("the first is '{first}'"),
    }
}

/// `1 class`, `2 classes`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_on_every_system() {
        for name in [
            "001.A/b",
            "001.A/b.jpg\r",
            ".\\001.A\\b.JPG",
            "./images/001.A/b.png \n",
            "C:\\CUB\\images\\001.A\\b.webp",
            "\u{feff}001.A//b",
        ] {
            assert_eq!(key(name), "001.A/b", "{name:?}");
        }
        assert_eq!(key("001.A/e\u{301}.jpg"), "001.A/\u{e9}");
        assert_eq!(key("001.A/photo.v2"), "001.A/photo.v2");
        assert_eq!(key("001.A/2.b/c.jpg"), "001.A/2.b/c");
        assert_eq!((key(""), key("/"), key(".jpg")), (String::new(), String::new(), ".jpg".into()));
    }

    #[test]
    fn texts_that_are_not_utf8_are_named() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        assert!(text(utf16("a red bird\n")).unwrap_err().why.starts_with("UTF-16"));
        assert!(text(utf16("\u{7ea2}\u{8272} \u{9e1f}\n")).unwrap_err().why.starts_with("UTF-16"));
        assert_eq!(text(b"\xef\xbb\xbfa\0b".to_vec()).unwrap(), "a\0b");
        assert_eq!(text(b"a\rb\r\n\xff".to_vec()).unwrap_err().line, Some(3));
        assert!(text(b"GIF89a\xff\xff".to_vec()).unwrap_err().why.contains("a GIF image, not text"));
        assert_eq!(rows("a\r\nb\r\r c \n").collect::<Vec<_>>(), [(1, "a"), (2, "b"), (4, "c")]);
    }
}
