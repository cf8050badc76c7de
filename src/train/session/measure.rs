//! Measures networks on held-out images: as a phase goes on, and when it is over.

use super::super::collapse::DIVERSITY;
use super::super::journal::Journal;
use super::super::phase::{Evaluation, Followed, PhaseTrainer};
use super::super::plan::{METRICS, Span};
use super::super::{Progress, StopReason};
use super::Session;
use crate::data::Skip;
use crate::error::Result;
use crate::eval::Metric;
use crate::files::atomic;
use crate::infer::features::Watch;
use crate::run::{Best, Phase};

impl Session<'_> {
    /// Losses and metrics on held-out images as a phase goes on: shown and logged. The followed one where it is the best so far.
    pub(super) fn measure(
        &mut self,
        phase: Phase,
        step: u64,
        trainer: &mut dyn PhaseTrainer,
        log: &mut Journal,
        progress: &mut dyn Progress,
    ) -> Result<Option<Best>> {
        if self.job.dataset.test.is_empty() {
            return Ok(None);
        }
        let mut watcher = Watcher { session: self, progress, bar: Bar::None };
        let Some(values) = trainer.measure(&mut watcher)?.filter(|values| !values.is_empty()) else {
            return Ok(None);
        };
        let Followed { name: followed, higher_is_better } = trainer.followed();
        let value = values.iter().find(|(name, _)| name == followed).map(|(_, value)| f64::from(*value));
        let before = self.checkpoints(phase).best().filter(|best| best.metric == followed);
        let better = |value: f64, best: f64| if higher_is_better { value > best } else { value < best };
        let best = value.filter(|&value| before.as_ref().is_none_or(|best| better(value, best.value)));
        let shown: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        let mark = if best.is_some() { " (the best so far)" } else { "" };
        progress.note(&format!("{} step {step}: {}{mark}", phase.name(), shown.join(", ")));
        let diversity = values.iter().find(|(name, _)| name == DIVERSITY).map(|(_, value)| f64::from(*value));
        if let Some(sentence) = diversity.and_then(|share| self.collapse.diversity(share)) {
            progress.note(&format!("note: {sentence}"));
        }
        let tagged = |(name, value): (String, f32)| (format!("metric/{name}"), f64::from(value));
        log.scalars(step, &values.into_iter().map(tagged).collect::<Vec<_>>())?;
        Ok(best.map(|value| Best { step, metric: followed.to_string(), value }))
    }

    /// The metric of a finished phase: shown, logged, and written beside its checkpoints. Why it was stopped before.
    pub(super) fn evaluate(
        &self,
        span: &Span,
        trainer: &mut dyn PhaseTrainer,
        progress: &mut dyn Progress,
    ) -> Result<Option<StopReason>> {
        let name = span.phase.name();
        let evaluation = match self.job.dataset.test.is_empty() {
            true => Evaluation::None("no metric: the data set holds no images out for testing".to_string()),
            false => {
                let evaluation = trainer.evaluate(&mut Watcher { session: self, progress, bar: Bar::Due });
                progress.end();
                evaluation?
            }
        };
        let (metric, value) = match evaluation {
            Evaluation::Interrupted => {
                return Ok(Some(self.stop_reason().unwrap_or(StopReason::Interrupted)));
            }
            Evaluation::None(why) => {
                progress.note(&format!("note: {name}: {why}"));
                ("why".to_string(), serde_json::json!(why))
            }
            Evaluation::Metric(Metric { name: metric, value, message }) => {
                progress.note(&format!("{name}: {message}"));
                // The phase is over: nothing is trained again that readers had to drop.
                let mut log = Journal::open(&self.log_folder(span.phase), span.to)?;
                log.scalars(span.to, &[(format!("metric/{metric}"), f64::from(value))])?;
                (metric, serde_json::json!(value))
            }
        };
        let path = span.phase.folder(self.job.run.root()).join(METRICS);
        let json = serde_json::json!({ "step": span.to, metric: value }).to_string();
        atomic::write(path, json.as_bytes())?;
        Ok(None)
    }
}

/// Shows an evaluation, and ends it where the call is to stop.
struct Watcher<'s> {
    session: &'s Session<'s>,
    progress: &'s mut dyn Progress,
    bar: Bar,
}

/// The bar of an evaluation.
#[derive(PartialEq)]
enum Bar {
    /// It is in the middle of a phase, whose own bar is shown.
    None,
    Due,
    Shown,
}

impl Watch for Watcher<'_> {
    fn seen(&mut self, done: usize, total: usize) -> bool {
        if self.bar == Bar::Due {
            self.progress.begin_evaluation(total);
            self.bar = Bar::Shown;
        }
        if self.bar == Bar::Shown {
            self.progress.evaluated(done);
        }
        self.session.stop_reason().is_none()
    }

    fn skipped(&mut self, skip: &Skip) {
        self.session.name_broken(skip, self.progress);
    }
}
