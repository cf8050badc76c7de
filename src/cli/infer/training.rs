//! `--training-gif`: the sample grids of a training, one after the other.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{exit, say};
use crate::data::{DecodeConfig, Picture, decode};
use crate::error::{Error, note};
use crate::files::atomic;
use crate::render::{Frame, gif};
use crate::run::{Phase, RunFolder, SampleFile, samples};

/// Writes `training.gif` into `out` of the GAN phase's grids.
pub(super) fn write_gif(run: &RunFolder, out: &Path) -> anyhow::Result<ExitCode> {
    const SHOWN: u32 = 400;
    const LAST: u32 = 2500;
    let grids = SampleFile::all(run.root(), Phase::Gan);
    let Some(newest) = grids.last() else {
        let why = "there are no sample grids of the GAN phase yet (step-*.png); train with run.sample_every steps or more";
        return Err(Error::data(samples::folder(run.root()), why).into());
    };
    let size = |picture: &Picture| (picture.width, picture.height);
    let newest = size(&read(&newest.path)?);
    let (mut frames, mut left_out) = (Vec::new(), 0);
    for SampleFile { path, .. } in &grids {
        let picture = read(path)?;
        // Grids of earlier versions, or with other settings, have another size.
        match size(&picture) == newest {
            true => frames.push(Frame { picture, milliseconds: SHOWN }),
            false => left_out += 1,
        }
    }
    if left_out > 0 {
        note(format!("note: {left_out} sample grids of another size than the newest are left out"));
    }
    if let Some(last) = frames.last_mut() {
        last.milliseconds = LAST;
    }
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e)).context("no place for the animation")?;
    let path = out.join("training.gif");
    atomic::write(&path, &gif(frames))?;
    say(path.display())?;
    Ok(ExitCode::from(exit::FINISHED))
}

fn read(path: &Path) -> anyhow::Result<Picture> {
    Ok(decode(path, &DecodeConfig::default())?.picture)
}
