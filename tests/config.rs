//! Presets are complete, and a setting that cannot be meant says what could be.

use mirrorgan_engine::config::{Config, PRESETS};
use mirrorgan_engine::engine::nn::CellKind;

fn error(preset: &str, settings: &[&str]) -> String {
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    Config::load(preset, &settings).unwrap_err().to_string()
}

#[test]
fn every_preset_loads_and_comes_back_the_same() {
    for (name, _) in PRESETS {
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
    assert_eq!(cub.gan.sizes(), [64, 128, 256]);
    assert_eq!((cub.gan.gf, cub.gan.df, cub.train.batch, cub.train.epochs), (32, 64, 12, 650));
    let attngan = Config::load("attngan-coco", &[]).unwrap();
    assert_eq!((attngan.gan.gf, attngan.gan.residual_blocks, attngan.gan.lambda_damsm), (48, 3, 50.0));
    assert_eq!(Config::load("attndcgan-cub", &[]).unwrap().gan.sizes(), [256]);
}

#[test]
fn a_setting_takes_the_type_of_what_it_replaces() {
    let settings = ["train.batch=4", "damsm.lr=1", "stem.cell=gru", "stream.imagenet_norm=false"];
    let config = Config::load("demo", &settings.map(String::from)).unwrap();
    assert_eq!((config.train.batch, config.damsm.lr, config.stem.cell), (4, 1.0, CellKind::Gru));
    assert!(!config.stream.imagenet_norm);
}

#[test]
fn an_unknown_key_names_near_ones() {
    let message = error("demo", &["train.bacth=4"]);
    assert!(message.contains("train.bacth") && message.contains("train.batch"), "{message}");
    let message = error("demo", &["lambda_stream=4"]);
    assert!(message.contains("gan.lambda_stream"), "{message}");
}

#[test]
fn a_wrong_type_or_range_is_named() {
    assert!(error("demo", &["train.batch=many"]).contains("'many' is not a whole number"));
    assert!(error("demo", &["train.batch=-3"]).contains("'-3' is not a whole number"));
    assert!(error("demo", &["stream.steps=0"]).contains("stream.steps: 0 is too small: epochs are 0 too"));
    assert!(error("demo", &["train.batch=1"]).contains("train.batch: 1 is too small"));
    assert!(error("demo", &["stem.cell=transformer"]).contains("transformer"));
    assert!(error("demo", &["train.batch"]).contains("key=value"));
}

#[test]
fn an_unknown_preset_lists_those_there_are() {
    let message = error("cbu", &[]);
    assert!(message.contains("no preset 'cbu'") && message.contains("attngan-cub"), "{message}");
    assert!(error("no/such/file.toml", &[]).contains("no/such/file.toml"));
}

#[test]
fn a_file_with_a_key_too_many_or_too_few_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let demo = PRESETS[0].1;
    std::fs::write(&path, demo.replace("[gan]", "[gan]\nlambda_strem = 3.0")).unwrap();
    assert!(error(path.to_str().unwrap(), &[]).contains("lambda_strem"));
    let without: Vec<&str> = demo.lines().filter(|line| !line.starts_with("lambda_damsm")).collect();
    std::fs::write(&path, without.join("\n")).unwrap();
    assert!(error(path.to_str().unwrap(), &[]).contains("lambda_damsm"));
}
