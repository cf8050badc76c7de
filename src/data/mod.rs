//! The data floor: from folders of pictures and captions to batches of numbers.
//!
//! ```text
//!  demo ──writes──► DIR ──cub::open──► Dataset ──loader──► Batch
//!                    │                    │
//!                    │                    ├─ captions   words ↔ ids, one vocabulary for a data set
//!                    └─ pickle            └─ picture     decode, crop, resize, [−1, 1]
//! ```
//!
//! Everything a batch holds depends on the data, the seed and the step alone, never on the timing of
//! threads: a run that goes on from step `k` sees what it would have seen without having stopped.
//!
//! This floor knows no tensor and no network; it speaks in `Vec<f32>` and `Vec<i32>`.

pub mod captions;
pub mod cub;
pub mod dataset;
pub mod demo;
pub mod loader;
mod pickle;
pub mod picture;
mod resize;
mod rng;

pub use self::captions::{Encoded, Vocabulary};
pub use self::dataset::{Dataset, Item, Report, Skip};
pub use self::loader::{Batch, EvalBatches, Loader, LoaderConfig};
pub use self::picture::{Picture, save_png};
