//! The captions of a call, as they were given and as words.

use std::io::Read;
use std::path::Path;

use crate::error::{Error, note};
use crate::files::kind;
use crate::infer::{Prompt, Sampler};

/// A caption as it was given.
#[derive(Debug)]
pub(super) struct Asked {
    pub caption: String,
    /// How notes and errors call it.
    pub label: String,
    pub line: Option<usize>,
    pub prompt: Prompt,
}

impl Asked {
    /// Words of the caption that are not used.
    pub(super) fn left_out(&self) -> Vec<String> {
        [&self.prompt.unknown[..], &self.prompt.beyond[..]].concat()
    }
}

/// Every caption as words; those that have no known word are errors, all in one.
pub(super) fn asked(
    captions: &[String],
    file: Option<&Path>,
    sampler: &Sampler,
) -> anyhow::Result<Vec<Asked>> {
    let (mut asked, mut wrong) = (Vec::new(), Vec::new());
    for (label, line, caption) in given(captions, file)? {
        match sampler.prompt(&caption) {
            Ok(prompt) => asked.push(Asked { caption, label, line, prompt }),
            Err(why) => wrong.push(format!("{label}: {why}")),
        }
    }
    const NAMED: usize = 8;
    if wrong.len() > NAMED {
        let more = format!("and {} more captions like these", wrong.len() - NAMED);
        wrong.truncate(NAMED);
        wrong.push(more);
    }
    if wrong.is_empty() { Ok(asked) } else { anyhow::bail!("{}", wrong.join("\n  ")) }
}

/// Says which words are left out of the captions.
pub(super) fn note_what_is_left_out(asked: &[Asked], sampler: &Sampler) {
    for Asked { label, prompt, .. } in asked {
        for line in sampler.suggestions(&prompt.unknown) {
            note(format!("note: {label}: {line}; left out"));
        }
        if !prompt.beyond.is_empty() {
            let (limit, words) = (sampler.config.data.words_eval, prompt.beyond.join(" "));
            note(format!("note: {label}: longer than {limit} words (data.words_eval); left out: {words}"));
        }
    }
}

/// The captions as they were given, each with its label, and with its line in the file.
fn given(captions: &[String], file: Option<&Path>) -> anyhow::Result<Vec<(String, Option<usize>, String)>> {
    let Some(file) = file else {
        let labeled =
            |(number, caption): (usize, &String)| (format!("caption {number}"), None, caption.clone());
        return Ok((1..).zip(captions).map(labeled).collect());
    };
    let mut bytes = Vec::new();
    match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(file).map(|read| bytes = read),
    }
    .map_err(|e| Error::io(file, e))?;
    if let Some(kind) = kind::of_bytes(&bytes) {
        return Err(Error::data(file, format!("{kind}; captions are UTF-8 text, one a line")).into());
    }
    let text = String::from_utf8(bytes).map_err(|_| Error::data(file, "not UTF-8; save it as UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let name =
        if file.as_os_str() == "-" { "standard input".to_string() } else { file.display().to_string() };
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let lines = lines.map(|(line, caption)| (format!("{name}:{line}"), Some(line), caption.to_string()));
    let captions: Vec<_> = lines.collect();
    match captions.is_empty() {
        true => Err(Error::data(file, "no captions in it; write one a line").into()),
        false => Ok(captions),
    }
}
