//! The progress of training: a bar on a terminal, elsewhere a line every few seconds.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::note;
use crate::mirrorgan::losses::Loss;
use crate::run::Phase;
use crate::train::Progress;

/// The least time between two plain lines.
const QUIET: Duration = Duration::from_secs(5);
/// The share of the newest step in the smoothed duration of a step.
const SHARE: f64 = 0.1;

#[derive(Default)]
pub struct Display {
    shown: Option<Shown>,
}

/// The phase in training.
struct Shown {
    phase: Phase,
    to: u64,
    bar: Option<ProgressBar>,
    /// The end of the last step, and the smoothed seconds of a step.
    last_step: Instant,
    seconds: Option<f64>,
    last_line: Option<Instant>,
}

impl Progress for Display {
    fn begin(&mut self, phase: Phase, from: u64, to: u64, _beyond: f64) {
        let bar = stderr().is_terminal().then(|| bar(phase, from, to));
        self.shown =
            Some(Shown { phase, to, bar, last_step: Instant::now(), seconds: None, last_line: None });
    }

    fn step(&mut self, step: u64, epoch: u64, images: usize, losses: &[Loss]) {
        let Some(shown) = &mut self.shown else { return };
        let seconds = shown.measure();
        let terms: Vec<String> =
            losses.iter().map(|Loss { name, value, .. }| format!("{name} {value:.3}")).collect();
        let text = format!("epoch {epoch}  {}  {:.1} images/s", terms.join(" "), images as f64 / seconds);
        match &shown.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(text);
            }
            None => shown.line(step, seconds, &text),
        }
    }

    fn begin_evaluation(&mut self, _total: usize) {}

    fn evaluated(&mut self, _done: usize) {}

    fn end(&mut self) {
        if let Some(Shown { bar: Some(bar), .. }) = self.shown.take() {
            bar.abandon();
        }
    }

    fn note(&mut self, line: &str) {
        match &self.shown {
            Some(Shown { bar: Some(bar), .. }) => bar.println(line),
            _ => note(line),
        }
    }
}

impl Shown {
    fn measure(&mut self) -> f64 {
        let took = self.last_step.elapsed().as_secs_f64();
        self.last_step = Instant::now();
        let seconds = self.seconds.map_or(took, |seconds| seconds + SHARE * (took - seconds));
        self.seconds = Some(seconds);
        seconds
    }

    fn line(&mut self, step: u64, seconds: f64, text: &str) {
        if step < self.to && self.last_line.is_some_and(|line| line.elapsed() < QUIET) {
            return;
        }
        self.last_line = Some(Instant::now());
        let left = Duration::from_secs_f64(seconds * (self.to - step) as f64);
        let (name, to) = (self.phase.name(), self.to);
        note(format!("{name} {step}/{to}  {text}  {} left", indicatif::HumanDuration(left)));
    }
}

fn bar(phase: Phase, from: u64, to: u64) -> ProgressBar {
    let template = "{prefix:>9} {bar:24} {pos}/{len}  {msg}  {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|e| unreachable!("a fixed template: {e}"));
    let bar = ProgressBar::new(to).with_style(style).with_prefix(phase.name()).with_position(from);
    bar.reset_eta();
    bar
}
