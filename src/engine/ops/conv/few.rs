//! Convolutions over few pixels on the CPU, where reading the filters is the cost: each is read once, where it lies, and
//! none is packed. Sums are those of direct.rs, term by term in the same order, so that the choice changes no bit.

use std::ops::Range;

use super::direct::{frame, scatter};
use super::problem::{ConvProblem, OutputPixel, Phase, SPREAD};
use crate::engine::device::cpu::tile::{Epilogue, Microkernel, Segment, Strided, Sums, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_chunks, map, threads};

/// Whether a pass whose filters are not packed is computed so.
pub(super) fn suits(problem: &ConvProblem) -> bool {
    /// Pixels that all filters would have to be packed for.
    const FEW: usize = 512;
    /// Channels of a run of the filters that is worth a tile.
    const RUN: usize = 64;
    problem.pixels() <= FEW && problem.cin.min(problem.cout) >= RUN
}

/// y = the windows of x by the operator's filters w[Cout,R,S,Cin], through the epilogue.
pub(super) fn fprop(problem: &ConvProblem, y: &mut [f32], x: &[f32], w: &[f32], epilogue: Option<Epilogue>) {
    let margins = problem.margins(problem.phases());
    let framed = (margins != [[0; 2]; 2]).then(|| frame(problem, x, margins));
    let (problem, x) = (&problem.framed(margins), framed.as_ref().map_or(x, Buffer::as_slice));
    with_microkernel!(kernel => {
        for phase in problem.phases() {
            let pass = Pass { kernel, phase, pixels: phase.all_pixels(), taps: Tap::all(&phase), x, w, epilogue };
            if problem.transposed { pass.by_inputs(y) } else { pass.by_outputs(y) }
        }
    });
}

/// Terms of the sums that filters are copied for at a time.
const TERMS: usize = 128;

/// One tap of a window.
struct Tap {
    /// Its row in the window, and where its channels begin in that row.
    row: usize,
    element: usize,
    /// Which of the operator's taps its filter is the sum of.
    numbers: Vec<usize>,
}

impl Tap {
    /// In the order of the window.
    fn all(phase: &Phase) -> Vec<Tap> {
        let ConvProblem { window, cin, spread, .. } = phase.problem;
        let [rows, columns] = [phase.taps(0), phase.taps(1)];
        let of_operator = |tap: usize| if spread { SPREAD[tap].to_vec() } else { vec![tap] };
        let across = if spread { 3 } else { window[1] };
        let mut taps = Vec::new();
        for (row, &r) in rows.iter().enumerate() {
            for (column, &s) in columns.iter().enumerate() {
                let of_row = |r: usize| of_operator(s).into_iter().map(move |s| r * across + s);
                let numbers = of_operator(r).into_iter().flat_map(of_row).collect();
                taps.push(Tap { row, element: column * cin, numbers });
            }
        }
        taps
    }

    /// A run of its filter: `inputs` numbers lie from tap to tap of w, `at` is the run's place in the first.
    #[inline]
    fn copy(&self, to: &mut [f32], w: &[f32], inputs: usize, at: usize) {
        to.copy_from_slice(&w[self.numbers[0] * inputs + at..][..to.len()]);
        for &number in &self.numbers[1..] {
            let run = &w[number * inputs + at..][..to.len()];
            to.iter_mut().zip(run).for_each(|(to, w)| *to += w);
        }
    }
}

/// One phase in one kind of tile.
struct Pass<'a, M> {
    kernel: M,
    phase: Phase,
    pixels: Vec<OutputPixel>,
    taps: Vec<Tap>,
    x: &'a [f32],
    w: &'a [f32],
    epilogue: Option<Epilogue<'a>>,
}

impl<M: Microkernel> Pass<'_, M> {
    /// Rows of a tile are the operator's outputs, whose filters are runs over the inputs; columns are pixels.
    fn by_outputs(&self, y: &mut [f32]) {
        /// Channels summed at a time: the windows of a column tile stay in the second-level cache, its filters in the first.
        const DEPTH: usize = 256;
        /// Where they lie, filters of many channels fall onto the same lines of the cache: those of a tile are copied.
        const PITCH: usize = DEPTH + 16;
        let Pass { kernel, ref phase, w, .. } = *self;
        let (cin, cout, depth) = (phase.problem.cin, phase.problem.cout, phase.depth());
        let (filter, pitch) = (w.len() / cout, self.pixels.len().next_multiple_of(M::WIDTH));
        let windows = self.windows(pitch);
        let per_part = cout.div_ceil(4 * threads()).next_multiple_of(M::ROWS);
        let parts = map(cout.div_ceil(per_part), |part| {
            let outputs = part * per_part..((part + 1) * per_part).min(cout);
            let mut sums = Buffer::uninit(outputs.len() * pitch);
            let mut filters = vec![0.0; M::ROWS * PITCH];
            for (i, tap) in self.taps.iter().enumerate() {
                for c in (0..cin).step_by(DEPTH) {
                    let (len, k) = (DEPTH.min(cin - c), i * cin + c);
                    for row in outputs.clone().step_by(M::ROWS) {
                        let output = |i: usize| (row + i).min(outputs.end - 1);
                        for (i, to) in filters.chunks_exact_mut(PITCH).enumerate() {
                            tap.copy(&mut to[..len], &w[output(i) * filter..], cin, c);
                        }
                        let filters = Strided { data: &filters, stride: 1 };
                        let at = M::rows(|i| i * PITCH);
                        for (tile, windows) in windows.as_slice().chunks_exact(depth * M::WIDTH).enumerate() {
                            let columns = Strided { data: &windows[k * M::WIDTH..], stride: M::WIDTH };
                            let to = M::rows(|i| (output(i) - outputs.start) * pitch + tile * M::WIDTH);
                            let mut sums = Sums { data: sums.as_mut_slice(), at: to, add: k > 0, epilogue: None };
                            kernel.tile(M::VECTORS, &mut sums, filters, &[Segment { at, len }], columns);
                        }
                    }
                }
            }
            (outputs, sums)
        });
        for (outputs, sums) in parts {
            let (width, sums) = (outputs.len(), sums.as_slice());
            let turned = |i: usize| sums[i / width + i % width * pitch];
            let turned: Vec<f32> = (0..self.pixels.len() * width).map(turned).collect();
            scatter(y, [cout, outputs.start], &self.pixels, &turned, self.epilogue);
        }
    }

    /// The windows of all pixels as columns: [column tile][depth][tile width].
    fn windows(&self, pitch: usize) -> Buffer {
        let (phase, depth, row) = (&self.phase, self.phase.depth(), self.phase.row());
        let mut windows = Buffer::uninit(depth * pitch);
        for_chunks(windows.as_mut_slice(), depth * M::WIDTH, |tile, windows| {
            for column in 0..M::WIDTH {
                // Columns beyond the last pixel are nobody's.
                let pixel = &self.pixels[(tile * M::WIDTH + column).min(self.pixels.len() - 1)];
                for r in 0..phase.window[0] {
                    let from = phase.offset(pixel, r, 0);
                    let to = windows[r * row * M::WIDTH + column..].iter_mut().step_by(M::WIDTH);
                    to.zip(&self.x[from..from + row]).for_each(|(to, x)| *to = *x);
                }
            }
        });
        windows
    }

    /// Rows of a tile are pixels; columns are the operator's inputs, of which a block is copied at a time.
    fn by_inputs(&self, y: &mut [f32]) {
        const PITCH: usize = TERMS + 16;
        /// Column tiles that are copied together: long runs of each filter.
        const TILES: usize = 4;
        let Pass { kernel, ref phase, x, .. } = *self;
        let (cin, cout) = (phase.problem.cin, phase.problem.cout);
        let tiles = cout.div_ceil(M::WIDTH);
        let per_part = tiles.div_ceil(2 * threads()).clamp(1, TILES);
        let width = per_part * M::WIDTH;
        let mut pixels = self.pixels.clone();
        pixels.resize(pixels.len().next_multiple_of(M::ROWS), pixels[pixels.len() - 1]);
        let parts = map(tiles.div_ceil(per_part), |part| {
            let columns = part * width..((part + 1) * width).min(cout);
            let mut sums = Buffer::uninit(pixels.len() * width);
            if self.taps.is_empty() {
                sums.as_mut_slice().fill(0.0);
            }
            let mut block = Buffer::uninit(TERMS * width);
            let mut windows = vec![0.0; pixels.len() * PITCH];
            for (i, tap) in self.taps.iter().enumerate() {
                for n in (0..cin).step_by(TERMS) {
                    let len = TERMS.min(cin - n);
                    self.copy(block.as_mut_slice(), tap, n..n + len, columns.clone());
                    for (pixel, to) in pixels.iter().zip(windows.chunks_exact_mut(PITCH)) {
                        let from = phase.offset(pixel, tap.row, tap.element + n);
                        to[..len].copy_from_slice(&x[from..from + len]);
                    }
                    for row in 0..pixels.len() / M::ROWS {
                        let segment = Segment { at: M::rows(|i| (row * M::ROWS + i) * PITCH), len };
                        for (tile, block) in block.as_slice().chunks_exact(TERMS * M::WIDTH).enumerate() {
                            let to = M::rows(|i| (row * M::ROWS + i) * width + tile * M::WIDTH);
                            let add = i + n > 0;
                            let mut sums = Sums { data: sums.as_mut_slice(), at: to, add, epilogue: None };
                            let (x, w) = (Strided { data: &windows, stride: 1 }, Strided { data: block, stride: M::WIDTH });
                            kernel.tile(M::VECTORS, &mut sums, x, &[segment], w);
                        }
                    }
                }
            }
            sums
        });
        for (part, sums) in parts.iter().enumerate() {
            let sums = &sums.as_slice()[..self.pixels.len() * width];
            scatter(y, [cout, part * width], &self.pixels, sums, self.epilogue);
        }
    }

    /// Copies the operator's inputs `columns` of one tap and the outputs `terms`: [column tile][term][tile width].
    fn copy(&self, block: &mut [f32], tap: &Tap, terms: Range<usize>, columns: Range<usize>) {
        let (inputs, filter) = (self.phase.problem.cout, self.w.len() / self.phase.problem.cin);
        for (row, n) in terms.enumerate() {
            let of_tap = |number: usize| &self.w[n * filter + number * inputs..][..inputs][columns.clone()];
            for (i, &number) in tap.numbers.iter().enumerate() {
                for (tile, run) in of_tap(number).chunks(M::WIDTH).enumerate() {
                    let to = &mut block[(tile * TERMS + row) * M::WIDTH..][..M::WIDTH];
                    if i > 0 {
                        to.iter_mut().zip(run).for_each(|(to, w)| *to += w);
                        continue;
                    }
                    to[..run.len()].copy_from_slice(run);
                    to[run.len()..].fill(0.0);
                }
            }
        }
    }
}
