//! What is timed, and how: shared by `engine bench` and `cargo bench`.

pub mod benchmarks;
mod ceilings;
mod device_copy;
pub mod measurement;
mod plan;
mod result;
mod statistics;

pub use benchmarks::{Benchmark, Pass};
pub use ceilings::Ceilings;
pub use device_copy::DeviceCopy;
pub use measurement::{CacheFlush, Measurement};
pub use plan::{Plan, is_emulated};
pub use result::BenchResult;
