//! Metrics of a trained network, as pure functions of features, and the protocols that they are computed by: nothing but
//! `evaluate` runs a network. Sums are in f64, in the order of the images' numbers: one set of features, one
//! answer, whatever the order it came in and the number of threads.

mod blocks;
mod diversity;
pub mod evaluate;
mod features;
mod frechet;
mod inception_score;
mod kernel;
mod metric;
mod moments;
mod monge;
mod nearest;
mod precision_recall;
pub mod protocol;
mod r_precision;
mod statistics;

pub use diversity::{Diversity, PairDistances, diversity};
pub use features::{Collector, Features};
pub use frechet::{FrechetDistance, frechet_distance};
pub use inception_score::{InceptionScore, inception_score};
pub use kernel::{KernelDistance, Subsets, kernel_distance};
pub use metric::Metric;
pub use moments::Moments;
pub use monge::{MongeDistance, monge_distance};
pub use nearest::{Neighbor, nearest};
pub use precision_recall::{PrecisionRecall, precision_recall};
pub use r_precision::{RPrecision, Top, most_candidates, r_precision};
pub use statistics::Statistics;
