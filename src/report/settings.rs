//! Sections "Data" and "Configuration".

use super::html::{Html, absent, code, el, pairs, row_of, section, tag, with_head};
use super::source::Source;
use crate::config::{Config, preset_text};

pub(super) fn data(source: &Source) -> Html {
    let Some(record) = &source.record else {
        let why = "The run has no run.json that can be read; versions before 0.3.0 kept none.";
        return section("data", "Data", absent(why));
    };
    let print = &record.fingerprint;
    let place = record.data.clone().unwrap_or_else(|| "not kept: its path is not UTF-8".to_string());
    let inside = source.root().join(&place).starts_with(source.root());
    let checks = format!("images and split {:08x}, captions {:08x}", print.images, print.captions);
    let mut rows = vec![
        ("data set", record.dataset.as_str().into()),
        ("folder or pack", if inside { format!("{place}, inside the run") } else { place }.into()),
        ("images to train on", print.training_images.to_string().into()),
        ("images held out", print.test_images.to_string().into()),
        ("words of the vocabulary", print.words.to_string().into()),
        ("fingerprint (CRC-32C)", code(&checks)),
        (
            "skipped files",
            "Not recorded in a run: every call of engine train names them, and so does engine data check."
                .into(),
        ),
    ];
    rows.extend(record.from.as_deref().map(|from| ("weights began with those of", from.into())));
    section("data", "Data", pairs(rows))
}

pub(super) fn configuration(source: &Source) -> Html {
    let config = &source.config;
    let name = source.record.as_ref().map(|record| record.preset.as_str());
    let preset = name.and_then(|name| preset_text(name).ok().map(|_| Config::load(name, &[])));
    let preset = preset.and_then(|loaded| source.or_problem(loaded));
    let differences = preset.as_ref().map(|preset| config.differences(preset)).unwrap_or_default();
    let remark = match (name, &preset) {
        (Some(name), Some(_)) => match differences.len() {
            0 => format!("Every value is that of the preset {name}."),
            1 => format!("One value is not that of the preset {name}; it is marked, with the preset's."),
            n => {
                format!("{n} values are not those of the preset {name}; they are marked, with the preset's.")
            }
        },
        (Some(name), None) => format!("It began as {name}, which is not at hand: nothing can be compared."),
        (None, _) => "What preset it began as is not recorded.".to_string(),
    };
    let of_preset =
        |key: &str| differences.iter().find(|(of, ..)| of == key).map(|(_, _, theirs)| theirs.clone());
    let mut sections: Vec<(String, Vec<Html>)> = Vec::new();
    for help in config.keys() {
        let section = help.key.split('.').next().unwrap_or_default().to_string();
        let theirs = of_preset(&help.key);
        let class: &[(&str, &str)] = if theirs.is_some() { &[("class", "changed")] } else { &[] };
        let cells = vec![
            code(&help.key),
            code(&help.value),
            theirs.map_or(Html::default(), |v| code(&v)),
            help.help.into(),
        ];
        let row = row_of(class, cells);
        match sections.last_mut() {
            Some((last, rows)) if *last == section => rows.push(row),
            _ => sections.push((section, vec![row])),
        }
    }
    let changed = differences.iter().map(|(key, ours, theirs)| {
        row_of(&[("class", "changed")], vec![code(key), code(ours), code(theirs)])
    });
    let changed = changed.collect::<Html>();
    let heads = |names: &[&str]| names.iter().map(|name| tag("th", *name)).collect::<Html>();
    let short = match changed.is_empty() {
        true => Html::default(),
        false => with_head(heads(&["key", "this run", "preset"]), changed),
    };
    let rows = sections.into_iter().flat_map(|(_, rows)| rows).collect::<Html>();
    let all = with_head(heads(&["key", "value", "preset", "what it is"]), rows);
    let all = tag("details", vec![tag("summary", "All keys"), all]);
    section("configuration", "Configuration", vec![el("p", &[("class", "note")], remark), short, all])
}
