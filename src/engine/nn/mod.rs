//! Named parameters, layers, the optimizer, weight files.

pub mod archive;
mod init;
pub mod layers;
pub mod optim;
pub mod rnn;
mod store;

pub use archive::{Archive, Array, Values};
pub use init::{Initializer, Policy};
pub use layers::{BatchNorm, Conv2d, DepthwiseConv2d, Embedding, Linear, UpConv};
pub use optim::{Adam, AdamConfig};
pub use rnn::{Bidirectional, CellKind, Lstm};
pub use store::{Fill, Param, Scope, Source, Store};

/// Whether a batch norm uses the batch's statistics and tracks them, or uses its running statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Train,
    Eval,
}
