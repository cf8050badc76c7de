//! Convolutions on the CPU: register tiles over windows that are read in place.
//!
//! The rows of a tile are output pixels. A window is a few runs of consecutive elements, and the microkernel reads them
//! where they lie; only windows over the border are copied first, with zeros. wgrad.rs has the gradient of the filters.

use std::ops::Range;

use super::algorithm::{CpuAlgorithm, block_pixels};
use super::problem::{ConvProblem, OutputPixel, Phase, RowSpan, SPREAD};
use crate::engine::device::cpu::tile::{Microkernel, Segment, Strided, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_chunks, map, threads};

/// y = the windows of x by the filters.
pub(super) fn fprop(problem: &ConvProblem, y: &mut [f32], x: &[f32], w: &[f32]) {
    with_microkernel!(kernel => fprop_with(kernel, problem, y, x, w));
}

fn fprop_with<M: Microkernel>(kernel: M, problem: &ConvProblem, y: &mut [f32], x: &[f32], w: &[f32]) {
    let spread = problem.spread.then(|| spread_filters(w, problem.filter_channels()[1]));
    let w = spread.as_deref().unwrap_or(w);
    let windows: Vec<Window> = problem.phases().map(|phase| Window::new::<M>(phase, w)).collect();
    let (cout, width) = (problem.cout, windows[0].filters.vectors * M::LANES);
    let (row, rows) = (problem.output[1] * cout, problem.batch * problem.output[0]);
    let tiles = cout.div_ceil(width);
    match CpuAlgorithm::select::<M>(problem, tiles) {
        CpuAlgorithm::DirectByRows => {
            let per_row = problem.phase_output()[1].max(1);
            let band = (2 * block_pixels::<M>()).div_ceil(per_row) * problem.step[0];
            for_chunks(y, band * row, |i, y| {
                let mut workspace = Workspace::new(kernel);
                let rows = i * band..(i * band + y.len() / row);
                for window in &windows {
                    let pixels = window.phase.pixels_of_rows(rows.clone());
                    let base = rows.start * problem.output[1];
                    for block in pixels.chunks(even_block::<M>(pixels.len())) {
                        workspace.sum(window, x, block, 0..tiles);
                        scatter::<M>(y, base, &workspace.sums, block, [cout, width], 0..tiles);
                    }
                }
            });
        }
        CpuAlgorithm::DirectByChannels => {
            let per_part = tiles.div_ceil(4 * threads());
            for window in &windows {
                let pixels = window.phase.pixels_of_rows(0..rows);
                let columns = |i: usize| i * per_part..((i + 1) * per_part).min(tiles);
                let parts = map(tiles.div_ceil(per_part), |i| {
                    let mut workspace = Workspace::new(kernel);
                    workspace.sum(window, x, &pixels, columns(i));
                    workspace.sums
                });
                for (i, sums) in parts.iter().enumerate() {
                    scatter::<M>(y, 0, sums, &pixels, [cout, width], columns(i));
                }
            }
        }
    }
}

/// A block size near `block_pixels` that divides `pixels` evenly.
fn even_block<M: Microkernel>(pixels: usize) -> usize {
    let blocks = pixels.div_ceil(block_pixels::<M>()).max(1);
    pixels.div_ceil(blocks).next_multiple_of(M::ROWS).max(M::ROWS)
}

// ---------------------------------------------------------------- filters

/// The 4×4 filters [Cout,4,4,Cin] that are sums of 3×3 taps.
fn spread_filters(w: &[f32], inputs: usize) -> Vec<f32> {
    let mut spread = vec![0.0; w.len() / 9 * 16];
    for (spread, w) in spread.chunks_mut(16 * inputs).zip(w.chunks(9 * inputs)) {
        for (tap, spread) in spread.chunks_mut(inputs).enumerate() {
            for &r in SPREAD[tap / 4] {
                for &s in SPREAD[tap % 4] {
                    spread.iter_mut().zip(&w[(r * 3 + s) * inputs..]).for_each(|(f, w)| *f += w);
                }
            }
        }
    }
    spread
}

/// Filters packed as [column tile][depth][tile width]; columns beyond the last are zeros.
struct PackedFilters {
    data: Buffer,
    vectors: usize,
}

/// The vectors of a tile for so many columns.
fn vectors_for<M: Microkernel>(columns: usize) -> usize {
    columns.div_ceil(M::LANES).clamp(1, M::VECTORS)
}

/// The filters w[Cout,R,S,Cin] of one phase.
fn pack_filters<M: Microkernel>(phase: &Phase, w: &[f32]) -> PackedFilters {
    let problem = &phase.problem;
    let ([outputs, inputs], [r, s]) = (problem.filter_channels(), problem.window);
    let [rows, columns] = [phase.taps(0), phase.taps(1)];
    if problem.transposed {
        return pack_transposed::<M>(w, [outputs, r, s, inputs], &rows, &columns);
    }
    if !problem.flipped() {
        return pack::<M>(phase.depth(), outputs, w);
    }
    let mut selected = Vec::with_capacity(outputs * phase.depth());
    for w in w.chunks(r * s * inputs) {
        for (r, s) in rows.iter().flat_map(|r| columns.iter().map(move |s| (r, s))) {
            selected.extend_from_slice(&w[(r * problem.window[1] + s) * inputs..][..inputs]);
        }
    }
    pack::<M>(phase.depth(), outputs, &selected)
}

/// Packs the row-major filters [Cout, depth].
fn pack<M: Microkernel>(depth: usize, cout: usize, w: &[f32]) -> PackedFilters {
    let vectors = vectors_for::<M>(cout);
    let width = vectors * M::LANES;
    let mut data = Buffer::uninit(cout.div_ceil(width) * depth * width);
    for_chunks(data.as_mut_slice(), depth * width, |t, tile| {
        let columns = (cout - t * width).min(width);
        if columns < width {
            tile.fill(0.0);
        }
        const BLOCK: usize = 16;
        for from in (0..depth).step_by(BLOCK) {
            let block = &mut tile[from * width..(from + BLOCK).min(depth) * width];
            for j in 0..columns {
                let row = &w[(t * width + j) * depth + from..];
                block.chunks_exact_mut(width).zip(row).for_each(|(k, &w)| k[j] = w);
            }
        }
    });
    PackedFilters { data, vectors }
}

/// Packs the filters w[Cout,R,S,Cin] for windows of the given taps over Cout channels that give Cin columns.
fn pack_transposed<M: Microkernel>(
    w: &[f32],
    [cout, r, s, cin]: [usize; 4],
    taps_h: &[usize],
    taps_w: &[usize],
) -> PackedFilters {
    let vectors = vectors_for::<M>(cin);
    let (width, depth) = (vectors * M::LANES, taps_h.len() * taps_w.len() * cout);
    let taps: Vec<usize> = taps_h.iter().flat_map(|&th| taps_w.iter().map(move |&tw| th * s + tw)).collect();
    let mut data = Buffer::uninit(cin.div_ceil(width) * depth * width);
    // Blocks of both sides are consecutive for a few lines at least: the filters may be far larger than a cache.
    const TILES: usize = 8;
    const ROWS: usize = 16;
    for_chunks(data.as_mut_slice(), (TILES * depth * width).max(1), |g, tiles| {
        for (i, tap) in taps.iter().enumerate() {
            for n in (0..cout).step_by(ROWS) {
                for (t, tile) in tiles.chunks_exact_mut(depth * width).enumerate() {
                    let first = (g * TILES + t) * width;
                    let columns = (cin - first).min(width);
                    let rows = &mut tile[(i * cout + n) * width..(i * cout + (n + ROWS).min(cout)) * width];
                    for (n, k) in (n..).zip(rows.chunks_exact_mut(width)) {
                        let from = (n * r * s + tap) * cin + first;
                        k[..columns].copy_from_slice(&w[from..from + columns]);
                        k[columns..].fill(0.0);
                    }
                }
            }
        }
    });
    PackedFilters { data, vectors }
}

// ---------------------------------------------------------------- windows by filters

/// Window elements summed at a time: the packed filters of so many stay in the first-level cache.
const DEPTH: usize = 384;

/// One phase ready to run: its filters, and its window as groups of spans of at most `DEPTH` elements.
struct Window {
    phase: Phase,
    filters: PackedFilters,
    groups: Vec<Vec<RowSpan>>,
}

impl Window {
    fn new<M: Microkernel>(phase: Phase, w: &[f32]) -> Window {
        Window { filters: pack_filters::<M>(&phase, w), groups: groups(&phase), phase }
    }
}

fn groups(phase: &Phase) -> Vec<Vec<RowSpan>> {
    let length = phase.row();
    let mut groups: Vec<Vec<RowSpan>> = Vec::new();
    if length == 0 {
        return groups;
    }
    let mut left = 0;
    for row in 0..phase.window[0] {
        let spans = length.div_ceil(DEPTH);
        for i in 0..spans {
            let span = RowSpan { row, elements: length * i / spans..length * (i + 1) / spans };
            if span.len() > left {
                groups.push(Vec::new());
                left = DEPTH;
            }
            left -= span.len();
            groups.last_mut().unwrap().push(span);
        }
    }
    groups
}

/// What one thread works with, kept from block to block.
struct Workspace<M: Microkernel> {
    kernel: M,
    /// The pixels in tiles of `M::ROWS`; the last one is repeated to fill its tile.
    pixels: Vec<OutputPixel>,
    segments: Vec<Segment<M::Rows>>,
    /// Of each tile, whether its windows lie inside the input, and its segments.
    sources: Vec<(bool, Range<usize>)>,
    /// Windows over the border, copied.
    border: Vec<f32>,
    /// As [column tile][pixel tile][ROWS][width].
    sums: Vec<f32>,
}

impl<M: Microkernel> Workspace<M> {
    fn new(kernel: M) -> Workspace<M> {
        let (pixels, segments, sources) = (Vec::new(), Vec::new(), Vec::new());
        Workspace { kernel, pixels, segments, sources, border: Vec::new(), sums: Vec::new() }
    }

    /// Sums the windows of all pixels, for a range of column tiles.
    fn sum(&mut self, window: &Window, x: &[f32], pixels: &[OutputPixel], columns: Range<usize>) {
        let Window { phase, filters, groups } = window;
        let (vectors, depth) = (filters.vectors, phase.depth());
        let width = vectors * M::LANES;
        self.pixels.clear();
        self.pixels.extend_from_slice(pixels);
        if let Some(last) = pixels.last() {
            self.pixels.resize(pixels.len().next_multiple_of(M::ROWS), *last);
        }
        let per_column = self.pixels.len() * width;
        self.sums.resize(columns.len() * per_column, 0.0);
        if groups.is_empty() {
            self.sums.fill(0.0);
        }
        let mut done = 0;
        for group in groups {
            self.find(phase, group, x);
            let deep: usize = group.iter().map(RowSpan::len).sum();
            for (c, sums) in columns.clone().zip(self.sums.chunks_mut(per_column)) {
                let w = &filters.data.as_slice()[(c * depth + done) * width..][..deep * width];
                let w = Strided { data: w, stride: width };
                for ((inside, range), sums) in self.sources.iter().zip(sums.chunks_mut(M::ROWS * width)) {
                    let source = Strided { data: if *inside { x } else { &self.border }, stride: 1 };
                    self.kernel.tile(vectors, sums, done > 0, source, &self.segments[range.clone()], w);
                }
            }
            done += deep;
        }
    }

    /// Finds the rows of each tile for one group of the window's spans.
    fn find(&mut self, phase: &Phase, group: &[RowSpan], x: &[f32]) {
        let deep: usize = group.iter().map(RowSpan::len).sum();
        self.segments.clear();
        self.sources.clear();
        let outside = |tile: &&[OutputPixel]| !tile.iter().all(|p| phase.inside(p));
        let tiles = self.pixels.chunks_exact(M::ROWS);
        self.border.resize(tiles.clone().filter(outside).count() * M::ROWS * deep, 0.0);
        let mut start = 0;
        for tile in tiles {
            let from = self.segments.len();
            let inside = !outside(&tile);
            if inside {
                self.segments.extend(group.iter().map(|span| Segment {
                    at: M::rows(|i| phase.offset(&tile[i], span.row, span.elements.start)),
                    len: span.len(),
                }));
            } else {
                for (p, mut to) in tile.iter().zip(self.border[start..].chunks_mut(deep)) {
                    for span in group {
                        let (here, rest) = to.split_at_mut(span.len());
                        phase.gather(here, x, p, span);
                        to = rest;
                    }
                }
                self.segments.push(Segment { at: M::rows(|i| start + i * deep), len: deep });
                start += M::ROWS * deep;
            }
            self.sources.push((inside, from..self.segments.len()));
        }
    }
}

/// Writes the sums of `pixels` to y, whose first pixel is `base`.
fn scatter<M: Microkernel>(
    y: &mut [f32],
    base: usize,
    sums: &[f32],
    pixels: &[OutputPixel],
    [cout, width]: [usize; 2],
    columns: Range<usize>,
) {
    let per_column = pixels.len().next_multiple_of(M::ROWS) * width;
    for (c, sums) in columns.zip(sums.chunks(per_column)) {
        let (from, n) = (c * width, (cout - c * width).min(width));
        for (p, sums) in pixels.iter().zip(sums.chunks(width)) {
            let y = &mut y[(p.output - base) * cout + from..];
            // A copy of known size is two moves, any other a call.
            if n == M::WIDTH {
                y[..M::WIDTH].copy_from_slice(&sums[..M::WIDTH]);
            } else {
                y[..n].copy_from_slice(&sums[..n]);
            }
        }
    }
}
