//! `engine train`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::ValueEnum;

use super::call::{call, header, program, quoted, resume_command};
use super::dataset::DatasetName;
use super::progress::Display;
use super::target::Target;
use super::{Machine, exit, say, signals};
use crate::config::{Config, choose_encoders};
use crate::data::{Dataset, Fingerprint};
use crate::error::Result;
use crate::files::whole;
use crate::run::{Phase, Record, RunFolder};
use crate::train::{self, Limit, Outcome, StopReason, TrainJob};

#[derive(clap::Args)]
pub struct Args {
    /// What to train on; `demo` renders its own images [default: the run's]
    #[arg(long)]
    dataset: Option<DatasetName>,
    /// The data set's folder, or a file of `engine data pack` [default: the run's; for a new demo OUT/data]
    #[arg(long, value_name = "DIR|FILE")]
    data: Option<PathBuf>,
    /// A preset, or a TOML file like one [default: the run's own configuration, or the data set's preset]
    #[arg(long, value_name = "NAME|FILE")]
    preset: Option<String>,
    /// Change a value of the preset, or of the run; `--set help` lists the keys, their values and what they mean
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run folder [default: runs/DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The phase of training, or all that the configuration needs
    #[arg(long, default_value = "all")]
    phase: PhaseName,
    /// The old name of --phase
    #[arg(long, hide = true, value_parser = renamed_to_phase)]
    stage: Option<String>,
    /// In this call, stop each phase at this step if it does not end before
    #[arg(long, value_name = "N", conflicts_with = "epochs", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// In this call, stop each phase after this epoch if it does not end before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// Save and stop after this time, such as 90s, 15m, 2h or 1h30m
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time_limit: Option<Duration>,
    /// The seed of every random number [default: the preset's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Go on with what earlier calls left unfinished; `--resume RUN` needs nothing else
    #[arg(long, value_name = "RUN", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,
    /// Also write the first batch and the first noise of each phase into this folder, for comparisons with other programs
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Begin every phase with the weights of another run, trained or imported [default of the configuration: that run's]
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Clone, Copy, ValueEnum)]
enum PhaseName {
    All,
    Damsm,
    Captioner,
    Gan,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    if args.set.iter().any(|setting| setting == "help") {
        return list_keys(&args);
    }
    let target = args.target()?;
    let phases = match args.phase {
        PhaseName::All => train::required_phases(&target.config),
        PhaseName::Damsm => vec![Phase::Damsm],
        PhaseName::Captioner => vec![Phase::Captioner],
        PhaseName::Gan => vec![Phase::Gan],
    };
    let mut notes = Vec::from_iter(args.machine.open()?);
    let stop = signals::stop_flag("step")?;
    // What is wrong with data that are there is said before anything is written.
    let renders = target.name == DatasetName::Demo && !target.data.exists();
    let there = (!renders).then(|| target.open()).transpose()?;
    let run = RunFolder::lock(&target.out)?;
    let dataset = match there {
        Some(dataset) => dataset,
        None => target.render()?,
    };
    notes.extend(target.notes(&dataset));
    let Target { config, out, name, data, preset, from, .. } = target;
    let record = Record::new(&out, &preset, name.name(), &data, Fingerprint::of(&dataset));
    let record = record.from(from.as_deref())?;
    let example = example(name, &dataset);
    let limit = args.steps.map(Limit::Steps).or(args.epochs.map(Limit::Epochs));
    let deadline = args.time_limit.and_then(|limit| begin.checked_add(limit));
    let (call, resume) = (call(), args.resume.is_some());
    let resume_command = resume_command(&out);
    let header = header(&call);
    let job = TrainJob {
        config,
        dataset,
        record,
        run,
        phases,
        resume,
        from,
        limit,
        deadline,
        dump: args.dump,
        notes,
        resume_command,
        header,
        call,
        stop,
    };
    let outcome = train::train(job, &mut Display::default())?;
    report(&outcome, &out, begin, &example)
}

impl Args {
    fn target(&self) -> anyhow::Result<Target> {
        let (out, run) = self.run_folder()?;
        let record = run.as_ref().map(RunFolder::record).transpose()?.flatten();
        let recorded = record.as_ref().and_then(|record| DatasetName::recorded(&record.dataset));
        let name = match (self.dataset, recorded) {
            (Some(name), Some(begun)) if name != begun => {
                let (name, begun, out) = (name.name(), begun.name(), out.display());
                bail!("{out}: the run was begun with --dataset {begun}, not {name}; take another --out");
            }
            (name, recorded) => match name.or(recorded) {
                Some(name) => name,
                None => bail!("--dataset is missing: {}", DatasetName::LIST),
            },
        };
        let preset = self.preset.clone().or_else(|| record.as_ref().map(|record| record.preset.clone()));
        let from = self.initial(run.as_ref(), record.as_ref())?;
        let first = match (&run, &from) {
            (None, Some(from)) => Some(RunFolder::open(from)?),
            _ => None,
        };
        let mut config = self.config(run.as_ref().or(first.as_ref()), name)?;
        let notes = match (&run, &first) {
            (None, None) => choose_encoders(&mut config, &self.set),
            _ => Vec::new(),
        };
        let data = self.data.clone().or_else(|| record.and_then(|record| record.folder(&out)));
        let data = match (data, name) {
            (Some(data), _) => data,
            (None, DatasetName::Demo) => out.join("data"),
            (None, name) => bail!("--data is missing: name the folder that holds {}", name.holds()),
        };
        let preset = preset.unwrap_or_else(|| name.name().to_string());
        Ok(Target { out, name, data, config, preset, from, notes })
    }

    /// The run whose weights the phases begin with: the one that is named, or that the run was begun with.
    fn initial(&self, run: Option<&RunFolder>, record: Option<&Record>) -> anyhow::Result<Option<PathBuf>> {
        let begun = record.and_then(|record| record.from.clone()).map(PathBuf::from);
        match (&self.from, begun) {
            (Some(from), begun) if run.is_some() && begun.as_deref() != Some(&whole(from)) => {
                let begun =
                    begun.map_or("without --from".to_string(), |begun| format!("--from {}", begun.display()));
                bail!("--from {}: the run was begun {begun}; take another --out", from.display())
            }
            (from, begun) => Ok(from.clone().or(begun)),
        }
    }

    /// The run's folder, and the run where one is begun there.
    fn run_folder(&self) -> anyhow::Result<(PathBuf, Option<RunFolder>)> {
        let named = self.resume.clone().flatten();
        if let (Some(run), Some(out)) = (&named, &self.out)
            && run != out
        {
            bail!("--resume {} and --out {} name two runs; give one", run.display(), out.display());
        }
        let default = || self.dataset.map(|name| Path::new("runs").join(name.name()));
        let Some(out) = named.or_else(|| self.out.clone()).or_else(default) else {
            bail!("--dataset is missing: {}; or name a run: --resume RUN", DatasetName::LIST);
        };
        if self.resume.is_some() {
            let run = RunFolder::open(&out)?;
            return Ok((out, Some(run)));
        }
        let begun = RunFolder::open(&out).ok();
        if begun.is_none() && out.is_file() {
            bail!("{}: a file; --out names a folder, which may be new", out.display());
        }
        Ok((out, begun))
    }

    /// The preset that was named, or the run's own configuration, or the data set's preset; then the settings.
    fn config(&self, run: Option<&RunFolder>, dataset: DatasetName) -> Result<Config> {
        let mut settings: Vec<String> = self.set.iter().filter(|s| *s != "help").cloned().collect();
        settings.extend(self.seed.map(|seed| format!("run.seed={seed}")));
        match (&self.preset, run) {
            (Some(preset), _) => Config::load(preset, &settings),
            (None, Some(run)) => run.config_with(&settings),
            (None, None) => Config::load(dataset.name(), &settings),
        }
    }
}

/// A caption that a run of this data set understands.
fn example(name: DatasetName, dataset: &Dataset) -> String {
    let first = dataset.test.iter().chain(&dataset.train).next();
    match (name, first.and_then(|item| item.captions.first())) {
        (DatasetName::Coco | DatasetName::Folder, Some(ids)) => dataset.vocabulary.sentence(ids),
        _ => "a small red bird with black wings".to_string(),
    }
}

fn report(outcome: &Outcome, out: &Path, begin: Instant, example: &str) -> anyhow::Result<ExitCode> {
    let (seconds, folder) = (begin.elapsed().as_secs(), out.display());
    let took = format!("{} min {:02} s", seconds / 60, seconds % 60);
    let (engine, run) = (program(), quoted(&out.to_string_lossy()));
    let infer = format!("{engine} infer --run {run} \"{example}\"");
    let resume = resume_command(out);
    let (line, code) = match outcome {
        Outcome::Finished if train::is_ready(out)? => {
            (format!("{folder} is ready after {took}; try: {infer}"), exit::FINISHED)
        }
        Outcome::Finished => {
            (format!("finished after {took}; for the phases that are left: {resume}"), exit::FINISHED)
        }
        Outcome::AtLimit(phases) => {
            let phase = |(phase, step, last): &(Phase, u64, u64)| {
                format!("{} at step {step} of {last}", phase.name())
            };
            let phases = phases.iter().map(phase).collect::<Vec<_>>().join(", ");
            (
                format!("stopped at the limit of this call after {took}: {phases}; go on with: {resume}"),
                exit::FINISHED,
            )
        }
        Outcome::Stopped { phase, step, reason } => {
            let (reason, code) = match reason {
                StopReason::Interrupted => ("interrupted", exit::INTERRUPTED),
                StopReason::TimeIsUp => ("the time is up", exit::TIME_IS_UP),
            };
            let phase = phase.name();
            (format!("{reason}: {phase} is saved at step {step} in {folder}; go on with: {resume}"), code)
        }
    };
    // The code counts more than the line, which nobody may read.
    let _ = say(line);
    Ok(ExitCode::from(code))
}

/// Every key of the configuration that this call would train with, its value, and its help.
fn list_keys(args: &Args) -> anyhow::Result<ExitCode> {
    let named = args.resume.is_some() || args.out.is_some() || args.dataset.is_some();
    let run = if named { args.run_folder()?.1 } else { None };
    let keys = args.config(run.as_ref(), args.dataset.unwrap_or(DatasetName::Demo))?.keys();
    say(super::config::table(&keys))?;
    Ok(ExitCode::SUCCESS)
}

fn renamed_to_phase(phase: &str) -> std::result::Result<String, String> {
    Err(format!("this option is --phase now: --phase {phase}"))
}

/// Hours, minutes, seconds: 2h, 1h30m, 90s.
fn parse_time(text: &str) -> std::result::Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|why| format!("'{text}' is not a time ({why}); write 90s, 15m, 2h or 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_people_write_it() {
        assert_eq!(parse_time("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "90", "two hours", "3x", "5é", "99999999999999999999s"] {
            assert!(parse_time(wrong).unwrap_err().contains("is not a time"), "{wrong}");
        }
    }
}
