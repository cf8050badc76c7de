//! What a run remembers beside its configuration: its data set, and the calls that trained it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::phase::Phase;
use crate::data::Fingerprint;
use crate::error::{Error, Result};
use crate::files::{Origin, atomic, lock, whole};

const RECORD: &str = "run.json";
const CALLS: &str = "runs.jsonl";

/// `RUN/run.json`: the data set that a run learns from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The preset or the file that the configuration began as.
    pub preset: String,
    /// The name of the data set, as `--dataset` takes it.
    pub dataset: String,
    /// Its folder or pack, relative to the run where it lies inside; none where the path is not UTF-8.
    pub data: Option<String>,
    pub fingerprint: Fingerprint,
    /// The run whose weights the phases begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Record {
    pub fn new(run: &Path, preset: &str, dataset: &str, data: &Path, fingerprint: Fingerprint) -> Record {
        let (run, data) = (whole(run), whole(data));
        let data = data.strip_prefix(&run).unwrap_or(&data).to_str().map(str::to_string);
        Record { preset: preset.to_string(), dataset: dataset.to_string(), data, fingerprint, from: None }
    }

    /// With the run whose weights the phases begin with.
    ///
    /// # Errors
    /// `Data` where its path is not UTF-8, as a record must be.
    pub fn from(mut self, run: Option<&Path>) -> Result<Record> {
        let path = |run: &Path| {
            let path = whole(run).to_str().map(str::to_string);
            path.ok_or_else(|| {
                Error::data(run, "a path that is not UTF-8 cannot be kept in run.json; rename it")
            })
        };
        self.from = run.map(path).transpose()?;
        Ok(self)
    }

    /// None for a run of a version before 0.3.0, which kept no record.
    pub(super) fn read(run: &Path) -> Result<Option<Record>> {
        let path = run.join(RECORD);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, e)),
        };
        let why = |e| format!("not the record of a run's data ({e}); remove it, and give --data once more");
        serde_json::from_str(&text).map(Some).map_err(|e| Error::data(&path, why(e)))
    }

    pub(super) fn write(&self, run: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).unwrap_or_else(|e| unreachable!("plain JSON: {e}"));
        atomic::write(run.join(RECORD), json.as_bytes())
    }

    /// The folder of the data set, or its pack.
    pub fn folder(&self, run: &Path) -> Option<PathBuf> {
        self.data.as_ref().map(|data| run.join(data))
    }
}

/// A key whose value a resumed call changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub key: String,
    pub from: String,
    pub to: String,
}

/// One call of `train`, as lines of `RUN/runs.jsonl`: before its first step, for each file that initial weights come from,
/// and at its end.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub command: Vec<String>,
    pub version: String,
    pub revision: String,
    pub device: String,
    pub changes: Vec<Change>,
}

impl Call {
    pub fn begin(&self, run: &Path) -> Result<()> {
        let line = json!({
            "event": "begin",
            "time": now(),
            "process": std::process::id(),
            "host": lock::host(),
            "command": self.command,
            "version": self.version,
            "revision": self.revision,
            "device": self.device,
            "changes": self.changes,
        });
        atomic::append_line(run.join(CALLS), &line.to_string())
    }

    /// A network took initial weights from a file.
    pub fn weights(run: &Path, network: &str, origin: &Origin) -> Result<()> {
        let Origin { file, bytes, sha256 } = origin;
        let line =
            json!({ "event": "weights", "network": network, "file": file, "bytes": bytes, "sha256": sha256 });
        atomic::append_line(run.join(CALLS), &line.to_string())
    }

    /// `trained` holds the first and the last step of each phase that was trained.
    pub fn end(&self, run: &Path, trained: &BTreeMap<Phase, [u64; 2]>, outcome: &str) -> Result<()> {
        let line = json!({
            "event": "end",
            "time": now(),
            "process": std::process::id(),
            "trained": trained,
            "outcome": outcome,
        });
        atomic::append_line(run.join(CALLS), &line.to_string())
    }
}

/// The time in UTC, to the second.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
