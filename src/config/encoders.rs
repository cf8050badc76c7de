//! ImageNet's weights where people have them, and the encoder that stands in where those of the published one are missing.

use std::path::{Path, PathBuf};

use super::Config;
use crate::error::{Error, Result};
use crate::files::{cache_folder, of_environment};
use crate::mirrorgan::backbone::{BackboneConfig, BackboneKind, ImagenetFile};

/// The encoder that is taken where the published one's weights are missing and its own are there.
const STAND_IN: BackboneKind = BackboneKind::EfficientnetLite0;

/// Where published weights are looked for: in `ENGINE_WEIGHTS` or our cache, then where PyTorch's hub downloads them to.
pub fn weight_folders() -> Vec<PathBuf> {
    let own = of_environment("ENGINE_WEIGHTS").or_else(|| Some(cache_folder()?.join("weights")));
    let torch = of_environment("TORCH_HOME").or_else(|| Some(cache_folder()?.parent()?.join("torch")));
    let folders = [own, torch.map(|torch| torch.join("hub").join("checkpoints"))];
    folders.into_iter().flatten().collect()
}

/// Where a file of published weights lies.
pub fn find_weights(name: &str) -> Option<PathBuf> {
    weight_folders().into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Where ImageNet's weights of a backbone lie.
fn find(kind: BackboneKind) -> Option<PathBuf> {
    find_weights(kind.imagenet_file()?.name)
}

/// Names the weights of encoders that begin with ImageNet's and have no file in the configuration: those that are found,
/// or another encoder's. Sections whose encoder is `chosen` by a setting keep it. Returns a line for each choice.
pub fn choose_encoders(config: &mut Config, settings: &[String]) -> Vec<String> {
    let Config { damsm, captioner, loss, .. } = config;
    let mut sections = vec![("damsm", &mut damsm.backbone)];
    if loss.lambda_captioner > 0.0 {
        sections.push(("captioner", &mut captioner.network.backbone));
    }
    let mut lines = Vec::new();
    for (section, backbone) in sections {
        let (kind, Some(file)) = (backbone.kind, backbone.kind.imagenet_file()) else { continue };
        if backbone.weights.is_some() {
            continue;
        }
        let is_chosen =
            settings.iter().any(|setting| setting.trim().starts_with(&format!("{section}.backbone.kind")));
        let (taken, found) = match find(kind) {
            Some(found) => (kind, found),
            None if is_chosen => continue,
            None => match find(STAND_IN) {
                Some(found) => (STAND_IN, found),
                None => continue,
            },
        };
        // A path that is not UTF-8 cannot stand in a configuration.
        let Some(path) = found.to_str() else { continue };
        *backbone = BackboneConfig { kind: taken, weights: Some(path.to_string()), ..backbone.clone() };
        lines.push(match taken == kind {
            true => format!("{section}: ImageNet's weights are those of {path}"),
            false => format!(
                "{section}: {} stands in for {}, whose weights are missing ({}: {}); --set {section}.backbone.weights=FILE \
                 takes the published encoder",
                taken.name(),
                kind.name(),
                file.name,
                file.origin
            ),
        });
    }
    lines
}

/// Refuses to begin with a published backbone that has no weights; `section` is the one that chose it.
pub fn require_weights(section: &str, backbone: &BackboneConfig) -> Result<()> {
    let key = format!("{section}.backbone.weights");
    let name = backbone.kind.name();
    match (backbone.kind.imagenet_file(), &backbone.weights) {
        (None, None) => Ok(()),
        (None, Some(_)) => {
            let why = format!("the {name} encoder is trained from scratch and takes no file: {key}=none");
            Err(Error::config(key, why))
        }
        (Some(ImagenetFile { name: file, origin }), None) => {
            let why = format!(
                "the {name} encoder begins with ImageNet's weights, {file} ({origin}): name it with --set {key}=FILE; to do \
                 without, fetch those of EfficientNet-Lite0, which is taken then (tools/weights lite0), or take --set \
                 {section}.backbone.kind=small"
            );
            Err(Error::config(key, why))
        }
        (Some(_), Some(file)) => match Path::new(file).is_file() {
            true => Ok(()),
            false => Err(Error::config(key, format!("{file}: there is no such file"))),
        },
    }
}
