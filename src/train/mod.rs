//! Training: three phases one after the other, each from its newest checkpoint or from the start.
//!
//! ```text
//! images + captions ──► damsm      text encoder, image encoder: one space
//!                  ├──► captioner  image → caption                 (where λ_captioner is not 0)
//!                  └──► gan        caption → images, with both of the above and the discriminators
//! ```
//!
//! The loop is the same for all; a `PhaseTrainer` takes the steps, saves and restores.

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
use crate::config::{Config, require_available};
use crate::data::{Batch, Dataset, Loader, save_png};
use crate::engine::tensor::{live_bytes, range, set_precision};
use crate::error::{Error, Result, caught};
use crate::eval::Metric;
use crate::files::atomic;
use crate::mirrorgan::losses::Terms;
use crate::run::{Checkpoint, Checkpoints, Context, Phase, RunFolder, State};

/// What to train, on what, and where to write it.
pub struct TrainJob {
    pub config: Config,
    pub dataset: Dataset,
    pub out: PathBuf,
    /// In order; [`required_phases`] gives all that a configuration needs.
    pub phases: Vec<Phase>,
    /// Go on with a phase that is not finished.
    pub resume: bool,
    pub time_limit: Option<Duration>,
    /// Comment lines on top of the written configuration.
    pub header: String,
    /// Set it to save and stop.
    pub stop: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
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
    /// A phase begins with `from` of `to` steps taken.
    fn begin(&mut self, phase: Phase, from: u64, to: u64);
    /// Step number `step`, of `images` images, is taken; `terms` are the losses read last.
    fn step(&mut self, step: u64, epoch: u64, images: usize, terms: &[(String, f32)]);
    fn end(&mut self);
    /// A line for the user.
    fn note(&mut self, line: &str);
}

/// The phases whose results the generator of this configuration needs, and the generator's.
pub fn required_phases(config: &Config) -> Vec<Phase> {
    let required = |phase: &Phase| *phase != Phase::Captioner || config.loss.lambda_captioner > 0.0;
    Phase::ALL.into_iter().filter(required).collect()
}

pub fn train(job: TrainJob, progress: &mut dyn Progress) -> Result<Outcome> {
    check(&job)?;
    set_precision(job.config.run.precision)?;
    let run = RunFolder::prepare(&job.out, &job.config, &job.dataset.vocabulary, &job.header)?;
    let deadline = job.time_limit.map(|limit| Instant::now() + limit);
    let session = Session { run: &run, deadline, job: &job };
    for &phase in &job.phases {
        if let Some((step, reason)) = session.train(phase, progress)? {
            return Ok(Outcome::Stopped { phase, step, reason });
        }
    }
    Ok(Outcome::Finished)
}

/// Finds before the first step what would fail only hours later.
fn check(job: &TrainJob) -> Result<()> {
    let config = &job.config;
    for &phase in &job.phases {
        let (batch, items) = (phase.schedule(config).batch, job.dataset.train.len());
        if batch > items {
            let why = format!(
                "a batch of {batch} is larger than the data set of {items} training images; set it to {items} or less"
            );
            return Err(Error::config(phase.batch_key(), why));
        }
        match phase {
            Phase::Damsm => require_available("damsm", &config.damsm.backbone)?,
            Phase::Captioner => require_available("captioner", &config.captioner.network.backbone)?,
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

/// The steps that a call takes of a phase.
struct PhaseSpan {
    phase: Phase,
    from: u64,
    to: u64,
    resumed: Option<Checkpoint>,
}

impl PhaseSpan {
    /// The name of a step in a profile and in errors.
    fn label(&self, step: u64) -> String {
        format!("{} step {step}", self.phase.name())
    }
}

impl Session<'_> {
    /// Trains one phase, if it is not finished; returns where and why it stopped before the end.
    fn train(&self, phase: Phase, progress: &mut dyn Progress) -> Result<Option<(u64, StopReason)>> {
        let Some(span) = self.span(phase, progress)? else { return Ok(None) };
        let context = self.context();
        let mut trainer: Box<dyn PhaseTrainer + '_> = match phase {
            Phase::Damsm => Box::new(damsm::DamsmPhase::new(&context)?),
            Phase::Captioner => Box::new(captioner::CaptionerPhase::new(&context)?),
            Phase::Gan => Box::new(gan::GanPhase::new(&context)?),
        };
        if let Some(checkpoint) = &span.resumed {
            trainer.restore(&checkpoint.folder)?;
        }
        progress.begin(phase, span.from, span.to);
        let stopped = self.steps(&span, trainer.as_mut(), progress);
        progress.end();
        let stopped = stopped?;
        if stopped.is_none() {
            self.evaluate(&span, trainer.as_mut(), progress)?;
        }
        Ok(stopped)
    }

    fn context(&self) -> Context<'_> {
        Context { config: &self.job.config, dataset: &self.job.dataset, run: self.run.root() }
    }

    /// The steps that are left of a phase; none where it is finished.
    fn span(&self, phase: Phase, progress: &mut dyn Progress) -> Result<Option<PhaseSpan>> {
        let name = phase.name();
        let to = phase.schedule(&self.job.config).last_step(self.job.dataset.train.len());
        let Some(checkpoint) = Checkpoints::of(self.run.root(), phase).latest()? else {
            return Ok(Some(PhaseSpan { phase, from: 0, to, resumed: None }));
        };
        let State { step, finished, .. } = checkpoint.state;
        if finished && (step >= to || !self.job.resume) {
            let more = if step < to { format!(" (--resume goes on to {to})") } else { String::new() };
            progress.note(&format!("{name}: finished at step {step}, kept{more}"));
            return Ok(None);
        }
        if !self.job.resume {
            let why = format!(
                "the {name} phase stopped at step {step} of {to}; go on with --resume, or take another --out"
            );
            return Err(Error::data(self.run.root(), why));
        }
        progress.note(&format!("{name}: goes on from step {step}"));
        Ok(Some(PhaseSpan { phase, from: step, to: to.max(step), resumed: Some(checkpoint) }))
    }

    fn steps(
        &self,
        span: &PhaseSpan,
        trainer: &mut dyn PhaseTrainer,
        progress: &mut dyn Progress,
    ) -> Result<Option<(u64, StopReason)>> {
        let run = &self.job.config.run;
        let items = Arc::new(self.job.dataset.train.clone());
        let mut loader = Loader::new(items, self.context().loader(span.phase), span.from)?;
        let mut log = EventLog::create(&self.run.root().join("logs").join(span.phase.name()))?;
        let mut saved = span.resumed.as_ref().map(|c| c.folder.clone());
        if span.from == span.to {
            // No more steps are asked for than were taken: the checkpoint is the result.
            let epoch = span.resumed.as_ref().map_or(0, |c| c.state.epoch);
            self.save(span.phase, Position { step: span.to, epoch }, true, trainer)?;
        }
        let mut losses = Vec::new();
        for step in span.from..span.to {
            let batch = loader.next_batch()?;
            for skip in &batch.skipped {
                progress.note(&format!("skipped {}: {}", skip.file.display(), skip.why));
            }
            let (at, images) = (Position { step, epoch: batch.epoch }, batch.len());
            let (done, last) = (step + 1, step + 1 == span.to);
            let terms = self.compute(span, at, trainer, batch)?;
            let due = |every: u64| last || done.is_multiple_of(every);
            // Reading waits for the device, and no checkpoint may be written of losses that were not read.
            let read = step == span.from || due(run.log_every) || due(run.checkpoint_every);
            if read {
                losses = read_losses(span, done, &terms, saved.as_deref())?;
            }
            progress.step(done, at.epoch, images, &losses);

            if due(run.log_every) {
                log.scalars(done, &losses)?;
            }
            if due(run.sample_every) {
                self.sample(done, trainer, &mut log)?;
            }
            let stop = if last { None } else { self.stop_reason() };
            if stop.is_some() && !read {
                losses = read_losses(span, done, &terms, saved.as_deref())?;
            }
            if due(run.checkpoint_every) || stop.is_some() {
                let at = Position { step: done, epoch: at.epoch };
                saved = Some(self.save(span.phase, at, last, trainer)?);
            }
            if let Some(reason) = stop {
                return Ok(Some((done, reason)));
            }
        }
        Ok(None)
    }

    /// Takes a step. Its losses stay on the device.
    fn compute(
        &self,
        span: &PhaseSpan,
        at: Position,
        trainer: &mut dyn PhaseTrainer,
        batch: Batch,
    ) -> Result<Terms> {
        let images = batch.len();
        let inputs = trainer.load(batch);
        let held = live_bytes();
        let terms = range(span.label(at.step + 1), || caught(|| trainer.compute(at, &inputs)));
        terms.map_err(|error| what_might_fit(error, held, span.phase, images))
    }

    fn stop_reason(&self) -> Option<StopReason> {
        if self.job.stop.load(Ordering::Relaxed) {
            return Some(StopReason::Interrupted);
        }
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline).then_some(StopReason::TimeIsUp)
    }

    fn save(
        &self,
        phase: Phase,
        at: Position,
        finished: bool,
        trainer: &mut dyn PhaseTrainer,
    ) -> Result<PathBuf> {
        let seed = self.job.config.run.seed;
        let state = State { phase, step: at.step, epoch: at.epoch, seed, finished };
        Checkpoints::of(self.run.root(), phase).save(&state, |folder| trainer.save(folder))
    }

    /// A sample grid into the run's folder and to TensorBoard.
    fn sample(&self, step: u64, trainer: &mut dyn PhaseTrainer, log: &mut EventLog) -> Result<()> {
        let Some(table) = trainer.sample() else { return Ok(()) };
        let folder = self.run.root().join("samples");
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let path = folder.join(format!("step-{step:06}.png"));
        let legend = trainer.captions().join("\n") + "\n";
        atomic::write(folder.join("captions.txt"), legend.as_bytes())?;
        save_png(&path, table.width, table.height, &table.pixels)?;
        let png = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        log.image(step, "samples", [table.width, table.height], &png)
    }

    /// The metric of a finished phase: shown, logged, and written beside its checkpoints.
    fn evaluate(
        &self,
        span: &PhaseSpan,
        trainer: &mut dyn PhaseTrainer,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let name = span.phase.name();
        let Some(Metric { name: metric, value, message }) = trainer.evaluate()? else { return Ok(()) };
        progress.note(&format!("{name}: {message}"));
        let mut log = EventLog::create(&self.run.root().join("logs").join(name))?;
        log.scalars(span.to, &[(metric.clone(), value)])?;
        let path = span.phase.folder(self.run.root()).join("metrics.json");
        let json = serde_json::json!({ "step": span.to, metric: value }).to_string();
        atomic::write(path, json.as_bytes())
    }
}

/// Adds to an error of memory the batch that might fit: from the bytes that the tensors of this step held, beyond the
/// `held` bytes of weights, moments and inputs, when memory ran out.
fn what_might_fit(mut error: Error, held: usize, phase: Phase, batch: usize) -> Error {
    if let Error::OutOfMemory { asked, live, total, advice, .. } = &mut error {
        let each = (*live + *asked).saturating_sub(held) / batch;
        let fits = total.saturating_sub(held) / each.max(1);
        let key = phase.batch_key();
        *advice = Some(match fits.min(batch - 1) {
            0 | 1 => "even the smallest batch does not fit: take narrower networks, or the CPU".to_string(),
            fits => format!("a batch of {batch} does not fit, at most {fits} might: --set {key}={fits}"),
        });
    }
    error
}

/// The losses as numbers, all finite. `saved` is the newest checkpoint.
fn read_losses(
    span: &PhaseSpan,
    step: u64,
    terms: &Terms,
    saved: Option<&Path>,
) -> Result<Vec<(String, f32)>> {
    let losses = range(span.label(step), || caught(|| terms.values()))?;
    let Some((term, value)) = losses.iter().find(|(_, value)| !value.is_finite()) else { return Ok(losses) };
    let kept = saved.map_or("none yet".to_string(), |folder| folder.display().to_string());
    Err(Error::NotFinite { step, term: term.clone(), value: *value, kept })
}
