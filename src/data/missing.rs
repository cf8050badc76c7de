//! What is said of files that are not there.

use std::path::Path;

use super::dataset::Skip;
use super::names::count;
use super::tree::Tree;
use crate::error::Error;

pub const MISSING_IMAGE: &str = "the image is missing";
pub const MISSING_CAPTIONS: &str = "the captions cannot be read: there is no such file";

/// Where most of `all` files are missing below `tree`, for a reason that begins with `why`, says so once, beside a name
/// that is there.
pub fn fold(skipped: &mut Vec<Skip>, why: &str, all: usize, tree: &Tree) {
    const FEW: usize = 8;
    let is_missing = |skip: &Skip| skip.why.starts_with(why) && skip.file.starts_with(tree.root());
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

/// The error of a data set of which every file was skipped; `empty` says why there was none.
pub fn nothing_left(root: &Path, skipped: &[Skip], empty: &str) -> Error {
    if skipped.is_empty() {
        return Error::data(root, empty);
    }
    let first: Vec<String> =
        skipped.iter().take(3).map(|skip| format!("{}: {}", skip.file.display(), skip.why)).collect();
    let files = count(skipped.len(), "file was", "files were");
    Error::data(root, format!("nothing is left to learn from, {files} skipped:\n  {}", first.join("\n  ")))
}
