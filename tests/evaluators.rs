//! Networks that evaluate pictures, against the code of those who published them: inputs to the bit, features and logits on
//! weights by formula.

#[allow(dead_code, clippy::excessive_precision)]
mod formula;

use std::path::{Path, PathBuf};

use mirrorgan_engine::data::Picture;
use mirrorgan_engine::engine::nn::{Archive, Array, Source, Store};
use mirrorgan_engine::engine::ops::shape::transpose;
use mirrorgan_engine::engine::tensor::{Tensor, no_grad};
use mirrorgan_engine::eval::protocol::ProtocolName;
use mirrorgan_engine::eval::{
    Features, Moments, Subsets, frechet_distance, inception_score, kernel_distance, precision_recall,
};
use mirrorgan_engine::infer::evaluator::{Evaluator, PublishedWeights, Recipe, find_weights};
use mirrorgan_engine::mirrorgan::backbone::{Classifier, ClassifierKind};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn golden(name: &str) -> PathBuf {
    // The tests also run on machines where they were not built: tools/gpu takes the files along.
    let tests = std::env::var("ENGINE_TESTS");
    let tests = tests.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests").to_string());
    Path::new(&tests).join("golden").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn whole(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

// ------------------------------------------------------------------------------------------- what is done to pictures

/// The pictures of `tools/reference/make_resizes.py`.
fn picture(kind: &str, width: usize, height: usize) -> Picture {
    let bytes = |count: usize| {
        let values = formula::uniform01(&format!("picture{width}x{height}"), count);
        values.into_iter().map(|u| (u * 256.0) as u8).collect::<Vec<_>>()
    };
    let pixels = match kind {
        "noise" => bytes(width * height * 3),
        "gray" => bytes(width * height).into_iter().flat_map(|value| [value; 3]).collect(),
        "black" => vec![0; width * height * 3],
        "white" => vec![255; width * height * 3],
        _ => {
            let at = (0..width * height).map(|i| (i % width + i / width) % 2 * 255);
            at.flat_map(|value| [value as u8; 3]).collect()
        }
    };
    Picture { width, height, pixels }
}

fn recipe(protocol: &str) -> Recipe {
    ProtocolName::parse(protocol).unwrap().protocol().recipe
}

#[test]
fn inputs_are_those_of_the_reference_code() {
    let rows = json("resizes.json");
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 44);
    let mut to_the_bit = 0;
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap();
        let (width, height) = (whole(&row["width"]), whole(&row["height"]));
        let what = format!("{} of {width}×{height} by {}", text("picture"), text("protocol"));
        let input = recipe(text("protocol")).input(&[picture(text("picture"), width, height)], 299);
        assert_eq!(input.dims(), [1, 299, 299, 3]);
        let input = input.to_vec();
        for (at, value) in floats(&row["at"]).into_iter().zip(floats(&row["values"])) {
            let ours = f64::from(input[at as usize]);
            assert!((ours - value).abs() <= 1e-6, "{what}: {ours}, wanted {value}");
        }
        if let Some(hash) = row["sha256"].as_str() {
            let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(format!("{:x}", Sha256::digest(bytes)), hash, "{what} differs in some bit");
            to_the_bit += 1;
        }
    }
    assert_eq!(to_the_bit, 33);
}

// ----------------------------------------------------------------------------------------------- features and logits

const INCEPTION_2015: &str = "classifier_inception_2015";

fn classifier(name: &'static str, kind: ClassifierKind) -> (Classifier, Store) {
    let fill = move |key: &str, shape: &[usize]| formula::fill(name, key, shape);
    Store::build(Source::Fill(Box::new(fill)), |scope| Classifier::new(scope, kind)).unwrap()
}

/// ‖a − b‖ / ‖b‖
fn distance(ours: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(ours.len(), exact.len());
    let apart: f64 = ours.iter().zip(exact).map(|(&a, &b)| (f64::from(a) - b).powi(2)).sum();
    (apart / exact.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

#[test]
fn classifiers_compute_what_was_published() {
    for (name, kind, side) in [
        ("classifier_inception_v3", ClassifierKind::InceptionV3, 299),
        (INCEPTION_2015, ClassifierKind::Inception2015, 299),
        ("classifier_lite0", ClassifierKind::EfficientnetLite0, 224),
    ] {
        let shape = [2, 3, side, side];
        let image = Tensor::from_vec(formula::tensor(&format!("image{side}"), &shape), shape);
        let (classifier, _) = classifier(name, kind);
        let seen = no_grad(|| classifier.forward(&transpose(&image, &[0, 2, 3, 1])));
        let mut archive = Archive::read(golden(&format!("{name}.safetensors"))).unwrap();
        for (tensor, ours) in
            [("pooled", &seen.pooled), ("logits", &seen.logits), ("logits_unbiased", &seen.logits_unbiased)]
        {
            let exact = archive.take(tensor).unwrap();
            assert_eq!(exact.shape, ours.shape().to_vec(), "{name}: {tensor}");
            let exact: Vec<f64> = exact.to_f32().into_iter().map(f64::from).collect();
            let error = distance(&ours.to_vec(), &exact);
            println!("{name}: {tensor}: {error:.1e}");
            assert!(error <= 1e-4, "{name}: {tensor}: relative error {error:.1e}");
        }
        assert!(archive.is_empty(), "{name} holds more than was compared");
        assert_eq!([seen.pooled.dims(), seen.logits.dims()], [[2, kind.width()], [2, kind.classes()]]);
    }
}

/// The pictures of tools/eval_check.
fn rendered(name: &str) -> Picture {
    let u: Vec<usize> = formula::uniform01(name, 15).into_iter().map(|v| (v * 65536.0) as usize).collect();
    let (width, height) = (40 + u[0] % 120, 40 + u[1] % 120);
    let color = |at: usize| [u[at], u[at + 1], u[at + 2]].map(|v| (v % 256) as u8);
    let (period, slope) = (4 + u[11] % 20, u[12] % 5);
    let (cx, cy, radius) = (u[13] % width, u[14] % height, 8 + u[13] % 30);
    let pixel = |i: usize| {
        let (x, y) = (i % width, i / width);
        match x.abs_diff(cx).pow(2) + y.abs_diff(cy).pow(2) < radius * radius {
            true => color(8),
            false if (x + slope * y) / period % 2 == 0 => color(2),
            false => color(5),
        }
    };
    Picture { width, height, pixels: (0..width * height).flat_map(pixel).collect() }
}

/// A file of weights by formula, in an evaluator that is opened with it as people do.
fn by_formula(folder: &Path, protocol: &str, name: &'static str, kind: ClassifierKind) -> Evaluator {
    let file = folder.join("inception.pth");
    classifier(name, kind).1.archive().write_pth(&file).unwrap();
    Evaluator::open(&recipe(protocol), Some(&file)).unwrap()
}

/// Features and logits of a picture.
type Seen = (Vec<f32>, Vec<f32>);

fn seen_by(evaluator: &Evaluator, pictures: &[Picture]) -> Vec<Seen> {
    let batch = |batch: &[Picture]| {
        let seen = evaluator.evaluate(batch).unwrap();
        let logits = seen.logits.unwrap().unbiased;
        assert_eq!((seen.features.width, logits.width), (2048, 1008));
        let rows = seen.features.iter().zip(logits.iter());
        rows.map(|(features, logits)| (features.to_vec(), logits.to_vec())).collect::<Vec<Seen>>()
    };
    pictures.chunks(7).flat_map(batch).collect()
}

#[test]
fn pictures_are_evaluated_as_by_torch_fidelity() {
    let recorded = json("torch_fidelity.json");
    let folder = tempfile::tempdir().unwrap();
    let evaluator =
        by_formula(folder.path(), "torch-fidelity", INCEPTION_2015, ClassifierKind::Inception2015);
    let rows = recorded["pictures"].as_array().unwrap();
    assert_eq!(rows.len(), 48);
    let pictures: Vec<Picture> = rows.iter().map(|row| rendered(row["name"].as_str().unwrap())).collect();
    let evaluated = seen_by(&evaluator, &pictures);
    for ((row, picture), (features, logits)) in rows.iter().zip(&pictures).zip(&evaluated) {
        assert_eq!(floats(&row["size"]), [picture.width as f64, picture.height as f64]);
        let mean = features.iter().map(|&x| f64::from(x)).sum::<f64>() / 2048.0;
        let norm = features.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        for (ours, key) in [(mean, "mean"), (norm, "norm")] {
            let exact = row[key].as_f64().unwrap();
            assert!((ours / exact - 1.0).abs() < 2e-5, "{}: {key}: {ours}, wanted {exact}", row["name"]);
        }
        for (ours, step, key) in [(features, 2048 / 6, "features"), (logits, 1008 / 6, "logits_unbiased")] {
            let shown: Vec<f32> = ours.iter().step_by(step).take(6).copied().collect();
            let error = distance(&shown, &floats(&row[key]));
            assert!(error < 1e-4, "{}: {key}: relative error {error:.1e}", row["name"]);
        }
    }
    // A picture's features do not depend on its batch.
    let alone = seen_by(&evaluator, &pictures[9..10]);
    assert!(alone[0] == evaluated[9], "what is seen depends on the batch");

    let (real, fake) = evaluated.split_at(24);
    compare_figures(&recorded["figures"], real, fake);
}

/// From pictures to figures: the whole of two programs, whose features differ by rounding in f32.
fn compare_figures(recorded: &Value, real: &[Seen], fake: &[Seen]) {
    let features = |side: &[Seen]| Features::of_rows(2048, side.iter().map(|(features, _)| &features[..]));
    let logits = Features::of_rows(1008, fake.iter().map(|(_, logits)| &logits[..])).unwrap();
    let (real, fake) = (features(real).unwrap(), features(fake).unwrap());
    let moments = [&fake, &real].map(|side| Moments::of(side).unwrap());
    let score = inception_score(&logits, 4, None).unwrap();
    let neighbors = precision_recall(&fake, &real, 3).unwrap();
    for (ours, name, tolerance) in [
        (frechet_distance(&moments[0], &moments[1]).unwrap().value, "frechet_inception_distance", 1e-5),
        (kernel_distance(&fake, &real, Subsets::All).unwrap().value, "kernel_inception_distance_mean", 1e-5),
        (score.value, "inception_score_mean", 1e-6),
        (score.deviation, "inception_score_std", 1e-5),
        (neighbors.precision, "precision", 1e-7),
        (neighbors.recall, "recall", 1e-7),
        (neighbors.f_score, "f_score", 1e-7),
    ] {
        let theirs = recorded[name].as_f64().unwrap();
        let error = (ours / theirs - 1.0).abs();
        println!("{name}: {ours}, recorded {theirs}: {error:.1e}");
        assert!(error < tolerance, "{name}: {ours}, torch-fidelity's is {theirs}: {error:.1e}");
    }
}

/// Pictures are nearest to themselves, and the farther the fewer pixels they went through.
#[test]
fn distances_rise_with_what_pictures_lose() {
    let folder = tempfile::tempdir().unwrap();
    let evaluator = by_formula(folder.path(), "lite0", "classifier_lite0", ClassifierKind::EfficientnetLite0);
    let pictures: Vec<Picture> = (0..10).map(|i| rendered(&format!("real{i}"))).collect();
    let through = |parts: usize| {
        let reduced = |picture: &Picture| {
            let small = picture.resized(picture.width / parts, picture.height / parts);
            small.resized(picture.width, picture.height)
        };
        let seen = evaluator.evaluate(&pictures.iter().map(reduced).collect::<Vec<_>>()).unwrap().features;
        Features::of_rows(seen.width, seen.iter()).unwrap()
    };
    let all = [1, 2, 4, 8].map(through);
    let moments = all.each_ref().map(|set| Moments::of(set).unwrap());
    let fd = moments.each_ref().map(|set| frechet_distance(&moments[0], set).unwrap().value);
    let kd = all.each_ref().map(|set| kernel_distance(&all[0], set, Subsets::All).unwrap().value);
    println!("{fd:?} {kd:?}");
    assert!(fd[0].abs() < 1e-9 * fd[1], "{fd:?}");
    // The estimate has no bias, so that it is below 0 for a set and itself.
    assert!(kd[0] <= 0.0, "{kd:?}");
    for distances in [fd, kd] {
        assert!(distances.windows(2).all(|pair| pair[0] < pair[1]), "{distances:?}");
    }
}

// ------------------------------------------------------------------------------------------------------ wrong weights

fn refusal(recipe: &Recipe, file: Option<&Path>) -> String {
    match Evaluator::open(recipe, file) {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string(),
    }
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

#[test]
fn weights_of_another_network_are_called_by_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.pth");
    let save = |archive: &Archive| archive.write_pth(&file).unwrap();
    let (t2i, ported, lite0) = (recipe("t2i"), recipe("torch-fidelity"), recipe("lite0"));
    let mut torchvisions = classifier("x", ClassifierKind::InceptionV3).1.archive();
    torchvisions.insert("AuxLogits.fc.weight", Array::f32(&[1000, 1], vec![0.5; 1000]));
    save(&torchvisions);
    let wanted = "the Inception-v3 of 2015 as ported from TensorFlow (1,008 outputs)";
    says(&refusal(&ported, Some(&file)), &["some.pth", "torchvision's Inception-v3 (1,000 classes)", wanted]);
    // Its second head is left out, and the SHA-256 is told.
    let opened = Evaluator::open(&t2i, Some(&file)).unwrap();
    assert!(!opened.weights().is_published);
    let warning = opened.weights().warning(t2i.weights.as_ref().unwrap()).unwrap();
    says(
        &warning,
        &[
            "some.pth is not the file",
            "wanted 0cc3c7bd or 1a9a5a14",
            opened.weights().sha256.as_deref().unwrap(),
        ],
    );
    says(&opened.weights().to_string(), &["NOT the protocol's file"]);

    let of_2015 = classifier("x", ClassifierKind::Inception2015).1.archive();
    save(&of_2015);
    says(&refusal(&t2i, Some(&file)), &["it holds the Inception-v3 of 2015", "wanted: torchvision's"]);
    says(&refusal(&lite0, Some(&file)), &["it holds the Inception-v3 of 2015", "wanted: EfficientNet-Lite0"]);
    save(&classifier("x", ClassifierKind::EfficientnetLite0).1.archive());
    says(&refusal(&t2i, Some(&file)), &["it holds EfficientNet-Lite0", "wanted: torchvision's"]);

    let mut birds = of_2015;
    birds.insert("fc.weight", Array::f32(&[51, 2], vec![0.5; 102]));
    save(&birds);
    says(&refusal(&ported, Some(&file)), &["an Inception-v3 of 51 classes", wanted]);
    let _ = birds.take("fc.weight");
    save(&birds);
    says(&refusal(&ported, Some(&file)), &["an Inception-v3 without its head 'fc'"]);
    for (key, what) in [
        ("emb_features.weight", "the image encoder of a DAMSM"),
        ("layer1.0.conv1.weight", "a ResNet"),
        ("_conv_stem.weight", "another EfficientNet"),
        ("my.weight", "not known (its first keys: my.weight)"),
    ] {
        let mut archive = Archive::default();
        archive.insert(key, Array::f32(&[2], vec![1.0; 2]));
        save(&archive);
        says(&refusal(&ported, Some(&file)), &[what, wanted]);
    }
}

#[test]
fn weights_that_are_missing_are_told_with_their_origin() {
    let ported = recipe("clean");
    let missing = refusal(&ported, Some(Path::new("nowhere/x.pth")));
    says(
        &missing,
        &["nowhere/x.pth: there is no such file", "pt_inception-2015-12-05-6726825d.pth", "download it"],
    );
    let nobody = PublishedWeights { names: vec!["nobodys.pth".into()], ..ported.weights.unwrap() };
    let message = find_weights(&nobody).unwrap_err().to_string();
    says(
        &message,
        &["nobodys.pth: not found", "Looked for in", "weights and ", "hub/checkpoints", "ENGINE_WEIGHTS"],
    );
    says(&refusal(&recipe("encoder"), None), &["the run's own encoder"]);
}

#[test]
fn pictures_without_pixels_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let evaluator = by_formula(folder.path(), "lite0", "classifier_lite0", ClassifierKind::EfficientnetLite0);
    let good = picture("noise", 17, 31);
    let none = Picture { width: 0, height: 5, pixels: vec![] };
    let short = Picture { width: 2, height: 2, pixels: vec![0; 11] };
    for bad in [none, short] {
        let message = evaluator.evaluate(&[good.clone(), bad]).unwrap_err().to_string();
        says(&message, &["picture 2 of the batch", "pixels"]);
    }
    assert!(evaluator.evaluate(&[]).is_err());
    let seen = evaluator.evaluate(&[good.clone(), picture("white", 13, 8), good]).unwrap();
    let rows: Vec<&[f32]> = seen.features.iter().collect();
    assert!(rows.len() == 3 && rows[0] == rows[2] && rows[0] != rows[1]);
}
