//! The presets in the binary: complete files, no inheritance.

use std::path::Path;

use super::near::nearest;
use crate::error::{Error, Result};
use crate::files::kind;

/// Name and text of each preset.
pub static PRESETS: [(&str, &str); 6] = [
    ("demo", include_str!("../../presets/demo.toml")),
    ("cub", include_str!("../../presets/cub.toml")),
    ("coco", include_str!("../../presets/coco.toml")),
    ("attngan-cub", include_str!("../../presets/attngan-cub.toml")),
    ("attngan-coco", include_str!("../../presets/attngan-coco.toml")),
    ("attndcgan-cub", include_str!("../../presets/attndcgan-cub.toml")),
];

/// Label and text of a preset, by its name or as a file.
pub fn text(preset: &str) -> Result<(String, String)> {
    if let Some((name, text)) = PRESETS.iter().find(|(name, _)| *name == preset) {
        return Ok((format!("preset {name}"), text.to_string()));
    }
    let path = Path::new(preset);
    if path.extension().is_some() || path.components().count() > 1 || path.is_file() {
        return Ok((preset.to_string(), file(path)?));
    }
    let names = PRESETS.map(|(name, _)| name);
    let hint = match nearest(preset, names.into_iter()).first() {
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
