//! Image networks that others look through: what they see at two depths.

mod small;

use serde::{Deserialize, Serialize};

use crate::engine::nn::{Mode, Scope};
use crate::engine::tensor::Tensor;

pub use small::{Small, SmallConfig};

/// Which network, and how it is made.
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

pub enum Backbone {
    Small(Small),
}

/// What a backbone sees in images [B,S,S,3].
pub struct Seen {
    /// Half way down, [B,H,W,C]: the regions.
    pub map: Tensor,
    /// At the end, averaged over the image, [B,C'].
    pub pooled: Tensor,
}

/// The key of the small encoder's layers, in whatever network it is part of.
pub const TRUNK: &str = "trunk";

impl Backbone {
    pub fn new(scope: &Scope, config: &BackboneConfig) -> Backbone {
        match config {
            BackboneConfig::Small(config) => Backbone::Small(Small::new(&scope.at(TRUNK), config)),
            BackboneConfig::InceptionV3 | BackboneConfig::Resnet152 => {
                panic!("{config:?} is not implemented: `config::require_available` refuses it")
            }
        }
    }

    /// Images in [-1, 1].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Seen {
        match self {
            Backbone::Small(small) => small.forward(images, mode),
        }
    }

    /// Channels of [`Seen::map`].
    pub fn map_width(&self) -> usize {
        match self {
            Backbone::Small(small) => small.map_width(),
        }
    }

    /// Width of [`Seen::pooled`].
    pub fn pooled_width(&self) -> usize {
        match self {
            Backbone::Small(small) => small.pooled_width(),
        }
    }
}
