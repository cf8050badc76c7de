//! COCO with its captions: as it is published, or as AttnGAN's code has it.
//!
//! ```text
//! DIR/annotations/captions_train2014.json, captions_val2014.json    or 2017; or directly in DIR
//! DIR/train2014/*.jpg, DIR/val2014/*.jpg                            or below DIR/images; or all directly in DIR/images
//!
//! DIR/text/*.txt                         captions, one a line; also in text/train2014, text/val2014
//! DIR/images/*.jpg                       also in images/train2014, images/val2014
//! DIR/train|test/filenames.pickle        the split; without both, train2014 and val2014 in the names
//! DIR/captions.pickle                    word order and ids of published weights; optional
//! ```
//!
//! Training images train, validation images test. There are no boxes, and every picture is a class of its own.

mod annotations;
mod official;
mod published;

use std::path::Path;

use super::dataset::Dataset;
use super::options::OpenConfig;
use crate::error::{Error, Result};

/// Reads a data set except for its images; files that cannot be used are left out and named.
///
/// # Errors
/// `Data` when neither layout is there, when a list is malformed, or when nothing is left, with the first reasons.
pub fn open(root: &Path, config: &OpenConfig) -> Result<Dataset> {
    if !root.is_dir() {
        let what = if root.exists() { "not a folder" } else { "no such folder" };
        return Err(Error::data(root, format!("{what}; {LAYOUTS}")));
    }
    let published = published::is_there(root);
    match official::find(root) {
        Some(files) => official::open(root, files, published, config),
        None if published => published::open(root, config),
        None => Err(Error::data(root, neither(root))),
    }
}

const LAYOUTS: &str = "the folder must hold annotations/captions_train2014.json (or 2017) and train2014/*.jpg, or, as \
                       AttnGAN's, images/*.jpg, text/*.txt and train/filenames.pickle";

fn neither(root: &Path) -> String {
    let others = [root.join("annotations"), root.to_path_buf()].into_iter().find_map(|folder| {
        let names = std::fs::read_dir(folder).ok()?.flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.ends_with(".json")).min()
    });
    let others =
        others.map_or(String::new(), |name| format!("; there is {name}, which holds no captions of it"));
    format!("neither of COCO's layouts is here{others}; {LAYOUTS}")
}
