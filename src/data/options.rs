//! How a data set is opened: words, split and classes. Keys of a configuration's `[data]`.

use serde::{Deserialize, Serialize};

use super::tokenizer::Tokenizer;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OpenConfig {
    pub tokenizer: Tokenizer,
    /// Words that the captions have fewer times are left out of the vocabulary.
    pub min_count: usize,
    /// The share of the images that is held out where nothing else splits a folder, from 0 to 1.
    pub test_ratio: f64,
    /// Which images these are.
    pub split_seed: u64,
    /// What the classes of a folder are.
    pub classes: Classes,
}

impl OpenConfig {
    /// Its keys in a configuration's `[data]`, with their values.
    pub fn keys(&self) -> [(&'static str, String); 5] {
        let OpenConfig { tokenizer, min_count, test_ratio, split_seed, classes } = self;
        [
            ("tokenizer", tokenizer.name().to_string()),
            ("min_count", min_count.to_string()),
            ("test_ratio", test_ratio.to_string()),
            ("split_seed", split_seed.to_string()),
            ("classes", classes.name().to_string()),
        ]
    }
}

/// What makes a class of a folder of pictures. Pairs within a class do not count as mismatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Classes {
    /// The column `class` where there is one; else subfolders, where there are two and all pictures are in one; else none.
    Auto,
    /// Each subfolder is a class.
    Folders,
    /// Each picture is its own class.
    None,
}

impl Classes {
    pub const ALL: [Classes; 3] = [Classes::Auto, Classes::Folders, Classes::None];

    /// As configurations spell it.
    pub fn name(self) -> &'static str {
        match self {
            Classes::Auto => "auto",
            Classes::Folders => "folders",
            Classes::None => "none",
        }
    }
}

impl Default for OpenConfig {
    /// As runs of versions without these keys were trained.
    fn default() -> OpenConfig {
        OpenConfig {
            tokenizer: Tokenizer::AttnGan,
            min_count: 1,
            test_ratio: 0.1,
            split_seed: 0,
            classes: Classes::Auto,
        }
    }
}
