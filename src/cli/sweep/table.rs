//! The result of a sweep: `sweep.json`, and the same as tables.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::aligned;
use crate::error::{Error, Result};
use crate::eval::protocol::{Evaluation, figure_text};
use crate::files::atomic;

/// `OUT/sweep.json`
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sweep {
    pub engine: String,
    pub command: Vec<String>,
    pub preset: String,
    pub dataset: String,
    /// What the variants differ in.
    pub columns: Vec<String>,
    /// Settings of all variants.
    pub fixed: Vec<String>,
    pub runs: Vec<Row>,
}

/// A run of a sweep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub cells: Vec<String>,
    pub seed: u64,
    pub settings: Vec<String>,
    /// The run's folder within that of the sweep.
    pub folder: String,
    /// What was to be measured.
    pub asked: String,
    pub result: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Measured(Box<Evaluation>),
    /// Why there are no figures.
    Diverged(String),
}

/// Runs whose figures may stand in one column.
struct Group<'a> {
    rows: Vec<(&'a Row, &'a Evaluation)>,
}

impl Sweep {
    const FILE: &str = "sweep.json";

    /// That of an earlier call, if there was one.
    pub fn read(out: &Path) -> Result<Option<Sweep>> {
        let path = out.join(Sweep::FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let why = |e| {
            format!(
                "not the result of a sweep of this version ({e}); remove it, and the runs are measured again"
            )
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| Error::data(&path, why(e)))
    }

    /// Writes `sweep.json` and `sweep.md`.
    pub fn write(&self, out: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        atomic::write(out.join(Sweep::FILE), json.as_bytes())?;
        atomic::write(out.join("sweep.md"), self.markdown().as_bytes())
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let group = |group: &Group| format!("{}\n\n{}", group.protocol(), aligned(&group.table(self)));
        let groups = self.groups().iter().map(group).collect::<Vec<_>>();
        [groups, self.without_figures()].concat().join("\n\n")
    }

    fn markdown(&self) -> String {
        let Sweep { preset, dataset, engine, .. } = self;
        let command = self.command.join(" ");
        let mut parts =
            vec![format!("# Sweep of {preset} on {dataset}\n\nBy engine {engine}:\n\n    {command}")];
        if self.seeds().len() > 1 {
            let seeds = self.seeds().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            parts.push(format!(
                "Mean ± deviation over the generator's seeds {seeds}; what is not trained by them (DAMSM, the captioner) is the \
                 same in all."
            ));
        }
        for group in self.groups() {
            let lines = group.protocol().lines().map(|line| format!("    {line}\n")).collect::<String>();
            let table = group.table(self);
            let row = |row: &Vec<String>| format!("| {} |\n", row.join(" | "));
            let (head, rows) = table.split_first().expect("a head");
            let rule = format!("|{}\n", " --- |".repeat(head.len()));
            let rows = rows.iter().map(row).collect::<String>();
            parts.push(format!("{}{rule}{rows}\nMeasured so:\n\n{}", row(head), lines.trim_end()));
        }
        parts.extend(self.without_figures());
        parts.join("\n\n") + "\n"
    }

    fn seeds(&self) -> Vec<u64> {
        let mut seeds: Vec<u64> = self.runs.iter().map(|run| run.seed).collect();
        seeds.sort();
        seeds.dedup();
        seeds
    }

    /// Runs that were measured alike, together.
    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group> = Vec::new();
        for row in &self.runs {
            let Outcome::Measured(evaluation) = &row.result else { continue };
            let is_alike = |group: &&mut Group| group.rows[0].1.differences(evaluation).is_empty();
            match groups.iter_mut().find(is_alike) {
                Some(group) => group.rows.push((row, evaluation)),
                None => groups.push(Group { rows: vec![(row, evaluation)] }),
            }
        }
        groups
    }

    /// A line for each run that has no figures.
    fn without_figures(&self) -> Vec<String> {
        let line = |row: &Row| match &row.result {
            Outcome::Measured(_) => None,
            Outcome::Diverged(why) => Some(format!("{}: no figures: {why}", row.folder)),
        };
        self.runs.iter().filter_map(line).collect()
    }
}

impl Group<'_> {
    fn protocol(&self) -> String {
        self.rows[0].1.shared()
    }

    /// A head, and a row for each variant: the mean of its seeds.
    fn table(&self, sweep: &Sweep) -> Vec<Vec<String>> {
        let figures = Evaluation::figure_names(self.rows.iter().map(|(_, evaluation)| *evaluation));
        let mut variants: Vec<&[String]> = Vec::new();
        for (row, _) in &self.rows {
            if !variants.contains(&&row.cells[..]) {
                variants.push(&row.cells);
            }
        }
        let seeds = sweep.seeds().len() > 1;
        let mut head: Vec<String> = sweep.columns.clone();
        head.extend(seeds.then(|| "seeds".to_string()));
        head.extend(figures.iter().map(ToString::to_string));
        let row = |cells: &[String]| {
            let runs: Vec<&Evaluation> = self
                .rows
                .iter()
                .filter(|(row, _)| row.cells == cells)
                .map(|(_, evaluation)| *evaluation)
                .collect();
            let mut line = cells.to_vec();
            line.extend(seeds.then(|| runs.len().to_string()));
            line.extend(figures.iter().map(|name| mean(&runs, name)));
            line
        };
        [vec![head], variants.into_iter().map(row).collect()].concat()
    }
}

/// The mean of a figure over several runs and its deviation; of one run the figure with its own.
fn mean(runs: &[&Evaluation], name: &str) -> String {
    let found: Vec<_> = runs.iter().filter_map(|run| run.figure(name)).collect();
    match &found[..] {
        [] => "-".to_string(),
        [one] => one.to_string(),
        all => {
            let count = all.len() as f64;
            let mean = all.iter().map(|figure| figure.value()).sum::<f64>() / count;
            let squares = all.iter().map(|figure| (figure.value() - mean).powi(2)).sum::<f64>();
            figure_text(mean, Some((squares / (count - 1.0)).sqrt()))
        }
    }
}
