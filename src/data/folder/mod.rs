//! A folder of one's own pictures.
//!
//! ```text
//! DIR/**/*.jpg, *.png, *.webp     hidden files, and what systems leave behind, are ignored
//! captions, of the first of
//!   DIR/metadata.jsonl            {"file_name": "...", "text": "..."}: also in DIR/train and DIR/test; or metadata.csv
//!   DIR/captions.csv, .tsv        a header; columns file|file_name|image|path, caption|text; also class, split
//!   DIR/captions.jsonl            as metadata.jsonl
//!   a .txt beside each picture    captions, one a line
//! split: DIR/train.txt and test.txt, or the column split, or folders train and test, or by a hash of each name
//! ```
//!
//! The words are those of the training captions. There are no boxes.

mod classes;
mod holdout;
mod pictures;
mod side;
mod sources;
mod tables;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use self::pictures::Pictures;
use self::side::Side;
use self::sources::Gathered;
use super::dataset::{Dataset, Skip};
use super::draft::{Captions, Draft, Drafts, Words};
use super::missing;
use super::options::OpenConfig;
use crate::error::{Error, Result};

/// The picture files of a folder and of those in it, by path, and what cannot be used.
///
/// # Errors
/// `Data` when the folder cannot be read.
pub fn picture_files(root: &Path) -> Result<(Vec<PathBuf>, Vec<Skip>)> {
    let mut skipped = Vec::new();
    let pictures = Pictures::of(root, &mut skipped)?;
    Ok((pictures.all.into_iter().map(|picture| picture.file).collect(), skipped))
}

/// Reads a data set except for its images; files that cannot be used are left out and named.
///
/// # Errors
/// `Data` when there is no picture or no caption, when a list is malformed (with its line), or when nothing is left, with
/// the first reasons.
pub fn open(root: &Path, config: &OpenConfig) -> Result<Dataset> {
    if !root.is_dir() {
        let what = if root.exists() { "not a folder" } else { "no such folder" };
        return Err(Error::data(root, format!("{what}; it must hold pictures and their captions")));
    }
    let (mut notices, mut skipped) = (Vec::new(), Vec::new());
    let pictures = Pictures::of(root, &mut skipped)?;
    if pictures.all.is_empty() {
        let why = "no picture in it or in folders of it: files that end in .jpg, .jpeg, .png or .webp are looked for";
        return Err(Error::data(root, why));
    }
    let gathered = sources::gather(root, &pictures, config.tokenizer, &mut notices, &mut skipped)?;
    if gathered.is_empty() {
        return Err(missing::nothing_left(root, &skipped, "no picture has a caption"));
    }
    let (sides, source) = holdout::split(root, &pictures, &gathered, config, &mut notices, &mut skipped)?;
    let classes = classes::of(&pictures, &gathered, source, config, &mut notices);
    let drafts = drafts(&pictures, gathered, &sides, &classes);
    let items = drafts.finish(Words::OfTraining, config, &mut notices, &mut skipped);
    sources::fold_missing_rows(root, &pictures, &mut skipped);
    if items.train.is_empty() && items.test.is_empty() {
        return Err(missing::nothing_left(root, &skipped, "the lists name no picture"));
    }
    Ok(Dataset::of(root, items, source, skipped, notices))
}

fn drafts(pictures: &Pictures, gathered: Vec<Gathered>, sides: &[Option<Side>], classes: &[i32]) -> Drafts {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for picture in gathered.iter().map(|found| &pictures.all[found.picture]) {
        [picture.stem(), &picture.path].iter().for_each(|name| *uses.entry(name).or_default() += 1);
    }
    let mut drafts = Drafts::default();
    for ((found, side), class) in gathered.into_iter().zip(sides).zip(classes) {
        let picture = &pictures.all[found.picture];
        let id = if uses[picture.stem()] > 1 { &picture.path } else { picture.stem() };
        let captions = Captions::Words(found.captions);
        let (id, image) = (id.to_string(), picture.file.clone());
        let draft = Draft { id, image, class: *class, bbox: None, captions };
        match side {
            Some(Side::Train) => drafts.train.push(draft),
            Some(Side::Test) => drafts.test.push(draft),
            None => {}
        }
    }
    drafts
}
