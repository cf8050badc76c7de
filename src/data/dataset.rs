//! A data set of any format once it is read: the items of two splits, a vocabulary, and what was skipped and why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::captions::Vocabulary;
use super::decode::DecodeConfig;
use super::names::count;
use super::packed::{Packed, Packing};
use crate::error::{Error, Result};

/// The classes of CUB's official test split; all others train.
#[rustfmt::skip]
pub const TEST_CLASSES: [i32; 50] = [
    1, 4, 6, 8, 9, 14, 23, 29, 31, 33, 34, 35, 36, 37, 38, 43, 49, 51, 53, 66, 72, 79, 83, 84, 86,
    91, 95, 96, 98, 101, 102, 103, 112, 114, 119, 121, 130, 135, 138, 147, 156, 163, 165, 166, 180,
    183, 185, 186, 187, 197,
];

/// An image file with its captions.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Folder and stem, such as `001.Black_footed_Albatross/Black_Footed_Albatross_0046_18`, in NFC; with the ending where
    /// two pictures of a folder differ in nothing else. No two items have one.
    pub id: String,
    pub image: PathBuf,
    /// `[x, y, width, height]` in pixels; `None` takes the whole image.
    pub bbox: Option<[f32; 4]>,
    pub class: i32,
    /// Word ids, each caption whole and not empty; there is at least one.
    pub captions: Vec<Vec<i32>>,
    /// The prepared picture, where the data set is a pack; `image` is then what it was made from.
    pub packed: Option<Packed>,
}

/// A file that was skipped, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Skip {
    pub file: PathBuf,
    pub why: String,
}

/// Where the split comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SplitSource {
    /// The classes of CUB's official test split are held out.
    OfficialClasses,
    /// train/filenames.pickle and test/filenames.pickle.
    Pickles,
    /// COCO's training and validation images, by their annotations or their names.
    Coco,
    /// train.txt and test.txt.
    Lists,
    /// The column `split`.
    Column,
    /// Folders `train` and `test`.
    Folders,
    /// A share of the images, by a hash of their names.
    Ratio,
}

impl SplitSource {
    /// Why no image trains, where none was skipped.
    fn why_none_trains(self, dataset: &Dataset) -> String {
        match self {
            SplitSource::Pickles => "train/filenames.pickle names none".into(),
            SplitSource::OfficialClasses => format!(
                "all {} are of {}; give the class folders other numbers, such as 2, 3 and 5, or write train/ and \
                 test/filenames.pickle",
                count(dataset.test.len(), "image", "images"),
                dataset.test_class_names()
            ),
            SplitSource::Coco => {
                "only validation images are there; training takes train2014 or train2017".into()
            }
            SplitSource::Lists => "train.txt names none that can be used".into(),
            SplitSource::Column => "the column split says train of none".into(),
            SplitSource::Folders => "the folder train holds none that can be used".into(),
            SplitSource::Ratio => "data.test_ratio holds all of them out".into(),
        }
    }

    /// Why no image is held out.
    fn why_none_tests(self) -> &'static str {
        match self {
            SplitSource::Pickles => "test/filenames.pickle names none that can be used",
            SplitSource::OfficialClasses => {
                "none is of an official test class of CUB: 1, 4, 6, 8, 9, 14, 23, 29, ..."
            }
            SplitSource::Coco => "there is no validation image",
            SplitSource::Lists => "test.txt names none that can be used",
            SplitSource::Column => "the column split says test of none",
            SplitSource::Folders => "the folder test holds none that can be used",
            SplitSource::Ratio => "data.test_ratio holds out none that can be used",
        }
    }

    /// Whether classes are meant to be in one split only.
    fn is_by_class(self) -> bool {
        matches!(self, SplitSource::OfficialClasses | SplitSource::Pickles)
    }

    /// How images of one class get classes of their own.
    fn advice_for_one_class(self) -> &'static str {
        match self {
            SplitSource::OfficialClasses | SplitSource::Pickles => {
                "for data without classes give each image its own: a folder '<number>.<name>'"
            }
            _ => "give each image its own with --set data.classes=none",
        }
    }
}

/// A data set, read except for its image files.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub root: PathBuf,
    pub train: Vec<Item>,
    pub test: Vec<Item>,
    pub split: SplitSource,
    pub vocabulary: Vocabulary,
    pub skipped: Vec<Skip>,
    /// Notes for the user about defaults: where the split came from, what stands in for absent files.
    pub notices: Vec<String>,
}

/// The items of both splits, and the words that their ids stand for.
pub(super) struct Items {
    pub train: Vec<Item>,
    pub test: Vec<Item>,
    pub vocabulary: Vocabulary,
}

/// The classes that occur among `items`.
pub fn classes(items: &[Item]) -> BTreeSet<i32> {
    items.iter().map(|item| item.class).collect()
}

impl Dataset {
    /// With the notices that a look at both splits gives.
    pub(super) fn of(
        root: &Path,
        items: Items,
        split: SplitSource,
        skipped: Vec<Skip>,
        notices: Vec<String>,
    ) -> Dataset {
        let (root, Items { train, test, vocabulary }) = (root.to_path_buf(), items);
        let mut dataset = Dataset { root, train, test, split, vocabulary, skipped, notices };
        dataset.notices.extend(dataset.split_notices());
        dataset
    }

    /// Refuses a pack whose pictures were prepared otherwise; a folder serves every side.
    ///
    /// # Errors
    /// `Data` with what was packed, what is wanted, and how to pack again.
    pub fn require_prepared(&self, side: usize, decode: &DecodeConfig) -> Result<()> {
        match self.packing() {
            Some(packed) => packed.require(side, decode),
            None => Ok(()),
        }
    }

    /// What a pack was made for; none for a folder.
    pub fn packing(&self) -> Option<&Packing> {
        let packed = self.train.iter().chain(&self.test).find_map(|item| item.packed.as_ref());
        packed.map(Packed::packing)
    }

    /// Refuses a training that would seem to succeed.
    ///
    /// # Errors
    /// `Data` when no image trains, or all that do are of one class; `Config` when they are fewer than a batch.
    pub fn require_trainable(&self, batch_key: &str, batch: usize) -> Result<()> {
        let (images, classes) = (self.train.len(), classes(&self.train).len());
        if images == 0 {
            return Err(Error::data(&self.root, self.why_nothing_trains()));
        }
        if classes == 1 && images > 1 {
            let why = format!(
                "all {images} training images are of {}: DAMSM takes the captions of other classes as \
                 mismatched, so its losses would be 0; {}",
                self.class_name(&self.train[0]),
                self.split.advice_for_one_class()
            );
            return Err(Error::data(&self.root, why));
        }
        if images < batch {
            let have = count(images, "training image is", "training images are");
            let why =
                format!("{have} fewer than a batch of {batch}; set it to {images} or less, or add data");
            return Err(Error::config(batch_key, why));
        }
        Ok(())
    }

    fn why_nothing_trains(&self) -> String {
        let reason = match self.skipped.first() {
            Some(skip) => {
                let skipped = count(self.skipped.len(), "file was skipped", "files were skipped");
                format!("{skipped}, such as {}: {}", skip.file.display(), skip.why)
            }
            None => self.split.why_none_trains(self),
        };
        format!("no image is left for training: {reason}")
    }

    /// The class of an item: its number, or, of a class without a number of its own, the item.
    fn class_name(&self, item: &Item) -> String {
        match self.split.is_by_class() {
            true => format!("class {}", item.class),
            false => format!("one class, that of '{}'", item.id),
        }
    }

    fn test_class_names(&self) -> String {
        let classes: Vec<String> = classes(&self.test).iter().map(i32::to_string).collect();
        match classes.len() {
            1 => format!("class {}, which is an official test class of CUB", classes[0]),
            2..=8 => format!("the classes {}, which are official test classes of CUB", classes.join(", ")),
            many => format!("official test classes of CUB, {many} in all"),
        }
    }

    /// What the split does to training and metrics, where a user might not expect it.
    fn split_notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        let shared = classes(&self.train).intersection(&classes(&self.test)).count();
        if shared > 0 && self.split.is_by_class() {
            let classes = count(shared, "class occurs", "classes occur");
            notices.push(format!("{classes} in both splits; metrics on the test split will be too good"));
        }
        if self.test.is_empty() {
            notices.push(format!(
                "no held-out images ({}): there is no R-precision on images that training has not seen",
                self.split.why_none_tests()
            ));
        }
        let mut by_class: BTreeMap<i32, (usize, &Item)> = BTreeMap::new();
        for item in &self.train {
            by_class.entry(item.class).or_insert((0, item)).0 += 1;
        }
        let (images, largest) = (self.train.len(), by_class.values().max_by_key(|(count, _)| *count));
        match largest {
            Some((most, item)) if by_class.len() > 1 && most * 2 > images => notices.push(format!(
                "{most} of {images} training images are of {}: DAMSM learns nothing from pairs within a class",
                self.class_name(item)
            )),
            _ => {}
        }
        notices
    }

    /// Why there will be no R-precision among `candidates` captions, where the held-out images have too few of other
    /// classes.
    pub fn metric_notice(&self, candidates: usize) -> Option<String> {
        let items = &self.test;
        let mut by_class: BTreeMap<i32, usize> = BTreeMap::new();
        for item in items {
            *by_class.entry(item.class).or_default() += 1;
        }
        let others = items.len() - by_class.values().max()?;
        (others + 1 < candidates).then(|| {
            let images = count(items.len(), "image", "images");
            let classes = count(by_class.len(), "class", "classes");
            let fewer = match others {
                0 => String::new(),
                others => format!("; --set eval.candidates={} chooses among fewer", others + 1),
            };
            format!(
                "no R-precision: it chooses among {candidates} captions of different classes, and there are only \
                 {images} of {classes} in the held-out split{fewer}"
            )
        })
    }
}
