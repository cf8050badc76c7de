//! `engine data demo` and `engine data check`

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Subcommand, ValueEnum};

use super::{Threads, say};
use crate::data::{self, DecodeConfig, Format, demo};
use crate::error::Error;

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
        /// The folder that holds CUB_200_2011 and text
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// How the folder is laid out; the demo's is cub
        #[arg(long)]
        dataset: FormatName,
        #[command(flatten)]
        decode: Decode,
        #[command(flatten)]
        threads: Threads,
    },
}

/// The keys of the presets' `[data]` that say how images are read.
#[derive(clap::Args)]
pub struct Decode {
    /// Images of more pixels are skipped: data.max_pixels of a training
    #[arg(long, value_name = "N", default_value_t = DecodeConfig::default().max_pixels, value_parser = limits())]
    max_pixels: usize,
    /// Images with a longer side are skipped: data.max_side of a training
    #[arg(long, value_name = "N", default_value_t = DecodeConfig::default().max_side, value_parser = limits())]
    max_side: usize,
    /// Turn images as their EXIF orientation says: data.exif_orientation of a training
    #[arg(long)]
    exif_orientation: bool,
}

fn limits() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn counts() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=demo::MOST as u64)
}

#[derive(Clone, Copy, ValueEnum)]
pub enum FormatName {
    Cub,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Format {
        match name {
            FormatName::Cub => Format::Cub,
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
        Command::Check { folder, dataset, decode, threads } => {
            threads.set()?;
            let Decode { max_pixels, max_side, exif_orientation } = decode;
            let config = DecodeConfig { max_pixels, max_side, exif_orientation };
            let report = data::check(data::open(dataset.into(), &folder)?, &config);
            let said = say(report.to_string().trim_end());
            if let Some(why) = report.unusable {
                return Err(Error::data(folder, why).into());
            }
            said?;
        }
    }
    Ok(())
}
