//! The world's errors. A programmer's errors (shape, device) panic at the caller's line instead.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong outside the program itself. Each message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("configuration: {key}: {why}")]
    Config { key: String, why: String },
    #[error("{}: {why}", Location(file, *line))]
    Data { file: PathBuf, line: Option<usize>, why: String },
    #[error("{}", weights_message(file, missing, unexpected, misshaped))]
    Weights { file: PathBuf, missing: Vec<String>, unexpected: Vec<String>, misshaped: Vec<String> },
    #[error("{}: cannot be read or written", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A loss or a weight is no number any more. `advice` says what to go on with.
    #[error("step {step}: '{term}' is {value}: the training has diverged and is stopped. {advice}")]
    NotFinite { step: u64, term: String, value: f32, advice: String },
    /// There is no such device, or it cannot be opened.
    #[error("{device} cannot be used: {why}")]
    NoDevice { device: String, why: String },
    /// A device, a driver or a compiler that is there and does not suffice.
    #[error("{device} {why}")]
    Unsupported { device: String, why: String },
    /// No NVRTC in any of these places.
    #[error("{}", compiler_message(places))]
    NoCompiler { places: Vec<String> },
    /// A call of the CUDA driver failed.
    #[error("cuda:{ordinal} ({device}): {call} failed: {code}\n  {hint}")]
    Driver { ordinal: usize, device: String, call: String, code: String, hint: String },
    /// A kernel file that is not accepted, by NVRTC or by the driver.
    #[error("kernels/{file} for {arch}: {log}")]
    Compile { file: String, arch: String, log: String },
    /// What a network made of a picture and no metric can be computed of.
    #[error("features of image {image}: {why}")]
    Features { image: u64, why: String },
    /// A metric that is not defined for what it was given.
    #[error("{metric}: {why}")]
    Metric { metric: &'static str, why: String },
    #[error("{}", memory_message(device, [*asked, *live, *total], by, advice.as_deref()))]
    OutOfMemory {
        device: String,
        asked: usize,
        live: usize,
        total: usize,
        by: String,
        advice: Option<String>,
    },
}

/// Leaves a computation with an error of the world, so that equations carry no `?`; [`caught`] takes it up.
pub fn throw(error: Error) -> ! {
    std::panic::resume_unwind(Box::new(error))
}

/// Runs a computation; an error that it was left with by [`throw`] becomes the result.
pub fn caught<R>(f: impl FnOnce() -> R) -> Result<R> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(|payload| {
        *payload.downcast::<Error>().unwrap_or_else(|other| std::panic::resume_unwind(other))
    })
}

/// An error and its causes, in one text.
pub fn chain(error: &dyn std::error::Error, between: &str) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// Tells the user something that is no result and no error; the command line prints all else.
pub fn note(line: impl std::fmt::Display) {
    // A reader that has gone away must not end a training.
    let _ = writeln!(std::io::stderr(), "{line}");
}

impl Error {
    pub fn config(key: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Config { key: key.into(), why: why.into() }
    }

    pub fn data(file: impl AsRef<Path>, why: impl Into<String>) -> Error {
        Error::Data { file: file.as_ref().to_path_buf(), line: None, why: clipped(why.into()) }
    }

    pub fn data_at(file: impl AsRef<Path>, line: usize, why: impl Into<String>) -> Error {
        Error::Data { file: file.as_ref().to_path_buf(), line: Some(line), why: clipped(why.into()) }
    }

    pub fn metric(metric: &'static str, why: impl Into<String>) -> Error {
        Error::Metric { metric, why: why.into() }
    }

    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// The message without the file that it names.
    pub fn reason(self) -> String {
        match self {
            Error::Data { why, .. } | Error::Metric { why, .. } => why,
            Error::Io { source, .. } => format!("cannot be read: {source}"),
            other => other.to_string(),
        }
    }
}

/// What a file's content made of a message, for a terminal.
fn clipped(why: String) -> String {
    clipped_to(1200, why)
}

/// Of a long text the middle is left out, beyond `side` bytes from both ends: what is wrong stands first, and what to do last.
fn clipped_to(side: usize, mut why: String) -> String {
    let is_hidden = |c: char| c.is_control() && c != '\n' && c != '\t';
    if why.contains(is_hidden) {
        why = why.replace(is_hidden, "\u{fffd}");
    }
    if why.len() <= 2 * side {
        return why;
    }
    let boundary = |at: usize| (at..).find(|at| why.is_char_boundary(*at)).unwrap_or(why.len());
    format!("{} ... {}", &why[..boundary(side)], &why[boundary(why.len() - side)..])
}

fn compiler_message(places: &[String]) -> String {
    format!(
        "no NVRTC: it is CUDA's run-time compiler (libnvrtc.so of CUDA 12 or 13; no GPU and no driver is needed). Looked \
         for: {}. `python3 -m pip install nvidia-cuda-nvrtc` installs it, in this repository `tools/nvrtc`; ENGINE_NVRTC \
         names the folder of another, --device cpu does without",
        places.join(", ")
    )
}

fn memory_message(device: &str, bytes: [usize; 3], by: &str, advice: Option<&str>) -> String {
    let [asked, live, total] = bytes.map(|b| b as f64 / f64::from(1 << 20));
    let by = if by.is_empty() { "a new tensor" } else { by };
    let advice = advice.unwrap_or("take a smaller batch");
    format!(
        "out of memory on {device}: {by} asked for {asked:.1} MiB while tensors hold {live:.1} of {total:.1} MiB; {advice}"
    )
}

struct Location<'a>(&'a Path, Option<usize>);

impl std::fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.1 {
            Some(line) => write!(f, "{}:{line}", self.0.display()),
            None => write!(f, "{}", self.0.display()),
        }
    }
}

/// Names every key, as far as a network can have them.
fn weights_message(file: &Path, missing: &[String], unexpected: &[String], misshaped: &[String]) -> String {
    /// More than any network here has.
    const MOST: usize = 2000;
    let mut text = format!("{}: the weights do not fit the network", file.display());
    for (what, names) in [("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped)] {
        if names.is_empty() {
            continue;
        }
        let _ = write!(text, "\n  {} {what}:", names.len());
        for name in names.iter().take(MOST) {
            let _ = write!(text, "\n    {}", clipped_to(200, name.clone()));
        }
        if names.len() > MOST {
            let _ = write!(text, "\n    ... and {} more", names.len() - MOST);
        }
    }
    text.push_str(
        "\n  check that the preset (widths, stages, vocabulary) is the one the weights were trained with",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_an_end_whatever_the_file_holds() {
        let message =
            Error::data("f", format!("'{}' is no name; rename it", "é".repeat(100_000))).to_string();
        assert!(message.len() < 2500 && message.starts_with("f: 'éé") && message.ends_with("rename it"));
        let (missing, misshaped) = (vec!["\x1b[2J".repeat(100_000)], Vec::new());
        let weights = Error::Weights { file: "f".into(), missing, unexpected: vec!["a".into()], misshaped };
        let message = weights.to_string();
        assert!(message.len() < 2500 && !message.contains('\x1b') && message.ends_with("trained with"));
        let names: Vec<String> = (0..900).map(|i| format!("layer{i}.weight")).collect();
        let weights =
            |missing| Error::Weights { file: "f".into(), missing, unexpected: vec![], misshaped: vec![] };
        let message = weights(names.clone()).to_string();
        let lines: Vec<&str> = message.lines().map(str::trim).collect();
        assert!(names.iter().all(|name| lines.contains(&name.as_str())), "every key is named");
        assert!(weights(vec!["a".to_string(); 1_000_000]).to_string().contains("... and 998000 more"));
        assert_eq!(Error::data("f", "short\x1b[2J").to_string(), "f: short\u{fffd}[2J");
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = Error::io("a/file", std::io::Error::other("the disk is gone"));
        assert_eq!(error.to_string(), "a/file: cannot be read or written");
        assert_eq!(chain(&error, "; "), "a/file: cannot be read or written; the disk is gone");
    }
}
