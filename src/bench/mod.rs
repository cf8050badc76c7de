//! What is timed, and how one operator is timed: shared by `engine bench` and `cargo bench`.

pub mod benchmarks;
pub mod measurement;
