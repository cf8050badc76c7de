//! The shapes that the tests and the benchmark run image-text matching on.

use super::{cosine_scores, matching_loss, word_scores};
use crate::engine::ops::Case;
use crate::engine::tensor::{IntTensor, Tensor};

pub fn cases() -> Vec<Case> {
    fn scores(x: &[Tensor], lengths: &[i32]) -> Vec<Tensor> {
        vec![word_scores(&x[0], &IntTensor::new(lengths.to_vec(), [lengths.len()]), &x[1], 4.0, 5.0)]
    }
    fn losses(scores: &Tensor, classes: Option<[i32; 4]>) -> Vec<Tensor> {
        let classes = classes.map(|c| IntTensor::new(c.to_vec(), [4]));
        let (rows, columns) = matching_loss(scores, 10.0, classes.as_ref());
        vec![rows, columns]
    }
    vec![
        Case::new("word_scores", "unequal lengths", |x| scores(x, &[5, 1, 3]))
            .input([3, 5, 6])
            .input([3, 7, 6])
            .bf16(&[0, 1]),
        Case::new("word_scores", "one word", |x| scores(x, &[1, 1])).input([2, 1, 9]).input([2, 4, 9]),
        Case::new("word_scores", "more sentences than images", |x| scores(x, &[2, 4, 3]))
            .input([3, 4, 5])
            .input([2, 3, 5]),
        Case::new("word_scores", "a map of regions", |x| scores(x, &[18, 3, 11, 1]))
            .input([4, 18, 32])
            .input([4, 289, 32])
            .bf16(&[0, 1])
            .large(),
        Case::new("word_scores", "a small map of regions", |x| scores(x, &[9, 5, 7, 1, 9, 2]))
            .input([6, 9, 64])
            .input([6, 49, 64])
            .bf16(&[0, 1])
            .large(),
        Case::new("word_scores", "long sentences", |x| scores(x, &[40, 33]))
            .input([2, 40, 17])
            .input([2, 36, 17])
            .large(),
        Case::new("cosine_scores", "square", |x| vec![cosine_scores(&x[0], &x[1])])
            .input([4, 7])
            .input([4, 7])
            .bf16(&[0, 1]),
        Case::new("cosine_scores", "a batch", |x| vec![cosine_scores(&x[0], &x[1])])
            .input([20, 256])
            .input([20, 256])
            .bf16(&[0, 1])
            .large(),
        Case::new("cosine_scores", "more sentences than images", |x| vec![cosine_scores(&x[0], &x[1])])
            .input([2, 9])
            .input([5, 9]),
        Case::new("matching_loss", "each its own class", |x| losses(&x[0], None)).input([4, 4]),
        Case::new("matching_loss", "shared classes", |x| losses(&x[0], Some([0, 1, 1, 2]))).input([4, 4]),
        Case::new("matching_loss", "one class", |x| losses(&x[0], Some([3, 3, 3, 3]))).input([4, 4]),
        Case::new("matching_loss", "a batch", |x| {
            let classes = IntTensor::new((0..37).map(|i| i % 29).collect(), [37]);
            let (rows, columns) = matching_loss(&x[0], 10.0, Some(&classes));
            vec![rows, columns]
        })
        .input([37, 37])
        .large(),
    ]
}
