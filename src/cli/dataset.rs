//! The data sets by the names that `--dataset` takes.

use clap::ValueEnum;

use crate::data::Format;

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
