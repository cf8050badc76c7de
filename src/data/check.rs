//! A full check of a data set: every image file is decoded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use rayon::iter::Either;
use rayon::prelude::*;

use super::codec::decode;
use super::crop::bbox_crop;
use super::dataset::{Dataset, Item, Skip, classes};
use crate::error::{Error, Result};

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
    /// Images without color; they are used as RGB.
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
        writeln!(f, "  train     {:>7} images of {} classes", self.train, self.train_classes)?;
        writeln!(f, "  test      {:>7} images of {} classes", self.test, self.test_classes)?;
        writeln!(f, "  captions  {:>7}, the longest of {} words", self.captions, self.longest)?;
        writeln!(f, "  words     {:>7} in the vocabulary", self.words)?;
        if self.gray > 0 {
            writeln!(f, "  gray      {:>7} images without color, used as RGB", self.gray)?;
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

/// Decodes every image of a data set, on all cores.
pub fn check(mut dataset: Dataset) -> Report {
    let mut gray = 0;
    for items in [&mut dataset.train, &mut dataset.test] {
        let (good, bad) = inspect(std::mem::take(items));
        gray += good.iter().filter(|(_, gray)| *gray).count();
        *items = good.into_iter().map(|(item, _)| item).collect();
        dataset.skipped.extend(bad);
    }
    let captions = || dataset.train.iter().chain(&dataset.test).flat_map(|item| &item.captions);
    Report {
        train: dataset.train.len(),
        test: dataset.test.len(),
        train_classes: classes(&dataset.train).len(),
        test_classes: classes(&dataset.test).len(),
        captions: captions().count(),
        words: dataset.vocabulary.len(),
        longest: captions().map(Vec::len).max().unwrap_or(0),
        gray,
        root: dataset.root,
        skipped: dataset.skipped,
        notices: dataset.notices,
    }
}

/// Decodes every image: the good ones with whether they are gray, the others with the reason.
fn inspect(items: Vec<Item>) -> (Vec<(Item, bool)>, Vec<Skip>) {
    items.into_par_iter().partition_map(|item| match is_gray(&item) {
        Ok(gray) => Either::Left((item, gray)),
        Err(error) => Either::Right(Skip { why: error.reason(), file: item.image }),
    })
}

fn is_gray(item: &Item) -> Result<bool> {
    let decoded = decode(&item.image)?;
    if let Some(bbox) = item.bbox {
        bbox_crop(decoded.picture.width, decoded.picture.height, bbox)
            .map_err(|why| Error::data(&item.image, why))?;
    }
    Ok(decoded.gray)
}
