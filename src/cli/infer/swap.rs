//! `--swap`: a word of a caption in place of another.

use super::captions::Asked;
use crate::infer::Sampler;

/// `red=blue,yellow`
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Swap {
    pub from: String,
    pub to: Vec<String>,
}

/// Reads the option's value.
pub(super) fn parse(text: &str) -> Result<Swap, String> {
    let like = "write it like red=blue,yellow";
    let (from, to) = text.split_once('=').ok_or(format!("there is no = in it; {like}"))?;
    let word = |word: &str| match word.trim() {
        "" => Err(format!("there is a word missing; {like}")),
        word if word.contains(char::is_whitespace) => Err(format!("'{word}' is more than one word; {like}")),
        word => Ok(word.to_lowercase()),
    };
    Ok(Swap { from: word(from)?, to: to.split(',').map(word).collect::<Result<_, _>>()? })
}

/// A caption with one of its words replaced.
pub(super) struct Swapped {
    pub to: String,
    pub asked: Asked,
}

impl Swap {
    /// The caption with each replacement, in their order.
    pub(super) fn of(&self, asked: &Asked, sampler: &Sampler) -> anyhow::Result<Vec<Swapped>> {
        let Asked { caption, label, line, prompt } = asked;
        if !prompt.words.contains(&self.from) {
            let words = prompt.words.join(", ");
            anyhow::bail!("{label}: --swap: '{}' is none of its words ({words})", self.from);
        }
        let replaced = |to: &String| {
            if sampler.vocabulary.id(to).is_none() {
                let line = sampler.suggestions(std::slice::from_ref(to)).join("; ");
                anyhow::bail!("{label}: --swap: {line}");
            }
            let caption = replace_word(caption, &self.from, to);
            let prompt = sampler.prompt(&caption).map_err(anyhow::Error::msg)?;
            Ok(Swapped {
                to: to.clone(),
                asked: Asked { caption, label: label.clone(), line: *line, prompt },
            })
        };
        self.to.iter().map(replaced).collect()
    }
}

/// Every whole word `from` becomes `to`, whatever its case; in scripts without spaces every occurrence.
fn replace_word(text: &str, from: &str, to: &str) -> String {
    let mut replaced = String::new();
    let pieces = text.split_inclusive(|c: char| !c.is_alphanumeric());
    for piece in pieces {
        let word = piece.trim_end_matches(|c: char| !c.is_alphanumeric());
        match word.to_lowercase() == from {
            true => replaced += &format!("{to}{}", &piece[word.len()..]),
            false => replaced += piece,
        }
    }
    if replaced == text { text.replace(from, to) } else { replaced }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_read_or_refused() {
        assert_eq!(parse("Red=blue, yellow").unwrap().to, ["blue", "yellow"]);
        for (text, part) in [
            ("red", "no ="),
            ("=blue", "missing"),
            ("red=", "missing"),
            ("red=a,,b", "missing"),
            ("red=dark blue", "more than one word"),
        ] {
            assert!(parse(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn whole_words_are_replaced() {
        assert_eq!(
            replace_word("A Red bird, red-breasted and reddish", "red", "blue"),
            "A blue bird, blue-breasted and reddish"
        );
        assert_eq!(replace_word("红色的鸟", "红", "蓝"), "蓝色的鸟");
    }
}
