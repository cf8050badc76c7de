//! Image networks that DAMSM and the captioner take their features from.

mod efficientnet_lite;
mod input;
mod small;

use serde::{Deserialize, Serialize};

use self::input::Input;
use crate::engine::nn::{Mode, Scope};
use crate::engine::tensor::Tensor;

pub use efficientnet_lite::{
    EfficientNetLite, EfficientNetLiteConfig, EfficientNetLiteMap, EfficientNetLiteVariant,
};
pub use input::InputConfig;
pub use small::{Small, SmallConfig};

/// Which network, and its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BackboneConfig {
    /// A few layers, trained from scratch with the task.
    Small(SmallConfig),
    /// DAMSM's as published (Szegedy et al., 2016); not implemented yet.
    InceptionV3,
    /// STREAM's as published (He et al., 2016); not implemented yet.
    Resnet152,
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
}

/// The key of the small network's layers, in whatever network it is part of.
pub const TRUNK: &str = "trunk";

impl Backbone {
    pub fn new(scope: &Scope, config: &BackboneConfig, input: InputConfig) -> Backbone {
        let network = match config {
            BackboneConfig::Small(config) => Network::Small(Small::new(&scope.at(TRUNK), config)),
            BackboneConfig::InceptionV3 | BackboneConfig::Resnet152 => {
                panic!("{config:?} is not implemented: `config::require_available` refuses it")
            }
        };
        Backbone { input: Input::new(input), network }
    }

    /// Images [B,S,S,3] in [-1, 1].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Features {
        let x = self.input.forward(images);
        match &self.network {
            Network::Small(small) => small.forward(&x, mode),
        }
    }

    /// Channels of [`Features::map`].
    pub fn map_width(&self) -> usize {
        match &self.network {
            Network::Small(small) => small.map_width(),
        }
    }

    /// Width of [`Features::pooled`].
    pub fn pooled_width(&self) -> usize {
        match &self.network {
            Network::Small(small) => small.pooled_width(),
        }
    }
}
