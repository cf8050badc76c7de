//! From folders of images and captions to batches of numbers.
//!
//! ```text
//!  demo ──writes──► DIR ──open──► Dataset ──loader──► Batch
//!                    │     │         │
//!                    │     │         ├─ captions   words ↔ ids, one vocabulary for a data set; tokenizer
//!                    │     │         ├─ decode, crop, resize, picture   one way from a file to [−1, 1]
//!                    │     │         ├─ check      decodes everything and reports
//!                    │     │         └─ pack       all of it in one file, whose pictures are `packed`
//!                    │     └─ cub, coco, folder   one for each format; draft, listed: what they share
//!                    └─ names, tree, listing, split, pickle, caption_file   what stands in its files
//! ```
//!
//! A batch is a function of the data, the seed and the step. It does not depend on the timing of threads, so a
//! resumed run sees the batches of an uninterrupted one.
//!
//! This module knows no tensor and no network; its batches are `Vec<f32>` and `Vec<i32>`.

mod caption_file;
pub mod captions;
mod check;
mod coco;
mod codec;
mod crop;
mod cub;
mod dataset;
mod decode;
pub mod demo;
mod draft;
mod fingerprint;
mod folder;
mod listed;
mod listing;
pub mod loader;
mod missing;
mod names;
mod options;
mod pack;
mod packed;
mod pickle;
mod picture;
mod resample;
mod resize;
mod rng;
mod split;
mod tokenizer;
mod tree;

use std::path::Path;

use crate::error::{Error, Result};
use crate::files;

pub use self::captions::{Encoded, Vocabulary};
pub use self::check::{Report, check};
pub use self::codec::{png_with_text, save_png, save_png_with_text};
pub use self::crop::{Cut, bbox_crop, cut_by_box, margin_side, prepare};
pub use self::dataset::{Dataset, Item, Skip, SplitSource};
pub use self::decode::{DecodeConfig, Decoded, decode, decode_bytes};
pub use self::fingerprint::Fingerprint;
pub use self::folder::picture_files;
pub use self::loader::{Batch, EvalBatches, Loader, LoaderConfig};
pub(crate) use self::names::count;
pub use self::options::{Classes, OpenConfig};
pub use self::pack::{PackSummary, pack};
pub use self::packed::{Packed, Packing};
pub use self::picture::{Picture, Region};
pub use self::tokenizer::Tokenizer;

/// How a data set is laid out on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CUB-200-2011 with the captions of AttnGAN; also the demo's birds, and a data set of one's own in that layout.
    Cub,
    /// COCO of 2014 or 2017 as it is published, or in the folder of AttnGAN.
    Coco,
    /// A folder of pictures, with captions in a table or beside them.
    Folder,
}

impl Format {
    /// Whether its lists say where in an image the object is.
    pub fn has_boxes(self) -> bool {
        self == Format::Cub
    }
}

/// Reads a data set except for its image files; files that cannot be used are skipped and named. A file is a pack,
/// which is a data set of any format.
///
/// # Errors
/// `Data` when a list is missing or malformed (with its line), or when nothing is left, with the first reasons.
pub fn open(format: Format, dir: impl AsRef<Path>, config: &OpenConfig) -> Result<Dataset> {
    if dir.as_ref().is_file() {
        return pack::open(dir.as_ref(), config);
    }
    match format {
        Format::Cub => cub::open(dir.as_ref(), config),
        Format::Coco => coco::open(dir.as_ref(), config),
        Format::Folder => folder::open(dir.as_ref(), config),
    }
}

/// The words that published weights were trained with: of captions.pickle, or of a text file with one word a line.
///
/// # Errors
/// `Io` when it cannot be read; `Data` when it is neither, or when a word is missing or there twice.
pub fn read_vocabulary(path: impl AsRef<Path>) -> Result<Vocabulary> {
    let path = path.as_ref();
    let head = files::head(path, 16).map_err(|source| Error::io(path, source))?;
    match head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).starts_with(captions::END.as_bytes()) {
        true => Vocabulary::load(path),
        false => Ok(pickle::captions(path)?.vocabulary),
    }
}
