//! What messages advise is done, word for word.

mod binary;

use std::path::Path;
use std::process::Command;

use binary::{assert_says, command, copied_run, read, run, shared_run, succeeds, training};

/// The words of a command line as a shell splits them, after `engine`.
fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(|word| word.trim_matches(['`', ',', ';', '\'', '.']).to_string()).collect()
}

/// What follows `mark` up to one of the ends.
#[track_caller]
fn after<'a>(text: &'a str, mark: &str, ends: &[char]) -> &'a str {
    let rest = text.split(mark).nth(1).unwrap_or_else(|| panic!("no '{mark}' in {text}"));
    rest.split(ends).next().unwrap()
}

/// The error of a call that must fail.
#[track_caller]
fn error(command: &mut Command) -> String {
    let output = run(command);
    assert_eq!(output.code, 1, "{}", output.err);
    output.err
}

fn train_data() -> [String; 2] {
    ["--data".to_string(), Path::new(shared_run()).join("data").to_str().unwrap().to_string()]
}

#[test]
fn go_on_with_resume() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let stopped = succeeds(training(&out).args(["--steps", "1"]));
    let message = error(&mut training(&out));
    let line = after(&message, "go on with: ", &[',']);
    succeeds(Command::new("sh").args(["-c", &format!("{line} --steps 2")]));
    // And what the first call said at its end.
    let line = after(&stopped.out, "go on with: ", &['\n']);
    let output = succeeds(Command::new("sh").args(["-c", line]));
    assert_says(&output.out, &["is ready"]);
    let line = after(&output.out, "try: ", &['\n']);
    let output = succeeds(Command::new("sh").args(["-c", line]));
    assert_says(&output.out, &[".png"]);
}

#[test]
fn train_the_phase_before() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let message = error(training(&out).args(train_data()).args(["--phase", "gan"]));
    let advised = words(after(&message, "train it with ", &[',']));
    succeeds(training(&out).args(train_data()).args(&advised).args(["--steps", "1"]));
    let message = error(command().args(["train", "--out"]).arg(&out).args(["--phase", "gan"]));
    let advised = words(after(&message, "train it with ", &[',']));
    assert_eq!(advised, ["--resume", "--phase", "damsm"]);
    succeeds(command().args(["train", "--out"]).arg(&out).args(&advised));
    let all = words(after(&message, "or all with ", &['\n']));
    succeeds(command().args(["train", "--out"]).arg(&out).args(&all));
}

#[test]
fn take_small_encoders() {
    let folder = tempfile::tempdir().unwrap();
    let mut arguments: Vec<String> = Vec::new();
    for _ in 0..2 {
        let out = folder.path().join("run");
        let sizes = [
            "damsm.schedule.batch=4",
            "captioner.schedule.batch=4",
            "gan.schedule.batch=4",
            "run.sample_rows=2",
        ];
        let mut train = command();
        train.args(["train", "--dataset", "cub", "--out"]).arg(&out).args(train_data()).args(&arguments);
        sizes.iter().for_each(|size| drop(train.args(["--set", size]).get_args()));
        let message = error(train.args(["--steps", "1"]));
        arguments.extend(words(after(&message, "take ", &['\n'])));
    }
    assert_eq!(arguments.len(), 4, "{arguments:?}");
    // The published generator is too much for a test; its first phase is not.
    let mut train = command();
    train.args(["train", "--dataset", "cub", "--out"]).arg(folder.path().join("run")).args(train_data());
    let batch = ["--set", "damsm.schedule.batch=2", "--phase", "damsm", "--steps", "1"];
    succeeds(train.args(&arguments).args(batch));
}

#[test]
fn render_as_many_birds() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let rendered = ["data", "demo", "--count", "30", "--out"];
    succeeds(command().args(rendered).arg(out.join("data")));
    let message = error(training(&out).args(["--steps", "1"]));
    let advised = words(after(&message, "take ", &[',']));
    succeeds(training(&out).args(&advised).args(["--steps", "1"]));
}

#[test]
fn look_at_what_is_skipped() {
    let (_folder, run_folder) = copied_run();
    let data = Path::new(&run_folder).join("data");
    let images = read(data.join("CUB_200_2011/images.txt"));
    let first = images.lines().next().unwrap().split_whitespace().nth(1).unwrap();
    std::fs::remove_file(data.join("CUB_200_2011/images").join(first)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut train = training(out.path().join("run"));
    let output = succeeds(train.arg("--data").arg(&data).args(["--steps", "1"]));
    let line = after(&output.err, "skipped; ", &['\n']).trim_end_matches(" names them");
    let output = succeeds(Command::new("sh").args(["-c", line]));
    assert_says(&output.out, &[first]);
}

#[test]
fn train_a_captioner() {
    let (_folder, run_folder) = copied_run();
    std::fs::remove_dir_all(Path::new(&run_folder).join("captioner")).unwrap();
    let image = Path::new(&run_folder).join("data/CUB_200_2011/images");
    let image = std::fs::read_dir(image).unwrap().flatten().next().unwrap().path();
    let image = std::fs::read_dir(image).unwrap().flatten().next().unwrap().path();
    let message = error(command().args(["caption", "--run", &run_folder]).arg(&image));
    let advised = words(after(&message, "train one with ", &['\n']));
    succeeds(command().args(["train", "--out", &run_folder]).args(&advised));
    succeeds(command().args(["caption", "--run", &run_folder]).arg(&image));
}
