//! Metrics of a trained network, as pure functions of features: nothing here runs a network.

mod metric;
mod r_precision;

pub use metric::Metric;
pub use r_precision::r_precision;
