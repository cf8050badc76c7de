//! Floor 0: where numbers live and who computes on them.

pub mod cpu;

pub mod cuda;
mod gemm;
pub mod simd;
pub use gemm::{Mat, gemm};
