//! A small image network after DCGAN's discriminator (Radford et al., 2016): each layer halves the image.

use serde::{Deserialize, Serialize};

use crate::engine::nn::{BatchNorm, Conv2d, Mode, Scope};
use crate::engine::ops::conv::Conv;
use crate::engine::ops::norm::Activation;
use crate::engine::ops::pool::global_avg_pool;
use crate::engine::tensor::Tensor;

use super::Features;
use crate::mirrorgan::LEAKY_SLOPE;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmallConfig {
    /// Channels after each layer.
    pub widths: Vec<usize>,
    /// The layer, counted from 1, whose output is [`Features::map`].
    pub map_after: usize,
}

pub struct Small {
    layers: Vec<(Conv2d, BatchNorm)>,
    config: SmallConfig,
}

impl Small {
    pub fn new(scope: &Scope, config: &SmallConfig) -> Small {
        let layers = config.widths.len();
        let exists = (1..=layers).contains(&config.map_after);
        assert!(exists, "map_after is {}; there are {layers} layers", config.map_after);
        let inputs = [3].into_iter().chain(config.widths.iter().copied());
        let layer = |(i, (inputs, &outputs)): (usize, (usize, &usize))| {
            let scope = scope.at(i);
            let conv = Conv2d::new(&scope.at(0), inputs, outputs, [4, 4], Conv::new(2, 1));
            (conv, BatchNorm::new(&scope.at(1), outputs))
        };
        Small { layers: inputs.zip(&config.widths).enumerate().map(layer).collect(), config: config.clone() }
    }

    pub fn forward(&self, images: &Tensor, mode: Mode) -> Features {
        let (mut x, mut map) = (images.to_activation_dtype(), None);
        for (i, (conv, norm)) in self.layers.iter().enumerate() {
            x = norm.after(conv, &x, mode, Activation::LeakyRelu(LEAKY_SLOPE), None);
            if i + 1 == self.config.map_after {
                map = Some(x.clone());
            }
        }
        Features { map: map.unwrap_or_else(|| x.clone()), pooled: global_avg_pool(&x) }
    }

    pub fn map_width(&self) -> usize {
        self.config.widths[self.config.map_after - 1]
    }

    pub fn pooled_width(&self) -> usize {
        self.config.widths[self.config.widths.len() - 1]
    }
}
