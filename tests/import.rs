//! Checkpoints of other programs become runs, and runs begin with the weights of others.

mod binary;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use binary::{
    TINY, assert_says, command, copy, engine, files, read, refused, run, shared_run, succeeds, training,
};
use mirrorgan_engine::engine::nn::{Archive, Array};
use mirrorgan_engine::files::atomic;

/// The shared run's networks as .pth files, and its words.
static EXPORTED: LazyLock<PathBuf> = LazyLock::new(|| {
    let out = Path::new(shared_run()).join("exported");
    succeeds(command().args(["export", "--run", shared_run(), "--out"]).arg(&out));
    std::fs::remove_file(out.join("netG_raw.pth")).unwrap();
    out
});

const ALL: [&str; 8] =
    ["netG", "text_encoder", "image_encoder", "caption_cnn", "caption_rnn", "netD0", "netD1", "netD2"];

fn exported(name: &str) -> String {
    EXPORTED.join(name).to_str().unwrap().to_string()
}

/// The arguments that import these files with the preset and the words of the shared run.
fn importing(paths: &[String], out: &Path) -> Vec<String> {
    let preset = format!("{}/config.toml", shared_run());
    let mut arguments = vec!["import".to_string()];
    arguments.extend(paths.iter().cloned());
    let options = ["--preset", &preset, "--captions", &exported("vocabulary.txt"), "--out"];
    arguments.extend(options.map(str::to_string));
    arguments.push(out.to_str().unwrap().to_string());
    arguments
}

fn import(names: &[&str], out: &Path) -> binary::Output {
    let paths: Vec<String> = names.iter().map(|name| exported(&format!("{name}.pth"))).collect();
    succeeds(command().args(importing(&paths, out)))
}

fn refusal(paths: &[String], out: &Path) -> String {
    let arguments = importing(paths, out);
    refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Goes on with a run on the shared run's birds.
fn resumed(run: &Path, phase: &str, more: &[&str]) -> binary::Output {
    let data = format!("{}/data", shared_run());
    let mut train = command();
    train.arg("train").arg("--resume").arg(run).args(["--dataset", "cub", "--data", &data, "--phase", phase]);
    succeeds(train.args(more))
}

#[test]
fn an_exported_run_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("my run");
    let output = import(&ALL, &out);
    assert_says(
        &output.out,
        &["netG          ", "caption_rnn.pth: 7 tensors", "my run is ready, of the preset "],
    );
    let record: serde_json::Value = serde_json::from_str(&read(out.join("import.json"))).unwrap();
    let of_generator = record["files"].as_array().unwrap().iter().find(|f| f["network"] == "netG").unwrap();
    assert_eq!(of_generator["file"], "netG.pth");
    assert_eq!(of_generator["bytes"], std::fs::metadata(exported("netG.pth")).unwrap().len());
    assert_eq!(of_generator["sha256"].as_str().unwrap().len(), 64);

    // It computes the same, and is exported as the same.
    let dump = |run: &str, name: &str| {
        let path = folder.path().join(name);
        let mut infer = command();
        infer
            .args(["infer", "--run", run, "a red bird", "--seed", "5", "--out"])
            .arg(folder.path().join("out"));
        succeeds(infer.arg("--dump").arg(&path));
        std::fs::read(path).unwrap()
    };
    let (ours, theirs) = (dump(out.to_str().unwrap(), "ours"), dump(shared_run(), "theirs"));
    assert!(ours == theirs);
    let again = folder.path().join("again");
    let list = succeeds(command().args(["export", "--run"]).arg(&out).arg("--out").arg(&again)).out;
    assert_says(&list, &["netG.pth  gan, imported"]);
    for name in ALL {
        let bytes = |folder: &Path| std::fs::read(folder.join(format!("{name}.pth"))).unwrap();
        assert!(bytes(&again) == bytes(&EXPORTED), "{name}");
    }
    let words =
        run(command().args(["caption", "--run"]).arg(&out).arg(folder.path().join("out/001-1-16.png")));
    assert_eq!(words.code, 0, "{}", words.err);
}

#[test]
fn an_imported_run_is_kept_or_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    import(&ALL, &out);
    let kept = resumed(&out, "all", &[]);
    assert_says(
        &kept.err,
        &["damsm: imported, kept", "captioner: imported, kept", "gan: imported, kept (--resume"],
    );
    let on = resumed(&out, "gan", &[]);
    assert_says(&on.err, &["gan: goes on from step 0", "gan 2/2"]);
    let state = read(out.join("gan/step-000002/state.json"));
    assert!(!state.contains("imported"), "{state}");
    let trained = Archive::read(out.join("gan/step-000002/netD0.safetensors")).unwrap();
    assert_ne!(
        trained.get("img_code_s16.0.weight"),
        Archive::read(exported("netD0.pth")).unwrap().get("img_code_s16.0.weight")
    );
    // What the finished GAN was trained with may not change under it.
    let refused = run(command()
        .arg("train")
        .arg("--resume")
        .arg(&out)
        .args(["--phase", "damsm", "--dataset", "cub"])
        .args(["--data", &format!("{}/data", shared_run())]));
    assert_says(&refused.err, &["the gan phase is finished and was trained with damsm at step 0"]);
}

#[test]
fn a_part_of_the_networks_is_useful() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("encoders");
    let output = import(&["text_encoder", "image_encoder"], &out);
    assert_says(&output.out, &["go on with:", "train --resume"]);
    assert_says(&resumed(&out, "gan", &["--set", "loss.lambda_captioner=0"]).err, &["gan 2/2"]);

    let out = folder.path().join("generator");
    let output = import(&["netG", "text_encoder"], &out);
    assert_says(&output.err, &["note: there is no image_encoder", "there is no netD0, netD1, netD2"]);
    succeeds(
        command().args(["infer", "a red bird", "--run"]).arg(&out).arg("--out").arg(folder.path().join("o")),
    );
    let error = run(command()
        .args(["train", "--phase", "gan", "--dataset", "cub", "--set", "loss.lambda_captioner=0", "--resume"])
        .arg(&out)
        .args(["--data", &format!("{}/data", shared_run())]));
    assert_says(
        &error.err,
        &["there is no image_encoder in this checkpoint; import it together with the others"],
    );

    let out = folder.path().join("alone");
    let output = import(&["netG"], &out);
    assert_says(&output.err, &["note: there is no text_encoder: `engine infer` needs it"]);
    assert_says(
        &run(command().args(["infer", "a red bird", "--run"]).arg(&out)).err,
        &["no checkpoint of the damsm phase"],
    );
}

/// Names as forks write them: of DataParallel, of a module around the networks, several networks in one file.
#[test]
fn prefixes_and_several_networks_in_a_file_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Archive::default();
    for (prefix, name) in
        [("model.netG.module.", "netG"), ("text_encoder.", "text_encoder"), ("netsD.0.", "netD0")]
    {
        let archive = Archive::read(exported(&format!("{name}.pth"))).unwrap();
        for key in archive.names() {
            whole.insert(format!("{prefix}{key}"), archive.get(key).unwrap().clone());
        }
    }
    whole.insert("epoch", Array::count(600));
    let file = folder.path().join("all.pth");
    whole.write_pth(&file).unwrap();
    let out = folder.path().join("run");
    let output = succeeds(command().args(importing(&[file.to_str().unwrap().into()], &out)));
    assert_says(&output.err, &["all.pth: 1 tensors are left out, such as 'epoch'"]);
    let netd = Archive::read(out.join("gan/step-000000/netD0.safetensors")).unwrap();
    assert_eq!(netd.len(), Archive::read(exported("netD0.pth")).unwrap().len());

    // As real PyTorch saves {"a": state dict, "b": state dict}.
    let several = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth/several.pth");
    let read = Archive::parse(&several, &std::fs::read(&several).unwrap()).unwrap();
    assert!(
        read.names().any(|name| name.starts_with("a.")) && read.names().any(|name| name.starts_with("b."))
    );
}

#[test]
fn files_from_before_batches_were_counted_are_completed() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = Archive::read(exported("netG.pth")).unwrap();
    let counters: Vec<String> =
        old.names().filter(|n| n.ends_with("num_batches_tracked")).map(str::to_owned).collect();
    counters.iter().for_each(|name| drop(old.take(name)));
    let file = folder.path().join("bird_AttnGAN2.pth");
    old.write_pth(&file).unwrap();
    let out = folder.path().join("run");
    succeeds(command().args(importing(&[file.to_str().unwrap().into()], &out)));
    let netg = Archive::read(out.join("gan/step-000000/netG.safetensors")).unwrap();
    assert!(!counters.is_empty() && counters.iter().all(|name| netg.get(name) == Some(&Array::count(0))));
}

#[test]
fn what_does_not_fit_is_told_at_once_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let netg = exported("netG.pth");
    let copy = folder.path().join("netG_epoch_100.pth").to_str().unwrap().to_string();
    std::fs::copy(&netg, &copy).unwrap();
    let message = refusal(&[netg.clone(), copy.clone()], &out);
    assert_says(&message, &["netG_epoch_100.pth as well as ", "holds netG; give one of them"]);

    // Of another width, and what the presets would be.
    let with = |preset: &[&str], settings: &[&str], files: &[&str]| {
        let mut import = command();
        import.arg("import").args(files).args(preset).args(["--captions", &exported("vocabulary.txt")]);
        settings.iter().for_each(|setting| drop(import.args(["--set", setting]).get_args()));
        run(import.arg("--out").arg(&out))
    };
    let wide: Vec<&str> =
        TINY.into_iter().map(|s| if s == "generator.width=2" { "generator.width=4" } else { s }).collect();
    let text = exported("text_encoder.pth");
    let wrong = with(&["--preset", "demo"], &wide, &[&netg, &text]);
    assert_eq!(wrong.code, 1);
    assert_says(
        &wrong.err,
        &[
            "--preset: demo does not fit; no preset fits all of these files",
            "of another shape:",
            "h_net1.fc.0.weight is [128, 64], wanted [256, 64]",
        ],
    );
    let fitting = with(
        &["--preset", "attndcgan-cub"],
        &[&TINY[..], &["generator.noise=32", "generator.condition=16"]].concat(),
        &[&netg, &text],
    );
    assert_says(&fitting.err, &["attndcgan-cub does not fit"]);
    let missing = with(&[], &TINY, &[&text]);
    assert_says(&missing.err, &["--preset: it is missing; these fit the files: demo, cub, "]);

    // Words of another vocabulary.
    let words = folder.path().join("words.txt");
    atomic::write(&words, b"<end>\nbird\n").unwrap();
    let mut arguments = importing(std::slice::from_ref(&text), &out);
    let at = arguments.iter().position(|a| a == "--captions").unwrap() + 1;
    arguments[at] = words.to_str().unwrap().to_string();
    let message = refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_says(&message, &["words.txt: 2 words, and ", "text_encoder.pth was trained with "]);
    arguments[at] = "nowhere.pickle".to_string();
    let message = refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_says(&message, &["nowhere.pickle: cannot be read"]);

    // No network of a run.
    let mut imagenet = Archive::default();
    imagenet.insert("fc.weight", Array::f32(&[1], vec![0.0]));
    imagenet.insert("layer1.0.conv1.weight", Array::f32(&[1], vec![0.0]));
    let file = folder.path().join("resnet152-394f9c45.pth");
    imagenet.write_pth(&file).unwrap();
    assert_says(
        &refusal(&[file.to_str().unwrap().into()], &out),
        &["ImageNet's weights of an encoder", "--set captioner.backbone.weights=FILE"],
    );
    let mut other = Archive::default();
    other.insert("conv.weight", Array::f32(&[1], vec![0.0]));
    other.write_pth(&file).unwrap();
    assert_says(
        &refusal(&[file.to_str().unwrap().into()], &out),
        &["none of the networks is in it; its first keys are conv.weight", "netG by ca_net.fc.weight"],
    );
    other.insert("ca_net.fc.weight", Array::f32(&[1], vec![f32::NAN]));
    other.write_pth(&file).unwrap();
    assert_says(&refusal(&[file.to_str().unwrap().into()], &out), &["'ca_net.fc.weight' holds NaN"]);
    assert!(!out.exists() && std::fs::read_dir(folder.path()).unwrap().count() == 3);

    // What is there stays.
    std::fs::create_dir(&out).unwrap();
    atomic::write(out.join("notes.txt"), b"mine").unwrap();
    assert_says(&refusal(&[netg, text], &out), &["there is something already; take another --out"]);
    assert_eq!(files(&out).len(), 1);
    assert!(engine(&["import", "--out", "x"]).code == 2);
}

/// The birds of the shared run, "red" called "crimson" in their captions.
fn crimson(folder: &Path) -> String {
    let data = folder.join("crimson");
    copy(&Path::new(shared_run()).join("data"), &data);
    for file in files(&data).into_keys().filter(|file| file.extension().is_some_and(|e| e == "txt")) {
        let text = read(&file);
        if file.to_str().unwrap().contains("/text/") {
            std::fs::write(file, text.replace("red", "crimson")).unwrap();
        }
    }
    data.to_str().unwrap().to_string()
}

#[test]
fn a_training_begins_with_the_weights_of_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let (out, data) = (folder.path().join("fine"), crimson(folder.path()));
    let mut train = command();
    train
        .args([
            "train",
            "--dataset",
            "cub",
            "--data",
            &data,
            "--from",
            shared_run(),
            "--phase",
            "damsm",
            "--out",
        ])
        .arg(&out);
    // A rate of 0 leaves the weights as they were taken.
    let output = succeeds(train.args(["--set", "damsm.adam.lr=0"]));
    assert_says(
        &output.err,
        &[
            "note: text_encoder: ",
            " words are known, 1 begin new, such as crimson; 1 of the earlier words do not occur",
        ],
    );
    assert!(read(out.join("config.toml")).contains("features = 8"), "the networks are those of that run");
    let weights = |run: &Path| Archive::read(run.join("damsm/step-000002/text_encoder.safetensors")).unwrap();
    let (ours, theirs) = (weights(&out), weights(Path::new(shared_run())));
    assert_eq!(ours.get("rnn.weight_ih_l0"), theirs.get("rnn.weight_ih_l0"));
    let words = |run: &Path| read(run.join("vocabulary.txt")).lines().map(str::to_string).collect::<Vec<_>>();
    let (our_words, their_words) = (words(&out), words(Path::new(shared_run())));
    let row = |archive: &Archive, id: usize| {
        archive.get("encoder.weight").unwrap().to_f32()[id * 8..][..8].to_vec()
    };
    for (id, word) in our_words.iter().enumerate() {
        match their_words.iter().position(|other| other == word) {
            Some(other) => assert_eq!(row(&ours, id), row(&theirs, other), "{word}"),
            None => assert_eq!(word, "crimson"),
        }
    }

    // The later phases begin with that run's weights too, without naming it again.
    let output =
        succeeds(command().args(["train", "--set", "gan.generator_adam.lr=0", "--resume"]).arg(&out));
    assert_says(&output.err, &["note: caption_rnn: ", "gan 2/2"]);
    let generator = |run: &Path, name: &str| {
        Archive::read(run.join(format!("gan/step-000002/{name}.safetensors"))).unwrap()
    };
    let (ours, theirs) = (generator(&out, "netG_raw"), generator(Path::new(shared_run()), "netG"));
    assert_eq!(ours.get("h_net1.fc.0.weight"), theirs.get("h_net1.fc.0.weight"));

    let mut other = training(&out);
    let error = run(other.args(["--from", out.to_str().unwrap()]));
    assert_says(&error.err, &["the run was begun with --dataset cub"]);
    let mut other = command();
    other.args(["train", "--dataset", "cub", "--data", &data, "--from"]).arg(&out).arg("--out").arg(&out);
    assert_says(&run(&mut other).err, &["the run was begun --from ", "take another --out"]);
    let missing = engine(&["train", "--dataset", "cub", "--data", &data, "--from", "nowhere", "--out", "x"]);
    assert_says(&missing.err, &["nowhere: not a run"]);
}
