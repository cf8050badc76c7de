//! `engine import`

use std::path::PathBuf;

use super::call::{call, header, program, quoted};
use super::{Lines, Threads};
use crate::error::note;
use crate::import::{ImportJob, import};
use crate::run::Phase;

/// Make a run of checkpoints that PyTorch wrote
///
/// Files of the published code and its forks, .pth of any version or safetensors: netG, text_encoder, image_encoder,
/// caption_cnn, caption_rnn, netD0 to netD2, as many as there are. Which is which is found out by their keys.
#[derive(clap::Args)]
pub struct Args {
    /// The weight files, in any order; one may hold several networks
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The preset that the weights were trained with, or a TOML file like one [default: the only one that fits]
    #[arg(long, value_name = "NAME|FILE")]
    preset: Option<String>,
    /// Change a value of the preset, such as a width; `train --set help` lists the keys
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The words of the weights in their order: captions.pickle, or a text file with a word a line
    #[arg(long, value_name = "FILE")]
    captions: PathBuf,
    /// The run folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    args.threads.set()?;
    let Args { files, preset, set: settings, captions: vocabulary, out, .. } = args;
    let header = header(&call());
    let job = ImportJob { files, vocabulary, preset, settings, out, header };
    let imported = import(&job)?;
    imported.notes.iter().for_each(|line| note(format!("note: {line}")));
    let mut list = Lines::default();
    imported.networks.iter().for_each(|line| list.say(line));
    let (engine, run) = (program(), quoted(&job.out.to_string_lossy()));
    let has = |phase: Phase| phase.folder(&job.out).exists();
    let next = match (has(Phase::Gan), has(Phase::Damsm)) {
        (true, true) => format!("try: {engine} infer --run {run} \"this bird is red with black wings\""),
        _ => format!("go on with: {engine} train --resume {run} --dataset NAME --data DIR"),
    };
    list.say(format!("{} is ready, of the preset {}; {next}", job.out.display(), imported.preset));
    list.end()
}
