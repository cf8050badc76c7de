//! Weights that a phase begins with: those of another run, or of an imported checkpoint.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::data::Vocabulary;
use crate::engine::nn::{Archive, Array, Store};
use crate::error::Result;
use crate::infer::frozen::weight_file;

/// A checkpoint of the same phase, and the words that it was trained with.
pub(super) struct InitialWeights<'a> {
    folder: PathBuf,
    theirs: Vocabulary,
    ours: &'a Vocabulary,
    notes: RefCell<Vec<String>>,
}

impl<'a> InitialWeights<'a> {
    pub fn new(folder: PathBuf, theirs: Vocabulary, ours: &'a Vocabulary) -> InitialWeights<'a> {
        InitialWeights { folder, theirs, ours, notes: RefCell::default() }
    }

    /// Lines for the user on what begins new.
    pub fn notes(self) -> Vec<String> {
        self.notes.into_inner()
    }

    /// Loads the weights of a network, if the checkpoint has them.
    pub fn load(&self, network: &str, store: &Store) -> Result<()> {
        let Some(archive) = self.read(network)? else { return Ok(()) };
        store.load(archive)
    }

    /// As [`InitialWeights::load`], for a network with tables of which a row, or a number, belongs to a word. Words that
    /// are not theirs keep their initial values.
    pub fn load_by_word(&self, network: &str, store: &Store, tables: &[&str]) -> Result<()> {
        let Some(mut archive) = self.read(network)? else { return Ok(()) };
        if self.theirs != *self.ours {
            let initial = store.archive();
            for name in tables {
                let (Some(theirs), Some(ours)) = (archive.get(name), initial.get(name)) else { continue };
                if theirs.shape.first() == Some(&self.theirs.len()) && theirs.shape[1..] == ours.shape[1..] {
                    let matched = self.matched(theirs, ours);
                    archive.insert(*name, matched);
                }
            }
            self.note_words(network);
        }
        store.load(archive)
    }

    fn read(&self, network: &str) -> Result<Option<Archive>> {
        let file = weight_file(&self.folder, network);
        if !file.exists() {
            self.notes
                .borrow_mut()
                .push(format!("{network} begins new: there is none in {}", self.folder.display()));
            return Ok(None);
        }
        Archive::read(file).map(Some)
    }

    /// Our table with the rows of the words that both know.
    fn matched(&self, theirs: &Array, ours: &Array) -> Array {
        let width: usize = ours.shape[1..].iter().product();
        let (from, mut values) = (theirs.to_f32(), ours.to_f32());
        for (row, word) in values.chunks_mut(width).zip(self.ours.words()) {
            if let Some(id) = self.theirs.id(word) {
                row.copy_from_slice(&from[id as usize * width..][..width]);
            }
        }
        Array::f32(&ours.shape, values)
    }

    fn note_words(&self, network: &str) {
        let new: Vec<&str> = self
            .ours
            .words()
            .iter()
            .filter(|word| self.theirs.id(word).is_none())
            .map(String::as_str)
            .collect();
        let (all, known) = (self.ours.len(), self.ours.len() - new.len());
        let gone = self.theirs.len() - known;
        let mut line = format!("{network}: {known} of {all} words are known");
        if !new.is_empty() {
            let such = new.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            line.push_str(&format!(", {} begin new, such as {such}", new.len()));
        }
        if gone > 0 {
            line.push_str(&format!("; {gone} of the earlier words do not occur here"));
        }
        self.notes.borrow_mut().push(line);
    }
}
