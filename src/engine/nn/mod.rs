//! Floor 3: named parameters, layers made of them, the optimizer, checkpoint files.

pub mod archive;
mod init;
pub mod layers;
pub mod optim;
pub mod rnn;
mod store;

pub use archive::{Archive, Array, Values};
pub use init::{Initializer, Policy};
pub use layers::{BatchNorm, Conv2d, Embedding, Linear, UpConv};
pub use optim::{Adam, AdamConfig};
pub use rnn::{Bidirectional, CellKind, Lstm};
pub use store::{Fill, Param, Scope, Source, Store};

/// Whether batch norm takes its statistics from the batch (and remembers them) or from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Train,
    Eval,
}
