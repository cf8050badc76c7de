//! A run's folder:
//!
//! ```text
//! RUN/config.toml        what the run was made with, complete; on top revision, device, seed, command line
//! RUN/vocabulary.txt     one word a line; the line, from 0, is the word's id
//! RUN/<phase>/           of damsm, captioner, gan: checkpoints, and metrics.json when it is finished
//! RUN/logs/<phase>/      TensorBoard's event files
//! RUN/samples/           images of fixed captions (captions.txt, from the top) with fixed noise, by step
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::phase::Phase;
use crate::config::Config;
use crate::data::Vocabulary;
use crate::error::{Error, Result};
use crate::files::atomic;

pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// A folder that `train` wrote.
    pub fn open(root: &Path) -> Result<RunFolder> {
        let run = RunFolder { root: root.to_path_buf() };
        if !run.config_path().is_file() {
            let why =
                "not a run: there is no config.toml in it; name the folder that `engine train --out` wrote";
            return Err(Error::data(root, why));
        }
        Ok(run)
    }

    /// A folder for training: a new one, or one that was begun with this configuration and these words. Folders and
    /// files of version 0.1.0 get their present names.
    pub fn prepare(root: &Path, config: &Config, vocabulary: &Vocabulary, header: &str) -> Result<RunFolder> {
        fs::create_dir_all(root).map_err(|e| Error::io(root, e))?;
        let run = RunFolder { root: root.to_path_buf() };
        if run.config_path().is_file() {
            run.require_same_config(config)?;
            run.require_same_words(vocabulary)?;
            run.take_present_names()?;
        } else {
            vocabulary.save(run.vocabulary_path())?;
        }
        let text = format!("{header}\n{}", config.to_toml());
        atomic::write(run.config_path(), text.as_bytes())?;
        Ok(run)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn config(&self) -> Result<Config> {
        Config::read(&self.config_path())
    }

    pub fn vocabulary(&self) -> Result<Vocabulary> {
        Vocabulary::load(self.vocabulary_path())
    }

    fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    fn vocabulary_path(&self) -> PathBuf {
        self.root.join("vocabulary.txt")
    }

    fn require_same_config(&self, config: &Config) -> Result<()> {
        let differences = config.differences(&self.config()?);
        let changed: Vec<String> = differences
            .into_iter()
            .filter(|(key, ..)| !may_change(key))
            .map(|(key, ours, theirs)| format!("{key} is {theirs} there and {ours} here"))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let why = format!(
            "the run was begun with another configuration: {}; take another --out",
            changed.join(", ")
        );
        Err(Error::data(&self.root, why))
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

    fn require_same_words(&self, vocabulary: &Vocabulary) -> Result<()> {
        if self.vocabulary()? == *vocabulary {
            return Ok(());
        }
        let why = "the run was begun with another vocabulary than this data set's; take another --out";
        Err(Error::data(self.vocabulary_path(), why))
    }
}

/// A resumed run may change how long it is and how it is watched, but not what it learns.
fn may_change(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    ["steps", "epochs", "workers"].contains(&last) || last.ends_with("_every") || key.starts_with("eval.")
}
