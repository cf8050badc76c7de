//! The captions of an image: a text file with one caption a line.

use std::fs;
use std::path::Path;

use super::captions::Tokenized;
use super::names;
use super::tokenizer::Tokenizer;

/// Reads a file of captions, at least one; the error says why there is none.
pub fn read(file: &Path, tokenizer: Tokenizer) -> Result<Tokenized, String> {
    let bytes = fs::read(file).map_err(|error| format!("the captions cannot be read: {error}"))?;
    let text = names::text(bytes).map_err(|error| format!("the captions are {error}"))?;
    let found = Tokenized::of(lines(&text), tokenizer);
    match (found.captions.is_empty(), found.wordless) {
        (false, _) => Ok(found),
        (true, 0) if names::trimmed(&text).is_empty() => Err("the captions file is empty".into()),
        (true, 0) => Err("the captions file has no word".into()),
        (true, _) => Err(format!("none of its captions has an ASCII word: {}", tokenizer.why_wordless())),
    }
}

/// A few CR within lines are the collectors' noise; where they are more than the ends of lines, they are these.
fn lines(text: &str) -> Box<dyn Iterator<Item = &str> + '_> {
    let count = |end: char| text.matches(end).count();
    let lone = count('\r') - text.matches("\r\n").count();
    if lone > count('\n') { Box::new(names::lines(text)) } else { Box::new(text.lines()) }
}
