//! `engine eval stats`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::value_parser;

use super::{Shown, protocols};
use crate::cli::dataset::{self, DatasetName};
use crate::cli::{Machine, exit, say, signals};
use crate::config::Config;
use crate::data::{self, Skip};
use crate::error::{Result, note};
use crate::eval::evaluate::{Pictures, Source, features, named, open_evaluator, pictures_of, real_items};
use crate::eval::protocol::{Crop, ProtocolName};
use crate::run::RunFolder;

#[derive(clap::Args)]
pub struct Args {
    /// A folder of pictures, which are taken as they are; or, with --dataset or --run, a data set's folder or pack, whose held-out
    /// pictures are cut as the protocol says
    #[arg(value_name = "DIR|FILE")]
    data: PathBuf,
    /// How the pictures are measured
    #[arg(long, value_parser = protocols())]
    protocol: ProtocolName,
    /// How the data set is laid out
    #[arg(long, conflicts_with = "run")]
    dataset: Option<DatasetName>,
    /// The run whose data set it is, and whose encoder the protocol encoder takes
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The folder holds pictures and no data set, though --run is given
    #[arg(long, requires = "run")]
    pictures: bool,
    /// The side of the generated pictures that they will be compared with [default: the run's, or that of the data set's preset]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(4..=16384))]
    side: Option<u32>,
    /// The evaluator's weights [default: looked for where weights lie]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Pictures that are computed together; it changes no number
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// The file to write
    #[arg(long, value_name = "FILE.npz")]
    out: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let on_cpu = args.machine.open()?;
    let run = args.run.as_deref().map(RunFolder::open).transpose()?;
    let config = match (&run, args.dataset) {
        (Some(run), _) => Some(run.config()?),
        (None, Some(name)) => Some(Config::load(name.name(), &[])?),
        (None, None) => None,
    };
    let mut protocol = args.protocol.protocol();
    let name = args.protocol.as_str();
    if protocol.recipe.weights.is_none() && run.is_none() {
        bail!("the protocol {name} evaluates by a run's own encoder: name the run with --run");
    }
    let dataset = match (&config, args.dataset, &run) {
        (Some(config), Some(name), _) => {
            Some((data::open(name.format(), &args.data, &config.data.open)?, name))
        }
        (Some(config), None, Some(run)) if !args.pictures => {
            Some(dataset::of_run(run, config, Some(&args.data), None)?)
        }
        _ => None,
    };
    if dataset.is_none() && args.data.is_file() {
        bail!("{}: a file; a pack needs --dataset, and pictures lie in a folder", args.data.display());
    }
    let side =
        args.side.map(|side| side as usize).or(config.as_ref().map(Config::largest_side)).unwrap_or(64);
    let files;
    let (pictures, data) = match (&dataset, &config) {
        (Some((dataset, name)), Some(config)) => {
            let (items, remark) = real_items(dataset, &mut protocol)?;
            remark.into_iter().for_each(note);
            if protocol.real.crop == Crop::TrainingSquare {
                dataset.require_prepared(side, &config.data.decode)?;
            }
            let (crop, decode) = (protocol.real.crop, config.data.decode);
            (Pictures::Items { items, crop, side, decode }, named(name.name(), dataset))
        }
        _ => {
            files = named_files(&args.data)?;
            (Pictures::Files(&files), format!("the {} pictures of a folder", files.len()))
        }
    };
    let evaluator = open_evaluator(&protocol, args.weights.as_deref(), run.as_ref())?;
    evaluator.warning().iter().for_each(|warning| note(format!("warning: {warning}")));
    let mut shown = Shown::new("statistics", signals::stop_flag("batch")?);
    on_cpu.into_iter().for_each(note);
    let seen = features(&pictures, &evaluator, args.batch as usize, None, "real", &mut shown)?;
    let Some(features) = seen else {
        note("interrupted: nothing is written");
        return Ok(ExitCode::from(exit::INTERRUPTED));
    };
    require_two(features.len(), &args.data)?;
    let (weights, as_they_are) = (evaluator.weights().clone(), matches!(pictures, Pictures::Files(_)));
    Source { protocol, weights, data, as_they_are }.write(&features, &args.out)?;
    let (count, width, out) = (features.len(), features.width(), args.out.display());
    say(format!("{out}: mean and covariance of {count} pictures, {width} features each"))?;
    Ok(ExitCode::from(exit::FINISHED))
}

fn require_two(count: usize, folder: &Path) -> anyhow::Result<()> {
    if count < 2 {
        let folder = folder.display();
        bail!("{folder}: {count} picture that can be used; mean and covariance need 2 at least");
    }
    Ok(())
}

/// The pictures of a folder; a note says what cannot be used.
fn named_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (files, skipped) = pictures_of(folder)?;
    for Skip { file, why } in skipped {
        note(format!("note: left out: {}: {why}", file.display()));
    }
    Ok(files)
}
