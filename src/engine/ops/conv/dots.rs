//! Convolutions to few channels on the CPU, as to the three of a picture, which would fill a part of a vector: here its lanes are elements
//! of the window, which lie side by side in each row, and an output is the sum of the lanes.

use std::ops::Range;

use super::problem::{ConvProblem, Phase};
use crate::engine::device::cpu::tile::{Epilogue, Loops, Microkernel, with_microkernel};
use crate::engine::device::cpu::{for_chunks, threads};

/// Whether a pass is computed so.
pub(super) fn suits(problem: &ConvProblem) -> bool {
    let ConvProblem { cin, cout, window, transposed, spread, .. } = *problem;
    (1..=3).contains(&cout) && window[1] * cin >= LANES && !transposed && !spread
}

/// Sums of an output that are made side by side, whatever the vectors' width, so that it changes no bit.
const LANES: usize = 16;
/// Vectors of them, where vectors are narrowest.
const VECTORS: usize = 4;

/// y = the windows of x by the operator's filters w[Cout,R,S,Cin], through the epilogue.
pub(super) fn fprop(problem: &ConvProblem, y: &mut [f32], x: &[f32], w: &[f32], epilogue: Option<Epilogue>) {
    let ConvProblem { batch, output: [h, width], cout, .. } = *problem;
    let phase = problem.phases().next().expect("a forward pass has one phase");
    let rows = (batch * h).div_ceil(8 * threads()).max(1);
    // Applied to whole rows: single pixels are too short for vectors.
    let bias = epilogue.map_or(Vec::new(), |epilogue| epilogue.bias[..cout].repeat(width));
    let epilogue = epilogue.map(|epilogue| Epilogue { bias: &bias, ..epilogue });
    with_microkernel!(kernel => for_chunks(y, rows * width * cout, |i, y| {
        let rows = Rows { phase: &phase, x, w, epilogue, first: i * rows, y };
        match cout {
            1 => kernel.vectorized(Channels::<1>(rows)),
            2 => kernel.vectorized(Channels::<2>(rows)),
            _ => kernel.vectorized(Channels::<3>(rows)),
        }
    }));
}

/// Rows of the output, from `first` of the batch on.
struct Rows<'a> {
    phase: &'a Phase,
    x: &'a [f32],
    w: &'a [f32],
    /// Of a row of pixels.
    epilogue: Option<Epilogue<'a>>,
    first: usize,
    y: &'a mut [f32],
}

/// With so many output channels.
struct Channels<'a, const O: usize>(Rows<'a>);

impl<const O: usize> Loops for Channels<'_, O> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        let Rows { phase, x, w, epilogue, first, y } = self.0;
        let width = phase.problem.output[1];
        for (row, y) in (first..).zip(y.chunks_exact_mut(width * O)) {
            let line = Line { phase, x, w, row };
            let whole = line.whole();
            let mut column = 0;
            while column < width {
                // As many as there are registers for their sums.
                let fits = |n: usize| whole.start <= column && column + n <= whole.end;
                let to = &mut y[column * O..];
                column += match M::LANES {
                    16 if fits(4) => line.sum::<M, O, 4>(kernel, column, to),
                    _ if fits(2) => line.sum::<M, O, 2>(kernel, column, to),
                    _ => line.sum::<M, O, 1>(kernel, column, to),
                };
            }
            if let Some(epilogue) = epilogue {
                epilogue.apply(y, row * width * O);
            }
        }
    }
}

/// One row of the output, counted over the batch.
struct Line<'a> {
    phase: &'a Phase,
    x: &'a [f32],
    w: &'a [f32],
    row: usize,
}

impl Line<'_> {
    /// The columns whose windows lie between the image's left and right border.
    fn whole(&self) -> Range<usize> {
        let ConvProblem { input: [_, width], output: [_, columns], stride: [_, stride], window: [_, taps], .. } = self.phase.problem;
        let left = self.phase.origin[1];
        let from = (-left).max(0) as usize;
        let room = (width as isize - taps as isize - left).max(-1);
        let end = if room < 0 { 0 } else { room as usize / stride + 1 };
        from.div_ceil(stride)..end.min(columns)
    }

    /// The outputs of `N` pixels from `column` on; of more than one, the windows lie between the borders.
    #[inline(always)]
    fn sum<M: Microkernel, const O: usize, const N: usize>(&self, kernel: M, column: usize, y: &mut [f32]) -> usize {
        let ConvProblem { cin, input: [h, width], output: [rows, _], stride, window, .. } = self.phase.problem;
        let (image, row) = (self.row / rows, self.row % rows);
        let corner = [row * stride[0], column * stride[1]];
        let first = [0, 1].map(|d| corner[d] as isize + self.phase.origin[d]);
        let taps = (-first[1]).max(0) as usize..(width as isize - first[1]).clamp(0, window[1] as isize) as usize;
        let filter = window[0] * window[1] * cin;
        let mut sums = [[[kernel.splat(0.0); VECTORS]; O]; N];
        for r in 0..window[0] {
            let line = first[0] + r as isize;
            if line < 0 || line >= h as isize || taps.is_empty() {
                continue;
            }
            let len = taps.len() * cin;
            let from = ((image * h + line as usize) * width) * cin;
            let from = from + (first[1] + taps.start as isize) as usize * cin;
            let mut windows = [&self.x[..0]; N];
            for (n, run) in windows.iter_mut().enumerate() {
                *run = &self.x[from + n * stride[1] * cin..][..len];
            }
            let mut filters = [&self.w[..0]; O];
            for (o, run) in filters.iter_mut().enumerate() {
                *run = &self.w[o * filter + (r * window[1] + taps.start) * cin..][..len];
            }
            add_products(kernel, windows, filters, &mut sums);
        }
        for (n, sums) in sums.iter().enumerate() {
            for (o, sums) in sums.iter().enumerate() {
                y[n * O + o] = total(kernel, sums);
            }
        }
        N
    }
}

/// Adds the products of each window with each filter, element by element.
#[inline(always)]
fn add_products<M: Microkernel, const O: usize, const N: usize>(
    kernel: M,
    windows: [&[f32]; N],
    filters: [&[f32]; O],
    sums: &mut [[[M::Vector; VECTORS]; O]; N],
) {
    let len = filters[0].len();
    let whole = len / LANES * LANES;
    for from in (0..whole).step_by(LANES) {
        for part in 0..LANES / M::LANES {
            let at = from + part * M::LANES;
            // Of a length that the compiler knows.
            add_vector(kernel, windows, filters, at..at + M::LANES, part, sums);
        }
    }
    for (part, at) in (whole..len).step_by(M::LANES).enumerate() {
        add_vector(kernel, windows, filters, at..len, part, sums);
    }
}

/// Of one vector of elements, or of as many as there are.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // indexed as its formula is
fn add_vector<M: Microkernel, const O: usize, const N: usize>(
    kernel: M,
    windows: [&[f32]; N],
    filters: [&[f32]; O],
    elements: Range<usize>,
    part: usize,
    sums: &mut [[[M::Vector; VECTORS]; O]; N],
) {
    let mut columns = [kernel.splat(0.0); O];
    for o in 0..O {
        columns[o] = kernel.load(&filters[o][elements.clone()]);
    }
    for n in 0..N {
        let x = kernel.load(&windows[n][elements.clone()]);
        for o in 0..O {
            sums[n][o][part] = kernel.mul_add(x, columns[o], sums[n][o][part]);
        }
    }
}

/// The sum of all lanes, pair by pair: first those that are half of them apart.
#[inline(always)]
fn total<M: Microkernel>(kernel: M, sums: &[M::Vector; VECTORS]) -> f32 {
    const HALF: usize = LANES / 2;
    let mut lanes = [0.0; HALF];
    if M::LANES == LANES {
        let mut all = [0.0; LANES];
        kernel.store(sums[0], &mut all);
        for i in 0..HALF {
            lanes[i] = all[i] + all[i + HALF];
        }
    } else {
        let vectors = HALF / M::LANES;
        for part in 0..vectors {
            let pairs = kernel.add(sums[part], sums[part + vectors]);
            kernel.store(pairs, &mut lanes[part * M::LANES..][..M::LANES]);
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    let [a, b, c, d] = [a + e, b + f, c + g, d + h];
    (a + c) + (b + d)
}
