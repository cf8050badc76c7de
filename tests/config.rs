//! Presets are complete, and a setting that cannot be meant says what could be.

use std::path::Path;

use mirrorgan_engine::config::{Config, PRESETS, Preset, Schedule, help};
use mirrorgan_engine::data::OpenConfig;
use mirrorgan_engine::engine::nn::CellKind;
use mirrorgan_engine::engine::tensor::Precision;
use mirrorgan_engine::mirrorgan::backbone::BackboneKind;
use mirrorgan_engine::run::Phase;

fn error(preset: &str, settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    Config::load(preset, &settings).unwrap_err().to_string()
}

#[test]
fn every_preset_loads_and_comes_back_the_same() {
    for Preset { name, .. } in PRESETS.iter() {
        let config = Config::load(name, &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, config.to_toml()).unwrap();
        assert_eq!(Config::read(&path).unwrap(), config, "{name}");
    }
}

#[test]
fn the_presets_say_what_the_papers_say() {
    let cub = Config::load("cub", &[]).unwrap();
    assert_eq!(cub.generator.image_sides(), [64, 128, 256]);
    let widths = (cub.generator.width, cub.discriminator.width);
    assert_eq!(
        (widths, cub.gan.schedule),
        ((32, 64), Schedule { batch: 12, epochs: Some(650), steps: None })
    );
    let attngan = Config::load("attngan-coco", &[]).unwrap();
    let generator = attngan.generator;
    assert_eq!((generator.width, generator.residual_blocks, attngan.loss.lambda_damsm), (48, 3, 50.0));
    assert_eq!(Config::load("attndcgan-cub", &[]).unwrap().generator.image_sides(), [256]);
}

#[test]
fn a_setting_takes_the_type_of_what_it_replaces() {
    let settings = [
        "gan.schedule.batch=4",
        "damsm.adam.lr=1",
        "text_encoder.cell=gru",
        "captioner.imagenet_normalization=false",
    ];
    let config = Config::load("demo", &settings.map(String::from)).unwrap();
    let (batch, lr) = (config.gan.schedule.batch, config.damsm.adam.lr);
    assert_eq!((batch, lr, config.text_encoder.cell), (4, 1.0, CellKind::Gru));
    assert!(!config.captioner.network.imagenet_normalization);
}

#[test]
fn an_unknown_key_names_near_ones() {
    let message = error("demo", &["gan.schedule.bacth=4"]);
    assert!(message.contains("gan.schedule.bacth") && message.contains("gan.schedule.batch"), "{message}");
    let message = error("demo", &["lambda_captioner=4"]);
    assert!(message.contains("loss.lambda_captioner"), "{message}");
}

#[test]
fn a_wrong_type_or_range_is_named() {
    assert!(error("demo", &["gan.schedule.batch=many"]).contains("'many' is not a whole number"));
    assert!(error("demo", &["gan.schedule.batch=-3"]).contains("'-3' is not a whole number"));
    assert!(
        error("demo", &["captioner.schedule.steps=0"]).contains(
            "captioner.schedule.steps: '0' is not a whole number, 1 or more, or none; it is 800 now"
        )
    );
    assert!(error("demo", &["gan.schedule.batch=1"]).contains("gan.schedule.batch: 1 is too small"));
    assert!(error("demo", &["text_encoder.cell=transformer"]).contains("transformer"));
    assert!(error("demo", &["gan.schedule.batch"]).contains("key=value"));
}

#[test]
fn an_unknown_preset_lists_those_there_are() {
    let message = error("cbu", &[]);
    assert!(message.contains("'cbu'. There are demo, cub,"), "{message}");
    let alike = error("dmeo", &[]);
    assert!(alike.contains("; did you mean 'demo'? There are demo, cub,"), "{alike}");
    assert!(message.contains("no preset 'cbu'") && message.contains("attngan-cub"), "{message}");
    assert!(error("no/such/file.toml", &[]).contains("no/such/file.toml"));
}

#[test]
fn a_file_with_a_key_too_many_or_too_few_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let demo = &PRESETS[0].text;
    std::fs::write(&path, demo.replace("average_decay", "avrage_decay = 0.9\naverage_decay")).unwrap();
    assert!(error(path.to_str().unwrap(), &[]).contains("gan.avrage_decay"));
    let without: Vec<&str> = demo.lines().filter(|line| !line.starts_with("lambda_damsm")).collect();
    std::fs::write(&path, without.join("\n")).unwrap();
    assert!(error(path.to_str().unwrap(), &[]).contains("missing: loss.lambda_damsm"));
}

/// Key by key, what version 0.1.0 wrote is what the preset with the same settings is now.
#[test]
fn configurations_of_version_0_1_0_are_read() {
    let read = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old");
        Config::read(&folder.join(name)).unwrap()
    };
    let load = |preset: &str, settings: &[&str]| {
        let steps = if preset == "demo" { 40 } else { 3 };
        let steps = Phase::ALL.map(|phase| format!("{}.schedule.steps={steps}", phase.name()));
        let settings = settings.iter().map(|s| s.to_string());
        Config::load(preset, &settings.chain(steps).collect::<Vec<_>>()).unwrap()
    };
    // The demo has learned since.
    let demo = load("demo", &["run.seed=3", "gan.lr_tail=0.0", "loss.lambda_kl=1.0"]);
    assert_eq!(read("demo.toml").differences(&demo), []);
    let small = ["damsm.backbone.kind=small", "captioner.backbone.kind=small", "eval.images=8", "run.seed=3"];
    let cub = load("cub", &small);
    assert_eq!(read("cub.toml").differences(&cub), []);

    let text = include_str!("old/cub.toml");
    let published = text.replacen("encoder = \"small\"", "encoder = \"inception\"", 1);
    let one_head = published.replace("single_head = false", "single_head = true");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, one_head.replace("precision = \"f32\"\n", "")).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(config.damsm.backbone.kind, BackboneKind::InceptionV3);
    assert!(config.generator.single_head && !config.discriminator.unconditional);
    assert_eq!(config.run.precision, Precision::F32);
    std::fs::write(&path, text.replace("[stem]", "[stem]\nfoo = 1")).unwrap();
    assert!(Config::read(&path).unwrap_err().to_string().contains("stem.foo"));
}

/// What version 0.3.0 wrote has no word on how a data set is opened: it was opened as the defaults say.
#[test]
fn configurations_without_the_keys_of_data_sets_are_read() {
    let config = Config::load("demo", &[]).unwrap();
    let new = ["tokenizer = ", "min_count = ", "test_ratio = ", "split_seed = ", "classes = "];
    let text = config.to_toml();
    let kept: Vec<&str> = text.lines().filter(|line| !new.iter().any(|key| line.starts_with(key))).collect();
    assert_eq!(text.lines().count() - kept.len(), new.len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, kept.join("\n")).unwrap();
    let read = Config::read(&path).unwrap();
    assert_eq!((read.differences(&config), read.data.open), (vec![], OpenConfig::default()));
    let message = error("demo", &["data.tokenizer=bpe"]);
    assert!(message.contains("data.tokenizer: ") && message.contains("attngan (ASCII words"), "{message}");
    assert!(error("demo", &["data.test_ratio=1"]).contains("data.test_ratio: 1.0 is too large"));
    assert!(error("demo", &["data.classes=some"]).contains("data.classes: "));
}

#[test]
fn an_old_key_names_the_new_one() {
    assert!(error("demo", &["gan.gf=16"]).contains("gan.gf: this key is generator.width now"));
    let message = error("demo", &["train.beta1=0.5"]);
    assert!(message.contains("gan.generator_adam.beta1 and gan.discriminator_adam.beta1 now"), "{message}");
}

#[test]
fn a_wrong_value_shows_the_help_of_its_key() {
    let comment = help("text_encoder.cell").unwrap();
    assert_eq!(comment, "lstm | gru");
    let message = error("demo", &["text_encoder.cell=transformer"]);
    assert!(message.contains("text_encoder.cell: ") && message.contains(comment), "{message}");
    let message = error("demo", &["loss.lambda_damsm=much"]);
    assert!(
        message.contains("'much' is not a number; it is 4.0 now (weight of the DAMSM loss)"),
        "{message}"
    );
}

#[test]
fn none_is_a_limit_that_is_not_there() {
    let config =
        Config::load("demo", &["gan.schedule.steps=none".into(), "gan.schedule.epochs=3".into()]).unwrap();
    assert_eq!(config.gan.schedule.last_step(163), 3 * (163 / 16));
    let both = Config::load("demo", &["gan.schedule.epochs=3".into()]).unwrap();
    assert_eq!((both.gan.schedule.last_step(163), both.gan.schedule.last_step(100_000)), (30, 1300));
    assert!(
        error("demo", &["gan.schedule.steps=none"]).contains("gan.schedule.steps: steps and epochs are both")
    );
}

#[test]
fn files_that_are_no_configuration_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let with = |bytes: &[u8]| {
        let path = folder.path().join("config.toml");
        std::fs::write(&path, bytes).unwrap();
        let message = Config::read(&path).unwrap_err().to_string();
        assert!(message.contains("config.toml"), "{message}");
        message
    };
    assert!(with(b"").contains("an empty file"));
    assert!(with(b"PK\x03\x04\0\0archive/data.pkl").contains("a PyTorch file, not a configuration"));
    assert!(with(b"[run]\nseed = \xff").contains("not UTF-8"));
    assert!(with(b"[run]\nseed = 0\nsee d = 1\n").contains("config.toml:3"));
    assert!(with(b"seed = 0\n").contains("'seed' stands outside of the sections"));
    assert!(with(b"run = 3\n").contains("'run' stands outside"));
}

#[test]
fn a_value_of_another_type_is_named_with_its_key() {
    let message = error("demo", &["damsm.backbone.widths=[1, [2]]"]);
    assert!(message.contains("damsm.backbone.widths: "), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let text = PRESETS[0].text.replace("words_train = ", "words_train = \"many\" # ");
    std::fs::write(&path, text).unwrap();
    let message = Config::load(path.to_str().unwrap(), &[]).unwrap_err().to_string();
    assert!(message.contains("mine.toml: data.words_train: "), "{message}");
}
