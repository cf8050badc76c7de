//! CUB-200-2011 with captions, as its users have it on disk.
//!
//! ```text
//! DIR/CUB_200_2011/images.txt          <number> <class>/<id>.jpg
//! DIR/CUB_200_2011/bounding_boxes.txt  <number> <x> <y> <width> <height>
//! DIR/CUB_200_2011/images/<class>/<id>.jpg
//! DIR/text/<class>/<id>.txt            captions, one a line
//! DIR/train|test/filenames.pickle      the split; without both, the official test classes are taken
//! DIR/captions.pickle                  word order and ids of published weights; optional
//! ```
//!
//! Names may come from any system (see `names`); two that are one, and numbers that occur twice, are errors.
//!
//! A data set of one's own works in the same layout: number the class folders and leave the pickles out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::caption_file::{self, CaptionFile};
use super::captions::{Vocabulary, encode_words};
use super::dataset::{Dataset, Item, Skip};
use super::listing::{Listed, Listing};
use super::names::{count, ending};
use super::split::{PICKLED_CAPTIONS, Pickled, Split};
use super::tree::Tree;
use crate::error::{Error, Result};

/// Reads a data set except for its images; files that cannot be used are left out and named.
///
/// # Errors
/// `Data` when a list is missing or malformed (with its line), or when nothing is left, with the first reasons.
pub fn open(root: &Path) -> Result<Dataset> {
    let mut notices = Vec::new();
    let listing = Listing::read(root, &mut notices)?;
    let split = Split::read(root, &listing, &mut notices)?;
    let pickled = Pickled::read(root, &split, &listing, &mut notices)?;

    let mut skipped = Vec::new();
    let mut gather =
        |keys: &[String], captions| gather(&listing, keys, split.partial, captions, &mut skipped);
    let (train, test) = (gather(&split.train, pickled.train), gather(&split.test, pickled.test));
    let wordless: usize = train.iter().chain(&test).map(|draft| draft.wordless).sum();
    if wordless > 0 {
        let captions = count(wordless, "caption has", "captions have");
        notices.push(format!(
            "{captions} no ASCII word and will not be used: this tokenizer (AttnGAN's) reads ASCII words only"
        ));
    }
    let vocabulary = pickled.vocabulary.unwrap_or_else(|| vocabulary_of(&[&train, &test]));
    let mut unknown = BTreeSet::new();
    let mut finish = |drafts: Vec<Draft>| encode_all(drafts, &vocabulary, &mut unknown, &mut skipped);
    let (train, test) = (finish(train), finish(test));
    notices.extend(unknown_words(&unknown));
    let all = split.train.len() + split.test.len();
    fold_missing(&mut skipped, MISSING_IMAGE, all, &listing.pictures);
    fold_missing(&mut skipped, MISSING_CAPTIONS, all, &listing.text);
    if train.is_empty() && test.is_empty() {
        return Err(nothing_left(root, &skipped));
    }
    let (root, split) = (root.to_path_buf(), split.source);
    let mut dataset = Dataset { root, train, test, split, vocabulary, skipped, notices };
    dataset.notices.extend(dataset.split_notices());
    Ok(dataset)
}

const MISSING_IMAGE: &str = "the image is missing";
const MISSING_CAPTIONS: &str = "the captions cannot be read: there is no such file";

/// An item whose captions may still be words.
struct Draft<'a> {
    listed: &'a Listed,
    image: PathBuf,
    captions: Captions,
    /// Captions of which no word is left.
    wordless: usize,
}

enum Captions {
    Words(Vec<Vec<String>>),
    Ids(Vec<Vec<i32>>),
}

impl Draft<'_> {
    fn words(&self) -> &[Vec<String>] {
        match &self.captions {
            Captions::Words(captions) => captions,
            Captions::Ids(_) => &[],
        }
    }
}

/// Finds the image and the captions of every key; the keys that lack one are pushed to `skipped`. Of a partial list the
/// names that images.txt lacks are not.
fn gather<'a>(
    listing: &'a Listing,
    keys: &[String],
    partial: bool,
    pickled: Option<Vec<Vec<i32>>>,
    skipped: &mut Vec<Skip>,
) -> Vec<Draft<'a>> {
    let drafts: Vec<_> = keys
        .par_iter()
        .enumerate()
        .filter(|(_, key)| !partial || listing.get(key).is_some())
        .map(|(at, key)| {
            let ids = pickled.as_ref().map(|all| &all[at * PICKLED_CAPTIONS..][..PICKLED_CAPTIONS]);
            draft(listing, key, ids)
        })
        .collect();
    let keep = |draft: std::result::Result<Draft<'a>, Skip>| draft.map_err(|skip| skipped.push(skip)).ok();
    drafts.into_iter().filter_map(keep).collect()
}

fn draft<'a>(
    listing: &'a Listing,
    key: &str,
    pickled: Option<&[Vec<i32>]>,
) -> std::result::Result<Draft<'a>, Skip> {
    let pictures = &listing.pictures;
    let Some(listed) = listing.get(key) else {
        let file = pictures.root().join(format!("{key}.jpg"));
        return Err(Skip { file, why: "named in filenames.pickle, but not in images.txt".into() });
    };
    let image = picture_of(pictures, listed)?;
    if let Some(ids) = pickled {
        return Ok(Draft { listed, image, captions: Captions::Ids(ids.to_vec()), wordless: 0 });
    }
    let file = listing.caption_file(key).ok_or_else(|| {
        let file = listing.text.root().join(format!("{key}.txt"));
        Skip { file, why: MISSING_CAPTIONS.into() }
    })?;
    match caption_file::read(&file) {
        Ok(CaptionFile { captions, wordless }) => {
            Ok(Draft { listed, image, captions: Captions::Words(captions), wordless })
        }
        Err(why) => Err(Skip { file, why }),
    }
}

/// The image file of a line of images.txt, which may leave its ending out.
fn picture_of(pictures: &Tree, listed: &Listed) -> std::result::Result<PathBuf, Skip> {
    if let Some(image) = pictures.find(&listed.path) {
        return Ok(image);
    }
    let others = ["jpg", "jpeg", "png", "webp"].iter();
    let mut others = others.filter_map(|ending| pictures.find(&format!("{}.{ending}", listed.key)));
    match (others.next(), ending(&listed.path)) {
        (Some(image), None) => Ok(image),
        (Some(image), Some(_)) => {
            let name = image.file_name().unwrap_or_default().display();
            let why = format!("{MISSING_IMAGE}; {name} is there: write this name into images.txt");
            Err(Skip { file: pictures.root().join(&listed.path), why })
        }
        (None, _) => Err(Skip { file: pictures.root().join(&listed.path), why: MISSING_IMAGE.into() }),
    }
}

/// Where most files are missing, says so once, beside a name that is there.
fn fold_missing(skipped: &mut Vec<Skip>, why: &str, all: usize, tree: &Tree) {
    const FEW: usize = 8;
    let is_missing = |skip: &Skip| skip.why == why;
    let missing = skipped.iter().filter(|skip| is_missing(skip)).count();
    let Some(first) = skipped.iter().find(|skip| is_missing(skip)) else { return };
    if missing <= FEW || missing * 2 <= all {
        return;
    }
    let first = first.file.strip_prefix(tree.root()).unwrap_or(&first.file).display().to_string();
    let there = tree
        .example()
        .map_or("the folder is empty or not there".to_string(), |file| format!("there is '{file}'"));
    let why = format!("{missing} of {all} files are missing, such as '{first}'; {there}");
    skipped.retain(|skip| !is_missing(skip));
    skipped.insert(0, Skip { file: tree.root().to_path_buf(), why });
}

fn vocabulary_of(splits: &[&[Draft]]) -> Vocabulary {
    Vocabulary::build(splits.iter().copied().flatten().flat_map(Draft::words).map(Vec::as_slice))
}

fn encode_all(
    drafts: Vec<Draft>,
    vocabulary: &Vocabulary,
    unknown: &mut BTreeSet<String>,
    skipped: &mut Vec<Skip>,
) -> Vec<Item> {
    let mut items = Vec::with_capacity(drafts.len());
    for Draft { listed, image, captions, .. } in drafts {
        let mut captions: Vec<Vec<i32>> = match captions {
            Captions::Ids(captions) => captions,
            Captions::Words(captions) => captions
                .iter()
                .map(|words| {
                    let encoded = encode_words(words, vocabulary);
                    unknown.extend(encoded.unknown);
                    encoded.ids
                })
                .collect(),
        };
        captions.retain(|caption| !caption.is_empty());
        if captions.is_empty() {
            let why = "none of its captions has a word of captions.pickle".into();
            skipped.push(Skip { file: image, why });
        } else {
            let Listed { key, class, bbox, .. } = listed;
            items.push(Item { id: key.clone(), image, bbox: *bbox, class: *class, captions, packed: None });
        }
    }
    items
}

/// One notice for all words that captions.pickle lacks.
fn unknown_words(unknown: &BTreeSet<String>) -> Option<String> {
    let first: Vec<&str> = unknown.iter().take(3).map(String::as_str).collect();
    let words = count(unknown.len(), "word", "words");
    let are = if unknown.len() == 1 { "is" } else { "are" };
    let such = first.join(", ");
    (!first.is_empty()).then(|| {
        format!("{words} of the captions {are} not in captions.pickle and {are} left out, such as {such}")
    })
}

fn nothing_left(root: &Path, skipped: &[Skip]) -> Error {
    if skipped.is_empty() {
        return Error::data(
            root,
            "images.txt names no image; one '<number> <class>/<id>.jpg' a line is expected",
        );
    }
    let first: Vec<String> =
        skipped.iter().take(3).map(|skip| format!("{}: {}", skip.file.display(), skip.why)).collect();
    let files = count(skipped.len(), "file was", "files were");
    Error::data(root, format!("nothing is left to learn from, {files} skipped:\n  {}", first.join("\n  ")))
}
