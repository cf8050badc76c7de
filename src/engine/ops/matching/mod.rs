//! How well images and sentences match, word by word and as a whole, over all pairs of a batch.
//!
//! Xu et al., "AttnGAN", CVPR 2018, section 3.2, equations 7 to 13.

use std::ops::Range;

use crate::engine::ops::Case;
use crate::engine::ops::attention::{add, center, dot, normalize};
use crate::engine::ops::gemm::{MatrixIn, MatrixOut, product};
use crate::engine::ops::matmul::{Mat, gemm, given};
use crate::engine::ops::pointwise::exp;
use crate::engine::ops::rnn::row_lengths;
use crate::engine::device::cpu::{Buffer, map};
use crate::engine::device::cuda::{self, Gpu, Grid, In, Ints, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{DType, IntTensor, Kernel, Tensor, record, run};

/// Norms, and products of norms, are never taken smaller.
const EPS: f32 = 1e-8;

/// Scores of all pairs by words: words [B,T,D], lengths [B], regions [B,N,D] -> [B images, B sentences].
///
/// For image i and sentence j, over the words t of the sentence's length (equations 7 to 10):
/// s_nt = softmax_t <region_n, word_t>;  alpha_nt = softmax_n(gamma1 · s_nt);  context_t = Σ_n alpha_nt region_n;
/// score = ln Σ_t exp(gamma2 · cos(word_t, context_t)). The outer 1/gamma2 of equation 10 is not taken, as published.
#[track_caller]
pub fn word_scores(words: &Tensor, lengths: &IntTensor, regions: &Tensor, gamma1: f32, gamma2: f32) -> Tensor {
    let p = Pairs::new("word_scores", words, lengths, regions, gamma1, gamma2);
    let (images, sentences) = (p.images, p.own.len());
    let mut scores = words.new_empty_f32([images, sentences]);
    let flops = 2.0 * (images * p.regions * p.columns() * p.dim) as f64;
    run(
        Kernel::new("word_scores_fwd", 2.0 * flops),
        [&mut scores],
        [words, regions],
        |[scores], [words, regions]| {
            let words = p.gather(words);
            let rows = map(images, |i| p.scores(words.as_slice(), p.image(regions, i)));
            scores.copy_from_slice(&rows.concat());
        },
        |g, [scores], [words, regions]| p.scores_on(g, scores, words, regions),
    );
    let saved = [words, regions].map(Tensor::detach);
    record1(scores, [words, regions], move |dy, [ww, wr]| {
        let [words, regions] = &saved;
        let (mut dwords, mut dregions) = (words.new_empty(words.shape()), regions.new_empty(regions.shape()));
        run(
            Kernel::new("word_scores_bwd", 6.0 * flops),
            [&mut dwords, &mut dregions],
            [words, regions, &dy],
            |[dwords, dregions], [words, regions, dy]| {
                let words = p.gather(words);
                let parts = map(images, |i| {
                    let dy = &dy[i * sentences..][..sentences];
                    p.gradients(words.as_slice(), p.image(regions, i), dy, [ww, wr])
                });
                for (part, dregions) in parts.iter().zip(dregions.chunks_mut(p.regions * p.dim)) {
                    if let Some(part) = &part.dregions {
                        dregions.copy_from_slice(part.as_slice());
                    }
                }
                p.scatter(dwords, parts.iter().filter_map(|part| part.dwords.as_ref()));
            },
            |g, [dwords, dregions], [words, regions, dy]| {
                p.gradients_on(g, [ww.then_some(dwords), wr.then_some(dregions)], [words, regions, dy]);
            },
        );
        [ww.then_some(dwords), wr.then_some(dregions)]
    })
}

/// The weights alpha of each image's regions for each word of its own sentence, off the tape:
/// words [B,T,D], lengths [B], regions [B,N,D] -> [B,T,N], zero beyond the length.
#[track_caller]
pub fn region_weights(words: &Tensor, lengths: &IntTensor, regions: &Tensor, gamma1: f32) -> Tensor {
    let p = Pairs::new("region_weights", words, lengths, regions, gamma1, 0.0);
    let (t, n) = (p.words, p.regions);
    assert_eq!(
        p.images,
        p.own.len(),
        "region_weights: words {:?} and regions {:?} are not pairs",
        words.shape(),
        regions.shape()
    );
    let mut weights = words.new_empty([p.images, t, n]);
    run(
        "region_weights",
        [&mut weights],
        [words, regions],
        |[weights], [words, regions]| {
            weights.fill(0.0);
            for (b, weights) in weights.chunks_mut(t * n).enumerate() {
                let length = p.own[b].len();
                let (own, ids) = (std::iter::once(0..length).collect(), p.ids.clone());
                let alone = Pairs { images: 1, own, ids, ..p };
                let seen = alone.attend(&words[b * t * p.dim..][..length * p.dim], p.image(regions, b));
                for (region, alpha) in seen.alpha.as_slice().chunks(length).enumerate() {
                    alpha.iter().enumerate().for_each(|(word, alpha)| weights[word * n + region] = *alpha);
                }
            }
        },
        |g, [weights], [words, regions]| p.own_weights_on(g, weights, words, regions),
    );
    weights
}

/// The sizes of a batch of images against a batch of sentences.
struct Pairs {
    images: usize,
    /// Regions of an image.
    regions: usize,
    /// Words that a sentence has room for.
    words: usize,
    dim: usize,
    /// The places of each sentence's words among the M words of all sentences, padding left out.
    own: Vec<Range<usize>>,
    /// The lengths, for a GPU.
    ids: IntTensor,
    gamma1: f32,
    gamma2: f32,
}

/// One image as all words of all sentences see it.
struct Seen {
    /// Softmax over the words [N,M].
    s: Buffer,
    /// Softmax over the regions [N,M].
    alpha: Buffer,
    /// One context for each word [M,D].
    context: Buffer,
}

/// What one image adds to the gradients.
struct Gradients {
    dwords: Option<Buffer>,
    dregions: Option<Buffer>,
}

impl Pairs {
    #[track_caller]
    fn new(op: &str, words: &Tensor, lengths: &IntTensor, regions: &Tensor, gamma1: f32, gamma2: f32) -> Pairs {
        let ([sentences, t, dim], [images, n, region_dim]) = (words.dims(), regions.dims());
        let (words, regions) = (words.shape(), regions.shape());
        assert_eq!(
            dim, region_dim,
            "{op}: words {words:?} and regions {regions:?} differ in their last dimension"
        );
        let ids = lengths.clone();
        let lengths = row_lengths(op, lengths, sentences, t);
        let ends = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        let own = lengths.iter().zip(ends).map(|(n, end)| end - n..end).collect();
        Pairs { images, regions: n, words: t, dim, own, ids, gamma1, gamma2 }
    }

    /// M, the words of all sentences.
    fn columns(&self) -> usize {
        self.own.last().map_or(0, |own| own.end)
    }

    /// [J,T,D] -> [M,D]
    fn gather(&self, words: &[f32]) -> Buffer {
        let mut own_words = Buffer::uninit(self.columns() * self.dim);
        for (own, padded) in self.own.iter().zip(words.chunks(self.words * self.dim)) {
            let own = &mut own_words.as_mut_slice()[own.start * self.dim..own.end * self.dim];
            own.copy_from_slice(&padded[..own.len()]);
        }
        own_words
    }

    /// [J,T,D] = Σ parts [M,D] in their order, zero beyond the length.
    fn scatter<'a>(&self, words: &mut [f32], parts: impl Iterator<Item = &'a Buffer>) {
        words.fill(0.0);
        for part in parts {
            for (own, padded) in self.own.iter().zip(words.chunks_mut(self.words * self.dim)) {
                add(padded, &part.as_slice()[own.start * self.dim..own.end * self.dim]);
            }
        }
    }

    fn image<'a>(&self, regions: &'a [f32], i: usize) -> &'a [f32] {
        &regions[i * self.regions * self.dim..][..self.regions * self.dim]
    }

    /// The scores of one image with every sentence.
    fn scores(&self, words: &[f32], regions: &[f32]) -> Vec<f32> {
        let seen = self.attend(words, regions);
        let score = |own: &Range<usize>| {
            let cosines = own.clone().map(|at| self.cosine(words, seen.context.as_slice(), at).value);
            log_sum_exp(cosines.map(|c| self.gamma2 * c).collect())
        };
        self.own.iter().map(score).collect()
    }

    /// Equations 7 to 9 for one image and the words of every sentence at once.
    fn attend(&self, words: &[f32], regions: &[f32]) -> Seen {
        let (n, m, d) = (self.regions, self.columns(), self.dim);
        let (mut s, mut alpha) = (Buffer::uninit(n * m), Buffer::uninit(n * m));
        let mut context = Buffer::uninit(m * d);
        gemm(s.as_mut_slice(), m, Mat::rows(regions, n, d), Mat::rows(words, m, d).t(), false, false);
        self.over_words(s.as_mut_slice());
        self.over_regions(alpha.as_mut_slice(), s.as_slice());
        let weights = Mat::rows(alpha.as_slice(), n, m).t();
        gemm(context.as_mut_slice(), d, weights, Mat::rows(regions, n, d), false, false);
        Seen { s, alpha, context }
    }

    /// Softmax of each region's row over each sentence's words, in place.
    fn over_words(&self, s: &mut [f32]) {
        for row in s.chunks_exact_mut(self.columns()) {
            self.own.iter().for_each(|own| center(&mut row[own.clone()], own.len()));
            row.iter_mut().for_each(|s| *s = exp(*s));
            self.own.iter().for_each(|own| normalize(&mut row[own.clone()], own.len()));
        }
    }

    /// alpha = softmax(gamma1 · s) down each word's column.
    fn over_regions(&self, alpha: &mut [f32], s: &[f32]) {
        let m = self.columns();
        let (mut largest, mut sum) = (vec![0.0f32; m], vec![0.0; m]);
        for s in s.chunks_exact(m) {
            largest.iter_mut().zip(s).for_each(|(l, s)| *l = if s > l { *s } else { *l });
        }
        for (alpha, s) in alpha.chunks_exact_mut(m).zip(s.chunks_exact(m)) {
            for ((alpha, s), (sum, largest)) in alpha.iter_mut().zip(s).zip(sum.iter_mut().zip(&largest)) {
                *alpha = exp(self.gamma1 * (s - largest));
                *sum += *alpha;
            }
        }
        sum.iter_mut().for_each(|s| *s = 1.0 / *s);
        for alpha in alpha.chunks_exact_mut(m) {
            alpha.iter_mut().zip(&sum).for_each(|(alpha, scale)| *alpha *= scale);
        }
    }

    fn cosine(&self, words: &[f32], context: &[f32], at: usize) -> Cosine {
        let d = self.dim;
        Cosine::new(&words[at * d..][..d], &context[at * d..][..d])
    }

    /// Sees one image again and goes back from the scores' gradients.
    fn gradients(&self, words: &[f32], regions: &[f32], dy: &[f32], [ww, wr]: [bool; 2]) -> Gradients {
        let (n, m, d) = (self.regions, self.columns(), self.dim);
        let Seen { s, alpha, context } = self.attend(words, regions);
        let (dcontext, mut dwords) = self.context_gradients(words, context.as_slice(), dy);
        let mut dsim = Buffer::uninit(n * m);
        gemm(
            dsim.as_mut_slice(),
            m,
            Mat::rows(regions, n, d),
            Mat::rows(dcontext.as_slice(), m, d).t(),
            false,
            false,
        );
        self.over_regions_bwd(dsim.as_mut_slice(), alpha.as_slice());
        self.over_words_bwd(dsim.as_mut_slice(), s.as_slice());
        let dsim = Mat::rows(dsim.as_slice(), n, m);
        if ww {
            gemm(dwords.as_mut_slice(), d, dsim.t(), Mat::rows(regions, n, d), true, false);
        }
        let dregions = wr.then(|| {
            let mut dregions = Buffer::uninit(n * d);
            let (out, dcontext) = (dregions.as_mut_slice(), Mat::rows(dcontext.as_slice(), m, d));
            gemm(out, d, Mat::rows(alpha.as_slice(), n, m), dcontext, false, false);
            gemm(out, d, dsim, Mat::rows(words, m, d), true, false);
            dregions
        });
        Gradients { dwords: ww.then_some(dwords), dregions }
    }

    /// Through the cosines: the gradients of the contexts, and of the words as far as they meet their contexts.
    fn context_gradients(&self, words: &[f32], context: &[f32], dy: &[f32]) -> (Buffer, Buffer) {
        let (m, d) = (self.columns(), self.dim);
        let (mut dcontext, mut dwords) = (Buffer::uninit(m * d), Buffer::uninit(m * d));
        for (own, dy) in self.own.iter().zip(dy) {
            let cosines: Vec<Cosine> = own.clone().map(|at| self.cosine(words, context, at)).collect();
            let score = log_sum_exp(cosines.iter().map(|c| self.gamma2 * c.value).collect());
            for (at, cosine) in own.clone().zip(cosines) {
                let slope = dy * self.gamma2 * (self.gamma2 * cosine.value - score).exp();
                let [word, context] = [words, context].map(|x| &x[at * d..][..d]);
                let [dword, dcontext] =
                    [&mut dwords, &mut dcontext].map(|x| &mut x.as_mut_slice()[at * d..][..d]);
                cosine.gradients(slope, word, context, dword, dcontext);
            }
        }
        (dcontext, dwords)
    }

    /// d = gamma1 · alpha · (d - Σ_n alpha d) down each column.
    fn over_regions_bwd(&self, d: &mut [f32], alpha: &[f32]) {
        let m = self.columns();
        let mut mean = vec![0.0; m];
        for (d, alpha) in d.chunks_exact(m).zip(alpha.chunks_exact(m)) {
            mean.iter_mut().zip(d.iter().zip(alpha)).for_each(|(mean, (d, a))| *mean += d * a);
        }
        for (d, alpha) in d.chunks_exact_mut(m).zip(alpha.chunks_exact(m)) {
            let rest = alpha.iter().zip(&mean);
            d.iter_mut().zip(rest).for_each(|(d, (a, mean))| *d = self.gamma1 * a * (*d - mean));
        }
    }

    /// d = s · (d - Σ_t s d) over each sentence's words.
    fn over_words_bwd(&self, d: &mut [f32], s: &[f32]) {
        let m = self.columns();
        for (d, s) in d.chunks_exact_mut(m).zip(s.chunks_exact(m)) {
            for own in &self.own {
                let (d, s) = (&mut d[own.clone()], &s[own.clone()]);
                let mean = dot(d, s);
                d.iter_mut().zip(s).for_each(|(d, s)| *d = s * (*d - mean));
            }
        }
    }
}

/// What a GPU has seen: s and alpha [I,N,M] and the contexts [I,M,D], with a column for every place of every sentence.
struct SeenOn {
    /// None where alpha took its place.
    s: Option<cuda::Buffer>,
    alpha: cuda::Buffer,
    context: cuda::Buffer,
}

impl Pairs {
    /// Columns of all sentences, padding included: what a GPU is launched over must not depend on lengths.
    fn places(&self) -> usize {
        self.own.len() * self.words
    }

    fn lengths(&self, g: &Gpu) -> Ints {
        self.ids.on(g)
    }

    fn dims(&self) -> k::PairDims {
        let [images, sentences, words, regions, dim] =
            [self.images, self.own.len(), self.words, self.regions, self.dim].map(|n| n as i32);
        k::PairDims { images, sentences, words, regions, dim, gamma1: self.gamma1, gamma2: self.gamma2 }
    }

    /// A block for each pair of an image and a sentence, with room for `numbers` of each word.
    fn pairs(&self, numbers: usize) -> Grid {
        Grid::new([self.own.len(), self.images, 1], 256).shared(4 * numbers * self.words)
    }

    /// [`Pairs::attend`] for all images on a GPU.
    fn attend_on(&self, g: &Gpu, words: In, regions: In, keep: bool) -> SeenOn {
        let (i, n, m, d) = (self.images, self.regions, self.places(), self.dim);
        let mut s = g.scratch(i * n * m);
        let of = MatrixIn::rows(words, d).t();
        product(g, MatrixOut::rows(s.out(), m), MatrixIn::rows(regions, d), of, [i * n, m, d], 1);
        let mut alpha = keep.then(|| g.scratch(i * n * m));
        let to = alpha.as_mut().unwrap_or(&mut s).out();
        k::word_scores_weights(g, self.pairs(0), to, s.out(), self.lengths(g), self.dims());
        let (s, alpha) = match alpha {
            Some(alpha) => (Some(s), alpha),
            None => (None, s),
        };
        let mut context = g.scratch(i * m * d);
        let weights = MatrixIn::rows(alpha.view(), m).t().each(n * m);
        let (to, of) = (MatrixOut::rows(context.out(), d).each(m * d), MatrixIn::rows(regions, d).each(n * d));
        product(g, to, weights, of, [m, d, n], i);
        SeenOn { s, alpha, context }
    }

    fn scores_on(&self, g: &Gpu, scores: Out, words: In, regions: In) {
        let seen = self.attend_on(g, words, regions, false);
        let (grid, context) = (self.pairs(3), seen.context.view());
        k::word_scores_fwd(g, grid, scores, context, words, self.lengths(g), self.dims());
    }

    /// [`Pairs::gradients`] for all images on a GPU.
    fn gradients_on(&self, g: &Gpu, [dwords, dregions]: [Option<Out>; 2], [words, regions, dy]: [In; 3]) {
        let (i, n, m, d) = (self.images, self.regions, self.places(), self.dim);
        let SeenOn { s, alpha, context } = self.attend_on(g, words, regions, true);
        let (s, lengths, dims) = (s.expect("it was asked for"), self.lengths(g), self.dims());
        let (mut dcontext, mut slopes) = (g.scratch(i * m * d), g.scratch(i * m * 2));
        let (to, of) = (dcontext.out(), context.view());
        k::word_scores_bwd_context(g, self.pairs(3), to, slopes.out(), of, words, dy, lengths, dims);
        let mut dsim = g.scratch(i * n * m);
        let each_region = MatrixIn::rows(regions, d).each(n * d);
        let each_context = MatrixIn::rows(dcontext.view(), d).each(m * d);
        let to = MatrixOut::rows(dsim.out(), m).each(n * m);
        product(g, to, each_region, each_context.t(), [n, m, d], i);
        k::word_scores_bwd_weights(g, self.pairs(1), dsim.out(), alpha.view(), s.view(), lengths, dims);
        let each = |x: &cuda::Buffer| MatrixIn::rows(x.view(), m).each(n * m);
        if let Some(dregions) = dregions {
            through_f32(g, dregions, |dregions| {
                let to = MatrixOut::rows(dregions, d);
                product(g, to.each(n * d), each(&alpha), each_context, [n, d, m], i);
                let dsim = MatrixIn::rows(dsim.view(), m);
                product(g, to.add(), dsim, MatrixIn::rows(words, d), [i * n, d, m], 1);
            });
        }
        if let Some(dwords) = dwords {
            // The contexts' gradients are done with.
            let mut through = dcontext;
            let to = MatrixOut::rows(through.out(), d).each(m * d);
            product(g, to, each(&dsim).t(), each_region, [m, d, n], i);
            let (grid, of) = (Grid::elements(m * d), [through.view(), context.view(), slopes.view()]);
            k::word_scores_bwd_words(g, grid, dwords, of[0], of[1], of[2], words, lengths, dims);
        }
    }

    /// The weights of each image's regions for the words of its own sentence, on a GPU.
    fn own_weights_on(&self, g: &Gpu, weights: Out, words: In, regions: In) {
        let (b, n, t, d) = (self.images, self.regions, self.words, self.dim);
        // [N,B,T]: as if one image had met every sentence.
        let (mut alpha, m) = (g.scratch(n * b * t), b * t);
        let (regions, words) = (MatrixIn::rows(regions, d).each(n * d), MatrixIn::rows(words, d).each(t * d));
        product(g, MatrixOut::rows(alpha.out(), m).each(t), regions, words.t(), [n, t, d], b);
        let dims = k::PairDims { images: 1, ..self.dims() };
        k::word_scores_weights(g, Grid::new([b, 1, 1], 256), alpha.out(), alpha.out(), self.lengths(g), dims);
        k::region_weights(g, Grid::elements(b * t * n), weights, alpha.view(), dims);
    }
}

/// Lets `f` write y in f32, whatever it is stored as: what is summed in two goes is rounded once.
fn through_f32(g: &Gpu, y: Out, f: impl FnOnce(Out)) {
    match y.dtype() {
        DType::F32 => f(y),
        DType::Bf16 => {
            let mut wide = g.scratch(y.len());
            f(wide.out());
            k::cast_to_bf16(g, Grid::packs(y.len()), y, wide.view(), y.len() as i32);
        }
    }
}

/// The cosine of two vectors, whose norms are clamped from below one by one.
struct Cosine {
    value: f32,
    norms: [f32; 2],
}

impl Cosine {
    fn new(a: &[f32], b: &[f32]) -> Cosine {
        let norms = [a, b].map(|x| dot(x, x).sqrt().max(EPS));
        Cosine { value: dot(a, b) / (norms[0] * norms[1]), norms }
    }

    /// da = slope · (b / |a||b| - cos · a / |a|²), and db alike. A clamped norm is a constant.
    fn gradients(&self, slope: f32, a: &[f32], b: &[f32], da: &mut [f32], db: &mut [f32]) {
        let across = slope / (self.norms[0] * self.norms[1]);
        let along = self.norms.map(|n| if n > EPS { slope * self.value / (n * n) } else { 0.0 });
        for ((a, b), (da, db)) in a.iter().zip(b).zip(da.iter_mut().zip(db)) {
            *da = across * b - along[0] * a;
            *db = across * a - along[1] * b;
        }
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
        |[scores, norms], [code, sentence]| {
            gemm(scores, j, Mat::rows(code, i, d), Mat::rows(sentence, j, d).t(), false, true);
            norms.copy_from_slice(&[row_norms(code, d), row_norms(sentence, d)].concat());
            let (codes, sentences) = norms.split_at(i);
            for (row, n) in scores.chunks_mut(j).zip(codes) {
                row.iter_mut().zip(sentences).for_each(|(s, m)| *s /= (n * m).max(EPS));
            }
        },
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
            |outs, ins| cosine_scores_bwd(outs, ins, d),
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

/// With p = <c, s> and y = p / |c||s|: dp = dy / |c||s|, and along c itself -Σ_j dy·y / |c|², along s alike.
fn cosine_scores_bwd(
    [dcode, dsentence]: [&mut [f32]; 2],
    [code, sentence, scores, norms, dy]: [&[f32]; 5],
    d: usize,
) {
    let (codes, sentences) = norms.split_at(code.len() / d);
    let (i, j) = (codes.len(), sentences.len());
    let (mut dp, mut along) = (vec![0.0; i * j], (vec![0.0; i], vec![0.0; j]));
    for (at, dp) in dp.iter_mut().enumerate() {
        let (row, column) = (at / j, at % j);
        let norms = codes[row] * sentences[column];
        *dp = dy[at] / norms.max(EPS);
        if norms > EPS {
            along.0[row] -= dy[at] * scores[at] / (codes[row] * codes[row]);
            along.1[column] -= dy[at] * scores[at] / (sentences[column] * sentences[column]);
        }
    }
    let scaled = |out: &mut [f32], x: &[f32], along: &[f32]| {
        for ((out, x), along) in out.chunks_mut(d).zip(x.chunks(d)).zip(along) {
            out.iter_mut().zip(x).for_each(|(o, x)| *o = along * x);
        }
    };
    scaled(dcode, code, &along.0);
    scaled(dsentence, sentence, &along.1);
    gemm(dcode, d, Mat::rows(&dp, i, j), Mat::rows(sentence, j, d), true, true);
    gemm(dsentence, d, Mat::rows(&dp, i, j).t(), Mat::rows(code, i, d), true, true);
}

fn row_norms(x: &[f32], d: usize) -> Vec<f32> {
    x.chunks(d).map(|x| dot(x, x).sqrt()).collect()
}

/// The match as a classification, both ways: scores [B,B], classes [B] -> (over the rows, over the columns).
///
/// rows = -1/B Σ_i ln softmax_j(gamma3 · scores_ij) at j = i, columns alike down the columns (equations 11 to 13).
/// Pairs of one class other than the match itself are left out of the softmax.
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
    let kept = |i: usize, j: usize| i == j || classes.is_none_or(|c| c.as_slice()[i] != c.as_slice()[j]);
    let (mut by_rows, mut by_columns) = (scores.new_empty([]), scores.new_empty([]));
    let (mut p, mut q) = (scores.new_empty([b, b]), scores.new_empty([b, b]));
    run(
        "matching_loss_fwd",
        [&mut by_rows, &mut by_columns, &mut p, &mut q],
        [scores],
        |[by_rows, by_columns, p, q], [scores]| {
            let logit = |i, j| if kept(i, j) { gamma3 * scores[i * b + j] } else { f32::NEG_INFINITY };
            by_rows[0] = classify(p, b, logit);
            by_columns[0] = classify(q, b, |j, i| logit(i, j));
        },
        |g, [by_rows, by_columns, p, q], [scores]| {
            let (classes, mut losses) = (classes.map_or(Ints::NONE, |c| c.on(g)), g.scratch(2 * b));
            let grid = Grid::elements(32 * 2 * b);
            k::matching_loss_fwd(g, grid, losses.out(), p, q, scores, classes, b as i32, gamma3);
            k::matching_loss_mean(g, Grid::new([1, 1, 1], 32), by_rows, by_columns, losses.view(), b as i32);
        },
    );
    let [by_rows, by_columns] = record([by_rows, by_columns], [scores], move |[dr, dc], _| {
        let [dr, dc] = [dr, dc].map(|d| d.unwrap_or_else(|| crate::engine::ops::rnn::zeros(&p, [].into())));
        let mut ds = p.new_empty([b, b]);
        run(
            "matching_loss_bwd",
            [&mut ds],
            [&p, &q, &dr, &dc],
            |[ds], [p, q, dr, dc]| {
                for (at, ds) in ds.iter_mut().enumerate() {
                    let (i, j) = (at / b, at % b);
                    let target = if i == j { 1.0 } else { 0.0 };
                    let slope = dr[0] * (p[i * b + j] - target) + dc[0] * (q[j * b + i] - target);
                    *ds = gamma3 / b as f32 * slope;
                }
            },
            |g, [ds], [p, q, dr, dc]| {
                let grid = Grid::elements(b * b);
                k::matching_loss_bwd(g, grid, ds, p, q, given(dr), given(dc), b as i32, gamma3);
            },
        );
        [Some(ds)]
    });
    (by_rows, by_columns)
}

/// Row by row p = softmax(logits); returns the mean of -ln p over the diagonal.
fn classify(p: &mut [f32], b: usize, logit: impl Fn(usize, usize) -> f32) -> f32 {
    let mut loss = 0.0;
    for (i, p) in p.chunks_mut(b).enumerate() {
        let sum = log_sum_exp((0..b).map(|j| logit(i, j)).collect());
        p.iter_mut().enumerate().for_each(|(j, p)| *p = (logit(i, j) - sum).exp());
        loss += sum - logit(i, i);
    }
    loss / b as f32
}

fn log_sum_exp(x: Vec<f32>) -> f32 {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f32>().ln()
}

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
        Case::new("region_weights", "unequal lengths", |x| {
            vec![region_weights(&x[0], &IntTensor::new(vec![3, 1], [2]), &x[1], 4.0)]
        })
        .constant([2, 3, 5], -1.0, 1.0)
        .constant([2, 7, 5], -1.0, 1.0)
        .bf16(&[0, 1]),
        Case::new("region_weights", "a map of regions", |x| {
            vec![region_weights(&x[0], &IntTensor::new(vec![18, 9], [2]), &x[1], 4.0)]
        })
        .constant([2, 18, 32], -1.0, 1.0)
        .constant([2, 289, 32], -1.0, 1.0)
        .bf16(&[0, 1])
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
        let weights = region_weights(&words, &ids, &regions, 4.0);
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
                if i == j {
                    let mut expected = naive_weights(&words, &regions, 4.0);
                    expected.resize(t, vec![0.0; n]);
                    let own = &weights.as_slice()[i * t * n..][..t * n];
                    own.iter()
                        .zip(expected.iter().flatten())
                        .for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
                }
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
