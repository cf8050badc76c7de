//! From features to figures.

use super::Watch;
use super::metrics::{MetricName, Metrics};
use super::plan::Plan;
use super::statistics::RealSide;
use super::table::Table;
use crate::error::{Error, Result};
use crate::eval::protocol::{Evaluation, Measure, PolynomialMmd, Protocol, SubsetSize};
use crate::eval::{
    Features, Moments, Subsets, diversity, frechet_distance, inception_score, kernel_distance,
    monge_distance, precision_recall, r_precision,
};

/// What figures are computed of.
pub(super) struct Sets<'a> {
    pub protocol: &'a Protocol,
    /// What the generated pictures are of; none of those of a folder, whose protocol has no figure that asks for it.
    pub plan: Option<&'a Plan<'a>>,
    pub real: Option<Features>,
    pub statistics: Option<RealSide>,
    pub generated: Table,
    pub diverse: Option<Table>,
    pub own_codes: bool,
}

/// A figure: what was measured, its value and deviation.
type Value = (Measure, f64, Option<f64>);

/// Figures of a metric, and what to tell of them.
type Scored = (Vec<Value>, Vec<String>);

impl Sets<'_> {
    /// Adds the figures of all metrics. Where they were not asked for by name, a note says which cannot be computed.
    pub(super) fn score(
        mut self,
        evaluation: &mut Evaluation,
        metrics: &Metrics,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let mut column = |name| self.generated.take(name);
        let needed = || Error::data("evaluation", "rows of pictures are missing; remove RUN/eval/.partial-*");
        let features = column("features")?.ok_or_else(needed)?;
        let [logits, codes, sentences, caption] = ["logits", "codes", "sentences", "caption"].map(column);
        let (logits, codes, sentences, caption) = (logits?, codes?, sentences?, caption?);
        let diverse = self.diverse.as_mut().map(|table| table.take("features")).transpose()?.flatten();
        let codes = if self.own_codes { Some(&features) } else { codes.as_ref() };
        for &metric in metrics.names() {
            let scored = match (metric, &self.real) {
                (MetricName::Fid, real) => self.fid(&features, real.as_ref()),
                (MetricName::Kid, Some(real)) => self.kid(&features, real),
                (MetricName::PrecisionRecall, Some(real)) => self.precision_recall(&features, real),
                (MetricName::Mind, Some(real)) => self.mind(&features, real),
                (MetricName::Is, _) => self.inception(logits.as_ref().ok_or_else(needed)?),
                (MetricName::Diversity, _) => {
                    diversity_of(diverse.as_ref().ok_or_else(needed)?, self.plan.ok_or_else(needed)?)
                }
                (MetricName::RPrecision, _) => {
                    let sentences = sentences.as_ref().ok_or_else(needed)?;
                    r_precision_of(codes.ok_or_else(needed)?, sentences, self.plan.ok_or_else(needed)?)
                }
                (MetricName::Caption, _) => Ok(cross_entropy(caption.as_ref().ok_or_else(needed)?)),
                (_, None) => Err(needed()),
            };
            match scored {
                Ok((values, warnings)) => {
                    for (measure, value, deviation) in values {
                        let added = evaluation.add(measure, value, deviation);
                        added.map_err(|why| Error::config(format!("--metrics {}", metric.as_str()), why))?;
                    }
                    let lines =
                        warnings.iter().map(|warning| format!("warning: {}: {warning}", metric.as_str()));
                    lines.for_each(|line| watch.note(&line));
                }
                Err(error) if metrics.asked => return Err(error),
                Err(error) => watch.note(&format!("note: no {}: {error}", metric.as_str())),
            }
        }
        Ok(())
    }

    fn fid(&self, features: &Features, real: Option<&Features>) -> Result<Scored> {
        let generated = Moments::of(features)?;
        let distance = match (&self.statistics, real) {
            (Some(real), _) => frechet_distance(&generated, real.moments())?,
            (None, Some(real)) => frechet_distance(&generated, &Moments::of(real)?)?,
            (None, None) => return Err(Error::metric("Fréchet distance", "there are no real pictures")),
        };
        Ok((vec![(Measure::FrechetDistance, distance.value, None)], distance.warnings))
    }

    fn kid(&self, features: &Features, real: &Features) -> Result<Scored> {
        let Some(PolynomialMmd { subsets: count, size, seed }) = self.protocol.kernel else {
            return Ok(Scored::default());
        };
        let subsets = match size {
            SubsetSize::All => Subsets::All,
            SubsetSize::Exactly(size) => Subsets::Drawn { count, size, seed },
            SubsetSize::AtMost(size) => {
                Subsets::Drawn { count, size: size.min(features.len()).min(real.len()), seed }
            }
        };
        let distance = kernel_distance(features, real, subsets)?;
        let deviation = (subsets != Subsets::All).then_some(distance.deviation);
        Ok((vec![(Measure::SquaredMmd, distance.value, deviation)], distance.warnings))
    }

    fn precision_recall(&self, features: &Features, real: &Features) -> Result<Scored> {
        let Some(k) = self.protocol.neighbors else { return Ok(Scored::default()) };
        let both = precision_recall(features, real, k)?;
        let values = vec![(Measure::Precision, both.precision, None), (Measure::Recall, both.recall, None)];
        Ok((values, both.warnings))
    }

    fn mind(&self, features: &Features, real: &Features) -> Result<Scored> {
        let Some(directions) = self.protocol.directions else { return Ok(Scored::default()) };
        let distance = monge_distance(features, real, directions, self.protocol.seed)?;
        Ok((vec![(Measure::Mind, distance.value, Some(distance.error))], distance.warnings))
    }

    fn inception(&self, logits: &Features) -> Result<Scored> {
        let Some(score) = self.protocol.inception_score else { return Ok(Scored::default()) };
        let score = inception_score(logits, score.splits, score.shuffle)?;
        Ok((vec![(Measure::InceptionScore, score.value, Some(score.deviation))], score.warnings))
    }
}

fn diversity_of(features: &Features, plan: &Plan) -> Result<Scored> {
    let groups: Vec<u64> = (0..features.len()).map(|number| plan.group(number)).collect();
    let diversity = diversity(features, &groups)?;
    let values = vec![(Measure::Diversity, diversity.within.euclidean, Some(diversity.deviation))];
    Ok((values, diversity.warnings))
}

fn r_precision_of(codes: &Features, sentences: &Features, plan: &Plan) -> Result<Scored> {
    let classes: Vec<i32> = (0..codes.len()).map(|number| plan.class(number)).collect();
    let protocol = &plan.protocol;
    let (candidates, folds) = (protocol.r_precision.candidates, protocol.r_precision.folds);
    let found = r_precision(codes, sentences, &classes, candidates, folds, protocol.seed)?;
    let value = |top: crate::eval::Top| (Measure::RPrecision { top: top.k }, top.value, Some(top.deviation));
    Ok((found.top.into_iter().filter(|top| top.k < candidates).map(value).collect(), found.warnings))
}

/// The mean over all words.
fn cross_entropy(losses: &Features) -> Scored {
    let sum = |at: usize| (0..losses.len()).map(|row| f64::from(losses.row(row)[at])).sum::<f64>();
    (vec![(Measure::CaptionCrossEntropy, sum(0) / sum(1), None)], Vec::new())
}
