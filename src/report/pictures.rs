//! Sections "Samples over time" and "Generated pictures".

use std::path::Path;

use serde_json::Value;

use super::html::{Html, absent, code, el, section, tag, void};
use super::image::{self, Inline};
use super::source::Source;
use crate::run::{Phase, SampleFile, samples};

/// Grids of a phase, and generated pictures, at most.
const GRIDS: usize = 40;
const GENERATED: usize = 24;

/// The grids of each phase with a slider.
pub(super) fn over_time(source: &Source) -> Html {
    let folder = samples::folder(source.root());
    let kinds = [
        (Phase::Gan, "Images of fixed captions and noise"),
        (Phase::Damsm, "Attention of the DAMSM on held-out images"),
    ];
    let mut parts = Vec::new();
    for (phase, title) in kinds {
        let files = SampleFile::all(source.root(), phase);
        if !files.is_empty() {
            parts.extend([tag("h3", title), slider(source, &files)]);
        }
    }
    if parts.is_empty() {
        parts.push(absent(
            "There are no sample grids: none was due yet (run.sample_every), or they were removed.",
        ));
    } else if let Some(captions) = captions(&folder) {
        let list = captions.into_iter().map(|caption| tag("li", caption)).collect::<Html>();
        let body = vec![tag("summary", "The captions, from the top"), tag("ol", list)];
        parts.push(el("details", &[("open", "open")], body));
    }
    section("samples", "Samples over time", parts)
}

/// The captions of the sample grids.
pub(super) fn captions(folder: &Path) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(&std::fs::read(folder.join("captions.txt")).ok()?).into_owned();
    let captions: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect();
    (!captions.is_empty()).then_some(captions)
}

/// Pictures one at a time; the last is shown first.
fn slider(source: &Source, grids: &[SampleFile]) -> Html {
    let chosen = evenly(grids.len(), GRIDS).map(|i| &grids[i]);
    let read = |file: &SampleFile| Some((file.step, source.or_problem(image::file(&file.path))?));
    let frames: Vec<(u64, Inline)> = chosen.filter_map(read).collect();
    let last = frames.len().saturating_sub(1);
    let frame = |(i, (step, picture)): (usize, &(u64, Inline))| {
        let step = step.to_string();
        let mut attributes = vec![("class", "frame"), ("data-step", &step)];
        if i != last {
            attributes.push(("hidden", "hidden"));
        }
        let alt = format!("samples at step {step}");
        el("div", &attributes, shown(picture, &alt))
    };
    let pictures = frames.iter().enumerate().map(frame).collect::<Html>();
    if frames.len() < 2 {
        let step = frames.first().map_or(String::new(), |(step, _)| format!("Step {step}"));
        return el("div", &[("class", "slider")], vec![el("p", &[("class", "note")], step), pictures]);
    }
    let last = last.to_string();
    let range = void(
        "input",
        &[
            ("type", "range"),
            ("min", "0"),
            ("max", &last),
            ("value", &last),
            ("aria-label", "step of the samples"),
        ],
    );
    let step = frames.last().map_or(0, |(step, _)| *step).to_string();
    let play = el("button", &[("type", "button")], "play");
    let output = tag("output", format!("step {step}"));
    let count = match frames.len() == grids.len() {
        true => format!("{} grids", grids.len()),
        false => format!("{} of {} grids, evenly chosen", frames.len(), grids.len()),
    };
    let controls = vec![play, range, output, el("span", &[("class", "note")], count)];
    el("div", &[("class", "slider")], vec![el("div", &[("class", "controls")], controls), pictures])
}

/// At most `most` of `count` numbers from 0, both ends among them.
fn evenly(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let taken = count.min(most);
    (0..taken).map(move |i| if taken < 2 { i } else { i * (count - 1) / (taken - 1) })
}

fn shown(picture: &Inline, alt: &str) -> Html {
    let [width, height] = [picture.width, picture.height].map(|side| side.to_string());
    void("img", &[("src", &picture.address), ("alt", alt), ("width", &width), ("height", &height)])
}

/// The newest pictures of `engine infer`, with what they were generated from.
pub(super) fn generated(source: &Source) -> Html {
    let folder = source.root().join("infer");
    let lines = source.json_lines(&folder.join("captions.jsonl"));
    let newest = lines.iter().rev().filter_map(|line| card(source, &folder, line)).take(GENERATED);
    let cards: Vec<Html> = newest.collect();
    let body = match cards.is_empty() {
        true => absent(vec![
            "There are none in this run's folder yet; ".into(),
            code("engine infer --run RUN \"a caption\""),
            " makes some.".into(),
        ]),
        false => {
            let count = format!("The newest {} of {} samples, the newest first.", cards.len(), lines.len());
            vec![el("p", &[("class", "note")], count), el("div", &[("class", "cards")], cards)].into()
        }
    };
    section("generated", "Generated pictures", body)
}

fn card(source: &Source, folder: &Path, line: &Value) -> Option<Html> {
    let files = line["files"].as_array()?;
    let mut names = files.iter().filter_map(Value::as_str).filter(|name| name.ends_with(".png"));
    // The stages come before the sheet, the largest last.
    let name = names.rfind(|name| !name.ends_with("-sheet.png"))?;
    let path = folder.join(Path::new(name).file_name()?);
    if !path.is_file() {
        return None;
    }
    let picture = source.or_problem(image::file(&path))?;
    let caption = line["caption"].as_str().unwrap_or_default();
    let detail = |name: &str| {
        let value = &line[name];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        (!value.is_null()).then(|| format!("{name} {text}"))
    };
    let details: Vec<String> = ["checkpoint", "seed", "truncation"].into_iter().filter_map(detail).collect();
    let below = vec![tag("span", caption), tag("small", details.join(" · "))];
    Some(tag("figure", vec![shown(&picture, caption), tag("figcaption", below)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_chosen_evenly_with_both_ends() {
        assert_eq!(evenly(3, 40).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(evenly(1, 40).collect::<Vec<_>>(), [0]);
        assert_eq!(evenly(0, 40).count(), 0);
        let many: Vec<usize> = evenly(1000, 40).collect();
        assert_eq!((many.len(), many[0], many[39]), (40, 0, 999));
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
