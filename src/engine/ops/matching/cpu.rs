//! Image-text matching on the CPU.

use std::ops::Range;

use super::ImageTextPairs;
use crate::engine::device::cpu::{Buffer, elementary, map};
use crate::engine::ops::matmul::{gemm, Mat};
use crate::engine::ops::rows::{add, dot, normalize, subtract_max};

/// Norms, and products of norms, are clamped from below to this.
const EPS: f32 = 1e-8;

/// The attention of all words of all sentences to the regions of one image.
struct RegionAttention {
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

impl ImageTextPairs {
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

    /// scores [I,J] of every image with every sentence.
    pub(super) fn scores(&self, scores: &mut [f32], words: &[f32], regions: &[f32]) {
        let words = self.gather(words);
        let rows = map(self.images, |i| self.image_scores(words.as_slice(), self.image(regions, i)));
        scores.copy_from_slice(&rows.concat());
    }

    /// The scores of one image with every sentence.
    fn image_scores(&self, words: &[f32], regions: &[f32]) -> Vec<f32> {
        let attention = self.attend(words, regions);
        let score = |own: &Range<usize>| {
            let cosines = own.clone().map(|at| self.cosine(words, attention.context.as_slice(), at).value);
            log_sum_exp(cosines.map(|c| self.gamma2 * c).collect())
        };
        self.own.iter().map(score).collect()
    }

    /// Equations 7 to 9 for one image and the words of every sentence at once.
    fn attend(&self, words: &[f32], regions: &[f32]) -> RegionAttention {
        let (n, m, d) = (self.regions, self.columns(), self.dim);
        let (mut s, mut alpha) = (Buffer::uninit(n * m), Buffer::uninit(n * m));
        let mut context = Buffer::uninit(m * d);
        gemm(s.as_mut_slice(), m, Mat::rows(regions, n, d), Mat::rows(words, m, d).t(), false, false);
        self.over_words(s.as_mut_slice());
        self.over_regions(alpha.as_mut_slice(), s.as_slice());
        let weights = Mat::rows(alpha.as_slice(), n, m).t();
        gemm(context.as_mut_slice(), d, weights, Mat::rows(regions, n, d), false, false);
        RegionAttention { s, alpha, context }
    }

    /// Softmax of each region's row over each sentence's words, in place.
    fn over_words(&self, s: &mut [f32]) {
        for row in s.chunks_exact_mut(self.columns()) {
            self.own.iter().for_each(|own| subtract_max(&mut row[own.clone()], own.len()));
            elementary::exp(row);
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
            let scores = alpha.iter_mut().zip(s.iter().zip(&largest));
            scores.for_each(|(alpha, (s, largest))| *alpha = self.gamma1 * (s - largest));
            elementary::exp(alpha);
            add(&mut sum, alpha);
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

    /// The gradients of words and regions from those of the scores.
    pub(super) fn gradients(
        &self,
        [dwords, dregions]: [Option<&mut [f32]>; 2],
        [words, regions, dy]: [&[f32]; 3],
    ) {
        let words = self.gather(words);
        let (sentences, wanted) = (self.own.len(), [dwords.is_some(), dregions.is_some()]);
        let parts = map(self.images, |i| {
            let dy = &dy[i * sentences..][..sentences];
            self.image_gradients(words.as_slice(), self.image(regions, i), dy, wanted)
        });
        if let Some(dregions) = dregions {
            for (part, dregions) in parts.iter().zip(dregions.chunks_mut(self.regions * self.dim)) {
                if let Some(part) = &part.dregions {
                    dregions.copy_from_slice(part.as_slice());
                }
            }
        }
        if let Some(dwords) = dwords {
            self.scatter(dwords, parts.iter().filter_map(|part| part.dwords.as_ref()));
        }
    }

    /// The backward pass of one image; recomputes its attention.
    fn image_gradients(
        &self,
        words: &[f32],
        regions: &[f32],
        dy: &[f32],
        [wanted_words, wanted_regions]: [bool; 2],
    ) -> Gradients {
        let (n, m, d) = (self.regions, self.columns(), self.dim);
        let RegionAttention { s, alpha, context } = self.attend(words, regions);
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
        if wanted_words {
            gemm(dwords.as_mut_slice(), d, dsim.t(), Mat::rows(regions, n, d), true, false);
        }
        let dregions = wanted_regions.then(|| {
            let mut dregions = Buffer::uninit(n * d);
            let (out, dcontext) = (dregions.as_mut_slice(), Mat::rows(dcontext.as_slice(), m, d));
            gemm(out, d, Mat::rows(alpha.as_slice(), n, m), dcontext, false, false);
            gemm(out, d, dsim, Mat::rows(words, m, d), true, false);
            dregions
        });
        Gradients { dwords: wanted_words.then_some(dwords), dregions }
    }

    /// The backward pass of the cosines: the gradients of the contexts, and of the words by their cosines alone.
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

/// scores [I,J] of codes [I,D] and sentences [J,D], and the norms [I+J] of both.
pub(super) fn cosine_scores([scores, norms]: [&mut [f32]; 2], [code, sentence]: [&[f32]; 2], d: usize) {
    let (i, j) = (code.len() / d, sentence.len() / d);
    gemm(scores, j, Mat::rows(code, i, d), Mat::rows(sentence, j, d).t(), false, true);
    norms.copy_from_slice(&[row_norms(code, d), row_norms(sentence, d)].concat());
    let (codes, sentences) = norms.split_at(i);
    for (row, n) in scores.chunks_mut(j).zip(codes) {
        row.iter_mut().zip(sentences).for_each(|(s, m)| *s /= (n * m).max(EPS));
    }
}

/// With p = <c, s> and y = p / |c||s|: dp = dy / |c||s|, and along c itself -Σ_j dy·y / |c|², along s alike.
pub(super) fn cosine_scores_bwd(
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

/// The losses over the rows and over the columns, and their softmaxes p, q [B,B], q by columns.
pub(super) fn matching_loss(
    [by_rows, by_columns, p, q]: [&mut [f32]; 4],
    scores: &[f32],
    b: usize,
    gamma3: f32,
    classes: Option<&[i32]>,
) {
    let kept = |i: usize, j: usize| i == j || classes.is_none_or(|c| c[i] != c[j]);
    let logit = |i, j| if kept(i, j) { gamma3 * scores[i * b + j] } else { f32::NEG_INFINITY };
    by_rows[0] = classify(p, b, logit);
    by_columns[0] = classify(q, b, |j, i| logit(i, j));
}

pub(super) fn matching_loss_bwd(
    ds: &mut [f32],
    [p, q]: [&[f32]; 2],
    dys: [Option<&[f32]>; 2],
    b: usize,
    gamma3: f32,
) {
    let [drows, dcolumns] = dys.map(|d| d.map_or(0.0, |d| d[0]));
    for (at, ds) in ds.iter_mut().enumerate() {
        let (i, j) = (at / b, at % b);
        let target = if i == j { 1.0 } else { 0.0 };
        let slope = drows * (p[i * b + j] - target) + dcolumns * (q[j * b + i] - target);
        *ds = gamma3 / b as f32 * slope;
    }
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
