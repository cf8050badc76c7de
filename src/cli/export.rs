//! `engine export`

use std::path::PathBuf;

use anyhow::bail;
use clap::ValueEnum;

use super::{Lines, Run};
use crate::engine::nn::Archive;
use crate::error::Error;
use crate::infer::frozen::weight_file;
use crate::run::{Checkpoints, Phase, RunFolder, State};

/// Write a run's networks as files for other programs
///
/// A file for each network of the newest checkpoint of each phase, under its published name and with its published keys, and
/// vocabulary.txt with a word a line. netG holds the averaged weights, netG_raw those that are trained.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// A folder, which may be new
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The files' format; pth is PyTorch's, which torch.load(weights_only=True) opens
    #[arg(long, default_value = "pth")]
    format: FormatName,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum FormatName {
    Pth,
    Safetensors,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let run = RunFolder::open(&args.run.folder)?;
    let vocabulary = run.vocabulary()?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, e))?;
    let mut list = Lines::default();
    for phase in Phase::ALL {
        let Some(checkpoint) = Checkpoints::of(run.root(), phase).latest()? else { continue };
        for name in checkpoint.networks()? {
            let archive = Archive::read(weight_file(&checkpoint.folder, &name))?;
            archive.require_finite()?;
            let path = match args.format {
                FormatName::Pth => args.out.join(format!("{name}.pth")),
                FormatName::Safetensors => weight_file(&args.out, &name),
            };
            match args.format {
                FormatName::Pth => archive.write_pth(&path)?,
                FormatName::Safetensors => archive.write(&path)?,
            }
            let State { step, imported, .. } = checkpoint.state;
            let when = if imported { ", imported".to_string() } else { format!(" at step {step}") };
            list.say(format!("{}  {}{when}", path.display(), phase.name()));
        }
    }
    if list.is_empty() {
        bail!("{}: there is no checkpoint to export yet; train first", run.root().display());
    }
    let words = args.out.join("vocabulary.txt");
    vocabulary.save(&words)?;
    list.say(format!("{}  {} words", words.display(), vocabulary.len()));
    list.end()
}
