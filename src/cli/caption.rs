//! `engine caption`

use std::path::PathBuf;

use super::{Machine, Run, say};
use crate::data::{Cut, prepare};
use crate::engine::Tensor;
use crate::error::{Error, Result};
use crate::infer::frozen;
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
    let checkpoint = Checkpoints::of(run.root(), Phase::Captioner.name()).latest()?.ok_or_else(|| {
        Error::data(run.root(), "this run has no captioner; train one with --stage captioner")
    })?;
    let captioner = frozen::captioner(&checkpoint.folder, vocabulary.len(), &config)?;
    for path in &args.images {
        let image = square(path, config.gan.largest())?;
        let ids = captioner.describe(&image, config.data.words_eval).remove(0);
        say(format!("{}: {}", path.display(), vocabulary.sentence(&ids)))?;
    }
    Ok(())
}

/// The middle of a picture as the captioner was trained to see it, [1,S,S,3].
fn square(path: &std::path::Path, side: usize) -> Result<Tensor> {
    let picture = prepare(path, None, side)?;
    let cut = picture.cut(side, Cut::center(&picture, side));
    let mut values = Vec::new();
    cut.normalize_into(&mut values);
    Ok(Tensor::from_vec(values, [1, side, side, 3]))
}
