//! The shapes of Python pickle that CUB's users have, from Python 2 (byte strings) or 3, with numpy's types or without.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::captions::Vocabulary;
use super::names::trimmed;
use crate::error::{Error, Result};
use crate::files::kind;
use crate::files::pickle::{self, Id, Node, Pickle};

/// What `captions.pickle` holds: `[train ids, test ids, index → word, word → index]`.
pub struct Captions {
    pub train: Vec<Vec<i32>>,
    pub test: Vec<Vec<i32>>,
    pub vocabulary: Vocabulary,
}

/// Reads `filenames.pickle`: a list of names such as `001.Black_footed_Albatross/Black_Footed_Albatross_0046_18`.
///
/// # Errors
/// `Io` when it cannot be read, `Data` when it is no pickle or no list of strings.
pub fn filenames(path: &Path) -> Result<Vec<String>> {
    let pickle = load(path)?;
    let wrong = |held: String| {
        let why = "expected a pickled list of file names (CUB's filenames.pickle)";
        Error::data(path, format!("{why}; it holds {held}; save a plain list of strings"))
    };
    let names = pickle.list(pickle.root).ok_or_else(|| wrong(pickle.describe(pickle.root)))?;
    let name = |(at, id): (usize, &Id)| {
        pickle.text(*id).ok_or_else(|| wrong(format!("{} as name {}", pickle.describe(*id), at + 1)))
    };
    names.iter().enumerate().map(name).collect()
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
    let pickle = load(path)?;
    let parts = pickle
        .list(pickle.root)
        .ok_or_else(|| wrong(&format!("{} is not a list", pickle.describe(pickle.root))))?;
    let part = |at: usize, name: &str| parts.get(at).ok_or_else(|| wrong(&format!("{name} missing")));
    let (train, test) = (part(0, "the train captions")?, part(1, "the test captions")?);
    let words = *part(2, "the word list")?;
    let words = word_list(&pickle, words).ok_or_else(|| {
        wrong(&format!(
            "the word list is {}, not a dictionary from 0, 1, 2, ... to words",
            pickle.describe(words)
        ))
    })?;
    let vocabulary = Vocabulary::from_words(words).map_err(|why| wrong(&why))?;
    let mut room = pickle.length.saturating_mul(4).saturating_add(1 << 16);
    let mut ids = |list: Id, name: &str| {
        id_lists(&pickle, list, vocabulary.len(), &mut room).ok_or_else(|| {
            wrong(&format!("the {name} captions are not lists of ids below {}", vocabulary.len()))
        })
    };
    let (train, test) = (ids(*train, "train")?, ids(*test, "test")?);
    Ok(Captions { train, test, vocabulary })
}

/// What a list takes beside its ids.
const A_LIST: usize = 8;

fn load(path: &Path) -> Result<Pickle> {
    let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
    pickle::read(&bytes).map_err(|why| {
        let why = match kind::of_bytes(&bytes) {
            _ if bytes.is_empty() => "an empty file, not a pickle; copy it again".to_string(),
            Some("a Python pickle") | None => format!("not a pickle that can be read: {why}"),
            Some(kind) => format!("not a pickle but {kind}"),
        };
        Error::data(path, why)
    })
}

/// `{0: '<end>', 1: 'the', ...}`, or a list, as a list; none when an index between is missing.
fn word_list(pickle: &Pickle, id: Id) -> Option<Vec<String>> {
    let word = |id: Id| pickle.text(id).map(|word| trimmed(&word).to_string());
    if let Some(words) = pickle.list(id) {
        return words.iter().map(|id| word(*id)).collect();
    }
    let Node::Dict(entries) = pickle.node(id) else { return None };
    let mut by_index = BTreeMap::new();
    for (index, text) in entries {
        by_index.insert(pickle.int(*index)?, word(*text)?);
    }
    let whole = by_index.keys().copied().eq(0..by_index.len() as i64);
    whole.then(|| by_index.into_values().collect())
}

/// A list that stands in many places of a pickle takes no room there, but does here: each id takes from `room`.
fn id_lists(pickle: &Pickle, id: Id, words: usize, room: &mut usize) -> Option<Vec<Vec<i32>>> {
    let captions = pickle.list(id)?;
    captions
        .iter()
        .map(|caption| {
            let ids = pickle.list(*caption)?;
            *room = room.checked_sub(ids.len() + A_LIST)?;
            let id = |id: &Id| pickle.int(*id).filter(|id| (0..words as i64).contains(id));
            ids.iter().map(|at| id(at).map(|id| id as i32)).collect()
        })
        .collect()
}
