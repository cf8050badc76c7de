//! What the phases of training have in common.

use std::path::Path;

use crate::data::Picture;
use crate::error::Result;
use crate::eval::Metric;
use crate::run::Inputs;

/// A place in a stage: steps taken before this one, and the epoch it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub step: u64,
    pub epoch: u64,
}

/// A network, or a few, in training.
pub(super) trait PhaseTrainer {
    /// Learns from a batch; returns the terms of the losses as they were before.
    fn step(&mut self, at: Position, batch: &Inputs) -> Vec<(String, f32)>;

    /// Writes all that [`PhaseTrainer::load`] needs to go on as if there had been no break.
    fn save(&mut self, folder: &Path) -> Result<()>;

    fn load(&mut self, folder: &Path) -> Result<()>;

    /// Fixed captions with fixed noise, as they look now; nothing where the stage paints nothing.
    fn paint(&mut self) -> Option<Picture> {
        None
    }

    /// The captions that [`PhaseTrainer::paint`] paints, from the top.
    fn captions(&self) -> &[String] {
        &[]
    }

    /// What the finished stage is judged by; nothing where the data are too few.
    fn figure(&mut self) -> Result<Option<Metric>>;
}
