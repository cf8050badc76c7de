//! `engine sweep` on tiny runs.

mod binary;

use std::path::Path;

use binary::{TINY, assert_says, command, read, refused, run, succeeds};
use serde_json::Value;

/// A sweep of the tiny demo.
fn sweep(out: &Path, more: &[&str]) -> binary::Output {
    let mut command = command();
    command.args(["sweep", "--out"]).arg(out).args([
        "--protocol",
        "encoder",
        "--images",
        "12",
        "--candidates",
        "2",
    ]);
    for setting in TINY {
        command.args(["--set", setting]);
    }
    run(command.args(more))
}

fn result(out: &Path) -> Value {
    serde_json::from_str(&read(out.join("sweep.json"))).unwrap()
}

fn figure(run: &Value, name: &str) -> f64 {
    let figures = run["result"]["measured"]["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["name"] == name).unwrap()["value"].as_f64().unwrap()
}

#[test]
fn variants_are_trained_measured_and_put_into_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    let more = [
        "--preset",
        "demo",
        "--set",
        "loss.lambda_captioner=0,5",
        "--set",
        "gan.average_decay=0.1",
        "--seeds",
        "0-1",
        "--metrics",
        "kid,r-precision,caption",
    ];
    let first = sweep(&out, &more);
    assert_eq!(first.code, 0, "{}", first.err);
    assert_says(
        &first.err,
        &["== 4 of 4", "damsm: that of loss.lambda_captioner=0/seed-0", "captioner: that of"],
    );
    assert_eq!(first.err.matches("damsm 2/2").count(), 1, "DAMSM is trained once: {}", first.err);
    assert_says(
        &first.out,
        &["protocol ", "loss.lambda_captioner", "kd-small", "r-precision-small", "caption", " ± "],
    );
    let runs = result(&out)["runs"].as_array().unwrap().clone();
    assert_eq!(runs.len(), 4);
    let distances: Vec<f64> = runs.iter().map(|run| figure(run, "kd-small")).collect();
    for (i, distance) in distances.iter().enumerate() {
        assert!(
            !distances[..i].contains(distance),
            "two runs of other seeds or weights are equal: {distances:?}"
        );
    }
    let table = read(out.join("sweep.md"));
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && !line.contains("---")).collect();
    assert_eq!(rows.len(), 3, "{table}");
    let mean = (distances[0] + distances[2]) / 2.0;
    let cell = rows[1].split('|').nth(3).unwrap().trim().split(' ').next().unwrap();
    assert!((cell.parse::<f64>().unwrap() / mean - 1.0).abs() < 1e-4, "{table}");
    assert_says(&table, &["seeds 0, 1", "    protocol ", "engine"]);

    // What is there is kept; what is gone is trained again, and comes out the same.
    std::fs::remove_dir_all(out.join("loss.lambda_captioner=5/seed-1")).unwrap();
    let again = sweep(&out, &more);
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!(again.err.matches("by an earlier call").count(), 3, "{}", again.err);
    assert_eq!(result(&out)["runs"], Value::Array(runs));
    assert_eq!(first.out, again.out);

    // Every run is a whole one.
    let one = out.join("loss.lambda_captioner=0/seed-1");
    let pictures = folder.path().join("pictures");
    succeeds(command().args(["infer", "a red bird", "--run"]).arg(&one).arg("--out").arg(&pictures));

    let other = sweep(&out, &[&more[..], &["--set", "gan.average_decay=0.5"]].concat());
    assert_eq!(other.code, 1);
    assert_says(&other.err, &["gan.average_decay is 0.1 there and 0.5 here", "take another --out"]);
}

#[test]
fn a_variant_that_diverges_is_told_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = sweep(
        folder.path(),
        &[
            "--preset",
            "demo",
            "--steps",
            "2",
            "--metrics",
            "kid",
            "--set",
            "gan.generator_adam.lr=1e30,1e-3",
            "--set",
            "run.log_every=1",
        ],
    );
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.out, &["gan.generator_adam.lr=1e30/seed-0: no figures", "diverged", "kd-small"]);
    assert_says(&read(folder.path().join("sweep.md")), &["no figures"]);
}

#[test]
fn analyses_of_the_papers_are_listed_and_trained() {
    let list = succeeds(command().args(["sweep", "--list"]));
    assert_says(
        &list.out,
        &["mirrorgan-ablation", "attngan-components", "AttnGAN1, no DAMSM", "loss.lambda_captioner=20"],
    );
    let list = succeeds(command().args(["sweep", "mirrorgan-ablation", "--list"]));
    assert_says(&list.out, &["words-alone-lambda=0/seed-", "6 runs, phases damsm, captioner, gan"]);
    let folder = tempfile::tempdir().unwrap();
    let more =
        ["attngan-components", "--preset", "demo", "--metrics", "kid", "--set", "loss.lambda_captioner=0"];
    let output = sweep(folder.path(), &more);
    assert_eq!(output.code, 0, "{}", output.err);
    // Pictures of other sides are another protocol.
    assert_eq!(output.out.matches("protocol ").count(), 2, "{}", output.out);
    let table = read(folder.path().join("sweep.md"));
    assert_says(&table, &["| AttnGAN1, no DAMSM |", "| AttnGAN2, λ = 5 |"]);
    assert_eq!(table.matches("| --- |").count(), 2, "{table}");
}

#[test]
fn what_cannot_be_swept_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let why = |more: &[&str]| refused(&[&["sweep", "--out", out], more].concat());
    assert_says(&why(&["--preset", "demo"]), &["nothing is varied", "--set loss.lambda_captioner=0,5,10"]);
    assert_says(&why(&["mirrorgan"]), &["no analysis 'mirrorgan'", "mirrorgan-ablation"]);
    let old = why(&["--preset", "demo", "--set", "gan.lambda_stream=0,5"]);
    assert_says(&old, &["gan.lambda_stream: this key is loss.lambda_captioner now"]);
    let cub = why(&["--preset", "cub", "--set", "loss.lambda_captioner=0,5"]);
    assert_says(&cub, &["--data is missing", "CUB_200_2011"]);
    let same = why(&["--preset", "demo", "--set", "loss.lambda_captioner=5,5.0"]);
    assert_says(&same, &["are the same configuration"]);
    assert!(!folder.path().join("data").exists(), "nothing is written");
}
