//! Image-text matching on CUDA: the products and the launches of kernels/matching.cu.

use super::ImageTextPairs;
use crate::engine::device::cuda::{Buffer, Gpu, Grid, In, Ints, Out, k};
use crate::engine::ops::gemm::{MatrixIn, MatrixOut, product};
use crate::engine::tensor::DType;

/// The attention of all words to all regions: s and alpha [I,N,M] and the contexts [I,M,D]. M counts padding too.
struct RegionAttentionOnDevice {
    /// None where alpha overwrote it.
    s: Option<Buffer>,
    alpha: Buffer,
    context: Buffer,
}

impl ImageTextPairs {
    /// M, the words of all sentences with padding: a grid must not depend on lengths.
    fn padded_columns(&self) -> usize {
        self.own.len() * self.words
    }

    fn lengths(&self, g: &Gpu) -> Ints {
        self.on_device.on(g)
    }

    fn dims(&self) -> k::PairDims {
        let [images, sentences, words, regions, dim] =
            [self.images, self.own.len(), self.words, self.regions, self.dim].map(|n| n as i32);
        k::PairDims { images, sentences, words, regions, dim, gamma1: self.gamma1, gamma2: self.gamma2 }
    }

    /// A block for each pair of an image and a sentence, with room for `numbers` of each word.
    fn grid(&self, numbers: usize) -> Grid {
        Grid::new([self.own.len(), self.images, 1], 256).shared(4 * numbers * self.words)
    }

    /// [`ImageTextPairs::attend`] for all images on a GPU.
    fn attend_on(&self, g: &Gpu, words: In, regions: In, keep: bool) -> RegionAttentionOnDevice {
        let (i, n, m, d) = (self.images, self.regions, self.padded_columns(), self.dim);
        let mut s = g.scratch(i * n * m);
        let of = MatrixIn::rows(words, d).t();
        product(g, MatrixOut::rows(s.out(), m), MatrixIn::rows(regions, d), of, [i * n, m, d], 1);
        let mut alpha = keep.then(|| g.scratch(i * n * m));
        let to = alpha.as_mut().unwrap_or(&mut s).out();
        k::word_scores_weights(g, self.grid(0), to, s.out(), self.lengths(g), self.dims());
        let (s, alpha) = match alpha {
            Some(alpha) => (Some(s), alpha),
            None => (None, s),
        };
        let mut context = g.scratch(i * m * d);
        let weights = MatrixIn::rows(alpha.view(), m).t().each(n * m);
        let (to, of) = (MatrixOut::rows(context.out(), d).each(m * d), MatrixIn::rows(regions, d).each(n * d));
        product(g, to, weights, of, [m, d, n], i);
        RegionAttentionOnDevice { s, alpha, context }
    }

    pub(super) fn scores_on(&self, g: &Gpu, scores: Out, words: In, regions: In) {
        let attention = self.attend_on(g, words, regions, false);
        let (grid, context) = (self.grid(3), attention.context.view());
        k::word_scores_fwd(g, grid, scores, context, words, self.lengths(g), self.dims());
    }

    /// [`ImageTextPairs::gradients`] for all images on a GPU.
    pub(super) fn gradients_on(&self, g: &Gpu, [dwords, dregions]: [Option<Out>; 2], [words, regions, dy]: [In; 3]) {
        let (i, n, m, d) = (self.images, self.regions, self.padded_columns(), self.dim);
        let RegionAttentionOnDevice { s, alpha, context } = self.attend_on(g, words, regions, true);
        let (s, lengths, dims) = (s.expect("kept, as asked for"), self.lengths(g), self.dims());
        let (mut dcontext, mut slopes) = (g.scratch(i * m * d), g.scratch(i * m * 2));
        let (to, of) = (dcontext.out(), context.view());
        k::word_scores_bwd_context(g, self.grid(3), to, slopes.out(), of, words, dy, lengths, dims);
        let mut dsim = g.scratch(i * n * m);
        let each_region = MatrixIn::rows(regions, d).each(n * d);
        let each_context = MatrixIn::rows(dcontext.view(), d).each(m * d);
        let to = MatrixOut::rows(dsim.out(), m).each(n * m);
        product(g, to, each_region, each_context.t(), [n, m, d], i);
        k::word_scores_bwd_weights(g, self.grid(1), dsim.out(), alpha.view(), s.view(), lengths, dims);
        let each = |x: &Buffer| MatrixIn::rows(x.view(), m).each(n * m);
        if let Some(dregions) = dregions {
            through_f32(g, dregions, |dregions| {
                let to = MatrixOut::rows(dregions, d);
                product(g, to.each(n * d), each(&alpha), each_context, [n, d, m], i);
                let dsim = MatrixIn::rows(dsim.view(), m);
                product(g, to.add(), dsim, MatrixIn::rows(words, d), [i * n, d, m], 1);
            });
        }
        if let Some(dwords) = dwords {
            // The contexts' gradients are not needed any more.
            let mut through = dcontext;
            let to = MatrixOut::rows(through.out(), d).each(m * d);
            product(g, to, each(&dsim).t(), each_region, [m, d, n], i);
            let (grid, of) = (Grid::elements(m * d), [through.view(), context.view(), slopes.view()]);
            k::word_scores_bwd_words(g, grid, dwords, of[0], of[1], of[2], words, lengths, dims);
        }
    }
}

/// Lets `f` write y in f32, however y is stored, so that a sum in two steps is rounded once.
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
