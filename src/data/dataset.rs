//! What a data set is once read: items of two splits, a vocabulary, and what was left out and why.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::captions::Vocabulary;

/// A picture with its captions.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Folder and stem, such as `001.Black_footed_Albatross/Black_Footed_Albatross_0046_18`.
    pub id: String,
    pub image: PathBuf,
    /// `[x, y, width, height]` in pixels; `None` takes the whole picture.
    pub bbox: Option<[f32; 4]>,
    pub class: i32,
    /// Word ids, each caption whole and not empty; there is at least one.
    pub captions: Vec<Vec<i32>>,
}

/// A file that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skip {
    pub file: PathBuf,
    pub why: String,
}

/// A data set, read except for its pictures.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub root: PathBuf,
    pub train: Vec<Item>,
    pub test: Vec<Item>,
    pub vocabulary: Vocabulary,
    pub skipped: Vec<Skip>,
    /// What a user should know though nothing is wrong: where the split came from, which defaults were taken.
    pub notices: Vec<String>,
}

/// What a full check of a data set found; its `Display` is the report to a user.
#[derive(Debug, Clone)]
pub struct Report {
    pub root: PathBuf,
    pub train: usize,
    pub test: usize,
    pub train_classes: usize,
    pub test_classes: usize,
    pub captions: usize,
    pub words: usize,
    /// Length in words of the longest caption.
    pub longest: usize,
    /// Pictures without color; they are used as RGB.
    pub gray: usize,
    pub skipped: Vec<Skip>,
    pub notices: Vec<String>,
}

/// Skips named one by one in a report; the others are counted by reason.
const NAMED: usize = 8;

impl Report {
    /// Whether every file that is there can be used.
    pub fn is_clean(&self) -> bool {
        self.skipped.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.root.display())?;
        writeln!(f, "  train     {:>7} pictures of {} classes", self.train, self.train_classes)?;
        writeln!(f, "  test      {:>7} pictures of {} classes", self.test, self.test_classes)?;
        writeln!(f, "  captions  {:>7}, the longest of {} words", self.captions, self.longest)?;
        writeln!(f, "  words     {:>7} in the vocabulary", self.words)?;
        if self.gray > 0 {
            writeln!(f, "  gray      {:>7} pictures without color, used as RGB", self.gray)?;
        }
        for notice in &self.notices {
            writeln!(f, "  note: {notice}")?;
        }
        write_skips(f, &self.skipped)
    }
}

fn write_skips(f: &mut fmt::Formatter<'_>, skipped: &[Skip]) -> fmt::Result {
    if skipped.is_empty() {
        return writeln!(f, "  nothing will be skipped");
    }
    writeln!(f, "  {} will be skipped:", skipped.len())?;
    for Skip { file, why } in skipped.iter().take(NAMED) {
        writeln!(f, "    {}: {why}", file.display())?;
    }
    if skipped.len() > NAMED {
        writeln!(f, "    ... and {} more:", skipped.len() - NAMED)?;
        for (why, count) in by_reason(&skipped[NAMED..]) {
            writeln!(f, "      {count} × {why}")?;
        }
    }
    Ok(())
}

/// Skips counted by their reason up to its first `:` or `(`, after which the details stand.
fn by_reason(skipped: &[Skip]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for skip in skipped {
        let reason = skip.why.split([':', '(']).next().unwrap_or_default().trim();
        *counts.entry(reason).or_default() += 1;
    }
    counts
}
