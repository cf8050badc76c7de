//! What is trained: the place, the data set and the configuration.

use std::path::PathBuf;

use super::call::{program, quoted};
use super::dataset::DatasetName;
use crate::config::Config;
use crate::data::{self, Dataset, demo};
use crate::error::{Error, Result, note};

/// Where a call trains, with what, and on what.
pub(super) struct Target {
    pub out: PathBuf,
    pub name: DatasetName,
    pub data: PathBuf,
    pub config: Config,
    pub preset: String,
    /// The run whose weights the phases begin with.
    pub from: Option<PathBuf>,
    /// Choices that the configuration left open.
    pub notes: Vec<String>,
}

impl Target {
    /// Renders the demo.
    pub fn render(&self) -> Result<Dataset> {
        let images = self.config.data.images;
        if images == 0 {
            let why = "0 birds cannot be trained on; add --set data.images=1500";
            return Err(Error::config("data.images", why));
        }
        note(format!("rendering {images} birds into {}", self.data.display()));
        demo::write(&self.data, images, self.config.run.seed)?;
        self.open()
    }

    pub fn open(&self) -> Result<Dataset> {
        let dataset = data::open(self.name.format(), &self.data, &self.config.data.open)?;
        dataset.require_prepared(self.config.largest_side(), &self.config.data.decode)?;
        let (count, images) = (dataset.train.len() + dataset.test.len(), self.config.data.images);
        if self.is_own_demo() && dataset.skipped.is_empty() && count != images {
            let folder = self.data.display();
            let why = format!(
                "{folder} holds {count} birds, not {images}: take --set data.images={count}, or remove that folder"
            );
            return Err(Error::config("data.images", why));
        }
        Ok(dataset)
    }

    /// Birds that this run rendered for itself.
    fn is_own_demo(&self) -> bool {
        self.name == DatasetName::Demo && self.data == self.out.join("data")
    }

    /// What to know of the data set.
    pub fn notes(&self, dataset: &Dataset) -> Vec<String> {
        let folder = quoted(&self.data.to_string_lossy());
        let skipped = (!dataset.skipped.is_empty()).then(|| {
            let files = data::count(dataset.skipped.len(), "file is", "files are");
            let check = format!(
                "{} data check {folder} {}",
                program(),
                super::data::options(self.name, &self.config)
            );
            format!("{files} skipped; {check} names them")
        });
        let notices = dataset.notices.iter().filter(|_| !self.is_own_demo()).cloned();
        let metric = dataset.metric_notice(self.config.eval.candidates);
        self.notes
            .iter()
            .cloned()
            .chain(notices)
            .chain(skipped)
            .chain(metric)
            .map(|line| format!("note: {line}"))
            .collect()
    }
}
