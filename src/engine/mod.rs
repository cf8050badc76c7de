//! The machine: devices, tensors, the tape, operators, layers. It knows no network of any paper.

pub mod device;
pub mod nn;
pub mod ops;
pub mod tensor;

pub use tensor::{IntTensor, Shape, Tensor};
