//! Attention on the CPU, by blocks of pixels.

use rayon::prelude::*;

use super::{ChannelAttention, CrossAttention};
use crate::engine::device::cpu::Buffer;
use crate::engine::ops::matmul::{gemm, Mat};
use crate::engine::ops::rows::{add, add_products, scale_rows, softmax_rows, softmax_rows_bwd, sum_rows};

/// Pixels of a block: their rows stay in the cache from the first product to the last.
const BLOCK: usize = 512;

/// Calls `f(image, block, piece of a, piece of b)` for every block of every image, in parallel. Which piece holds what
/// never depends on the number of threads.
fn for_blocks<A: Send, B: Send>(
    blocks: usize,
    a: Vec<A>,
    b: Vec<B>,
    f: impl Fn(usize, usize, A, B) + Sync + Send,
) {
    let pieces = a.into_par_iter().zip(b);
    pieces.enumerate().for_each(|(i, (a, b))| f(i / blocks, i % blocks, a, b));
}

/// The pieces of x, one for every block of every image.
fn pieces(x: &mut [f32], images: usize, piece: usize) -> Vec<&mut [f32]> {
    let image = x.len() / images;
    x.chunks_mut(image).flat_map(|image| image.chunks_mut(piece)).collect()
}

/// [`pieces`] of what may be absent: then `count` absent pieces.
fn optional_pieces(x: Option<&mut [f32]>, images: usize, piece: usize, count: usize) -> Vec<Option<&mut [f32]>> {
    match x {
        Some(x) => pieces(x, images, piece).into_iter().map(Some).collect(),
        None => (0..count).map(|_| None).collect(),
    }
}

/// The rows of one block of one image.
fn block_of(x: &[f32], pixels: usize, width: usize, image: usize, block: usize) -> &[f32] {
    let (start, rows) = (image * pixels + block * BLOCK, BLOCK.min(pixels - block * BLOCK));
    &x[start * width..][..rows * width]
}

fn chunks_of(x: &[f32], n: usize) -> std::slice::Chunks<'_, f32> {
    x.chunks(x.len() / n)
}

/// weights = softmax(x·eᵀ), context = weights·e.
pub(super) fn cross_attention(d: &CrossAttention, context: &mut [f32], weights: &mut [f32], x: &[f32], e: &[f32]) {
    let (t, c) = (d.keys, d.channels);
    let (context, weights) =
        (pieces(context, d.images, BLOCK * c), pieces(weights, d.images, BLOCK * t));
    for_blocks(d.pixels.div_ceil(BLOCK), context, weights, |image, block, context, weights| {
        let x = block_of(x, d.pixels, c, image, block);
        let (pixels, e) = (weights.len() / t, Mat::rows(&e[image * t * c..], t, c));
        gemm(weights, t, Mat::rows(x, pixels, c), e.t(), false, false);
        softmax_rows(weights, t, d.lengths[image]);
        gemm(context, c, Mat::rows(weights, pixels, t), e, false, false);
    });
}

pub(super) fn cross_attention_bwd(
    d: &CrossAttention,
    [dx, de]: [Option<&mut [f32]>; 2],
    [x, e, weights, dy]: [&[f32]; 4],
) {
    let (t, c, blocks) = (d.keys, d.channels, d.pixels.div_ceil(BLOCK));
    let mut partial = de.as_ref().map(|_| Buffer::uninit(d.images * blocks * t * c));
    let dx = optional_pieces(dx, d.images, BLOCK * c, d.images * blocks);
    let de_blocks =
        optional_pieces(partial.as_mut().map(Buffer::as_mut_slice), d.images, t * c, d.images * blocks);
    for_blocks(blocks, dx, de_blocks, |image, block, dx, de| {
        let [x, dy] = [x, dy].map(|x| block_of(x, d.pixels, c, image, block));
        let weights = block_of(weights, d.pixels, t, image, block);
        let (pixels, e) = (weights.len() / t, Mat::rows(&e[image * t * c..], t, c));
        let mut dscores = vec![0.0; weights.len()];
        gemm(&mut dscores, t, Mat::rows(dy, pixels, c), e.t(), false, false);
        softmax_rows_bwd(&mut dscores, weights, t);
        if let Some(dx) = dx {
            gemm(dx, c, Mat::rows(&dscores, pixels, t), e, false, false);
        }
        if let Some(de) = de {
            gemm(de, c, Mat::rows(&dscores, pixels, t).t(), Mat::rows(x, pixels, c), false, false);
            gemm(de, c, Mat::rows(weights, pixels, t).t(), Mat::rows(dy, pixels, c), true, false);
        }
    });
    if let (Some(de), Some(partial)) = (de, partial) {
        for (de, partial) in de.chunks_mut(t * c).zip(chunks_of(partial.as_slice(), d.images)) {
            sum_rows(de, partial);
        }
    }
}

pub(super) fn channel_attention(d: &ChannelAttention, y: &mut [f32], [x, s, w]: [&[f32]; 3]) {
    let c = d.channels;
    let y = pieces(y, d.images, BLOCK * c);
    let nothing = vec![(); y.len()];
    for_blocks(d.pixels.div_ceil(BLOCK), y, nothing, |image, block, y, ()| {
        let (s, mut scaled) = (&s[image * c..][..c], vec![0.0; y.len()]);
        softmax_of_block(y, &mut scaled, block_of(x, d.pixels, c, image, block), s, w);
        y.chunks_exact_mut(c).for_each(|y| y.iter_mut().zip(s).for_each(|(y, s)| *y *= s));
    });
}

/// One block of pixels: scaled = x·s, a = softmax_channels(w scaled).
fn softmax_of_block(a: &mut [f32], scaled: &mut [f32], x: &[f32], s: &[f32], w: &[f32]) {
    let c = s.len();
    scale_rows(scaled, x, s);
    gemm(a, c, Mat::rows(scaled, scaled.len() / c, c), Mat::rows(w, c, c).t(), false, false);
    softmax_rows(a, c, c);
}

pub(super) fn channel_attention_bwd(
    d: &ChannelAttention,
    [dx, ds, dw]: [Option<&mut [f32]>; 3],
    [x, s, w, dy]: [&[f32]; 4],
) {
    let (c, blocks) = (d.channels, d.pixels.div_ceil(BLOCK));
    let (piece, wanted_w) = (c + c * c, dw.is_some());
    let mut partial = Buffer::uninit(d.images * blocks * piece);
    let dx = optional_pieces(dx, d.images, BLOCK * c, d.images * blocks);
    let sums = pieces(partial.as_mut_slice(), d.images, piece);
    for_blocks(blocks, dx, sums, |image, block, dx, sums| {
        let [x, dy] = [x, dy].map(|x| block_of(x, d.pixels, c, image, block));
        let (ds, dw) = sums.split_at_mut(c);
        channel_attention_block_bwd([dx, wanted_w.then_some(dw)], ds, [x, &s[image * c..][..c], w, dy]);
    });
    let partial = partial.as_slice();
    if let Some(ds) = ds {
        for (ds, partial) in ds.chunks_mut(c).zip(chunks_of(partial, d.images)) {
            ds.fill(0.0);
            partial.chunks_exact(piece).for_each(|block| add(ds, &block[..c]));
        }
    }
    if let Some(dw) = dw {
        dw.fill(0.0);
        partial.chunks_exact(piece).for_each(|block| add(dw, &block[c..]));
    }
}

/// One block of pixels: writes dx, and what the block adds to ds and dw.
fn channel_attention_block_bwd(
    [dx, dw]: [Option<&mut [f32]>; 2],
    ds: &mut [f32],
    [x, s, w, dy]: [&[f32]; 4],
) {
    let (c, pixels) = (s.len(), x.len() / s.len());
    let (mut a, mut scaled) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    softmax_of_block(&mut a, &mut scaled, x, s, w);
    ds.fill(0.0);
    add_products(ds, dy, &a);
    let mut dlogits = vec![0.0; x.len()];
    scale_rows(&mut dlogits, dy, s);
    softmax_rows_bwd(&mut dlogits, &a, c);
    if let Some(dw) = dw {
        gemm(dw, c, Mat::rows(&dlogits, pixels, c).t(), Mat::rows(&scaled, pixels, c), false, false);
    }
    let mut dscaled = scaled;
    gemm(&mut dscaled, c, Mat::rows(&dlogits, pixels, c), Mat::rows(w, c, c), false, false);
    add_products(ds, &dscaled, x);
    if let Some(dx) = dx {
        scale_rows(dx, &dscaled, s);
    }
}
