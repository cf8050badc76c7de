//! The presets in the binary: files, and variants that differ from a file in a few keys.

use std::path::Path;
use std::sync::LazyLock;

use super::near::nearest;
use crate::error::{Error, Result};
use crate::files::kind;

pub struct Preset {
    pub name: &'static str,
    /// What it is, in one sentence.
    pub about: String,
    /// A complete configuration in TOML.
    pub text: String,
}

/// Files under presets/, each with the sentence that it begins with.
const FILES: [(&str, &str); 6] = [
    ("demo", include_str!("../../presets/demo.toml")),
    ("cub", include_str!("../../presets/cub.toml")),
    ("coco", include_str!("../../presets/coco.toml")),
    ("attngan-cub", include_str!("../../presets/attngan-cub.toml")),
    ("attngan-coco", include_str!("../../presets/attngan-coco.toml")),
    ("attndcgan-cub", include_str!("../../presets/attndcgan-cub.toml")),
];

/// A file with other values.
struct Variant {
    name: &'static str,
    about: &'static str,
    base: &'static str,
    settings: &'static [(&'static str, &'static str)],
}

const VARIANTS: [Variant; 8] = [
    Variant {
        name: "folder",
        about: "MirrorGAN on pictures of one's own, with small encoders that need no files",
        base: "cub",
        settings: &[
            ("captioner.backbone.kind", "\"small\""),
            ("captioner.schedule.batch", "32"),
            ("captioner.schedule.epochs", "200"),
            ("damsm.backbone.kind", "\"small\""),
            ("damsm.schedule.batch", "32"),
            ("data.exif_orientation", "true"),
            ("data.tokenizer", "\"unicode\""),
            ("data.words_train", "25"),
        ],
    },
    Variant {
        name: "attngan1-cub",
        about: "AttnGAN1 on CUB-200-2011: two images, one attention stage, of AttnGAN's component analysis",
        base: "attngan-cub",
        settings: &[("generator.stages", "2")],
    },
    Variant {
        name: "attngan-gru-cub",
        about: "AttnGAN on CUB-200-2011 with a GRU as text encoder",
        base: "attngan-cub",
        settings: &[("text_encoder.cell", "\"gru\"")],
    },
    Variant {
        name: "cub-words",
        about: "MirrorGAN on CUB-200-2011 without sentence attention, of MirrorGAN's ablation",
        base: "cub",
        settings: &[("generator.sentence_attention", "false")],
    },
    Variant {
        name: "cub-lambda0",
        about: "MirrorGAN on CUB-200-2011 without the caption loss, of MirrorGAN's ablation",
        base: "cub",
        settings: &[("loss.lambda_captioner", "0.0")],
    },
    Variant {
        name: "cub-lambda5",
        about: "MirrorGAN on CUB-200-2011 with a quarter of the caption loss, of MirrorGAN's ablation",
        base: "cub",
        settings: &[("loss.lambda_captioner", "5.0")],
    },
    Variant {
        name: "cub-lambda10",
        about: "MirrorGAN on CUB-200-2011 with half of the caption loss, as the published configuration has it",
        base: "cub",
        settings: &[("loss.lambda_captioner", "10.0")],
    },
    Variant {
        name: "cub-both",
        about: "MirrorGAN on CUB-200-2011 with the losses of both systems: captions and DAMSM",
        base: "cub",
        settings: &[("loss.lambda_damsm", "5.0")],
    },
];

pub static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let file = |(name, text): &(&'static str, &str)| {
        let begin: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
        let about = begin.join(" ");
        let about = about.split(". ").next().unwrap_or_default().to_string();
        Preset { name, about, text: text.to_string() }
    };
    FILES.iter().map(file).chain(VARIANTS.iter().map(Variant::preset)).collect()
});

impl Variant {
    fn preset(&self) -> Preset {
        let &Variant { name, about, base, settings } = self;
        let text = FILES.iter().find(|(name, _)| *name == base).map(|(_, text)| *text).unwrap_or_default();
        // What the base says of itself on top is not true of the variant.
        let body = text.lines().skip_while(|line| line.starts_with('#'));
        let mut lines = vec![format!("# {about}. Every hyper-parameter of a run is in this file.")];
        let mut section = "";
        for line in body {
            if let Some((inner, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                section = inner;
            }
            let is_of = |key: &str| {
                line.split_once('=').is_some_and(|(last, _)| format!("{section}.{}", last.trim()) == key)
            };
            let set = settings.iter().find(|(key, _)| is_of(key));
            lines.push(set.map_or(line.to_string(), |(_, value)| with_value(line, value)));
        }
        Preset { name, about: about.to_string(), text: lines.join("\n") + "\n" }
    }
}

/// `key = value  # comment` with another value, the comment where it was.
fn with_value(line: &str, value: &str) -> String {
    let (code, comment) = line.split_once('#').unwrap_or((line, ""));
    let key = code.split('=').next().unwrap_or_default().trim();
    let width = code.len();
    format!("{:<width$}# {}", format!("{key} = {value} "), comment.trim())
}

/// Label and text of a preset, by its name or as a file.
pub fn text(preset: &str) -> Result<(String, String)> {
    if let Some(Preset { name, text, .. }) = PRESETS.iter().find(|known| known.name == preset) {
        return Ok((format!("preset {name}"), text.clone()));
    }
    let path = Path::new(preset);
    if path.extension().is_some() || path.components().count() > 1 || path.is_file() {
        return Ok((preset.to_string(), file(path)?));
    }
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    let hint = match nearest(preset, names.iter().copied()).first() {
        Some(near) => format!("; did you mean '{near}'? There are"),
        None => ". There are".to_string(),
    };
    let why = format!("there is no preset '{preset}'{hint} {}; or give a TOML file", names.join(", "));
    Err(Error::config("--preset", why))
}

/// The text of a TOML file.
pub fn file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    if let Some(kind) = kind::of_bytes(&bytes) {
        return Err(Error::data(path, format!("{kind}, not a configuration in TOML")));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::data(
            path,
            "an empty file, not a configuration; `presets/demo.toml` is an example",
        ));
    }
    let text = String::from_utf8(bytes);
    text.map_err(|_| Error::data(path, "not UTF-8, as TOML is; save it as UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_variant_is_its_base_with_other_values() {
        for Variant { name, base, settings, .. } in &VARIANTS {
            let [of_variant, of_base] = [name, base].map(|preset| Config::load(preset, &[]).unwrap());
            let differences = of_variant.differences(&of_base);
            let mut found: Vec<(&str, &str)> =
                differences.iter().map(|(k, ours, _)| (k.as_str(), ours.as_str())).collect();
            found.sort();
            assert_eq!(found, settings.to_vec(), "{name}");
        }
        assert!(PRESETS.iter().all(|preset| !preset.about.is_empty() && !preset.about.ends_with('.')));
        assert_eq!(with_value("stages = 3              # images", "2"), "stages = 2              # images");
    }
}
