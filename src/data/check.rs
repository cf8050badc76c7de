//! A full check of a data set: every image file is decoded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use rayon::iter::Either;
use rayon::prelude::*;

use super::crop::cropped;
use super::dataset::{Dataset, Item, Skip, classes};
use super::decode::DecodeConfig;
use super::names::count;
use super::packed::Packing;

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
    /// Images whose EXIF data ask to turn or mirror them.
    pub oriented: usize,
    /// Whether they are.
    pub exif_orientation: bool,
    /// What the data set was packed for, where it is a pack.
    pub packing: Option<Packing>,
    /// Pictures of a pack that are not what was packed.
    pub damaged: Vec<String>,
    /// Why nothing can be trained on it.
    pub unusable: Option<String>,
    pub skipped: Vec<Skip>,
    pub notices: Vec<String>,
}

/// Skips named one by one in a report; the others are counted by reason.
const NAMED: usize = 8;

impl Report {
    /// Whether every file that is there can be used.
    pub fn is_clean(&self) -> bool {
        self.skipped.is_empty() && self.damaged.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.root.display())?;
        if let Some(Packing { format, root, side, .. }) = &self.packing {
            writeln!(
                f,
                "  packed    {side:>7} pixels: the side of the largest images; from {root} ({format})"
            )?;
        }
        for (split, images, classes) in
            [("train", self.train, self.train_classes), ("test", self.test, self.test_classes)]
        {
            let (of, classes) = (plural(images, "image"), count(classes, "class", "classes"));
            writeln!(f, "  {split:<9} {images:>7} {of} of {classes}")?;
        }
        let longest = count(self.longest, "word", "words");
        writeln!(f, "  captions  {:>7}, the longest of {longest}", self.captions)?;
        writeln!(f, "  words     {:>7} in the vocabulary", self.words)?;
        if self.gray > 0 {
            writeln!(
                f,
                "  gray      {:>7} {} without color, used as RGB",
                self.gray,
                plural(self.gray, "image")
            )?;
        }
        if self.oriented > 0 {
            let carry = if self.oriented == 1 { "image carries" } else { "images carry" };
            let (done, value) = match self.exif_orientation {
                true => ("followed", true),
                false => ("ignored, as the published code does", false),
            };
            writeln!(
                f,
                "  turned    {:>7} {carry} an EXIF orientation, which is {done} (data.exif_orientation = {value})",
                self.oriented
            )?;
        }
        for notice in &self.notices {
            writeln!(f, "  note: {notice}")?;
        }
        write_damaged(f, &self.damaged)?;
        write_skips(f, &self.skipped)
    }
}

fn plural(number: usize, noun: &str) -> String {
    if number == 1 { noun.to_string() } else { format!("{noun}s") }
}

fn write_damaged(f: &mut fmt::Formatter<'_>, damaged: &[String]) -> fmt::Result {
    if !damaged.is_empty() {
        let pictures = count(damaged.len(), "picture is damaged", "pictures are damaged");
        writeln!(f, "  {pictures}, and a training that comes to one stops:")?;
    }
    damaged.iter().take(NAMED).try_for_each(|id| writeln!(f, "    {id}"))?;
    if damaged.len() > NAMED {
        writeln!(f, "    ... and {} more", damaged.len() - NAMED)?;
    }
    Ok(())
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

/// The side that images are scaled for, as the largest of a published generator.
const SIDE: usize = 256;

/// Captions that R-precision chooses among, as published.
const CANDIDATES: usize = 10;

/// Decodes every image of a data set, on all cores.
pub fn check(mut dataset: Dataset, config: &DecodeConfig) -> Report {
    let (mut gray, mut oriented) = (0, 0);
    let packing = dataset.packing().cloned();
    let mut damaged = Vec::new();
    for items in [&mut dataset.train, &mut dataset.test] {
        let (good, bad) = inspect(std::mem::take(items), config, &mut damaged);
        gray += good.iter().filter(|found| found.gray).count();
        oriented += good.iter().filter(|found| found.oriented).count();
        *items = good.into_iter().map(|found| found.item).collect();
        dataset.skipped.extend(bad);
    }
    let unusable = dataset.require_trainable("batch", 1).err().map(|error| error.reason());
    let unusable = damaged.first().map(|Damaged { why, .. }| why.clone()).or(unusable);
    let metric = if unusable.is_none() { dataset.metric_notice(CANDIDATES) } else { None };
    dataset.notices.extend(metric);
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
        oriented,
        exif_orientation: config.exif_orientation,
        unusable,
        packing,
        damaged: damaged.into_iter().map(|Damaged { id, .. }| id).collect(),
        root: dataset.root,
        skipped: dataset.skipped,
        notices: dataset.notices,
    }
}

/// An item whose image can be used.
struct Found {
    item: Item,
    gray: bool,
    oriented: bool,
}

/// A picture of a pack that is not what was packed.
struct Damaged {
    id: String,
    why: String,
}

/// Decodes every image: the good ones with what their files say, the others with the reason. Of a pack, reads every
/// picture.
fn inspect(items: Vec<Item>, config: &DecodeConfig, damaged: &mut Vec<Damaged>) -> (Vec<Found>, Vec<Skip>) {
    let read: Vec<_> = items
        .into_par_iter()
        .map(|item| match &item.packed {
            Some(packed) => match packed.picture(&item.id) {
                Ok(Ok(_)) => Ok(Ok(Found { gray: packed.gray, oriented: packed.oriented, item })),
                Ok(Err(why)) => Ok(Err(Skip { file: item.image, why })),
                Err(error) => Err(Damaged { id: item.id, why: error.reason() }),
            },
            None => Ok(decoded(item, config)),
        })
        .collect();
    let sound = read.into_iter().filter_map(|found| found.map_err(|lost| damaged.push(lost)).ok());
    sound.collect::<Vec<_>>().into_par_iter().partition_map(|found| match found {
        Ok(found) => Either::Left(found),
        Err(skip) => Either::Right(skip),
    })
}

fn decoded(item: Item, config: &DecodeConfig) -> std::result::Result<Found, Skip> {
    match cropped(&item.image, item.bbox, SIDE, config) {
        Ok(decoded) => Ok(Found { gray: decoded.gray, oriented: decoded.oriented, item }),
        Err(error) => Err(Skip { why: error.reason(), file: item.image }),
    }
}
