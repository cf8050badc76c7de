//! `--training-gif`: the sample grids of a training, one after the other.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{exit, say};
use crate::data::Picture;
use crate::error::{Error, note};
use crate::files::atomic;
use crate::render::{Frame, gif};
use crate::run::RunFolder;

/// Writes `training.gif` into `out` of the GAN phase's grids.
pub(super) fn write_gif(run: &RunFolder, out: &Path) -> anyhow::Result<ExitCode> {
    const SHOWN: u32 = 400;
    const LAST: u32 = 2500;
    let folder = run.root().join("samples");
    let grids = grids(&folder)?;
    let Some(newest) = grids.last() else {
        let why = "there are no sample grids of the GAN phase yet (step-*.png); train with run.sample_every steps or more";
        return Err(Error::data(folder, why).into());
    };
    let size = |picture: &Picture| (picture.width, picture.height);
    let newest = size(&read(newest)?);
    let (mut frames, mut left_out) = (Vec::new(), 0);
    for path in &grids {
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

/// By rising step.
fn grids(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let step = name.strip_prefix("step-").and_then(|name| name.strip_suffix(".png"));
        found.extend(step.and_then(|step| step.parse::<u64>().ok()).map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn read(path: &Path) -> anyhow::Result<Picture> {
    let image =
        image::open(path).map_err(|e| Error::data(path, format!("not a readable PNG ({e})")))?.into_rgb8();
    Ok(Picture { width: image.width() as usize, height: image.height() as usize, pixels: image.into_raw() })
}
