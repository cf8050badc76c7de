//! Nested tables of TOML by dotted keys.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// `section.key` of each value.
pub type Flat = BTreeMap<String, Value>;

/// The values of a table by their dotted keys.
pub fn flatten(table: &Table) -> Flat {
    let mut flat = Flat::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => {
                flat.extend(flatten(inner).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => drop(flat.insert(name.clone(), value.clone())),
        }
    }
    flat
}

/// Sets `section.key`, making the tables on the way to it.
pub fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_string(), value)),
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
