//! Convolutions over few pixels on the CPU, where reading the filters is the cost: each is read once, where it lies, and
//! none is packed. Sums are those of direct.rs, term by term in the same order, so that the choice changes no bit.

use std::ops::Range;

use super::direct::{frame, scatter};
use super::problem::{ConvProblem, OutputPixel, Phase, SPREAD};
use super::filters::{column_tiles, vectors_of};
use crate::engine::device::cpu::tile::{Epilogue, Matrix, Microkernel, Product, Strided, prefetch, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_chunks, map, odd_pitch, threads};

/// Whether a pass whose filters are not packed is computed so.
pub(super) fn suits(problem: &ConvProblem) -> bool {
    /// Pixels that all filters would have to be packed for.
    const FEW: usize = 512;
    /// Channels of a run of the filters that is worth a tile.
    const RUN: usize = 64;
    // A gradient reads windows where they lie; otherwise they are turned, as filters would be that are packed.
    let fewer = problem.transposed || problem.pixels() <= problem.cout;
    problem.pixels() <= FEW && fewer && problem.cin.min(problem.cout) >= RUN
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

/// Terms of the sums that are added at a time: the copies of filters and windows are not to be long either.
fn terms<M: Microkernel>() -> usize {
    M::DEPTH.min(256)
}

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

    /// Asks for a run of its filter ahead of [`copy`](Tap::copy): runs lie pages apart, where the processor does not foresee them.
    #[inline]
    fn prefetch(&self, len: usize, w: &[f32], inputs: usize, at: usize) {
        for &number in &self.numbers {
            (0..len).step_by(16).for_each(|i| prefetch(w, number * inputs + at + i));
        }
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
        /// Filters that are copied together: where they lie, those of many channels fall onto the same lines of the cache.
        const FILTERS: usize = 12;
        let Pass { kernel, ref phase, w, .. } = *self;
        let (cin, cout, depth, count) = (phase.problem.cin, phase.problem.cout, phase.depth(), self.pixels.len());
        let (filter, terms) = (w.len() / cout, terms::<M>());
        let (pitch, copied) = (count.next_multiple_of(M::LANES), odd_pitch(terms));
        let windows = self.windows(pitch);
        let per_part = cout.div_ceil(4 * threads()).next_multiple_of(FILTERS);
        let parts = map(cout.div_ceil(per_part), |part| {
            let outputs = part * per_part..((part + 1) * per_part).min(cout);
            let mut sums = Buffer::uninit(outputs.len() * pitch);
            let mut filters = vec![0.0; FILTERS * copied];
            for (i, tap) in self.taps.iter().enumerate() {
                for c in (0..cin).step_by(terms) {
                    let (len, k) = (terms.min(cin - c), i * cin + c);
                    for first in outputs.clone().step_by(FILTERS) {
                        let own = first..(first + FILTERS).min(outputs.end);
                        for (n, to) in own.clone().zip(filters.chunks_exact_mut(copied)) {
                            tap.copy(&mut to[..len], &w[n * filter..], cin, c);
                            tap.prefetch(len, w, cin, (n + FILTERS) * filter + c);
                        }
                        let sums = &mut sums.as_mut_slice()[(first - outputs.start) * pitch..];
                        for tile in 0..column_tiles::<M>(count) {
                            let (from, width) = (tile * M::WIDTH, vectors_of::<M>(tile, count) * M::LANES);
                            let size = [own.len(), len, width];
                            let windows = &windows.as_slice()[from * depth + k * width..];
                            let sums = Product { data: &mut sums[from..], pitch, add: k > 0 };
                            let filters = Matrix { data: &filters, row: copied, element: 1 };
                            kernel.multiply(size, sums, filters, Strided { data: windows, stride: width });
                        }
                    }
                }
            }
            (outputs, sums)
        });
        for (outputs, sums) in parts {
            let width = outputs.len();
            let mut turned = vec![0.0; count * width];
            for (n, sums) in sums.as_slice().chunks_exact(pitch).enumerate() {
                turned[n..].iter_mut().step_by(width).zip(sums).for_each(|(to, sum)| *to = *sum);
            }
            scatter(y, [cout, outputs.start], &self.pixels, &turned, self.epilogue);
        }
    }

    /// The windows of all pixels as columns: [column tile][depth][tile width].
    fn windows(&self, pitch: usize) -> Buffer {
        /// Terms of a window that are turned at a time: those of all pixels of a tile stay in the first-level cache.
        const TURNED: usize = 64;
        let (phase, depth, row) = (&self.phase, self.phase.depth(), self.phase.row());
        let mut windows = Buffer::uninit(depth * pitch);
        for (tile, windows) in windows.as_mut_slice().chunks_mut(depth * M::WIDTH).enumerate() {
            let width = windows.len() / depth;
            // Columns beyond the last pixel are nobody's.
            let pixel = |column: usize| &self.pixels[(tile * M::WIDTH + column).min(self.pixels.len() - 1)];
            for_chunks(windows, TURNED * width, |part, turned| {
                let terms = part * TURNED..part * TURNED + turned.len() / width;
                for column in 0..width {
                    for r in terms.start / row..terms.end.div_ceil(row) {
                        let own = terms.start.max(r * row)..terms.end.min((r + 1) * row);
                        let from = phase.offset(pixel(column), r, own.start - r * row);
                        let to = turned[(own.start - terms.start) * width + column..].iter_mut().step_by(width);
                        to.zip(&self.x[from..from + own.len()]).for_each(|(to, x)| *to = *x);
                    }
                }
            });
        }
        windows
    }

    /// Rows of a tile are pixels; columns are the operator's inputs, of which a block is copied at a time.
    fn by_inputs(&self, y: &mut [f32]) {
        /// Column tiles that are copied together: long runs of each filter.
        const TILES: usize = 4;
        let Pass { kernel, ref phase, x, .. } = *self;
        let (cin, cout, count, terms) = (phase.problem.cin, phase.problem.cout, self.pixels.len(), terms::<M>());
        let tiles = column_tiles::<M>(cout);
        let per_part = tiles.div_ceil(2 * threads()).clamp(1, TILES);
        let (width, copied) = (per_part * M::WIDTH, odd_pitch(terms));
        let parts = map(tiles.div_ceil(per_part), |part| {
            let columns = part * width..((part + 1) * width).min(cout);
            let mut sums = Buffer::uninit(count * width);
            if self.taps.is_empty() {
                sums.as_mut_slice().fill(0.0);
            }
            let mut block = Buffer::uninit(terms * width);
            let mut windows = vec![0.0; count * copied];
            for (i, tap) in self.taps.iter().enumerate() {
                for n in (0..cin).step_by(terms) {
                    let len = terms.min(cin - n);
                    self.copy(block.as_mut_slice(), tap, n..n + len, columns.clone());
                    for (pixel, to) in self.pixels.iter().zip(windows.chunks_exact_mut(copied)) {
                        let from = phase.offset(pixel, tap.row, tap.element + n);
                        to[..len].copy_from_slice(&x[from..from + len]);
                    }
                    let blocks = block.as_slice().chunks_exact(terms * M::WIDTH).take(column_tiles::<M>(columns.len()));
                    for (tile, block) in blocks.enumerate() {
                        let sums = &mut sums.as_mut_slice()[tile * M::WIDTH..];
                        let sums = Product { data: sums, pitch: width, add: i + n > 0 };
                        let windows = Matrix { data: &windows, row: copied, element: 1 };
                        let filters = Strided { data: block, stride: M::WIDTH };
                        kernel.multiply([count, len, M::WIDTH], sums, windows, filters);
                    }
                }
            }
            sums
        });
        for (part, sums) in parts.iter().enumerate() {
            scatter(y, [cout, part * width], &self.pixels, sums.as_slice(), self.epilogue);
        }
    }

    /// Copies the operator's inputs `columns` of one tap and the outputs `terms`: [column tile][term][tile width].
    fn copy(&self, block: &mut [f32], tap: &Tap, terms: Range<usize>, columns: Range<usize>) {
        /// Terms ahead of the copied one.
        const AHEAD: usize = 6;
        let (inputs, filter) = (self.phase.problem.cout, self.w.len() / self.phase.problem.cin);
        for (row, n) in terms.enumerate() {
            tap.prefetch(columns.len(), self.w, inputs, (n + AHEAD) * filter + columns.start);
            let of_tap = |number: usize| &self.w[n * filter + number * inputs..][..inputs][columns.clone()];
            for (i, &number) in tap.numbers.iter().enumerate() {
                for (tile, run) in of_tap(number).chunks(M::WIDTH).enumerate() {
                    let to = &mut block[(tile * self::terms::<M>() + row) * M::WIDTH..][..M::WIDTH];
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
