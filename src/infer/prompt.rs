//! The words of a caption as a run knows them.

use crate::config::Config;
use crate::data::{Vocabulary, captions};

/// A caption's words as they are used, and those that are left out.
#[derive(Debug)]
pub struct Prompt {
    pub ids: Vec<i32>,
    pub words: Vec<String>,
    pub unknown: Vec<String>,
    /// Known words beyond `data.words_eval`.
    pub beyond: Vec<String>,
}

/// Unknown words of a caption that are named one by one.
pub const NAMED: usize = 8;

impl Prompt {
    /// The words of a caption, where there may be none.
    pub fn read(caption: &str, config: &Config, vocabulary: &Vocabulary) -> Prompt {
        let encoded = captions::encode(caption, vocabulary, config.data.open.tokenizer);
        let ids = captions::fit_eval(&encoded.ids, config.data.words_eval);
        let words = |ids: &[i32]| {
            let words = ids.iter().filter_map(|&id| vocabulary.word(id));
            words.map(str::to_string).collect::<Vec<_>>()
        };
        let (words, beyond) = (words(&ids), words(&encoded.ids[ids.len()..]));
        Prompt { ids, words, unknown: encoded.unknown, beyond }
    }

    /// The words of a caption; the error says why nothing can be generated from it.
    pub fn of(
        caption: &str,
        config: &Config,
        vocabulary: &Vocabulary,
    ) -> std::result::Result<Prompt, String> {
        let prompt = Prompt::read(caption, config, vocabulary);
        let tokenizer = config.data.open.tokenizer;
        match (prompt.ids.is_empty(), prompt.unknown.is_empty()) {
            (false, _) => Ok(prompt),
            (true, true) if caption.chars().any(char::is_alphabetic) => {
                Err(format!("no word of '{}' is ASCII: {}", caption.trim(), tokenizer.why_wordless()))
            }
            (true, true) => Err("an empty caption; write what the image should show".to_string()),
            (true, false) => {
                let suggestions = suggestions(&prompt.unknown, vocabulary).join("; ");
                Err(format!("not one word of '{caption}' is known: {suggestions}"))
            }
        }
    }
}

/// For each unknown word, words spelled like it.
pub fn suggestions(unknown: &[String], vocabulary: &Vocabulary) -> Vec<String> {
    let suggest = |word: &String| match vocabulary.near(word, 3) {
        near if near.is_empty() => format!("'{word}' is not in the vocabulary"),
        near => format!("'{word}' is not in the vocabulary (near it: {})", near.join(", ")),
    };
    let mut lines: Vec<String> = unknown.iter().take(NAMED).map(suggest).collect();
    if unknown.len() > NAMED {
        lines.push(format!("{} more words are not in the vocabulary", unknown.len() - NAMED));
    }
    lines
}
