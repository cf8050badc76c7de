//! One call of [`super::train`]: the loop over phases and steps.

mod measure;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::data::{Batch, Loader, Skip, save_png};
use crate::engine::nn::Array;
use crate::engine::tensor::{memory_in_use, range};
use crate::error::{Error, Result, caught};
use crate::files::{Origin, atomic};
use crate::infer::frozen::weight_file;
use crate::mirrorgan::losses::{Loss, Terms};
use crate::run::{Call, Checkpoint, Checkpoints, Context, Phase, SampleFile, State, samples};
use crate::train::collapse::{ACCURACY, CollapseWatch};
use crate::train::initial::InitialWeights;
use crate::train::journal::Journal;
use crate::train::log::loss_tag;
use crate::train::phase::{Gauges, PhaseTrainer, Position, WeightFiles};
use crate::train::plan::{Plan, Span, plan};
use crate::train::{Outcome, Progress, StopReason, TrainJob, captioner, damsm, gan, initial, work};

pub(super) struct Session<'a> {
    job: &'a TrainJob,
    /// Something was written: the run's folder is begun and the call is in its log.
    begun: bool,
    /// The written configuration is that of this call.
    described: bool,
    /// The first and the last step of each phase that was trained.
    trained: BTreeMap<Phase, [u64; 2]>,
    /// Image files that cannot be used; each is named once.
    broken: RefCell<BTreeSet<PathBuf>>,
    collapse: CollapseWatch,
}

/// The rate of training since it was last logged.
struct Rate {
    since: Instant,
    images: usize,
}

impl Rate {
    fn new() -> Rate {
        Rate { since: Instant::now(), images: 0 }
    }

    /// Images a second; a new count begins.
    fn take(&mut self) -> f64 {
        let Rate { since, images } = std::mem::replace(self, Rate::new());
        images as f64 / since.elapsed().as_secs_f64().max(1e-9)
    }
}

/// What weights a phase goes on or begins with.
#[derive(Default)]
struct Begun {
    /// Lines for the user.
    notes: Vec<String>,
    /// The file that its backbone begins with.
    origin: Option<Origin>,
}

/// How a phase ended.
enum End {
    Finished,
    AtLimit { step: u64, last: u64 },
    Stopped { step: u64, reason: StopReason },
}

impl<'a> Session<'a> {
    pub fn new(job: &'a TrainJob) -> Session<'a> {
        let (trained, broken, collapse) = Default::default();
        Session { job, begun: false, described: false, trained, broken, collapse }
    }

    pub fn run(&mut self, progress: &mut dyn Progress) -> Result<Outcome> {
        let mut at_limit = Vec::new();
        for &phase in &self.job.phases {
            match self.train(phase, progress)? {
                End::Finished => {}
                End::AtLimit { step, last } => at_limit.push((phase, step, last)),
                End::Stopped { step, reason } => return Ok(Outcome::Stopped { phase, step, reason }),
            }
        }
        Ok(if at_limit.is_empty() { Outcome::Finished } else { Outcome::AtLimit(at_limit) })
    }

    /// Ends the call in the run's log, if it did something.
    pub fn end(&self, outcome: &Result<Outcome>, progress: &mut dyn Progress) -> Result<()> {
        if !self.begun {
            return Ok(());
        }
        let broken = self.broken.borrow().len();
        if broken > 0 {
            let images = if broken == 1 { "image" } else { "images" };
            progress.note(&format!(
                "note: {broken} {images} of this data set could not be used; others took their places"
            ));
        }
        let outcome = match outcome {
            Ok(Outcome::Finished) => "finished".to_string(),
            Ok(Outcome::AtLimit(_)) => "at the limit of the call".to_string(),
            Ok(Outcome::Stopped { reason: StopReason::Interrupted, .. }) => "interrupted".to_string(),
            Ok(Outcome::Stopped { reason: StopReason::TimeIsUp, .. }) => "the time is up".to_string(),
            Err(error) => format!("error: {error}"),
        };
        self.job.call.end(self.job.run.root(), &self.trained, &outcome)
    }

    /// Before the first change of the folder.
    fn begin(&mut self, progress: &mut dyn Progress) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        let TrainJob { run, config, dataset, record, header, call, .. } = self.job;
        self.job.notes.iter().for_each(|line| progress.note(line));
        self.described = !run.is_begun();
        run.begin(config, &dataset.vocabulary, record, header)?;
        call.begin(run.root())?;
        for change in &call.changes {
            progress.note(&format!("note: {} is {} now; it was {}", change.key, change.to, change.from));
        }
        self.begun = true;
        Ok(())
    }

    fn context(&self) -> Context<'a> {
        let TrainJob { config, dataset, run, limit, .. } = self.job;
        Context { config, dataset, run: run.root(), on_unfinished: limit.is_some() }
    }

    /// Trains one phase, if it is not finished.
    fn train(&mut self, phase: Phase, progress: &mut dyn Progress) -> Result<End> {
        let (span, steps) = match plan(self.job, phase)? {
            Plan::Kept(why) => {
                progress.note(&why);
                return Ok(End::Finished);
            }
            Plan::AtLimit { step, last } => return Ok(End::AtLimit { step, last }),
            Plan::Evaluate(span) => (span, false),
            Plan::Steps(span) => (span, true),
        };
        let context = self.context();
        let mut trainer: Box<dyn PhaseTrainer + 'a> = self.trainer(phase, context)?;
        let Begun { notes, origin } = self.set_weights(&span, trainer.as_mut())?;
        self.begin(progress)?;
        if let Some(origin) = origin {
            Call::weights(self.job.run.root(), &format!("{}.backbone", phase.name()), &origin)?;
        }
        notes.iter().for_each(|line| progress.note(&format!("note: {line}")));
        match (&span.begins_again, &span.resumed) {
            (Some(why), _) => {
                progress.note(why);
                self.set_all_aside(phase)?;
            }
            (None, Some(_)) if steps => {
                progress.note(&format!("{}: goes on from step {}", phase.name(), span.from))
            }
            _ => {}
        }
        if steps {
            progress.begin(phase, span.from, span.to, self.work_beyond(phase));
            let stopped = self.steps(&span, trainer.as_mut(), progress);
            progress.end();
            if let Some((step, reason)) = stopped? {
                return Ok(End::Stopped { step, reason });
            }
        }
        if !span.finishes() {
            return Ok(End::AtLimit { step: span.to, last: span.last });
        }
        Ok(match self.evaluate(&span, trainer.as_mut(), progress)? {
            Some(reason) => End::Stopped { step: span.to, reason },
            None => End::Finished,
        })
    }

    /// Gives the networks of a phase the weights that it goes on or begins with; what there is to say of them.
    fn set_weights(&self, span: &Span, trainer: &mut dyn PhaseTrainer) -> Result<Begun> {
        let ours = &self.job.dataset.vocabulary;
        let (folder, theirs) = match &span.resumed {
            Some(checkpoint) if checkpoint.state.imported => (checkpoint.folder.clone(), ours.clone()),
            Some(checkpoint) => return trainer.restore(&checkpoint.folder).map(|()| Begun::default()),
            None => match initial(self.job, span.phase)? {
                Some((checkpoint, words)) => (checkpoint.folder, words),
                None => return Ok(Begun { notes: Vec::new(), origin: trainer.begin()? }),
            },
        };
        let weights = InitialWeights::new(folder, theirs, ours);
        trainer.adopt(&weights)?;
        Ok(Begun { notes: weights.notes(), origin: None })
    }

    fn trainer(&self, phase: Phase, context: Context<'a>) -> Result<Box<dyn PhaseTrainer + 'a>> {
        Ok(match phase {
            Phase::Damsm => Box::new(damsm::DamsmPhase::new(context)?),
            Phase::Captioner => Box::new(captioner::CaptionerPhase::new(context)?),
            Phase::Gan => Box::new(gan::GanPhase::new(context)?),
        })
    }

    /// Old checkpoints of a phase that begins again.
    fn set_all_aside(&self, phase: Phase) -> Result<()> {
        let checkpoints = Checkpoints::of(self.job.run.root(), phase);
        while let Some(checkpoint) = checkpoints.latest()? {
            checkpoints.set_aside(checkpoint.state.step, "outdated")?;
        }
        Ok(())
    }

    fn checkpoints(&self, phase: Phase) -> Checkpoints {
        Checkpoints::of(self.job.run.root(), phase)
    }

    /// The work of the phases after this one, in steps of this one.
    fn work_beyond(&self, phase: Phase) -> f64 {
        let config = &self.job.config;
        let later = self.job.phases.iter().filter(|&&later| later > phase);
        let work = |&later: &Phase| match plan(self.job, later) {
            Ok(Plan::Steps(span)) => (span.to - span.from) as f64 * work::of_step(later, config),
            _ => 0.0,
        };
        later.map(work).sum::<f64>() / work::of_step(phase, config)
    }

    fn steps(
        &mut self,
        span: &Span,
        trainer: &mut dyn PhaseTrainer,
        progress: &mut dyn Progress,
    ) -> Result<Option<(u64, StopReason)>> {
        let run = &self.job.config.run;
        let items = Arc::new(self.job.dataset.train.clone());
        let mut loader = Loader::new(items, self.context().loader(span.phase), span.from)?;
        let mut log = self.log(span, trainer)?;
        if span.from == span.to {
            // No more steps are asked for than were taken: the checkpoint is the result.
            let epoch = span.resumed.as_ref().map_or(0, |c| c.state.epoch);
            self.save(span, Position { step: span.to, epoch }, trainer)?;
        }
        let (mut losses, mut saved, mut rate) = (Vec::new(), span.from, Rate::new());
        for step in span.from..span.to {
            let batch = loader.next_batch()?;
            batch.skipped.iter().for_each(|skip| self.name_broken(skip, progress));
            let (at, images) = (Position { step, epoch: batch.epoch }, batch.len());
            let (done, last) = (step + 1, step + 1 == span.to);
            let due = |every: u64| last || done.is_multiple_of(every);
            let read = [run.log_every, run.checkpoint_every, run.eval_every].into_iter().any(due);
            let mut gauges = due(run.log_every).then(Gauges::new);
            let terms = self.compute(span, at, trainer, batch, gauges.as_mut())?;
            rate.images += images;
            // Reading waits for the device. The step after a checkpoint shows whether that one is good, and no checkpoint
            // may be written of losses that were not read.
            let read = read || step == saved;
            if read {
                losses = self.read_losses(span, done, &terms)?;
            }
            progress.step(done, at.epoch, images, &losses);

            if let Some(gauges) = gauges {
                self.watch(&gauges, progress);
                log.scalars(done, &self.scalars(&losses, span.phase, trainer, gauges, rate.take()))?;
            }
            let measured =
                due(run.eval_every).then(|| self.measure(span.phase, done, trainer, &mut log, progress));
            let best = measured.transpose()?.flatten();
            let stop = if last { None } else { self.stop_reason() };
            if stop.is_some() && !read {
                losses = self.read_losses(span, done, &terms)?;
            }
            if due(run.checkpoint_every) || stop.is_some() || best.is_some() {
                self.save(span, Position { step: done, epoch: at.epoch }, trainer)?;
                saved = done;
            }
            best.map(|best| self.checkpoints(span.phase).keep_best(&best)).transpose()?;
            // After the checkpoint: a full disk takes a picture, not the steps.
            if due(run.sample_every) {
                self.sample(span.phase, done, trainer, &mut log)?;
            }
            if let Some(reason) = stop {
                return Ok(Some((done, reason)));
            }
        }
        Ok(None)
    }

    fn name_broken(&self, skip: &Skip, progress: &mut dyn Progress) {
        if self.broken.borrow_mut().insert(skip.file.clone()) {
            progress.note(&format!("note: skipped {}: {}", skip.file.display(), skip.why));
        }
    }

    /// The log of these steps, with the configuration and the captions of the sample grids as texts.
    fn log(&self, span: &Span, trainer: &dyn PhaseTrainer) -> Result<Journal> {
        let mut log = Journal::open(&self.log_folder(span.phase), span.from)?;
        let indented = |text: String| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
        log.text(span.from, "run/configuration", &indented(self.job.config.to_toml()))?;
        log.text(span.from, "run/command", &indented(self.job.call.command.join(" ")))?;
        let captions: String = trainer.captions().iter().map(|caption| format!("1. {caption}\n")).collect();
        if !captions.is_empty() {
            log.text(span.from, "samples/captions", &captions)?;
        }
        Ok(log)
    }

    fn log_folder(&self, phase: Phase) -> PathBuf {
        self.job.run.root().join("logs").join(phase.name())
    }

    /// Says when training goes wrong in a way that losses do not show.
    fn watch(&mut self, gauges: &Gauges, progress: &mut dyn Progress) {
        let accuracies = gauges.iter().filter(|(tag, _)| tag.starts_with(ACCURACY));
        if let Some(sentence) = self.collapse.accuracies(accuracies.map(|(_, share)| *share)) {
            progress.note(&format!("note: {sentence}"));
        }
    }

    /// Every term by itself, the weight of those that have one, and what else there is to tell of a step.
    fn scalars(
        &self,
        losses: &[Loss],
        phase: Phase,
        trainer: &dyn PhaseTrainer,
        gauges: Gauges,
        rate: f64,
    ) -> Vec<(String, f64)> {
        let sides = self.job.config.generator.image_sides();
        let mut values = Vec::new();
        for Loss { name, value, weight } in losses {
            let tag = loss_tag(phase, name, &sides);
            if *weight != 1.0 {
                values.push((format!("weight/{tag}"), f64::from(*weight)));
            }
            values.push((tag, f64::from(*value)));
        }
        let rates = trainer.learning_rates().into_iter();
        values.extend(rates.map(|(network, rate)| (format!("learning_rate/{network}"), rate)));
        values.extend(gauges);
        values.push(("rate/images_per_second".to_string(), rate));
        let memory = memory_in_use();
        values.extend(memory.map(|bytes| ("memory/live_MiB".to_string(), bytes as f64 / (1 << 20) as f64)));
        values
    }

    /// Takes a step. Its losses stay on the device.
    fn compute(
        &self,
        span: &Span,
        at: Position,
        trainer: &mut dyn PhaseTrainer,
        batch: Batch,
        gauges: Option<&mut Gauges>,
    ) -> Result<Terms> {
        let images = batch.len();
        let inputs = trainer.load(batch);
        if let Some(folder) = self.job.dump.as_ref().filter(|_| at.step == span.from) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
            let mut archive = inputs.archive();
            for (name, noise) in trainer.noise(at, &inputs) {
                archive.insert(name, Array::from(&noise));
            }
            archive.write(weight_file(folder, span.phase.name()))?;
        }
        let terms = range(span.label(at.step + 1), || caught(|| trainer.compute(at, &inputs, gauges)));
        terms.map_err(|error| with_smaller_batch(error, span.phase, images, &self.job.resume_command))
    }

    fn stop_reason(&self) -> Option<StopReason> {
        if self.job.stop.load(Ordering::Relaxed) {
            return Some(StopReason::Interrupted);
        }
        self.job.deadline.is_some_and(|deadline| Instant::now() >= deadline).then_some(StopReason::TimeIsUp)
    }

    /// The losses as numbers, all finite.
    fn read_losses(&self, span: &Span, step: u64, terms: &Terms) -> Result<Vec<Loss>> {
        let losses = range(span.label(step), || caught(|| terms.values()))?;
        let Some(Loss { name, value, .. }) = losses.iter().find(|loss| !loss.value.is_finite()) else {
            return Ok(losses);
        };
        // The weights that this step began with may be in a checkpoint: it is none to go on from.
        let checkpoints = self.checkpoints(span.phase);
        let aside = checkpoints.set_aside(step - 1, "diverged")?;
        let mut advice = self.advice_on_divergence(span.phase)?;
        if let Some(aside) = aside {
            advice += &format!("\n  The checkpoint of step {} is set aside as {}", step - 1, aside.display());
        }
        Err(Error::NotFinite { step, term: name.clone(), value: *value, advice })
    }

    /// What to go on with: the last good checkpoint, at lower learning rates.
    fn advice_on_divergence(&self, phase: Phase) -> Result<String> {
        let (run, config) = (self.job.run.root(), &self.job.config);
        let rates = match phase {
            Phase::Damsm => vec![("damsm.adam.lr", config.damsm.adam.lr)],
            Phase::Captioner => vec![("captioner.adam.lr", config.captioner.adam.lr)],
            Phase::Gan => vec![
                ("gan.generator_adam.lr", config.gan.generator_adam.lr),
                ("gan.discriminator_adam.lr", config.gan.discriminator_adam.lr),
            ],
        };
        let lower = |(key, rate): &(&str, f64)| format!(" --set {key}={}", rate / 10.0);
        let settings: String = rates.iter().map(lower).collect();
        let command = format!("{}{settings}", self.job.resume_command);
        Ok(match Checkpoints::of(run, phase).latest()? {
            Some(good) => format!(
                "The last good checkpoint is {}. The same rates lead to the same again, so go on with lower ones: {command}\n  \
                 Where that diverges as well, remove {} to begin this phase again",
                good.name(),
                phase.folder(run).display()
            ),
            None => format!(
                "There is no good checkpoint of this phase; begin it again with lower rates: {command}"
            ),
        })
    }

    /// Writes a checkpoint; with the first one of a call, what it was trained with.
    fn save(&mut self, span: &Span, at: Position, trainer: &mut dyn PhaseTrainer) -> Result<()> {
        let TrainJob { run, config, record, header, .. } = self.job;
        let begun_with =
            span.resumed.as_ref().map(|c| c.state.after.clone()).filter(|after| !after.is_empty());
        let state = State {
            phase: span.phase,
            step: at.step,
            epoch: at.epoch,
            seed: config.run.seed,
            finished: at.step == span.last,
            imported: false,
            after: begun_with.unwrap_or_else(|| trainer.builds_on().into_iter().collect()),
            files: Vec::new(),
        };
        let checkpoints = Checkpoints::of(run.root(), span.phase);
        let fill = |folder: &std::path::Path| {
            trainer.save(&WeightFiles { folder, step: at.step, preset: &record.preset })
        };
        let saved = checkpoints.save(&state, fill);
        let _: Checkpoint = match saved {
            Err(Error::NotFinite { step, term, value, .. }) => {
                let advice = self.advice_on_divergence(span.phase)?;
                return Err(Error::NotFinite { step, term, value, advice });
            }
            saved => saved?,
        };
        if !self.described {
            run.describe(config, record, header)?;
            self.described = true;
        }
        self.trained.insert(span.phase, [span.from, at.step]);
        Ok(())
    }

    /// A sample grid into the run's folder and to TensorBoard.
    fn sample(
        &self,
        phase: Phase,
        step: u64,
        trainer: &mut dyn PhaseTrainer,
        log: &mut Journal,
    ) -> Result<()> {
        let Some((what, picture)) = trainer.sample(step) else { return Ok(()) };
        let folder = samples::folder(self.job.run.root());
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let SampleFile { path, .. } = SampleFile::new(self.job.run.root(), phase, step);
        if !trainer.captions().is_empty() {
            let legend = trainer.captions().join("\n") + "\n";
            atomic::write(folder.join("captions.txt"), legend.as_bytes())?;
        }
        save_png(&path, picture.width, picture.height, &picture.pixels)?;
        let png = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        log.image(step, &format!("samples/{what}"), [picture.width, picture.height], &png)
    }
}

/// Adds to an error of memory what may fit: half the batch, since how much the rest of the step needs is not known.
fn with_smaller_batch(mut error: Error, phase: Phase, batch: usize, resume: &str) -> Error {
    if let Error::OutOfMemory { advice, .. } = &mut error {
        let key = phase.batch_key();
        *advice = Some(match batch {
            0..=2 => "even the smallest batch does not fit: take narrower networks, or the CPU".to_string(),
            _ => {
                format!("a batch of {batch} does not fit; try: {resume} --set {key}={}", (batch / 2).max(2))
            }
        });
    }
    error
}
