//! The top of the page: what the run is, how far it is, its figures, and what could not be read.

use super::html::{Html, el, tag};
use super::metrics::Headline;
use super::source::{PhaseState, Source};
use crate::eval::protocol::revision;
use crate::run::now;

const SECTIONS: [(&str, &str); 8] = [
    ("metrics", "Metrics"),
    ("curves", "Curves"),
    ("samples", "Samples"),
    ("attention", "Attention"),
    ("generated", "Pictures"),
    ("data", "Data"),
    ("configuration", "Configuration"),
    ("calls", "Calls"),
];

pub(super) fn html(source: &Source, headlines: Vec<Headline>) -> Html {
    let (preset, dataset) = match &source.record {
        Some(record) => (record.preset.as_str(), record.dataset.as_str()),
        None => ("not recorded", "not recorded"),
    };
    let chip = |name: &str, value: &str| {
        el("span", &[("class", "chip")], vec![tag("small", name), format!(" {value}").into()])
    };
    let generator = &source.config.generator;
    let sides: Vec<String> = generator.image_sides().iter().map(|side| format!("{side}²")).collect();
    let chips = vec![
        chip("preset", preset),
        chip("data set", dataset),
        chip("images", &sides.join(", ")),
        chip("seed", &source.config.run.seed.to_string()),
    ];
    let phases = source.phases.iter().map(phase).collect::<Html>();
    let figures = headlines.into_iter().map(card).collect::<Html>();
    let link = |(id, title): &(&str, &str)| el("a", &[("href", &format!("#{id}"))], *title);
    let links = SECTIONS.iter().map(link).collect::<Html>();
    let mut parts = vec![
        tag("h1", source.name()),
        el("p", &[("class", "chips")], chips),
        el("div", &[("class", "phases")], phases),
    ];
    if !figures.is_empty() {
        parts.push(el("div", &[("class", "figures")], figures));
    }
    parts.push(problems(source));
    vec![tag("header", parts), tag("nav", links)].into()
}

fn problems(source: &Source) -> Html {
    let problems = source.problems();
    if problems.is_empty() {
        return Html::default();
    }
    let list = problems.into_iter().map(|why| tag("li", why)).collect::<Html>();
    el("div", &[("class", "problems")], vec![tag("b", "Not all of this run could be read"), tag("ul", list)])
}

/// How far a phase is, as a bar.
fn phase(phase: &PhaseState) -> Html {
    let state = phase.state.as_ref();
    let step = state.map_or(0, |state| state.step);
    let last = phase.last.unwrap_or(step).max(step);
    let words = match state {
        None => "not begun".to_string(),
        Some(state) if state.imported => "imported".to_string(),
        Some(state) if state.finished => format!("finished at step {step}"),
        Some(_) if phase.last.is_none() => format!("step {step}"),
        Some(_) => format!("step {step} of {last}"),
    };
    let done = match state {
        Some(state) if state.finished || state.imported => 100.0,
        _ => 100.0 * step as f64 / last.max(1) as f64,
    };
    let bar = el("i", &[("style", &format!("width:{done:.1}%"))], "");
    let parts = vec![tag("b", phase.phase.name()), tag("span", words), el("div", &[("class", "bar")], bar)];
    el("div", &[("class", "phase")], parts)
}

fn card(headline: Headline) -> Html {
    let Headline { name, value, of } = headline;
    el("div", &[("class", "figure")], vec![tag("small", name), tag("b", value), tag("span", of)])
}

pub(super) fn foot() -> Html {
    let (now, engine) = (now(), revision());
    tag(
        "footer",
        format!("Written {now} by engine {engine}. Everything that this page shows is inside of it."),
    )
}
