//! What is done to a picture before a network evaluates it, as data.

use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::Picture;
use crate::engine::Tensor;
use crate::mirrorgan::backbone::ClassifierKind;

/// How pictures are evaluated: the network, its weights, and what is done to a picture before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub network: EvaluatorNetwork,
    /// None for an encoder of the run's own.
    pub weights: Option<PublishedWeights>,
    pub resize: Resize,
    /// The side that pictures are resized to; none: the run's largest one.
    pub side: Option<usize>,
    pub normalization: Normalization,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatorNetwork {
    Classifier(ClassifierKind),
    /// DAMSM's image encoder of the run.
    Encoder,
}

/// A file that people have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedWeights {
    /// Its names, the first one preferred.
    pub names: Vec<String>,
    /// Its SHA-256, or the beginning of it that is known; one for each file that it may be.
    pub sha256: Vec<String>,
    /// Where people get it.
    pub origin: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Pillow's bilinear filter, antialiased, rounded to 8 bits.
    PillowBilinear,
    /// Pillow's bicubic filter on float channels, antialiased, clipped to 0..255 and not rounded.
    PillowBicubicFloat,
    /// TensorFlow 1's bilinear resizing without half-pixel centers, no antialiasing.
    Tensorflow1Bilinear,
    /// PyTorch's bilinear interpolation, corners not aligned, no antialiasing.
    TorchBilinear,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// x·(.229/.5) + (.485 − .5)/.5 of x in [0, 1], and so on for green and blue.
    ImagenetOnUnit,
    /// 2x − 1 of x in [0, 1].
    Signed,
    /// (v − 128) / 128 of v in 0..255.
    By128,
    /// (v − 127) / 128 of v in 0..255.
    EfficientNet,
}

impl Resize {
    /// A picture at `side`²: [side,side,3] of values 0..255, or of 0..1 where PyTorch does it.
    pub fn apply(self, picture: &Picture, side: usize) -> Vec<f32> {
        match self {
            Resize::PillowBilinear => picture.resized(side, side).pixels.into_iter().map(f32::from).collect(),
            Resize::PillowBicubicFloat => picture.bicubic(side, side),
            Resize::Tensorflow1Bilinear => picture.bilinear_of_tensorflow(side, side),
            Resize::TorchBilinear => picture.bilinear_of_torch(side, side),
        }
    }

    /// What its values of white are.
    fn white(self) -> f32 {
        if self == Resize::TorchBilinear { 1.0 } else { 255.0 }
    }
}

impl Normalization {
    /// Of values of the range that `resize` gives, in place, with the roundings of the reference code.
    pub fn apply(self, values: &mut [f32], resize: Resize) {
        /// Mean and deviation of ImageNet's channels.
        const IMAGENET: [(f64, f64); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];
        let is_unit = resize.white() == 1.0;
        let unit = |value: f32| if is_unit { value } else { value / 255.0 };
        let byte = |value: f32| if is_unit { value * 255.0 } else { value };
        match self {
            Normalization::ImagenetOnUnit => {
                let lines =
                    IMAGENET.map(|(mean, deviation)| ((deviation / 0.5) as f32, ((mean - 0.5) / 0.5) as f32));
                for pixel in values.as_chunks_mut::<3>().0 {
                    for (value, (scale, shift)) in pixel.iter_mut().zip(lines) {
                        *value = unit(*value) * scale + shift;
                    }
                }
            }
            Normalization::Signed => values.iter_mut().for_each(|value| *value = 2.0 * unit(*value) - 1.0),
            Normalization::By128 => {
                values.iter_mut().for_each(|value| *value = (byte(*value) - 128.0) / 128.0)
            }
            // The network itself brings [-1, 1] into its range.
            Normalization::EfficientNet => {
                values.iter_mut().for_each(|value| *value = byte(*value) / 127.5 - 1.0)
            }
        }
    }
}

impl Recipe {
    /// Pictures as the network gets them, [B,side,side,3].
    pub fn input(&self, pictures: &[Picture], side: usize) -> Tensor {
        let one = |picture: &Picture| {
            let mut values = self.resize.apply(picture, side);
            self.normalization.apply(&mut values, self.resize);
            values
        };
        let values: Vec<Vec<f32>> = pictures.par_iter().map(one).collect();
        Tensor::from_vec(values.concat(), [pictures.len(), side, side, 3])
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resize::PillowBilinear => "Pillow's bilinear, antialiased, rounded to 8 bits",
            Resize::PillowBicubicFloat => {
                "Pillow's bicubic on float channels, antialiased, clipped to 0..255, not rounded"
            }
            Resize::Tensorflow1Bilinear => "TensorFlow 1's bilinear without half-pixel centers, not rounded",
            Resize::TorchBilinear => "PyTorch's bilinear, corners not aligned, no antialiasing, not rounded",
        })
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Normalization::ImagenetOnUnit => {
                "x·(.229/.5) + (.485 − .5)/.5 and so on for green and blue, of x in [0, 1]"
            }
            Normalization::Signed => "2x − 1 of x in [0, 1]",
            Normalization::By128 => "(v − 128) / 128 of v in 0..255",
            Normalization::EfficientNet => "(v − 127) / 128 of v in 0..255",
        })
    }
}

impl fmt::Display for EvaluatorNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EvaluatorNetwork::Classifier(kind) => kind.describe(),
            EvaluatorNetwork::Encoder => "the image encoder of the run's DAMSM",
        })
    }
}

impl fmt::Display for PublishedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, sha256 {}", self.names.join(" or "), self.sha256.join(" or "))?;
        if self.sha256.iter().any(|hash| hash.len() < 64) { f.write_str("…") } else { Ok(()) }
    }
}
