//! Which weights evaluate: found, read, and told from others by their SHA-256.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::recipe::PublishedWeights;
use crate::config;
use crate::engine::nn::Archive;
use crate::engine::nn::archive::file_bytes;
use crate::error::{Error, Result};
use crate::files::Origin;
use crate::infer::frozen::weight_file;
use crate::mirrorgan::backbone::BackboneKind;
use crate::run::Checkpoint;

/// The weights that a network was opened with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedWeights {
    /// The file's name without its folder, or the checkpoint's.
    pub name: String,
    pub sha256: Option<String>,
    /// Whether they are the protocol's, by SHA-256; a run's encoder is its own.
    pub is_published: bool,
    /// The kind of a run's encoder.
    pub encoder: Option<String>,
}

impl UsedWeights {
    /// Reads a file once, for its arrays and its SHA-256.
    pub(super) fn read(file: &Path, published: &PublishedWeights) -> Result<(Archive, UsedWeights)> {
        if !file.is_file() {
            return Err(Error::data(file, format!("there is no such file; {}", wanted(published))));
        }
        let bytes = file_bytes(file)?;
        let (archive, origin) =
            rayon::join(|| Archive::parse(file, &bytes), || Origin::of_bytes(file, &bytes));
        let Origin { file: name, sha256, .. } = origin;
        let is_published = published.sha256.iter().any(|known| sha256.starts_with(known.as_str()));
        Ok((archive?, UsedWeights { name, sha256: Some(sha256), is_published, encoder: None }))
    }

    /// Weights that the run trained itself: files of a checkpoint, by their SHA-256, for a network that begins with `backbone`.
    ///
    /// # Errors
    /// `Io` where one cannot be read.
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        networks: &[&str],
        backbone: BackboneKind,
    ) -> Result<UsedWeights> {
        let hash = |network: &&str| {
            Origin::read(&weight_file(&checkpoint.folder, network)).map(|origin| origin.sha256)
        };
        let sha256 = networks.iter().map(hash).collect::<Result<Vec<_>>>()?.join(" and ");
        let encoder = Some(backbone.name().to_string());
        Ok(UsedWeights { name: checkpoint.name(), sha256: Some(sha256), is_published: false, encoder })
    }

    /// What a user should know of weights that are not the protocol's.
    pub fn warning(&self, published: &PublishedWeights) -> Option<String> {
        let hash = self.sha256.as_ref().filter(|_| !self.is_published)?;
        Some(format!(
            "{} is not the file that this protocol evaluates by: its sha256 is {hash}, wanted {}; figures by it are comparable \
             with none of others",
            self.name,
            published.sha256.join(" or ")
        ))
    }
}

impl fmt::Display for UsedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UsedWeights { name, sha256, is_published, encoder } = self;
        write!(f, "{name}")?;
        match (sha256, encoder) {
            (Some(hash), Some(encoder)) => write!(f, ", {encoder}, trained by the run, sha256 {hash}"),
            (Some(hash), _) if *is_published => write!(f, ", sha256 {hash}"),
            (Some(hash), _) => write!(f, ", NOT the protocol's file: sha256 {hash}"),
            (None, Some(encoder)) => write!(f, ", {encoder}, trained by the run"),
            (None, None) => Ok(()),
        }
    }
}

fn wanted(published: &PublishedWeights) -> String {
    format!("wanted: {} ({})", published.names.join(" or "), published.origin)
}

/// Where the file of published weights lies.
///
/// # Errors
/// `Data` with its name, where people get it and where it was looked for.
pub fn find_weights(published: &PublishedWeights) -> Result<PathBuf> {
    published.names.iter().find_map(|name| config::find_weights(name)).ok_or_else(|| {
        let folders: Vec<String> =
            config::weight_folders().iter().map(|folder| folder.display().to_string()).collect();
        let why = format!(
            "not found; {}. Looked for in {}; ENGINE_WEIGHTS names another folder",
            wanted(published),
            folders.join(" and ")
        );
        Error::data(&published.names[0], why)
    })
}
