//! Which steps a call takes of a phase.

use super::{Limit, TrainJob};
use crate::error::{Error, Result};
use crate::run::{Checkpoint, Checkpoints, Phase, State};

/// What a call does with a phase.
pub(super) enum Plan {
    /// Nothing; the line says why.
    Kept(String),
    /// Nothing, as the phase is at the limit of the call already.
    AtLimit {
        step: u64,
        last: u64,
    },
    /// Measures a finished phase whose evaluation was interrupted.
    Evaluate(Span),
    Steps(Span),
}

/// The steps that a call takes of a phase.
pub(super) struct Span {
    pub phase: Phase,
    pub from: u64,
    pub to: u64,
    /// The last step of the phase, where `to` is a limit before it.
    pub last: u64,
    pub resumed: Option<Checkpoint>,
    /// Why there are checkpoints that cannot be gone on with.
    pub begins_again: Option<String>,
}

impl Span {
    /// The name of a step in a profile and in errors.
    pub fn label(&self, step: u64) -> String {
        format!("{} step {step}", self.phase.name())
    }

    /// Whether its last step ends the phase.
    pub fn finishes(&self) -> bool {
        self.to == self.last
    }
}

/// Decides what to do with `phase`, after the phases before it are trained.
pub(super) fn plan(job: &TrainJob, phase: Phase) -> Result<Plan> {
    let items = job.dataset.train.len();
    let last = phase.schedule(&job.config).last_step(items);
    let batch = phase.schedule(&job.config).batch;
    let to = last.min(match job.limit {
        Some(Limit::Steps(steps)) => steps,
        Some(Limit::Epochs(epochs)) => epochs.saturating_mul((items / batch) as u64),
        None => last,
    });
    let fresh = Span { phase, from: 0, to, last, resumed: None, begins_again: None };
    let Some(checkpoint) = Checkpoints::of(job.run.root(), phase).latest()? else {
        return Ok(Plan::Steps(fresh));
    };
    let name = phase.name();
    let State { step, finished, imported, .. } = checkpoint.state;
    if imported && !(job.resume && job.phases == [phase]) {
        let why = format!("{name}: imported, kept (--resume with --phase {name} trains it further)");
        return Ok(Plan::Kept(why));
    }
    if finished && (step >= last || !job.resume) {
        if job.resume && !is_evaluated(job, phase, step) {
            let span = Span { from: step, to: step, last: step, resumed: Some(checkpoint), ..fresh };
            return Ok(Plan::Evaluate(span));
        }
        let more = if step < last { format!(" (--resume goes on to {last})") } else { String::new() };
        return Ok(Plan::Kept(format!("{name}: finished at step {step}, kept{more}")));
    }
    if !job.resume {
        let resume = &job.resume_command;
        let why = format!(
            "the {name} phase stopped at step {step} of {last}; go on with: {resume}, or take another --out"
        );
        return Err(Error::data(job.run.root(), why));
    }
    if let Some(why) = outdated(job, &checkpoint)? {
        return Ok(Plan::Steps(Span { begins_again: Some(why), ..fresh }));
    }
    if step >= to && to < last {
        return Ok(Plan::AtLimit { step, last });
    }
    refuse_later_phases(job, phase, step)?;
    Ok(Plan::Steps(Span {
        from: step,
        to: to.max(step),
        last: last.max(step),
        resumed: Some(checkpoint),
        ..fresh
    }))
}

/// Whether the metric of the finished phase was measured at `step`.
fn is_evaluated(job: &TrainJob, phase: Phase, step: u64) -> bool {
    let folder = phase.folder(job.run.root());
    // Version 0.1.0 called them figures.
    let text = std::fs::read(folder.join(METRICS)).or_else(|_| std::fs::read(folder.join("figures.json")));
    let text = text.unwrap_or_default();
    let metrics: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    metrics["step"] == step
}

/// The metrics of a finished phase, beside its checkpoints.
pub(super) const METRICS: &str = "metrics.json";

/// Why an unfinished checkpoint is of no use any more: a phase that it builds on has been trained further.
fn outdated(job: &TrainJob, checkpoint: &Checkpoint) -> Result<Option<String>> {
    for (&phase, &step) in &checkpoint.state.after {
        let now = Checkpoints::of(job.run.root(), phase).latest()?.map(|now| now.state.step);
        if now != Some(step) && !checkpoint.state.finished {
            let (own, name) = (checkpoint.state.phase.name(), phase.name());
            let now = now.map_or("gone".to_string(), |now| format!("at step {now}"));
            return Ok(Some(format!(
                "{own}: begins again: it was trained with {name} at step {step}, which is {now} now"
            )));
        }
    }
    Ok(None)
}

/// Refuses to train a phase further that a finished later phase was trained with.
fn refuse_later_phases(job: &TrainJob, phase: Phase, step: u64) -> Result<()> {
    let run = job.run.root();
    for later in [Phase::Gan].into_iter().filter(|&later| later > phase) {
        let Some(checkpoint) = Checkpoints::of(run, later).latest()? else { continue };
        if checkpoint.state.finished && checkpoint.state.after.get(&phase) == Some(&step) {
            let (name, later) = (phase.name(), later.name());
            let folder = run.join(later);
            let why = format!(
                "the {later} phase is finished and was trained with {name} at step {step}; training {name} further makes \
                 it useless: take another --out, or remove {}",
                folder.display()
            );
            return Err(Error::data(run, why));
        }
    }
    Ok(())
}
