//! Image-text matching: fused operators for how well images and sentences match, word by word and as a whole, over all
//! pairs of a batch.
//!
//! Xu et al., "AttnGAN", CVPR 2018, section 3.2, equations 7 to 13. The contracts keep the paper's words: an image is a
//! set of region features, a sentence a padded sequence of word features, `code` and `sentence` one feature of each.

mod cases;
mod cpu;
mod cuda;

pub use cases::cases;

use std::ops::Range;

use crate::engine::device::cuda::{Grid, k};
use crate::engine::ops::rows::check_lengths;
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{IntTensor, Kernel, Tensor, record, run};

/// Scores of all pairs by words: words [B,T,D], lengths [B], regions [B,N,D] -> [B images, B sentences].
///
/// For image i and sentence j, over the words t of the sentence's length (equations 7 to 10):
/// s_nt = softmax_t <region_n, word_t>;  alpha_nt = softmax_n(gamma1 · s_nt);  context_t = Σ_n alpha_nt region_n;
/// score = ln Σ_t exp(gamma2 · cos(word_t, context_t)). The outer 1/gamma2 of equation 10 is not taken, as published.
#[track_caller]
pub fn word_scores(words: &Tensor, lengths: &IntTensor, regions: &Tensor, gamma1: f32, gamma2: f32) -> Tensor {
    let pairs = ImageTextPairs::new("word_scores", words, lengths, regions, gamma1, gamma2);
    let (images, sentences) = (pairs.images, pairs.own.len());
    let mut scores = words.new_empty_f32([images, sentences]);
    let flops = 2.0 * (images * pairs.regions * pairs.columns() * pairs.dim) as f64;
    run(
        Kernel::new("word_scores_fwd", 2.0 * flops),
        [&mut scores],
        [words, regions],
        |[scores], [words, regions]| pairs.scores(scores, words, regions),
        |g, [scores], [words, regions]| pairs.scores_on(g, scores, words, regions),
    );
    let saved = [words, regions].map(Tensor::detach);
    record1(scores, [words, regions], move |dy, [wanted_words, wanted_regions]| {
        let [words, regions] = &saved;
        let mut dwords = wanted_words.then(|| words.new_empty(words.shape()));
        let mut dregions = wanted_regions.then(|| regions.new_empty(regions.shape()));
        run(
            Kernel::new("word_scores_bwd", 6.0 * flops),
            [dwords.as_mut(), dregions.as_mut()],
            [words, regions, &dy],
            |outs, ins| pairs.gradients(outs, ins),
            |g, outs, ins| pairs.gradients_on(g, outs, ins),
        );
        [dwords, dregions]
    })
}

/// The sizes of a batch of images against a batch of sentences.
struct ImageTextPairs {
    images: usize,
    /// Regions of an image.
    regions: usize,
    /// Words that a sentence has room for.
    words: usize,
    dim: usize,
    /// Where each sentence's words stand among the M words of all sentences, without padding.
    own: Vec<Range<usize>>,
    /// The lengths, for a GPU.
    on_device: IntTensor,
    gamma1: f32,
    gamma2: f32,
}

impl ImageTextPairs {
    #[track_caller]
    fn new(op: &str, words: &Tensor, lengths: &IntTensor, regions: &Tensor, gamma1: f32, gamma2: f32) -> ImageTextPairs {
        let ([sentences, t, dim], [images, n, region_dim]) = (words.dims(), regions.dims());
        let (words, regions) = (words.shape(), regions.shape());
        assert_eq!(
            dim, region_dim,
            "{op}: words {words:?} and regions {regions:?} differ in their last dimension"
        );
        let on_device = lengths.clone();
        let lengths = check_lengths(op, lengths, sentences, t);
        let ends = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        let own = lengths.iter().zip(ends).map(|(n, end)| end - n..end).collect();
        ImageTextPairs { images, regions: n, words: t, dim, own, on_device, gamma1, gamma2 }
    }

    /// M, the words of all sentences.
    fn columns(&self) -> usize {
        self.own.last().map_or(0, |own| own.end)
    }
}

/// Scores of all pairs as a whole: code [I,D], sentence [J,D] -> [I,J], <code_i, sentence_j> / (|code_i| |sentence_j|).
#[track_caller]
pub fn cosine_scores(code: &Tensor, sentence: &Tensor) -> Tensor {
    let ([i, d], [j, other]) = (code.dims(), sentence.dims());
    assert_eq!(
        d,
        other,
        "cosine_scores: {:?} and {:?} differ in their width",
        code.shape(),
        sentence.shape()
    );
    let (mut scores, mut norms) = (code.new_empty_f32([i, j]), code.new_empty_f32([i + j]));
    let ins = [code, sentence];
    let sizes = [i, j, d].map(|n| n as i32);
    run(
        "cosine_scores_fwd",
        [&mut scores, &mut norms],
        ins,
        |outs, ins| cpu::cosine_scores(outs, ins, d),
        |g, [scores, norms], [code, sentence]| {
            let [images, sentences, dim] = sizes;
            let grid = Grid::elements(32 * i * j);
            k::cosine_scores_fwd(g, grid, scores, norms, code, sentence, images, sentences, dim);
        },
    );
    let saved = [code, sentence, &scores, &norms].map(Tensor::detach);
    record1(scores, ins, move |dy, [wc, ws]| {
        let [code, sentence, scores, norms] = &saved;
        let (mut dc, mut ds) = (code.new_empty(code.shape()), sentence.new_empty(sentence.shape()));
        run(
            "cosine_scores_bwd",
            [&mut dc, &mut ds],
            [code, sentence, scores, norms, &dy],
            |outs, ins| cpu::cosine_scores_bwd(outs, ins, d),
            |g, [dc, ds], [code, sentence, scores, norms, dy]| {
                let ([images, sentences, dim], grid) = (sizes, Grid::new([i + j, 1, 1], 256));
                k::cosine_scores_bwd(
                    g, grid, dc, ds, code, sentence, scores, norms, dy, images, sentences, dim,
                );
            },
        );
        [wc.then_some(dc), ws.then_some(ds)]
    })
}

/// The match as a classification, both ways: scores [B,B], classes [B] -> (over the rows, over the columns).
///
/// rows = -1/B Σ_i ln softmax_j(gamma3 · scores_ij) at j = i, columns alike down the columns (equations 11 to 13).
/// ImageTextPairs of one class other than the match itself are left out of the softmax.
#[track_caller]
pub fn matching_loss(scores: &Tensor, gamma3: f32, classes: Option<&IntTensor>) -> (Tensor, Tensor) {
    let [b, columns] = scores.dims();
    assert_eq!(
        b,
        columns,
        "matching_loss: the scores {:?} are not of as many images as sentences",
        scores.shape()
    );
    if let Some(classes) = classes {
        let shape = classes.shape();
        assert_eq!(
            *shape,
            [b],
            "matching_loss: classes {shape:?} do not fit the scores {:?}",
            scores.shape()
        );
    }
    let (mut by_rows, mut by_columns) = (scores.new_empty([]), scores.new_empty([]));
    let (mut p, mut q) = (scores.new_empty([b, b]), scores.new_empty([b, b]));
    run(
        "matching_loss_fwd",
        [&mut by_rows, &mut by_columns, &mut p, &mut q],
        [scores],
        |outs, [scores]| cpu::matching_loss(outs, scores, b, gamma3, classes.map(IntTensor::as_slice)),
        |g, [by_rows, by_columns, p, q], [scores]| {
            let (classes, mut losses) = (classes.map(|c| c.on(g)), g.scratch(2 * b));
            let grid = Grid::elements(32 * 2 * b);
            k::matching_loss_fwd(g, grid, losses.out(), p, q, scores, classes, b as i32, gamma3);
            k::matching_loss_mean(g, Grid::new([1, 1, 1], 32), by_rows, by_columns, losses.view(), b as i32);
        },
    );
    let [by_rows, by_columns] = record([by_rows, by_columns], [scores], move |dys, _| {
        let mut ds = p.new_empty([b, b]);
        run(
            "matching_loss_bwd",
            [&mut ds],
            ([&p, &q], dys.each_ref().map(Option::as_ref)),
            |[ds], (probabilities, dys)| cpu::matching_loss_bwd(ds, probabilities, dys, b, gamma3),
            |g, [ds], ([p, q], [dr, dc])| {
                k::matching_loss_bwd(g, Grid::elements(b * b), ds, p, q, dr, dc, b as i32, gamma3);
            },
        );
        [Some(ds)]
    });
    (by_rows, by_columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    fn softmax(x: impl Iterator<Item = f32>) -> Vec<f32> {
        let x: Vec<f32> = x.map(f32::exp).collect();
        let sum: f32 = x.iter().sum();
        x.iter().map(|x| x / sum).collect()
    }

    fn naive_cosine(a: &[f32], b: &[f32]) -> f32 {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        product(a, b) / (product(a, a).sqrt() * product(b, b).sqrt())
    }

    /// alpha[t][n] of one image and one sentence, each given as its rows.
    fn naive_weights(words: &[&[f32]], regions: &[&[f32]], gamma1: f32) -> Vec<Vec<f32>> {
        let s: Vec<Vec<f32>> = regions
            .iter()
            .map(|r| softmax(words.iter().map(|w| w.iter().zip(*r).map(|(a, b)| a * b).sum())))
            .collect();
        (0..words.len()).map(|t| softmax(s.iter().map(|s| gamma1 * s[t]))).collect()
    }

    fn naive_score(words: &[&[f32]], regions: &[&[f32]], gamma1: f32, gamma2: f32) -> f32 {
        let weights = naive_weights(words, regions, gamma1);
        let cosine = |(word, alpha): (&&[f32], &Vec<f32>)| {
            let context = (0..word.len()).map(|d| alpha.iter().zip(regions).map(|(a, r)| a * r[d]).sum());
            naive_cosine(word, &context.collect::<Vec<f32>>())
        };
        words.iter().zip(&weights).map(cosine).map(|c| (gamma2 * c).exp()).sum::<f32>().ln()
    }

    #[test]
    fn every_image_meets_every_sentence() {
        let ([b, t, n, d], lengths, mut rng) = ([3, 5, 11, 13], [5, 1, 4], Rng::new(6, 0));
        let (words, regions) = (rng.uniform([b, t, d], -1.0, 1.0), rng.uniform([b, n, d], -1.0, 1.0));
        let ids = IntTensor::new(lengths.map(|n| n as i32).to_vec(), [b]);
        let scores = word_scores(&words, &ids, &regions, 4.0, 5.0);
        for i in 0..b {
            let regions: Vec<&[f32]> = regions.as_slice()[i * n * d..][..n * d].chunks(d).collect();
            for (j, &length) in lengths.iter().enumerate() {
                let words: Vec<&[f32]> = words.as_slice()[j * t * d..][..length * d].chunks(d).collect();
                let expected = naive_score(&words, &regions, 4.0, 5.0);
                let score = scores.as_slice()[i * b + j];
                assert!(
                    (score - expected).abs() < 1e-5,
                    "image {i}, sentence {j}: {score} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn codes_meet_sentences_by_their_cosine() {
        let mut rng = Rng::new(7, 0);
        let (code, sentence) = (rng.uniform([3, 19], -1.0, 1.0), rng.uniform([4, 19], -1.0, 1.0));
        let scores = cosine_scores(&code, &sentence);
        for (at, score) in scores.as_slice().iter().enumerate() {
            let (a, b) = (&code.as_slice()[at / 4 * 19..][..19], &sentence.as_slice()[at % 4 * 19..][..19]);
            assert!((score - naive_cosine(a, b)).abs() < 1e-6);
        }
    }

    #[test]
    fn a_zero_vector_scores_zero_and_has_a_finite_gradient() {
        let (code, sentence) = (Tensor::zeros([1, 3]).leaf(), Tensor::full([1, 3], 1.0));
        let score = cosine_scores(&code, &sentence);
        assert_eq!(score.item(), 0.0);
        let grads = crate::engine::tensor::backward(&score.reshape([]), &[&code]);
        assert!(grads.get(&code).expect("the score depends on it").all_finite());
    }

    #[test]
    fn one_class_leaves_only_the_match() {
        let scores = Rng::new(8, 0).uniform([3, 3], -1.0, 1.0);
        let (rows, columns) = matching_loss(&scores, 10.0, Some(&IntTensor::new(vec![4; 3], [3])));
        assert!(rows.item().abs() < 1e-6 && columns.item().abs() < 1e-6);
    }

    #[test]
    fn the_two_ways_are_each_other_of_the_transpose() {
        let scores = Tensor::from_vec(vec![1.0, 0.2, -0.3, 0.5], [2, 2]);
        let turned = Tensor::from_vec(vec![1.0, -0.3, 0.2, 0.5], [2, 2]);
        let ((rows, columns), (r, c)) =
            (matching_loss(&scores, 3.0, None), matching_loss(&turned, 3.0, None));
        assert_eq!((rows.item(), columns.item()), (c.item(), r.item()));
        let expected = ((1.0 + (-2.4f32).exp()).ln() + (1.0 + (-2.4f32).exp()).ln()) / 2.0;
        assert!((rows.item() - expected).abs() < 1e-6);
    }
}
