//! What counts as a word of a caption.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// How captions, and the prompts of a run that was trained on them, become words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokenizer {
    /// Runs of `\w` in lower case, of which letters that are not ASCII are dropped: the published vocabularies.
    ///
    /// Source: `load_captions` of AttnGAN's `datasets.py` (`RegexpTokenizer(r'\w+')`, `encode('ascii', 'ignore')`).
    #[default]
    AttnGan,
    /// Runs of letters, their marks and digits of any script, in lower case and NFC. Each Han character is a word, and
    /// each run of hiragana or katakana, since these scripts have no blanks between words; other scripts without blanks
    /// (Thai, Lao, Khmer, Burmese) stay whole runs.
    Unicode,
}

/// Two replacement characters stand where CUB's collectors lost a non-breaking space.
const LOST_SPACE: &str = "\u{fffd}\u{fffd}";

impl Tokenizer {
    pub const ALL: [Tokenizer; 2] = [Tokenizer::AttnGan, Tokenizer::Unicode];

    /// As configurations spell it.
    pub fn name(self) -> &'static str {
        match self {
            Tokenizer::AttnGan => "attngan",
            Tokenizer::Unicode => "unicode",
        }
    }

    /// The words of a caption. None is empty or holds white space.
    pub fn words(self, caption: &str) -> Vec<String> {
        match self {
            Tokenizer::AttnGan => attngan(caption),
            Tokenizer::Unicode => unicode(caption),
        }
    }

    /// Why a caption that has letters has no word.
    pub fn why_wordless(self) -> &'static str {
        match self {
            Tokenizer::AttnGan => "this tokenizer (AttnGAN's) reads ASCII words only",
            Tokenizer::Unicode => "a word is letters or digits",
        }
    }
}

fn attngan(caption: &str) -> Vec<String> {
    let lower = caption.replace(LOST_SPACE, " ").to_lowercase();
    lower
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .map(|run| run.chars().filter(char::is_ascii).collect::<String>())
        .filter(|word| !word.is_empty())
        .collect()
}

/// Scripts that are written without blanks; a word ends where one begins or ends.
#[derive(Clone, Copy, PartialEq)]
enum Script {
    Han,
    Hiragana,
    Katakana,
    Other,
}

fn unicode(caption: &str) -> Vec<String> {
    let (mut words, mut word, mut script) = (Vec::new(), String::new(), Script::Other);
    for c in caption.to_lowercase().nfc().filter(|c| !is_invisible(*c)) {
        if is_combining_mark(c) || c == LONG_VOWEL && !word.is_empty() {
            // A mark belongs to the letter before it; after a blank it stands on nothing.
            if !word.is_empty() {
                word.push(c);
            }
            continue;
        }
        let own = script_of(c);
        let ends = !c.is_alphanumeric() || own != script || own == Script::Han;
        if ends && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.push(c);
            script = own;
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// ー lengthens the vowel before it, in both kana.
const LONG_VOWEL: char = '\u{30fc}';

/// Joiners, soft hyphens and variation selectors change how a word looks, not which it is.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

fn script_of(c: char) -> Script {
    match c {
        '\u{3005}' | '\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => Script::Han,
        '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}' => Script::Han,
        '\u{3041}'..='\u{309f}' => Script::Hiragana,
        '\u{30a1}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9f}' => Script::Katakana,
        _ => Script::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_every_script_are_kept() {
        for (caption, expected) in [
            ("Ein R\u{f6}tlicher V\u{f6}gel, klein!", &["ein", "r\u{f6}tlicher", "v\u{f6}gel", "klein"][..]),
            ("cafe\u{301} CAFÉ", &["caf\u{e9}", "caf\u{e9}"]),
            ("красная птица_2", &["красная", "птица", "2"]),
            ("一只红鸟。", &["一", "只", "红", "鸟"]),
            ("赤いトリが2羽、スーパー", &["赤", "い", "トリ", "が", "2", "羽", "スーパー"]),
            ("빨간 새", &["빨간", "새"]),
            ("हिन्दी पक्षी", &["हिन्दी", "पक्षी"]),
            ("می\u{200c}روم", &["میروم"]),
            ("don't \u{2764}\u{fe0f} … \u{301}", &["don", "t"]),
            ("Tシャツ", &["t", "シャツ"]),
        ] {
            assert_eq!(Tokenizer::Unicode.words(caption), expected, "{caption}");
        }
        assert!(Tokenizer::Unicode.words(" ... !?").is_empty());
    }

    #[test]
    fn words_are_their_own_words() {
        let captions = ["İstanbul'da ǅ", "ﬁre ß ẞ", "e\u{301}\u{302}x", "ﾊﾞｲｸ", "々々", "ー", "1½ m²"];
        for tokenizer in Tokenizer::ALL {
            for word in captions.iter().flat_map(|caption| tokenizer.words(caption)) {
                assert!(!word.is_empty() && !word.contains(char::is_whitespace), "{word:?}");
                assert_eq!(tokenizer.words(&word), [word.as_str()], "{word:?}");
            }
        }
    }
}
