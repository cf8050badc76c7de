//! A batch of the loader as tensors.

use crate::data::Batch;
use crate::engine::nn::{Archive, Array, Values};
use crate::engine::ops::shape::transpose;
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

    /// Under the names of this type's fields, images [B,3,S,S] as image0, image1, ...
    pub fn archive(&self) -> Archive {
        let mut archive = Archive::default();
        for (i, image) in self.images.iter().enumerate() {
            archive.insert(format!("image{i}"), Array::from(&transpose(image, &[0, 3, 1, 2])));
        }
        let named = [("captions", &self.captions), ("lengths", &self.lengths), ("classes", &self.classes)];
        for (name, ids) in named {
            let values = ids.as_slice().iter().map(|&id| id.into()).collect();
            archive.insert(name, Array { shape: ids.shape().to_vec(), values: Values::I64(values) });
        }
        archive
    }

    pub fn largest(&self) -> &Tensor {
        &self.images[self.images.len() - 1]
    }

    pub fn count(&self) -> usize {
        self.lengths.len()
    }
}
