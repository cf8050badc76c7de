//! Published classifiers with their heads, by which pictures are evaluated, under the names of the files that people have.

use serde::{Deserialize, Serialize};

use super::efficientnet_lite::{EfficientNetLite, EfficientNetLiteVariant};
use super::inception::{InceptionV3, InceptionVariant, WIDTHS};
use crate::engine::nn::{Archive, Linear, Mode, Scope, Source, Store};
use crate::engine::ops::shape::{concat, slice};
use crate::engine::tensor::Tensor;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassifierKind {
    /// torchvision's Inception-v3 of ImageNet's 1,000 classes.
    InceptionV3,
    /// TensorFlow's Inception-v3 of 2015 with 1,008 outputs, as ported to PyTorch.
    Inception2015,
    /// EfficientNet-Lite0 of ImageNet's 1,000 classes.
    EfficientnetLite0,
}

/// What a classifier makes of pictures.
pub struct Classified {
    /// Before the head, [B,C].
    pub pooled: Tensor,
    /// [B,K]
    pub logits: Tensor,
    /// Without the head's bias, [B,K].
    pub logits_unbiased: Tensor,
}

pub struct Classifier {
    network: Network,
    head: Linear,
}

enum Network {
    Inception(Box<InceptionV3>),
    Lite(Box<EfficientNetLite>),
}

impl ClassifierKind {
    const ALL: [ClassifierKind; 3] =
        [ClassifierKind::InceptionV3, ClassifierKind::Inception2015, ClassifierKind::EfficientnetLite0];

    /// In words, with what tells its files from others.
    pub fn describe(self) -> &'static str {
        match self {
            ClassifierKind::InceptionV3 => "torchvision's Inception-v3 (1,000 classes)",
            ClassifierKind::Inception2015 => {
                "the Inception-v3 of 2015 as ported from TensorFlow (1,008 outputs)"
            }
            ClassifierKind::EfficientnetLite0 => "EfficientNet-Lite0 (1,000 classes)",
        }
    }

    /// The width of [`Classified::pooled`].
    pub fn width(self) -> usize {
        match self {
            ClassifierKind::InceptionV3 | ClassifierKind::Inception2015 => WIDTHS[1],
            ClassifierKind::EfficientnetLite0 => super::efficientnet_lite::HEAD,
        }
    }

    pub fn classes(self) -> usize {
        match self {
            ClassifierKind::InceptionV3 | ClassifierKind::EfficientnetLite0 => 1000,
            ClassifierKind::Inception2015 => 1008,
        }
    }

    /// The head's name.
    fn head(self) -> &'static str {
        match self {
            ClassifierKind::InceptionV3 | ClassifierKind::Inception2015 => "fc",
            ClassifierKind::EfficientnetLite0 => "_fc",
        }
    }

    /// The parameter whose shape tells this network's files from those of its kin.
    fn mark(self) -> (&'static str, usize) {
        match self {
            ClassifierKind::InceptionV3 | ClassifierKind::Inception2015 => ("fc.weight", self.classes()),
            // Lite0 and Lite2 have equal heads; their last blocks have 320 and 352 channels.
            ClassifierKind::EfficientnetLite0 => ("_blocks.15._project_conv.weight", 320),
        }
    }

    /// Which one a file holds.
    fn of(archive: &Archive) -> Option<ClassifierKind> {
        let is_marked = |kind: &ClassifierKind| {
            let (name, outputs) = kind.mark();
            let of_family = match kind {
                ClassifierKind::EfficientnetLite0 => "_conv_stem.weight",
                _ => "Mixed_7c.branch_pool.conv.weight",
            };
            archive.get(of_family).is_some() && archive.get(name).is_some_and(|a| a.shape[0] == outputs)
        };
        ClassifierKind::ALL.into_iter().find(is_marked)
    }
}

/// What a file holds that is none of the classifiers.
fn stranger(archive: &Archive) -> Option<String> {
    let has = |name: &str| archive.get(name).is_some();
    let rows = |name: &str| archive.get(name).map_or(0, |array| array.shape.first().copied().unwrap_or(0));
    let known = match () {
        () if has("emb_features.weight") => "the image encoder of a DAMSM, not the classifier",
        () if has("_conv_stem.weight") && has("_blocks.20._project_conv.weight") => "EfficientNet-Lite2",
        () if has("_conv_stem.weight") => "another EfficientNet",
        () if has("layer1.0.conv1.weight") => "a ResNet",
        () if has("Mixed_7c.branch_pool.conv.weight") && has("fc.weight") => {
            return Some(format!("an Inception-v3 of {} classes", rows("fc.weight")));
        }
        () if has("Mixed_7c.branch_pool.conv.weight") => "an Inception-v3 without its head 'fc'",
        () => return None,
    };
    Some(known.to_string())
}

impl Classifier {
    pub fn new(scope: &Scope, kind: ClassifierKind) -> Classifier {
        let scope = &scope.frozen();
        let inception = |variant| Network::Inception(Box::new(InceptionV3::new(scope, variant)));
        let network = match kind {
            ClassifierKind::InceptionV3 => inception(InceptionVariant::Torchvision),
            ClassifierKind::Inception2015 => inception(InceptionVariant::Ported2015),
            ClassifierKind::EfficientnetLite0 => {
                Network::Lite(Box::new(EfficientNetLite::new(scope, EfficientNetLiteVariant::Lite0)))
            }
        };
        Classifier { network, head: Linear::with_bias(&scope.at(kind.head()), kind.width(), kind.classes()) }
    }

    /// With the weights of a file.
    ///
    /// # Errors
    /// `Data` where it holds another network, with the name of that; `Weights` with all names that are missing, unexpected or
    /// of another shape.
    pub fn load(kind: ClassifierKind, mut archive: Archive) -> Result<Classifier> {
        let found = ClassifierKind::of(&archive);
        if found != Some(kind) {
            let holds = match found {
                Some(other) => other.describe().to_string(),
                None => stranger(&archive).unwrap_or_else(|| {
                    let names: Vec<&str> = archive.names().take(3).collect();
                    format!("a network that is not known (its first keys: {})", names.join(", "))
                }),
            };
            return Err(Error::data(
                archive.file(),
                format!("it holds {holds}; wanted: {}", kind.describe()),
            ));
        }
        // torchvision's second head served its training.
        if kind == ClassifierKind::InceptionV3 {
            let _ = archive.take_prefixed("AuxLogits.");
        }
        let (classifier, store) =
            Store::build(Source::Archive(archive), |scope| Classifier::new(scope, kind))?;
        store.freeze();
        Ok(classifier)
    }

    /// Images [B,S,S,3] as the network expects them: Inception's already normalized, EfficientNet's in [-1, 1].
    pub fn forward(&self, images: &Tensor) -> Classified {
        let pooled = match &self.network {
            Network::Inception(network) => network.forward(images, Mode::Eval).pooled,
            Network::Lite(network) => network.forward(images).pooled,
        };
        // A product's sums may depend on how many rows it has, and a picture's logits must not.
        let rows: Vec<Tensor> = (0..pooled.dims::<2>()[0]).map(|row| slice(&pooled, 0, row, 1)).collect();
        let each = |head: &dyn Fn(&Tensor) -> Tensor| {
            let logits: Vec<Tensor> = rows.iter().map(head).collect();
            concat(&logits.iter().collect::<Vec<_>>(), 0)
        };
        let logits = each(&|row| self.head.forward(row));
        let logits_unbiased = each(&|row| self.head.forward_unbiased(row));
        Classified { pooled, logits, logits_unbiased }
    }
}
