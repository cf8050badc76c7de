//! The geometry of a convolution: one for all passes and both devices.

use std::ops::Range;

use super::Conv;
use crate::engine::ops::gemm::GemmProblem;
use crate::engine::tensor::DType;

/// One pass: every output pixel is a sum over a window of the input.
///
/// In each dimension, output position p + i·step (phase p < step) reads input i·stride + (p + pad − t) / step through
/// every tap t for which that division has no remainder. With stride 1 this is a transposed convolution of stride `step`
/// and padding `pad`. With step 1 it is a convolution whose taps are counted from the end of the window, so that
/// pad = window − 1 − padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvProblem {
    pub batch: usize,
    /// Channels of the input and of the output of this pass.
    pub cin: usize,
    pub cout: usize,
    /// Height and width of the input and of the output.
    pub input: [usize; 2],
    pub output: [usize; 2],
    /// Taps of all phases together.
    pub window: [usize; 2],
    pub pad: [isize; 2],
    pub step: [usize; 2],
    pub stride: [usize; 2],
    /// Whether the operator's filters w[Cout,R,S,Cin] are read with outputs and inputs exchanged.
    pub transposed: bool,
    /// Whether the filters are 4×4 sums of 3×3 taps, see [`SPREAD`].
    pub spread: bool,
}

/// Nearest 2× and then 3×3 as a transposed convolution of 4×4 filters and stride 2: row r of these filters is the sum of
/// the rows SPREAD[r] of the 3×3 filter; the same for columns.
pub(super) const SPREAD: [&[usize]; 4] = [&[2], &[1, 2], &[0, 1], &[0]];

impl ConvProblem {
    /// The forward pass over x[B,H,W,Cin] with w[Cout,R,S,Cin].
    pub fn fprop([batch, h, width, cin]: [usize; 4], [cout, r, s, _]: [usize; 4], conv: Conv) -> ConvProblem {
        let (input, window) = ([h, width], [r, s]);
        let Conv { stride, pad } = conv;
        ConvProblem {
            batch,
            cin,
            cout,
            input,
            output: [0, 1].map(|d| (input[d] + 2 * pad[d] - window[d]) / stride[d] + 1),
            window,
            pad: [0, 1].map(|d| window[d] as isize - 1 - pad[d] as isize),
            step: [1, 1],
            stride,
            transposed: false,
            spread: false,
        }
    }

    /// dx of a forward pass from dy: a transposed convolution.
    pub fn dgrad(fprop: &ConvProblem, conv: Conv) -> ConvProblem {
        ConvProblem {
            cin: fprop.cout,
            cout: fprop.cin,
            input: fprop.output,
            output: fprop.input,
            pad: conv.pad.map(|p| p as isize),
            step: conv.stride,
            stride: [1, 1],
            transposed: true,
            ..*fprop
        }
    }

    /// Nearest 2× and then 3×3 with padding 1 over x[B,H,W,Cin].
    pub fn upsample2x([batch, h, width, cin]: [usize; 4], cout: usize) -> ConvProblem {
        ConvProblem {
            batch,
            cin,
            cout,
            input: [h, width],
            output: [2 * h, 2 * width],
            window: [4, 4],
            pad: [1, 1],
            step: [2, 2],
            stride: [1, 1],
            transposed: false,
            spread: true,
        }
    }

    /// dx of [`ConvProblem::upsample2x`] from dy: a convolution of 4×4 filters, stride 2 and padding 1.
    pub fn upsample2x_dgrad(fprop: &ConvProblem) -> ConvProblem {
        ConvProblem {
            cin: fprop.cout,
            cout: fprop.cin,
            input: fprop.output,
            output: fprop.input,
            pad: [2, 2],
            step: [1, 1],
            stride: [2, 2],
            transposed: true,
            ..*fprop
        }
    }

    /// The rows and columns before and after the input that the windows of phases reach.
    pub fn margins(&self, phases: impl Iterator<Item = Phase>) -> [[usize; 2]; 2] {
        let mut margins = [[0; 2]; 2];
        for phase in phases.filter(|phase| phase.pixels() * phase.depth() > 0) {
            for (d, [before, after]) in margins.iter_mut().enumerate() {
                let last = phase.origin[d] + ((phase.output[d] - 1) * self.stride[d] + phase.window[d]) as isize;
                *before = (*before).max((-phase.origin[d]).max(0) as usize);
                *after = (*after).max((last - self.input[d] as isize).max(0) as usize);
            }
        }
        margins
    }

    /// The same pass over an input that `margins` of zeros were put around: all windows lie inside.
    pub fn framed(&self, margins: [[usize; 2]; 2]) -> ConvProblem {
        let input = [0, 1].map(|d| self.input[d] + margins[d][0] + margins[d][1]);
        let pad = [0, 1].map(|d| self.pad[d] + (margins[d][0] * self.step[d]) as isize);
        ConvProblem { input, pad, ..*self }
    }

    /// Whether the filter's last tap comes first.
    pub fn flipped(&self) -> bool {
        self.transposed != self.spread
    }

    pub fn phases(&self) -> impl Iterator<Item = Phase> + use<> {
        let problem = *self;
        let [rows, columns] = self.step;
        (0..rows).flat_map(move |p| (0..columns).map(move |q| Phase::new(problem, [p, q])))
    }

    /// All phases as one whose outputs are blocks of step² pixels and whose window holds the windows of all.
    pub fn joined(&self) -> Phase {
        let phases: Vec<Phase> = self.phases().filter(|phase| phase.window.iter().all(|&taps| taps > 0)).collect();
        let ends = |phase: &Phase, d: usize| phase.origin[d] + phase.window[d] as isize;
        let origin = [0, 1].map(|d| phases.iter().map(|phase| phase.origin[d]).min().unwrap_or(0));
        let end = [0, 1].map(|d| phases.iter().map(|phase| ends(phase, d)).max().unwrap_or(0));
        let window = [0, 1].map(|d| (end[d] - origin[d]) as usize);
        Phase { problem: *self, index: [0; 2], window, last: [0; 2], origin, output: self.phase_output() }
    }

    /// Outputs and inputs of the operator's filters.
    pub fn filter_channels(&self) -> [usize; 2] {
        if self.transposed { [self.cin, self.cout] } else { [self.cout, self.cin] }
    }

    /// Height and width of the largest phase.
    pub fn phase_output(&self) -> [usize; 2] {
        [0, 1].map(|d| self.output[d].div_ceil(self.step[d]))
    }

    /// Taps of the largest phase.
    pub fn taps(&self) -> usize {
        self.window[0].div_ceil(self.step[0]) * self.window[1].div_ceil(self.step[1])
    }

    /// Window elements of the largest phase.
    pub fn depth(&self) -> usize {
        self.taps() * self.cin
    }

    /// Output pixels of the largest phase.
    pub fn pixels(&self) -> usize {
        let [rows, columns] = self.phase_output();
        self.batch * rows * columns
    }

    pub fn flops(&self) -> f64 {
        self.phases().map(|p| 2.0 * (p.pixels() * p.depth() * self.cout) as f64).sum()
    }

    /// The pass as an implicit GEMM: output pixels by channels, summed over window elements.
    pub fn fprop_gemm(&self, dtype: DType) -> GemmProblem {
        GemmProblem { m: self.pixels(), n: self.cout, k: self.depth(), count: self.step[0] * self.step[1], dtype }
    }

    /// The gradient of its filters as an implicit GEMM: channels by window elements, summed over output pixels.
    pub fn wgrad_gemm(&self, dtype: DType) -> GemmProblem {
        GemmProblem { m: self.cout, n: self.depth(), k: self.pixels(), ..self.fprop_gemm(dtype) }
    }
}

/// The output positions `index + i·step` of a problem.
#[derive(Clone, Copy)]
pub(super) struct Phase {
    pub problem: ConvProblem,
    pub index: [usize; 2],
    /// Number of taps that reach it.
    pub window: [usize; 2],
    /// The largest of these taps, which comes first.
    last: [usize; 2],
    /// Input position of that tap for the first output; negative over the border.
    pub origin: [isize; 2],
    /// Height and width of the phase.
    pub output: [usize; 2],
}

/// One output pixel and its window.
#[derive(Clone, Copy)]
pub(super) struct OutputPixel {
    /// Row and column of the first tap, possibly outside the input.
    pub first: [isize; 2],
    /// Offset of its image in the input.
    pub image: usize,
    /// The pixel's number in the whole output.
    pub output: usize,
}

/// Consecutive elements of one row of a window.
#[derive(Clone)]
pub(super) struct RowSpan {
    pub row: usize,
    pub elements: Range<usize>,
}

impl RowSpan {
    pub fn len(&self) -> usize {
        self.elements.len()
    }
}

impl Phase {
    fn new(problem: ConvProblem, index: [usize; 2]) -> Phase {
        let ConvProblem { window, pad, step, output, .. } = problem;
        // The smallest tap that reaches the phase.
        let first = [0, 1].map(|d| (index[d] as isize + pad[d]).rem_euclid(step[d] as isize) as usize);
        let taps = [0, 1].map(|d| window[d].saturating_sub(first[d]).div_ceil(step[d]));
        let last = [0, 1].map(|d| first[d] + taps[d].saturating_sub(1) * step[d]);
        let origin = [0, 1].map(|d| match taps[d] {
            0 => 0,
            _ => (index[d] as isize + pad[d] - last[d] as isize) / step[d] as isize,
        });
        let output = [0, 1].map(|d| (output[d] + step[d] - 1 - index[d]) / step[d]);
        Phase { problem, index, window: taps, last, origin, output }
    }

    /// The filter's taps in the order of the window, for dimension `d`.
    pub fn taps(&self, d: usize) -> Vec<usize> {
        let ConvProblem { window, step, .. } = self.problem;
        let taps = (0..self.window[d]).map(|i| self.last[d] - i * step[d]);
        taps.map(|t| if self.problem.flipped() { t } else { window[d] - 1 - t }).collect()
    }

    /// Elements of one window.
    pub fn depth(&self) -> usize {
        self.window[0] * self.row()
    }

    /// Consecutive elements of one window row: in NHWC its taps and their channels lie side by side.
    pub fn row(&self) -> usize {
        self.window[1] * self.problem.cin
    }

    pub fn pixels(&self) -> usize {
        self.problem.batch * self.output[0] * self.output[1]
    }

    /// The output pixel in row i and column j of the phase's part of image b.
    pub fn pixel(&self, b: usize, i: usize, j: usize) -> OutputPixel {
        let ConvProblem { input, output, stride, step, cin, .. } = self.problem;
        let at = [i, j];
        let [row, column] = [0, 1].map(|d| self.index[d] + at[d] * step[d]);
        OutputPixel {
            first: [0, 1].map(|d| self.origin[d] + (at[d] * stride[d]) as isize),
            image: b * input[0] * input[1] * cin,
            output: (b * output[0] + row) * output[1] + column,
        }
    }

    /// The phase's pixels in the output rows `rows`, counted over the whole batch.
    pub fn pixels_of_rows(&self, rows: Range<usize>) -> Vec<OutputPixel> {
        let ConvProblem { output, step, .. } = self.problem;
        let mut pixels = Vec::new();
        for row in rows {
            let (b, row) = (row / output[0], row % output[0]);
            if row % step[0] == self.index[0] {
                pixels.extend((0..self.output[1]).map(|j| self.pixel(b, row / step[0], j)));
            }
        }
        pixels
    }

    pub fn all_pixels(&self) -> Vec<OutputPixel> {
        self.pixels_of_rows(0..self.problem.batch * self.problem.output[0])
    }

    /// Whether the window of a pixel lies inside the input.
    pub fn inside(&self, p: &OutputPixel) -> bool {
        let input = self.problem.input;
        (0..2).all(|d| p.first[d] >= 0 && p.first[d] as usize + self.window[d] <= input[d])
    }

    /// Offset in the input of element `e` of window row `r`; only for windows inside.
    pub fn offset(&self, p: &OutputPixel, r: usize, e: usize) -> usize {
        let ConvProblem { input, cin, .. } = self.problem;
        p.image + ((p.first[0] as usize + r) * input[1] + p.first[1] as usize) * cin + e
    }

    /// Copies a span of a window, zeros where it lies outside the input.
    pub fn gather(&self, to: &mut [f32], x: &[f32], p: &OutputPixel, span: &RowSpan) {
        let ConvProblem { input, cin, .. } = self.problem;
        let RowSpan { row, elements } = span;
        let row = p.first[0] + *row as isize;
        if row < 0 || row as usize >= input[0] {
            return to.fill(0.0);
        }
        let (c, width) = (cin as isize, input[1] as isize);
        let clip =
            |column: isize| ((column - p.first[1]) * c).clamp(elements.start as isize, elements.end as isize);
        let (lo, hi) = (clip(0), clip(width));
        if lo >= hi {
            return to.fill(0.0);
        }
        let from = p.image as isize + (row * width + p.first[1]) * c;
        let (lo_in, hi_in) = (lo as usize - elements.start, hi as usize - elements.start);
        to[..lo_in].fill(0.0);
        to[hi_in..].fill(0.0);
        to[lo_in..hi_in].copy_from_slice(&x[(from + lo) as usize..(from + hi) as usize]);
    }
}
