//! The binary for tests: runs it, reads what it says, and keeps one small finished run.
#![allow(dead_code)] // Each test file uses a part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Networks so small that a training takes a second.
pub const TINY: [&str; 20] = [
    "data.images=40",
    "text_encoder.embedding=8",
    "text_encoder.features=8",
    "damsm.backbone.widths=[4, 8, 8]",
    "damsm.backbone.map_after=2",
    "damsm.schedule.batch=4",
    "captioner.backbone.widths=[4, 8]",
    "captioner.backbone.map_after=2",
    "captioner.embedding=8",
    "captioner.hidden=8",
    "captioner.schedule.batch=4",
    "generator.first_ups=1",
    "generator.width=2",
    "discriminator.width=4",
    "gan.schedule.batch=4",
    "damsm.schedule.steps=2",
    "captioner.schedule.steps=2",
    "gan.schedule.steps=2",
    "run.sample_rows=2",
    "eval.candidates=3",
];

pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs a command that may fail, but must not panic.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let output = Output {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    assert!(!output.err.contains("panicked"), "{}", output.err);
    output
}

/// The binary, where no weights of ImageNet are found on this machine.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.env("ENGINE_WEIGHTS", "no such folder").env("TORCH_HOME", "no such folder");
    command
}

/// The command, which hears the signals that end it: children inherit what is ignored, INT in a shell's background and HUP
/// under nohup; where env can, it is undone. `before` is what the shell does first.
#[cfg(unix)]
pub fn hearing(command: &Command, before: &str) -> Command {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let heard = "env --default-signal=INT,TERM,HUP true 2> /dev/null && set -- env --default-signal=INT,TERM,HUP \"$@\";";
    let before = if before.is_empty() { heard } else { before };
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{before} exec \"$@\""), "sh"]).args(words);
    for (name, value) in command.get_envs() {
        value.map(|value| shell.env(name, value));
    }
    shell
}

#[track_caller]
pub fn engine(arguments: &[&str]) -> Output {
    run(command().args(arguments))
}

/// Runs what must succeed.
#[track_caller]
pub fn succeeds(command: &mut Command) -> Output {
    let output = run(command);
    assert_eq!(output.code, 0, "{}", output.err);
    output
}

/// Runs what must fail, and returns the error.
#[track_caller]
pub fn refused(arguments: &[&str]) -> String {
    let output = engine(arguments);
    assert_eq!(output.code, 1, "{}", output.err);
    let error = output.err.split("error: ").nth(1).unwrap_or_else(|| panic!("no error: {}", output.err));
    error.to_string()
}

#[track_caller]
pub fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

/// Trains the tiny demo into `out`.
pub fn training(out: impl AsRef<Path>) -> Command {
    let mut command = command();
    command.args(["train", "--dataset", "demo", "--out"]).arg(out.as_ref());
    for setting in TINY {
        command.args(["--set", setting]);
    }
    command
}

/// A finished run of all phases, of two steps each, that no test changes.
pub static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = std::env::current_exe().unwrap().file_stem().unwrap().to_os_string();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&out);
    let output = succeeds(&mut training(&out));
    assert_says(&output.err, &["rendering 40 birds", "damsm 2/2", "captioner 2/2", "gan 2/2", "R-precision"]);
    assert_says(&output.out, &["is ready"]);
    out
});

pub fn shared_run() -> &'static str {
    RUN.to_str().unwrap()
}

/// A copy that a test may damage.
pub fn copied_run() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    copy(&RUN, folder.path());
    let path = folder.path().to_str().unwrap().to_string();
    (folder, path)
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Every file below a folder, but a run's lock, with its bytes.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false if entry.file_name() == ".lock" => {}
            false => drop(found.insert(entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
    found
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
