//! `engine eval compare`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use crate::cli::{aligned, exit, say};
use crate::error::{Result, note};
use crate::eval::protocol::Evaluation;

#[derive(clap::Args)]
pub struct Args {
    /// Files that `engine eval` wrote
    #[arg(required = true, num_args = 2.., value_name = "FILE.json")]
    files: Vec<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let evaluations = args.files.iter().map(|file| Evaluation::read(file)).collect::<Result<Vec<_>>>()?;
    let (first, name) = (&evaluations[0], args.files[0].display());
    for (other, file) in evaluations.iter().zip(&args.files).skip(1) {
        let differences = first.differences(other);
        if !differences.is_empty() {
            let lines: Vec<String> = differences.iter().map(|line| format!("\n  {line}")).collect();
            bail!(
                "{name} and {} were not measured alike, and their figures cannot stand in one column:{}",
                file.display(),
                lines.concat()
            );
        }
    }
    if evaluations.iter().any(|evaluation| evaluation.engine() != first.engine()) {
        note("note: they were measured by different versions of the engine");
    }
    say(first.shared())?;
    say(format!("\n{}", table(&evaluations, &args.files)))?;
    Ok(ExitCode::from(exit::FINISHED))
}

/// A row for each evaluation, a column for each figure.
fn table(evaluations: &[Evaluation], files: &[PathBuf]) -> String {
    let names = Evaluation::figure_names(evaluations);
    let head = ["file", "checkpoint"].into_iter().chain(names.iter().copied()).map(str::to_string);
    let mut rows: Vec<Vec<String>> = vec![head.collect()];
    for (evaluation, file) in evaluations.iter().zip(files) {
        let figure = |name: &&str| evaluation.figure(name).map_or("-".to_string(), ToString::to_string);
        let own = [file.display().to_string(), evaluation.checkpoint().to_string()];
        rows.push(own.into_iter().chain(names.iter().map(figure)).collect());
    }
    aligned(&rows)
}
