//! What a training tells as it goes on, for TensorBoard (`events.out.tfevents..`) and for people's own plots
//! (`metrics.jsonl`: a line a step with the same names).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::log::EventLog;
use crate::error::{Error, Result};
use crate::files::atomic;
use crate::run::now;

/// The file of numbers beside the event files of a phase.
pub const METRICS: &str = "metrics.jsonl";

pub(super) struct Journal {
    events: EventLog,
    metrics: PathBuf,
}

impl Journal {
    /// Goes on after step `from`: what was written of later steps is dropped, as they are taken again.
    pub fn open(folder: &Path, from: u64) -> Result<Journal> {
        let events = EventLog::create(folder, from)?;
        let metrics = folder.join(METRICS);
        drop_after(&metrics, from)?;
        Ok(Journal { events, metrics })
    }

    pub fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        self.events.scalars(step, values)?;
        let mut line =
            Map::from_iter([("step".to_string(), json!(step)), ("time".to_string(), json!(now()))]);
        line.extend(values.iter().map(|(name, value)| (name.clone(), json!(value))));
        atomic::append_line(&self.metrics, &Value::Object(line).to_string())
    }

    /// An image as the bytes of a PNG file.
    pub fn image(&mut self, step: u64, tag: &str, size: [usize; 2], png: &[u8]) -> Result<()> {
        self.events.image(step, tag, size, png)
    }

    /// A text in Markdown.
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        self.events.text(step, tag, text)
    }
}

/// Keeps the lines of steps up to `step`. A line that was cut by the end of a process is dropped too.
fn drop_after(path: &Path, step: u64) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(path, e)),
    };
    let stays = |line: &&str| {
        let line: Option<Value> = serde_json::from_str(line).ok();
        line.and_then(|line| line["step"].as_u64()).is_some_and(|of| of <= step)
    };
    let kept: String = text.lines().filter(stays).map(|line| format!("{line}\n")).collect();
    if kept == text { Ok(()) } else { atomic::write(path, kept.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_are_taken_again_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let value = |value: f64| [("loss/KL".to_string(), value)];
        let mut journal = Journal::open(folder.path(), 0).unwrap();
        for step in 1..=4 {
            journal.scalars(step, &value(step as f64)).unwrap();
        }
        let path = folder.path().join(METRICS);
        // Cut, as by a full disk.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text + "{\"step\":1,").unwrap();
        let mut journal = Journal::open(folder.path(), 2).unwrap();
        journal.scalars(3, &value(0.5)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found: Vec<_> =
            lines.iter().map(|line| (line["step"].as_u64(), line["loss/KL"].as_f64())).collect();
        assert_eq!(found, [(Some(1), Some(1.0)), (Some(2), Some(2.0)), (Some(3), Some(0.5))]);
    }
}
