//! A data set in the layouts of the published code: a list of images, captions in files of their own, pickles.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::caption_file;
use super::dataset::{Dataset, Skip};
use super::draft::{Captions, Draft, Drafts, Words};
use super::listing::{Listed, Listing};
use super::missing::{self, MISSING_CAPTIONS, MISSING_IMAGE};
use super::names::ending;
use super::options::OpenConfig;
use super::split::{Pickled, Split};
use super::tokenizer::Tokenizer;
use super::tree::Tree;
use crate::error::Result;

/// Reads the captions of a split, and makes a data set of what can be used.
///
/// # Errors
/// `Data` when captions.pickle cannot be read, or when nothing is left, with the first reasons.
pub fn open(
    root: &Path,
    listing: &Listing,
    split: Split,
    mut notices: Vec<String>,
    config: &OpenConfig,
) -> Result<Dataset> {
    let pickled = Pickled::read(root, &split, listing, config.tokenizer, &mut notices)?;
    let mut skipped = Vec::new();
    let mut gather = |keys: &[String], captions: Option<Vec<Vec<i32>>>| {
        gather(listing, keys, split.partial, captions, config.tokenizer, &mut skipped)
    };
    let drafts =
        Drafts { train: gather(&split.train, pickled.train), test: gather(&split.test, pickled.test) };
    let words = pickled.vocabulary.map_or(Words::OfBoth, Words::Given);
    let items = drafts.finish(words, config, &mut notices, &mut skipped);
    let all = split.train.len() + split.test.len();
    missing::fold(&mut skipped, MISSING_IMAGE, all, &listing.pictures);
    missing::fold(&mut skipped, MISSING_CAPTIONS, all, &listing.text);
    if items.train.is_empty() && items.test.is_empty() {
        return Err(missing::nothing_left(root, &skipped, listing.kind.empty));
    }
    Ok(Dataset::of(root, items, split.source, skipped, notices))
}

/// Finds the image and the captions of every key; the keys that lack one are pushed to `skipped`. Of a partial list the
/// names that the listing lacks are not.
fn gather(
    listing: &Listing,
    keys: &[String],
    partial: bool,
    pickled: Option<Vec<Vec<i32>>>,
    tokenizer: Tokenizer,
    skipped: &mut Vec<Skip>,
) -> Vec<Draft> {
    let each = listing.kind.captions;
    let drafts: Vec<_> = keys
        .par_iter()
        .enumerate()
        .filter(|(_, key)| !partial || listing.get(key).is_some())
        .map(|(at, key)| {
            let ids = pickled.as_ref().map(|all| &all[at * each..][..each]);
            draft(listing, key, ids, tokenizer)
        })
        .collect();
    let keep = |draft: std::result::Result<Draft, Skip>| draft.map_err(|skip| skipped.push(skip)).ok();
    drafts.into_iter().filter_map(keep).collect()
}

fn draft(
    listing: &Listing,
    key: &str,
    pickled: Option<&[Vec<i32>]>,
    tokenizer: Tokenizer,
) -> std::result::Result<Draft, Skip> {
    let pictures = &listing.pictures;
    let Some(listed) = listing.get(key) else {
        let file = pictures.root().join(format!("{key}.jpg"));
        return Err(Skip {
            file,
            why: format!("named in filenames.pickle, but not in {}", listing.kind.list),
        });
    };
    let image = picture_of(pictures, listed)?;
    let made = |captions| {
        let Listed { key, class, bbox, .. } = listed;
        Draft { id: key.clone(), image: image.clone(), class: *class, bbox: *bbox, captions }
    };
    if let Some(ids) = pickled {
        return Ok(made(Captions::Ids(ids.to_vec())));
    }
    let file = listing.caption_file(key).ok_or_else(|| {
        let file = listing.text.root().join(format!("{key}.txt"));
        Skip { file, why: MISSING_CAPTIONS.into() }
    })?;
    match caption_file::read(&file, tokenizer) {
        Ok(tokenized) => Ok(made(Captions::Words(tokenized))),
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
