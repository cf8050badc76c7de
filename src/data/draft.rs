//! From images with captions in words to items: the vocabulary is known once all captions are read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rayon::prelude::*;

use super::captions::{Tokenized, Vocabulary, encode_words};
use super::dataset::{Item, Items, Skip};
use super::names::count;
use super::options::OpenConfig;

/// An item whose captions may still be words.
pub struct Draft {
    pub id: String,
    pub image: PathBuf,
    pub class: i32,
    pub bbox: Option<[f32; 4]>,
    pub captions: Captions,
}

pub enum Captions {
    Words(Tokenized),
    Ids(Vec<Vec<i32>>),
}

/// The drafts of both splits.
#[derive(Default)]
pub struct Drafts {
    pub train: Vec<Draft>,
    pub test: Vec<Draft>,
}

/// Where the words of a data set come from.
pub enum Words {
    /// captions.pickle.
    Given(Vocabulary),
    /// The captions of both splits, as AttnGAN's.
    OfBoth,
    OfTraining,
}

impl Drafts {
    /// Encodes the captions; images of which none has a known word are pushed to `skipped`.
    pub fn finish(
        self,
        words: Words,
        config: &OpenConfig,
        notices: &mut Vec<String>,
        skipped: &mut Vec<Skip>,
    ) -> Items {
        let Drafts { train, test } = self;
        notices.extend(wordless([&train, &test], config));
        let (missing_of, [of_train, of_test]) = match &words {
            Words::Given(_) => ("captions.pickle", [true, true]),
            Words::OfBoth => ("the vocabulary", [false, false]),
            Words::OfTraining => ("the vocabulary of the training captions", [false, true]),
        };
        let vocabulary = match words {
            Words::Given(vocabulary) => vocabulary,
            Words::OfBoth => build([&train, &test], config, notices),
            Words::OfTraining => build([&train, &[]], config, notices),
        };
        let mut unknown = BTreeSet::new();
        let mut encode = |drafts: Vec<Draft>, named: bool| {
            let encoded: Vec<_> = drafts.into_par_iter().map(|draft| draft.encode(&vocabulary)).collect();
            let mut items = Vec::with_capacity(encoded.len());
            for (item, missing) in encoded {
                unknown.extend(missing.into_iter().filter(|_| named));
                match item {
                    Ok(item) => items.push(item),
                    Err(file) => {
                        let why = format!("none of its captions has a word of {missing_of}");
                        skipped.push(Skip { file, why });
                    }
                }
            }
            items
        };
        let (train, test) = (encode(train, of_train), encode(test, of_test));
        let whose = if of_train { "the captions" } else { "the held-out captions" };
        notices.extend(unknown_words(&unknown, whose, missing_of));
        Items { train, test, vocabulary }
    }
}

impl Draft {
    fn words(&self) -> impl Iterator<Item = &str> {
        let captions = match &self.captions {
            Captions::Words(tokenized) => tokenized.captions.as_slice(),
            Captions::Ids(_) => &[],
        };
        captions.iter().map(String::as_str)
    }

    /// The item, or its image where no caption is left; and the words that the vocabulary lacks.
    fn encode(self, vocabulary: &Vocabulary) -> (Result<Item, PathBuf>, Vec<String>) {
        let Draft { id, image, class, bbox, captions } = self;
        let mut unknown = Vec::new();
        let mut captions: Vec<Vec<i32>> = match captions {
            Captions::Ids(captions) => captions,
            Captions::Words(Tokenized { captions, .. }) => captions
                .iter()
                .map(|caption| {
                    let encoded = encode_words(caption.split(' '), vocabulary);
                    unknown.extend(encoded.unknown);
                    encoded.ids
                })
                .collect(),
        };
        captions.retain(|caption| !caption.is_empty());
        let item = match captions.is_empty() {
            true => Err(image),
            false => Ok(Item { id, image, bbox, class, captions, packed: None }),
        };
        (item, unknown)
    }
}

fn build(splits: [&[Draft]; 2], config: &OpenConfig, notices: &mut Vec<String>) -> Vocabulary {
    let captions: Vec<&str> = splits.into_iter().flatten().flat_map(Draft::words).collect();
    let (vocabulary, rare) = Vocabulary::build(&captions, config.min_count);
    if rare > 0 {
        let words = count(rare, "word occurs", "words occur");
        notices.push(format!(
            "{words} fewer than {} times (data.min_count), and the vocabulary has {} without",
            config.min_count,
            vocabulary.len()
        ));
    }
    vocabulary
}

fn wordless(splits: [&[Draft]; 2], config: &OpenConfig) -> Option<String> {
    let of = |draft: &Draft| match &draft.captions {
        Captions::Words(tokenized) => tokenized.wordless,
        Captions::Ids(_) => 0,
    };
    let wordless: usize = splits.into_iter().flatten().map(of).sum();
    (wordless > 0).then(|| {
        let captions = count(wordless, "caption has", "captions have");
        format!("{captions} no ASCII word and will not be used: {}", config.tokenizer.why_wordless())
    })
}

/// One notice for all words that the vocabulary lacks.
fn unknown_words(unknown: &BTreeSet<String>, whose: &str, missing_of: &str) -> Option<String> {
    let first: Vec<&str> = unknown.iter().take(3).map(String::as_str).collect();
    let words = count(unknown.len(), "word", "words");
    let are = if unknown.len() == 1 { "is" } else { "are" };
    let such = first.join(", ");
    (!first.is_empty())
        .then(|| format!("{words} of {whose} {are} not in {missing_of} and {are} left out, such as {such}"))
}
