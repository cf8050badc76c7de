//! Floor 0: where numbers live and who computes on them.

pub mod cpu;

mod gemm;
pub mod cuda;
pub mod simd;
pub use gemm::{Mat, gemm};
