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

use std::path::Path;

use super::dataset::{Dataset, SplitSource, TEST_CLASSES};
use super::listed;
use super::listing::{Listed, Listing};
use super::options::OpenConfig;
use super::split::Split;
use crate::error::Result;

/// Reads a data set except for its images; files that cannot be used are left out and named.
///
/// # Errors
/// `Data` when a list is missing or malformed (with its line), or when nothing is left, with the first reasons.
pub fn open(root: &Path, config: &OpenConfig) -> Result<Dataset> {
    let mut notices = Vec::new();
    let listing = Listing::read(root, &mut notices)?;
    let split = match Split::pickled(root, &listing, &mut notices)? {
        Some(split) => split,
        None => {
            notices.push(
                "split: the official test classes (train/ and test/filenames.pickle are not both there)"
                    .into(),
            );
            official(&listing)
        }
    };
    listed::open(root, &listing, split, notices, config)
}

fn official(listing: &Listing) -> Split {
    let (test, train): (Vec<&Listed>, Vec<&Listed>) =
        listing.images.iter().partition(|listed| TEST_CLASSES.contains(&listed.class));
    let keys = |listed: Vec<&Listed>| listed.into_iter().map(|listed| listed.key.clone()).collect();
    let source = SplitSource::OfficialClasses;
    Split { train: keys(train), test: keys(test), source, partial: false }
}
