//! COCO as it is published: annotations in JSON, a folder of images for each split.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::annotations::{self, Captioned};
use crate::data::captions::Tokenized;
use crate::data::dataset::{Dataset, Skip, SplitSource};
use crate::data::draft::{Captions, Draft, Drafts, Words};
use crate::data::missing::{self, MISSING_IMAGE};
use crate::data::options::OpenConfig;
use crate::data::tokenizer::Tokenizer;
use crate::data::tree::Tree;
use crate::data::{names, names::count};
use crate::error::{Error, Result};

/// What follows `train` and `val` in the names of files and folders, the published first.
const YEARS: [&str; 3] = ["2014", "2017", ""];

/// The captions of one year.
pub struct Files {
    year: &'static str,
    train: Option<PathBuf>,
    val: Option<PathBuf>,
    /// Another year that is there too.
    other: Option<&'static str>,
}

/// The captions that are there: of the first year that has training images, else of the first.
pub fn find(root: &Path) -> Option<Files> {
    let file = |name: String| {
        [root.join("annotations").join(&name), root.join(&name)].into_iter().find(|file| file.is_file())
    };
    let of_year = |year: &'static str| {
        let [train, val] = ["train", "val"].map(|split| file(format!("captions_{split}{year}.json")));
        (train.is_some() || val.is_some()).then_some(Files { year, train, val, other: None })
    };
    let mut found: Vec<Files> = YEARS.into_iter().filter_map(of_year).collect();
    let trains = |files: &Files| files.train.is_some() && folder(root, "train", files.year).is_ok();
    let at = found.iter().position(trains).unwrap_or(0);
    let mut files = (at < found.len()).then(|| found.remove(at))?;
    files.other = found.first().map(|files| files.year);
    Some(files)
}

pub fn open(root: &Path, files: Files, published: bool, config: &OpenConfig) -> Result<Dataset> {
    let (mut notices, mut skipped) = (Vec::new(), Vec::new());
    if published {
        notices.push("AttnGAN's text/ or pickles are here too; COCO's own captions are taken".into());
    }
    if let Some(other) = files.other {
        let year = files.year;
        notices.push(format!(
            "captions of train{year} and of train{other} are here; those of train{year} are taken"
        ));
    }
    let [train, val] = [("train", &files.train), ("val", &files.val)]
        .map(|(split, file)| file.as_ref().map(|file| (split, file, folder(root, split, files.year))));
    let train = train.map(|(split, file, tree)| Ok((split, file, tree?))).transpose()?;
    // The annotations of both splits come in one archive, the images in two.
    let val = val.and_then(|(split, file, tree)| match tree {
        Ok(tree) => Some((split, file, tree)),
        Err(why) => {
            notices.push(format!("nothing is held out: {}", why.reason()));
            None
        }
    });
    let read = |list: &Option<(&str, &PathBuf, Tree)>| {
        let (mut notices, list) = (Vec::new(), list.as_ref().map(|(_, file, _)| file));
        let images = list.map(|file| annotations::read(file, &mut notices)).transpose()?;
        Ok((images.unwrap_or_default(), notices))
    };
    let (train_list, val_list): (Result<_>, Result<_>) = rayon::join(|| read(&train), || read(&val));
    let [(train_list, train_notices), (val_list, val_notices)] = [train_list?, val_list?];
    notices.extend(train_notices.into_iter().chain(val_notices));
    let all = train_list.len() + val_list.len();
    let first_class = train_list.len();
    let mut gather = |images: Vec<Captioned>, first, list: &Option<(&str, &PathBuf, Tree)>| match list {
        None => Vec::new(),
        Some((split, file, tree)) => {
            let name = format!("{split}{}", files.year);
            let named = file.file_name().unwrap_or_default().display().to_string();
            let drafts = drafts(images, first, tree, &name, &named, config.tokenizer);
            let keep =
                |draft: std::result::Result<Draft, Skip>| draft.map_err(|skip| skipped.push(skip)).ok();
            drafts.into_iter().filter_map(keep).collect()
        }
    };
    let drafts = Drafts { train: gather(train_list, 0, &train), test: gather(val_list, first_class, &val) };
    let items = drafts.finish(Words::OfBoth, config, &mut notices, &mut skipped);
    for (_, _, tree) in [&train, &val].into_iter().flatten() {
        missing::fold(&mut skipped, MISSING_IMAGE, all, tree);
    }
    if items.train.is_empty() && items.test.is_empty() {
        return Err(missing::nothing_left(root, &skipped, "the captions files name no image"));
    }
    Ok(Dataset::of(root, items, SplitSource::Coco, skipped, notices))
}

/// The folder that holds the images of a split.
///
/// # Errors
/// `Data` with the places where it was looked for.
fn folder(root: &Path, split: &str, year: &str) -> Result<Tree> {
    let name = format!("{split}{year}");
    let own = [root.join(&name), root.join("images").join(&name)];
    if let Some(folder) = own.into_iter().find(|folder| folder.is_dir()) {
        return Ok(Tree::new(folder));
    }
    let flat = root.join("images");
    let is_picture = |entry: std::fs::DirEntry| names::ending(&entry.file_name().to_string_lossy()).is_some();
    if std::fs::read_dir(&flat).is_ok_and(|entries| entries.flatten().any(is_picture)) {
        return Ok(Tree::new(flat));
    }
    let why = format!(
        "the images of captions_{name}.json are not here: the folder {name}, or images/{name}, or the images directly in \
         images/ are expected"
    );
    Err(Error::data(root, why))
}

/// An image that can be learned from, or the reason why not, for each of the list. Each is a class from `first` on.
fn drafts(
    images: Vec<Captioned>,
    first: usize,
    tree: &Tree,
    folder: &str,
    list: &str,
    tokenizer: Tokenizer,
) -> Vec<std::result::Result<Draft, Skip>> {
    let draft = |(at, Captioned { file_name, captions }): (usize, Captioned)| {
        let path = names::path(&file_name);
        let name = path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name);
        let skip = |file: PathBuf, why: String| Skip { file, why };
        let image = tree.find(name).or_else(|| tree.find(&path));
        let image = image.ok_or_else(|| skip(tree.root().join(&path), MISSING_IMAGE.into()))?;
        let tokenized = Tokenized::of(captions.iter().map(String::as_str), tokenizer);
        if tokenized.captions.is_empty() {
            let why = match (captions.len(), tokenized.wordless) {
                (0, _) => format!("no caption of it in {list}"),
                (_, 0) => {
                    format!("{} in {list} without a word", count(captions.len(), "caption", "captions"))
                }
                _ => format!("none of its captions has an ASCII word: {}", tokenizer.why_wordless()),
            };
            return Err(skip(image, why));
        }
        let id = format!("{folder}/{}", names::stem(&file_name));
        let class = (first + at) as i32;
        Ok(Draft { id, image, class, bbox: None, captions: Captions::Words(tokenized) })
    };
    images.into_par_iter().enumerate().map(draft).collect()
}
