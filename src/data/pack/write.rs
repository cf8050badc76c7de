//! Writes a pack: pictures are prepared on all cores, a few at a time, and written in the order of the items.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use rayon::prelude::*;

use super::super::crop::prepared;
use super::super::dataset::{Dataset, Item, Skip};
use super::super::decode::Decoded;
use super::super::packed::{Packing, Place};
use super::items::{self, Pixels};
use super::{Description, HEAD, Head, MAGIC, Section, inside};
use crate::error::{Error, Result};
use crate::files::{atomic, head, kind};

/// Pictures prepared at once, for each thread. They are in memory together.
const AT_ONCE: usize = 8;

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSummary {
    /// Pictures with pixels.
    pub pictures: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Images that cannot be used; training will skip them, as it would from the folder.
    pub skipped: Vec<Skip>,
}

/// Packs a data set as `packing` says; its `root` is that of the data set. `progress` is told after how many images, and
/// says whether to go on; where it does not, nothing is written and the summary is none.
///
/// # Errors
/// `Io` when the file cannot be written; `Data` when it is a file that is no pack, or when no image can be used.
pub fn pack(
    dataset: &Dataset,
    packing: Packing,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<PackSummary>> {
    let out = &packing.file.clone();
    if dataset.packing().is_some() {
        return Err(Error::data(&dataset.root, "a pack already; pack the folder that its pictures lie in"));
    }
    require_replaceable(out)?;
    let packing = Packing { root: dataset.root.to_string_lossy().into_owned(), ..packing };
    atomic::write_with(out, |file| {
        let mut writer = Writer {
            out,
            file: BufWriter::with_capacity(1 << 20, file),
            at: HEAD as u64,
            list: Vec::new(),
            pictures: 0,
            skipped: Vec::new(),
        };
        writer.put(&[0; HEAD])?;
        let items: Vec<&Item> = dataset.train.iter().chain(&dataset.test).collect();
        for (group, chunk) in items.chunks(AT_ONCE * rayon::current_num_threads()).enumerate() {
            if !progress(group * AT_ONCE * rayon::current_num_threads()) {
                return Ok(None);
            }
            writer.pictures(dataset, chunk, &packing)?;
        }
        writer.finish(dataset, packing).map(Some)
    })
}

/// Refuses to write over a file that is no pack.
fn require_replaceable(out: &Path) -> Result<()> {
    if out.is_dir() {
        return Err(Error::data(out, "a folder; --out names the file to be written"));
    }
    if head(out, MAGIC.len() as u64).is_ok_and(|head| head != MAGIC) {
        let kind = kind::of(out).unwrap_or("a file that is no pack");
        return Err(Error::data(out, format!("there is {kind} already; take another --out, or remove it")));
    }
    Ok(())
}

struct Writer<'a> {
    out: &'a Path,
    file: BufWriter<&'a mut File>,
    /// Where the next picture begins.
    at: u64,
    list: Vec<u8>,
    pictures: usize,
    skipped: Vec<Skip>,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| Error::io(self.out, source))
    }

    fn pictures(&mut self, dataset: &Dataset, items: &[&Item], packing: &Packing) -> Result<()> {
        let prepare = |item: &&Item| {
            let decoded = prepared(&item.image, item.bbox, packing.side, &packing.decode)?;
            let crc = crc32c::crc32c(&decoded.picture.pixels);
            Ok((decoded, crc))
        };
        let all: Vec<Result<(Decoded, u32)>> = items.par_iter().map(prepare).collect();
        for (item, decoded) in items.iter().zip(all) {
            let pixels = match decoded {
                Ok((Decoded { picture, gray, oriented }, crc)) => {
                    let (width, height) = (picture.width as u32, picture.height as u32);
                    let place = Place { offset: self.at, width, height, crc };
                    self.put(&picture.pixels)?;
                    self.at += place.bytes();
                    self.pictures += 1;
                    Pixels { place: Ok(place), gray, oriented }
                }
                Err(error) => {
                    let why = error.reason();
                    self.skipped.push(Skip { file: item.image.clone(), why: why.clone() });
                    Pixels { place: Err(why), gray: false, oriented: false }
                }
            };
            items::append(&mut self.list, item, &inside(&dataset.root, &item.image), &pixels);
        }
        Ok(())
    }

    /// Writes what stands behind the pictures, then the head.
    fn finish(mut self, dataset: &Dataset, packing: Packing) -> Result<PackSummary> {
        if let (0, Some(Skip { file, why })) = (self.pictures, self.skipped.first()) {
            let why = format!("{why}; and none of the other images can be used either");
            return Err(Error::data(file, why));
        }
        let captions = dataset.train.iter().chain(&dataset.test).map(|item| item.captions.len()).sum();
        let skipped =
            dataset.skipped.iter().map(|skip| (inside(&dataset.root, &skip.file), skip.why.clone()));
        let description = Description {
            packing,
            train: dataset.train.len(),
            test: dataset.test.len(),
            captions,
            split: dataset.split,
            words: dataset.vocabulary.words().to_vec(),
            skipped: skipped.collect(),
            notices: dataset.notices.clone(),
        };
        let description =
            serde_json::to_vec(&description).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        let list = std::mem::take(&mut self.list);
        let mut section = |bytes: &[u8]| -> Result<Section> {
            let section = Section { offset: self.at, length: bytes.len() as u64, crc: crc32c::crc32c(bytes) };
            self.put(bytes)?;
            self.at += section.length;
            Ok(section)
        };
        let head = Head { description: section(&description)?, items: section(&list)? };
        self.file.seek(SeekFrom::Start(0)).map_err(|source| Error::io(self.out, source))?;
        self.put(&head.to_bytes())?;
        self.file.flush().map_err(|source| Error::io(self.out, source))?;
        Ok(PackSummary { pictures: self.pictures, bytes: self.at, skipped: self.skipped })
    }
}
