//! The step before a backbone: images in [-1, 1] at the size and in the range that the backbone was trained on.

use crate::engine::ops::norm::{Activation, batch_norm_eval};
use crate::engine::ops::resample::bilinear;
use crate::engine::tensor::Tensor;

/// What a backbone does to images before its first layer; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputConfig {
    /// The side that images are resized to.
    pub resize: Option<usize>,
    /// Shift and scale [-1, 1] to ImageNet's zero mean and unit deviation.
    pub imagenet_normalization: bool,
}

pub(super) struct Input {
    resize: Option<usize>,
    normalization: Option<ImagenetNormalization>,
}

impl Input {
    pub fn new(config: InputConfig) -> Input {
        let normalization = config.imagenet_normalization.then(ImagenetNormalization::new);
        Input { resize: config.resize, normalization }
    }

    /// [B,S,S,3] in [-1, 1] -> [B,S',S',3].
    pub fn forward(&self, images: &Tensor) -> Tensor {
        let x = match self.resize {
            Some(side) => bilinear(images, side, side),
            None => images.clone(),
        };
        match &self.normalization {
            Some(normalization) => normalization.forward(&x),
            None => x,
        }
    }
}

/// ImageNet's mean and deviation of red, green and blue in [0, 1], as torchvision's networks expect them.
const IMAGENET: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

/// The normalization as a batch norm with fixed statistics, all [3].
struct ImagenetNormalization {
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
}

impl ImagenetNormalization {
    fn new() -> ImagenetNormalization {
        let channels = |f: fn((f32, f32)) -> f32| Tensor::from_vec(IMAGENET.map(f).to_vec(), [3]);
        // [-1, 1] is twice as wide as [0, 1] and begins one lower.
        ImagenetNormalization {
            scale: Tensor::full([3], 1.0),
            shift: Tensor::zeros([3]),
            mean: channels(|(mean, _)| 2.0 * mean - 1.0),
            variance: channels(|(_, deviation)| 4.0 * deviation * deviation),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let ImagenetNormalization { scale, shift, mean, variance } = self;
        batch_norm_eval(x, scale, shift, mean, variance, Activation::None, None, 0.0)
    }
}
