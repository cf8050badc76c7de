//! `engine train`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::progress::Display;
use super::{Machine, say};
use crate::config::{Config, KeyHelp};
use crate::data::{self, Dataset, Format, demo};
use crate::engine::device;
use crate::error::{Result, note};
use crate::run::Phase;
use crate::train::{self, Outcome, StopReason, TrainJob};

#[derive(clap::Args)]
pub struct Args {
    /// What to train on; `demo` renders its own images
    #[arg(long, required_unless_present = "set")]
    dataset: Option<Name>,
    /// The data set's folder [default for demo: OUT/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A preset, or a TOML file like one [default: the run's own configuration, or the data set's preset]
    #[arg(long, value_name = "NAME|FILE")]
    preset: Option<String>,
    /// Change a value of the preset; `--set help` lists the keys, their values and what they mean
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
    /// End each phase after this many steps
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// End each phase after this many epochs
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Save and stop after this time, such as 90s, 15m or 2h
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time_limit: Option<Duration>,
    /// The seed of every random number [default: the preset's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Go on with what an earlier call left unfinished
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Name {
    Demo,
    Cub,
}

#[derive(Clone, Copy, ValueEnum)]
enum PhaseName {
    All,
    Damsm,
    Captioner,
    Gan,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let begin = Instant::now();
    if args.set.iter().any(|setting| setting == "help") {
        return list_keys(&args);
    }
    let Some(name) = args.dataset else { anyhow::bail!("--dataset is missing: demo or cub") };
    args.machine.set()?;
    let out = args.out(name);
    let config = args.config(name, &out)?;
    let dataset = args.dataset(name, &out, &config)?;
    let phases = match args.phase {
        PhaseName::All => train::required_phases(&config),
        PhaseName::Damsm => vec![Phase::Damsm],
        PhaseName::Captioner => vec![Phase::Captioner],
        PhaseName::Gan => vec![Phase::Gan],
    };
    let (resume, time_limit, stop) = (args.resume, args.time_limit, stop_on_ctrl_c()?);
    let job =
        TrainJob { config, dataset, out: out.clone(), phases, resume, time_limit, header: header(), stop };
    report(train::train(job, &mut Display::default())?, &out, begin)
}

impl Args {
    fn out(&self, dataset: Name) -> PathBuf {
        self.out.clone().unwrap_or_else(|| Path::new("runs").join(dataset.name()))
    }

    /// The preset that was named, or the run's own configuration, or the data set's preset; then the settings.
    fn config(&self, dataset: Name, out: &Path) -> Result<Config> {
        let own = out.join("config.toml");
        let preset = match &self.preset {
            Some(preset) => preset.clone(),
            None if own.is_file() => own.display().to_string(),
            None => dataset.name().to_string(),
        };
        let mut settings: Vec<String> = self.set.iter().filter(|s| *s != "help").cloned().collect();
        for schedule in Phase::ALL.map(|phase| format!("{}.schedule", phase.name())) {
            settings.extend(self.steps.map(|steps| format!("{schedule}.steps={steps}")));
            if let Some(epochs) = self.epochs {
                settings.extend([format!("{schedule}.epochs={epochs}"), format!("{schedule}.steps=0")]);
            }
        }
        settings.extend(self.seed.map(|seed| format!("run.seed={seed}")));
        Config::load(&preset, &settings)
    }

    fn dataset(&self, name: Name, out: &Path, config: &Config) -> anyhow::Result<Dataset> {
        let folder = match (&self.data, name) {
            (Some(folder), _) => folder.clone(),
            (None, Name::Demo) => out.join("data"),
            (None, Name::Cub) => {
                anyhow::bail!("--data is missing: name the folder that holds CUB_200_2011 and text");
            }
        };
        if name == Name::Demo && !folder.exists() {
            note(format!("rendering {} birds into {}", config.data.images, folder.display()));
            demo::write(&folder, config.data.images, config.run.seed)?;
        }
        let dataset = data::open(Format::Cub, &folder)?;
        for notice in &dataset.notices {
            note(format!("note: {notice}"));
        }
        if !dataset.skipped.is_empty() {
            let (count, folder) = (dataset.skipped.len(), folder.display());
            note(format!(
                "note: {count} files are skipped; `engine data check {folder} --dataset cub` names them"
            ));
        }
        Ok(dataset)
    }
}

impl Name {
    fn name(self) -> &'static str {
        match self {
            Name::Demo => "demo",
            Name::Cub => "cub",
        }
    }
}

/// Version, device and command line of the run, on top of its configuration.
fn header() -> String {
    let command: Vec<String> = std::env::args().collect();
    format!(
        "# engine {} (revision {})\n# on {}\n# {}\n",
        env!("CARGO_PKG_VERSION"),
        env!("ENGINE_REVISION"),
        device::current(),
        command.join(" ")
    )
}

/// The first Ctrl-C sets the flag; the second ends the process at once.
fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    const INTERRUPTED: i32 = 130;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        note("stopping after this step; once more to stop at once");
    })?;
    Ok(stop)
}

fn report(outcome: Outcome, out: &Path, begin: Instant) -> anyhow::Result<()> {
    let (seconds, out) = (begin.elapsed().as_secs(), out.display());
    let took = format!("{} min {:02} s", seconds / 60, seconds % 60);
    match outcome {
        Outcome::Finished => {
            say(format!("{out} is ready after {took}; try: engine infer --run {out} \"...\""))
        }
        Outcome::Stopped { phase, step, reason } => {
            let reason = match reason {
                StopReason::Interrupted => "interrupted",
                StopReason::TimeIsUp => "the time is up",
            };
            say(format!("{reason}: {} saved at step {step} in {out}; go on with --resume", phase.name()))
        }
    }
}

/// Every key of the configuration that this call would train with, its value, and its help.
fn list_keys(args: &Args) -> anyhow::Result<()> {
    let dataset = args.dataset.unwrap_or(Name::Demo);
    let keys = args.config(dataset, &args.out(dataset))?.keys();
    let width = |of: fn(&KeyHelp) -> usize| keys.iter().map(of).max().unwrap_or(0);
    let (key_width, value_width) = (width(|k| k.key.len()), width(|k| k.value.len()));
    for KeyHelp { key, value, help } in &keys {
        say(format!("{key:key_width$}  {value:value_width$}  {help}"))?;
    }
    Ok(())
}

fn renamed_to_phase(phase: &str) -> std::result::Result<String, String> {
    Err(format!("this option is --phase now: --phase {phase}"))
}

/// Hours, minutes, seconds: 2h, 1h30m, 90s.
fn parse_time(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time; write 90s, 15m, 2h or 1h30m");
    let mut seconds = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..unit].parse().map_err(|_| wrong())?;
        seconds += number
            * match &rest[unit..].chars().next() {
                Some('h') => 3600,
                Some('m') => 60,
                Some('s') => 1,
                _ => return Err(wrong()),
            };
        rest = &rest[unit + 1..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_people_write_it() {
        assert_eq!(parse_time("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "90", "two hours", "3d", "5é"] {
            assert!(parse_time(wrong).unwrap_err().contains("is not a time"), "{wrong}");
        }
    }
}
