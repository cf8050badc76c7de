//! A positive whole number or the word `none`, as TOML has no null.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub const NONE: &str = "none";

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Word(String),
}

pub fn serialize<T, S>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize,
    S: Serializer,
{
    match value {
        Some(number) => number.serialize(serializer),
        None => NONE.serialize(serializer),
    }
}

pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    let wrong = || D::Error::custom("expected a whole number, 1 or more, or \"none\"");
    match Written::deserialize(deserializer).map_err(|_| wrong())? {
        Written::Word(word) if word == NONE => Ok(None),
        Written::Number(number) if number > 0 => T::try_from(number).map(Some).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// The same for the path of a file.
pub mod file {
    use super::NONE;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.as_deref().unwrap_or(NONE))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        Ok(Some(String::deserialize(deserializer)?).filter(|path| path != NONE && !path.is_empty()))
    }
}
