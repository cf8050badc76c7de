//! A batch of the loader as tensors.

use crate::data::Batch;
use crate::engine::{IntTensor, Tensor};

pub struct Inputs {
    /// [B,S,S,3] in [-1, 1], one for each size, smallest first.
    pub images: Vec<Tensor>,
    /// [B,T]
    pub captions: IntTensor,
    /// [B]
    pub lengths: IntTensor,
    /// [B]
    pub classes: IntTensor,
}

impl Inputs {
    pub fn new(batch: Batch, sizes: &[usize]) -> Inputs {
        let b = batch.len();
        let words = batch.captions.len() / b;
        let images = batch.images.into_iter().zip(sizes);
        Inputs {
            images: images.map(|(values, &side)| Tensor::from_vec(values, [b, side, side, 3])).collect(),
            captions: IntTensor::new(batch.captions, [b, words]),
            lengths: IntTensor::new(batch.lengths, [b]),
            classes: IntTensor::new(batch.classes, [b]),
        }
    }

    pub fn largest(&self) -> &Tensor {
        &self.images[self.images.len() - 1]
    }

    pub fn count(&self) -> usize {
        self.lengths.len()
    }
}
