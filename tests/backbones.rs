//! The published backbones begin with the files that people have.

use mirrorgan_engine::engine::nn::{Archive, Array, Source, Store};
use mirrorgan_engine::engine::tensor::Rng;
use mirrorgan_engine::mirrorgan::backbone::{BackboneConfig, BackboneKind, load_imagenet};
use mirrorgan_engine::mirrorgan::damsm::ImageEncoder;

/// torchvision's file of a backbone, as it would be for the weights of `store`.
fn imagenet_file(store: &Store, kind: BackboneKind) -> Archive {
    let ours = store.archive();
    let mut file = Archive::default();
    for name in ours.names() {
        let published = match (kind, name.split_once('.')) {
            (BackboneKind::Resnet152, Some(("resnet", rest))) => {
                let (child, rest) = rest.split_once('.').unwrap();
                let children = ["conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4"];
                format!("{}.{rest}", children[child.parse::<usize>().unwrap()])
            }
            (BackboneKind::InceptionV3, Some((child, _))) if !child.starts_with("emb") => name.to_string(),
            _ => continue,
        };
        file.insert(published, ours.get(name).unwrap().clone());
    }
    for head in ["fc.weight", "AuxLogits.conv0.conv.weight"] {
        file.insert(head, Array::f32(&[1], vec![1.0]));
    }
    file
}

#[test]
fn published_backbones_begin_with_torchvisions_weights() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [BackboneKind::InceptionV3, BackboneKind::Resnet152] {
        let config = BackboneConfig { kind, ..BackboneConfig::small(vec![], 1) };
        let build = |seed| {
            Store::build(Source::Init(Rng::new(seed, 0)), |scope| ImageEncoder::new(scope, 8, &config))
                .unwrap()
                .1
        };
        let (trained, fresh) = (build(1), build(2));
        assert!(trained.params().iter().all(|p| p.name().starts_with("emb_")), "the backbone is frozen");
        let path = folder.path().join("imagenet.safetensors");
        let file = imagenet_file(&trained, kind);
        file.write(&path).unwrap();
        load_imagenet(&fresh, kind, &path).unwrap();
        let (theirs, ours) = (trained.archive(), fresh.archive());
        for name in ours.names() {
            // The heads keep their own initial values.
            assert!((ours.get(name) == theirs.get(name)) != name.starts_with("emb_"), "{name}");
        }
        // All that does not fit is named at once, and nothing changes.
        let mut wrong = file;
        let first = wrong
            .names()
            .find(|name| name.ends_with("weight") && !name.starts_with("fc") && !name.starts_with("Aux"))
            .unwrap()
            .to_string();
        let last = wrong.names().filter(|name| name.ends_with("running_mean")).last().unwrap().to_string();
        wrong.insert(&first, Array::f32(&[1], vec![1.0]));
        let taken = wrong.take(&last).unwrap();
        wrong.insert("classifier.bias", taken);
        wrong.write(&path).unwrap();
        let message = load_imagenet(&fresh, kind, &path).unwrap_err().to_string();
        for part in ["imagenet.safetensors", &first, "classifier.bias", "running_mean", "wanted"] {
            assert!(message.contains(part), "'{part}' is not in {message}");
        }
        let after = fresh.archive();
        assert!(
            ours.names().all(|name| ours.get(name) == after.get(name)),
            "a refused file changes something"
        );
    }
}
