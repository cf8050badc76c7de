//! `engine completions` and `engine manual`: what shells and `man` are told of this program.

use std::path::PathBuf;

use anyhow::Context;
use clap_complete::Shell;

use super::{command_line, say};

#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(clap::Args)]
pub struct ManualArgs {
    /// The folder that the pages are written to, such as ~/.local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints a shell's script, made whole before: a reader that closes early is no error.
pub fn completions(args: CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command_line(), "engine", &mut script);
    say(String::from_utf8(script)?.trim_end())
}

/// Writes a page for the program and one for each command.
pub fn manual(args: ManualArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    let what = || format!("no manual in {}", folder.display());
    std::fs::create_dir_all(folder).with_context(what)?;
    clap_mangen::generate_to(command_line(), folder).with_context(what)?;
    say(format!("{}: man -l {0}/engine.1 shows the first page", folder.display()))
}
