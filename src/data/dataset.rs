//! A data set of any format once it is read: the items of two splits, a vocabulary, and what was skipped and why.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::captions::Vocabulary;

/// An image file with its captions.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Folder and stem, such as `001.Black_footed_Albatross/Black_Footed_Albatross_0046_18`.
    pub id: String,
    pub image: PathBuf,
    /// `[x, y, width, height]` in pixels; `None` takes the whole image.
    pub bbox: Option<[f32; 4]>,
    pub class: i32,
    /// Word ids, each caption whole and not empty; there is at least one.
    pub captions: Vec<Vec<i32>>,
}

/// A file that was skipped, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skip {
    pub file: PathBuf,
    pub why: String,
}

/// A data set, read except for its image files.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub root: PathBuf,
    pub train: Vec<Item>,
    pub test: Vec<Item>,
    pub vocabulary: Vocabulary,
    pub skipped: Vec<Skip>,
    /// Notes for the user about defaults: where the split came from, what stands in for absent files.
    pub notices: Vec<String>,
}

/// The classes that occur among `items`.
pub fn classes(items: &[Item]) -> BTreeSet<i32> {
    items.iter().map(|item| item.class).collect()
}

impl Dataset {
    /// stub
    pub fn require_trainable(&self, key: &str, batch: usize) -> crate::error::Result<()> {
        let items = self.train.len();
        if batch > items {
            let why = format!(
                "a batch of {batch} is larger than the data set of {items} training images; set it to {items} or less"
            );
            return Err(crate::error::Error::config(key, why));
        }
        Ok(())
    }
}
