//! `engine data demo` and `engine data check`

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, ValueEnum};

use super::dataset::DatasetName;
use super::{Threads, say};
use crate::config::Config;
use crate::data::{self, Classes, DecodeConfig, OpenConfig, Tokenizer, demo};
use crate::error::{Error, Result};

#[derive(Subcommand)]
pub enum Command {
    /// Render the demo's birds in CUB's layout
    Demo {
        /// A new or empty folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Birds to render, from 1; each is an image with ten captions
        #[arg(long, default_value_t = demo::DEFAULT_COUNT, value_name = "N", value_parser = counts())]
        count: usize,
        /// The seed of every random number; equal seeds give equal files
        #[arg(long, default_value_t = 0, value_name = "N")]
        seed: u64,
        #[command(flatten)]
        threads: Threads,
    },
    /// Report what is there, what is missing, and what will be skipped and why
    Check {
        /// The data set's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// How the folder is laid out; the demo's is cub
        #[arg(long)]
        dataset: FormatName,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        threads: Threads,
    },
}

/// The keys of the presets' `[data]` that say how a data set is read; without them those of its own preset.
#[derive(clap::Args)]
pub struct Keys {
    /// Images of more pixels are skipped: data.max_pixels of a training
    #[arg(long, value_name = "N", value_parser = limits())]
    max_pixels: Option<usize>,
    /// Images with a longer side are skipped: data.max_side of a training
    #[arg(long, value_name = "N", value_parser = limits())]
    max_side: Option<usize>,
    /// Turn images as their EXIF orientation says: data.exif_orientation of a training [default: only for folder]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    exif_orientation: Option<bool>,
    /// What is a word: data.tokenizer of a training [default: attngan; for folder unicode]
    #[arg(long, value_parser = tokenizers())]
    tokenizer: Option<Tokenizer>,
    /// Words that the captions have fewer times are left out: data.min_count of a training [default: 1]
    #[arg(long, value_name = "N", value_parser = limits())]
    min_count: Option<usize>,
    /// The share of a folder's pictures that is held out: data.test_ratio of a training [default: 0.1]
    #[arg(long, value_name = "SHARE", value_parser = ratio)]
    test_ratio: Option<f64>,
    /// Which pictures of a folder these are: data.split_seed of a training [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    split_seed: Option<u64>,
    /// What makes a class of a folder: data.classes of a training [default: auto]
    #[arg(long, value_parser = classes())]
    classes: Option<Classes>,
}

impl Keys {
    /// With the values of the data set's preset where none is given.
    fn of(&self, name: DatasetName) -> Result<(DecodeConfig, OpenConfig)> {
        let preset = Config::load(name.name(), &[])?.data;
        let (mut decode, mut open) = (preset.decode, preset.open);
        decode.max_pixels = self.max_pixels.unwrap_or(decode.max_pixels);
        decode.max_side = self.max_side.unwrap_or(decode.max_side);
        decode.exif_orientation = self.exif_orientation.unwrap_or(decode.exif_orientation);
        open.tokenizer = self.tokenizer.unwrap_or(open.tokenizer);
        open.min_count = self.min_count.unwrap_or(open.min_count);
        open.test_ratio = self.test_ratio.unwrap_or(open.test_ratio);
        open.split_seed = self.split_seed.unwrap_or(open.split_seed);
        open.classes = self.classes.unwrap_or(open.classes);
        Ok((decode, open))
    }
}

/// The options of `engine data check` that read a data set as a training with `config` does.
pub fn options(name: DatasetName, config: &Config) -> String {
    let checked = match name {
        DatasetName::Demo => DatasetName::Cub,
        name => name,
    };
    let mut options = format!("--dataset {}", checked.name());
    let Ok(preset) = Config::load(checked.name(), &[]) else { return options };
    let [ours, theirs] = [config, &preset].map(|config| {
        let OpenConfig { tokenizer, min_count, test_ratio, split_seed, classes } = config.data.open;
        let DecodeConfig { max_pixels, max_side, exif_orientation } = config.data.decode;
        [
            ("max-pixels", max_pixels.to_string()),
            ("max-side", max_side.to_string()),
            ("exif-orientation", exif_orientation.to_string()),
            ("tokenizer", tokenizer.name().to_string()),
            ("min-count", min_count.to_string()),
            ("test-ratio", test_ratio.to_string()),
            ("split-seed", split_seed.to_string()),
            ("classes", classes.name().to_string()),
        ]
    });
    for ((name, value), _) in ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs) {
        options += &format!(" --{name}={value}");
    }
    options
}

fn tokenizers() -> impl TypedValueParser<Value = Tokenizer> {
    let of_name = |name: String| Tokenizer::ALL.into_iter().find(|known| known.name() == name);
    PossibleValuesParser::new(Tokenizer::ALL.map(Tokenizer::name))
        .map(move |name| of_name(name).expect("a possible value"))
}

fn classes() -> impl TypedValueParser<Value = Classes> {
    let of_name = |name: String| Classes::ALL.into_iter().find(|known| known.name() == name);
    PossibleValuesParser::new(Classes::ALL.map(Classes::name))
        .map(move |name| of_name(name).expect("a possible value"))
}

fn ratio(text: &str) -> std::result::Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..1.0).contains(ratio));
    ratio.ok_or_else(|| format!("'{text}' is not a share: write a number from 0 to less than 1, such as 0.1"))
}

fn limits() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn counts() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=demo::MOST as u64)
}

/// The layouts that a data set may have on disk.
#[derive(Clone, Copy, ValueEnum)]
pub enum FormatName {
    Cub,
    Coco,
    Folder,
}

impl From<FormatName> for DatasetName {
    fn from(name: FormatName) -> DatasetName {
        match name {
            FormatName::Cub => DatasetName::Cub,
            FormatName::Coco => DatasetName::Coco,
            FormatName::Folder => DatasetName::Folder,
        }
    }
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo { out, count, seed, threads } => {
            threads.set()?;
            demo::write(&out, count, seed)?;
            let birds = if count == 1 { "1 bird".to_string() } else { format!("{count} birds") };
            say(format!("{birds} with {} captions each in {}", demo::CAPTIONS, out.display()))?;
        }
        Command::Check { folder, dataset, keys, threads } => {
            threads.set()?;
            let dataset = DatasetName::from(dataset);
            let (decode, open) = keys.of(dataset)?;
            let report = data::check(data::open(dataset.format(), &folder, &open)?, &decode);
            let said = say(report.to_string().trim_end());
            if let Some(why) = report.unusable {
                return Err(Error::data(folder, why).into());
            }
            said?;
        }
    }
    Ok(())
}
