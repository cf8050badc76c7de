//! `engine presets`

use std::path::Path;

use clap::Subcommand;

use super::say;
use crate::config::{Config, PRESETS, preset_text};
use crate::error::Result;
use crate::run::RunFolder;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// The whole of a preset, as a file to begin one's own from
    Show {
        /// The name of a preset
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// The keys in which two presets differ
    Diff {
        /// A preset, a TOML file or a run folder
        #[arg(value_name = "A")]
        a: String,
        /// Another
        #[arg(value_name = "B")]
        b: String,
    },
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        None => list(),
        Some(Command::Show { name }) => say(preset_text(&name)?.trim_end()),
        Some(Command::Diff { a, b }) => diff(&a, &b),
    }
}

fn list() -> anyhow::Result<()> {
    let width = PRESETS.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
    PRESETS.iter().try_for_each(|preset| say(format!("{:width$}  {}", preset.name, preset.about)))
}

fn diff(a: &str, b: &str) -> anyhow::Result<()> {
    let differences = load(a)?.differences(&load(b)?);
    if differences.is_empty() {
        return say(format!("{a} and {b} are equal"));
    }
    let head = ("key".to_string(), a.to_string(), b.to_string());
    let rows: Vec<_> = [head].into_iter().chain(differences).collect();
    let width = |of: fn(&(String, String, String)) -> &String| {
        rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0)
    };
    let (keys, values) = (width(|row| &row.0), width(|row| &row.1));
    rows.iter().try_for_each(|(key, ours, theirs)| say(format!("{key:keys$}  {ours:values$}  {theirs}")))
}

/// The configuration of a preset, of a file, or of a run.
fn load(name: &str) -> Result<Config> {
    match Path::new(name) {
        folder if folder.is_dir() => RunFolder::open(folder)?.config(),
        _ => Config::load(name, &[]),
    }
}
