//! Metrics by the names that people ask for them.

use crate::error::{Error, Result};
use crate::eval::protocol::{Measure, Protocol};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricName {
    Fid,
    Kid,
    Is,
    PrecisionRecall,
    Mind,
    Diversity,
    RPrecision,
    Caption,
}

/// The metrics of an evaluation.
#[derive(Clone, Debug)]
pub struct Metrics {
    names: Vec<MetricName>,
    /// Whether they were asked for by name: then each is computed, or an error says why it cannot be.
    pub asked: bool,
}

impl MetricName {
    pub const ALL: [MetricName; 8] = [
        MetricName::Fid,
        MetricName::Kid,
        MetricName::Is,
        MetricName::PrecisionRecall,
        MetricName::Mind,
        MetricName::Diversity,
        MetricName::RPrecision,
        MetricName::Caption,
    ];

    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricName::Fid => "fid",
            MetricName::Kid => "kid",
            MetricName::Is => "is",
            MetricName::PrecisionRecall => "precision-recall",
            MetricName::Mind => "mind",
            MetricName::Diversity => "diversity",
            MetricName::RPrecision => "r-precision",
            MetricName::Caption => "caption",
        }
    }

    pub fn parse(name: &str) -> Option<MetricName> {
        MetricName::ALL.into_iter().find(|metric| metric.as_str() == name)
    }

    /// What of it a protocol may define.
    fn measure(self) -> Measure {
        match self {
            MetricName::Fid => Measure::FrechetDistance,
            MetricName::Kid => Measure::SquaredMmd,
            MetricName::Is => Measure::InceptionScore,
            MetricName::PrecisionRecall => Measure::Precision,
            MetricName::Mind => Measure::Mind,
            MetricName::Diversity => Measure::Diversity,
            MetricName::RPrecision => Measure::RPrecision { top: 1 },
            MetricName::Caption => Measure::CaptionCrossEntropy,
        }
    }

    /// Whether it compares with features of real pictures; for a Fréchet distance their statistics will do.
    pub(super) fn compares(self) -> bool {
        matches!(self, MetricName::Fid | MetricName::Kid | MetricName::PrecisionRecall | MetricName::Mind)
    }
}

impl Metrics {
    /// Those that are asked for, or all that the protocol defines.
    ///
    /// # Errors
    /// `Config` where the protocol does not define one that is asked for.
    pub fn of(protocol: &Protocol, asked: Option<&[MetricName]>) -> Result<Metrics> {
        let define = |metric: MetricName| protocol.figure(metric.measure(), None);
        let Some(asked) = asked else {
            let names = MetricName::ALL.into_iter().filter(|metric| define(*metric).is_ok()).collect();
            return Ok(Metrics { names, asked: false });
        };
        for metric in asked {
            define(*metric).map_err(|why| Error::config(format!("--metrics {}", metric.as_str()), why))?;
        }
        let names = MetricName::ALL.into_iter().filter(|metric| asked.contains(metric)).collect();
        Ok(Metrics { names, asked: true })
    }

    pub fn names(&self) -> &[MetricName] {
        &self.names
    }

    pub(super) fn has(&self, metric: MetricName) -> bool {
        self.names.contains(&metric)
    }

    /// Leaves one out that cannot be computed.
    ///
    /// # Errors
    /// `Config` where it was asked for.
    pub(super) fn leave_out(&mut self, metric: MetricName, why: String) -> Result<String> {
        if self.asked {
            return Err(Error::config(format!("--metrics {}", metric.as_str()), why));
        }
        self.names.retain(|name| *name != metric);
        Ok(format!("note: no {}: {why}", metric.as_str()))
    }
}
