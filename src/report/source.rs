//! What a report reads of a run, and what it could not read.

use std::cell::RefCell;
use std::path::Path;

use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Result, chain};
use crate::run::{Best, Checkpoints, Phase, Record, RunFolder, State};
use crate::train::required_phases;

pub(super) struct Source<'a> {
    pub run: &'a RunFolder,
    pub config: Config,
    pub record: Option<Record>,
    pub phases: Vec<PhaseState>,
    /// Sentences on parts that cannot be read.
    problems: RefCell<Vec<String>>,
}

/// How far a phase is.
pub(super) struct PhaseState {
    pub phase: Phase,
    /// The newest checkpoint's; none before the first.
    pub state: Option<State>,
    /// The last step; none where the data set is not known.
    pub last: Option<u64>,
    pub best: Option<Best>,
    /// `metrics.json`.
    pub metrics: Option<Value>,
}

impl<'a> Source<'a> {
    pub fn read(run: &'a RunFolder) -> Result<Source<'a>> {
        let (config, problems) = (run.config()?, RefCell::default());
        let mut source = Source { run, config, record: None, phases: Vec::new(), problems };
        source.record = source.or_problem(run.record()).flatten();
        let required = required_phases(&source.config);
        let phases = Phase::ALL.into_iter().map(|phase| source.phase(phase));
        let is_shown = |phase: &PhaseState| phase.state.is_some() || required.contains(&phase.phase);
        source.phases = phases.filter(is_shown).collect();
        if source.phases.iter().all(|phase| phase.state.is_none()) && source.problems.borrow().is_empty() {
            let why = "nothing is trained here yet: there is no checkpoint to report on; `engine train --resume` goes on";
            return Err(Error::data(run.root(), why));
        }
        Ok(source)
    }

    pub fn root(&self) -> &Path {
        self.run.root()
    }

    pub fn name(&self) -> String {
        let whole = crate::files::whole(self.root());
        whole.file_name().map_or("run".to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// What was read, or nothing, with a sentence for the reader.
    pub fn or_problem<T>(&self, read: Result<T>) -> Option<T> {
        read.map_err(|error| self.problem(chain(&error, ": "))).ok()
    }

    pub fn problem(&self, why: impl Into<String>) {
        let why = why.into();
        if !self.problems.borrow().contains(&why) {
            self.problems.borrow_mut().push(why);
        }
    }

    pub fn problems(&self) -> Vec<String> {
        self.problems.borrow().clone()
    }

    /// A JSON file; none where there is none.
    pub fn json(&self, path: &Path) -> Option<Value> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => return self.or_problem(Err(Error::io(path, e))),
        };
        let json = serde_json::from_slice(&text);
        self.or_problem(json.map_err(|e| Error::data(path, format!("not JSON ({e})"))))
    }

    /// The lines of a file of JSON lines, and how many are not.
    pub fn json_lines(&self, path: &Path) -> Vec<Value> {
        let text = match std::fs::read(path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => return self.or_problem(Err(Error::io(path, e))).unwrap_or_default(),
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let parsed: Vec<Option<Value>> = lines.map(|line| serde_json::from_str(line).ok()).collect();
        let damaged = parsed.iter().filter(|line| line.is_none()).count();
        if damaged > 0 {
            self.problem(format!("{}: lines that are not JSON, left out: {damaged}", path.display()));
        }
        parsed.into_iter().flatten().collect()
    }

    fn phase(&self, phase: Phase) -> PhaseState {
        let checkpoints = Checkpoints::of(self.root(), phase);
        let state = self.or_problem(checkpoints.latest()).flatten().map(|checkpoint| checkpoint.state);
        let items = self.record.as_ref().map(|record| record.fingerprint.training_images);
        let of_schedule = items.map(|items| phase.schedule(&self.config).last_step(items));
        let last = match &state {
            Some(State { finished: true, step, .. }) => Some(*step),
            _ => of_schedule,
        };
        let folder = phase.folder(self.root());
        let metrics =
            self.json(&folder.join("metrics.json")).or_else(|| self.json(&folder.join("figures.json")));
        PhaseState { phase, state, last, best: checkpoints.best(), metrics }
    }
}
