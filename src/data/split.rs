//! filenames.pickle and captions.pickle: which images train, and the words of published weights.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::caption_file;
use super::captions::{Vocabulary, encode_words};
use super::dataset::SplitSource;
use super::listing::Listing;
use super::tokenizer::Tokenizer;
use super::{names, pickle};
use crate::error::{Error, Result};

/// Keys of the two splits, in the order that captions.pickle follows.
pub struct Split {
    pub train: Vec<String>,
    pub test: Vec<String>,
    pub source: SplitSource,
    /// Most names of a pickle are not in images.txt, which is said once.
    pub partial: bool,
}

impl Split {
    /// The split of the filenames.pickle files, where both are there.
    ///
    /// # Errors
    /// `Data` when a pickle cannot be read, names an image twice, or names none of the listing.
    pub fn pickled(root: &Path, listing: &Listing, notices: &mut Vec<String>) -> Result<Option<Split>> {
        let files = ["train", "test"].map(|split| root.join(split).join("filenames.pickle"));
        if !files.iter().all(|file| file.exists()) {
            return Ok(None);
        }
        let [train, test] = files;
        let keys = |file: &Path| -> Result<Vec<String>> {
            Ok(pickle::filenames(file)?.iter().map(|name| (listing.kind.key)(name)).collect())
        };
        let split =
            Split { train: keys(&train)?, test: keys(&test)?, source: SplitSource::Pickles, partial: false };
        refuse_twice([&train, &test], [&split.train, &split.test])?;
        split.compare(listing, [&train, &test], notices).map(Some)
    }

    /// Looks every name up; where most are not in images.txt, one notice says why that may be.
    fn compare(mut self, listing: &Listing, files: [&Path; 2], notices: &mut Vec<String>) -> Result<Split> {
        let lost = |keys: &[String]| keys.iter().filter(|key| listing.get(key).is_none()).count();
        let all = self.train.len() + self.test.len();
        let missing = lost(&self.train) + lost(&self.test);
        if missing * 2 <= all || listing.images.is_empty() {
            return Ok(self);
        }
        let unknown: Vec<&str> = self.train.iter().chain(&self.test).map(String::as_str).collect();
        let unknown: Vec<&str> = unknown.into_iter().filter(|key| listing.get(key).is_none()).collect();
        let difference = names::difference(&unknown, listing.keys());
        let what = format!(
            "{missing} of the {all} names in the filenames.pickle files are not in {}",
            listing.kind.list
        );
        if missing == all {
            let file = files[usize::from(self.train.is_empty())];
            let (list, instead) = (listing.kind.list, listing.kind.without_pickles);
            let none = format!("none of the {all} names in the filenames.pickle files is in {list}");
            let advice = format!(
                "make the names equal, or remove train/ and test/filenames.pickle to split by {instead}"
            );
            return Err(Error::data(file, format!("{none}; {difference}; {advice}")));
        }
        notices.push(format!("{what}, and are left out; of these {difference}"));
        self.partial = true;
        Ok(self)
    }
}

/// Refuses an image that is named twice in the lists of both splits, which hold `keys`.
pub fn refuse_twice(files: [&Path; 2], keys: [&[String]; 2]) -> Result<()> {
    let mut seen: HashMap<&str, (usize, usize)> = HashMap::new();
    for (split, keys) in keys.into_iter().enumerate() {
        for (at, key) in keys.iter().enumerate() {
            let Some((first, place)) = seen.insert(key, (split, at + 1)) else { continue };
            let earlier = match first == split {
                true => format!("as number {place} too; an image may occur once"),
                false => {
                    format!("and in {} (number {place}); what trains cannot test", files[first].display())
                }
            };
            let why = format!("'{key}' is in it as number {} {earlier}", at + 1);
            return Err(Error::data(files[split], why));
        }
    }
    Ok(())
}

/// Captions by index in the split, where captions.pickle holds them for this very split.
#[derive(Default)]
pub struct Pickled {
    pub vocabulary: Option<Vocabulary>,
    pub train: Option<Vec<Vec<i32>>>,
    pub test: Option<Vec<Vec<i32>>>,
}

impl Pickled {
    /// # Errors
    /// `Data` when captions.pickle cannot be read, or holds other captions than text/ for the same images.
    pub fn read(
        root: &Path,
        split: &Split,
        listing: &Listing,
        tokenizer: Tokenizer,
        notices: &mut Vec<String>,
    ) -> Result<Pickled> {
        let file = root.join("captions.pickle");
        if !file.exists() {
            return Ok(Pickled::default());
        }
        let pickle::Captions { train, test, vocabulary } = pickle::captions(&file)?;
        let each = listing.kind.captions;
        let fits = |captions: &[Vec<i32>], keys: &[String]| captions.len() == keys.len() * each;
        let pickled = split.source == SplitSource::Pickles;
        if pickled && fits(&train, &split.train) && fits(&test, &split.test) {
            let pairs = pairs(&split.train, &train, each).chain(pairs(&split.test, &test, each));
            compare_captions(&file, pairs.collect(), &vocabulary, listing, tokenizer, notices)?;
            return Ok(Pickled { vocabulary: Some(vocabulary), train: Some(train), test: Some(test) });
        }
        notices.push(format!(
            "captions.pickle does not hold {each} captions for each name of filenames.pickle: its words \
             are kept, and the captions are read from text/"
        ));
        Ok(Pickled { vocabulary: Some(vocabulary), train: None, test: None })
    }
}

/// A key and its pickled captions.
type Pair<'a> = (&'a str, &'a [Vec<i32>]);

fn pairs<'a>(keys: &'a [String], captions: &'a [Vec<i32>], each: usize) -> impl Iterator<Item = Pair<'a>> {
    keys.iter().map(String::as_str).zip(captions.chunks_exact(each))
}

/// Images whose captions are compared.
const SAMPLE: usize = 200;

/// captions.pickle goes by position: made for another order of names, it gives each image the captions of another.
/// Where text/ is there, it tells.
fn compare_captions(
    file: &Path,
    pairs: Vec<Pair>,
    vocabulary: &Vocabulary,
    listing: &Listing,
    tokenizer: Tokenizer,
    notices: &mut Vec<String>,
) -> Result<()> {
    let there = |(key, captions): Pair<'_>| {
        let text = listing.get(key).and_then(|_| listing.caption_file(key))?;
        let words = caption_file::read(&text, tokenizer).ok()?.captions;
        Some(
            differing(captions, &words, vocabulary)
                .map(|(pickled, written)| (key.to_string(), pickled, written)),
        )
    };
    let count = pairs.len().min(SAMPLE);
    let sample: Vec<Pair> = (0..count).map(|i| pairs[i * pairs.len() / count]).collect();
    let compared: Vec<_> = sample.into_par_iter().filter_map(there).collect();
    let differ: Vec<_> = compared.iter().flatten().collect();
    let Some((key, pickled, written)) = differ.first() else { return Ok(()) };
    let what = format!(
        "the captions of {} of {} images that were compared are not those in text/; of '{key}' the first is \
         '{pickled}' here and '{written}' there",
        differ.len(),
        compared.len()
    );
    if differ.len() * 10 <= compared.len() {
        notices.push(format!("captions.pickle: {what}; captions.pickle counts"));
        return Ok(());
    }
    let why = "it was made for other names, or another order of them, than the filenames.pickle files hold";
    let advice = "take those that belong to it, or remove it, and the captions are read from text/";
    Err(Error::data(file, format!("{what}: {why}; {advice}")))
}

/// The first caption on each side where fewer than a third of the pickled ones are in the file.
fn differing(pickled: &[Vec<i32>], words: &[String], vocabulary: &Vocabulary) -> Option<(String, String)> {
    let ids = |caption: &String| encode_words(caption.split(' '), vocabulary).ids;
    let written: HashSet<Vec<i32>> = words.iter().map(ids).collect();
    let equal = pickled.iter().filter(|caption| written.contains(*caption)).count();
    let sentence = pickled.first().map_or(String::new(), |ids| vocabulary.sentence(ids));
    (equal * 3 < pickled.len()).then(|| (sentence, words.first().cloned().unwrap_or_default()))
}
