//! Real pictures, by the arguments that name them.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::value_parser;

use crate::cli::dataset::{self, DatasetName};
use crate::config::Config;
use crate::data::{self, Dataset, Skip};
use crate::error::{Result, note};
use crate::eval::evaluate::{Pictures, named, pictures_of, real_items};
use crate::eval::protocol::{Crop, Protocol};
use crate::run::RunFolder;

/// What a folder of real pictures is.
#[derive(clap::Args)]
pub struct RealArgs {
    /// How the data set is laid out
    #[arg(long, conflicts_with = "run")]
    dataset: Option<DatasetName>,
    /// The run whose data set it is, and whose encoder the protocol encoder takes
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The folder holds pictures and no data set, though --run is given
    #[arg(long, requires = "run")]
    pictures: bool,
    /// The side of the generated pictures that they are compared with [default: the run's, or that of the data set's preset]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(4..=16384))]
    side: Option<u32>,
}

/// Real pictures that were found.
pub struct RealPictures {
    pub run: Option<RunFolder>,
    config: Option<Config>,
    dataset: Option<(Dataset, DatasetName)>,
    files: Vec<PathBuf>,
    side: usize,
}

impl RealArgs {
    /// Opens the run alone, where the real side is a file of statistics.
    pub fn run(&self) -> Result<Option<RunFolder>> {
        self.run.as_deref().map(RunFolder::open).transpose()
    }

    /// The pictures of a data set, or of a folder.
    pub fn open(&self, place: &Path, protocol: &Protocol) -> anyhow::Result<RealPictures> {
        let run = self.run()?;
        require_encoder(protocol, run.as_ref())?;
        let config = match (&run, self.dataset) {
            (Some(run), _) => Some(run.config()?),
            (None, Some(name)) => Some(Config::load(name.name(), &[])?),
            (None, None) => None,
        };
        let dataset = match (&config, self.dataset, &run) {
            (Some(config), Some(name), _) => {
                Some((data::open(name.format(), place, &config.data.open)?, name))
            }
            (Some(config), None, Some(run)) if !self.pictures => {
                Some(dataset::of_run(run, config, Some(place), None)?)
            }
            _ => None,
        };
        if dataset.is_none() && place.is_file() {
            bail!("{}: a file; a pack needs --dataset, and pictures lie in a folder", place.display());
        }
        let files = if dataset.is_some() { Vec::new() } else { named_files(place)? };
        let of_config = config.as_ref().map(Config::largest_side);
        let side = self.side.map(|side| side as usize).or(of_config).unwrap_or(64);
        Ok(RealPictures { run, config, dataset, files, side })
    }
}

impl RealPictures {
    /// The pictures as the protocol wants them, and what they are. The protocol is told where it is not followed.
    pub fn pictures(&self, protocol: &mut Protocol) -> Result<(Pictures<'_>, String)> {
        let (Some((dataset, name)), Some(config)) = (&self.dataset, &self.config) else {
            protocol.real.crop = Crop::AsTheyAre;
            return Ok((
                Pictures::Files(&self.files),
                format!("the {} pictures of a folder", self.files.len()),
            ));
        };
        let (items, remark) = real_items(dataset, protocol)?;
        remark.into_iter().for_each(note);
        let (crop, side, decode) = (protocol.real.crop, self.side, config.data.decode);
        if crop == Crop::TrainingSquare {
            dataset.require_prepared(side, &decode)?;
        }
        Ok((Pictures::Items { items, crop, side, decode }, named(name.name(), dataset)))
    }
}

/// # Errors
/// Where the protocol evaluates by a run's encoder and no run is named.
pub fn require_encoder(protocol: &Protocol, run: Option<&RunFolder>) -> anyhow::Result<()> {
    if protocol.recipe.weights.is_none() && run.is_none() {
        let name = protocol.name.as_str();
        bail!("the protocol {name} evaluates by a run's own encoder: name the run with --run");
    }
    Ok(())
}

/// The pictures of a folder; a note says what cannot be used.
pub fn named_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (files, skipped) = pictures_of(folder)?;
    for Skip { file, why } in skipped {
        note(format!("note: left out: {}: {why}", file.display()));
    }
    Ok(files)
}
