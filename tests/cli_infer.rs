//! `engine infer` and `engine caption` as users meet them: captions, files that are written, boxes, damaged weights.

mod binary;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use binary::{RUN, assert_says, command, copied_run, engine, read, refused, run, shared_run, succeeds};
use mirrorgan_engine::data::{self, EvalBatches, Format, LoaderConfig, OpenConfig};
use mirrorgan_engine::engine::nn::{Archive, Array};
use mirrorgan_engine::infer::image_square;

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".png"));
    names.sort();
    names
}

#[test]
fn words_beyond_the_limit_are_named() {
    let out = tempfile::tempdir().unwrap();
    let long =
        "a small red bird with black wings and a long bill and a white belly and a grey crown in the water";
    let output = succeeds(command().args(["infer", "--run", shared_run(), long, "--out"]).arg(out.path()));
    assert_says(
        &output.err,
        &["note: caption 1: longer than 18 words (data.words_eval); left out: crown in the water"],
    );
}

#[test]
fn a_file_of_captions_is_read_as_people_write_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("captions.txt"), folder.path().join("out"));
    let infer = |more: &[&str]| {
        let mut infer = command();
        infer.args(["infer", "--run", shared_run(), "--out"]).arg(&out).args(more);
        infer
    };
    let path = file.to_str().unwrap();
    std::fs::write(&file, "\u{feff}a red bird\r\n\r\n\r\na blue brid\r\n").unwrap();
    let output = succeeds(&mut infer(&["--file", path]));
    assert_says(&output.err, &["captions.txt:4: 'brid' is not in the vocabulary"]);
    let lines: Vec<serde_json::Value> =
        read(out.join("captions.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["line"], &lines[1]["line"], lines.len()), (&1.into(), &4.into(), 2));
    assert_eq!(lines[1]["left_out"], serde_json::json!(["brid"]));
    assert_eq!(lines[1]["words"], serde_json::json!(["a", "blue"]));
    assert_eq!(lines[0]["checkpoint"], "gan/step-000002");

    // The same from standard input, with lone carriage returns.
    let mut child = infer(&["--file", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"a red bird\ra blue bird").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 8);

    for (bytes, part) in [
        (&b"\xff\xfea\0 \0r\0"[..], "UTF-16 text"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\n \n\r\n", "no captions in it"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        assert_says(&refused(&["infer", "--run", shared_run(), "--file", path]), &["captions.txt", part]);
    }
    std::fs::write(&file, "a red bird\n红色的鸟\nxyzzy\n").unwrap();
    let message = refused(&["infer", "--run", shared_run(), "--file", path]);
    assert_says(
        &message,
        &["captions.txt:2: no word of", "is ASCII", "captions.txt:3: not one word of 'xyzzy'"],
    );
}

#[test]
fn files_are_written_whatever_happens_to_the_list() {
    let out = tempfile::tempdir().unwrap();
    let captions: Vec<String> = (0..15).map(|_| "\"a red bird\"".to_string()).collect();
    let script = format!(
        "\"$0\" infer --run \"$1\" --out \"$2\" {} | head -1; exit ${{PIPESTATUS[0]}}",
        captions.join(" ")
    );
    let mut shell = Command::new("bash");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_engine"), shared_run()]).arg(out.path());
    let output = run(&mut shell);
    assert_eq!((output.code, output.out.lines().count()), (0, 1), "{}", output.err);
    assert_eq!(names(out.path()).len(), 60);
    assert_eq!(read(out.path().join("captions.jsonl")).lines().count(), 15);
}

#[test]
fn a_second_call_keeps_what_the_first_wrote() {
    let out = tempfile::tempdir().unwrap();
    let infer = |caption: &str| {
        let mut infer = command();
        infer.args(["infer", "--run", shared_run(), caption, "--seed", "3", "--out"]).arg(out.path());
        infer
    };
    succeeds(&mut infer("a red bird"));
    let first = std::fs::read(out.path().join("001-1-32.png")).unwrap();
    // Two at once, and one more.
    let children: Vec<_> =
        (0..2).map(|_| infer("a blue bird").stdout(Stdio::null()).spawn().unwrap()).collect();
    children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    succeeds(&mut infer("a red bird"));
    assert_eq!(names(out.path()).len(), 4 * 4, "{:?}", names(out.path()));
    assert!(first == std::fs::read(out.path().join("001-1-32.png")).unwrap());
    // The caption and all that led to the image stand in it; equal calls give equal images.
    let texts = |name: &str| {
        let file = std::io::BufReader::new(std::fs::File::open(out.path().join(name)).unwrap());
        let reader = png::Decoder::new(file).read_info().unwrap();
        let texts = reader.info().utf8_text.iter();
        texts.map(|text| (text.keyword.clone(), text.get_text().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(texts("001-1-8.png")[0], ("Description".to_string(), "a red bird".to_string()));
    assert_says(&texts("001-1-8.png")[2].1, &["\"seed\":3", "\"checkpoint\":\"gan/step-000002\""]);
    assert!(first == std::fs::read(out.path().join("004-1-32.png")).unwrap());
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let (_folder, run_folder) = copied_run();
    let file = Path::new(&run_folder).join("gan/step-000002/netG.safetensors");
    let mut archive = Archive::read(&file).unwrap();
    let name = archive.names().find(|name| name.ends_with("fc.weight")).unwrap().to_string();
    let array = archive.get(&name).unwrap().clone();
    let mut values = array.to_f32();
    values[5] = f32::NAN;
    archive.insert(&name, Array::f32(&array.shape, values));
    archive.write(&file).unwrap();
    let message = refused(&["infer", "--run", &run_folder, "a red bird"]);
    assert_says(&message, &["netG.safetensors", &name, "holds NaN (its number 5)", "earlier checkpoint"]);
    assert!(!Path::new(&run_folder).join("infer").exists());

    // Weights that are numbers, and an image that is none.
    let values = (0..array.to_f32().len()).map(|i| if i % 3 == 0 { f32::MIN } else { f32::MAX }).collect();
    archive.insert(&name, Array::f32(&array.shape, values));
    archive.write(&file).unwrap();
    let message = refused(&["infer", "--run", &run_folder, "a red bird"]);
    assert_says(&message, &["caption 1", "gan/step-000002", "the weights have diverged"]);
    assert!(names(&Path::new(&run_folder).join("infer")).is_empty());
}

#[test]
fn files_of_another_kind_are_no_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("netG_epoch_600.pth");
    std::fs::write(&file, b"PK\x03\x04\0\0netG/data.pkl").unwrap();
    let message = refused(&["infer", "--run", file.to_str().unwrap(), "a red bird"]);
    assert_says(&message, &["netG_epoch_600.pth: a PyTorch file, not a run"]);
}

#[test]
fn nothing_is_computed_before_the_places_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("none/d.safetensors");
    let out = folder.path().join("out");
    let (dump, out) = (dump.to_str().unwrap(), out.to_str().unwrap());
    let message = refused(&["infer", "--run", shared_run(), "a red bird", "--out", out, "--dump", dump]);
    assert_says(&message, &["no such folder for --dump"]);
    // The note about the device comes where something is computed, not before errors.
    let output = engine(&["infer", "--run", shared_run(), "xyzzy"]);
    assert!(output.code == 1 && !output.err.contains("computing on the CPU"), "{}", output.err);
}

fn lines(out: &Path) -> Vec<serde_json::Value> {
    let lines = read(out.join("captions.jsonl"));
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Infers into a folder and returns what was dumped.
fn dumped(more: &[&str]) -> Archive {
    let out = tempfile::tempdir().unwrap();
    let dump = out.path().join("d.safetensors");
    let mut infer = command();
    infer.args(["infer", "--run", shared_run(), "--out"]).arg(out.path()).arg("--dump").arg(&dump).args(more);
    succeeds(&mut infer);
    Archive::read(&dump).unwrap()
}

fn values(archive: &Archive, name: &str) -> Vec<f32> {
    archive.get(name).unwrap_or_else(|| panic!("no {name}")).to_f32()
}

#[test]
fn a_sample_does_not_depend_on_batch_or_threads() {
    let call = |batch: &'static str, threads: &'static str| {
        let captions = ["bird", "a red bird", "a small blue bird with black wings and a long bill"];
        let options = ["--samples", "6", "--seed", "5", "--batch", batch, "--threads", threads];
        dumped(&[&captions[..], &options[..]].concat())
    };
    let one = call("1", "1");
    for (batch, threads) in [("1", "2"), ("3", "1"), ("3", "2"), ("16", "1"), ("16", "2")] {
        let other = call(batch, threads);
        for name in
            ["z", "eps", "sentence", "words", "image0", "image1", "image2", "attention0", "attention1"]
        {
            assert!(values(&one, name) == values(&other, name), "{name}, batch {batch}, {threads} threads");
        }
    }
}

#[test]
fn the_direct_sums_give_the_same_picture_but_for_rounding() {
    let [fast, exact] = [&["a red bird"][..], &["a red bird", "--exact"]].map(dumped);
    let pairs = values(&fast, "image2").into_iter().zip(values(&exact, "image2"));
    assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-3);
}

#[test]
fn swaps_share_their_noise() {
    let swapped = dumped(&["a red bird", "--swap", "red=blue,green"]);
    let plain = ["a red bird", "a blue bird", "a green bird"].map(|caption| dumped(&[caption]));
    for name in ["z", "eps", "image2"] {
        let expected: Vec<f32> = plain.iter().flat_map(|archive| values(archive, name)).collect();
        assert!(values(&swapped, name) == expected, "{name}");
    }
    let out = tempfile::tempdir().unwrap();
    succeeds(
        command()
            .args(["infer", "--run", shared_run(), "a red bird", "--swap", "red=blue", "--out"])
            .arg(out.path()),
    );
    let lines = lines(out.path());
    assert_eq!((&lines[1]["caption"], &lines[1]["swapped_to"]), (&"a blue bird".into(), &"blue".into()));
    assert!(out.path().join(lines[0]["swap_sheet"].as_str().unwrap()).is_file());
}

#[test]
fn the_ends_of_an_interpolation_are_plain_samples() {
    let count = |archive: &Archive| archive.get("lengths").unwrap().shape[0];
    let ends = |archive: &Archive| {
        let images = values(archive, "image2");
        let one = images.len() / count(archive);
        (images[..one].to_vec(), images[images.len() - one..].to_vec())
    };
    let noise = dumped(&["a red bird", "--interpolate", "noise", "--seeds", "3,8", "--frames", "5"]);
    assert_eq!(count(&noise), 5);
    let plain = ["3", "8"].map(|seed| values(&dumped(&["a red bird", "--seed", seed]), "image2"));
    assert!(ends(&noise) == (plain[0].clone(), plain[1].clone()));
    let captions = ["a red bird", "a blue bird with black wings"];
    let sentence = dumped(&[captions[0], captions[1], "--interpolate", "sentence", "--frames", "4"]);
    let plain = captions.map(|caption| values(&dumped(&[caption]), "image2"));
    assert!(ends(&sentence) == (plain[0].clone(), plain[1].clone()));
}

#[test]
fn a_gif_has_as_many_frames_as_asked_for() {
    let out = tempfile::tempdir().unwrap();
    let options = ["a red bird", "--interpolate", "noise", "--frames", "6", "--gif", "--out"];
    succeeds(command().args(["infer", "--run", shared_run()]).args(options).arg(out.path()));
    let file = std::io::BufReader::new(std::fs::File::open(out.path().join("001-noise.gif")).unwrap());
    let frames = image::AnimationDecoder::into_frames(image::codecs::gif::GifDecoder::new(file).unwrap());
    assert_eq!(frames.map(Result::unwrap).count(), 6);
    let line = &lines(out.path())[0];
    assert_eq!((&line["frames"], &line["seeds"]), (&6.into(), &serde_json::json!([0, 1])));
}

#[test]
fn truncated_noise_is_bounded_and_recorded() {
    let z = values(&dumped(&["a red bird", "--samples", "9", "--truncation", "0.5"]), "z");
    assert!(z.iter().all(|z| z.abs() <= 1.0));
    let out = tempfile::tempdir().unwrap();
    succeeds(
        command()
            .args(["infer", "--run", shared_run(), "a red bird", "--truncation", "0.5", "--out"])
            .arg(out.path()),
    );
    assert_eq!(lines(out.path())[0]["truncation"], 0.5);
}

#[test]
fn a_checkpoint_is_chosen() {
    let images = |more: &[&str]| values(&dumped(&[&["a red bird"], more].concat()), "image2");
    assert!(images(&[]) == images(&["--checkpoint", "2"]));
    assert!(images(&[]) != images(&["--checkpoint", "raw"]));
    let message = refused(&["infer", "--run", shared_run(), "a red bird", "--checkpoint", "77"]);
    assert_says(&message, &["step-000077", "no such checkpoint; there are those of steps 2"]);
}

#[test]
fn seeds_give_a_contact_sheet() {
    let out = tempfile::tempdir().unwrap();
    succeeds(
        command()
            .args(["infer", "--run", shared_run(), "a red bird", "--seeds", "0-15", "--out"])
            .arg(out.path()),
    );
    let sheet = image::open(out.path().join("001-grid.png")).unwrap();
    assert!(sheet.width() > 8 * 128 && sheet.height() > 2 * 128, "{}×{}", sheet.width(), sheet.height());
    let lines = lines(out.path());
    assert_eq!((lines.len(), &lines[7]["seed"], &lines[7]["grid"]), (16, &7.into(), &"001-grid.png".into()));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let infer = |more: &[&str]| engine(&[&["infer", "--run", shared_run(), "a red bird"], more].concat());
    for (options, part) in [
        (&["--truncation", "0"][..], "above 0"),
        (&["--seeds", "5-2"], "goes down"),
        (&["--swap", "red"], "no ="),
        (&["--checkpoint", "new"], "or raw"),
        (&["--frames", "4"], "--interpolate"),
        (&["--gif"], "--interpolate"),
        (&["--interpolate", "noise", "--grid"], "cannot be used with"),
        (&["--seeds", "0-3", "--samples", "2"], "cannot be used with"),
    ] {
        let output = infer(options);
        assert!(output.code == 2 && output.err.contains(part), "{options:?}: {}", output.err);
    }
    for (options, part) in [
        (&["--swap", "green=blue"][..], "'green' is none of its words"),
        (&["--swap", "red=xyzzy"], "'xyzzy' is not in the vocabulary"),
        (&["--interpolate", "sentence"], "give two or more"),
        (&["--interpolate", "noise", "--seeds", "3"], "give two or more"),
    ] {
        let output = infer(options);
        assert!(output.code == 1 && output.err.contains(part), "{options:?}: {}", output.err);
    }
}

/// Training, evaluation and `caption` show the network the same pixels of an image.
#[test]
fn caption_sees_what_evaluation_sees() {
    let data = RUN.join("data");
    let dataset = data::open(Format::Cub, &data, &OpenConfig::default()).unwrap();
    let item = dataset.test[0].clone();
    let config = LoaderConfig {
        batch: 1,
        sizes: vec![32],
        words: 18,
        train: false,
        augment: false,
        workers: 1,
        seed: 0,
        cache_bytes: 0,
        decode: Default::default(),
    };
    let batch = EvalBatches::new(std::sync::Arc::new(vec![item.clone()]), config, 0)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let square = image_square(&item.image, item.bbox, 32, &Default::default()).unwrap();
    assert!(square.to_vec() == batch.images[0]);
    let whole = image_square(&item.image, None, 32, &Default::default()).unwrap();
    assert!(whole.to_vec() != batch.images[0]);

    let image = item.image.to_str().unwrap();
    let [x, y, w, h] = item.bbox.unwrap();
    let bbox = format!("{x},{y},{w},{h}");
    let caption = |more: &[&str]| {
        let output = succeeds(command().args(["caption", "--run", shared_run(), image]).args(more));
        (output.out, output.err.contains("the whole image is taken"))
    };
    let (boxed, noted) = caption(&["--bbox", &bbox]);
    assert!(!noted);
    assert_eq!(caption(&["--data", data.to_str().unwrap()]), (boxed.clone(), false));
    assert_eq!(caption(&[]), (boxed, false), "the run knows its data");
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("bird.jpg");
    std::fs::copy(image, &copy).unwrap();
    let copy = copy.to_str().unwrap();
    let output = succeeds(command().args(["caption", "--run", shared_run(), copy, copy]));
    assert_eq!(output.err.matches("the whole image is taken").count(), 1, "{}", output.err);
    let data = data.to_str().unwrap();
    assert_says(
        &refused(&["caption", "--run", shared_run(), copy, "--data", data]),
        &["bird.jpg: not an image of"],
    );
    assert_eq!(engine(&["caption", "--run", shared_run(), copy, "--bbox", "1,2,3"]).code, 2);
    assert_says(
        &refused(&["caption", "--run", shared_run(), copy, copy, "--bbox", "1,2,3,4"]),
        &["the box of one image"],
    );
    assert_says(&refused(&["caption", "--run", shared_run(), copy, "--bbox", "999,2,3,4"]), &["outside"]);
    let both = engine(&["caption", "--run", shared_run(), "none.jpg", image]);
    assert_eq!((both.code, both.out.lines().count()), (1, 1));
    assert_says(&both.err, &["none.jpg", "1 of 2 images could not be described"]);
}
