//! The gradient of the filters on the CPU: register tiles over channels of dy and window elements, summed over pixels.

use std::ops::Range;

use super::sharing::WgradSharing;
use super::problem::{ConvProblem, OutputPixel, Phase, RowSpan, SPREAD};
use super::{shallow, winograd};
use crate::engine::device::cpu::tile::{Matrix, Microkernel, Product, Strided, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_chunks, map, threads};

/// Pixels that a tile sums before it goes back to memory.
const SUMMED: usize = 256;
/// Distance of two rows of transposed dy: a power of two would map them to the same lines of the cache.
const LEFT_ROW: usize = SUMMED + 16;

/// dw from dy and the windows of x.
pub(super) fn wgrad(problem: &ConvProblem, dw: &mut [f32], dy: &[f32], x: &[f32]) {
    let of_phase = |dw: &mut [f32], phase: &Phase| {
        if winograd::wgrad_suits(problem) {
            winograd::wgrad(phase, dw, dy, x)
        } else if shallow::suits(problem) {
            with_microkernel!(kernel => shallow::wgrad(kernel, dw, dy, x, phase))
        } else {
            with_microkernel!(kernel => wgrad_phase(kernel, dw, dy, x, phase))
        }
    };
    for phase in problem.phases() {
        if !problem.spread {
            return of_phase(dw, &phase);
        }
        if phase.index == [0, 0] {
            dw.fill(0.0);
        }
        let mut part = Buffer::uninit(problem.cout * phase.depth());
        of_phase(part.as_mut_slice(), &phase);
        fold_phase(dw, part.as_slice(), &phase);
    }
}

/// Adds the gradient of one phase's filters to the gradients of the 3×3 taps that they are sums of.
fn fold_phase(dw: &mut [f32], part: &[f32], phase: &Phase) {
    let (cin, rows, columns) = (phase.problem.cin, phase.taps(0), phase.taps(1));
    for (dw, part) in dw.chunks_mut(9 * cin).zip(part.chunks(rows.len() * columns.len() * cin)) {
        for (tap, part) in part.chunks(cin).enumerate() {
            for &r in SPREAD[rows[tap / columns.len()]] {
                for &s in SPREAD[columns[tap % columns.len()]] {
                    dw[(r * 3 + s) * cin..].iter_mut().zip(part).for_each(|(d, p)| *d += p);
                }
            }
        }
    }
}

/// dw[Cout, depth] = Σ over pixels of dy[pixel, Cout] ⊗ window[pixel, depth].
fn wgrad_phase<M: Microkernel>(kernel: M, dw: &mut [f32], dy: &[f32], x: &[f32], phase: &Phase) {
    let (depth, cout) = (phase.depth(), phase.problem.cout);
    let pixels = phase.all_pixels();
    match WgradSharing::select(&phase.problem, dw.len(), SUMMED) {
        WgradSharing::PartialSums(parts) => {
            let per_part = pixels.len().div_ceil(parts);
            let parts = map(parts, |i| {
                let mut part = Buffer::uninit(dw.len());
                let pixels =
                    &pixels[(i * per_part).min(pixels.len())..((i + 1) * per_part).min(pixels.len())];
                WgradTile::new(kernel, part.as_mut_slice(), dy, x, phase, 0..cout).sum(pixels);
                part
            });
            dw.copy_from_slice(parts[0].as_slice());
            for part in &parts[1..] {
                let part = part.as_slice();
                for_chunks(dw, 1 << 14, |i, dw| {
                    dw.iter_mut().zip(&part[i << 14..]).for_each(|(d, p)| *d += p);
                });
            }
        }
        WgradSharing::ByChannels => {
            let per_part = cout.div_ceil(4 * threads()).max(2 * M::ROWS);
            for_chunks(dw, per_part * depth, |i, dw| {
                let n = dw.len() / depth;
                let rows = i * per_part..i * per_part + n;
                WgradTile::new(kernel, dw, dy, x, phase, rows).sum(&pixels);
            });
        }
    }
}

/// Rows of a gradient that one thread computes, tile by tile.
struct WgradTile<'a, M: Microkernel> {
    kernel: M,
    dw: &'a mut [f32],
    dy: &'a [f32],
    x: &'a [f32],
    phase: &'a Phase,
    /// Channels of dy, which are rows of dw.
    rows: Range<usize>,
    /// Whether `dw` holds nothing yet.
    is_empty: bool,
    /// The sums of one span.
    sums: Vec<f32>,
}

impl<'a, M: Microkernel> WgradTile<'a, M> {
    fn new(
        kernel: M,
        dw: &'a mut [f32],
        dy: &'a [f32],
        x: &'a [f32],
        phase: &'a Phase,
        rows: Range<usize>,
    ) -> WgradTile<'a, M> {
        let sums = vec![0.0; rows.len() * M::WIDTH];
        WgradTile { kernel, dw, dy, x, phase, rows, is_empty: false, sums }
    }

    /// dw[rows, depth] = Σ over `pixels` of dy[pixel, rows] ⊗ window[pixel]
    fn sum(&mut self, pixels: &[OutputPixel]) {
        /// Channels for which copying a block is faster; for fewer, windows inside are read in place. All channels count, not those
        /// of a thread, so that the order of the sums is the same for any number of threads.
        const MANY: usize = 48;
        if self.phase.problem.cout >= MANY && !pixels.is_empty() {
            for (number, block) in pixels.chunks(SUMMED).enumerate() {
                self.is_empty = number == 0;
                self.add_copied(block);
            }
            return;
        }
        self.dw.fill(0.0);
        let mut border = Vec::new();
        let phase = self.phase;
        let neighbors = |a: &OutputPixel, b: &OutputPixel| {
            phase.inside(a) && phase.inside(b) && a.image == b.image && a.first[0] == b.first[0]
        };
        for run in pixels.chunk_by(neighbors) {
            if run.len() >= 2 * M::ROWS {
                run.chunks(SUMMED).for_each(|run| self.add_in_place(run));
            } else {
                border.extend_from_slice(run);
            }
        }
        border.chunks(SUMMED).for_each(|block| self.add_copied(block));
    }

    /// The window cut into tile widths.
    fn spans(&self) -> impl Iterator<Item = RowSpan> + use<M> {
        let (rows, length) = (self.phase.window[0], self.phase.row());
        let cut = move |from: usize| from..(from + M::WIDTH).min(length);
        (0..rows).flat_map(move |row| {
            (0..length).step_by(M::WIDTH).map(move |from| RowSpan { row, elements: cut(from) })
        })
    }

    /// Adds a block of any pixels, whose dy and windows are copied into rows.
    fn add_copied(&mut self, block: &[OutputPixel]) {
        /// Tile widths that are copied together: long runs of each row of dw.
        const SPANS: usize = 8;
        let (phase, cout, width) = (self.phase, self.phase.problem.cout, M::WIDTH);
        let mut left = vec![0.0; self.rows.len() * LEFT_ROW];
        let mut right = vec![0.0; SPANS * SUMMED * width];
        for (i, p) in block.iter().enumerate() {
            let dy = &self.dy[p.output * cout..][self.rows.clone()];
            left.iter_mut().skip(i).step_by(LEFT_ROW).zip(dy).for_each(|(l, d)| *l = *d);
        }
        let inside: Vec<bool> = block.iter().map(|p| phase.inside(p)).collect();
        let spans: Vec<RowSpan> = self.spans().collect();
        for spans in spans.chunks(SPANS) {
            for (span, right) in spans.iter().zip(right.chunks_exact_mut(SUMMED * width)) {
                for ((p, inside), to) in block.iter().zip(&inside).zip(right.chunks_exact_mut(width)) {
                    if *inside && span.len() == width {
                        let at = phase.offset(p, span.row, span.elements.start);
                        to[..M::WIDTH].copy_from_slice(&self.x[at..at + M::WIDTH]);
                    } else {
                        phase.gather(&mut to[..span.len()], self.x, p, span);
                    }
                }
            }
            let left = Matrix { data: &left, row: LEFT_ROW, element: 1 };
            for (span, right) in spans.iter().zip(right.chunks_exact(SUMMED * width)) {
                self.add_products(span, block.len(), left, Strided { data: right, stride: width });
            }
        }
    }

    /// Adds neighbors in one row of the output whose windows lie inside, all read in place.
    fn add_in_place(&mut self, run: &[OutputPixel]) {
        let (phase, x) = (self.phase, self.x);
        let ConvProblem { cin, cout, step, stride, .. } = phase.problem;
        let dy = &self.dy[run[0].output * cout + self.rows.start..];
        let dy = Matrix { data: dy, row: 1, element: step[1] * cout };
        let stride = stride[1] * cin;
        for span in self.spans() {
            // The last rows of the last image: a full vector would reach over the end.
            let from = phase.offset(&run[0], span.row, span.elements.start);
            let width = span.len().next_multiple_of(M::LANES);
            let fits = (x.len() - from).saturating_sub(width) / stride + 1;
            let len = if from + width > x.len() { 0 } else { run.len().min(fits) };
            if len > 0 {
                self.add_products(&span, len, dy, Strided { data: &x[from..], stride });
            }
            for (i, p) in run.iter().enumerate().skip(len) {
                let window = &x[from + i * stride..][..span.len()];
                for (row, d) in self.dy[p.output * cout..][self.rows.clone()].iter().enumerate() {
                    let at = row * phase.depth() + span.row * phase.row() + span.elements.start;
                    self.dw[at..].iter_mut().zip(window).for_each(|(dw, x)| *dw += d * x);
                }
            }
        }
    }

    /// Adds the products of `count` pixels, one at least, for one span of their windows.
    fn add_products(&mut self, span: &RowSpan, count: usize, left: Matrix, right: Strided) {
        let (depth, from) = (self.phase.depth(), span.row * self.phase.row() + span.elements.start);
        let rows = self.rows.len();
        let (data, pitch) = match self.is_empty {
            true => (&mut self.dw[from..], depth),
            false => (&mut self.sums[..], M::WIDTH),
        };
        for first in (0..count).step_by(M::DEPTH) {
            let size = [rows, M::DEPTH.min(count - first), span.len()];
            let left = Matrix { data: &left.data[first * left.element..], ..left };
            let right = Strided { data: &right.data[first * right.stride..], ..right };
            self.kernel.multiply(size, Product { data: &mut *data, pitch, add: first > 0 }, left, right);
        }
        if self.is_empty {
            return;
        }
        for (row, sums) in self.sums.chunks_exact(M::WIDTH).enumerate() {
            let dw = &mut self.dw[row * depth + from..][..span.len()];
            dw.iter_mut().zip(sums).for_each(|(d, s)| *d += s);
        }
    }
}
