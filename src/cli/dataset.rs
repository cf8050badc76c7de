//! The data sets by the names that `--dataset` takes.

use std::path::Path;

use anyhow::bail;
use clap::ValueEnum;

use crate::config::Config;
use crate::data::{self, Dataset, Fingerprint, Format};
use crate::error::Error;
use crate::run::RunFolder;

/// What to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatasetName {
    /// Little rendered birds, in CUB's layout
    Demo,
    /// CUB-200-2011 with captions, or data in its layout
    Cub,
    /// COCO with captions, as published or in AttnGAN's folder
    Coco,
    /// A folder of one's own pictures and captions
    Folder,
}

impl DatasetName {
    /// All of them, for a message.
    pub const LIST: &str = "demo, cub, coco or folder";

    /// As `--dataset` takes it; the preset of a new run has the same name.
    pub fn name(self) -> &'static str {
        match self {
            DatasetName::Demo => "demo",
            DatasetName::Cub => "cub",
            DatasetName::Coco => "coco",
            DatasetName::Folder => "folder",
        }
    }

    /// The name that a run's record holds.
    pub fn recorded(name: &str) -> Option<DatasetName> {
        DatasetName::from_str(name, false).ok()
    }

    pub fn format(self) -> Format {
        match self {
            DatasetName::Demo | DatasetName::Cub => Format::Cub,
            DatasetName::Coco => Format::Coco,
            DatasetName::Folder => Format::Folder,
        }
    }

    /// What its folder holds.
    pub fn holds(self) -> &'static str {
        match self {
            DatasetName::Demo | DatasetName::Cub => "CUB_200_2011 and text",
            DatasetName::Coco => "annotations and train2014, or AttnGAN's images, text and pickles",
            DatasetName::Folder => {
                "the pictures, with captions.csv, metadata.jsonl or .txt files beside them"
            }
        }
    }
}

/// The data set of a run, or the same at another place, and its name.
///
/// # Errors
/// Where it is not the run's, or nothing says which it is.
pub fn of_run(
    run: &RunFolder,
    config: &Config,
    data: Option<&Path>,
    name: Option<DatasetName>,
) -> anyhow::Result<(Dataset, DatasetName)> {
    let record = run.record()?;
    let recorded = record.as_ref().and_then(|record| DatasetName::recorded(&record.dataset));
    let Some(name) = recorded.or(name) else {
        bail!("this run does not say which data set it is of; name it with --dataset and --data");
    };
    let folder = record.as_ref().and_then(|record| record.folder(run.root()));
    let Some(folder) = data.map(Path::to_path_buf).or(folder) else {
        bail!("--data is missing: name the folder that holds {}", name.holds());
    };
    let dataset = data::open(name.format(), &folder, &config.data.open)?;
    let begun = record.map(|record| record.fingerprint);
    if let Some(difference) = begun.and_then(|begun| begun.difference(&Fingerprint::of(&dataset))) {
        let why = format!("another data set than the run's: {difference}; name the run's own with --data");
        return Err(Error::data(&folder, why).into());
    }
    if run.vocabulary()? != dataset.vocabulary {
        let why = "its vocabulary is not the run's: word ids would mean other words; take the captions.pickle that belongs to the run";
        return Err(Error::data(&folder, why).into());
    }
    dataset.require_prepared(config.largest_side(), &config.data.decode)?;
    Ok((dataset, name))
}
