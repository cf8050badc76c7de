//! `engine eval`, its tables and statistics, and `engine nearest`, on a tiny run.

mod binary;

use std::path::Path;

use binary::{RUN, assert_says, copied_run, engine, read, refused, succeeds};
use serde_json::Value;

const OF_ENCODER: [&str; 7] = ["--protocol", "encoder", "--images", "12", "--candidates", "3", "--run"];

/// The figures of an evaluation, as its file has them.
fn evaluated(run: &str, file: &Path, more: &[&str]) -> (Value, String) {
    let json = ["--json", file.to_str().unwrap()];
    let output = engine(&[&["eval"], &OF_ENCODER[..], &[run], &json, more].concat());
    assert_eq!(output.code, 0, "{}", output.err);
    (serde_json::from_str(&read(file)).unwrap(), output.out)
}

fn figure(evaluation: &Value, name: &str) -> f64 {
    let figures = evaluation["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {figures:?}"))["value"].as_f64().unwrap()
}

#[test]
fn figures_do_not_depend_on_batch_and_threads_and_have_their_protocol() {
    let (_folder, run) = copied_run();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (one, printed) = evaluated(&run, &file("a.json"), &["--batch", "1", "--threads", "1"]);
    let (many, again) = evaluated(&run, &file("b.json"), &["--batch", "5", "--threads", "2"]);
    assert_eq!(one, many);
    assert_eq!(printed.replace("a.json", "b.json"), again);
    assert_says(
        &printed,
        &["protocol ", "encoder", "12 generated of", "checkpoint ", "engine ", "fd-small ", "kd-small "],
    );
    assert!(!printed.contains("fid") && !printed.contains("kid"), "{printed}");
    for name in ["fd-small", "kd-small", "r-precision-small", "diversity-small", "caption"] {
        assert!(figure(&one, name).is_finite(), "{name}");
    }
    let left = std::fs::read_dir(Path::new(&run).join("eval")).into_iter().flatten().flatten();
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().contains("partial")).count(), 0);

    let both = [file("a.json"), file("b.json")].map(|file| file.to_str().unwrap().to_string());
    let table = engine(&["eval", "compare", &both[0], &both[1]]);
    assert_eq!(table.code, 0, "{}", table.err);
    assert_says(&table.out, &["a.json", "b.json", "fd-small"]);
    evaluated(&run, &file("c.json"), &["--seed", "7"]);
    let other = file("c.json");
    let why = refused(&["eval", "compare", &both[0], other.to_str().unwrap()]);
    assert_says(&why, &["cannot stand in one column", "seed: 100 | 7"]);
}

#[test]
fn pictures_are_kept_where_that_is_asked_for() {
    let (_folder, run) = copied_run();
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("kept");
    let more = ["--metrics", "kid", "--keep", keep.to_str().unwrap()];
    evaluated(&run, &folder.path().join("a.json"), &more);
    assert_eq!(std::fs::read_dir(keep).unwrap().count(), 12);
}

/// The distance to statistics is that to the pictures they are of.
#[test]
fn the_real_side_can_be_computed_once() {
    let (_folder, run) = copied_run();
    let folder = tempfile::tempdir().unwrap();
    let (direct, _) = evaluated(&run, &folder.path().join("a.json"), &["--metrics", "fid"]);
    let stats = folder.path().join("real.npz");
    let data = Path::new(&run).join("data");
    let paths = [data.to_str().unwrap(), stats.to_str().unwrap()];
    succeeds(binary::command().args([
        "eval",
        "stats",
        paths[0],
        "--run",
        &run,
        "--protocol",
        "encoder",
        "--out",
        paths[1],
    ]));
    let (given, _) =
        evaluated(&run, &folder.path().join("b.json"), &["--metrics", "fid", "--real", paths[1]]);
    let values = [figure(&direct, "fd-small"), figure(&given, "fd-small")];
    assert!((values[0] / values[1] - 1.0).abs() < 1e-9, "{values:?}");
    let asked = [&["eval"], &OF_ENCODER[..], &[&run, "--metrics", "kid", "--real", paths[1]]].concat();
    assert_says(&refused(&asked), &["kid", "leave --real out"]);
    std::fs::write(&stats, "no archive").unwrap();
    let asked = [&["eval"], &OF_ENCODER[..], &[&run, "--metrics", "fid", "--real", paths[1]]].concat();
    assert_says(&refused(&asked), &["real.npz"]);
}

#[test]
fn the_nearest_training_pictures_are_shown() {
    let (_folder, run) = copied_run();
    let list = read(Path::new(&run).join("data/CUB_200_2011/images.txt"));
    let images = Path::new(&run).join("data/CUB_200_2011/images");
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("near.png");
    let name = list.lines().next().unwrap().split_whitespace().nth(1).unwrap();
    let path = images.join(name);
    let (path, sheet_path) = (path.to_str().unwrap(), sheet.to_str().unwrap());
    let output = engine(&["nearest", "--run", &run, path, "--k", "3", "--out", sheet_path]);
    assert_eq!(output.code, 0, "{}", output.err);
    let distances: Vec<f64> = output
        .out
        .lines()
        .skip(1)
        .take(3)
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert!(distances.is_sorted() && distances[0] >= 0.0, "{}", output.out);
    assert_says(&output.out, &[path, "for scale: the ", "near.png"]);
    assert!(image::open(sheet).unwrap().width() > 200);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let run = RUN.to_str().unwrap();
    let eval = |more: &[&str]| refused(&[&["eval", "--run", run][..], more].concat());
    assert_says(&eval(&["--protocol", "lite0"]), &["efficientnet-lite0"]);
    assert_says(&eval(&["--protocol", "encoder", "--metrics", "is"]), &["encoder"]);
    let too_many =
        eval(&["--protocol", "encoder", "--images", "12", "--metrics", "r-precision", "--candidates", "99"]);
    assert_says(&too_many, &["--candidates"]);
    let empty = tempfile::tempdir().unwrap();
    let data = eval(&["--protocol", "encoder", "--data", empty.path().to_str().unwrap()]);
    assert_says(&data, &[empty.path().to_str().unwrap()]);
    let unknown = engine(&["eval", "--run", run, "--metrics", "fed"]);
    assert_eq!(unknown.code, 2);
    assert_says(&unknown.err, &["fid", "kid", "r-precision"]);
    let nothing = refused(&["eval", "--run", empty.path().to_str().unwrap()]);
    assert_says(&nothing, &["not a run"]);
}
