//! The shapes that the tests and the benchmark run attention on.

use super::{channel_attention, cross_attention};
use crate::engine::ops::Case;
use crate::engine::tensor::{IntTensor, Tensor};

pub fn cases() -> Vec<Case> {
    fn context_and_weights(x: &[Tensor], lengths: &[i32]) -> (Tensor, Tensor) {
        cross_attention(&x[0], &x[1], &x[2], &IntTensor::new(lengths.to_vec(), [lengths.len()]))
    }
    fn both(x: &[Tensor], lengths: &[i32]) -> Vec<Tensor> {
        let (context, weights) = context_and_weights(x, lengths);
        vec![context, weights]
    }
    let channels = |x: &[Tensor]| vec![channel_attention(&x[0], &x[1], &x[2])];
    vec![
        Case::new("cross_attention", "unequal lengths", |x| vec![context_and_weights(x, &[4, 1, 3]).0])
            .input([3, 3, 5, 6])
            .input([3, 4, 5])
            .input([6, 5])
            .bf16(&[0, 1]),
        Case::new("cross_attention", "one word", |x| vec![context_and_weights(x, &[1, 1]).0])
            .input([2, 2, 2, 3])
            .input([2, 1, 4])
            .input([3, 4]),
        Case::new("cross_attention", "many words", |x| vec![context_and_weights(x, &[18, 11]).0])
            .input([2, 3, 3, 9])
            .input([2, 18, 7])
            .input([9, 7]),
        Case::new("cross_attention", "weights", |x| vec![context_and_weights(x, &[1, 3]).1])
            .constant([2, 2, 3, 6], -1.0, 1.0)
            .constant([2, 3, 5], -1.0, 1.0)
            .constant([6, 5], -1.0, 1.0)
            .bf16(&[0, 1]),
        Case::new("cross_attention", "a stage", |x| both(x, &[18, 7]))
            .input([2, 24, 31, 32])
            .input([2, 18, 48])
            .input_in([32, 48], -0.3, 0.3)
            .flops(4.0 * (2 * 24 * 31 * 32 * 18) as f64)
            .bf16(&[0, 1])
            .large(),
        Case::new("cross_attention", "wide", |x| both(x, &[3, 5]))
            .input([2, 9, 16, 64])
            .input([2, 5, 32])
            .input_in([64, 32], -0.3, 0.3)
            .bf16(&[0, 1])
            .large(),
        Case::new("cross_attention", "wide and long", |x| both(x, &[70]))
            .input([1, 3, 7, 272])
            .input([1, 70, 8])
            .input_in([272, 8], -0.2, 0.2)
            .bf16(&[0, 1])
            .large(),
        Case::new("cross_attention", "several rounds", |x| both(x, &[5]))
            .input([1, 2, 7, 550])
            .input([1, 6, 8])
            .input_in([550, 8], -0.2, 0.2)
            .large(),
        Case::new("cross_attention", "an odd number of channels", |x| both(x, &[5, 18]))
            .input([2, 16, 17, 17])
            .input([2, 18, 9])
            .input([17, 9])
            .bf16(&[0, 1])
            .large(),
        Case::new("channel_attention", "", channels)
            .input([3, 3, 5, 6])
            .input([3, 6])
            .input([6, 6])
            .bf16(&[0, 1]),
        Case::new("channel_attention", "many channels", channels)
            .input([2, 2, 3, 17])
            .input([2, 17])
            .input([17, 17])
            .bf16(&[0, 1]),
        Case::new("channel_attention", "a stage", channels)
            .input([2, 24, 31, 32])
            .input([2, 32])
            .input([32, 32])
            .flops(2.0 * (2 * 24 * 31 * 32 * 32) as f64)
            .bf16(&[0, 1])
            .large(),
        Case::new("channel_attention", "wide", channels)
            .input([2, 8, 9, 64])
            .input([2, 64])
            .input([64, 64])
            .bf16(&[0, 1])
            .large(),
        Case::new("channel_attention", "wider than a block", channels)
            .input([1, 3, 7, 136])
            .input([1, 136])
            .input([136, 136])
            .bf16(&[0, 1])
            .large(),
    ]
}
