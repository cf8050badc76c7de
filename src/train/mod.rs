//! Training: three phases one after the other, each from its newest checkpoint or from the start.
//!
//! ```text
//! images + captions ──► damsm      text encoder, image encoder: one space
//!                  ├──► captioner  image → caption                 (where λ_captioner is not 0)
//!                  └──► gan        caption → images, with both of the above and the discriminators
//! ```
//!
//! `plan` decides which steps a call takes of a phase; `session` takes them, the same loop for all; a `PhaseTrainer`
//! computes a step, saves and restores.

mod captioner;
mod collapse;
mod damsm;
mod gan;
mod initial;
mod journal;
mod log;
mod phase;
mod plan;
mod session;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use self::session::Session;
use crate::config::{Config, require_weights};
use crate::data::{Dataset, Vocabulary};
use crate::engine::tensor::set_precision;
use crate::error::Result;
use crate::mirrorgan::losses::Loss;
use crate::run::{Call, Checkpoint, Checkpoints, Phase, Record, RunFolder};

/// What to train, on what, and where to write it.
pub struct TrainJob {
    pub config: Config,
    pub dataset: Dataset,
    /// Where the data set lies.
    pub record: Record,
    /// A folder from [`RunFolder::lock`].
    pub run: RunFolder,
    /// In order; [`required_phases`] gives all that a configuration needs.
    pub phases: Vec<Phase>,
    /// Go on with a phase that is not finished.
    pub resume: bool,
    /// The run whose weights every phase begins with.
    pub from: Option<PathBuf>,
    pub limit: Option<Limit>,
    pub deadline: Option<Instant>,
    /// A folder for the first batch and the first noise of each phase, for comparisons with other programs.
    pub dump: Option<PathBuf>,
    /// Lines for the user, where there is something to do.
    pub notes: Vec<String>,
    /// The command that goes on with this run, as messages show it.
    pub resume_command: String,
    /// Comment lines on top of the written configuration.
    pub header: String,
    /// What the log of calls says of this one.
    pub call: Call,
    /// Set it to save and stop.
    pub stop: Arc<AtomicBool>,
}

/// Where a call stops each phase, if it does not end before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Steps(u64),
    Epochs(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Saved at the limit of the call: each phase that is not finished, with its step and its last one.
    AtLimit(Vec<(Phase, u64, u64)>),
    /// Saved before the end; `--resume` goes on.
    Stopped {
        phase: Phase,
        step: u64,
        reason: StopReason,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Interrupted,
    TimeIsUp,
}

/// Shows how training goes.
pub trait Progress {
    /// A phase begins with `from` of `to` steps taken. The later phases are as much work as `beyond` steps of this one.
    fn begin(&mut self, phase: Phase, from: u64, to: u64, beyond: f64);
    /// Step number `step`, of `images` images, is taken; `losses` are those read last.
    fn step(&mut self, step: u64, epoch: u64, images: usize, losses: &[Loss]);
    /// The finished phase is measured on `total` images.
    fn begin_evaluation(&mut self, total: usize);
    fn evaluated(&mut self, done: usize);
    /// The steps, or the evaluation, are over.
    fn end(&mut self);
    /// A line for the user.
    fn note(&mut self, line: &str);
}

/// The phases whose results the generator of this configuration needs, and the generator's.
pub fn required_phases(config: &Config) -> Vec<Phase> {
    let required = |phase: &Phase| *phase != Phase::Captioner || config.loss.lambda_captioner > 0.0;
    Phase::ALL.into_iter().filter(required).collect()
}

/// Whether a generator of this run is finished.
pub fn is_ready(run: &Path) -> Result<bool> {
    Ok(Checkpoints::of(run, Phase::Gan).latest()?.is_some_and(|checkpoint| checkpoint.state.finished))
}

/// Trains; writes nothing where nothing is to be done, or before the whole call is found to make sense.
pub fn train(mut job: TrainJob, progress: &mut dyn Progress) -> Result<Outcome> {
    check(&job)?;
    if job.run.is_begun() {
        job.call.changes = job.run.changes(&job.config, &job.dataset.vocabulary, &job.record)?;
    }
    set_precision(job.config.run.precision)?;
    let mut session = Session::new(&job);
    let outcome = session.run(progress);
    session.end(&outcome, progress)?;
    outcome
}

/// The checkpoint of another run that a phase begins with, and the words of that run.
fn initial(job: &TrainJob, phase: Phase) -> Result<Option<(Checkpoint, Vocabulary)>> {
    let Some(from) = &job.from else { return Ok(None) };
    let run = RunFolder::open(from)?;
    let checkpoint = Checkpoints::of(from, phase).latest()?;
    checkpoint.map(|checkpoint| Ok((checkpoint, run.vocabulary()?))).transpose()
}

/// Finds before the first step what would fail only hours later.
fn check(job: &TrainJob) -> Result<()> {
    let config = &job.config;
    for &phase in &job.phases {
        job.dataset.require_trainable(&phase.batch_key(), phase.schedule(config).batch)?;
        let begins =
            Checkpoints::of(job.run.root(), phase).latest()?.is_none() && initial(job, phase)?.is_none();
        match phase {
            Phase::Damsm if begins => require_weights("damsm", &config.damsm.backbone)?,
            Phase::Captioner => {
                config.check_captioner()?;
                if begins {
                    require_weights("captioner", &config.captioner.network.backbone)?;
                }
            }
            Phase::Damsm | Phase::Gan => {}
        }
    }
    Ok(())
}
