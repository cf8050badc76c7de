//! The presets in the binary: complete files, no inheritance.

use std::path::Path;

use super::near::nearest;
use crate::error::{Error, Result};

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
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        return Ok((preset.to_string(), text));
    }
    let names = PRESETS.map(|(name, _)| name);
    let hint = match nearest(preset, names.into_iter()).first() {
        Some(near) => format!("; did you mean '{near}'? There are"),
        None => "; there are".to_string(),
    };
    let why = format!("there is no preset '{preset}'{hint} {}, or give a TOML file", names.join(", "));
    Err(Error::config("preset", why))
}
