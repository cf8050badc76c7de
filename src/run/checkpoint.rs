//! Checkpoints of a phase: `<run>/<phase>/step-000123/`, each whole or absent, the last two kept.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::phase::Phase;
use crate::error::{Error, Result};
use crate::files::atomic;

/// How many checkpoints are kept. One is not enough: a full disk or a bad step may spoil the newest.
const KEPT: usize = 2;
const STATE: &str = "state.json";

/// How far a phase is. Random numbers and batches are functions of seed and step, so nothing else is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version 0.1.0 called it the stage.
    #[serde(alias = "stage")]
    pub phase: Phase,
    /// Steps taken.
    pub step: u64,
    pub epoch: u64,
    pub seed: u64,
    pub finished: bool,
}

pub struct Checkpoint {
    pub folder: PathBuf,
    pub state: State,
}

/// The checkpoints of one phase.
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    pub fn of(run: &Path, phase: Phase) -> Checkpoints {
        Checkpoints { folder: phase.folder(run) }
    }

    /// The newest, if there is one.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let Some(folder) = self.all()?.pop() else { return Ok(None) };
        let path = folder.join(STATE);
        let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let state = serde_json::from_str(&text)
            .map_err(|e| Error::data(&path, format!("not a training state ({e}); remove this checkpoint")))?;
        Ok(Some(Checkpoint { folder, state }))
    }

    /// Writes a checkpoint: `fill` puts files into a folder with a temporary name, which then gets its own.
    pub fn save(&self, state: &State, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let temporary = self.folder.join(format!(".step-{:06}.{}.tmp", state.step, std::process::id()));
        let written = self.write(&temporary, state, fill);
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written
    }

    fn write(
        &self,
        temporary: &Path,
        state: &State,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        fs::create_dir_all(temporary).map_err(|e| Error::io(temporary, e))?;
        fill(temporary)?;
        let json = serde_json::to_string_pretty(state).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        atomic::write(temporary.join(STATE), json.as_bytes())?;
        let folder = self.folder.join(format!("step-{:06}", state.step));
        replace(temporary, &folder).map_err(|e| Error::io(&folder, e))?;
        self.prune()?;
        Ok(folder)
    }

    fn prune(&self) -> Result<()> {
        let all = self.all()?;
        for old in &all[..all.len().saturating_sub(KEPT)] {
            fs::remove_dir_all(old).map_err(|e| Error::io(old, e))?;
        }
        Ok(())
    }

    /// By rising step.
    fn all(&self) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&self.folder, e)),
        };
        let step_of =
            |path: &Path| -> Option<u64> { path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok() };
        let mut found: Vec<_> =
            entries.flatten().filter_map(|e| Some((step_of(&e.path())?, e.path()))).collect();
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }
}

/// Renames a folder, in place of one that may stand there.
fn replace(from: &Path, to: &Path) -> std::io::Result<()> {
    let old = to.with_extension("old");
    if to.exists() {
        fs::rename(to, &old)?;
    }
    fs::rename(from, to)?;
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: u64) -> State {
        State { phase: Phase::Gan, step, epoch: 0, seed: 1, finished: false }
    }

    #[test]
    fn the_last_two_are_kept_and_the_newest_is_found() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(run.path(), Phase::Gan);
        assert!(checkpoints.latest().unwrap().is_none());
        for step in [5, 999_999, 1_000_000] {
            checkpoints.save(&state(step), |folder| atomic::write(folder.join("x"), b"x")).unwrap();
        }
        assert_eq!(checkpoints.latest().unwrap().unwrap().state.step, 1_000_000);
        assert_eq!(checkpoints.all().unwrap().len(), 2);
    }

    #[test]
    fn a_checkpoint_that_fails_leaves_the_earlier_ones() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(run.path(), Phase::Gan);
        checkpoints.save(&state(1), |_| Ok(())).unwrap();
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = checkpoints.save(&state(2), |folder| Err(Error::io(folder, full))).unwrap_err();
        assert!(error.to_string().contains("step-000002"), "{error}");
        assert_eq!(checkpoints.latest().unwrap().unwrap().state, state(1));
        assert_eq!(fs::read_dir(run.path().join("gan")).unwrap().count(), 1);
    }
}
