//! Keys of a configuration: setting one by `section.key=value`, the help of each, and what was meant by a wrong one.

use toml::{Table, Value};

use super::near::nearest;
use super::tree::{Flat, flatten, insert};
use super::{PRESETS, deserialize, migrate};
use crate::error::{Error, Result};
use crate::mirrorgan::optional::NONE;

/// A key with its value and its help, for a table.
pub struct KeyHelp {
    pub key: String,
    /// integer, number, boolean, list, name, or what may also be none.
    pub kind: &'static str,
    pub value: String,
    pub help: &'static str,
}

/// What a key means: its comment in the presets, which is the same in all of them.
pub fn help(key: &str) -> Option<&'static str> {
    comments(reference()).into_iter().find(|(known, _)| known == key).map(|(_, comment)| comment)
}

/// Every preset has every key, so one of them is the list of the keys.
fn reference() -> &'static str {
    &PRESETS[0].text
}

/// The keys of a preset in its order, each with the comment on its line, empty where there is none.
pub(super) fn comments(text: &str) -> Vec<(String, &str)> {
    let (mut section, mut found) = ("", Vec::new());
    for line in text.lines() {
        let (code, comment) = line.split_once('#').unwrap_or((line, ""));
        if let Some(name) = code.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = code.split_once('=') {
            found.push((format!("{section}.{}", key.trim()), comment.trim()));
        }
    }
    found
}

fn kind(key: &str, value: &Value) -> &'static str {
    match value {
        _ if migrate::is_optional(key) => "integer or none",
        Value::Integer(_) => "integer",
        Value::Float(_) => "number",
        Value::Boolean(_) => "boolean",
        Value::Array(_) => "list",
        _ => "name",
    }
}

pub(super) fn table_of_help(values: &Flat) -> Vec<KeyHelp> {
    let row = |(key, help): (String, &'static str)| {
        let value = values.get(&key).map_or("-".to_string(), Value::to_string);
        let kind = values.get(&key).map_or("-", |value| kind(&key, value));
        KeyHelp { key, kind, value, help }
    };
    comments(reference()).into_iter().map(row).collect()
}

/// Puts the value of a `section.key=value` in place of the one in the table, as the same type.
pub(super) fn apply(table: &mut Table, setting: &str) -> Result<()> {
    let Some((key, text)) = setting.split_once('=') else {
        let why = "a setting reads key=value, as in gan.schedule.batch=8; `--set help` lists the keys";
        return Err(Error::config(setting, why));
    };
    let (key, text) = (key.trim(), text.trim());
    let now = flatten(table).remove(key);
    let like = now.clone().or_else(|| known().remove(key)).ok_or_else(|| unknown(key))?;
    let explained = |why: String| match help(key) {
        Some(help) => Error::config(key, format!("{why} ({help})")),
        None => Error::config(key, why),
    };
    let optional = migrate::is_optional(key);
    let wrong = || {
        let now = now.map_or(String::new(), |now| format!("; it is {now} now"));
        let kind = if optional { "a whole number, 1 or more, or none" } else { kind_name(&like) };
        explained(format!("'{text}' is not {kind}{now}"))
    };
    let value = if optional { number_or_none(text) } else { typed(&like, text) };
    insert(table, key, value.ok_or_else(wrong)?);
    if optional {
        return Ok(());
    }
    // Names such as a cell's, and what lists hold, are known to the types alone.
    match (&like, deserialize(table.clone())) {
        (Value::String(_) | Value::Array(_), Err(why)) => Err(explained(why)),
        _ => Ok(()),
    }
}

/// Every key that a configuration may have.
fn known() -> Flat {
    let table = reference().parse().unwrap_or_else(|e| unreachable!("a preset is TOML: {e}"));
    flatten(&table)
}

/// The key whose value is of another type than it must be: the one that spoils a configuration that is right otherwise.
pub(super) fn wrong_type(table: &Table) -> Option<String> {
    let spoils = |key: &String, value: &Value| {
        let mut right: Table = reference().parse().unwrap_or_else(|e| unreachable!("a preset is TOML: {e}"));
        insert(&mut right, key, value.clone());
        deserialize(right).is_err()
    };
    flatten(table).into_iter().find(|(key, value)| spoils(key, value)).map(|(key, _)| key)
}

/// Refuses values where sections must be, which settings would fall into.
pub(super) fn require_sections(label: &str, table: &Table) -> Result<()> {
    match table.iter().find(|(_, value)| !value.is_table()) {
        Some((key, _)) => {
            Err(Error::config(label, format!("'{key}' stands outside of the sections; there is no such key")))
        }
        None => Ok(()),
    }
}

/// Refuses keys that there are not, and names those that are missing.
pub(super) fn require_complete(label: &str, table: &Table) -> Result<()> {
    let (found, known) = (flatten(table), known());
    if let Some(key) = found.keys().find(|key| !known.contains_key(*key)) {
        return Err(unknown(key));
    }
    let missing: Vec<&str> =
        known.keys().filter(|key| !found.contains_key(*key)).map(String::as_str).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::config(label, format!("missing: {}", missing.join(", ")))),
    }
}

fn unknown(key: &str) -> Error {
    if let Some(now) = migrate::present_keys(key) {
        return Error::config(key, format!("this key is {} now", now.join(" and ")));
    }
    let known = known();
    let near = nearest(key, known.keys().map(String::as_str));
    let why = match near.is_empty() {
        true => "there is no such key; `engine train --set help` lists them".to_string(),
        false => format!("there is no such key; near ones are {}", near.join(", ")),
    };
    Error::config(key, why)
}

fn number_or_none(text: &str) -> Option<Value> {
    match text.trim_matches('"') {
        NONE => Some(NONE.into()),
        text => text.replace('_', "").parse().ok().filter(|n: &i64| *n > 0).map(Value::Integer),
    }
}

fn typed(like: &Value, text: &str) -> Option<Value> {
    Some(match like {
        Value::Integer(_) => Value::Integer(text.replace('_', "").parse().ok().filter(|n: &i64| *n >= 0)?),
        Value::Float(_) => Value::Float(text.parse().ok().filter(|x: &f64| x.is_finite())?),
        Value::Boolean(_) => Value::Boolean(text.parse().ok()?),
        Value::String(_) => Value::String(text.trim_matches('"').to_string()),
        Value::Array(_) => {
            format!("x = {text}").parse::<Table>().ok()?.remove("x").filter(Value::is_array)?
        }
        _ => return None,
    })
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "a whole number, 0 or more",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list such as [16, 32]",
        _ => "a value of its kind",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn every_key_of_every_preset_has_one_comment() {
        let expected = comments(reference());
        assert_eq!(expected.len(), known().len());
        for Preset { name, text, .. } in PRESETS.iter() {
            for ((key, comment), (_, first)) in comments(text).iter().zip(&expected) {
                assert!(!comment.is_empty(), "{name}: {key} has no comment");
                assert_eq!(comment, first, "{name}: {key}");
            }
            let keys =
                |found: &[(String, &str)]| found.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
            assert_eq!(keys(&comments(text)), keys(&expected), "{name}");
        }
    }
}
