//! Phases that several runs have in common are trained once.

use std::fs;
use std::path::Path;

use super::checkpoint::Checkpoints;
use super::folder::RunFolder;
use super::phase::Phase;
use super::samples::SampleFile;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::atomic;

/// Whether a phase comes out alike under both configurations; one before the GAN, but for the seed.
pub fn has_same_phase(phase: Phase, ours: &Config, theirs: &Config) -> bool {
    let shapes = |key: &str| {
        let sections: &[&str] = match phase {
            Phase::Damsm => &["data.", "text_encoder.", "damsm."],
            // Its small encoder begins with that of DAMSM.
            Phase::Captioner => &["data.", "text_encoder.", "damsm.", "captioner."],
            Phase::Gan => return true,
        };
        let sides = ["generator.stages", "generator.first_ups", "run.precision"];
        sides.contains(&key) || sections.iter().any(|section| key.starts_with(section))
    };
    !ours.differences(theirs).iter().any(|(key, _, _)| shapes(key))
}

impl RunFolder {
    /// Takes a finished phase of another run: its checkpoints, metrics, log and samples. Whether it did; not where this run has
    /// the phase, or the other one has not finished it.
    ///
    /// # Errors
    /// `Io` where the files cannot be written.
    pub fn take(&self, phase: Phase, from: &RunFolder) -> Result<bool> {
        let theirs = Checkpoints::of(from.root(), phase).latest()?;
        if !theirs.is_some_and(|checkpoint| checkpoint.state.finished)
            || Checkpoints::of(self.root(), phase).latest()?.is_some()
        {
            return Ok(false);
        }
        let log = |run: &RunFolder| run.root().join("logs").join(phase.name());
        copy(&log(from), &log(self))?;
        for sample in SampleFile::all(from.root(), phase) {
            copy(&sample.path, &SampleFile::new(self.root(), phase, sample.step).path)?;
        }
        // The checkpoints come last: with them the phase is there.
        copy(&phase.folder(from.root()), &phase.folder(self.root()))?;
        Ok(true)
    }
}

/// A file or a folder, whole or not at all. Checkpoints are never changed once they are written, so one file serves both runs.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() || to.exists() {
        return Ok(());
    }
    let io = |e| Error::io(to, e);
    fs::create_dir_all(to.parent().unwrap_or(Path::new(""))).map_err(io)?;
    let temporary = atomic::beside(to);
    copy_all(from, &temporary).and_then(|()| fs::rename(&temporary, to)).map_err(io)
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let is_weights = from.extension().is_some_and(|extension| extension == "safetensors");
    // Not every file system has links.
    if is_weights && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_phase_reads_decides() {
        let config = |settings: &[&str]| {
            Config::load("demo", &settings.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
        };
        let base = config(&[]);
        for (setting, damsm, captioner) in [
            ("run.seed=3", true, true),
            ("loss.lambda_captioner=5", true, true),
            ("generator.sentence_attention=false", true, true),
            ("gan.schedule.steps=3", true, true),
            ("captioner.hidden=8", true, false),
            ("damsm.gamma1=5", false, false),
            ("generator.stages=2", false, false),
            ("data.augment=true", false, false),
        ] {
            let other = config(&[setting]);
            assert_eq!(has_same_phase(Phase::Damsm, &base, &other), damsm, "{setting}");
            assert_eq!(has_same_phase(Phase::Captioner, &base, &other), captioner, "{setting}");
        }
    }
}
