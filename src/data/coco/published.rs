//! COCO in the folder of AttnGAN's code: captions in text files, the split and the words in pickles.

use std::path::Path;

use walkdir::WalkDir;

use crate::data::dataset::{Dataset, SplitSource};
use crate::data::listing::{Kind, Listed, Listing};
use crate::data::options::OpenConfig;
use crate::data::split::Split;
use crate::data::tree::Tree;
use crate::data::{listed, names};
use crate::error::{Error, Result};

const KIND: Kind = Kind {
    list: "images/",
    empty: "images/ holds no image: JPEG, PNG or WebP files are expected in it, or in folders of it",
    key: names::stem,
    captions: 5,
    without_pickles: "train2014 and val2014 in the names",
};

/// Whether something of this layout is there.
pub fn is_there(root: &Path) -> bool {
    let marks = ["text", "captions.pickle", "train/filenames.pickle", "test/filenames.pickle"];
    marks.iter().any(|mark| root.join(mark).exists())
}

pub fn open(root: &Path, config: &OpenConfig) -> Result<Dataset> {
    let mut notices = Vec::new();
    let listing = list(root)?;
    let split = match Split::pickled(root, &listing, &mut notices)? {
        Some(split) => split,
        None => {
            notices.push(
                "split: train2014 and val2014 in the names (train/ and test/filenames.pickle are not both there)"
                    .into(),
            );
            by_names(root, &listing)?
        }
    };
    listed::open(root, &listing, split, notices, config)
}

/// The images by name, each a class of its own.
fn list(root: &Path) -> Result<Listing> {
    let folder = root.join("images");
    if !folder.is_dir() {
        let why = "no such folder; the images are expected in it, directly or in train2014/ and val2014/";
        return Err(Error::data(folder, why));
    }
    let mut images = Vec::new();
    for entry in WalkDir::new(&folder).max_depth(2).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::data(&folder, format!("cannot be read: {error}")))?;
        let below = entry.path().strip_prefix(&folder).ok().and_then(Path::to_str);
        let Some(name) = below.filter(|_| entry.file_type().is_file()) else { continue };
        let path = names::path(name);
        if names::ending(&path).is_none() || path.split('/').any(|part| part.starts_with('.')) {
            continue;
        }
        let (key, class) = (names::stem(&path), images.len() as i32);
        images.push(Listed { key, class, path, bbox: None, line: 0 });
    }
    let text = root.join("text");
    let folders = std::fs::read_dir(&text).into_iter().flatten().flatten();
    let folders = folders.filter(|entry| entry.path().is_dir());
    let mut text_folders: Vec<String> =
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    text_folders.sort();
    let mut listing = Listing::new(&KIND, images, Tree::new(folder.clone()), Tree::new(text)).map_err(|twice| {
        let [first, second] = [&twice[0].path, &twice[1].path];
        let why = format!(
            "'{first}' and '{second}' have one name without folder and ending, and so one captions file; rename one of them, or \
             remove it"
        );
        Error::data(&folder, why)
    })?;
    listing.text_folders = text_folders;
    Ok(listing)
}

fn by_names(root: &Path, listing: &Listing) -> Result<Split> {
    let mut split = Split { train: Vec::new(), test: Vec::new(), source: SplitSource::Coco, partial: false };
    for Listed { key, path, .. } in &listing.images {
        match (path.contains("train20"), path.contains("val20")) {
            (true, false) => split.train.push(key.clone()),
            (false, true) => split.test.push(key.clone()),
            _ => {
                let why = format!(
                    "train/filenames.pickle and test/filenames.pickle are not both here, and the name '{path}' does not say \
                     train2014 or val2014: which images train cannot be known"
                );
                return Err(Error::data(root, why));
            }
        }
    }
    Ok(split)
}
