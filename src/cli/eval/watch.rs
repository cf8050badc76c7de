//! The progress of an evaluation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::progress::Count;
use crate::error::note;
use crate::eval::evaluate::Watch;

/// Shows progress, and listens to what asks to stop.
pub struct Shown {
    name: &'static str,
    stop: Arc<AtomicBool>,
    count: Option<Count>,
}

impl Shown {
    pub fn new(name: &'static str, stop: Arc<AtomicBool>) -> Shown {
        Shown { name, stop, count: None }
    }
}

impl Watch for Shown {
    fn begin(&mut self, what: &str, total: usize, done: usize) {
        self.end();
        if done > 0 {
            note(format!("note: {} goes on after {done} of {total} {what}", self.name));
        }
        self.count = Some(Count::from(done, what, total));
    }

    fn done(&mut self, done: usize) -> bool {
        if let Some(count) = &mut self.count {
            count.done(done);
        }
        !self.stop.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        if let Some(count) = self.count.take() {
            count.end();
        }
    }

    fn note(&mut self, line: &str) {
        match &self.count {
            Some(count) => count.aside(|| note(line)),
            None => note(line),
        }
    }
}
