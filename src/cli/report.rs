//! `engine report`

use std::path::PathBuf;

use super::{Machine, say};
use crate::error::{Error, note};
use crate::files::atomic;
use crate::report::{self, Report};
use crate::run::RunFolder;

#[derive(clap::Args)]
pub struct Args {
    /// The run folder that `engine train --out` wrote
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The file to write [default: RUN/report.html]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Captions of the sample grids to generate for, so that the page shows where each word looks; 0 generates nothing
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u16).range(..=100))]
    captions: u16,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let run = RunFolder::open(&args.run)?;
    let out = args.out.unwrap_or_else(|| args.run.join("report.html"));
    if out.is_dir() {
        return Err(Error::data(&out, "a folder; --out names the file to write, such as report.html").into());
    }
    let why = args.machine.open()?;
    why.filter(|_| args.captions > 0).into_iter().for_each(note);
    let Report { html, problems } = report::report(&run, args.captions.into())?;
    atomic::write(&out, html.as_bytes())?;
    problems.iter().for_each(|problem| note(format!("note: {problem}")));
    say(format!("{} ({}): open it in a browser", out.display(), report::size(html.len())))
}
