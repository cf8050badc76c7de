//! A run's folder:
//!
//! ```text
//! RUN/config.toml        what the run was made with, complete; on top revision, device, seed, command line
//! RUN/vocabulary.txt     one word a line; the line, from 0, is the word's id
//! RUN/damsm|stream|gan/  checkpoints
//! RUN/logs/<stage>/      TensorBoard's event files
//! RUN/samples/           fixed captions (captions.txt, from the top) with fixed noise, as training went on
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::data::Vocabulary;
use crate::error::{Error, Result};
use crate::files::atomic;

pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// A folder that training left.
    pub fn open(root: &Path) -> Result<RunFolder> {
        let run = RunFolder { root: root.to_path_buf() };
        if !run.config_path().is_file() {
            let why =
                "not a run: there is no config.toml in it; name the folder that `engine train --out` wrote";
            return Err(Error::data(root, why));
        }
        Ok(run)
    }

    /// A folder for training: a new one, or one that was begun with this configuration and these words.
    pub fn prepare(root: &Path, config: &Config, vocabulary: &Vocabulary, header: &str) -> Result<RunFolder> {
        fs::create_dir_all(root).map_err(|e| Error::io(root, e))?;
        let run = RunFolder { root: root.to_path_buf() };
        if run.config_path().is_file() {
            run.require_same_config(config)?;
            run.require_same_words(vocabulary)?;
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
        let told: Vec<String> = differences
            .into_iter()
            .filter(|(key, ..)| !may_change(key))
            .map(|(key, ours, theirs)| format!("{key} is {theirs} there and {ours} here"))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let why =
            format!("the run was begun with another configuration: {}; take another --out", told.join(", "));
        Err(Error::data(&self.root, why))
    }

    fn require_same_words(&self, vocabulary: &Vocabulary) -> Result<()> {
        if self.vocabulary()? == *vocabulary {
            return Ok(());
        }
        let why = "the run was begun with another vocabulary than this data set's; take another --out";
        Err(Error::data(self.vocabulary_path(), why))
    }
}

/// How long a run is and how it is watched may change as it goes on; what it learns may not.
fn may_change(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    ["steps", "epochs", "workers"].contains(&last) || last.ends_with("_every") || key.starts_with("eval.")
}
