//! Checkpoints of a phase: `<run>/<phase>/step-000123/`, each whole or absent; the last two and the best are kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::phase::Phase;
use crate::engine::nn::archive::require_whole;
use crate::error::{Error, Result, chain, note};
use crate::files::atomic;

/// How many checkpoints are kept. One is not enough: a full disk or a bad step may spoil the newest.
const KEPT: usize = 2;
const STATE: &str = "state.json";
const BEST: &str = "best.json";
/// The file stem of the moments and averages of a phase's optimizers.
pub const OPTIMIZER: &str = "optimizer";

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
    /// The steps of the other phases' checkpoints that this one was trained with.
    #[serde(default)]
    pub after: BTreeMap<Phase, u64>,
    /// Trained elsewhere, before the first step of this phase here; there is no optimizer's state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// Its weight files; none are named by versions before 0.3.0.
    #[serde(default)]
    pub files: Vec<String>,
}

/// The checkpoint that did best on held-out images, kept beside the last ones: `<run>/<phase>/best.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub metric: String,
    pub value: f64,
}

#[derive(Debug)]
pub struct Checkpoint {
    pub folder: PathBuf,
    pub state: State,
}

impl Checkpoint {
    /// Reads the state, and looks whether every file is there and whole.
    fn read(folder: PathBuf, phase: Phase) -> Result<Checkpoint> {
        let path = folder.join(STATE);
        let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let state: State = serde_json::from_str(&text)
            .map_err(|e| Error::data(&path, format!("not a training state ({e})")))?;
        if state.phase != phase || Some(state.step) != step_of(&folder) {
            let why = format!("the state of another checkpoint ({} step {})", state.phase.name(), state.step);
            return Err(Error::data(&path, why));
        }
        let present = weight_files(&folder)?;
        let missing = state.files.iter().find(|name| !present.contains(name));
        if let Some(name) = missing {
            return Err(Error::data(&path, format!("it names {name:?}, and that file is missing")));
        }
        present.iter().try_for_each(|name| require_whole(&folder.join(name)))?;
        Ok(Checkpoint { folder, state })
    }

    /// File stems of its networks.
    pub fn networks(&self) -> Result<Vec<String>> {
        let files = weight_files(&self.folder)?;
        let stems = files.iter().filter_map(|name| name.strip_suffix(".safetensors"));
        Ok(stems.filter(|stem| *stem != OPTIMIZER).map(str::to_string).collect())
    }

    /// Its name within the run, such as `gan/step-000123`.
    pub fn name(&self) -> String {
        format!("{}/step-{:06}", self.state.phase.name(), self.state.step)
    }
}

fn weight_files(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".safetensors")).collect();
    names.sort();
    Ok(names)
}

/// The checkpoints of one phase.
pub struct Checkpoints {
    folder: PathBuf,
    phase: Phase,
}

impl Checkpoints {
    pub fn of(run: &Path, phase: Phase) -> Checkpoints {
        Checkpoints { folder: phase.folder(run), phase }
    }

    /// The newest that is whole, if there is one. Damaged ones are named and passed over.
    ///
    /// # Errors
    /// That of the newest, where all are damaged.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let mut damaged: Vec<(String, Error)> = Vec::new();
        for folder in self.all()?.into_iter().rev() {
            match Checkpoint::read(folder.clone(), self.phase) {
                Ok(checkpoint) => {
                    for (folder, error) in &damaged {
                        let why = chain(error, ": ");
                        note(format!("note: the checkpoint {folder} is damaged and passed over: {why}"));
                    }
                    return Ok(Some(checkpoint));
                }
                Err(error) => damaged.push((folder.display().to_string(), error)),
            }
        }
        match damaged.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(None),
        }
    }

    /// The best so far; none where it is gone or damaged.
    pub fn best(&self) -> Option<Best> {
        let best: Best = serde_json::from_str(&fs::read_to_string(self.folder.join(BEST)).ok()?).ok()?;
        self.folder.join(name_of(best.step)).is_dir().then_some(best)
    }

    /// From now on the checkpoint of this step is kept as the best.
    pub fn keep_best(&self, best: &Best) -> Result<()> {
        let json = serde_json::to_string(best).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        atomic::write(self.folder.join(BEST), json.as_bytes())?;
        self.prune()
    }

    /// The one at `step`.
    ///
    /// # Errors
    /// `Data` where there is none, with the steps that there are; why it is damaged.
    pub fn at(&self, step: u64) -> Result<Checkpoint> {
        let folder = self.folder.join(name_of(step));
        if folder.is_dir() {
            return Checkpoint::read(folder, self.phase);
        }
        let steps = self.all()?;
        let steps: Vec<String> =
            steps.iter().filter_map(|folder| step_of(folder)).map(|s| s.to_string()).collect();
        let there = match steps.is_empty() {
            true => "there is none of this phase".to_string(),
            false => format!("there are those of steps {}", steps.join(", ")),
        };
        Err(Error::data(folder, format!("no such checkpoint; {there}")))
    }

    /// Renames a checkpoint, so that none finds it any more: `step-000123.nan`.
    pub fn set_aside(&self, step: u64, why: &str) -> Result<Option<PathBuf>> {
        let folder = self.folder.join(name_of(step));
        if !folder.exists() {
            return Ok(None);
        }
        let aside = folder.with_extension(why);
        remove(&aside)?;
        fs::rename(&folder, &aside).map_err(|e| Error::io(&folder, e))?;
        Ok(Some(aside))
    }

    /// Sets damaged checkpoints aside and removes what interrupted calls left. For the process that holds the run's
    /// lock.
    pub fn clean(&self) -> Result<()> {
        for name in names_in(&self.folder)? {
            let path = self.folder.join(&name);
            if atomic::is_temporary(&name) {
                remove(&path)?;
            } else if let Some(name) = name.strip_suffix(".old").filter(|name| name.starts_with("step-")) {
                // A checkpoint that was about to be replaced; see `replace`.
                let present = self.folder.join(name);
                if present.exists() {
                    remove(&path)?;
                } else {
                    fs::rename(&path, &present).map_err(|e| Error::io(&path, e))?;
                }
            }
        }
        for folder in self.all()? {
            let Err(error) = Checkpoint::read(folder.clone(), self.phase) else { continue };
            let Some(aside) = self.set_aside(step_of(&folder).unwrap_or(0), "damaged")? else { continue };
            let (why, aside) = (chain(&error, ": "), aside.display());
            note(format!("note: a checkpoint is damaged and set aside as {aside}: {why}"));
        }
        Ok(())
    }

    /// Writes a checkpoint: `fill` puts files into a folder with a temporary name, which then gets its own.
    pub fn save(&self, state: &State, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Checkpoint> {
        let temporary = self.folder.join(format!(".step-{:06}.{}.tmp", state.step, std::process::id()));
        let written = self.write(&temporary, state.clone(), fill);
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written
    }

    fn write(
        &self,
        temporary: &Path,
        mut state: State,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Checkpoint> {
        fs::create_dir_all(temporary).map_err(|e| Error::io(temporary, e))?;
        fill(temporary)?;
        state.files = weight_files(temporary)?;
        let json = serde_json::to_string_pretty(&state).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        atomic::write(temporary.join(STATE), json.as_bytes())?;
        let folder = self.folder.join(name_of(state.step));
        replace(temporary, &folder).map_err(|e| Error::io(&folder, e))?;
        self.prune()?;
        Ok(Checkpoint { folder, state })
    }

    fn prune(&self) -> Result<()> {
        let (all, best) = (self.all()?, self.best().map(|best| best.step));
        for old in all[..all.len().saturating_sub(KEPT)].iter().filter(|old| step_of(old) != best) {
            fs::remove_dir_all(old).map_err(|e| Error::io(old, e))?;
        }
        Ok(())
    }

    /// By rising step.
    fn all(&self) -> Result<Vec<PathBuf>> {
        let paths = names_in(&self.folder)?.into_iter().map(|name| self.folder.join(name));
        let mut found: Vec<_> = paths.filter_map(|path| Some((step_of(&path)?, path))).collect();
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }
}

fn name_of(step: u64) -> String {
    format!("step-{step:06}")
}

fn step_of(folder: &Path) -> Option<u64> {
    let step: u64 = folder.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
    (folder.file_name()?.to_str()? == name_of(step)).then_some(step)
}

/// None where there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(folder, e)),
    }
}

/// Removes a file or a folder, which may be absent.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(|e| Error::io(path, e))
}

/// Renames a folder, in place of one that may stand there.
fn replace(from: &Path, to: &Path) -> std::io::Result<()> {
    let old = to.with_extension("old");
    if to.exists() {
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
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
        State {
            phase: Phase::Gan,
            step,
            epoch: 0,
            seed: 1,
            finished: false,
            imported: false,
            after: BTreeMap::new(),
            files: vec![],
        }
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
    fn the_best_is_kept_beside_the_last_two() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(run.path(), Phase::Gan);
        let best = |step| Best { step, metric: "r_precision".to_string(), value: 0.5 };
        for step in 1..=6 {
            checkpoints.save(&state(step), |_| Ok(())).unwrap();
            if [2, 4].contains(&step) {
                checkpoints.keep_best(&best(step)).unwrap();
            }
        }
        assert_eq!(checkpoints.best(), Some(best(4)));
        let steps = || checkpoints.all().unwrap().iter().filter_map(|f| step_of(f)).collect::<Vec<_>>();
        assert_eq!(steps(), [4, 5, 6]);
        checkpoints.set_aside(4, "diverged").unwrap();
        assert_eq!(checkpoints.best(), None);
        checkpoints.save(&state(7), |_| Ok(())).unwrap();
        assert_eq!(steps(), [6, 7]);
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

    /// The newest has no state, is an empty folder, or has lost a file or a part of one.
    #[test]
    fn a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken() {
        let weights = b"\x08\0\0\0\0\0\0\0{}      ";
        for damage in ["no state", "empty", "a file gone", "no bytes", "cut"] {
            let run = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::of(run.path(), Phase::Gan);
            for step in [1, 2] {
                let fill = |folder: &Path| atomic::write(folder.join("netG.safetensors"), weights);
                checkpoints.save(&state(step), fill).unwrap();
            }
            let newest = run.path().join("gan/step-000002");
            let file = newest.join("netG.safetensors");
            match damage {
                "no state" => fs::remove_file(newest.join(STATE)).unwrap(),
                "empty" => {
                    fs::read_dir(&newest).unwrap().flatten().for_each(|e| fs::remove_file(e.path()).unwrap())
                }
                "a file gone" => fs::remove_file(file).unwrap(),
                "no bytes" => fs::write(file, b"").unwrap(),
                _ => fs::write(file, &weights[..10]).unwrap(),
            }
            assert_eq!(checkpoints.latest().unwrap().unwrap().state.step, 1, "{damage}");
            assert!(newest.exists(), "a reader changes nothing");
            checkpoints.clean().unwrap();
            assert!(!newest.exists() && newest.with_extension("damaged").exists(), "{damage}");
            assert_eq!(checkpoints.latest().unwrap().unwrap().state.step, 1, "{damage}");
        }
    }

    #[test]
    fn what_interrupted_calls_left_is_cleaned() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of(run.path(), Phase::Gan);
        checkpoints.save(&state(3), |_| Ok(())).unwrap();
        let gan = run.path().join("gan");
        fs::create_dir(gan.join(".step-000009.77.tmp")).unwrap();
        // Killed between both renames of `replace`: the old one is all there is.
        fs::rename(gan.join("step-000003"), gan.join("step-000003.old")).unwrap();
        checkpoints.clean().unwrap();
        assert_eq!(checkpoints.latest().unwrap().unwrap().state.step, 3);
        fs::create_dir(gan.join("step-000003.old")).unwrap();
        checkpoints.clean().unwrap();
        assert_eq!(names_in(&gan).unwrap(), ["step-000003"]);
        // It blocks no later save either.
        fs::create_dir(gan.join("step-000003.old")).unwrap();
        fs::write(gan.join("step-000003.old/x"), b"x").unwrap();
        checkpoints.save(&state(3), |_| Ok(())).unwrap();
        assert_eq!(names_in(&gan).unwrap(), ["step-000003"]);
    }
}
