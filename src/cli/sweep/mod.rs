//! `engine sweep`

mod papers;
mod plan;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use clap::value_parser;

use self::papers::{ANALYSES, Analysis};
use self::plan::{Plan, Variant};
use self::table::{Outcome, Row, Sweep};
use super::call::{call, header, resume_command};
use super::dataset::DatasetName;
use super::eval::{self, Measurement, Shown};
use super::infer::{Seeds, parse_seeds};
use super::progress::Display;
use super::target::Target;
use super::{Machine, exit, say, signals};
use crate::config::{Config, choose_encoders};
use crate::data::{Dataset, Fingerprint};
use crate::error::{Error, Result, chain, note};
use crate::eval::evaluate::{Metrics, evaluate};
use crate::eval::protocol::{Protocol, revision};
use crate::infer::{Sampler, Weights};
use crate::run::{Phase, Record, RunFolder, has_same_phase};
use crate::train::{self, TrainJob};

/// Train variants of a preset and measure them all: one table
///
/// Every combination of the values that --set lists, or the variants of a paper's analysis, is trained and measured by one
/// protocol. Phases that come out alike are trained once. The same command goes on with what an interrupted one left.
#[derive(clap::Args)]
pub struct Args {
    /// A paper's analysis, in place of values of one's own: attngan-components or mirrorgan-ablation
    #[arg(value_name = "ANALYSIS")]
    analysis: Option<String>,
    /// What is varied: a preset, or a TOML file like one [default: the analysis' own]
    #[arg(long, value_name = "NAME|FILE")]
    preset: Option<String>,
    /// A key with its values, such as loss.lambda_captioner=0,5,10,20; with one value, of every variant
    #[arg(long, value_name = "KEY=VALUE,..")]
    set: Vec<String>,
    /// What to train on [default: what the preset is for]
    #[arg(long)]
    dataset: Option<DatasetName>,
    /// The data set's folder, or a file of `engine data pack` [default for the demo: OUT/data]
    #[arg(long, value_name = "DIR|FILE")]
    data: Option<PathBuf>,
    /// Train no phase for more steps than this
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Train every variant's generator with each of these seeds, such as 0-2; the table has mean and deviation
    #[arg(long, value_name = "SEEDS", value_parser = parse_seeds)]
    seeds: Option<Seeds>,
    /// The folder of all runs, of sweep.md and of sweep.json
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// Show what would be trained, or the papers' analyses, and train nothing
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    measurement: Measurement,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.list && args.analysis.is_none() && args.set.is_empty() {
        list_analyses()?;
        return Ok(ExitCode::from(exit::FINISHED));
    }
    let analysis = args.analysis.as_deref().map(analysis).transpose()?;
    let plan = Plan::new(analysis.map(|analysis| (analysis.name, analysis.variants())), &args.set)?;
    let Some(preset) = args.preset.clone().or(analysis.map(|analysis| analysis.preset.to_string())) else {
        bail!("--preset is missing: name what is varied (`engine presets` lists them)");
    };
    let work = Work::new(&args, plan, preset)?;
    if args.list {
        list(&work)?;
        return Ok(ExitCode::from(exit::FINISHED));
    }
    args.machine.open()?.into_iter().for_each(note);
    let stop = signals::stop_flag("step")?;
    work.run(stop)
}

fn analysis(name: &str) -> anyhow::Result<&'static Analysis> {
    let known = || ANALYSES.iter().map(|analysis| analysis.name).collect::<Vec<_>>().join(", ");
    ANALYSES
        .iter()
        .find(|analysis| analysis.name == name)
        .with_context(|| format!("there is no analysis '{name}'; there are {}", known()))
}

fn list_analyses() -> anyhow::Result<()> {
    for analysis in &ANALYSES {
        say(format!("{} (preset {}): {}", analysis.name, analysis.preset, analysis.about))?;
        for variant in analysis.variants() {
            say(format!("    {:30}{}", variant.cells[0], variant.settings.join("  ")))?;
        }
    }
    Ok(())
}

fn list(work: &Work) -> anyhow::Result<()> {
    for job in &work.jobs {
        say(format!("{}  {}", job.folder, job.variant.settings.join("  ")))?;
    }
    say(format!("{} runs, phases {}", work.jobs.len(), names(&work.phases)))
}

fn names(phases: &[Phase]) -> String {
    phases.iter().map(|phase| phase.name()).collect::<Vec<_>>().join(", ")
}

/// What a preset is for, by its name.
fn dataset_of(preset: &str) -> Option<DatasetName> {
    let last = preset.rsplit('-').next().unwrap_or(preset);
    DatasetName::recorded(last)
}

/// All that is to be trained and measured.
struct Work<'a> {
    args: &'a Args,
    plan: Plan,
    preset: String,
    dataset: DatasetName,
    out: PathBuf,
    data: PathBuf,
    /// In the order in which they are trained: all variants with a seed before those with the next.
    jobs: Vec<Job>,
    /// Those that any variant needs, so that each is measured by the same networks.
    phases: Vec<Phase>,
    /// By what all are measured.
    wanted: (Protocol, Metrics),
}

/// One run.
struct Job {
    variant: Variant,
    seed: u64,
    /// Within the sweep's folder.
    folder: String,
    config: Config,
}

impl<'a> Work<'a> {
    fn new(args: &'a Args, plan: Plan, preset: String) -> anyhow::Result<Work<'a>> {
        let Some(dataset) = args.dataset.or_else(|| dataset_of(&preset)) else {
            bail!("--dataset is missing: {}", DatasetName::LIST);
        };
        let out = args.out.clone().unwrap_or_default();
        let data = match (&args.data, dataset) {
            (Some(data), _) => data.clone(),
            (None, DatasetName::Demo) => out.join("data"),
            (None, _) if args.list => PathBuf::new(),
            (None, name) => bail!("--data is missing: name the folder that holds {}", name.holds()),
        };
        let mut notes = Vec::new();
        let mut configure = |variant| configuration(&preset, &plan, variant, args.steps, &mut notes);
        let configs = plan.variants.iter().map(&mut configure).collect::<anyhow::Result<Vec<_>>>()?;
        let seeds = args.seeds.as_ref().map_or(vec![configs[0].run.seed], |Seeds(seeds)| seeds.clone());
        let mut jobs = Vec::new();
        for seed in seeds {
            for (variant, config) in plan.variants.iter().zip(&configs) {
                let mut config = config.clone();
                config.run.seed = seed;
                let folder = format!("{}/seed-{seed}", variant.folder);
                jobs.push(Job { variant: variant.clone(), seed, folder, config });
            }
        }
        for (i, job) in jobs.iter().enumerate() {
            if let Some(same) = jobs[..i].iter().find(|other| other.config == job.config) {
                bail!(
                    "{} and {} are the same configuration; vary what the preset uses",
                    same.folder,
                    job.folder
                );
            }
        }
        notes.dedup();
        notes.iter().for_each(|line| note(format!("note: {line}")));
        let required: Vec<Phase> = jobs.iter().flat_map(|job| train::required_phases(&job.config)).collect();
        let phases = Phase::ALL.into_iter().filter(|phase| required.contains(phase)).collect();
        let wanted = args.measurement.wanted()?;
        Ok(Work { args, plan, preset, dataset, out, data, jobs, phases, wanted })
    }

    fn run(&self, stop: Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
        for job in &self.jobs {
            require_same(&self.out.join(&job.folder), &job.config)?;
        }
        std::fs::create_dir_all(&self.out).map_err(|e| Error::io(&self.out, e))?;
        if self.dataset == DatasetName::Demo && !self.data.exists() {
            self.target(&self.jobs[0], &self.out).render()?;
        }
        let before = Sweep::read(&self.out)?.map_or(Vec::new(), |sweep| sweep.runs);
        let mut rows: Vec<Option<Row>> = self.jobs.iter().map(|job| self.known(job, &before)).collect();
        let mut sweep = Sweep {
            engine: revision(),
            command: call().command,
            preset: self.preset.clone(),
            dataset: self.dataset.name().to_string(),
            columns: self.plan.columns.clone(),
            fixed: self.plan.fixed.clone(),
            runs: Vec::new(),
        };
        for (at, job) in self.jobs.iter().enumerate() {
            note(format!("== {} of {}: {}", at + 1, self.jobs.len(), job.folder));
            if rows[at].is_some() {
                note("trained and measured by an earlier call");
                continue;
            }
            let Some(row) = self.row(job, &stop).with_context(|| job.folder.clone())? else {
                return Ok(exit::interrupted());
            };
            rows[at] = Some(row);
            // What an earlier call measured of the runs to come stays.
            sweep.runs = rows.iter().flatten().cloned().collect();
            sweep.write(&self.out)?;
        }
        sweep.runs = rows.into_iter().flatten().collect();
        sweep.write(&self.out)?;
        say(sweep.text())?;
        say(format!("\n{}", self.out.join("sweep.md").display()))?;
        Ok(ExitCode::from(exit::FINISHED))
    }

    /// What an earlier call found of a run.
    fn known(&self, job: &Job, before: &[Row]) -> Option<Row> {
        RunFolder::open(&self.out.join(&job.folder)).ok()?;
        let asked = self.asked();
        let row = before.iter().find(|row| row.folder == job.folder && row.asked == asked)?;
        Some(Row { cells: job.variant.cells.clone(), ..row.clone() })
    }

    fn asked(&self) -> String {
        self.args.measurement.identity(&self.wanted.0)
    }

    /// Trains and measures a run; none where it is interrupted.
    fn row(&self, job: &Job, stop: &Arc<AtomicBool>) -> anyhow::Result<Option<Row>> {
        let root = self.out.join(&job.folder);
        let row = |result| Row {
            cells: job.variant.cells.clone(),
            seed: job.seed,
            settings: job.variant.settings.clone(),
            folder: job.folder.clone(),
            asked: self.asked(),
            result,
        };
        let dataset = self.target(job, &root).open()?;
        match self.train(job, &root, dataset.clone(), stop) {
            Ok(train::Outcome::Finished) => {}
            Ok(_) => return Ok(None),
            Err(diverged @ Error::NotFinite { .. }) => {
                let why = chain(&diverged, ": ");
                note(format!("error: {why}"));
                return Ok(Some(row(Outcome::Diverged(why))));
            }
            Err(error) => return Err(error.into()),
        }
        let run = RunFolder::open(&root)?;
        let sampler = Sampler::open(&run, Weights::default())?;
        let mut shown = Shown::new("evaluation", stop.clone());
        let name = self.dataset.name();
        let measurement = self.args.measurement.job(self.wanted.clone(), &run, &sampler, &dataset, name);
        let place = measurement.place.clone();
        let Some(evaluation) = evaluate(measurement, &mut shown)? else { return Ok(None) };
        // Where `engine eval` writes it, so that a report of the run shows it.
        eval::write(&evaluation, &place.join(eval::file_name(&evaluation, &sampler)))?;
        Ok(Some(row(Outcome::Measured(Box::new(evaluation)))))
    }

    fn train(
        &self,
        job: &Job,
        root: &Path,
        dataset: Dataset,
        stop: &Arc<AtomicBool>,
    ) -> Result<train::Outcome> {
        let run = RunFolder::lock(root)?;
        for phase in [Phase::Damsm, Phase::Captioner].into_iter().filter(|phase| self.phases.contains(phase))
        {
            let taken = self.finished(job, phase, &run)?;
            taken.into_iter().for_each(|from| note(format!("{}: that of {from}", phase.name())));
        }
        let record =
            Record::new(root, &self.preset, self.dataset.name(), &self.data, Fingerprint::of(&dataset));
        let call = call();
        let job = TrainJob {
            config: job.config.clone(),
            dataset,
            record,
            run,
            phases: self.phases.clone(),
            resume: true,
            from: None,
            limit: None,
            deadline: None,
            dump: None,
            notes: Vec::new(),
            resume_command: resume_command(root),
            header: header(&call),
            call,
            stop: stop.clone(),
        };
        train::train(job, &mut Display::default())
    }

    /// Takes a phase from a run of this sweep that has finished it and trained it alike; the folder of that one.
    fn finished(&self, job: &Job, phase: Phase, run: &RunFolder) -> Result<Option<&str>> {
        for other in self.jobs.iter().filter(|other| other.folder != job.folder) {
            if !has_same_phase(phase, &job.config, &other.config) {
                continue;
            }
            let Ok(theirs) = RunFolder::open(&self.out.join(&other.folder)) else { continue };
            if run.take(phase, &theirs)? {
                return Ok(Some(&other.folder));
            }
        }
        Ok(None)
    }

    fn target(&self, job: &Job, out: &Path) -> Target {
        Target {
            out: out.to_path_buf(),
            name: self.dataset,
            data: self.data.clone(),
            config: job.config.clone(),
            preset: self.preset.clone(),
            from: None,
            notes: Vec::new(),
        }
    }
}

/// The preset with a variant's settings, no phase longer than `steps`.
fn configuration(
    preset: &str,
    plan: &Plan,
    variant: &Variant,
    steps: Option<u64>,
    notes: &mut Vec<String>,
) -> anyhow::Result<Config> {
    let settings = [&plan.fixed[..], &variant.settings].concat();
    let mut config = Config::load(preset, &settings)?;
    notes.extend(choose_encoders(&mut config, &settings));
    if let Some(steps) = steps {
        let Config { damsm, captioner, gan, .. } = &mut config;
        for schedule in [&mut damsm.schedule, &mut captioner.schedule, &mut gan.schedule] {
            schedule.steps = Some(schedule.steps.map_or(steps, |own| own.min(steps)));
        }
    }
    Ok(config)
}

/// Refuses a run that another sweep trained.
fn require_same(root: &Path, config: &Config) -> anyhow::Result<()> {
    let Ok(run) = RunFolder::open(root) else { return Ok(()) };
    let differences = config.differences(&run.config()?);
    if let Some((key, here, there)) = differences.first() {
        let why =
            format!("{key} is {there} there and {here} here; take another --out, or remove that folder");
        return Err(Error::data(root, why).into());
    }
    Ok(())
}
