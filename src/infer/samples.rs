//! A batch of generated images.

use std::path::Path;

use crate::engine::ops::shape::slice;
use crate::engine::{IntTensor, Tensor};
use crate::error::{Error, Result};
use crate::mirrorgan::generator::Generated;
use crate::mirrorgan::stem::TextEmbedding;

/// The images of a batch of captions, and the inputs that they were generated from.
pub struct Samples {
    /// [B,Z]
    pub z: Tensor,
    /// [B,C]
    pub eps: Tensor,
    /// [B]
    pub lengths: IntTensor,
    /// Words [B,T,D], where T does not depend on the batch.
    pub embedding: TextEmbedding,
    pub generated: Generated,
}

impl Samples {
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// The largest images, [B,S,S,3] in [-1, 1].
    pub fn largest(&self) -> &Tensor {
        &self.generated.images[self.generated.images.len() - 1]
    }

    /// The words of sample `index`.
    pub fn length(&self, index: usize) -> usize {
        self.lengths.as_slice()[index] as usize
    }

    /// Sample `index` as a batch of its own, with no room for more words than it has.
    pub fn sample(&self, index: usize) -> Samples {
        let row = |x: &Tensor| slice(x, 0, index, 1);
        let length = self.length(index);
        let Generated { images, attention, mu, logvar } = &self.generated;
        Samples {
            z: row(&self.z),
            eps: row(&self.eps),
            lengths: IntTensor::new(vec![length as i32], [1]),
            embedding: TextEmbedding {
                words: slice(&row(&self.embedding.words), 1, 0, length),
                sentence: row(&self.embedding.sentence),
            },
            generated: Generated {
                images: images.iter().map(row).collect(),
                attention: attention.iter().map(|map| slice(&row(map), 3, 0, length)).collect(),
                mu: row(mu),
                logvar: row(logvar),
            },
        }
    }

    /// Refuses images and attention maps that are no numbers.
    ///
    /// # Errors
    /// `Data` with the checkpoint, whose weights lead to them.
    pub fn require_finite(&self, checkpoint: &Path) -> Result<()> {
        let Generated { images, attention, .. } = &self.generated;
        for (what, tensors) in [("image", images), ("attention map", attention)] {
            for (tensor, number) in tensors.iter().zip(1..) {
                if let Some(value) = tensor.to_vec().into_iter().find(|value| !value.is_finite()) {
                    let why = format!(
                        "{what} {number} of this caption holds {value}: the weights have diverged; take an earlier checkpoint, or train again with lower learning rates"
                    );
                    return Err(Error::data(checkpoint, why));
                }
            }
        }
        Ok(())
    }
}
