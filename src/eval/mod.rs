//! Numbers by which a trained network is judged.

mod metric;
pub mod r_precision;

pub use metric::Metric;
