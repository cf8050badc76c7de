//! Every preset trains three steps of each of its phases at reduced size, and generates images.

mod binary;

use binary::{TINY, assert_says, command, engine, read, refused, shared_run, succeeds};
use mirrorgan_engine::config::{Config, PRESETS};
use mirrorgan_engine::train::required_phases;

/// What makes any preset small; the number of stages, the losses, the cell and the heads stay.
fn reduced() -> Vec<&'static str> {
    let own =
        ["data.images=40", "damsm.schedule.steps=2", "captioner.schedule.steps=2", "gan.schedule.steps=2"];
    let mut settings: Vec<&str> = TINY.into_iter().filter(|setting| !own.contains(setting)).collect();
    settings.extend([
        "damsm.backbone.kind=small",
        "captioner.backbone.kind=small",
        "captioner.resize=none",
        "damsm.schedule.steps=3",
        "captioner.schedule.steps=3",
        "gan.schedule.steps=3",
        "generator.noise=4",
        "generator.condition=4",
    ]);
    settings
}

#[test]
fn every_preset_trains_and_generates() {
    let data = format!("{}/data", shared_run());
    for preset in PRESETS.iter() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let mut train = command();
        train
            .args(["train", "--dataset", "cub", "--data", &data, "--preset", preset.name, "--out"])
            .arg(&run);
        reduced().iter().for_each(|setting| drop(train.args(["--set", setting]).get_args()));
        let output = succeeds(&mut train);
        let config = Config::read(&run.join("config.toml")).unwrap();
        for phase in required_phases(&config) {
            assert_says(&output.err, &[&format!("{} 3/3", phase.name())]);
        }
        let infer = succeeds(command().args(["infer", "a red bird", "--run"]).arg(&run));
        let images = infer.out.lines().filter(|line| !line.contains("sheet")).count();
        let sheets = infer.out.lines().count() - images;
        let generator = &config.generator;
        let expected = (if generator.single_head { 1 } else { generator.stages }, 1);
        assert_eq!((images, sheets), expected, "{}", preset.name);
    }
}

#[test]
fn presets_are_listed_shown_and_compared() {
    let list = engine(&["presets"]);
    assert_eq!((list.code, list.out.lines().count()), (0, PRESETS.len()));
    assert_says(&list.out, &["attngan-coco ", "AttnGAN1 on CUB-200-2011: two images", "Rendered birds"]);
    for preset in PRESETS.iter() {
        // What is shown is a file that can be given back.
        let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        std::fs::write(file.path(), engine(&["presets", "show", preset.name]).out).unwrap();
        let same = engine(&["presets", "diff", preset.name, file.path().to_str().unwrap()]);
        assert_says(&same.out, &["are equal"]);
    }
    let diff = engine(&["presets", "diff", "attngan-cub", "attngan1-cub"]).out;
    let rows: Vec<Vec<&str>> = diff.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["key", "attngan-cub", "attngan1-cub"], ["generator.stages", "3", "2"]]);
    assert_says(&engine(&["presets", "diff", "demo", shared_run()]).out, &["generator.width", "data.images"]);
    assert_says(
        &refused(&["presets", "show", "attngan1"]),
        &["no preset 'attngan1'; did you mean 'attngan1-cub'?"],
    );
    assert!(read(format!("{}/config.toml", shared_run())).contains("[generator]"));
}
