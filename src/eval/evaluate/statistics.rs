//! The real side of an evaluation in a file, computed once.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::eval::protocol::{Crop, Protocol, Real};
use crate::eval::{Features, Moments, Statistics};
use crate::files::Origin;
use crate::infer::evaluator::{Evaluator, UsedWeights};

/// What statistics are of, as their file keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub protocol: Protocol,
    pub weights: UsedWeights,
    /// The data set and its split, or the folder of pictures.
    pub data: String,
}

/// Statistics that were read from a file.
pub struct RealSide {
    statistics: Statistics,
    source: Option<Source>,
    file: Origin,
}

impl Source {
    /// Writes the statistics of features.
    ///
    /// # Errors
    /// `Metric` where there are fewer than two pictures; `Io` where the file cannot be written.
    pub fn write(&self, features: &Features, file: &Path) -> Result<()> {
        let protocol = serde_json::to_value(self).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        Statistics { moments: Moments::of(features)?, protocol: Some(protocol) }.write(file)
    }
}

impl RealSide {
    /// Reads a file of `engine eval stats`, or one that pytorch-fid or clean-fid wrote.
    ///
    /// # Errors
    /// Those of [`Statistics::read`]; `Data` where the file was computed by another protocol or other weights.
    pub(super) fn read(file: &Path, protocol: &Protocol, evaluator: &Evaluator) -> Result<RealSide> {
        let statistics = Statistics::read(file, Some(evaluator.width()))?;
        let damaged = |e| Error::data(file, format!("its description is damaged ({e}); compute it again"));
        let source: Option<Source> =
            statistics.protocol.clone().map(serde_json::from_value).transpose().map_err(damaged)?;
        if let Some(source) = &source {
            source.require(file, protocol, evaluator.weights())?;
        }
        Ok(RealSide { statistics, source, file: Origin::read(file)? })
    }

    pub(super) fn moments(&self) -> &Moments {
        &self.statistics.moments
    }

    pub(super) fn images(&self) -> Option<usize> {
        self.statistics.moments.images
    }

    /// Which pictures they are of, where the file says so.
    pub(super) fn real(&self) -> Option<Real> {
        self.source.as_ref().map(|source| source.protocol.real)
    }

    /// For the conditions of an evaluation.
    pub(super) fn describe(&self) -> String {
        let Origin { file, sha256, .. } = &self.file;
        let of = match &self.source {
            None => "by another program, which does not say how they were computed".to_string(),
            Some(Source { data, .. }) => format!("of {data}"),
        };
        format!("{file}, sha256 {sha256}, {of}")
    }
}

impl Source {
    fn require(&self, file: &Path, protocol: &Protocol, weights: &UsedWeights) -> Result<()> {
        /// What statistics of real pictures depend on.
        const LINES: [&str; 6] =
            ["network", "pools", "published weights", "resize", "normalization", "real pictures"];
        let differences = self.protocol.differences(protocol);
        let counts = |line: &str| {
            LINES.contains(&line) && !(line == "real pictures" && self.protocol.real.crop == Crop::AsTheyAre)
        };
        if let Some(difference) = differences.iter().find(|difference| counts(&difference.line)) {
            let why = format!(
                "computed by the protocol {}, not {} ({difference}); compute them again: engine eval stats --protocol {}",
                self.protocol.name.as_str(),
                protocol.name.as_str(),
                protocol.name.as_str()
            );
            return Err(Error::data(file, why));
        }
        if self.weights.sha256 != weights.sha256 {
            let why = format!(
                "computed with other weights ({}) than those that evaluate now ({weights}); compute them again",
                self.weights
            );
            return Err(Error::data(file, why));
        }
        Ok(())
    }
}
