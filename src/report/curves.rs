//! Section "Curves": all that was logged, in charts of what belongs together.

use super::chart::Chart;
use super::curve::{self, Curve, Logged};
use super::html::{Html, absent, el, section, tag};
use super::metrics;
use super::source::Source;
use crate::run::Phase;

/// Charts in this order: what a tag begins with, the chart's title, and whether each tag has a chart of its own.
const CHARTS: [(&str, &str, bool); 14] = [
    ("loss/D", "Losses of the discriminators", false),
    ("loss/G", "Losses of the generators", false),
    ("loss/", "Loss", true),
    ("damsm/words", "DAMSM loss, words", false),
    ("damsm/sentence", "DAMSM loss, sentence", false),
    ("damsm/", "DAMSM", true),
    ("captioner/", "Loss of the captioner", true),
    ("metric/", "On held-out images", true),
    ("accuracy/", "Accuracy of the discriminators", false),
    ("gradient_norm/", "Norms of the gradients", false),
    ("learning_rate/", "Learning rates", false),
    ("weight/", "Weights in the loss", false),
    ("rate/images_per_second", "Images a second", false),
    ("memory/live_MiB", "Memory in use, MiB", false),
];

/// Earlier versions logged the captioner's last loss a second time, under the first of these names.
const TWICE: [&str; 2] = ["metric/held_out", "metric/held_out_loss"];

pub(super) fn html(source: &Source) -> Html {
    let phases = source.phases.iter().rev().map(|phase| of_phase(source, phase.phase)).collect::<Html>();
    let explained = "Pale: the values as logged. Strong: their running mean. Point at a chart to read it.";
    section("curves", "Curves", vec![el("p", &[("class", "note")], explained), phases])
}

fn of_phase(source: &Source, phase: Phase) -> Html {
    let folder = source.root().join("logs").join(phase.name());
    let path = folder.join("metrics.jsonl");
    let charts = match source.or_problem(curve::read(&path)) {
        Some(Some(logged)) => {
            if logged.damaged > 0 {
                let lines = logged.damaged;
                source.problem(format!("{}: damaged lines, left out: {lines}", path.display()));
            }
            el("div", &[("class", "charts")], charts(&logged).iter().map(Chart::html).collect::<Html>())
        }
        Some(None) if folder.is_dir() => absent(
            "This phase was trained by an earlier version, which logged for TensorBoard alone: there is no metrics.jsonl to draw. \
             TensorBoard shows its event files.",
        ),
        Some(None) => absent("Nothing was logged of this phase."),
        None => absent("The log of this phase cannot be read."),
    };
    tag("div", vec![tag("h3", phase.name()), charts])
}

fn charts(logged: &Logged) -> Vec<Chart> {
    let group = |tag: &str| CHARTS.iter().position(|(prefix, ..)| tag.starts_with(prefix));
    let mut found: Vec<(usize, Chart)> = Vec::new();
    for (tag, values) in &logged.values {
        if tag == TWICE[0] && logged.values.contains_key(TWICE[1]) {
            continue;
        }
        let place = group(tag).unwrap_or(CHARTS.len());
        let (prefix, title, alone) = CHARTS.get(place).copied().unwrap_or(("", "", true));
        let rest = tag.strip_prefix(prefix).filter(|rest| !rest.is_empty()).unwrap_or(tag);
        let last = tag.rsplit('/').next().unwrap_or(tag);
        let curve =
            Curve::new(if alone { last } else { &tag[tag.find('/').map_or(0, |at| at + 1)..] }, values);
        match found.iter_mut().find(|(of, _)| *of == place && !alone) {
            Some((_, chart)) => chart.curves.push(curve),
            None => {
                let title = match alone {
                    true if title.is_empty() => rest.to_string(),
                    true if prefix == "metric/" => {
                        let metric = metrics::title(rest);
                        format!("{title}: {}", metric.trim_end_matches(" on held-out images"))
                    }
                    true => format!("{title}: {}", rest.replace('_', " ")),
                    false => title.to_string(),
                };
                found.push((place, Chart { title, curves: vec![curve], shares: prefix == "accuracy/" }));
            }
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, chart)| chart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_shares_a_chart() {
        let tags = [
            "loss/D_16",
            "loss/D_32",
            "loss/G_16",
            "loss/KL",
            "metric/held_out",
            "metric/held_out_loss",
            "metric/r_precision",
            "accuracy/netD0_real",
            "x/y",
        ];
        let values = tags.iter().map(|tag| (tag.to_string(), vec![(1, 0.5)])).collect();
        let charts = charts(&Logged { values, damaged: 0 });
        let titles: Vec<&str> = charts.iter().map(|chart| chart.title.as_str()).collect();
        let expected = [
            "Losses of the discriminators",
            "Losses of the generators",
            "Loss: KL",
            "On held-out images: loss",
            "On held-out images: R-precision",
            "Accuracy of the discriminators",
            "x/y",
        ];
        assert_eq!(titles, expected);
        let names: Vec<&str> = charts[0].curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["D_16", "D_32"]);
    }
}
