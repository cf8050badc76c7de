//! A folder that tests fill with little pictures and lists.
#![allow(dead_code)] // Each test file uses a part.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};
use mirrorgan_engine::data::{Dataset, DecodeConfig, Format, Item, OpenConfig, Report, check, open};

pub struct Album {
    keep: tempfile::TempDir,
    format: Format,
}

impl Album {
    pub fn new(format: Format) -> Album {
        Album { keep: tempfile::tempdir().unwrap(), format }
    }

    pub fn root(&self) -> &Path {
        self.keep.path()
    }

    /// Writes a file, and the folders above it.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Album {
        let file = self.root().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
        self
    }

    /// Pictures, each of a color of its own.
    pub fn pictures(&self, paths: &[&str]) -> &Album {
        for path in paths {
            let number = path.bytes().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
            self.put(path, encoded(ImageFormat::Jpeg, [number, 255 - number, number.rotate_left(3)]));
        }
        self
    }

    pub fn remove(&self, path: &str) -> &Album {
        let file = self.root().join(path);
        if file.is_dir() {
            fs::remove_dir_all(file).unwrap()
        } else {
            fs::remove_file(file).unwrap()
        }
        self
    }

    pub fn open(&self) -> Dataset {
        self.open_with(&OpenConfig::default())
    }

    pub fn open_with(&self, config: &OpenConfig) -> Dataset {
        open(self.format, self.root(), config).unwrap()
    }

    /// The error of a folder that cannot be opened.
    pub fn refusal(&self) -> String {
        open(self.format, self.root(), &OpenConfig::default()).unwrap_err().to_string()
    }

    pub fn notices(&self) -> String {
        self.open().notices.join("\n")
    }

    /// `file: why` of what is skipped, the file below the folder.
    pub fn skips(&self) -> Vec<String> {
        let below = |file: &Path| file.strip_prefix(self.root()).unwrap_or(file).display().to_string();
        self.open().skipped.iter().map(|skip| format!("{}: {}", below(&skip.file), skip.why)).collect()
    }

    pub fn report(&self) -> Report {
        check(self.open(), &DecodeConfig::default())
    }
}

/// A picture of one color, 24×16.
pub fn encoded(format: ImageFormat, color: [u8; 3]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(24, 16, Rgb(color)).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub fn ids(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.id.as_str()).collect()
}

pub fn classes(items: &[Item]) -> Vec<i32> {
    items.iter().map(|item| item.class).collect()
}

/// The captions of an item as its vocabulary spells them.
pub fn sentences(set: &Dataset, item: &Item) -> Vec<String> {
    item.captions.iter().map(|ids| set.vocabulary.sentence(ids)).collect()
}

#[track_caller]
pub fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

/// A few bytes flipped, cut out, doubled, or replaced by what parsers take notice of.
pub fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    const TELLING: [&[u8]; 9] =
        [b"\"", b"\n", b"\r", b"\0", b"\xff\xfe", b",", b"\t", b"{", b"9999999999999999999999"];
    let mut state = seed;
    let mut below = |count: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % count
    };
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + below(3) {
        let at = below(bytes.len() + 1);
        match below(4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, TELLING[below(TELLING.len())].iter().copied())),
            _ => {
                let end = (at + below(16)).min(bytes.len());
                let part: Vec<u8> = bytes.drain(at..end).collect();
                let place = below(bytes.len() + 1);
                drop(bytes.splice(place..place, part));
            }
        }
    }
    bytes
}
