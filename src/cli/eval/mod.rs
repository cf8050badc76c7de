//! `engine eval`, `eval compare`, `eval pictures` and `eval stats`

mod compare;
mod pictures;
mod real;
mod stats;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, value_parser};

use super::dataset::{self, DatasetName};
use super::infer::{default_batch, parse_truncation, parse_weights};
use super::{Machine, exit, say, signals};
use crate::data::Dataset;
use crate::error::{Error, Result, note};
use crate::eval::evaluate::{Job, MetricName, Metrics, evaluate};
use crate::eval::protocol::{Evaluation, Protocol, ProtocolName};
use crate::files::atomic;
use crate::infer::evaluator::find_weights;
use crate::infer::frozen::RAW_GENERATOR;
use crate::infer::{Sampler, Weights};
use crate::run::RunFolder;

pub(super) use watch::Shown;

/// Measure a run: FID and its kin, each figure with its protocol
///
/// Generates pictures for captions of the held-out split and compares them with its real pictures. Prints the protocol whole, then the
/// figures, and writes both as JSON. Ctrl-C ends the call after the batch that is at work; the same command goes on from there.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    of_run: OfRun,
}

#[derive(Subcommand)]
enum Command {
    /// Put evaluations of one protocol into one table; two protocols are refused
    Compare(compare::Args),
    /// Measure a folder of pictures, whoever made them
    Pictures(pictures::Args),
    /// Compute mean and covariance of real pictures once, for --real
    Stats(stats::Args),
}

#[derive(clap::Args)]
struct OfRun {
    /// The run folder that `engine train --out` wrote
    #[arg(long, value_name = "DIR", required = true)]
    run: Option<PathBuf>,
    /// The run's data set, where it lies elsewhere by now: a folder, or a pack
    #[arg(long, value_name = "DIR|FILE")]
    data: Option<PathBuf>,
    /// What the data set is, for an imported run
    #[arg(long)]
    dataset: Option<DatasetName>,
    #[command(flatten)]
    measurement: Measurement,
    /// The generator's weights, as of infer: a STEP, best, or raw [default: the averaged weights of the newest checkpoint]
    #[arg(long, value_name = "STEP|best|raw", value_parser = parse_weights)]
    checkpoint: Option<Weights>,
    /// Draw z within ±2 and multiply it by this
    #[arg(long, value_name = "T", value_parser = parse_truncation)]
    truncation: Option<f32>,
    /// Mean and covariance of the real side, of `engine eval stats`, pytorch-fid or clean-fid; then fid is what can be had
    #[arg(long, value_name = "STATS.npz")]
    real: Option<PathBuf>,
    /// Keep the generated pictures as PNG files in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// The file of the result [default: RUN/eval/PROTOCOL-step-N.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

/// What is measured, and by which protocol.
#[derive(clap::Args)]
pub(super) struct Measurement {
    /// How it is measured [default: the first of torch-fidelity, t2i, lite0 whose weights are found, else encoder, the run's own]
    #[arg(long, value_parser = protocols())]
    protocol: Option<ProtocolName>,
    /// What is measured, separated by commas [default: all that the protocol defines]
    #[arg(long, value_delimiter = ',', value_parser = metrics())]
    metrics: Option<Vec<MetricName>>,
    /// How many pictures are generated [default: the protocol's number]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=10_000_000))]
    images: Option<u32>,
    /// The seed of noise and captions [default: the protocol's]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Captions that a picture chooses from in R-precision [default: the protocol's number, or as many as there are]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(2..=1_000_000))]
    candidates: Option<u32>,
    /// The evaluator's weights [default: looked for where weights lie]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Pictures that are computed together; it changes no figure [default: as many as their size suggests]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Compare(args)) => compare::run(args),
        Some(Command::Pictures(args)) => pictures::run(args),
        Some(Command::Stats(args)) => stats::run(args),
        None => of_run(args.of_run),
    }
}

fn of_run(args: OfRun) -> anyhow::Result<ExitCode> {
    let on_cpu = args.machine.open()?;
    let run = RunFolder::open(args.run.as_deref().unwrap_or(Path::new("")))?;
    let wanted = args.measurement.wanted()?;
    let sampler = Sampler::open(&run, args.checkpoint.unwrap_or_default())?;
    let (dataset, name) = dataset::of_run(&run, &sampler.config, args.data.as_deref(), args.dataset)?;
    let mut shown = Shown::new("evaluation", signals::stop_flag("batch")?);
    on_cpu.into_iter().for_each(note);
    let job = args.measurement.job(wanted, &run, &sampler, &dataset, name.name());
    let place = job.place.clone();
    let job = Job { real: args.real, truncation: args.truncation, keep: args.keep, ..job };
    let Some(evaluation) = evaluate(job, &mut shown)? else {
        return Ok(exit::interrupted());
    };
    let path = args.json.unwrap_or_else(|| place.join(file_name(&evaluation, &sampler)));
    write(&evaluation, &path)?;
    say(&evaluation)?;
    say(format!("\n{}", path.display()))?;
    Ok(ExitCode::from(exit::FINISHED))
}

impl Measurement {
    /// The protocol with what the command line changes of it, and what is measured by it.
    ///
    /// # Errors
    /// `Config` where the protocol does not define it.
    pub fn wanted(&self) -> Result<(Protocol, Metrics)> {
        let mut protocol = protocol_or_best(self.protocol).protocol();
        if let Some(images) = self.images {
            protocol.generated.images = Some(images as usize);
        }
        protocol.seed = self.seed.unwrap_or(protocol.seed);
        let metrics = Metrics::of(&protocol, self.metrics.as_deref())?;
        Ok((protocol, metrics))
    }

    /// All that figures depend on beside the run, as one text.
    pub fn identity(&self, protocol: &Protocol) -> String {
        let names =
            |metrics: &Vec<MetricName>| metrics.iter().map(|metric| metric.as_str()).collect::<Vec<_>>();
        let all = (protocol, self.metrics.as_ref().map(names), self.candidates, &self.weights);
        serde_json::to_string(&all).unwrap_or_else(|e| unreachable!("plain JSON: {e}"))
    }

    /// The evaluation of a run; `data` is the name of its data set.
    pub fn job<'a>(
        &self,
        (protocol, metrics): (Protocol, Metrics),
        run: &'a RunFolder,
        sampler: &'a Sampler,
        dataset: &'a Dataset,
        data: &str,
    ) -> Job<'a> {
        let batch = self.batch.map_or(default_batch(sampler.config.largest_side()), |batch| batch as usize);
        Job {
            run,
            sampler,
            dataset,
            data: data.to_string(),
            protocol,
            metrics,
            weights: self.weights.clone(),
            real: None,
            truncation: None,
            candidates: self.candidates.map(|candidates| candidates as usize),
            keep: None,
            batch,
            place: run.root().join("eval"),
        }
    }
}

/// The protocol that is asked for, or the best whose weights are found, which a line says.
fn protocol_or_best(asked: Option<ProtocolName>) -> ProtocolName {
    const BEST_FIRST: [ProtocolName; 3] =
        [ProtocolName::TorchFidelity, ProtocolName::T2i, ProtocolName::Lite0];
    if let Some(asked) = asked {
        return asked;
    }
    let is_found = |name: &ProtocolName| {
        name.protocol().recipe.weights.is_some_and(|weights| find_weights(&weights).is_ok())
    };
    let found = BEST_FIRST.into_iter().find(is_found);
    let lacking: Vec<&str> =
        BEST_FIRST.iter().take_while(|name| Some(**name) != found).map(|name| name.as_str()).collect();
    let name = found.unwrap_or(ProtocolName::Encoder);
    let why = match lacking.is_empty() {
        true => String::new(),
        false => format!("; no weights are found for {}", lacking.join(", ")),
    };
    note(format!("note: protocol {}, the best that can be had here{why} (--protocol)", name.as_str()));
    name
}

pub(super) fn file_name(evaluation: &Evaluation, sampler: &Sampler) -> String {
    let (protocol, step) = (evaluation.protocol().name.as_str(), evaluation.conditions().step);
    let raw = if sampler.weights == RAW_GENERATOR { "-raw" } else { "" };
    format!("{protocol}-step-{step}{raw}.json")
}

pub(super) fn write(evaluation: &Evaluation, path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let json = serde_json::to_string_pretty(evaluation)?;
    Ok(atomic::write(path, json.as_bytes())?)
}

fn protocols() -> impl TypedValueParser<Value = ProtocolName> {
    PossibleValuesParser::new(ProtocolName::ALL.map(ProtocolName::as_str))
        .map(|name| ProtocolName::parse(&name).expect("a possible value"))
}

fn metrics() -> impl TypedValueParser<Value = MetricName> {
    PossibleValuesParser::new(MetricName::ALL.map(MetricName::as_str))
        .map(|name| MetricName::parse(&name).expect("a possible value"))
}
