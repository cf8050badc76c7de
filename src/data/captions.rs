//! Captions as word ids: one vocabulary for a data set, sentences cut to `T` words.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rand::Rng;
use rand::seq::index;
use rayon::prelude::*;

use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::files::atomic;

/// Word 0: pads short captions and ends generated ones.
pub const END: &str = "<end>";

/// The captions of an image as words, with one blank between two: millions of captions in separate words would take
/// gigabytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokenized {
    pub captions: Vec<String>,
    /// Captions with letters of which no word is left.
    pub wordless: usize,
}

impl Tokenized {
    /// Of captions as they are written; those without any word are left out.
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>, tokenizer: Tokenizer) -> Tokenized {
        let mut tokenized = Tokenized::default();
        for line in lines {
            let words = tokenizer.words(line);
            if !words.is_empty() {
                tokenized.captions.push(words.join(" "));
            } else if line.chars().any(char::is_alphabetic) {
                tokenized.wordless += 1;
            }
        }
        tokenized
    }
}

/// The words of a data set; a word's id is its index, and id 0 is [`END`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, i32>,
}

/// A caption as ids, and the words of it that the vocabulary lacks (each once, in order).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<i32>,
    pub unknown: Vec<String>,
}

impl Vocabulary {
    /// The words of `captions`, which are tokenized with blanks between the words, after [`END`] in the order in which
    /// they first occur. Words that occur fewer than `min_count` times are left out; the number is how many.
    pub fn build(captions: &[&str], min_count: usize) -> (Vocabulary, usize) {
        const PIECE: usize = 1 << 14;
        let pieces: Vec<Counts> = captions.par_chunks(PIECE).map(Counts::of).collect();
        let mut all = Counts::default();
        for piece in &pieces {
            piece.order.iter().for_each(|word| all.add(word, piece.counts[word]));
        }
        let mut vocabulary = Vocabulary { words: Vec::new(), ids: HashMap::new() };
        vocabulary.push(END);
        let often = all.order.iter().filter(|word| all.counts[**word] >= min_count);
        often.for_each(|word| vocabulary.push(word));
        let rare = all.order.len() + 1 - vocabulary.len();
        (vocabulary, rare)
    }

    /// A vocabulary whose ids are the indices in `words`; the error says which word is wrong.
    pub fn from_words(words: Vec<String>) -> std::result::Result<Vocabulary, String> {
        let mut vocabulary = Vocabulary { words: Vec::new(), ids: HashMap::new() };
        words.iter().try_for_each(|word| vocabulary.accept(word))?;
        if vocabulary.words.is_empty() { Err(format!("no words, not even '{END}'")) } else { Ok(vocabulary) }
    }

    /// Reads a file with one word a line; the line number, counted from 0, is the id.
    ///
    /// # Errors
    /// `Io` when it cannot be read; `Data` with the line of an empty or repeated word, or of a first word that
    /// is not [`END`].
    pub fn load(path: impl AsRef<Path>) -> Result<Vocabulary> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::data(path, "not UTF-8; one word a line"))?;
        let mut vocabulary = Vocabulary { words: Vec::new(), ids: HashMap::new() };
        for (line, word) in (1..).zip(text.lines()) {
            vocabulary.accept(word).map_err(|why| Error::data_at(path, line, why))?;
        }
        if vocabulary.words.is_empty() {
            return Err(Error::data(
                path,
                format!("empty; the first line must be '{END}', then one word a line"),
            ));
        }
        Ok(vocabulary)
    }

    /// Writes one word a line, whole or not at all.
    ///
    /// # Errors
    /// `Io` when the folder cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut text = self.words.join("\n");
        text.push('\n');
        atomic::write(path, text.as_bytes())
    }

    /// The id of `word`, which must be as [`Tokenizer::words`] makes it.
    pub fn id(&self, word: &str) -> Option<i32> {
        self.ids.get(word).copied()
    }

    /// The word of `id`, if there is one.
    pub fn word(&self, id: i32) -> Option<&str> {
        usize::try_from(id).ok().and_then(|id| self.words.get(id)).map(String::as_str)
    }

    /// All words; the index is the id.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// How many words there are, [`END`] among them.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether it holds nothing but [`END`].
    pub fn is_empty(&self) -> bool {
        self.len() <= 1
    }

    /// Up to `n` words spelled like `word`, the nearest first: for messages about unknown words.
    pub fn near(&self, word: &str, n: usize) -> Vec<String> {
        const ALIKE: f64 = 0.75;
        let word = word.to_lowercase();
        let mut scored: Vec<(f64, &String)> =
            self.words[1..].iter().map(|known| (strsim::jaro_winkler(&word, known), known)).collect();
        scored.retain(|(score, _)| *score >= ALIKE);
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        scored.into_iter().take(n).map(|(_, known)| known.clone()).collect()
    }

    /// The words of `ids` joined by spaces, up to the first [`END`]; ids outside are left out.
    pub fn sentence(&self, ids: &[i32]) -> String {
        let words: Vec<&str> =
            ids.iter().take_while(|id| **id != 0).filter_map(|id| self.word(*id)).collect();
        words.join(" ")
    }

    fn accept(&mut self, word: &str) -> std::result::Result<(), String> {
        if self.words.is_empty() && word != END {
            return Err(format!("the first word must be '{END}', not '{word}'"));
        }
        if word.trim().is_empty() {
            return Err(format!("the word of id {} is empty; each id has one word", self.len()));
        }
        if let Some(first) = self.id(word) {
            return Err(format!("'{word}' has the id {first} already; each word has one id"));
        }
        self.push(word);
        Ok(())
    }

    fn push(&mut self, word: &str) {
        self.ids.insert(word.to_string(), self.words.len() as i32);
        self.words.push(word.to_string());
    }
}

/// How often each word occurs, and the words in the order in which they first do.
#[derive(Default)]
struct Counts<'a> {
    order: Vec<&'a str>,
    counts: HashMap<&'a str, usize>,
}

impl<'a> Counts<'a> {
    fn of(captions: &[&'a str]) -> Counts<'a> {
        let mut counts = Counts::default();
        captions.iter().flat_map(|caption| caption.split(' ')).for_each(|word| counts.add(word, 1));
        counts
    }

    fn add(&mut self, word: &'a str, times: usize) {
        let count = self.counts.entry(word).or_insert(0);
        if *count == 0 {
            self.order.push(word);
        }
        *count += times;
    }
}

/// Tokenizes `text` and looks each word up; unknown ones are left out of `ids` and named. The tokenizer must be the one
/// that the vocabulary was built with.
pub fn encode(text: &str, vocabulary: &Vocabulary, tokenizer: Tokenizer) -> Encoded {
    encode_words(tokenizer.words(text).iter().map(String::as_str), vocabulary)
}

/// As [`encode`], for a caption that is tokenized already.
pub fn encode_words<'a>(words: impl IntoIterator<Item = &'a str>, vocabulary: &Vocabulary) -> Encoded {
    let mut encoded = Encoded::default();
    let mut seen = HashSet::new();
    for word in words {
        match vocabulary.id(word) {
            Some(id) => encoded.ids.push(id),
            None if seen.insert(word) => encoded.unknown.push(word.to_string()),
            None => {}
        }
    }
    encoded
}

/// A caption of at most `limit` words: a longer one keeps a random subset, in order, as published.
pub fn fit_train(ids: &[i32], limit: usize, rng: &mut impl Rng) -> Vec<i32> {
    if ids.len() <= limit {
        return ids.to_vec();
    }
    let mut positions = index::sample(rng, ids.len(), limit).into_vec();
    positions.sort_unstable();
    positions.into_iter().map(|position| ids[position]).collect()
}

/// The first `limit` words of a caption.
pub fn fit_eval(ids: &[i32], limit: usize) -> Vec<i32> {
    ids[..ids.len().min(limit)].to_vec()
}
