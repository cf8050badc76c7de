//! `engine config`

use clap::Subcommand;
use serde_json::json;

use super::{aligned, say};
use crate::config::{Config, KeyHelp};

#[derive(Subcommand)]
pub enum Command {
    /// List every key of a configuration: its type, its value, what it means
    Keys {
        /// A preset, or a TOML file like one
        #[arg(default_value = "demo", value_name = "NAME|FILE")]
        preset: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> anyhow::Result<()> {
    let Command::Keys { preset, json } = command;
    let keys = Config::load(&preset, &[])?.keys();
    match json {
        true => {
            let of = |key: &KeyHelp| json!({ "key": key.key, "type": key.kind, "value": key.value, "help": key.help });
            say(serde_json::to_string_pretty(&keys.iter().map(of).collect::<Vec<_>>())?)
        }
        false => say(table(&keys)),
    }
}

/// Keys below each other, with type, value and meaning.
pub(super) fn table(keys: &[KeyHelp]) -> String {
    let row =
        |key: &KeyHelp| vec![key.key.clone(), key.kind.to_string(), key.value.clone(), key.help.to_string()];
    aligned(&keys.iter().map(row).collect::<Vec<_>>())
}
