//! Files of the operating system, without tensors.

pub mod atomic;
pub mod kind;
pub mod lock;
pub mod pickle;
