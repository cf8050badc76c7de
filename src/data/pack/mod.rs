//! A data set in one file, so that training waits for no decoder.
//!
//! ```text
//!  head         64 bytes   magic, version, sections with their CRC-32C; CRC-32C of the head
//!  pictures                RGB, one behind the other, as `data::prepare` makes them
//!  description  JSON       format, side, limits, counts, split, words, skipped files, notices
//!  items                   id, image, class, box, place and CRC-32C of the pixels, captions; see `items`
//! ```
//!
//! Numbers are little-endian. Opening reads head, description and items; a picture is read, and its checksum tested,
//! when a batch needs it. An image that could not be used is an item without pixels, with the reason, so that batches
//! from a pack are those from the folder.

mod items;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::items::Split;
use super::captions::Vocabulary;
use super::crop::margin_side;
use super::dataset::{Dataset, Skip, SplitSource};
use super::decode::DecodeConfig;
use super::options::OpenConfig;
use super::packed::{PackFile, Packing, pack_again};
use crate::error::{Error, Result};
use crate::files::kind;

pub use self::write::{PackSummary, pack};

/// Not text, and damaged by a transfer that converts line ends.
const MAGIC: [u8; 8] = *b"\x89MGPACK\n";

/// Changes with the layout.
const VERSION: u32 = 1;

const HEAD: usize = 64;

/// A part of the file.
#[derive(Clone, Copy, Default)]
struct Section {
    offset: u64,
    length: u64,
    crc: u32,
}

struct Head {
    description: Section,
    items: Section,
}

impl Head {
    fn to_bytes(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (at, section) in [(16, self.description), (36, self.items)] {
            bytes[at..at + 8].copy_from_slice(&section.offset.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&section.length.to_le_bytes());
            bytes[at + 16..at + 20].copy_from_slice(&section.crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..HEAD - 4]);
        bytes[HEAD - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a head; the error says what the file is instead.
    fn of_bytes(bytes: &[u8]) -> std::result::Result<Head, Wrong> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Wrong::Kind(match kind::of_bytes(bytes) {
                _ if bytes.is_empty() => "an empty file".into(),
                Some(kind) => kind.into(),
                None => "a file".into(),
            }));
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes.len() < HEAD {
            return Err(Wrong::Damaged("cut off within its head".into()));
        }
        if u32_at(8) != VERSION {
            return Err(Wrong::Version(u32_at(8)));
        }
        if crc32c::crc32c(&bytes[..HEAD - 4]) != u32_at(HEAD - 4) {
            return Err(Wrong::Damaged("damaged: the checksum of its head is wrong".into()));
        }
        let section =
            |at: usize| Section { offset: u64_at(at), length: u64_at(at + 8), crc: u32_at(at + 16) };
        Ok(Head { description: section(16), items: section(36) })
    }
}

/// Why a file cannot be opened as a pack.
enum Wrong {
    Kind(String),
    Version(u32),
    Damaged(String),
}

impl Wrong {
    fn into_error(self, path: &Path) -> Error {
        let why = match self {
            Wrong::Kind(kind) => {
                format!("{kind}, neither a folder with a data set nor a pack made by engine data pack")
            }
            Wrong::Version(version) => format!(
                "a pack of format {version}, and this engine reads format {VERSION}; {}",
                pack_again(path)
            ),
            Wrong::Damaged(why) => format!("{why}; {}", pack_again(path)),
        };
        Error::data(path, why)
    }
}

/// What holds for the whole data set.
#[derive(Serialize, Deserialize)]
struct Description {
    packing: Packing,
    train: usize,
    test: usize,
    captions: usize,
    split: SplitSource,
    words: Vec<String>,
    skipped: Vec<(String, String)>,
    notices: Vec<String>,
}

/// Opens a pack; its pictures are read later.
///
/// # Errors
/// `Io` when it cannot be read; `Data` when it is no pack, one of another version, cut off, damaged, or of other words or
/// another split than `config` asks for.
pub(super) fn open(path: &Path, config: &OpenConfig) -> Result<Dataset> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    let decode = DecodeConfig::default();
    let (file_name, open) = (path.to_path_buf(), OpenConfig::default());
    let packing =
        Packing { file: file_name, format: String::new(), root: String::new(), side: 0, decode, open };
    let dataset = read(PackFile { packing, file }, length).map_err(|wrong| wrong.into_error(path))?;
    dataset.packing().map_or(Ok(()), |packing| packing.require_open(config))?;
    Ok(dataset)
}

fn read(mut pack: PackFile, length: u64) -> std::result::Result<Dataset, Wrong> {
    let damaged = |why: &str| Wrong::Damaged(format!("damaged: {why}"));
    let head = pack.read(0, length.min(HEAD as u64) as usize).map_err(Wrong::Damaged)?;
    let Head { description: described, items } = Head::of_bytes(&head)?;
    let whole = items.offset.checked_add(items.length).ok_or_else(|| damaged("its head makes no sense"))?;
    if length < whole {
        return Err(Wrong::Damaged(format!("cut off: {length} of {whole} bytes are there")));
    }
    let section = |name: &str, section: Section| {
        let length = usize::try_from(section.length).unwrap_or(usize::MAX);
        if section.offset.checked_add(section.length).is_none_or(|end| end > whole) {
            return Err(damaged("its head makes no sense"));
        }
        let bytes = pack.read(section.offset, length).map_err(Wrong::Damaged)?;
        let right = crc32c::crc32c(&bytes) == section.crc;
        if right { Ok(bytes) } else { Err(damaged(&format!("the checksum of its {name} is wrong"))) }
    };
    let (description, items) = (section("description", described)?, section("list of items", items)?);
    let description: Description =
        serde_json::from_slice(&description).map_err(|e| damaged(&format!("its description: {e}")))?;
    let Description { packing, train, test, captions, split, words, skipped, notices } = description;
    let vocabulary = Vocabulary::from_words(words).map_err(|why| damaged(&format!("its words: {why}")))?;
    let path = std::mem::take(&mut pack.packing.file);
    pack.packing = Packing { file: path.clone(), ..packing };
    let limits = items::Limits {
        pixels: HEAD as u64..described.offset,
        shorter: margin_side(pack.packing.side),
        words: vocabulary.len(),
    };
    let root = PathBuf::from(&pack.packing.root);
    let counts = [train, test];
    let Split { train, test, captions: found } = items::read(&items, counts, &root, &Arc::new(pack), &limits)
        .ok_or_else(|| damaged("its list of items makes no sense"))?;
    if found != captions {
        return Err(damaged("its list of items has another number of captions"));
    }
    let whole_path = |file: String| if file.is_empty() { root.clone() } else { root.join(file) };
    let skipped = skipped.into_iter().map(|(file, why)| Skip { file: whole_path(file), why }).collect();
    Ok(Dataset { root: path, train, test, split, vocabulary, skipped, notices })
}

/// The path of a file from the data set's folder on, where it lies inside.
fn inside(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned()
}
