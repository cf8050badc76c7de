//! Memory and threads that do not suffice on the CPU: errors with advice, the run intact.
#![cfg(target_os = "linux")]

mod binary;

use std::path::Path;
use std::process::Command;

use binary::{assert_says, run, succeeds, training};

/// The tiny demo under a limit of the shell's.
fn limited(limit: &str, out: &Path, more: &[&str]) -> Command {
    let mut inner = training(out);
    inner.args(more).args(["--threads", "1", "--device", "cpu"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{limit}; exec \"$@\""), "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    shell
}

#[test]
fn memory_that_runs_out_is_an_error_with_a_batch_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let wide =
        ["--set", "generator.width=64", "--set", "generator.first_ups=3", "--set", "gan.schedule.batch=24"];
    let output = run(&mut limited("ulimit -v 600000", &out, &wide));
    assert_eq!(output.code, 1, "{}", output.err);
    assert_says(&output.err, &["out of memory on the CPU", "gan step 1", "--set gan.schedule.batch="]);
    // What the message advises trains; without the limit, so that the batch need not be exact.
    let advised = output.err.split("try: ").nth(1).unwrap().lines().next().unwrap();
    let output = succeeds(Command::new("sh").args(["-c", &format!("{advised} --device cpu")]));
    assert_says(&output.err, &["damsm: finished at step 2, kept"]);
}

#[test]
fn more_memory_than_there_is_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let huge =
        ["--set", "generator.noise=8192", "--set", "generator.width=1024", "--set", "generator.first_ups=4"];
    let output = run(&mut limited("ulimit -v 4000000", &folder.path().join("run"), &huge));
    assert_eq!(output.code, 1, "{}", output.err);
    assert_says(&output.err, &["out of memory on the CPU"]);
}

#[test]
fn threads_that_cannot_start_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = training(folder.path().join("run"));
    // Stacks of a thousand threads do not fit into this address space.
    let mut shell = Command::new("sh");
    train.args(["--threads", "1000"]);
    let script = "ulimit -v 900000; exec \"$@\"";
    shell.args(["-c", script, "sh"]).arg(train.get_program()).args(train.get_args());
    let output = run(&mut shell);
    assert_eq!(output.code, 1, "{}", output.err);
    assert_says(&output.err, &["--threads", "cannot start 1000 threads", "take fewer"]);
}
