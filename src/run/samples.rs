//! `RUN/samples`: what the networks make of fixed captions and images, by step.

use std::path::{Path, PathBuf};

use super::phase::Phase;

/// A picture that a phase drew after a step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampleFile {
    pub step: u64,
    pub path: PathBuf,
}

impl SampleFile {
    /// `step-000200.png` of the GAN phase, `damsm-step-000200.png` of another.
    pub fn new(run: &Path, phase: Phase, step: u64) -> SampleFile {
        let name = format!("{}step-{step:06}.png", prefix(phase));
        SampleFile { step, path: folder(run).join(name) }
    }

    /// All of a phase, by rising step.
    pub fn all(run: &Path, phase: Phase) -> Vec<SampleFile> {
        let entries = std::fs::read_dir(folder(run)).into_iter().flatten().flatten();
        let prefix = format!("{}step-", prefix(phase));
        let file = |path: PathBuf| {
            let step = path.file_name()?.to_str()?.strip_prefix(&prefix)?.strip_suffix(".png")?;
            Some(SampleFile { step: step.parse().ok()?, path })
        };
        let mut found: Vec<SampleFile> = entries.filter_map(|entry| file(entry.path())).collect();
        found.sort();
        found
    }
}

pub fn folder(run: &Path) -> PathBuf {
    run.join("samples")
}

fn prefix(phase: Phase) -> String {
    if phase == Phase::Gan { String::new() } else { format!("{}-", phase.name()) }
}
