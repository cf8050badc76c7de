//! `engine caption`

use std::path::PathBuf;

use super::{Machine, Run, say};
use crate::error::Error;
use crate::infer::{center_square, frozen};
use crate::run::{Checkpoints, Phase, RunFolder};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// JPEG or PNG files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    args.machine.set()?;
    let run = RunFolder::open(&args.run.folder)?;
    let (config, vocabulary) = (run.config()?, run.vocabulary()?);
    let checkpoint = Checkpoints::of(run.root(), Phase::Captioner).latest()?.ok_or_else(|| {
        Error::data(run.root(), "this run has no captioner; train one with --phase captioner")
    })?;
    let captioner = frozen::captioner(&checkpoint.folder, vocabulary.len(), &config)?;
    for path in &args.images {
        let image = center_square(path, config.largest_side())?;
        let ids = captioner.describe(&image, config.data.words_eval).remove(0);
        say(format!("{}: {}", path.display(), vocabulary.sentence(&ids)))?;
    }
    Ok(())
}
