//! Training: three stages one after the other, each from its newest checkpoint or from the start.
//!
//! ```text
//! pictures + captions ──► damsm   text encoder, image encoder: one space
//!                    ├──► stream  picture → caption                (where λ_stream is not 0)
//!                    └──► gan     caption → pictures, by both of the above and the discriminators
//! ```
//!
//! The loop is the same for all; a stage knows how to take a step, to save itself and to go on.

mod captioner;
mod damsm;
mod gan;
mod log;
mod phase;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::log::EventLog;
use self::phase::{PhaseTrainer, Position};
use crate::config::Config;
use crate::data::{Dataset, Loader, save_png};
use crate::engine::tensor::{live_bytes, range, set_precision};
use crate::error::{Error, Result, caught};
use crate::eval::Metric;
use crate::files::atomic;
use crate::run::{Checkpoint, Checkpoints, Context, Inputs, Phase, RunFolder, State};

/// What to train, on what, and where to leave it.
pub struct TrainJob {
    pub config: Config,
    pub dataset: Dataset,
    pub out: PathBuf,
    /// In order; [`wanted`] gives all that a configuration needs.
    pub stages: Vec<Phase>,
    /// Go on with a stage that is not finished.
    pub resume: bool,
    pub time_limit: Option<Duration>,
    /// Comment lines on top of the written configuration.
    pub header: String,
    /// Set to save and leave.
    pub stop: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// Saved before the end; `--resume` goes on.
    Left {
        stage: Phase,
        step: u64,
        why: StopReason,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Interrupted,
    TimeIsUp,
}

/// Whoever shows how training goes.
pub trait Progress {
    /// A stage begins with `from` of `to` steps taken.
    fn begin(&mut self, stage: Phase, from: u64, to: u64);
    /// A step of `images` pictures was taken, which makes `step`.
    fn step(&mut self, step: u64, epoch: u64, images: usize, terms: &[(String, f32)]);
    fn end(&mut self);
    /// Something worth a line.
    fn note(&mut self, line: &str);
}

/// The stages whose results the generator of this configuration needs, and the generator's.
pub fn wanted(config: &Config) -> Vec<Phase> {
    let all = [Phase::Damsm, Phase::Captioner, Phase::Gan];
    all.into_iter().filter(|&kind| kind != Phase::Captioner || config.gan.lambda_stream > 0.0).collect()
}

pub fn train(job: TrainJob, progress: &mut dyn Progress) -> Result<Outcome> {
    check(&job)?;
    set_precision(job.config.train.precision)?;
    let run = RunFolder::prepare(&job.out, &job.config, &job.dataset.vocabulary, &job.header)?;
    let session =
        Session { run: &run, deadline: job.time_limit.map(|limit| Instant::now() + limit), job: &job };
    for &kind in &job.stages {
        if let Some((step, why)) = session.stage(kind, progress)? {
            return Ok(Outcome::Left { stage: kind, step, why });
        }
    }
    Ok(Outcome::Finished)
}

/// What would fail only hours later is asked first.
fn check(job: &TrainJob) -> Result<()> {
    let config = &job.config;
    for &kind in &job.stages {
        let (batch, items) = (kind.length(config).0, job.dataset.train.len());
        if batch > items {
            let why = format!(
                "a batch of {batch} is larger than the data set of {items} training pictures; set it to {items} or less"
            );
            return Err(Error::config(kind.batch_key(), why));
        }
        match kind {
            Phase::Damsm => drop(config.damsm.backbone()?),
            Phase::Captioner => drop(config.stream.network()?),
            Phase::Gan => {}
        }
    }
    Ok(())
}

/// One call of [`train`].
struct Session<'a> {
    job: &'a TrainJob,
    run: &'a RunFolder,
    deadline: Option<Instant>,
}

/// A stage from one step to another.
struct PhaseSpan {
    kind: Phase,
    from: u64,
    to: u64,
    resumed: Option<Checkpoint>,
}

impl Session<'_> {
    /// Trains one stage, if it needs it; says where and why it left before the end.
    fn stage(&self, kind: Phase, progress: &mut dyn Progress) -> Result<Option<(u64, StopReason)>> {
        let Some(span) = self.span(kind, progress)? else { return Ok(None) };
        let context = self.context();
        let mut stage: Box<dyn PhaseTrainer + '_> = match kind {
            Phase::Damsm => Box::new(damsm::Damsm::new(&context)?),
            Phase::Captioner => Box::new(captioner::CaptionerPhase::new(&context)?),
            Phase::Gan => Box::new(gan::Gan::new(&context)?),
        };
        if let Some(checkpoint) = &span.resumed {
            stage.load(&checkpoint.folder)?;
        }
        progress.begin(kind, span.from, span.to);
        let left = self.steps(&span, stage.as_mut(), progress);
        progress.end();
        let left = left?;
        if left.is_none() {
            self.judge(&span, stage.as_mut(), progress)?;
        }
        Ok(left)
    }

    fn context(&self) -> Context<'_> {
        Context { config: &self.job.config, dataset: &self.job.dataset, run: self.run.root() }
    }

    /// What is to be done in a stage; nothing where it is finished.
    fn span(&self, kind: Phase, progress: &mut dyn Progress) -> Result<Option<PhaseSpan>> {
        let (name, to) = (kind.name(), self.last_step(kind));
        let Some(checkpoint) = Checkpoints::of(self.run.root(), name).latest()? else {
            return Ok(Some(PhaseSpan { kind, from: 0, to, resumed: None }));
        };
        let State { step, finished, .. } = checkpoint.state;
        if finished && (step >= to || !self.job.resume) {
            let more = if step < to { format!(" (--resume goes on to {to})") } else { String::new() };
            progress.note(&format!("{name}: finished at step {step}, kept{more}"));
            return Ok(None);
        }
        if !self.job.resume {
            let why = format!(
                "the {name} stage stopped at step {step} of {to}; go on with --resume, or take another --out"
            );
            return Err(Error::data(self.run.root(), why));
        }
        progress.note(&format!("{name}: goes on from step {step}"));
        Ok(Some(PhaseSpan { kind, from: step, to: to.max(step), resumed: Some(checkpoint) }))
    }

    fn last_step(&self, kind: Phase) -> u64 {
        let (batch, steps, epochs) = kind.length(&self.job.config);
        let an_epoch = (self.job.dataset.train.len() / batch) as u64;
        if steps > 0 { steps } else { epochs * an_epoch }
    }

    fn steps(
        &self,
        span: &PhaseSpan,
        stage: &mut dyn PhaseTrainer,
        progress: &mut dyn Progress,
    ) -> Result<Option<(u64, StopReason)>> {
        let train = &self.job.config.train;
        let config = self.context().loader(span.kind);
        let sizes = config.sizes.clone();
        let mut loader = Loader::new(Arc::new(self.job.dataset.train.clone()), config, span.from)?;
        let mut log = EventLog::create(&self.run.root().join("logs").join(span.kind.name()))?;
        let mut saved = span.resumed.as_ref().map(|c| c.folder.clone());
        if span.from == span.to {
            // Asked for no more steps than were taken: what is there is the result.
            let epoch = span.resumed.as_ref().map_or(0, |c| c.state.epoch);
            self.save(span.kind, span.to, epoch, true, stage)?;
        }
        for step in span.from..span.to {
            let batch = loader.next_batch()?;
            for skip in &batch.skipped {
                progress.note(&format!("skipped {}: {}", skip.file.display(), skip.why));
            }
            let (at, inputs) = (Position { step, epoch: batch.epoch }, Inputs::new(batch, &sizes));
            let held = live_bytes();
            let terms = range(format!("{} step {}", span.kind.name(), step + 1), || {
                caught(|| stage.step(at, &inputs))
            })
            .map_err(|error| what_might_fit(error, held, span.kind, inputs.count()))?;
            let (done, last) = (step + 1, step + 1 == span.to);
            require_finite(done, &terms, saved.as_deref())?;
            progress.step(done, at.epoch, inputs.count(), &terms);

            let due = |every: u64| last || done.is_multiple_of(every);
            if due(train.log_every) {
                log.scalars(done, &terms)?;
            }
            if due(train.sample_every) {
                self.paint(done, stage, &mut log)?;
            }
            let leave = if last { None } else { self.leave() };
            if due(train.checkpoint_every) || leave.is_some() {
                saved = Some(self.save(span.kind, done, at.epoch, last, stage)?);
            }
            if let Some(why) = leave {
                return Ok(Some((done, why)));
            }
        }
        Ok(None)
    }

    fn leave(&self) -> Option<StopReason> {
        if self.job.stop.load(Ordering::Relaxed) {
            return Some(StopReason::Interrupted);
        }
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline).then_some(StopReason::TimeIsUp)
    }

    fn save(
        &self,
        kind: Phase,
        step: u64,
        epoch: u64,
        finished: bool,
        stage: &mut dyn PhaseTrainer,
    ) -> Result<PathBuf> {
        let seed = self.job.config.train.seed;
        let state = State { stage: kind.name().to_string(), step, epoch, seed, finished };
        Checkpoints::of(self.run.root(), kind.name()).save(&state, |folder| stage.save(folder))
    }

    /// A sample grid into the run's folder and to TensorBoard.
    fn paint(&self, step: u64, stage: &mut dyn PhaseTrainer, log: &mut EventLog) -> Result<()> {
        let Some(table) = stage.paint() else { return Ok(()) };
        let folder = self.run.root().join("samples");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let path = folder.join(format!("step-{step:06}.png"));
        let legend = stage.captions().join("\n") + "\n";
        atomic::write(folder.join("captions.txt"), legend.as_bytes())?;
        save_png(&path, table.width, table.height, &table.pixels)?;
        let png = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        log.image(step, "samples", [table.width, table.height], &png)
    }

    /// The figure that a finished stage is judged by: told, logged, and written beside its checkpoints.
    fn judge(
        &self,
        span: &PhaseSpan,
        stage: &mut dyn PhaseTrainer,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let name = span.kind.name();
        let Some(Metric { name: figure, value, message: told }) = stage.figure()? else { return Ok(()) };
        progress.note(&format!("{name}: {told}"));
        let mut log = EventLog::create(&self.run.root().join("logs").join(name))?;
        log.scalars(span.to, &[(figure.clone(), value)])?;
        let path = self.run.root().join(name).join("figures.json");
        let json = serde_json::json!({ "step": span.to, figure: value }).to_string();
        atomic::write(path, json.as_bytes())
    }
}

/// Adds to an error of memory the batch that might fit, from what the tensors of this one held beyond the `held`
/// bytes of weights and moments when there was no more.
fn what_might_fit(mut error: Error, held: usize, kind: Phase, batch: usize) -> Error {
    if let Error::OutOfMemory { asked, live, total, advice, .. } = &mut error {
        let each = (*live + *asked).saturating_sub(held) / batch;
        let fits = total.saturating_sub(held) / each.max(1);
        let key = kind.batch_key();
        *advice = Some(match fits.min(batch - 1) {
            0 | 1 => "even the smallest batch does not fit: take narrower networks, or the CPU".to_string(),
            fits => format!("a batch of {batch} does not fit, at most {fits} might: --set {key}={fits}"),
        });
    }
    error
}

fn require_finite(step: u64, terms: &[(String, f32)], saved: Option<&Path>) -> Result<()> {
    let Some((term, value)) = terms.iter().find(|(_, value)| !value.is_finite()) else { return Ok(()) };
    let kept = saved.map_or("none yet".to_string(), |folder| folder.display().to_string());
    Err(Error::NotFinite { step, term: term.clone(), value: *value, kept })
}
