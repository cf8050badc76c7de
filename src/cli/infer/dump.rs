//! `--dump`: all inputs and outputs as tensors.

use crate::engine::Tensor;
use crate::engine::nn::{Archive, Array, Values};
use crate::engine::ops::shape::transpose;
use crate::infer::Samples;

/// All samples, each as a batch of its own, with its word ids, for one file. This alone keeps what was generated.
#[derive(Default)]
pub(super) struct Dump(Vec<(Vec<i32>, Samples)>);

impl Dump {
    pub(super) fn push(&mut self, ids: Vec<i32>, sample: Samples) {
        self.0.push((ids, sample));
    }

    /// Captions, word features and attention maps are padded with 0 to the longest caption.
    pub(super) fn archive(&self) -> Archive {
        let words = self.0.iter().map(|(ids, sample)| ids.len().max(sample.length(0)));
        let longest = words.max().unwrap_or(0);
        let (mut captions, mut lengths) = (Vec::new(), Vec::new());
        for (ids, sample) in &self.0 {
            captions.extend(ids.iter().map(|&id| i64::from(id)));
            captions.resize(lengths.len() * longest + longest, 0);
            lengths.push(sample.length(0) as i64);
        }
        let count = self.0.len();
        let mut archive = Archive::default();
        archive.insert("captions", Array { shape: vec![count, longest], values: Values::I64(captions) });
        archive.insert("lengths", Array { shape: vec![count], values: Values::I64(lengths) });
        archive.insert("z", self.stack(|p| p.z.clone()));
        archive.insert("eps", self.stack(|p| p.eps.clone()));
        archive.insert("sentence", self.stack(|p| p.embedding.sentence.clone()));
        archive.insert("words", self.stack(|p| transpose(&padded(&p.embedding.words, longest), &[0, 2, 1])));
        let Some((_, first)) = self.0.first() else { return archive };
        for i in 0..first.generated.images.len() {
            let image = self.stack(|p| transpose(&p.generated.images[i], &[0, 3, 1, 2]));
            archive.insert(format!("image{i}"), image);
        }
        for i in 0..first.generated.attention.len() {
            let words_first = |p: &Samples| transpose(&p.generated.attention[i], &[0, 3, 1, 2]);
            archive.insert(format!("attention{i}"), self.stack(|p| padded(&words_first(p), longest)));
        }
        archive
    }

    /// `part` of each sample, [1,..], as one [B,..].
    fn stack(&self, part: impl Fn(&Samples) -> Tensor) -> Array {
        let parts: Vec<Tensor> = self.0.iter().map(|(_, sample)| part(sample)).collect();
        let mut shape = parts[0].shape().to_vec();
        shape[0] = parts.len();
        Array::f32(&shape, parts.iter().flat_map(Tensor::to_vec).collect())
    }
}

/// [1,T,..] padded with zeros to [1,words,..].
fn padded(x: &Tensor, words: usize) -> Tensor {
    let mut shape = x.shape().to_vec();
    let mut values = x.to_vec();
    values.resize(values.len() / shape[1] * words, 0.0);
    shape[1] = words;
    Tensor::from_vec(values, shape.as_slice())
}
