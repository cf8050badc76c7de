//! `engine eval pictures`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::value_parser;

use super::real::{RealArgs, named_files, require_encoder};
use super::{Shown, metrics, protocols, write};
use crate::cli::{Machine, exit, say, signals};
use crate::error::note;
use crate::eval::evaluate::{FolderJob, MetricName, Metrics, Real, evaluate_folder};
use crate::eval::protocol::ProtocolName;

#[derive(clap::Args)]
pub struct Args {
    /// The folder of pictures, which are taken as they are
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// What they are compared with: a folder of pictures; with --dataset or --run, a data set's folder or pack, whose held-out pictures
    /// are cut as the protocol says; or a file of mean and covariance, of `engine eval stats`, pytorch-fid or clean-fid
    #[arg(long, value_name = "DIR|FILE", required = true)]
    real: PathBuf,
    /// How they are measured
    #[arg(long, value_parser = protocols())]
    protocol: ProtocolName,
    #[command(flatten)]
    of_real: RealArgs,
    /// What is measured, separated by commas: fid, kid, is, precision-recall or mind [default: all that the protocol defines]
    #[arg(long, value_delimiter = ',', value_parser = metrics())]
    metrics: Option<Vec<MetricName>>,
    /// The evaluator's weights [default: looked for where weights lie]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Pictures that are computed together; it changes no figure
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Write the result to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let on_cpu = args.machine.open()?;
    let mut protocol = args.protocol.protocol().of_folder();
    let metrics = Metrics::of(&protocol, args.metrics.as_deref())?;
    let files = named_files(&args.folder)?;
    let of_statistics = args.real.is_file() && args.real.extension().is_some_and(|end| end == "npz");
    let (opened, run);
    let (real, run) = match of_statistics {
        true => {
            run = args.of_real.run()?;
            require_encoder(&protocol, run.as_ref())?;
            (Real::Statistics(&args.real), run.as_ref())
        }
        false => {
            opened = args.of_real.open(&args.real, &protocol)?;
            let (pictures, name) = opened.pictures(&mut protocol)?;
            (Real::Pictures { at: &args.real, pictures, name }, opened.run.as_ref())
        }
    };
    let mut shown = Shown::new("evaluation", signals::stop_flag("batch")?);
    on_cpu.into_iter().for_each(note);
    let (folder, weights) = (args.folder.as_path(), args.weights.as_deref());
    let batch = args.batch as usize;
    let job = FolderJob { folder, files: &files, real, protocol, metrics, weights, run, batch };
    let Some(evaluation) = evaluate_folder(job, &mut shown)? else {
        note("interrupted: nothing is written");
        return Ok(ExitCode::from(exit::INTERRUPTED));
    };
    say(&evaluation)?;
    if let Some(path) = &args.json {
        write(&evaluation, path)?;
        say(format!("\n{}", path.display()))?;
    }
    Ok(ExitCode::from(exit::FINISHED))
}
