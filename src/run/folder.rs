//! A run's folder:
//!
//! ```text
//! RUN/config.toml        what the weights were trained with, complete; on top revision, device, command line
//! RUN/run.json           the data set: where it lies, and what identifies it
//! RUN/runs.jsonl         every call that trained: time, command line, revision, what it changed, what was trained
//! RUN/import.json        of a run that was imported: the files that its weights come from
//! RUN/vocabulary.txt     one word a line; the line, from 0, is the word's id
//! RUN/<phase>/           of damsm, captioner, gan: checkpoints, and metrics.json when it is finished
//! RUN/logs/<phase>/      TensorBoard's event files
//! RUN/samples/           images of fixed captions (captions.txt, from the top) with fixed noise, by step
//! RUN/.lock              held by the process that trains
//! ```
//!
//! The configuration changes together with the weights that it describes: at the first checkpoint of a call.

use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, Checkpoints, remove};
use super::phase::Phase;
use super::record::{Change, Record};
use crate::config::{Config, may_change};
use crate::data::Vocabulary;
use crate::error::{Error, Result};
use crate::files::lock::{self, Lock};
use crate::files::{atomic, kind};

pub struct RunFolder {
    root: PathBuf,
    lock: Option<Lock>,
    /// The folder was not there before.
    is_new: bool,
}

impl RunFolder {
    /// A folder that `train` wrote.
    pub fn open(root: &Path) -> Result<RunFolder> {
        let run = RunFolder { root: root.to_path_buf(), lock: None, is_new: false };
        if run.is_begun() {
            return Ok(run);
        }
        let name = "name the folder that `engine train --out` wrote";
        let why = match kind::of(root) {
            Some(kind) => format!("{kind}, not a run; {name}"),
            None if root.is_file() => format!("a file, not a run; {name}"),
            None if root.is_dir() => format!("not a run: there is no config.toml in it; {name}"),
            None => format!("not a run: there is no such folder{}; {name}", run.near_names()),
        };
        Err(Error::data(root, why))
    }

    /// A folder to train in, made where there is none. This process alone may write it until the value is dropped;
    /// what interrupted calls left is removed, and damaged checkpoints are set aside.
    ///
    /// # Errors
    /// `Data` where another process trains in it, `Io` where it cannot be written.
    pub fn lock(root: &Path) -> Result<RunFolder> {
        let is_new = !root.exists();
        fs::create_dir_all(root).map_err(|e| Error::io(root, e))?;
        let run = RunFolder { lock: Some(Lock::acquire(root)?), root: root.to_path_buf(), is_new };
        if run.is_begun() {
            Phase::ALL.iter().try_for_each(|&phase| Checkpoints::of(root, phase).clean())?;
        }
        for folder in [root.to_path_buf(), root.join("samples"), root.join("logs")] {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                if atomic::is_temporary(&entry.file_name().to_string_lossy()) {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(run)
    }

    /// Makes a run of weights that were trained elsewhere, whole or not at all; `fill` writes its checkpoints into a folder
    /// that then gets the name `root`.
    ///
    /// # Errors
    /// `Data` where something stands at `root` already, `Io` where it cannot be written.
    pub fn create(
        root: &Path,
        config: &Config,
        vocabulary: &Vocabulary,
        header: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let is_empty = || fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
        if root.exists() && !is_empty() {
            return Err(Error::data(root, "there is something already; take another --out"));
        }
        let temporary = atomic::beside(root);
        fs::create_dir_all(&temporary).map_err(|e| Error::io(&temporary, e))?;
        let run = RunFolder { root: temporary.clone(), lock: None, is_new: true };
        let write = || {
            fill(&temporary)?;
            vocabulary.save(run.vocabulary_path())?;
            run.write_config(config, header)?;
            fs::rename(&temporary, root).map_err(|e| Error::io(root, e))
        };
        write().inspect_err(|_| drop(fs::remove_dir_all(&temporary)))
    }

    /// The newest checkpoint of a phase, finished or not.
    ///
    /// # Errors
    /// `Data` where there is none yet; those of [`Checkpoints::latest`].
    pub fn newest(&self, phase: Phase) -> Result<Checkpoint> {
        Checkpoints::of(self.root(), phase).latest()?.ok_or_else(|| {
            let why = format!("there is no checkpoint of the {} phase yet; train or import it", phase.name());
            Error::data(self.root(), why)
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether something was trained here, or is about to be.
    pub fn is_begun(&self) -> bool {
        self.config_path().is_file()
    }

    pub fn config(&self) -> Result<Config> {
        Config::read(&self.config_path())
    }

    /// The run's configuration with settings on top.
    pub fn config_with(&self, settings: &[String]) -> Result<Config> {
        Config::read_with(&self.config_path(), settings)
    }

    pub fn vocabulary(&self) -> Result<Vocabulary> {
        Vocabulary::load(self.vocabulary_path())
    }

    /// The data set of the run; none for runs of versions before 0.3.0.
    pub fn record(&self) -> Result<Option<Record>> {
        Record::read(&self.root)
    }

    /// Compares what is to be trained with what the run was begun with: the keys that change.
    ///
    /// # Errors
    /// `Data` where the networks or the data would be others.
    pub fn changes(&self, config: &Config, vocabulary: &Vocabulary, record: &Record) -> Result<Vec<Change>> {
        let change = |(key, to, from)| Change { key, from, to };
        let changes: Vec<Change> = config.differences(&self.config()?).into_iter().map(change).collect();
        let fixed = changes.iter().filter(|change| !may_change(&change.key));
        let fixed: Vec<String> =
            fixed.map(|Change { key, from, to }| format!("{key} is {from} there and {to} here")).collect();
        if !fixed.is_empty() {
            let why = format!(
                "the run was begun with another configuration: {}; take another --out",
                fixed.join(", ")
            );
            return Err(Error::data(&self.root, why));
        }
        self.require_same_data(vocabulary, record)?;
        Ok(changes)
    }

    /// Writes all that a new run has before its first step, and gives folders and files of version 0.1.0 their present
    /// names.
    pub fn begin(
        &self,
        config: &Config,
        vocabulary: &Vocabulary,
        record: &Record,
        header: &str,
    ) -> Result<()> {
        self.take_present_names()?;
        if self.is_begun() {
            return Ok(());
        }
        vocabulary.save(self.vocabulary_path())?;
        record.write(&self.root)?;
        self.write_config(config, header)
    }

    /// Writes what the newest weights were trained with.
    pub fn describe(&self, config: &Config, record: &Record, header: &str) -> Result<()> {
        if self.record()?.as_ref() != Some(record) {
            record.write(&self.root)?;
        }
        self.write_config(config, header)
    }

    fn write_config(&self, config: &Config, header: &str) -> Result<()> {
        let text = format!("{header}\n{}", config.to_toml());
        atomic::write(self.config_path(), text.as_bytes())
    }

    fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    fn vocabulary_path(&self) -> PathBuf {
        self.root.join("vocabulary.txt")
    }

    fn require_same_data(&self, vocabulary: &Vocabulary, record: &Record) -> Result<()> {
        let begun = self.record()?;
        let difference = begun.as_ref().and_then(|begun| begun.fingerprint.difference(&record.fingerprint));
        if let Some(difference) = difference {
            let why = format!(
                "the run was begun with another data set: {difference}; name that one with --data, or take another --out"
            );
            return Err(Error::data(&self.root, why));
        }
        if self.vocabulary()? == *vocabulary {
            return Ok(());
        }
        let why = "the run was begun with another vocabulary than this data set's; take the captions.pickle that belongs to \
                   it, or begin a new run with these weights: --from RUN --out NEW";
        Err(Error::data(self.vocabulary_path(), why))
    }

    fn take_present_names(&self) -> Result<()> {
        let rename = |from: PathBuf, to: PathBuf| match from.exists() && !to.exists() {
            true => fs::rename(&from, to).map_err(|e| Error::io(from, e)),
            false => Ok(()),
        };
        let logs = self.root.join("logs");
        for phase in Phase::ALL {
            let folder = self.root.join(phase.name());
            rename(self.root.join(phase.old_name()), folder.clone())?;
            rename(logs.join(phase.old_name()), logs.join(phase.name()))?;
            rename(folder.join("figures.json"), folder.join("metrics.json"))?;
        }
        Ok(())
    }

    /// Runs beside this folder whose names are like its name, as the end of a sentence.
    fn near_names(&self) -> String {
        const ALIKE: f64 = 0.7;
        let parent = self.root.parent().unwrap_or(Path::new(""));
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        let entries = fs::read_dir(Path::new(".").join(parent)).into_iter().flatten().flatten();
        let runs = entries
            .map(|entry| parent.join(entry.file_name()))
            .filter(|path| path.join("config.toml").is_file());
        let alike = |path: &PathBuf| {
            strsim::jaro_winkler(&name, &path.file_name().unwrap_or_default().to_string_lossy()) >= ALIKE
        };
        let mut near: Vec<String> = runs.filter(alike).map(|path| path.display().to_string()).collect();
        near.sort();
        near.truncate(3);
        if near.is_empty() { String::new() } else { format!(" (near it: {})", near.join(", ")) }
    }
}

/// A folder that was made for nothing goes again.
impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.lock.take().is_none() || !self.is_new {
            return;
        }
        let names = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.file_name());
        if names.into_iter().all(|name| name == lock::NAME) {
            let _ = fs::remove_file(self.root.join(lock::NAME));
            let _ = fs::remove_dir(&self.root);
        }
    }
}
