//! The three shapes of Python pickle that CUB's users have, from Python 2 (byte strings) or 3.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_pickle::{DeOptions, HashableValue, Value};

use super::captions::Vocabulary;
use crate::error::{Error, Result};

/// What `captions.pickle` holds: `[train ids, test ids, index → word, word → index]`.
pub struct Captions {
    pub train: Vec<Vec<i32>>,
    pub test: Vec<Vec<i32>>,
    pub vocabulary: Vocabulary,
}

/// Reads `filenames.pickle`: a list of keys such as `001.Black_footed_Albatross/Black_Footed_Albatross_0046_18`.
///
/// # Errors
/// `Io` when it cannot be read, `Data` when it is no pickle or no list of strings.
pub fn filenames(path: &Path) -> Result<Vec<String>> {
    let wrong = || Error::data(path, "expected a pickled list of file names (CUB's filenames.pickle)");
    let keys = list(load(path)?).ok_or_else(wrong)?;
    keys.into_iter().map(|key| text(key).ok_or_else(wrong)).collect()
}

/// Reads `captions.pickle`, which fixes the word order of published weights.
///
/// # Errors
/// `Io` when it cannot be read, `Data` when a part is missing or a caption names a word that is not there.
pub fn captions(path: &Path) -> Result<Captions> {
    let wrong = |part: &str| {
        let why = format!("{part}; expected [train captions, test captions, index→word, word→index]");
        Error::data(path, why)
    };
    let mut parts = list(load(path)?).ok_or_else(|| wrong("not a list"))?.into_iter();
    let mut part = |name: &str| parts.next().ok_or_else(|| wrong(&format!("{name} missing")));
    let train = part("the train captions")?;
    let test = part("the test captions")?;
    let words = part("the word list")?;
    let words =
        word_list(words).ok_or_else(|| wrong("the word list is not a dictionary from 0, 1, 2, ..."))?;
    let vocabulary = Vocabulary::from_words(words).map_err(|why| wrong(&why))?;
    let ids = |value, name: &str| {
        id_lists(value, vocabulary.len()).ok_or_else(|| {
            wrong(&format!("the {name} captions are not lists of ids below {}", vocabulary.len()))
        })
    };
    Ok(Captions { train: ids(train, "train")?, test: ids(test, "test")?, vocabulary })
}

fn load(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    serde_pickle::value_from_slice(&bytes, DeOptions::new())
        .map_err(|error| Error::data(path, format!("not a pickle of plain lists and dictionaries: {error}")))
}

fn list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::List(items) | Value::Tuple(items) => Some(items),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bytes(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// `{0: '<end>', 1: 'the', ...}` as a list; `None` when an index between is missing.
fn word_list(value: Value) -> Option<Vec<String>> {
    let Value::Dict(entries) = value else { return None };
    let mut by_index = BTreeMap::new();
    for (index, word) in entries {
        let HashableValue::I64(index) = index else { return None };
        by_index.insert(index, text(word)?);
    }
    let whole = by_index.keys().copied().eq(0..by_index.len() as i64);
    whole.then(|| by_index.into_values().collect())
}

fn id_lists(value: Value, words: usize) -> Option<Vec<Vec<i32>>> {
    list(value)?.into_iter().map(|caption| id_list(caption, words)).collect()
}

fn id_list(value: Value, words: usize) -> Option<Vec<i32>> {
    let id = |value| match value {
        Value::I64(id) if (0..words as i64).contains(&id) => Some(id as i32),
        _ => None,
    };
    list(value)?.into_iter().map(id).collect()
}
