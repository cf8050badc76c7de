//! Attention of an image's pixels to the words of its caption, and to the caption as a whole.

use rayon::prelude::*;

use super::Case;
use super::matmul::{Mat, gemm};
use super::rnn::row_lengths;
use crate::engine::device::cpu::Buffer;
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Ids, Kernel, Tensor, run};

/// Pixels that one piece of work takes: their rows stay in the cache from the first product to the last.
const BLOCK: usize = 512;

/// Word attention: h [B,H,W,C], words [B,T,D], w [C,D], lengths [B] -> context [B,H,W,C], beta [B,H,W,T].
///
/// e_t = w·word_t;  beta_n = softmax_t <h_n, e_t> over the row's own words;  context_n = Σ_t beta_nt e_t.
/// Xu et al., "AttnGAN", CVPR 2018, F_attn of section 3.1. The weights beta are off the tape, zero beyond the length.
#[track_caller]
pub fn word_attention(h: &Tensor, words: &Tensor, w: &Tensor, lengths: &Ids) -> (Tensor, Tensor) {
    let d = Words::new(h, words, w, lengths);
    let (mut e, mut context) = (h.empty([d.images, d.words, d.channels]), h.empty(h.shape()));
    let mut beta = h.empty(h.shape().with_last(d.words));
    run("word_attention_project", [&mut e], [words, w], |[e], [words, w]| d.project(e, words, w));
    let flops = 4.0 * (h.len() * d.words) as f64;
    run(Kernel::new("word_attention_fwd", flops), [&mut context, &mut beta], [h, &e], |[c, beta], [h, e]| {
        for_blocks(d.images, (c, BLOCK * d.channels), (beta, BLOCK * d.words), |image, block, c, beta| {
            d.attend(image, c, beta, block_of(h, d.pixels, d.channels, image, block), e);
        });
    });
    let (saved, weights) = ([h, words, w].map(Tensor::detach), beta.clone());
    let context = record1(context, [h, words, w], move |dy, [wh, wwords, ww]| {
        let [h, words, w] = &saved;
        let [dh, de] = word_attention_bwd(&d, h, &e, &weights, &dy, [wh, wwords || ww]);
        let de = || de.as_ref().expect("computed where words or weights are wanted");
        [
            dh,
            wwords.then(|| d.words_gradient(de(), words, w)),
            ww.then(|| d.projection_gradient(de(), words, w)),
        ]
    });
    (context, beta)
}

/// The gradients of h and, summed over the blocks in their order, of e.
fn word_attention_bwd(
    d: &Words,
    h: &Tensor,
    e: &Tensor,
    beta: &Tensor,
    dy: &Tensor,
    [wanted_h, wanted_e]: [bool; 2],
) -> [Option<Tensor>; 2] {
    let (mut dh, mut de) = (h.empty(h.shape()), e.empty(e.shape()));
    let (t, c) = (d.words, d.channels);
    let flops = 10.0 * (h.len() * t) as f64;
    run(
        Kernel::new("word_attention_bwd", flops),
        [&mut dh, &mut de],
        [h, e, beta, dy],
        |[dh, de], [h, e, beta, dy]| {
            let mut partial = Buffer::uninit(d.images * d.pixels.div_ceil(BLOCK) * t * c);
            let pieces = (partial.as_mut_slice(), t * c);
            for_blocks(d.images, (dh, BLOCK * c), pieces, |image, block, dh, de| {
                let [h, dy] = [h, dy].map(|x| block_of(x, d.pixels, c, image, block));
                let beta = block_of(beta, d.pixels, t, image, block);
                let (pixels, e) = (beta.len() / t, Mat::rows(&e[image * t * c..], t, c));
                let mut ds = vec![0.0; beta.len()];
                gemm(&mut ds, t, Mat::rows(dy, pixels, c), e.t(), false, false);
                softmax_rows_bwd(&mut ds, beta, t);
                if wanted_h {
                    gemm(dh, c, Mat::rows(&ds, pixels, t), e, false, false);
                }
                if wanted_e {
                    gemm(de, c, Mat::rows(&ds, pixels, t).t(), Mat::rows(h, pixels, c), false, false);
                    gemm(de, c, Mat::rows(beta, pixels, t).t(), Mat::rows(dy, pixels, c), true, false);
                }
            });
            for (de, partial) in de.chunks_mut(t * c).zip(chunks_of(partial.as_slice(), d.images)) {
                sum_rows(de, partial);
            }
        },
    );
    [wanted_h.then_some(dh), wanted_e.then_some(de)]
}

/// The sizes of a word attention.
struct Words {
    images: usize,
    pixels: usize,
    channels: usize,
    words: usize,
    dim: usize,
    lengths: Vec<usize>,
}

impl Words {
    #[track_caller]
    fn new(h: &Tensor, words: &Tensor, w: &Tensor, lengths: &Ids) -> Words {
        let ([b, height, width, c], [sentences, t, dim]) = (h.dims(), words.dims());
        let (h, words, w) = (h.shape(), words.shape(), w.shape());
        assert_eq!(b, sentences, "word_attention: {h:?} and words {words:?} differ in their number of rows");
        assert_eq!(*w, [c, dim], "word_attention: weights {w:?} do not take words {words:?} to {h:?}");
        let lengths = row_lengths("word_attention", lengths, b, t);
        Words { images: b, pixels: height * width, channels: c, words: t, dim, lengths }
    }

    /// e[B,T,C] = words[B,T,D] wᵀ, zero beyond the length.
    fn project(&self, e: &mut [f32], words: &[f32], w: &[f32]) {
        let (t, c) = (self.words, self.channels);
        let words = Mat::rows(words, self.images * t, self.dim);
        gemm(e, c, words, Mat::rows(w, c, self.dim).t(), false, true);
        for (e, &length) in e.chunks_mut(t * c).zip(&self.lengths) {
            e[length * c..].fill(0.0);
        }
    }

    /// One block of pixels: beta = softmax(h·eᵀ), context = beta·e.
    fn attend(&self, image: usize, context: &mut [f32], beta: &mut [f32], h: &[f32], e: &[f32]) {
        let (t, c) = (self.words, self.channels);
        let (pixels, e) = (beta.len() / t, Mat::rows(&e[image * t * c..], t, c));
        gemm(beta, t, Mat::rows(h, pixels, c), e.t(), false, false);
        softmax_rows(beta, t, self.lengths[image]);
        gemm(context, c, Mat::rows(beta, pixels, t), e, false, false);
    }

    /// dwords[B,T,D] = de[B,T,C] w. Beyond the length beta is zero, and so is de.
    fn words_gradient(&self, de: &Tensor, words: &Tensor, w: &Tensor) -> Tensor {
        let (rows, mut dwords) = (self.images * self.words, words.empty(words.shape()));
        run("word_attention_bwd_words", [&mut dwords], [de, w], |[dwords], [de, w]| {
            let (de, w) = (Mat::rows(de, rows, self.channels), Mat::rows(w, self.channels, self.dim));
            gemm(dwords, self.dim, de, w, false, true);
        });
        dwords
    }

    /// dw[C,D] = deᵀ words
    fn projection_gradient(&self, de: &Tensor, words: &Tensor, w: &Tensor) -> Tensor {
        let (rows, mut dw) = (self.images * self.words, w.empty(w.shape()));
        run("word_attention_bwd_w", [&mut dw], [de, words], |[dw], [de, words]| {
            let (de, words) = (Mat::rows(de, rows, self.channels), Mat::rows(words, rows, self.dim));
            gemm(dw, self.dim, de.t(), words, false, true);
        });
        dw
    }
}

/// Sentence attention: h [B,H,W,C], s [B,C], w [C,C] -> y [B,H,W,C].
///
/// y_n = s · softmax_channels(w (h_n · s)), products element by element.
/// Qiao et al., "MirrorGAN", CVPR 2019, the sentence level of equation 4.
#[track_caller]
pub fn sentence_attention(h: &Tensor, s: &Tensor, w: &Tensor) -> Tensor {
    let d = Channels::new(h, s, w);
    let c = d.channels;
    let mut y = h.empty(h.shape());
    let flops = 2.0 * (h.len() * c) as f64;
    run(Kernel::new("sentence_attention_fwd", flops), [&mut y], [h, s, w], |[y], [h, s, w]| {
        let mut scaled = Buffer::uninit(h.len());
        let pieces = (scaled.as_mut_slice(), BLOCK * c);
        for_blocks(d.images, (y, BLOCK * c), pieces, |image, block, y, x| {
            let s = &s[image * c..][..c];
            d.attend(y, x, block_of(h, d.pixels, c, image, block), s, w);
            y.chunks_exact_mut(c).for_each(|y| y.iter_mut().zip(s).for_each(|(y, s)| *y *= s));
        });
    });
    let saved = [h, s, w].map(Tensor::detach);
    record1(y, [h, s, w], move |dy, wanted| {
        let [h, s, w] = &saved;
        sentence_attention_bwd(&d, h, s, w, &dy, wanted)
    })
}

/// Attends again rather than keep the weights, which are as large as h.
fn sentence_attention_bwd(
    d: &Channels,
    h: &Tensor,
    s: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    [wanted_h, wanted_s, wanted_w]: [bool; 3],
) -> [Option<Tensor>; 3] {
    let c = d.channels;
    let (mut dh, mut ds, mut dw) = (h.empty(h.shape()), s.empty(s.shape()), w.empty(w.shape()));
    run(
        Kernel::new("sentence_attention_bwd", 6.0 * (h.len() * c) as f64),
        [&mut dh, &mut ds, &mut dw],
        [h, s, w, dy],
        |[dh, ds, dw], [h, s, w, dy]| {
            let blocks = d.images * d.pixels.div_ceil(BLOCK);
            let (piece, mut partial) = (c + c * c, Buffer::uninit(blocks * (c + c * c)));
            let pieces = (partial.as_mut_slice(), piece);
            for_blocks(d.images, (dh, BLOCK * c), pieces, |image, block, dh, sums| {
                let [h, dy] = [h, dy].map(|x| block_of(x, d.pixels, c, image, block));
                let (ds, dw) = sums.split_at_mut(c);
                d.attend_bwd(dh, ds, wanted_w.then_some(dw), [h, &s[image * c..][..c], w, dy]);
            });
            dw.fill(0.0);
            for (ds, partial) in ds.chunks_mut(c).zip(chunks_of(partial.as_slice(), d.images)) {
                ds.fill(0.0);
                for (ds_block, dw_block) in partial.chunks_exact(piece).map(|p| p.split_at(c)) {
                    add(ds, ds_block);
                    if wanted_w {
                        add(dw, dw_block);
                    }
                }
            }
        },
    );
    [wanted_h.then_some(dh), wanted_s.then_some(ds), wanted_w.then_some(dw)]
}

/// The sizes of a sentence attention.
struct Channels {
    images: usize,
    pixels: usize,
    channels: usize,
}

impl Channels {
    #[track_caller]
    fn new(h: &Tensor, s: &Tensor, w: &Tensor) -> Channels {
        let [b, height, width, c] = h.dims();
        let (h, s, w) = (h.shape(), s.shape(), w.shape());
        assert_eq!(*s, [b, c], "sentence_attention: the sentence {s:?} does not fit {h:?}");
        assert_eq!(*w, [c, c], "sentence_attention: weights {w:?} do not fit {h:?}");
        Channels { images: b, pixels: height * width, channels: c }
    }

    /// One block of pixels: x = h·s, a = softmax_channels(w x).
    fn attend(&self, a: &mut [f32], x: &mut [f32], h: &[f32], s: &[f32], w: &[f32]) {
        let c = self.channels;
        scale_rows(x, h, s);
        gemm(a, c, Mat::rows(x, x.len() / c, c), Mat::rows(w, c, c).t(), false, false);
        softmax_rows(a, c, c);
    }

    /// One block of pixels: writes dh, and what the block adds to ds and dw.
    fn attend_bwd(&self, dh: &mut [f32], ds: &mut [f32], dw: Option<&mut [f32]>, [h, s, w, dy]: [&[f32]; 4]) {
        let (c, pixels) = (self.channels, h.len() / self.channels);
        let (mut a, mut x) = (vec![0.0; h.len()], vec![0.0; h.len()]);
        self.attend(&mut a, &mut x, h, s, w);
        ds.fill(0.0);
        add_products(ds, dy, &a);
        let mut logits = vec![0.0; h.len()];
        scale_rows(&mut logits, dy, s);
        softmax_rows_bwd(&mut logits, &a, c);
        if let Some(dw) = dw {
            gemm(dw, c, Mat::rows(&logits, pixels, c).t(), Mat::rows(&x, pixels, c), false, false);
        }
        gemm(&mut x, c, Mat::rows(&logits, pixels, c), Mat::rows(w, c, c), false, false);
        add_products(ds, &x, h);
        scale_rows(dh, &x, s);
    }
}

/// Calls `f(image, block, piece of a, piece of b)` for every block of every image, in parallel. Each of `a` and `b`
/// comes with the size of its pieces; which piece holds what never depends on the number of threads.
fn for_blocks(
    images: usize,
    (a, a_piece): (&mut [f32], usize),
    (b, b_piece): (&mut [f32], usize),
    f: impl Fn(usize, usize, &mut [f32], &mut [f32]) + Sync + Send,
) {
    let (a_image, b_image) = (a.len() / images, b.len() / images);
    a.par_chunks_mut(a_image).zip(b.par_chunks_mut(b_image)).enumerate().for_each(|(image, (a, b))| {
        let pieces = a.par_chunks_mut(a_piece).zip(b.par_chunks_mut(b_piece));
        pieces.enumerate().for_each(|(block, (a, b))| f(image, block, a, b));
    });
}

/// The rows of one block of one image.
fn block_of(x: &[f32], pixels: usize, width: usize, image: usize, block: usize) -> &[f32] {
    let (start, rows) = (image * pixels + block * BLOCK, BLOCK.min(pixels - block * BLOCK));
    &x[start * width..][..rows * width]
}

fn chunks_of(x: &[f32], n: usize) -> std::slice::Chunks<'_, f32> {
    x.chunks(x.len() / n)
}

/// sum = Σ rows
fn sum_rows(sum: &mut [f32], rows: &[f32]) {
    sum.fill(0.0);
    rows.chunks_exact(sum.len()).for_each(|row| add(sum, row));
}

/// sum += x
pub(super) fn add(sum: &mut [f32], x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
}

/// y = x · s in every row
fn scale_rows(y: &mut [f32], x: &[f32], s: &[f32]) {
    for (y, x) in y.chunks_exact_mut(s.len()).zip(x.chunks_exact(s.len())) {
        y.iter_mut().zip(x.iter().zip(s)).for_each(|(y, (x, s))| *y = x * s);
    }
}

/// sum += a · b, over all rows
fn add_products(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for (a, b) in a.chunks_exact(sum.len()).zip(b.chunks_exact(sum.len())) {
        sum.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s += a * b);
    }
}

/// Softmax over the first `valid` of each row of `width`; the rest become zero.
fn softmax_rows(x: &mut [f32], width: usize, valid: usize) {
    x.chunks_exact_mut(width).for_each(|row| centre(row, valid));
    // One pass over all rows: the rows alone are too short for wide vectors.
    x.iter_mut().for_each(|x| *x = x.exp());
    x.chunks_exact_mut(width).for_each(|row| normalise(row, valid));
}

/// d = p · (d - <d, p>) in every row: from the gradient of a softmax's outputs p to that of its inputs.
fn softmax_rows_bwd(d: &mut [f32], p: &[f32], width: usize) {
    for (d, p) in d.chunks_exact_mut(width).zip(p.chunks_exact(width)) {
        let mean = dot(d, p);
        d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean));
    }
}

/// Takes the largest of the first `valid` from each of them; the rest become zero.
pub(super) fn centre(row: &mut [f32], valid: usize) {
    let (row, rest) = row.split_at_mut(valid);
    let largest = fold(row, row[0], |a, b| if a > b { a } else { b });
    row.iter_mut().for_each(|x| *x -= largest);
    rest.fill(0.0);
}

/// Scales the first `valid` to a sum of one; the rest become zero.
pub(super) fn normalise(row: &mut [f32], valid: usize) {
    let (row, rest) = row.split_at_mut(valid);
    let scale = 1.0 / fold(row, 0.0, |a, b| a + b);
    row.iter_mut().for_each(|x| *x *= scale);
    rest.fill(0.0);
}

const LANES: usize = 8;

/// Σ a·b, in lanes, so that it vectorises.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        (0..LANES).for_each(|l| sums[l] += a[l] * b[l]);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// All of x folded into one, in lanes that each begin with `first`.
fn fold(x: &[f32], first: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let (lanes, rest) = x.as_chunks::<LANES>();
    let mut all = [first; LANES];
    for x in lanes {
        (0..LANES).for_each(|l| all[l] = f(all[l], x[l]));
    }
    all.into_iter().chain(rest.iter().copied()).reduce(f).unwrap_or(first)
}

pub fn cases() -> Vec<Case> {
    fn words(x: &[Tensor], lengths: &[i32]) -> (Tensor, Tensor) {
        word_attention(&x[0], &x[1], &x[2], &Ids::new(lengths.to_vec(), [lengths.len()]))
    }
    let sentence = |x: &[Tensor]| vec![sentence_attention(&x[0], &x[1], &x[2])];
    vec![
        Case::new("word_attention", "unequal lengths", |x| vec![words(x, &[4, 1, 3]).0])
            .input([3, 3, 5, 6])
            .input([3, 4, 5])
            .input([6, 5]),
        Case::new("word_attention", "one word", |x| vec![words(x, &[1, 1]).0])
            .input([2, 2, 2, 3])
            .input([2, 1, 4])
            .input([3, 4]),
        Case::new("word_attention", "many words", |x| vec![words(x, &[18, 11]).0])
            .input([2, 3, 3, 9])
            .input([2, 18, 7])
            .input([9, 7]),
        Case::new("word_attention", "weights", |x| vec![words(x, &[1, 3]).1])
            .constant([2, 2, 3, 6], -1.0, 1.0)
            .constant([2, 3, 5], -1.0, 1.0)
            .constant([6, 5], -1.0, 1.0),
        Case::new("sentence_attention", "", sentence).input([3, 3, 5, 6]).input([3, 6]).input([6, 6]),
        Case::new("sentence_attention", "many channels", sentence)
            .input([2, 2, 3, 17])
            .input([2, 17])
            .input([17, 17]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::{Rng, backward};

    fn softmax(x: &[f32]) -> Vec<f32> {
        let sum: f32 = x.iter().map(|x| x.exp()).sum();
        x.iter().map(|x| x.exp() / sum).collect()
    }

    fn product(w: &[f32], x: &[f32]) -> Vec<f32> {
        w.chunks(x.len()).map(|w| w.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    /// More pixels than a block, in an image whose last block is not full.
    const SIDES: [usize; 2] = [23, 31];

    #[test]
    fn words_are_weighed_within_the_length() {
        let (mut rng, [height, width]) = (Rng::new(3, 0), SIDES);
        let (h, words) = (rng.uniform([2, height, width, 5], -1.0, 1.0), rng.uniform([2, 4, 6], -1.0, 1.0));
        let w = rng.uniform([5, 6], -1.0, 1.0);
        let lengths = [3, 4];
        let (context, beta) = word_attention(&h, &words, &w, &Ids::new(vec![3, 4], [2]));
        for n in 0..2 * height * width {
            let (b, h) = (n / (height * width), &h.as_slice()[n * 5..][..5]);
            let e: Vec<Vec<f32>> = (0..lengths[b])
                .map(|t| product(w.as_slice(), &words.as_slice()[(b * 4 + t) * 6..][..6]))
                .collect();
            let scores: Vec<f32> = e.iter().map(|e| product(e, h)[0]).collect();
            let mut expected = softmax(&scores);
            for c in 0..5 {
                let value: f32 = expected.iter().zip(&e).map(|(p, e)| p * e[c]).sum();
                assert!((context.as_slice()[n * 5 + c] - value).abs() < 1e-5);
            }
            expected.resize(4, 0.0);
            let row = &beta.as_slice()[n * 4..][..4];
            row.iter()
                .zip(&expected)
                .for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{row:?} {expected:?}"));
        }
    }

    #[test]
    fn the_sentence_is_weighed_over_channels() {
        let (mut rng, [height, width]) = (Rng::new(4, 0), SIDES);
        let (h, s) = (rng.uniform([2, height, width, 5], -1.0, 1.0), rng.uniform([2, 5], -1.0, 1.0));
        let w = rng.uniform([5, 5], -1.0, 1.0);
        let y = sentence_attention(&h, &s, &w);
        for n in 0..2 * height * width {
            let s = &s.as_slice()[n / (height * width) * 5..][..5];
            let x: Vec<f32> = h.as_slice()[n * 5..][..5].iter().zip(s).map(|(h, s)| h * s).collect();
            for (c, p) in softmax(&product(w.as_slice(), &x)).iter().enumerate() {
                assert!((y.as_slice()[n * 5 + c] - p * s[c]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn gradients_do_not_depend_on_how_pixels_fall_into_blocks() {
        let (mut rng, [height, width]) = (Rng::new(5, 0), SIDES);
        let half = rng.uniform([1, height, width, 4], -1.0, 1.0);
        let twice = Tensor::from_vec([half.to_vec(), half.to_vec()].concat(), [1, 2 * height, width, 4]);
        let (words, w) = (rng.uniform([1, 3, 6], -1.0, 1.0).leaf(), rng.uniform([4, 6], -1.0, 1.0).leaf());
        let (s, v) = (rng.uniform([1, 4], -1.0, 1.0).leaf(), rng.uniform([4, 4], -1.0, 1.0).leaf());
        let targets = [&words, &w, &s, &v];
        let gradients = |h: &Tensor| {
            let probe = Tensor::full([h.len(), 1], 1.0);
            let (context, _) = word_attention(h, &words, &w, &Ids::new(vec![2], [1]));
            let both = super::super::pointwise::add(
                &super::super::pointwise::mul(&context, h),
                &sentence_attention(h, &s, &v),
            );
            let sum = super::super::matmul::matmul(&both.reshape([1, h.len()]), &probe).reshape([]);
            let grads = backward(&sum, &targets);
            targets.map(|t| grads.get(t).expect("the sum depends on it").to_vec())
        };
        for (once, twice) in gradients(&half).iter().flatten().zip(gradients(&twice).iter().flatten()) {
            assert!((2.0 * once - twice).abs() < 1e-4 * twice.abs().max(1.0), "{once} {twice}");
        }
    }

    #[test]
    #[should_panic(expected = "word_attention: row 1 has length 0, but a row has 1 to 4 words")]
    fn a_caption_without_words_is_refused() {
        let (h, words) = (Tensor::zeros([2, 3, 3, 5]), Tensor::zeros([2, 4, 6]));
        word_attention(&h, &words, &Tensor::zeros([5, 6]), &Ids::new(vec![4, 0], [2]));
    }
}
