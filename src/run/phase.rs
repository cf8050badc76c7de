use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Schedule};

/// The phases of training, in the order in which each needs the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Damsm,
    #[serde(alias = "stream")]
    Captioner,
    Gan,
}

impl Phase {
    pub const ALL: [Phase; 3] = [Phase::Damsm, Phase::Captioner, Phase::Gan];

    /// Also its folder in a run, and its section of a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Damsm => "damsm",
            Phase::Captioner => "captioner",
            Phase::Gan => "gan",
        }
    }

    /// The folder's name in runs of version 0.1.0.
    pub(super) fn old_name(self) -> &'static str {
        match self {
            Phase::Captioner => "stream",
            phase => phase.name(),
        }
    }

    /// Where a run keeps the checkpoints and metrics of this phase.
    pub fn folder(self, run: &Path) -> PathBuf {
        let (folder, old) = (run.join(self.name()), run.join(self.old_name()));
        if !folder.exists() && old.exists() { old } else { folder }
    }

    pub fn schedule(self, config: &Config) -> &Schedule {
        match self {
            Phase::Damsm => &config.damsm.schedule,
            Phase::Captioner => &config.captioner.schedule,
            Phase::Gan => &config.gan.schedule,
        }
    }

    /// The key of the batch size in a configuration.
    pub fn batch_key(self) -> String {
        format!("{}.schedule.batch", self.name())
    }
}
