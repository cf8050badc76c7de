//! Section "Metrics": figures, each with what it depends on.

use std::path::PathBuf;

use serde_json::Value;

use super::html::{Html, absent, el, number, section, table, tag};
use super::source::{PhaseState, Source};
use crate::eval::protocol::Evaluation;
use crate::run::{Best, Phase};

/// A figure of a run with a line that says what it is of.
pub(super) struct Headline {
    pub name: String,
    pub value: String,
    pub of: String,
}

pub(super) fn html(source: &Source, evaluations: &[(String, Evaluation)]) -> Html {
    let rows = source.phases.iter().flat_map(|phase| rows(source, phase));
    let rows: Vec<Vec<Html>> = rows.collect();
    let of_training = match rows.is_empty() {
        true => absent(
            "No phase has been measured yet: metrics come with run.eval_every, and at the end of a phase.",
        ),
        false => table(&["phase", "step", "metric", "value", "measured how"], rows),
    };
    let block = |(file, evaluation): &(String, Evaluation)| {
        vec![tag("h3", file.as_str()), tag("pre", evaluation.to_string())].into()
    };
    let evaluated: Html = match evaluations.is_empty() {
        true => absent("There is no evaluation in this run's folder (eval/*.json); engine eval writes them."),
        false => evaluations.iter().map(block).collect(),
    };
    let head = |text: &str| tag("h3", text);
    section(
        "metrics",
        "Metrics",
        vec![head("By the training itself"), of_training, head("By engine eval"), evaluated],
    )
}

/// The figures on top of the page.
pub(super) fn headlines(source: &Source, evaluations: &[(String, Evaluation)]) -> Vec<Headline> {
    let mut found = Vec::new();
    for phase in source.phases.iter().rev() {
        for (name, value, step) in figures(phase) {
            let of = format!(
                "{} at step {step}: {}",
                phase.phase.name(),
                protocol(source, phase.phase, &name, source.config.eval.images)
            );
            found.push(Headline { name: title(&name), value: number(value), of });
        }
    }
    for (_, evaluation) in evaluations {
        let (protocol, conditions) = (evaluation.protocol().name.as_str(), evaluation.conditions());
        for figure in evaluation.figures() {
            let of = format!("protocol {protocol}, {} images, {}", conditions.images, conditions.checkpoint);
            found.push(Headline { name: figure.name().to_string(), value: number(figure.value()), of });
        }
    }
    found.truncate(8);
    found
}

/// `RUN/eval/*.json`, by name.
pub(super) fn evaluations(source: &Source) -> Vec<(String, Evaluation)> {
    let folder = source.root().join("eval");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    let read = |path: PathBuf| {
        let evaluation = source.or_problem(Evaluation::read(&path))?;
        Some((path.file_name()?.to_string_lossy().into_owned(), evaluation))
    };
    files.into_iter().filter_map(read).collect()
}

/// Names and values of `metrics.json`, with its step.
fn figures(phase: &PhaseState) -> Vec<(String, f64, u64)> {
    let Some(Value::Object(fields)) = &phase.metrics else { return Vec::new() };
    let step = fields.get("step").and_then(Value::as_u64).unwrap_or(0);
    let figures = fields.iter().filter(|(name, _)| *name != "step");
    figures.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?, step))).collect()
}

fn rows(source: &Source, phase: &PhaseState) -> Vec<Vec<Html>> {
    let name = phase.phase.name();
    let row = |step: u64, metric: &str, value: f64, how: String| {
        vec![
            name.into(),
            step.to_string().into(),
            title(metric).into(),
            el("b", &[], number(value)),
            how.into(),
        ]
    };
    let measured = |(metric, value, step): (String, f64, u64)| {
        row(
            step,
            &metric,
            value,
            format!("at the end: {}", protocol(source, phase.phase, &metric, source.config.eval.images)),
        )
    };
    let mut rows: Vec<Vec<Html>> = figures(phase).into_iter().map(measured).collect();
    let why = phase.metrics.as_ref().and_then(|metrics| metrics["why"].as_str());
    rows.extend(why.map(|why| vec![name.into(), "".into(), "none".into(), "".into(), why.into()]));
    if let Some(Best { step, metric, value }) = &phase.best {
        let images = source.config.eval.follow_images;
        let how =
            format!("the best checkpoint while training: {}", protocol(source, phase.phase, metric, images));
        rows.push(row(*step, metric, *value, how));
    }
    rows
}

/// What a figure of the training depends on.
fn protocol(source: &Source, phase: Phase, metric: &str, images: usize) -> String {
    let eval = &source.config.eval;
    let images = format!("at most {images} held-out images");
    let encoder = source.config.damsm.backbone.kind.name();
    let seed = source.config.run.seed;
    match (phase, metric) {
        (Phase::Gan, "r_precision") => format!(
            "generated for {images}, 1 of {} captions by this run's own DAMSM ({encoder}), seed {seed}; not comparable across encoders",
            eval.candidates
        ),
        (Phase::Damsm, "r_precision") => {
            format!(
                "real images, {images}, 1 of {} captions by this DAMSM ({encoder}), seed {seed}",
                eval.candidates
            )
        }
        (Phase::Captioner, _) => format!("cross-entropy a word on {images}, in nats"),
        (Phase::Damsm, _) => format!("the DAMSM loss on {images}"),
        (Phase::Gan, _) => format!("generated for {images}, seed {seed}"),
    }
}

pub(super) fn title(metric: &str) -> String {
    match metric {
        "r_precision" => "R-precision".to_string(),
        // Earlier versions named the captioner's last one held_out.
        "held_out" | "held_out_loss" => "loss on held-out images".to_string(),
        other => other.replace('_', " "),
    }
}
