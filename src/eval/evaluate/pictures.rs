//! Real pictures, as a protocol wants them cut.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Watch;
use super::networks::picture_rows;
use super::table::Table;
use crate::data::{
    Cut, Dataset, DecodeConfig, Item, Picture, Skip, cut_by_box, decode, picture_files, prepare,
};
use crate::error::{Error, Result, chain};
use crate::eval::Features;
use crate::eval::protocol::{Crop, LogitKind, Protocol, ProtocolName, Split};
use crate::infer::evaluator::Evaluator;

/// Where pictures come from, and how they are cut.
pub enum Pictures<'a> {
    /// Those of a data set.
    Items { items: &'a [Item], crop: Crop, side: usize, decode: DecodeConfig },
    /// Files, as they are.
    Files(&'a [PathBuf]),
}

impl Pictures<'_> {
    pub fn len(&self) -> usize {
        match self {
            Pictures::Items { items, .. } => items.len(),
            Pictures::Files(files) => files.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One picture, or why its file cannot be used.
    ///
    /// # Errors
    /// `Data` where a pack is damaged, or holds no pictures of the resolution that the protocol wants.
    pub fn get(&self, index: usize) -> Result<std::result::Result<Picture, String>> {
        let with_reason = |picture: Result<Picture>| picture.map_err(|error| chain(&error, ": "));
        match self {
            Pictures::Files(files) => Ok(with_reason(whole(&files[index], &DecodeConfig::default()))),
            Pictures::Items { items, crop: Crop::AsTheyAre, decode, .. } => {
                Ok(with_reason(whole(&items[index].image, decode)))
            }
            Pictures::Items { items, crop: Crop::Box, side, decode } => {
                let item = &items[index];
                if item.packed.is_some() && !item.image.is_file() {
                    let why = "a pack holds pictures that are scaled already, and this protocol takes them at their own \
                               resolution; name the folder that was packed with --data";
                    return Err(Error::data(&item.image, why));
                }
                Ok(with_reason(cut_by_box(&item.image, item.bbox, *side, decode)))
            }
            Pictures::Items { items, crop: Crop::TrainingSquare, side, decode } => {
                let item = &items[index];
                let picture = match &item.packed {
                    Some(packed) => packed.picture(&item.id)?,
                    None => with_reason(prepare(&item.image, item.bbox, *side, decode)),
                };
                Ok(picture.map(|picture| picture.cut(*side, Cut::center(&picture, *side))))
            }
        }
    }
}

fn whole(file: &Path, config: &DecodeConfig) -> Result<Picture> {
    decode(file, config).map(|decoded| decoded.picture)
}

/// The pictures of a folder and those in it, by name, and what cannot be used.
///
/// # Errors
/// `Data` where there is none.
pub fn pictures_of(folder: &Path) -> Result<(Vec<PathBuf>, Vec<Skip>)> {
    if !folder.is_dir() {
        return Err(Error::data(folder, "there is no such folder of pictures"));
    }
    let (files, skipped) = picture_files(folder)?;
    if files.is_empty() {
        let why = "there is no picture in this folder; JPEG, PNG and WebP files are read";
        return Err(Error::data(folder, why));
    }
    Ok((files, skipped))
}

/// The items that a protocol compares with. Where none is held out, training items for a protocol that stands for no
/// published one: it is changed, and the note says so.
///
/// # Errors
/// `Data` where there is none, or fewer than a batch where only whole batches count.
pub fn real_items<'a>(dataset: &'a Dataset, protocol: &mut Protocol) -> Result<(&'a [Item], Option<String>)> {
    let mut note = None;
    if protocol.real.split == Split::Test && dataset.test.is_empty() {
        if !matches!(protocol.name, ProtocolName::Lite0 | ProtocolName::Encoder) {
            let why = format!(
                "no picture is held out, and the protocol {} compares with those; --protocol lite0 or encoder takes training pictures",
                protocol.name.as_str()
            );
            return Err(Error::data(&dataset.root, why));
        }
        protocol.real.split = Split::Train;
        note =
            Some("note: no picture is held out: training pictures and their captions are taken".to_string());
    }
    let items = match protocol.real.split {
        Split::Train => &dataset.train,
        Split::Test => &dataset.test,
    };
    let count = protocol.generated.whole(items.len());
    if count == 0 {
        let least = protocol.generated.whole_batches.unwrap_or(1);
        let why = format!("{} pictures, and this protocol needs {least} at least", items.len());
        return Err(Error::data(&dataset.root, why));
    }
    Ok((&items[..count], note))
}

/// Features of pictures, batch by batch; none where `watch` ended it. `folder`, if there is one, keeps what is done for the
/// next call.
///
/// # Errors
/// `Data` where no picture can be used; those of reading and evaluating.
pub fn features(
    pictures: &Pictures,
    evaluator: &Evaluator,
    batch: usize,
    folder: Option<&Path>,
    label: &'static str,
    watch: &mut dyn Watch,
) -> Result<Option<Features>> {
    let needed = || Error::data(label, "rows of pictures are missing");
    let table = rows(pictures, evaluator, None, batch, folder, label, watch)?;
    table.map(|mut table| table.take("features")?.ok_or_else(needed)).transpose()
}

/// The same, with the logits of an Inception Score where they are wanted.
pub(super) fn rows(
    pictures: &Pictures,
    evaluator: &Evaluator,
    logits: Option<LogitKind>,
    batch: usize,
    folder: Option<&Path>,
    label: &'static str,
    watch: &mut dyn Watch,
) -> Result<Option<Table>> {
    let mut table = Table::open(folder, label)?;
    watch.begin(&format!("{label} pictures"), pictures.len(), table.next());
    let (mut at, mut first_unusable) = (table.next(), None);
    while at < pictures.len() {
        let numbers: Vec<usize> = (at..(at + batch).min(pictures.len())).collect();
        let read = numbers.par_iter().map(|&index| pictures.get(index)).collect::<Result<Vec<_>>>()?;
        let (mut usable, mut whose) = (Vec::new(), Vec::new());
        for (number, picture) in numbers.iter().zip(read) {
            match picture {
                Ok(picture) => {
                    usable.push(picture);
                    whose.push(*number);
                }
                Err(why) => {
                    watch.note(&format!("note: left out: {why}"));
                    first_unusable.get_or_insert(why);
                }
            }
        }
        if !usable.is_empty() {
            let evaluated = evaluator.evaluate(&usable)?;
            for (number, row) in whose.iter().zip(picture_rows(&evaluated, logits)) {
                table.push(*number, &row)?;
            }
        }
        table.save_if_due()?;
        at += numbers.len();
        if !watch.done(at) && at < pictures.len() {
            table.save()?;
            watch.end();
            return Ok(None);
        }
    }
    table.save()?;
    watch.end();
    if table.is_empty() {
        let why = first_unusable.unwrap_or_else(|| "there are no pictures".to_string());
        return Err(Error::data(label, format!("none of the pictures can be used: {why}")));
    }
    Ok(Some(table))
}
