//! The progress of long work: a line that renews itself on a terminal, elsewhere a line every few seconds.

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
    phase: Option<Phase>,
    shown: Option<Shown>,
}

/// The steps, or the evaluation, that are going on.
struct Shown {
    label: String,
    to: u64,
    /// The work of the later phases, in steps of this one.
    beyond: f64,
    /// On a terminal.
    bar: Option<ProgressBar>,
    /// The end of the last step, and the smoothed seconds of a step.
    last_step: Instant,
    seconds: Option<f64>,
    last_line: Option<Instant>,
}

impl Progress for Display {
    fn begin(&mut self, phase: Phase, _: u64, to: u64, beyond: f64) {
        self.phase = Some(phase);
        self.shown = Some(Shown::new(phase.name().to_string(), to, beyond));
    }

    fn step(&mut self, step: u64, epoch: u64, images: usize, losses: &[Loss]) {
        let Some(shown) = &mut self.shown else { return };
        let seconds = shown.measure();
        let parts = Parts {
            head: format!("{} {step}/{}", shown.label, shown.to),
            done: step as f64 / shown.to.max(1) as f64,
            left: shown.left(step, seconds),
            losses: losses.to_vec(),
            rest: vec![format!("epoch {epoch}"), format!("{:.1} images/s", images as f64 / seconds)],
        };
        shown.show(&parts, step == shown.to);
    }

    fn begin_evaluation(&mut self, total: usize) {
        let label =
            self.phase.map_or("evaluation".to_string(), |phase| format!("{} evaluation", phase.name()));
        self.shown = Some(Shown::new(label, total as u64, 0.0));
    }

    fn evaluated(&mut self, done: usize) {
        let Some(shown) = &mut self.shown else { return };
        if done == 0 {
            return;
        }
        let seconds = shown.last_step.elapsed().as_secs_f64() / done as f64;
        let parts = Parts {
            head: format!("{} {done}/{}", shown.label, shown.to),
            done: done as f64 / shown.to.max(1) as f64,
            left: shown.left(done as u64, seconds),
            losses: Vec::new(),
            rest: Vec::new(),
        };
        shown.show(&parts, false);
    }

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

/// The progress of work that is counted, such as images that are generated.
pub struct Count {
    shown: Shown,
    /// What an earlier call did.
    before: usize,
}

impl Count {
    pub fn new(label: &str, total: usize) -> Count {
        let shown = Shown::new(label.to_string(), total as u64, 0.0);
        Count { shown: Shown { last_line: Some(shown.last_step), ..shown }, before: 0 }
    }

    /// Goes on where `before` of all are there.
    pub fn from(before: usize, label: &str, total: usize) -> Count {
        Count { before, ..Count::new(label, total) }
    }

    /// `done` of all are there.
    pub fn done(&mut self, done: usize) {
        let (shown, now) = (&mut self.shown, done.saturating_sub(self.before));
        let seconds = shown.last_step.elapsed().as_secs_f64() / now.max(1) as f64;
        let parts = Parts {
            head: format!("{} {done}/{}", shown.label, shown.to),
            done: done as f64 / shown.to.max(1) as f64,
            left: shown.left(done as u64, seconds),
            losses: Vec::new(),
            rest: vec![format!("{:.1} images/s", seconds.recip())],
        };
        shown.show(&parts, false);
    }

    /// Prints something else, which a renewing line would overwrite.
    pub fn aside(&self, print: impl FnOnce()) {
        match &self.shown.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub fn end(self) {
        if let Some(bar) = self.shown.bar {
            bar.abandon();
        }
    }
}

impl Shown {
    fn new(label: String, to: u64, beyond: f64) -> Shown {
        let now = Instant::now();
        // An evaluation says nothing before it takes long.
        let last_line = label.ends_with("evaluation").then_some(now);
        Shown { label, to, beyond, bar: renews().then(bar), last_step: now, seconds: None, last_line }
    }

    /// The smoothed seconds of a step, of which one ends now.
    fn measure(&mut self) -> f64 {
        let took = self.last_step.elapsed().as_secs_f64();
        self.last_step = Instant::now();
        let seconds = self.seconds.map_or(took, |seconds| seconds + SHARE * (took - seconds));
        self.seconds = Some(seconds);
        seconds
    }

    /// The time left of all phases of this call.
    fn left(&self, step: u64, seconds: f64) -> String {
        let steps = self.to.saturating_sub(step) as f64 + self.beyond;
        let left = Duration::try_from_secs_f64(seconds * steps).unwrap_or(Duration::MAX);
        let of_all = if self.beyond > 0.0 { " in all" } else { "" };
        format!("{} left{of_all}", in_words(left))
    }

    fn show(&mut self, parts: &Parts, is_last: bool) {
        match &self.bar {
            Some(bar) => {
                let (_, width) = console::Term::stderr().size();
                bar.set_message(parts.fit(usize::from(width)));
            }
            None if is_last || self.last_line.is_none_or(|line| line.elapsed() >= QUIET) => {
                self.last_line = Some(Instant::now());
                note(parts.fit(usize::MAX));
            }
            None => {}
        }
    }
}

/// What a line may hold.
struct Parts {
    /// The phase and the step: in every line.
    head: String,
    /// The share that is done.
    done: f64,
    left: String,
    losses: Vec<Loss>,
    rest: Vec<String>,
}

/// Letters of the bar.
const BAR: usize = 20;

impl Parts {
    /// One line of fewer than `width` letters: the step, the time left, as many losses as there is room for, the rest, the
    /// bar. The weight of a loss stands beside its value where all have room.
    fn fit(&self, width: usize) -> String {
        let loss = |weighted: bool| {
            move |Loss { name, value, weight }: &Loss| match weighted && *weight != 1.0 {
                true => format!("{name} {value:.3} ×{weight}"),
                false => format!("{name} {value:.3}"),
            }
        };
        let with = |losses: Vec<String>| {
            let parts = [self.head.clone(), self.left.clone()].into_iter().chain(losses);
            parts.chain(self.rest.iter().cloned()).collect::<Vec<_>>()
        };
        let all = with(self.losses.iter().map(loss(true)).collect()).join("  ");
        if all.chars().count() < width {
            return self.with_bar(all, width);
        }
        let mut line = String::new();
        for part in with(self.losses.iter().map(loss(false)).collect()) {
            let gap = if line.is_empty() { 0 } else { 2 };
            if line.chars().count() + gap + part.chars().count() >= width {
                break;
            }
            line += &" ".repeat(gap);
            line += &part;
        }
        if line.is_empty() { self.head.chars().take(width.saturating_sub(1)).collect() } else { line }
    }

    /// The bar in front, where there is a terminal with room for it.
    fn with_bar(&self, line: String, width: usize) -> String {
        if width == usize::MAX || line.chars().count() + BAR + 1 >= width {
            return line;
        }
        let filled = (self.done * BAR as f64) as usize;
        format!("{}{} {line}", "━".repeat(filled.min(BAR)), "─".repeat(BAR.saturating_sub(filled)))
    }
}

/// 1 h 05 min, 4 min, 12 s.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Whether standard error is a terminal that can renew a line.
fn renews() -> bool {
    stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg}").unwrap_or_else(|e| unreachable!("a fixed template: {e}"));
    ProgressBar::new_spinner().with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let loss = |name: &str, weight| Loss { name: name.to_string(), value: 1.5, weight };
        let names = ["d0", "d1", "d2", "g0", "g1", "g2", "kl"];
        let losses = names.into_iter().map(|name| loss(name, 1.0)).chain([loss("caption", 20.0)]);
        Parts {
            head: "gan 12/1300".to_string(),
            done: 0.5,
            left: "4 min left in all".to_string(),
            losses: losses.collect(),
            rest: vec!["epoch 3".to_string(), "88.1 images/s".to_string()],
        }
    }

    #[test]
    fn a_line_fits_its_terminal() {
        for width in [1, 5, 20, 40, 80, 120, 160, 400] {
            assert!(parts().fit(width).chars().count() < width.max(1), "{width}: {}", parts().fit(width));
        }
        assert_eq!(parts().fit(20), "gan 12/1300");
        assert_eq!(parts().fit(40), "gan 12/1300  4 min left in all");
        assert_eq!(parts().fit(60), "gan 12/1300  4 min left in all  d0 1.500  d1 1.500");
        assert!(
            parts().fit(400).starts_with("━━━━━━━━━━────────── gan 12/1300  4 min left in all  d0 1.500")
        );
        assert!(parts().fit(usize::MAX).ends_with("caption 1.500 ×20  epoch 3  88.1 images/s"));
    }

    #[test]
    fn a_time_left_is_as_exact_as_it_is_known() {
        let words = [12, 240, 3900, 500_000].map(|seconds| in_words(Duration::from_secs(seconds)));
        assert_eq!(words, ["12 s", "4 min", "1 h 05 min", "5 days"]);
    }
}
