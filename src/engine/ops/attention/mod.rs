//! Attention of an image's pixels to the words of its caption, and to the caption as a whole.

use rayon::prelude::*;

use crate::engine::ops::Case;
use crate::engine::ops::gemm::{MatrixIn, MatrixOut, product};
use crate::engine::ops::matmul::{Mat, gemm};
use crate::engine::ops::pointwise::exp;
use crate::engine::ops::rnn::row_lengths;
use crate::engine::device::cpu::Buffer;
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{IntTensor, Kernel, Tensor, run};

/// Pixels that one piece of work takes: their rows stay in the cache from the first product to the last.
const BLOCK: usize = 512;

/// Word attention: h [B,H,W,C], words [B,T,D], w [C,D], lengths [B] -> context [B,H,W,C], beta [B,H,W,T].
///
/// e_t = w·word_t;  beta_n = softmax_t <h_n, e_t> over the row's own words;  context_n = Σ_t beta_nt e_t.
/// Xu et al., "AttnGAN", CVPR 2018, F_attn of section 3.1. The weights beta are off the tape, zero beyond the length.
#[track_caller]
pub fn word_attention(h: &Tensor, words: &Tensor, w: &Tensor, lengths: &IntTensor) -> (Tensor, Tensor) {
    let d = Words::new(h, words, w, lengths);
    let (mut e, mut context) = (h.new_empty_f32([d.images, d.words, d.channels]), h.new_empty(h.shape()));
    let mut beta = h.new_empty(h.shape().with_last(d.words));
    run(
        "word_attention_project",
        [&mut e],
        [words, w],
        |[e], [words, w]| d.project(e, words, w),
        |g, [e], [words, w]| d.project_on(g, e, words, w),
    );
    run(
        Kernel::new("word_attention_fwd", 4.0 * (h.len() * d.words) as f64),
        [&mut context, &mut beta],
        [h, &e],
        |[c, beta], [h, e]| {
            for_blocks(
                d.images,
                (c, BLOCK * d.channels),
                (beta, BLOCK * d.words),
                |image, block, c, beta| {
                    d.attend(image, c, beta, block_of(h, d.pixels, d.channels, image, block), e);
                },
            );
        },
        |g, [context, beta], [h, e]| {
            let (grid, dims) = d.keys().launch(g, 0);
            k::word_attention_fwd(g, grid, context, beta, h, e, d.ids.on(g), dims);
        },
    );
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
    let (mut dh, mut de) = (h.new_empty(h.shape()), e.new_empty(e.shape()));
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
        |g, [dh, de], [h, e, beta, dy]| {
            let (keys, mut ds) = (d.keys(), g.scratch(beta.len()));
            let (grid, dims) = keys.launch(g, 0);
            let dh = if wanted_h { dh } else { Out::NONE };
            k::word_attention_bwd(g, grid, dh, ds.out(), dy, e, beta, d.ids.on(g), dims);
            if wanted_e {
                keys.sum_over_pixels(g, de, 20, |grid, partial, sums| {
                    k::word_attention_bwd_e(g, grid, partial, ds.view(), h, beta, dy, sums);
                });
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
    /// The lengths again, for a GPU.
    ids: IntTensor,
}

impl Words {
    #[track_caller]
    fn new(h: &Tensor, words: &Tensor, w: &Tensor, lengths: &IntTensor) -> Words {
        let ([b, height, width, c], [sentences, t, dim]) = (h.dims(), words.dims());
        let (h, words, w) = (h.shape(), words.shape(), w.shape());
        assert_eq!(b, sentences, "word_attention: {h:?} and words {words:?} differ in their number of rows");
        assert_eq!(*w, [c, dim], "word_attention: weights {w:?} do not take words {words:?} to {h:?}");
        let ids = lengths.clone();
        let lengths = row_lengths("word_attention", lengths, b, t);
        Words { images: b, pixels: height * width, channels: c, words: t, dim, lengths, ids }
    }

    fn keys(&self) -> Keys {
        Keys { images: self.images, pixels: self.pixels, channels: self.channels, keys: self.words }
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

    /// [`Words::project`] on a GPU, where rows beyond the length are never read, whatever they are.
    fn project_on(&self, g: &Gpu, e: Out, words: In, w: In) {
        let (rows, c, dim) = (self.images * self.words, self.channels, self.dim);
        let (words, w) = (MatrixIn::rows(words, dim), MatrixIn::rows(w, dim).t());
        product(g, MatrixOut::rows(e, c), words, w, [rows, c, dim], 1);
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
        let (rows, mut dwords) = (self.images * self.words, words.new_empty(words.shape()));
        let (c, dim) = (self.channels, self.dim);
        run(
            "word_attention_bwd_words",
            [&mut dwords],
            [de, w],
            |[dwords], [de, w]| gemm(dwords, dim, Mat::rows(de, rows, c), Mat::rows(w, c, dim), false, true),
            |g, [dwords], [de, w]| {
                let (de, w) = (MatrixIn::rows(de, c), MatrixIn::rows(w, dim));
                product(g, MatrixOut::rows(dwords, dim), de, w, [rows, dim, c], 1);
            },
        );
        dwords
    }

    /// dw[C,D] = deᵀ words
    fn projection_gradient(&self, de: &Tensor, words: &Tensor, w: &Tensor) -> Tensor {
        let (rows, mut dw) = (self.images * self.words, w.new_empty(w.shape()));
        let (c, dim) = (self.channels, self.dim);
        run(
            "word_attention_bwd_w",
            [&mut dw],
            [de, words],
            |[dw], [de, words]| {
                gemm(dw, dim, Mat::rows(de, rows, c).t(), Mat::rows(words, rows, dim), false, true);
            },
            |g, [dw], [de, words]| {
                let (de, words) = (MatrixIn::rows(de, c).t(), MatrixIn::rows(words, dim));
                product(g, MatrixOut::rows(dw, dim), de, words, [c, dim, rows], 1);
            },
        );
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
    let mut y = h.new_empty(h.shape());
    run(
        Kernel::new("sentence_attention_fwd", 2.0 * (h.len() * c) as f64),
        [&mut y],
        [h, s, w],
        |[y], [h, s, w]| {
            let mut scaled = Buffer::uninit(h.len());
            let pieces = (scaled.as_mut_slice(), BLOCK * c);
            for_blocks(d.images, (y, BLOCK * c), pieces, |image, block, y, x| {
                let s = &s[image * c..][..c];
                d.attend(y, x, block_of(h, d.pixels, c, image, block), s, w);
                y.chunks_exact_mut(c).for_each(|y| y.iter_mut().zip(s).for_each(|(y, s)| *y *= s));
            });
        },
        |g, [y], [h, s, w]| {
            let (grid, dims) = d.keys().launch(g, 0);
            k::sentence_attention_fwd(g, grid, y, h, s, w, dims);
        },
    );
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
    let (mut dh, mut ds, mut dw) = (h.new_empty(h.shape()), s.new_empty(s.shape()), w.new_empty(w.shape()));
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
        |g, [dh, ds, dw], [h, s, w, dy]| {
            let (keys, mut dlogits) = (d.keys(), g.scratch(h.len()));
            let blocks = keys.blocks();
            let mut direct_parts = g.scratch(d.images * blocks * c);
            let (grid, dims) = keys.launch(g, c);
            let dh = if wanted_h { dh } else { Out::NONE };
            k::sentence_attention_bwd(g, grid, dh, dlogits.out(), direct_parts.out(), h, s, w, dy, dims);
            if wanted_s || wanted_w {
                let (mut direct, mut m) = (g.scratch(d.images * c), g.scratch(d.images * c * c));
                sum_blocks(g, direct.out(), direct_parts.view(), [d.images, blocks, c]);
                keys.sum_over_pixels(g, m.out(), 32, |grid, partial, sums| {
                    k::sentence_attention_bwd_m(g, grid, partial, dlogits.view(), h, sums);
                });
                let (grid, [b, c]) = (Grid::elements((c + d.images) * c), [d.images as i32, c as i32]);
                k::sentence_attention_bwd_w(g, grid, ds, dw, m.view(), direct.view(), s, w, b, c);
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

    fn keys(&self) -> Keys {
        Keys { images: self.images, pixels: self.pixels, channels: self.channels, keys: self.channels }
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

/// Attention to so many keys an image, as the kernels see it.
struct Keys {
    images: usize,
    pixels: usize,
    channels: usize,
    keys: usize,
}

impl Keys {
    /// As in kernels/attention.cu: channels of a pixel that a thread holds, and pixels it works at.
    const CHANNELS: usize = 16;
    const PIXELS: usize = 2;

    /// Threads that share a pixel.
    fn lanes(&self) -> usize {
        self.channels.div_ceil(Self::CHANNELS).next_power_of_two().min(32)
    }

    /// Threads of a block: fewer where a column of weights is long, so that all columns fit in shared memory.
    fn threads(&self) -> usize {
        const ROOM: usize = 32 << 10;
        let bytes = |threads: usize| 4 * self.keys * (threads / self.lanes() * Self::PIXELS + 1);
        [128, 64].into_iter().find(|&threads| bytes(threads) <= ROOM).unwrap_or(32)
    }

    fn tile(&self) -> usize {
        self.threads() / self.lanes() * Self::PIXELS
    }

    /// Blocks of an image: enough of them to fill a device and few enough that each takes its keys for many pixels.
    fn blocks(&self) -> usize {
        const ALL: usize = 2048;
        self.pixels.div_ceil(self.tile()).min(ALL.div_ceil(self.images))
    }

    /// The grid of a kernel that keeps `sums` numbers besides for each slice of its threads.
    fn launch(&self, g: &Gpu, sums: usize) -> (Grid, k::AttentionDims) {
        let (lanes, threads) = (self.lanes(), self.threads());
        let rounds = self.channels.div_ceil(lanes * Self::CHANNELS);
        let width = rounds * lanes * Self::CHANNELS;
        let room: usize = if g.arch() >= 80 { 64 << 10 } else { 24 << 10 };
        let together = (room / (4 * width)).clamp(1, self.keys);
        let slices = threads.checked_div(sums).map_or(0, |s| s.max(1));
        let numbers = together * width + self.keys * (self.tile() + 1) + slices * sums;
        let [pixels, channels, keys, lanes, rounds, together] =
            [self.pixels, self.channels, self.keys, lanes, rounds, together].map(|n| n as i32);
        let dims = k::AttentionDims { pixels, channels, keys, lanes, rounds, together };
        (Grid::new([self.blocks(), self.images, 1], threads).shared(4 * numbers), dims)
    }

    /// sum [B,T,C] of products over all pixels. `launch(grid, partial, dims)` sums over each block of pixels; a block of
    /// threads takes `together` keys and 32 channels.
    fn sum_over_pixels(
        &self,
        g: &Gpu,
        sum: Out,
        together: usize,
        launch: impl FnOnce(Grid, Out, k::PixelSums),
    ) {
        const BLOCKS: usize = 512;
        let block = (self.images * self.pixels / BLOCKS).next_power_of_two().clamp(128, 4096);
        let (blocks, n) = (self.pixels.div_ceil(block), self.keys * self.channels);
        let mut partial = g.scratch(self.images * blocks * n);
        let panels = self.keys.div_ceil(together) * self.channels.div_ceil(32);
        let [pixels, block, keys, channels] =
            [self.pixels, block, self.keys, self.channels].map(|n| n as i32);
        let dims = k::PixelSums { pixels, block, keys, channels };
        launch(Grid::new([blocks, panels, self.images], 128), partial.out(), dims);
        sum_blocks(g, sum, partial.view(), [self.images, blocks, n]);
    }
}

/// sum [B,N] of partial [B,blocks,N] over the blocks, in their order.
fn sum_blocks(g: &Gpu, sum: Out, partial: In, [images, blocks, n]: [usize; 3]) {
    let grid = Grid::elements(images * n);
    k::attention_sum(g, grid, sum, partial, images as i32, blocks as i32, n as i32);
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
    x.chunks_exact_mut(width).for_each(|row| center(row, valid));
    // One pass over all rows: the rows alone are too short for wide vectors.
    x.iter_mut().for_each(|x| *x = exp(*x));
    x.chunks_exact_mut(width).for_each(|row| normalize(row, valid));
}

/// d = p · (d - <d, p>) in every row: from the gradient of a softmax's outputs p to that of its inputs.
fn softmax_rows_bwd(d: &mut [f32], p: &[f32], width: usize) {
    for (d, p) in d.chunks_exact_mut(width).zip(p.chunks_exact(width)) {
        let mean = dot(d, p);
        d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean));
    }
}

/// Takes the largest of the first `valid` from each of them; the rest become zero.
pub(super) fn center(row: &mut [f32], valid: usize) {
    let (row, rest) = row.split_at_mut(valid);
    let largest = fold(row, row[0], |a, b| if a > b { a } else { b });
    row.iter_mut().for_each(|x| *x -= largest);
    rest.fill(0.0);
}

/// Scales the first `valid` to a sum of one; the rest become zero.
pub(super) fn normalize(row: &mut [f32], valid: usize) {
    let (row, rest) = row.split_at_mut(valid);
    let scale = 1.0 / fold(row, 0.0, |a, b| a + b);
    row.iter_mut().for_each(|x| *x *= scale);
    rest.fill(0.0);
}

const LANES: usize = 8;

/// Σ a·b, in lanes, so that it vectorizes.
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
        word_attention(&x[0], &x[1], &x[2], &IntTensor::new(lengths.to_vec(), [lengths.len()]))
    }
    fn words_and_weights(x: &[Tensor], lengths: &[i32]) -> Vec<Tensor> {
        let (context, beta) = words(x, lengths);
        vec![context, beta]
    }
    let sentence = |x: &[Tensor]| vec![sentence_attention(&x[0], &x[1], &x[2])];
    vec![
        Case::new("word_attention", "unequal lengths", |x| vec![words(x, &[4, 1, 3]).0])
            .input([3, 3, 5, 6])
            .input([3, 4, 5])
            .input([6, 5])
            .bf16(&[0, 1]),
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
            .constant([6, 5], -1.0, 1.0)
            .bf16(&[0, 1]),
        Case::new("word_attention", "a stage", |x| words_and_weights(x, &[18, 7]))
            .input([2, 24, 31, 32])
            .input([2, 18, 48])
            .input_in([32, 48], -0.3, 0.3)
            .flops(4.0 * (2 * 24 * 31 * 32 * 18) as f64)
            .bf16(&[0, 1])
            .large(),
        Case::new("word_attention", "wide", |x| words_and_weights(x, &[3, 5]))
            .input([2, 9, 16, 64])
            .input([2, 5, 32])
            .input_in([64, 32], -0.3, 0.3)
            .bf16(&[0, 1])
            .large(),
        Case::new("word_attention", "wide and long", |x| words_and_weights(x, &[70]))
            .input([1, 3, 7, 272])
            .input([1, 70, 8])
            .input_in([272, 8], -0.2, 0.2)
            .bf16(&[0, 1])
            .large(),
        Case::new("word_attention", "several rounds", |x| words_and_weights(x, &[5]))
            .input([1, 2, 7, 550])
            .input([1, 6, 8])
            .input_in([550, 8], -0.2, 0.2)
            .large(),
        Case::new("word_attention", "an odd number of channels", |x| words_and_weights(x, &[5, 18]))
            .input([2, 16, 17, 17])
            .input([2, 18, 9])
            .input([17, 9])
            .bf16(&[0, 1])
            .large(),
        Case::new("sentence_attention", "", sentence)
            .input([3, 3, 5, 6])
            .input([3, 6])
            .input([6, 6])
            .bf16(&[0, 1]),
        Case::new("sentence_attention", "many channels", sentence)
            .input([2, 2, 3, 17])
            .input([2, 17])
            .input([17, 17])
            .bf16(&[0, 1]),
        Case::new("sentence_attention", "a stage", sentence)
            .input([2, 24, 31, 32])
            .input([2, 32])
            .input([32, 32])
            .flops(2.0 * (2 * 24 * 31 * 32 * 32) as f64)
            .bf16(&[0, 1])
            .large(),
        Case::new("sentence_attention", "wide", sentence)
            .input([2, 8, 9, 64])
            .input([2, 64])
            .input([64, 64])
            .bf16(&[0, 1])
            .large(),
        Case::new("sentence_attention", "wider than a block", sentence)
            .input([1, 3, 7, 136])
            .input([1, 136])
            .input([136, 136])
            .bf16(&[0, 1])
            .large(),
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
        let (context, beta) = word_attention(&h, &words, &w, &IntTensor::new(vec![3, 4], [2]));
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
            let (context, _) = word_attention(h, &words, &w, &IntTensor::new(vec![2], [1]));
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
        word_attention(&h, &words, &Tensor::zeros([5, 6]), &IntTensor::new(vec![4, 0], [2]));
    }
}
