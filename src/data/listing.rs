//! images.txt and bounding_boxes.txt of CUB.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::names;
use super::tree::Tree;
use crate::error::{Error, Result};

/// One line of images.txt, with its box.
pub struct Listed {
    pub key: String,
    pub class: i32,
    /// Below the folder of images, in NFC.
    pub path: String,
    pub bbox: Option<[f32; 4]>,
    /// Of images.txt, counted from 1.
    pub line: usize,
}

/// What lists of one layout have in common.
pub struct Kind {
    /// Where the images are listed, for messages.
    pub list: &'static str,
    /// What is said where it lists none.
    pub empty: &'static str,
    /// What images, captions and splits are matched by, of a name in a list.
    pub key: fn(&str) -> String,
    /// Captions that captions.pickle holds for each image, as published.
    pub captions: usize,
    /// What splits the images where there are no filenames.pickle files.
    pub without_pickles: &'static str,
}

pub const CUB: Kind = Kind {
    list: "images.txt",
    empty: "images.txt names no image; one '<number> <class>/<id>.jpg' a line is expected",
    key: names::key,
    captions: 10,
    without_pickles: "CUB's official test classes",
};

/// What images.txt and bounding_boxes.txt say, in the order of images.txt; or a folder of images, by name.
pub struct Listing {
    pub kind: &'static Kind,
    pub images: Vec<Listed>,
    /// Indices in `images`, by key.
    by_key: HashMap<String, usize>,
    pub pictures: Tree,
    pub text: Tree,
    /// Folders of `text` in which captions are looked for too.
    pub text_folders: Vec<String>,
}

/// A line and the rest of a row after its number.
type Numbered<T> = BTreeMap<u64, (usize, T)>;

impl Listing {
    /// # Errors
    /// `Data` when a list is missing or malformed, or when two of its lines claim one number or one key.
    pub fn read(root: &Path, notices: &mut Vec<String>) -> Result<Listing> {
        let cub = root.join("CUB_200_2011");
        let boxes = read_boxes(&cub.join("bounding_boxes.txt"))?;
        let file = cub.join("images.txt");
        let images = read_images(root, &file, &boxes)?;
        notices.extend(shared_numbers(&images));
        let unboxed = images.iter().filter(|listed| listed.bbox.is_none()).count();
        if unboxed > 0 {
            let images = names::count(unboxed, "image has", "images have");
            notices.push(format!("{images} no bounding box; the whole image is taken"));
        }
        let strays = boxes.len() + unboxed - images.len();
        if strays > 0 {
            let boxes = names::count(strays, "box", "boxes");
            notices.push(format!("{boxes} of bounding_boxes.txt have a number that images.txt lacks"));
        }
        let (pictures, text) = (Tree::new(cub.join("images")), Tree::new(root.join("text")));
        Listing::new(&CUB, images, pictures, text).map_err(|twice| same_key(&file, &twice[0], &twice[1]))
    }

    /// # Errors
    /// Two images of one key.
    pub fn new(
        kind: &'static Kind,
        mut images: Vec<Listed>,
        pictures: Tree,
        text: Tree,
    ) -> std::result::Result<Listing, Box<[Listed; 2]>> {
        let mut by_key = HashMap::new();
        for at in 0..images.len() {
            if let Some(first) = by_key.insert(images[at].key.clone(), at) {
                let second = images.swap_remove(at);
                return Err(Box::new([images.swap_remove(first), second]));
            }
        }
        Ok(Listing { kind, images, by_key, pictures, text, text_folders: Vec::new() })
    }

    pub fn get(&self, key: &str) -> Option<&Listed> {
        self.by_key.get(key).map(|i| &self.images[*i])
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> + Clone {
        self.images.iter().map(|listed| listed.key.as_str())
    }

    /// Where the captions of a key are, if they are there.
    pub fn caption_file(&self, key: &str) -> Option<PathBuf> {
        let file = format!("{key}.txt");
        let mut others = self.text_folders.iter().map(|folder| format!("{folder}/{file}"));
        self.text.find(&file).or_else(|| others.find_map(|file| self.text.find(&file)))
    }
}

fn read_images(root: &Path, file: &Path, boxes: &Numbered<[f32; 4]>) -> Result<Vec<Listed>> {
    let bytes = fs::read(file).map_err(|error| missing_list(root, file, &error))?;
    let list = names::text(bytes).map_err(|error| error.into_error(file))?;
    let mut numbers = HashMap::new();
    let mut images = Vec::new();
    for (line, row) in names::rows(&list) {
        let (number, path) = split_row(row).ok_or_else(|| {
            Error::data_at(file, line, format!("'{}' is not '<number> <class>/<id>.jpg'", shown(row)))
        })?;
        refuse_again(file, line, number, numbers.insert(number, line))?;
        let path = names::path(path);
        let class = class_of(&path).ok_or_else(|| {
            let path = shown(&path);
            let why = format!("'{path}': a class folder is named '<number>.<name>', such as 001.Sparrow");
            Error::data_at(file, line, why)
        })?;
        let bbox = boxes.get(&number).map(|(_, bbox)| *bbox);
        images.push(Listed { key: names::key(&path), class, path, bbox, line });
    }
    Ok(images)
}

/// Boxes by the image's number; none at all without the file.
fn read_boxes(file: &Path) -> Result<Numbered<[f32; 4]>> {
    let mut boxes = Numbered::new();
    if !file.exists() {
        return Ok(boxes);
    }
    let bytes = fs::read(file).map_err(|source| Error::io(file, source))?;
    let list = names::text(bytes).map_err(|error| error.into_error(file))?;
    for (line, row) in names::rows(&list) {
        let (number, bbox) = box_of(row).ok_or_else(|| {
            let row = shown(row);
            Error::data_at(file, line, format!("'{row}' is not '<number> <x> <y> <width> <height>'"))
        })?;
        refuse_again(file, line, number, boxes.insert(number, (line, bbox)).map(|(line, _)| line))?;
    }
    Ok(boxes)
}

fn box_of(row: &str) -> Option<(u64, [f32; 4])> {
    let (number, sides) = split_row(row)?;
    let sides = sides.split_whitespace().map(|side| side.parse().ok().filter(|side: &f32| side.is_finite()));
    Some((number, sides.collect::<Option<Vec<f32>>>()?.try_into().ok()?))
}

fn split_row(row: &str) -> Option<(u64, &str)> {
    let (number, rest) = row.split_once(char::is_whitespace)?;
    Some((number.parse().ok()?, rest.trim_start()))
}

/// `001.Black_footed_Albatross/...` is class 1.
fn class_of(path: &str) -> Option<i32> {
    names::class_number(path.split_once('/')?.0)
}

/// The beginning of a row, for a message.
pub fn shown(row: &str) -> String {
    const SHOWN: usize = 80;
    let mut text: String = row.chars().take(SHOWN).collect();
    if row.chars().nth(SHOWN).is_some() {
        text.push_str("...");
    }
    text
}

fn refuse_again(file: &Path, line: usize, number: u64, first: Option<usize>) -> Result<()> {
    let Some(first) = first else { return Ok(()) };
    let why = format!(
        "the number {number} stands in line {first} already; numbers join images and boxes, so each occurs once"
    );
    Err(Error::data_at(file, line, why))
}

fn same_key(file: &Path, first: &Listed, second: &Listed) -> Error {
    let why = format!(
        "'{}' and '{}' of line {} have one key, '{}', and so one captions file; rename one of them, or remove its line",
        second.path, first.path, first.line, first.key
    );
    Error::data_at(file, second.line, why)
}

/// A notice of class folders with one number: they are one class.
fn shared_numbers(images: &[Listed]) -> Option<String> {
    let mut folders: BTreeMap<i32, BTreeSet<&str>> = BTreeMap::new();
    for listed in images {
        folders.entry(listed.class).or_default().extend(listed.path.split('/').next());
    }
    let mut shared = folders.into_iter().filter(|(_, folders)| folders.len() > 1);
    let (class, first) = shared.next()?;
    let (count, example) = (1 + shared.count(), first.into_iter().take(3).collect::<Vec<_>>().join(", "));
    let numbers = names::count(count, "class number", "class numbers");
    Some(format!("{numbers} of several folders: {example} all count as class {class}"))
}

fn missing_list(root: &Path, file: &Path, error: &std::io::Error) -> Error {
    let layout = "the folder must hold CUB_200_2011/images.txt, CUB_200_2011/bounding_boxes.txt, \
                  CUB_200_2011/images/<class>/<id>.jpg and text/<class>/<id>.txt";
    if !root.is_dir() {
        let what = if root.exists() { "not a folder" } else { "no such folder" };
        return Error::data(root, format!("{what}; {layout}"));
    }
    let why = format!("CUB's list of images cannot be read here ({error}); {layout}");
    let other = "; pictures in another layout are read with --dataset folder";
    Error::data(file, if file.parent().is_some_and(Path::is_dir) { why } else { why + other })
}
