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
//! A data set of one's own works in the same layout: number the class folders and leave the pickles out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::captions::{Vocabulary, encode_words, tokenize};
use super::dataset::{Dataset, Item, Skip, classes};
use super::pickle;
use crate::error::{Error, Result};

/// The classes of the official test split; all others train.
#[rustfmt::skip]
pub const TEST_CLASSES: [i32; 50] = [
    1, 4, 6, 8, 9, 14, 23, 29, 31, 33, 34, 35, 36, 37, 38, 43, 49, 51, 53, 66, 72, 79, 83, 84, 86,
    91, 95, 96, 98, 101, 102, 103, 112, 114, 119, 121, 130, 135, 138, 147, 156, 163, 165, 166, 180,
    183, 185, 186, 187, 197,
];

/// Captions that a captions.pickle holds for each image, as published.
const PICKLED_CAPTIONS: usize = 10;

/// Reads a data set except for its images; files that cannot be used are left out and named.
///
/// # Errors
/// `Data` when a list is missing or malformed (with its line), or when nothing is left, with the first reasons.
pub fn open(root: &Path) -> Result<Dataset> {
    let mut notices = Vec::new();
    let listing = Listing::read(root, &mut notices)?;
    let split = Split::read(root, &listing, &mut notices)?;
    let pickled = Pickled::read(root, &split, &mut notices)?;

    let mut skipped = Vec::new();
    let train = gather(&listing, &split.train, pickled.train, &mut skipped);
    let test = gather(&listing, &split.test, pickled.test, &mut skipped);
    let vocabulary = pickled.vocabulary.unwrap_or_else(|| vocabulary_of(&[&train, &test]));
    let mut unknown = 0;
    let mut finish = |drafts: Vec<Draft>| encode_all(drafts, &vocabulary, &mut unknown, &mut skipped);
    let (train, test) = (finish(train), finish(test));
    if unknown > 0 {
        notices.push(format!("{unknown} words of the captions are not in captions.pickle and are left out"));
    }
    if train.is_empty() && test.is_empty() {
        return Err(nothing_left(root, &skipped));
    }
    warn_of_shared_classes(&train, &test, &mut notices);
    Ok(Dataset { root: root.to_path_buf(), train, test, vocabulary, skipped, notices })
}

/// One line of images.txt, with its box.
struct Listed {
    key: String,
    class: i32,
    image: PathBuf,
    bbox: Option<[f32; 4]>,
}

/// What images.txt and bounding_boxes.txt say, in the order of images.txt.
struct Listing {
    images: Vec<Listed>,
    /// Indices in `images`, by key.
    by_key: HashMap<String, usize>,
    folder: PathBuf,
    text: PathBuf,
}

impl Listing {
    fn read(root: &Path, notices: &mut Vec<String>) -> Result<Listing> {
        let cub = root.join("CUB_200_2011");
        let folder = cub.join("images");
        let boxes = read_boxes(&cub.join("bounding_boxes.txt"))?;
        let file = cub.join("images.txt");
        let list = fs::read_to_string(&file).map_err(|error| missing_list(root, &file, &error))?;
        let mut images = Vec::new();
        for (line, row) in numbered_rows(&list) {
            let (number, path) = split_row(row).ok_or_else(|| {
                Error::data_at(&file, line, format!("'{row}' is not '<number> <class>/<id>.jpg'"))
            })?;
            let class = class_of(path).ok_or_else(|| {
                let why = format!("'{path}': a class folder is named '<number>.<name>', such as 001.Sparrow");
                Error::data_at(&file, line, why)
            })?;
            let key = path.rsplit_once('.').map_or(path, |(stem, _)| stem).to_string();
            images.push(Listed { key, class, image: folder.join(path), bbox: boxes.get(&number).copied() });
        }
        let unboxed = images.iter().filter(|listed| listed.bbox.is_none()).count();
        if unboxed > 0 {
            notices.push(format!("{unboxed} images have no bounding box; the whole image is taken"));
        }
        let by_key = images.iter().enumerate().map(|(i, listed)| (listed.key.clone(), i)).collect();
        Ok(Listing { images, by_key, folder, text: root.join("text") })
    }

    fn get(&self, key: &str) -> Option<&Listed> {
        self.by_key.get(key).map(|i| &self.images[*i])
    }
}

/// Boxes by the image's number; none at all without the file.
fn read_boxes(file: &Path) -> Result<HashMap<u32, [f32; 4]>> {
    if !file.exists() {
        return Ok(HashMap::new());
    }
    let rows = fs::read_to_string(file).map_err(|source| Error::io(file, source))?;
    let parse = |(line, row): (usize, &str)| {
        box_of(row).ok_or_else(|| {
            Error::data_at(file, line, format!("'{row}' is not '<number> <x> <y> <width> <height>'"))
        })
    };
    numbered_rows(&rows).map(parse).collect()
}

fn box_of(row: &str) -> Option<(u32, [f32; 4])> {
    let (number, sides) = split_row(row)?;
    let sides = sides.split_whitespace().map(|side| side.parse().ok().filter(|side: &f32| side.is_finite()));
    Some((number, sides.collect::<Option<Vec<f32>>>()?.try_into().ok()?))
}

/// Lines that are not blank, counted from 1.
fn numbered_rows(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, row)| !row.is_empty())
}

fn split_row(row: &str) -> Option<(u32, &str)> {
    let (number, rest) = row.split_once(char::is_whitespace)?;
    Some((number.parse().ok()?, rest.trim_start()))
}

/// `001.Black_footed_Albatross/...` is class 1.
fn class_of(path: &str) -> Option<i32> {
    let (folder, _) = path.split_once('/')?;
    folder.split_once('.')?.0.parse().ok()
}

fn missing_list(root: &Path, file: &Path, error: &std::io::Error) -> Error {
    let layout = "the folder must hold CUB_200_2011/images.txt, CUB_200_2011/bounding_boxes.txt, \
                  CUB_200_2011/images/<class>/<id>.jpg and text/<class>/<id>.txt";
    if !root.is_dir() {
        return Error::data(root, format!("no such folder; {layout}"));
    }
    let why = format!("CUB's list of images cannot be read here ({error}); {layout}");
    Error::data(file, why)
}

/// Keys of the two splits, in the order that captions.pickle follows.
struct Split {
    train: Vec<String>,
    test: Vec<String>,
    pickled: bool,
}

impl Split {
    fn read(root: &Path, listing: &Listing, notices: &mut Vec<String>) -> Result<Split> {
        let [train, test] = ["train", "test"].map(|split| root.join(split).join("filenames.pickle"));
        if train.exists() && test.exists() {
            let (train, test) = (pickle::filenames(&train)?, pickle::filenames(&test)?);
            return Ok(Split { train, test, pickled: true });
        }
        notices.push(
            "split: the official test classes (train/ and test/filenames.pickle are not both there)".into(),
        );
        let (test, train): (Vec<&Listed>, Vec<&Listed>) =
            listing.images.iter().partition(|listed| TEST_CLASSES.contains(&listed.class));
        let keys = |listed: Vec<&Listed>| listed.into_iter().map(|listed| listed.key.clone()).collect();
        Ok(Split { train: keys(train), test: keys(test), pickled: false })
    }
}

/// Captions by index in the split, where captions.pickle holds them for this very split.
#[derive(Default)]
struct Pickled {
    vocabulary: Option<Vocabulary>,
    train: Option<Vec<Vec<i32>>>,
    test: Option<Vec<Vec<i32>>>,
}

impl Pickled {
    fn read(root: &Path, split: &Split, notices: &mut Vec<String>) -> Result<Pickled> {
        let file = root.join("captions.pickle");
        if !file.exists() {
            return Ok(Pickled::default());
        }
        let pickle::Captions { train, test, vocabulary } = pickle::captions(&file)?;
        let fits = |captions: &[Vec<i32>], keys: &[String]| captions.len() == keys.len() * PICKLED_CAPTIONS;
        let vocabulary = Some(vocabulary);
        if split.pickled && fits(&train, &split.train) && fits(&test, &split.test) {
            return Ok(Pickled { vocabulary, train: Some(train), test: Some(test) });
        }
        notices.push(format!(
            "captions.pickle does not hold {PICKLED_CAPTIONS} captions for each name of filenames.pickle: its words \
             are kept, and the captions are read from text/"
        ));
        Ok(Pickled { vocabulary, train: None, test: None })
    }
}

/// An item whose captions may still be words.
struct Draft<'a> {
    listed: &'a Listed,
    captions: Captions,
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

/// Finds the image and the captions of every key; the keys that lack one are pushed to `skipped`.
fn gather<'a>(
    listing: &'a Listing,
    keys: &[String],
    pickled: Option<Vec<Vec<i32>>>,
    skipped: &mut Vec<Skip>,
) -> Vec<Draft<'a>> {
    let drafts: Vec<_> = keys
        .par_iter()
        .enumerate()
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
    let Some(listed) = listing.get(key) else {
        let file = listing.folder.join(format!("{key}.jpg"));
        return Err(Skip { file, why: "named in filenames.pickle, but not in images.txt".into() });
    };
    if !listed.image.is_file() {
        return Err(Skip { file: listed.image.clone(), why: "the image is missing".into() });
    }
    let captions = match pickled {
        Some(ids) => Captions::Ids(ids.to_vec()),
        None => Captions::Words(read_captions(&listing.text.join(format!("{key}.txt")))?),
    };
    Ok(Draft { listed, captions })
}

fn read_captions(file: &Path) -> std::result::Result<Vec<Vec<String>>, Skip> {
    let skip = |why: String| Skip { file: file.to_path_buf(), why };
    let bytes = fs::read(file).map_err(|error| skip(format!("the captions cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        skip(format!("the captions are not UTF-8 (line {line})"))
    })?;
    let captions: Vec<Vec<String>> = text.lines().map(tokenize).filter(|words| !words.is_empty()).collect();
    if captions.is_empty() { Err(skip("the captions file is empty".into())) } else { Ok(captions) }
}

fn vocabulary_of(splits: &[&[Draft]]) -> Vocabulary {
    Vocabulary::build(splits.iter().copied().flatten().flat_map(Draft::words).map(Vec::as_slice))
}

fn encode_all(
    drafts: Vec<Draft>,
    vocabulary: &Vocabulary,
    unknown: &mut usize,
    skipped: &mut Vec<Skip>,
) -> Vec<Item> {
    let mut items = Vec::with_capacity(drafts.len());
    for Draft { listed, captions } in drafts {
        let mut captions: Vec<Vec<i32>> = match captions {
            Captions::Ids(captions) => captions,
            Captions::Words(captions) => captions
                .iter()
                .map(|words| {
                    let encoded = encode_words(words, vocabulary);
                    *unknown += encoded.unknown.len();
                    encoded.ids
                })
                .collect(),
        };
        captions.retain(|caption| !caption.is_empty());
        let Listed { key, class, image, bbox } = listed;
        if captions.is_empty() {
            let why = "none of its captions has a word of captions.pickle".into();
            skipped.push(Skip { file: image.clone(), why });
        } else {
            items.push(Item { id: key.clone(), image: image.clone(), bbox: *bbox, class: *class, captions });
        }
    }
    items
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
    let why = format!(
        "nothing is left to learn from, {} files were skipped:\n  {}",
        skipped.len(),
        first.join("\n  ")
    );
    Error::data(root, why)
}

fn warn_of_shared_classes(train: &[Item], test: &[Item], notices: &mut Vec<String>) {
    let shared = classes(train).intersection(&classes(test)).count();
    if shared > 0 {
        notices.push(format!(
            "{shared} classes occur in both splits; metrics on the test split will be too good"
        ));
    }
}
