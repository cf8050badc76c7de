//! `engine eval stats`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::value_parser;

use super::real::RealArgs;
use super::{Shown, protocols};
use crate::cli::{Machine, exit, say, signals};
use crate::error::note;
use crate::eval::evaluate::{Source, features, open_evaluator};
use crate::eval::protocol::ProtocolName;

#[derive(clap::Args)]
pub struct Args {
    /// A folder of pictures, which are taken as they are; or, with --dataset or --run, a data set's folder or pack, whose held-out
    /// pictures are cut as the protocol says
    #[arg(value_name = "DIR|FILE")]
    data: PathBuf,
    /// How the pictures are measured
    #[arg(long, value_parser = protocols())]
    protocol: ProtocolName,
    #[command(flatten)]
    real: RealArgs,
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
    let mut protocol = args.protocol.protocol();
    let real = args.real.open(&args.data, &protocol)?;
    let (pictures, data) = real.pictures(&mut protocol)?;
    let evaluator = open_evaluator(&protocol, args.weights.as_deref(), real.run.as_ref())?;
    evaluator.warning().iter().for_each(|warning| note(format!("warning: {warning}")));
    let mut shown = Shown::new("statistics", signals::stop_flag("batch")?);
    on_cpu.into_iter().for_each(note);
    let seen = features(&pictures, &evaluator, args.batch as usize, None, "real", &mut shown)?;
    let Some(features) = seen else {
        note("interrupted: nothing is written");
        return Ok(ExitCode::from(exit::INTERRUPTED));
    };
    require_two(features.len(), &args.data)?;
    let weights = evaluator.weights().clone();
    Source { protocol, weights, data }.write(&features, &args.out)?;
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
