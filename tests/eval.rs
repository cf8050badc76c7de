//! `engine eval`, its tables and statistics, and `engine nearest`, on a tiny run.

mod binary;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use binary::{RUN, assert_says, command, copied_run, engine, read, refused, succeeds};
use mirrorgan_engine::data::Picture;
use mirrorgan_engine::eval::{Features, Moments, Statistics};
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

/// An evaluation of `images` pictures, one at a time, that writes to `file`.
fn one_at_a_time(run: &str, images: &str, file: &Path) -> Command {
    let mut command = command();
    let wanted =
        ["--protocol", "encoder", "--metrics", "fid,kid,diversity", "--images", images, "--batch", "1"];
    command.args(["eval", "--run", run]).args(wanted).arg("--json").arg(file);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The files of a kind that interrupted evaluations of a run keep.
fn kept(run: &str, kind: &str) -> usize {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let partial = entries(&Path::new(run).join("eval")).flat_map(|entry| entries(&entry.path()));
    partial.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count()
}

/// Interrupts an evaluation once it has the real side and generates.
fn interrupted(mut child: Child, run: &str) -> Option<i32> {
    let begin = Instant::now();
    while kept(run, "real-") == 0 && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    child.wait().unwrap().code()
}

#[test]
#[cfg(unix)]
fn an_interrupted_evaluation_goes_on_to_the_same_digits() {
    let (_folder, run) = copied_run();
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole.json"), folder.path().join("parts.json"));
    // So many take seconds, and the signal comes within milliseconds.
    let images = "3000";
    assert!(one_at_a_time(&run, images, &whole).status().unwrap().success());
    let mut command = binary::hearing(&one_at_a_time(&run, images, &parts), "");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(interrupted(child, &run), Some(130));
    assert!(!parts.exists() && kept(&run, "generated-") == 1);
    let output = one_at_a_time(&run, images, &parts).stderr(Stdio::piped()).output().unwrap();
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
    assert_says(&notes, &["evaluation goes on after", "of 3000 generated pictures"]);
    assert_eq!(read(&whole), read(&parts));
    assert_eq!(kept(&run, ""), 0);
}

/// The pictures of a data set, each shrunk to a part of its sides and enlarged again, as PNG files.
fn through(sides: usize, data: &Path, to: &Path) -> PathBuf {
    let folder = to.join(format!("through-{sides}"));
    std::fs::create_dir(&folder).unwrap();
    let list = read(data.join("CUB_200_2011/images.txt"));
    for (number, line) in list.lines().enumerate() {
        let name = line.split_whitespace().nth(1).unwrap();
        let image = image::open(data.join("CUB_200_2011/images").join(name)).unwrap().to_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let picture = Picture { width, height, pixels: image.into_raw() };
        let small = picture.resized(width / sides, height / sides).resized(width, height);
        let (width, height) = (width as u32, height as u32);
        image::save_buffer(
            folder.join(format!("{number}.png")),
            &small.pixels,
            width,
            height,
            image::ColorType::Rgb8,
        )
        .unwrap();
    }
    folder
}

#[test]
fn real_pictures_are_at_no_distance_from_themselves_and_farther_the_fewer_pixels_they_have() {
    let folder = tempfile::tempdir().unwrap();
    let data = RUN.join("data");
    let run = RUN.to_str().unwrap();
    let folders = [1, 2, 4, 8].map(|sides| through(sides, &data, folder.path()));
    let stats = folder.path().join("real.npz");
    let of_stats = ["eval", "stats", "--pictures", "--protocol", "encoder", "--run", run, "--out"];
    succeeds(command().args(of_stats).arg(&stats).arg(&folders[0]));
    let measure = |pictures: &Path, real: &Path, metrics: &str| -> Value {
        let json = folder.path().join("result.json");
        let mut pictures_of = command();
        pictures_of.args(["eval", "pictures", "--protocol", "encoder", "--run", run, "--metrics", metrics]);
        pictures_of.args(if real.is_dir() { &["--pictures"][..] } else { &[] });
        let said = succeeds(pictures_of.arg(pictures).arg("--real").arg(real).arg("--json").arg(&json)).out;
        assert_says(&said, &["of a folder, as they are", pictures.to_str().unwrap()]);
        serde_json::from_str(&read(&json)).unwrap()
    };
    let distances = |name: &str| -> Vec<f64> {
        folders.iter().map(|other| figure(&measure(other, &folders[0], "fid,kid"), name)).collect()
    };
    for name in ["fd-small", "kd-small"] {
        let distances = distances(name);
        assert!(distances.windows(2).all(|pair| pair[0] < pair[1]), "{name}: {distances:?}");
        if name == "fd-small" {
            assert!(distances[0].abs() < 1e-9, "{distances:?}");
            let of_stats = figure(&measure(&folders[3], &stats, "fid"), name);
            assert!((of_stats / distances[3] - 1.0).abs() < 1e-9, "{of_stats} beside {distances:?}");
        }
    }
    let asked = ["eval", "pictures", folders[1].to_str().unwrap(), "--protocol", "encoder", "--real"];
    let without_run = [&asked[..], &[folders[0].to_str().unwrap()]].concat();
    assert_says(&refused(&without_run), &["name the run with --run"]);
    let of_captions = [&without_run[..], &["--run", run, "--metrics", "r-precision"]].concat();
    assert_says(&refused(&of_captions), &["--metrics r-precision", "needs captions", "have none"]);
}

#[test]
fn pictures_of_any_size_have_statistics_and_too_few_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    let (path, out) = (pictures.to_str().unwrap(), folder.path().join("real.npz"));
    let stats = [
        "eval",
        "stats",
        "--pictures",
        "--protocol",
        "encoder",
        "--run",
        RUN.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
        path,
    ];
    assert_says(&refused(&stats), &[path, "no picture in this folder", "JPEG, PNG and WebP"]);
    image::RgbImage::from_pixel(1, 1, image::Rgb([9, 80, 9])).save(pictures.join("dot.png")).unwrap();
    assert_says(&refused(&stats), &[path, "1 picture that can be used", "2 at least"]);
    assert!(!out.exists());
    image::RgbImage::from_pixel(300, 20, image::Rgb([200, 30, 30])).save(pictures.join("wide.png")).unwrap();
    image::GrayImage::from_pixel(37, 91, image::Luma([99])).save(pictures.join("tall.png")).unwrap();
    std::fs::write(pictures.join("none.png"), "no picture").unwrap();
    let output = engine(&stats);
    assert_eq!(output.code, 0, "{}", output.err);
    assert_says(&output.out, &["real.npz", "of 3 pictures"]);
    assert_says(&output.err, &["left out", "none.png"]);
    let lonely = folder.path().join("lonely");
    std::fs::create_dir(&lonely).unwrap();
    std::fs::copy(pictures.join("wide.png"), lonely.join("wide.png")).unwrap();
    let lonely = lonely.to_str().unwrap();
    let measure = ["eval", "pictures", "--pictures", "--protocol", "encoder", "--run", RUN.to_str().unwrap()];
    let of_real = [&measure[..], &[path, "--real", lonely]].concat();
    assert_says(&refused(&of_real), &[lonely, "1 real picture that can be used"]);
    let of_generated = [&measure[..], &[lonely, "--real", path]].concat();
    assert_says(&refused(&of_generated), &[lonely, "1 generated picture that can be used"]);
    let one = ["eval", "--protocol", "encoder", "--images", "1", "--run", RUN.to_str().unwrap()];
    assert_says(&refused(&one), &["--images", "1 is too few", "2 at least"]);
}

#[test]
fn statistics_of_other_dimensions_and_of_no_numbers_are_refused() {
    let run = RUN.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("real.npz");
    let moments = |width: i32| {
        let row = |i: i32| (0..width).map(|j| ((i * 7 + j * 3) % 11) as f32).collect::<Vec<f32>>();
        let rows: Vec<Vec<f32>> = (0..20).map(row).collect();
        Moments::of(&Features::of_rows(width as usize, rows.iter().map(|row| &row[..])).unwrap()).unwrap()
    };
    let why = |moments: Moments| {
        Statistics { moments, protocol: None }.write(&file).unwrap();
        let real = ["--metrics", "fid", "--real", file.to_str().unwrap()];
        refused(&[&["eval"], &OF_ENCODER[..], &[run], &real].concat())
    };
    assert_says(
        &why(moments(3)),
        &["real.npz", "mu has the shape [3] where [8] is needed", "another network"],
    );
    let mut none = moments(8);
    none.mean[1] = f64::NAN;
    assert_says(&why(none), &["real.npz", "mu holds NaN at place 1"]);
}

#[test]
fn a_split_of_one_class_has_no_r_precision() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("pictures");
    let mut lists = [String::new(), String::new()];
    for i in 0..40u8 {
        // Robins are held out, all but a few.
        let name = format!("{}/{i}", if i % 2 == 0 { "robin" } else { "jay" });
        let picture =
            image::RgbImage::from_fn(20, 20, |x, y| image::Rgb([i * 6, (x * 9) as u8, (y * 9) as u8]));
        std::fs::create_dir_all(data.join(&name).parent().unwrap()).unwrap();
        picture.save(data.join(format!("{name}.png"))).unwrap();
        std::fs::write(data.join(format!("{name}.txt")), format!("a red bird number {}\n", i % 7)).unwrap();
        lists[usize::from(i % 2 == 0 && i > 8)] += &format!("{name}.png\n");
    }
    std::fs::write(data.join("train.txt"), &lists[0]).unwrap();
    std::fs::write(data.join("test.txt"), &lists[1]).unwrap();
    let out = folder.path().join("run");
    let mut train = command();
    train.args(["train", "--dataset", "folder", "--preset", "demo", "--set", "data.classes=folders"]);
    for setting in binary::TINY {
        train.args(["--set", setting]);
    }
    train.args(["--set", "eval.candidates=3", "--data"]).arg(&data).arg("--out").arg(&out);
    succeeds(&mut train);
    let out = out.to_str().unwrap();
    let asked = ["eval", "--protocol", "encoder", "--metrics", "r-precision", "--run", out];
    assert_says(&refused(&asked), &["r-precision", "of one class", "several classes"]);
    let all = engine(&["eval", "--protocol", "encoder", "--run", out]);
    assert_eq!(all.code, 0, "{}", all.err);
    assert_says(&all.err, &["r-precision", "of one class"]);
    assert!(!all.out.contains("\nr-precision"), "{}", all.out);
}
