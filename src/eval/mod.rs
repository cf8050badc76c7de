//! Metrics of a trained network, as pure functions of features, and the protocols that they are computed by: nothing here
//! runs a network.

mod metric;
pub mod protocol;
mod r_precision;

pub use metric::Metric;
pub use r_precision::r_precision;
