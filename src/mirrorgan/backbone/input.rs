//! The step before a backbone: images in [-1, 1] at the size and in the range that the backbone was trained on.

use super::{BackboneKind, EfficientNetLiteVariant, Preprocessing};
use crate::engine::ops::pointwise::affine_channels;
use crate::engine::ops::resample::bilinear;
use crate::engine::tensor::Tensor;

/// What a backbone does to images before its first layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InputConfig {
    /// The side that images are resized to.
    resize: Option<usize>,
    /// Shift and scale [-1, 1] to ImageNet's zero mean and unit deviation.
    imagenet_normalization: bool,
}

/// The sides that the published networks were trained on.
const INCEPTION_V3_SIDE: usize = 299;
const RESNET_SIDE: usize = 224;

impl InputConfig {
    pub fn of(kind: BackboneKind, given: Preprocessing) -> InputConfig {
        let Preprocessing { resize, imagenet_normalization } = given;
        match kind {
            BackboneKind::Small => InputConfig { resize, imagenet_normalization },
            // AttnGAN gives it [-1, 1], as its weights' origin in TensorFlow expects.
            BackboneKind::InceptionV3 => {
                InputConfig { resize: Some(INCEPTION_V3_SIDE), imagenet_normalization: false }
            }
            BackboneKind::Resnet152 => {
                InputConfig { resize: Some(resize.unwrap_or(RESNET_SIDE)), imagenet_normalization }
            }
            // The network itself brings images into its range.
            BackboneKind::EfficientnetLite0 => InputConfig {
                resize: Some(EfficientNetLiteVariant::Lite0.side()),
                imagenet_normalization: false,
            },
            BackboneKind::EfficientnetLite2 => InputConfig {
                resize: Some(EfficientNetLiteVariant::Lite2.side()),
                imagenet_normalization: false,
            },
        }
    }
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

/// (x - mean) / deviation of each channel, both [3].
struct ImagenetNormalization {
    scale: Tensor,
    shift: Tensor,
}

impl ImagenetNormalization {
    fn new() -> ImagenetNormalization {
        // [-1, 1] is twice as wide as [0, 1] and begins one lower.
        let scale =
            IMAGENET.map(|(_, deviation)| (1.0 / f64::from(4.0 * deviation * deviation).sqrt()) as f32);
        let mean = IMAGENET.map(|(mean, _)| 2.0 * mean - 1.0);
        let shift = std::array::from_fn::<f32, 3, _>(|i| -mean[i] * scale[i]);
        let by_channel = |values: [f32; 3]| Tensor::from_vec(values.to_vec(), [3]);
        ImagenetNormalization { scale: by_channel(scale), shift: by_channel(shift) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        affine_channels(x, &self.scale, &self.shift)
    }
}
