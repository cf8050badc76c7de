//! The command line: one file per command. It prints everything but notes (`error::note`); anyhow is used only here.

pub mod bench;
mod call;
mod caption;
mod completions;
mod config;
mod data;
mod dataset;
mod eval;
mod exit;
mod export;
mod import;
mod infer;
mod info;
mod kernels;
mod nearest;
mod presets;
mod progress;
mod report;
mod serve;
mod signals;
mod sweep;
mod target;
mod train;

use std::fmt::Display;
use std::io::{ErrorKind, Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};

use crate::engine::device;
use crate::engine::tensor::Precision;
use crate::error::{caught, chain, note};

#[derive(Parser)]
#[command(
    name = "engine",
    version = concat!(env!("CARGO_PKG_VERSION"), " (revision ", env!("ENGINE_REVISION"), ")"),
    long_version = concat!(env!("CARGO_PKG_VERSION"), " (revision ", env!("ENGINE_REVISION"), ")\ntarget ", env!("ENGINE_TARGET"),
        ", built with ", env!("ENGINE_FEATURES")),
    about = "MirrorGAN and AttnGAN: train text-to-image networks and generate images with them",
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0    finished, or stopped at the limit of this call
  1    an error
  2    the command line is wrong
  75   the time is up: saved, go on with --resume
  130  interrupted: what was done is saved; a training goes on with --resume";

/// The command line as clap knows it.
pub fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// What a command does is said where its arguments are; here too, a sentence would hide the rest there.
#[derive(Subcommand)]
enum Command {
    /// Train all phases, or one, into a run folder
    Train(train::Args),
    Infer(infer::Args),
    Eval(eval::Args),
    Sweep(sweep::Args),
    Nearest(nearest::Args),
    /// Describe images
    Caption(caption::Args),
    Import(import::Args),
    Export(export::Args),
    /// Show the version and the devices of this machine
    Info(info::Args),
    /// Compile the CUDA kernels ahead of use, and show their registers and memory
    Kernels(kernels::Args),
    /// Time operators and the networks' layers on this machine
    Bench(bench::Args),
    /// List the presets, show one, or compare two
    Presets(presets::Args),
    /// Explain the keys of a configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Write a run as one page of HTML: figures, curves, samples, attention, configuration
    Report(report::Args),
    Serve(serve::Args),
    /// Print a script that completes commands and options in a shell
    Completions(completions::CompletionsArgs),
    /// Write pages for man
    Manual(completions::ManualArgs),
    /// Render, check or pack a data set
    #[command(subcommand)]
    Data(data::Command),
}

/// Threads of the CPU, an option of every command that computes.
#[derive(clap::Args)]
struct Threads {
    /// Threads to compute on; 0 takes every core
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    threads: u16,
}

/// The device that computes.
#[derive(clap::Args)]
struct Machine {
    /// Where to compute: cpu, cuda:N, or auto, which takes the first GPU that works and else the CPU
    #[arg(long, default_value = "auto", value_name = "NAME")]
    device: String,
    /// Sum convolutions directly: on the CPU without Winograd's transforms, which are faster and round about twice as much
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    threads: Threads,
}

/// Reads the name of a precision.
fn precision() -> impl TypedValueParser<Value = Precision> {
    let of_name = |name: String| Precision::ALL.into_iter().find(|p| p.name() == name);
    PossibleValuesParser::new(Precision::ALL.map(Precision::name))
        .map(move |name| of_name(name).expect("a possible value"))
}

/// A run folder.
#[derive(clap::Args)]
struct Run {
    /// The run folder that `engine train --out` wrote
    #[arg(long = "run", value_name = "DIR")]
    folder: PathBuf,
}

pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = caught(|| {
        match command {
            Command::Train(args) => return train::run(args),
            Command::Infer(args) => return infer::run(args),
            Command::Eval(args) => return eval::run(args),
            Command::Sweep(args) => return sweep::run(args),
            Command::Nearest(args) => return nearest::run(args),
            Command::Caption(args) => caption::run(args),
            Command::Import(args) => import::run(args),
            Command::Export(args) => export::run(args),
            Command::Info(args) => info::run(args),
            Command::Kernels(args) => kernels::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Presets(args) => presets::run(args),
            Command::Config(command) => config::run(command),
            Command::Report(args) => report::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Completions(args) => completions::completions(args),
            Command::Manual(args) => completions::manual(args),
            Command::Data(command) => return data::run(command),
        }
        .map(|()| ExitCode::from(exit::FINISHED))
    });
    match result.unwrap_or_else(|error| Err(error.into())) {
        Ok(code) => code,
        Err(error) if output_is_closed(&error) => ExitCode::from(exit::FINISHED),
        Err(error) => {
            note(format!("error: {}", message(&error)));
            ExitCode::from(exit::ERROR)
        }
    }
}

/// A line of the result, on standard output.
fn say(line: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{line}")?)
}

/// Rows with their columns below each other.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Lines of the result of a command whose work goes on where standard output is closed.
#[derive(Default)]
struct Lines {
    count: usize,
    error: Option<anyhow::Error>,
}

impl Lines {
    fn say(&mut self, line: impl Display) {
        self.count += 1;
        if self.error.is_none() {
            self.error = say(line).err();
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn end(self) -> anyhow::Result<()> {
        self.error.map_or(Ok(()), Err)
    }
}

/// The reader of our output has closed it, as `head` does.
fn output_is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// The error and its causes.
fn message(error: &anyhow::Error) -> String {
    chain(error.as_ref(), "\n  because ")
}

impl Threads {
    fn set(&self) -> anyhow::Result<()> {
        Ok(device::cpu::set_threads(self.threads.into())?)
    }
}

impl Machine {
    /// From now on this thread computes there. Where `auto` takes the CPU, a note that says why, for when something is
    /// about to be computed.
    fn open(&self) -> anyhow::Result<Option<String>> {
        self.threads.set()?;
        device::cpu::set_exact(self.exact);
        let (device, why) = device::open(&self.device)?;
        device::set(&device);
        Ok(why.map(|why| format!("note: computing on the CPU: {}", why.lines().next().unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_a_help() {
        fn without_help(command: &clap::Command, found: &mut Vec<String>) {
            let arguments = command.get_arguments().filter(|a| !a.is_hide_set() && a.get_help().is_none());
            found.extend(arguments.map(|a| format!("{} {}", command.get_name(), a.get_id())));
            command.get_subcommands().for_each(|inner| without_help(inner, found));
        }
        let mut command = command_line();
        command.build();
        let mut found = Vec::new();
        without_help(&command, &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}
