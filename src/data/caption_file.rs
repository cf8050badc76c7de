//! The captions of an image: a text file with one caption a line.

use std::fs;
use std::path::Path;

use super::captions::tokenize;
use super::names;

/// The captions of a file, tokenized.
pub struct CaptionFile {
    pub captions: Vec<Vec<String>>,
    /// Lines with letters of which no word is left.
    pub wordless: usize,
}

/// Reads a file of captions; the error says why there are none.
pub fn read(file: &Path) -> Result<CaptionFile, String> {
    let bytes = fs::read(file).map_err(|error| format!("the captions cannot be read: {error}"))?;
    let text = names::text(bytes).map_err(|error| format!("the captions are {error}"))?;
    let (mut captions, mut wordless) = (Vec::new(), 0);
    for line in lines(&text) {
        let mut words = tokenize(line);
        if !words.is_empty() {
            words.shrink_to_fit();
            captions.push(words);
        } else if line.chars().any(char::is_alphabetic) {
            wordless += 1;
        }
    }
    match (captions.is_empty(), wordless) {
        (false, _) => Ok(CaptionFile { captions, wordless }),
        (true, 0) if names::trimmed(&text).is_empty() => Err("the captions file is empty".into()),
        (true, 0) => Err("the captions file has no word".into()),
        (true, _) => {
            Err("none of its captions has an ASCII word: this tokenizer (AttnGAN's) reads ASCII words \
                          only"
                .into())
        }
    }
}

/// A few CR within lines are the collectors' noise; where they are more than the ends of lines, they are these.
fn lines(text: &str) -> Box<dyn Iterator<Item = &str> + '_> {
    let count = |end: char| text.matches(end).count();
    let lone = count('\r') - text.matches("\r\n").count();
    if lone > count('\n') { Box::new(names::lines(text)) } else { Box::new(text.lines()) }
}
