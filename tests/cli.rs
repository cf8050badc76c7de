//! The binary as users meet it: what it writes, and its errors.

mod binary;

use std::path::Path;
use std::process::Command;

use binary::{RUN, TINY, assert_says, copied_run, engine, refused, run, shared_run};
use mirrorgan_engine::engine::nn::Archive;

fn training<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let settings = TINY.iter().flat_map(|s| ["--set", s]);
    let fixed = ["train", "--dataset", "demo", "--out", out];
    fixed.into_iter().chain(settings).chain(more.iter().copied()).collect()
}

#[test]
fn info_says_what_it_runs_on() {
    let output = engine(&["info"]);
    assert_eq!(output.code, 0);
    assert_says(&output.out, &["engine    0.", "revision", "threads", "cuda"]);
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    for (shell, parts) in [
        ("bash", ["_engine()", "--dataset"]),
        ("zsh", ["#compdef engine", "--dataset"]),
        ("fish", ["complete -c engine", "-l dataset"]),
    ] {
        let output = engine(&["completions", shell]);
        assert_eq!(output.code, 0, "{}", output.err);
        assert_says(&output.out, &[parts[0], parts[1], "serve"]);
    }
    assert_says(&engine(&["completions", "basch"]).err, &["basch", "bash", "zsh"]);
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("man1");
    let output = engine(&["manual", folder.to_str().unwrap()]);
    assert_eq!(output.code, 0, "{}", output.err);
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_says(&page("engine.1"), &["engine\\-infer(1)", "Exit codes"]);
    assert_says(&page("engine-infer.1"), &["interpolate", "Ctrl"]);
    let file = out.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = engine(&["manual", file.to_str().unwrap()]);
    assert_eq!(output.code, 1);
    assert_says(&output.err, &["no manual in", "file"]);
}

#[test]
fn every_key_is_explained() {
    let output = engine(&["config", "keys"]);
    assert_eq!(output.code, 0, "{}", output.err);
    let line =
        output.out.lines().find(|line| line.starts_with("gan.lr_tail")).expect("a line for gan.lr_tail");
    assert_says(line, &["number", "0.5", "fall linearly to 0"]);
    let output = engine(&["config", "keys", "cub", "--json"]);
    let keys: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    let keys = keys.as_array().unwrap();
    assert!(
        keys.len() > 80 && keys.iter().all(|key| key["help"].as_str().is_some_and(|help| !help.is_empty()))
    );
    let epochs = keys.iter().find(|key| key["key"] == "gan.schedule.epochs").unwrap();
    assert_eq!(epochs["type"], "integer or none");
    assert_says(&engine(&["config", "keys", "cup"]).err, &["cup", "cub"]);
}

#[test]
fn the_version_names_its_revision() {
    assert_says(&engine(&["-V"]).out, &["engine 0.", "(revision "]);
    assert_says(&engine(&["--version"]).out, &["engine 0.", "(revision ", "target "]);
}

#[test]
fn infer_writes_images_sheets_and_the_dump() {
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).to_str().unwrap().to_string();
    let (a, b, dump) = (path("a"), path("b"), path("d.safetensors"));
    let captions = ["a small red bird with black wings", "a yellow bird with a blakc crown"];
    let arguments =
        ["infer", "--run", shared_run(), captions[0], captions[1], "--samples", "2", "--seed", "7"];
    let output = engine(&[&arguments[..], &["--out", &a, "--dump", &dump]].concat());
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.err, &["caption 2: 'blakc' is not in the vocabulary", "black"]);
    for name in ["8", "16", "32", "sheet"] {
        for stem in ["001-1", "001-2", "002-1", "002-2"] {
            assert!(Path::new(&a).join(format!("{stem}-{name}.png")).is_file(), "{stem}-{name}");
        }
    }

    let dump = Archive::read(dump).unwrap();
    let shape = |name: &str| dump.get(name).unwrap_or_else(|| panic!("no {name}")).shape.clone();
    assert_eq!((shape("captions"), shape("lengths")), (vec![4, 7], vec![4]));
    assert_eq!((shape("z"), shape("eps")), (vec![4, 32], vec![4, 32]));
    assert_eq!((shape("words"), shape("sentence")), (vec![4, 8, 7], vec![4, 8]));
    assert_eq!(
        (shape("image0"), shape("image1"), shape("image2")),
        (vec![4, 3, 8, 8], vec![4, 3, 16, 16], vec![4, 3, 32, 32])
    );
    assert_eq!((shape("attention0"), shape("attention1")), (vec![4, 7, 8, 8], vec![4, 7, 16, 16]));
    assert_eq!(dump.get("lengths").unwrap().to_i64(), [7, 7, 6, 6]);
    let attention = dump.get("attention0").unwrap().to_f32();
    let at_a_place: f32 = (0..7).map(|word| attention[word * 64 + 5]).sum();
    assert!((at_a_place - 1.0).abs() < 1e-5, "{at_a_place}");

    // One seed, one answer, whatever else is asked for.
    let alone = ["infer", "--run", shared_run(), captions[0], "--seed", "7", "--out", &b];
    assert_eq!(engine(&alone).code, 0);
    for name in ["001-1-8.png", "001-1-32.png", "001-1-sheet.png"] {
        let read = |folder: &str| std::fs::read(Path::new(folder).join(name)).unwrap();
        assert!(read(&a) == read(&b), "{name} differs");
    }
}

#[test]
fn caption_describes_an_image() {
    let bird = std::fs::read_dir(RUN.join("data/CUB_200_2011/images/001.Red_winged_Black_Bird")).unwrap();
    let bird = bird.flatten().next().unwrap().path();
    let output = engine(&["caption", "--run", shared_run(), bird.to_str().unwrap()]);
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.out, &[bird.to_str().unwrap(), ": "]);
}

#[test]
fn captions_without_a_known_word_are_named() {
    let run = shared_run();
    assert_says(&refused(&["infer", "--run", run, ""]), &["caption 1: an empty caption"]);
    let message = refused(&["infer", "--run", run, "a red bird", "rede birrd xyzzy"]);
    assert_says(&message, &["caption 2: not one word", "'rede'", "red", "'xyzzy' is not in the vocabulary"]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("captions.txt");
    let file = file.to_str().unwrap();
    let with = |bytes: &[u8]| {
        std::fs::write(file, bytes).unwrap();
        refused(&["infer", "--run", run, "--file", file])
    };
    assert_says(&with(b"a red bird\nzzz\n"), &["captions.txt:2: not one word"]);
    assert_says(&with(b""), &["captions.txt: no captions"]);
    assert_says(&with(b"a r\xe9d bird"), &["captions.txt: not UTF-8"]);
    assert_says(&refused(&["infer", "--run", run, "--file", "none.txt"]), &["none.txt"]);
}

#[test]
fn configurations_that_cannot_be_meant_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let train = |more: &[&str]| {
        let fixed = ["train", "--dataset", "demo", "--out", out.to_str().unwrap()];
        refused(&[&fixed[..], more].concat())
    };
    assert_says(&train(&["--preset", "dmeo"]), &["no preset 'dmeo'", "did you mean 'demo'?"]);
    assert_says(&train(&["--set", "loss.lamda_damsm=1"]), &["loss.lamda_damsm", "loss.lambda_damsm"]);
    assert_says(
        &train(&["--set", "gan.schedule.batch=big"]),
        &["gan.schedule.batch", "'big' is not a whole number", "images in a batch"],
    );
    let message = train(&["--set", "data.images=30", "--set", "damsm.schedule.batch=31"]);
    assert_says(
        &message,
        &["damsm.schedule.batch", "26 training images are fewer than a batch of 31; set it to 26 or less"],
    );
    let few = ["--set", "data.images=30", "--set", "damsm.schedule.batch=4"];
    let message = train(&[&few[..], &["--set", "damsm.backbone.kind=inception_v3"]].concat());
    assert_says(&message, &["inception_v3_google-0cc3c7bd.pth", "--set damsm.backbone.kind=small"]);
    assert_says(&train(&["--set", "train.batch=4"]), &["train.batch", "gan.schedule.batch now"]);
    let stage = engine(&["train", "--dataset", "demo", "--stage", "gan"]);
    assert_eq!(stage.code, 2);
    assert_says(&stage.err, &["--phase gan"]);
    let time = engine(&["train", "--dataset", "demo", "--time-limit", "soon"]);
    assert_eq!(time.code, 2);
    assert_says(&time.err, &["'soon' is not a time"]);
}

#[test]
fn set_help_lists_every_key_with_value_and_meaning() {
    let output = engine(&["train", "--preset", "cub", "--set", "help", "--set", "gan.schedule.batch=7"]);
    assert_eq!(output.code, 0, "{}", output.err);
    let row = |key: &str| output.out.lines().find(|line| line.starts_with(key)).unwrap().to_string();
    assert_says(&row("gan.schedule.batch"), &[" 7 ", "images in a batch"]);
    assert_says(&row("text_encoder.dropout"), &[" 0.5 ", "training drops"]);
    assert_says(&row("damsm.backbone.kind"), &["\"inception_v3\"", "small"]);
    assert!(output.out.lines().count() > 60, "{}", output.out);
    let neither = engine(&["train", "--set", "run.seed=1"]);
    assert_says(&neither.err, &["--dataset is missing"]);
}

#[test]
fn data_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (out, none, empty) = (path("run"), path("none"), path("empty"));
    std::fs::create_dir(&empty).unwrap();
    assert_says(&refused(&["train", "--dataset", "cub", "--out", &out]), &["--data is missing"]);
    assert_says(&refused(&["train", "--dataset", "cub", "--data", &none, "--out", &out]), &["none"]);
    assert_says(&refused(&["train", "--dataset", "cub", "--data", &empty, "--out", &out]), &["empty"]);
    assert_says(&refused(&["data", "check", &empty, "--dataset", "cub"]), &["empty"]);
    assert!(!Path::new(&out).exists(), "nothing is begun without data");
    assert_says(&refused(&["infer", "--run", &none, "a red bird"]), &["none: not a run"]);
    assert_says(&refused(&["caption", "--run", shared_run(), &none]), &["none"]);
}

#[test]
fn data_check_reports() {
    let data = RUN.join("data");
    let output = engine(&["data", "check", data.to_str().unwrap(), "--dataset", "cub"]);
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.out, &["images", "captions", "nothing will be skipped"]);
}

#[test]
fn a_run_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let (below, data) = (file.join("run"), RUN.join("data"));
    let data = ["--data", data.to_str().unwrap()];
    assert_says(&refused(&training(below.to_str().unwrap(), &data)), &["file/run"]);
    let out = ["infer", "--run", shared_run(), "a red bird", "--out", file.to_str().unwrap()];
    assert_says(&refused(&out), &["no place for the images"]);
}

/// A limit on the size of files stands in for a disk that is full.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_earlier_checkpoint() {
    let (_folder, run_folder) = copied_run();
    let limited = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
    let more = training(&run_folder, &["--set", "gan.schedule.steps=4", "--resume", "--phase", "gan"]);
    let mut command = Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_engine")]).args(&more);
    let output = run(&mut command);
    assert_eq!(output.code, 1, "{}", output.err);
    assert_says(&output.err, &["error: ", "safetensors", "gan/"]);
    let names = std::fs::read_dir(Path::new(&run_folder).join("gan")).unwrap().flatten();
    let names: Vec<_> = names.map(|e| e.file_name().into_string().unwrap()).collect();
    assert!(
        names.contains(&"step-000002".to_string()) && !names.iter().any(|n| n.ends_with(".tmp")),
        "{names:?}"
    );
    assert_eq!(engine(&more).code, 0);
}

#[test]
fn damaged_weights_are_named() {
    let (_folder, run) = copied_run();
    let gan = Path::new(&run).join("gan/step-000002");
    let generator = gan.join("netG.safetensors");
    let whole = std::fs::read(&generator).unwrap();
    std::fs::write(&generator, &whole[..whole.len() / 2]).unwrap();
    let message = refused(&["infer", "--run", &run, "a red bird"]);
    assert_says(&message, &["netG.safetensors", "cut off", "are promised"]);

    std::fs::copy(gan.join("netD0.safetensors"), &generator).unwrap();
    let message = refused(&["infer", "--run", &run, "a red bird"]);
    assert_says(&message, &["netG.safetensors", "missing", "ca_net.fc.weight", "unexpected", "COND_DNET"]);

    let config = Path::new(&run).join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[generator]\nwidth = 2", "[generator]\nwidth = 3")).unwrap();
    std::fs::write(&generator, &whole).unwrap();
    assert_says(
        &refused(&["infer", "--run", &run, "a red bird"]),
        &["of another shape", "h_net1.fc.0.weight"],
    );
}

#[test]
fn another_configuration_is_refused_and_finished_phases_are_kept() {
    let (_folder, run) = copied_run();
    let message = refused(&["train", "--dataset", "demo", "--out", &run, "--set", "discriminator.width=8"]);
    assert_says(&message, &["discriminator.width is 4 there and 8 here"]);
    let output = engine(&["train", "--dataset", "demo", "--out", &run]);
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.err, &["damsm: finished at step 2, kept", "gan: finished at step 2, kept"]);
}

#[test]
fn a_generator_needs_what_comes_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (out, data) = (folder.path().to_str().unwrap(), RUN.join("data"));
    let message = refused(&training(out, &["--data", data.to_str().unwrap(), "--phase", "gan"]));
    assert_says(&message, &["the damsm phase is not trained yet", "--phase damsm"]);
    assert_says(&refused(&["infer", "--run", out, "a red bird"]), &["not a run: there is no config.toml"]);
}
