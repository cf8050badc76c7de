//! From folders of images and captions to batches of numbers.
//!
//! ```text
//!  demo ──writes──► DIR ──open──► Dataset ──loader──► Batch
//!                    │     │         │
//!                    │     │         ├─ captions   words ↔ ids, one vocabulary for a data set
//!                    │     │         ├─ decode, crop, resize, picture   one way from a file to [−1, 1]
//!                    │     │         ├─ check      decodes everything and reports
//!                    │     │         └─ pack       all of it in one file, whose pictures are `packed`
//!                    │     └─ cub    one file for each format
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
mod codec;
mod crop;
mod cub;
mod dataset;
mod decode;
pub mod demo;
mod fingerprint;
mod listing;
pub mod loader;
mod names;
mod pack;
mod packed;
mod pickle;
mod picture;
mod resize;
mod rng;
mod split;
mod tree;

use std::path::Path;

use crate::error::Result;

pub use self::captions::{Encoded, Vocabulary};
pub use self::check::{Report, check};
pub use self::codec::{save_png, save_png_with_text};
pub use self::crop::{Cut, bbox_crop, margin_side, prepare};
pub use self::dataset::{Dataset, Item, Skip, SplitSource};
pub use self::decode::{DecodeConfig, Decoded, decode, decode_bytes};
pub use self::fingerprint::Fingerprint;
pub use self::loader::{Batch, EvalBatches, Loader, LoaderConfig};
pub(crate) use self::names::count;
pub use self::pack::{PackSummary, pack};
pub use self::packed::{Packed, Packing};
pub use self::picture::{Picture, Region};

/// How a data set is laid out on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CUB-200-2011 with the captions of AttnGAN; also the demo's birds, and a data set of one's own in that layout.
    Cub,
}

/// Reads a data set except for its image files; files that cannot be used are skipped and named. A file is a pack,
/// which is a data set of any format.
///
/// # Errors
/// `Data` when a list is missing or malformed (with its line), or when nothing is left, with the first reasons.
pub fn open(format: Format, dir: impl AsRef<Path>) -> Result<Dataset> {
    if dir.as_ref().is_file() {
        return pack::open(dir.as_ref());
    }
    match format {
        Format::Cub => cub::open(dir.as_ref()),
    }
}
