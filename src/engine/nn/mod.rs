//! Floor 3: named parameters, layers made of them, the optimiser, checkpoint files.

mod init;
pub mod layers;
pub mod optim;
pub mod rnn;
mod store;
pub mod weights;

pub use init::{Initialiser, Policy};
pub use layers::{BatchNorm, Conv2d, Embedding, Linear, UpConv};
pub use optim::{Adam, AdamConfig};
pub use rnn::{Bidirectional, CellKind, Lstm};
pub use store::{Fill, Param, Scope, Source, Store};
pub use weights::{Archive, Array, Values};

/// Whether batch norm takes its statistics from the batch (and remembers them) or from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Train,
    Eval,
}
