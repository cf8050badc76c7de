//! `engine data demo` and `engine data check`

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::say;
use crate::data::{self, Format, demo};

#[derive(Subcommand)]
pub enum Command {
    /// Render the demo's birds in CUB's layout
    Demo {
        /// A new or empty folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[arg(long, default_value_t = demo::DEFAULT_COUNT, value_name = "N")]
        count: usize,
        #[arg(long, default_value_t = 0, value_name = "N")]
        seed: u64,
    },
    /// Report what is there, what is missing, and what will be skipped and why
    Check {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        #[arg(long)]
        dataset: FormatName,
    },
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
        Command::Demo { out, count, seed } => {
            demo::write(&out, count, seed)?;
            say(format!("{count} birds with {} captions each in {}", demo::CAPTIONS, out.display()))?;
        }
        Command::Check { folder, dataset } => {
            let report = data::check(data::open(dataset.into(), folder)?);
            say(report.to_string().trim_end())?;
        }
    }
    Ok(())
}
