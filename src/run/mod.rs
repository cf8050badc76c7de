//! A run on disk and in memory, shared by training, inference and evaluation: folder, checkpoints, seeds, batches.

mod checkpoint;
mod context;
mod folder;
mod inputs;
mod phase;
mod record;
pub mod samples;
pub mod seed;
mod share;

pub use checkpoint::{Best, Checkpoint, Checkpoints, OPTIMIZER, State};
pub use context::Context;
pub use folder::RunFolder;
pub use inputs::Inputs;
pub use phase::Phase;
pub use record::{Call, Change, Record, now};
pub use samples::SampleFile;
pub use share::has_same_phase;
