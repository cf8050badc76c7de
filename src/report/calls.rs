//! Section "Calls": who trained what, when, on which machine.

use serde_json::Value;

use super::html::{Html, absent, code, section, table, tag};
use super::source::Source;

pub(super) fn html(source: &Source) -> Html {
    let lines = source.json_lines(&source.root().join("runs.jsonl"));
    let of = |event: &str| lines.iter().filter(move |line| line["event"] == event).collect::<Vec<_>>();
    let (begins, weights) = (of("begin"), of("weights"));
    let calls = match begins.is_empty() {
        true => absent("The run keeps no log of calls; versions before 0.3.0, and imports, write none."),
        false => {
            let rows = begins.iter().map(|begin| call(begin, end_of(&lines, begin)));
            table(
                &[
                    "began (UTC)",
                    "ended (UTC)",
                    "trained",
                    "outcome",
                    "machine",
                    "engine",
                    "command and changes",
                ],
                rows,
            )
        }
    };
    let files = weights.iter().map(|line| {
        let bytes = line["bytes"].as_u64().map_or(String::new(), |bytes| bytes.to_string());
        vec![
            text(line, "network"),
            text(line, "file"),
            bytes.into(),
            code(line["sha256"].as_str().unwrap_or_default()),
        ]
    });
    let files: Vec<Vec<Html>> = files.collect();
    let initial = match files.is_empty() {
        true => Html::default(),
        false => vec![
            tag("h3", "Files of initial weights"),
            table(&["network", "file", "bytes", "SHA-256"], files),
        ]
        .into(),
    };
    section("calls", "Calls and machine", vec![calls, initial, imported(source)])
}

/// The end that follows a begin, written by the same process before another call begins.
fn end_of<'a>(lines: &'a [Value], begin: &Value) -> Option<&'a Value> {
    let at = lines
        .iter()
        .position(|line| std::ptr::eq(line, begin))
        .or_else(|| lines.iter().position(|l| l == begin))?;
    let mut later = lines[at + 1..].iter().take_while(|line| line["event"] != "begin");
    later.find(|line| line["event"] == "end" && line["process"] == begin["process"])
}

fn call(begin: &Value, end: Option<&Value>) -> Vec<Html> {
    let trained = end.and_then(|end| end["trained"].as_object()).map(|phases| {
        let phase = |(name, steps): (&String, &Value)| format!("{name} {} to {}", steps[0], steps[1]);
        phases.iter().map(phase).collect::<Vec<_>>().join(", ")
    });
    let outcome = match end {
        Some(end) => text(end, "outcome"),
        None => "no end is recorded: it runs still, or was killed".into(),
    };
    let machine = format!("{}, {}", plain(begin, "host"), plain(begin, "device"));
    let engine = format!("{} (revision {})", plain(begin, "version"), plain(begin, "revision"));
    let words = begin["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let command = words.collect::<Vec<_>>().join(" ");
    let mut last = vec![code(&command)];
    for change in begin["changes"].as_array().into_iter().flatten() {
        let line = format!(
            "{} is {} now; it was {}",
            plain(change, "key"),
            plain(change, "to"),
            plain(change, "from")
        );
        last.push(tag("div", line));
    }
    let ended = end.map_or(Html::default(), |end| text(end, "time"));
    vec![
        text(begin, "time"),
        ended,
        trained.unwrap_or_default().into(),
        outcome,
        machine.into(),
        engine.into(),
        last.into(),
    ]
}

fn imported(source: &Source) -> Html {
    let Some(import) = source.json(&source.root().join("import.json")) else { return Html::default() };
    let pretty = serde_json::to_string_pretty(&import).unwrap_or_default();
    vec![tag("h3", "Imported from"), tag("pre", pretty)].into()
}

fn plain(line: &Value, name: &str) -> String {
    line[name].as_str().map_or_else(|| "not recorded".to_string(), str::to_string)
}

fn text(line: &Value, name: &str) -> Html {
    plain(line, name).into()
}
