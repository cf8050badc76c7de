//! Convolutions on the CPU by the direct sum: register tiles over windows that are read in place.
//!
//! The rows of a tile are output pixels. A window is a few runs of consecutive elements, and the microkernel reads them
//! where they lie, after zeros were put around an input whose border windows cross. Sums are kept where the output has
//! them. filters.rs packs the filters, wgrad.rs has their gradient.

use std::ops::Range;

use super::sharing::{Sharing, block_pixels};
use super::filters::{PackedFilters, column_tiles, vectors_of};
use super::problem::{ConvProblem, OutputPixel, Phase, RowSpan};
use crate::engine::device::cpu::tile::{Epilogue, Microkernel, Segment, Strided, Sums, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_chunks, map, odd_pitch, rows_per_chunk, threads};

/// y = the windows of x by the filters, through the epilogue.
pub(super) fn fprop(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    filters: &PackedFilters,
    epilogue: Option<Epilogue>,
) {
    with_microkernel!(kernel => Pass { kernel, problem, x, filters, epilogue }.run(y));
}

/// A convolution in one kind of tile.
struct Pass<'a, M> {
    kernel: M,
    problem: &'a ConvProblem,
    x: &'a [f32],
    filters: &'a PackedFilters,
    epilogue: Option<Epilogue<'a>>,
}

impl<M: Microkernel> Pass<'_, M> {
    fn run(&self, y: &mut [f32]) {
        let problem = self.problem;
        let margins = match Sharing::joins_phases::<M>(problem) {
            true => problem.margins([problem.joined()].into_iter()),
            false => problem.margins(problem.phases()),
        };
        let framed = (margins != [[0; 2]; 2]).then(|| frame(problem, self.x, margins));
        let x = framed.as_ref().map_or(self.x, Buffer::as_slice);
        let pass = Pass { problem: &problem.framed(margins), x, ..*self };
        match Sharing::select::<M>(pass.problem, column_tiles::<M>(problem.cout)) {
            Sharing::Rows { bands } => pass.by_rows(y, bands),
            Sharing::Blocks { bands } => pass.by_blocks(y, bands),
            Sharing::Channels => pass.by_channels(y),
        }
    }

    /// Threads share the output rows.
    fn by_rows(&self, y: &mut [f32], bands: usize) {
        let Pass { kernel, problem, x, epilogue, .. } = *self;
        let windows = self.windows();
        let (cout, per_row) = (problem.cout, problem.output[1]);
        let band = (problem.batch * problem.output[0]).div_ceil(bands);
        for_chunks(y, band * per_row * cout, |i, y| {
            let mut workspace = Workspace::new(kernel);
            let first = i * band * per_row;
            let rows = i * band..i * band + y.len() / (per_row * cout);
            for window in &windows {
                let pixels = window.phase.pixels_of_rows(rows.clone());
                for block in pixels.chunks(even_block::<M>(pixels.len())) {
                    workspace.begin(block, |_, p| (p.output - first) * cout);
                    let epilogue = epilogue.map(|e| e.at(0, first * cout));
                    let output = Output { data: y, columns: cout, epilogue };
                    workspace.sum(window, x, 0..column_tiles::<M>(cout), output);
                }
            }
        });
    }

    /// Threads share the output rows; the sums of all phases are made side by side. For gradients, which have no epilogue.
    fn by_blocks(&self, y: &mut [f32], bands: usize) {
        let Pass { kernel, problem, x, filters, epilogue } = *self;
        assert!(epilogue.is_none(), "a gradient has no epilogue");
        let ConvProblem { batch, output: [h, per_row], cout, step, .. } = *problem;
        let columns = step[0] * step[1] * cout;
        let window = Window::new::<M>(problem.joined(), filters.phases[0].as_slice(), columns);
        // A band must not end within a block.
        let whole = if h.is_multiple_of(step[0]) { step[0] } else { h };
        let band = (batch * h).div_ceil(bands).next_multiple_of(whole);
        for_chunks(y, band * per_row * cout, |i, y| {
            let mut workspace = Workspace::new(kernel);
            let mut sums = Vec::new();
            let first = i * band * per_row;
            let pixels = window.phase.pixels_of_rows(i * band..i * band + y.len() / (per_row * cout));
            for block in pixels.chunks(even_block::<M>(pixels.len())) {
                sums.resize(block.len() * columns, 0.0);
                workspace.begin(block, |i, _| i * columns);
                workspace.sum(&window, x, 0..1, Output { data: &mut sums, columns, epilogue: None });
                for (p, sums) in block.iter().zip(sums.chunks_exact(columns)) {
                    let (row, column) = (p.output / per_row % h, p.output % per_row);
                    let n = step[1].min(per_row - column) * cout;
                    for (r, sums) in sums.chunks_exact(step[1] * cout).take(h - row).enumerate() {
                        y[(p.output - first + r * per_row) * cout..][..n].copy_from_slice(&sums[..n]);
                    }
                }
            }
        });
    }

    /// Threads share the output channels.
    fn by_channels(&self, y: &mut [f32]) {
        let Pass { kernel, problem, x, epilogue, .. } = *self;
        let (cout, tiles) = (problem.cout, column_tiles::<M>(problem.cout));
        let per_part = tiles.div_ceil(2 * threads());
        let width = per_part * M::WIDTH;
        for window in self.windows() {
            let pixels = window.phase.all_pixels();
            let parts = map(tiles.div_ceil(per_part), |i| {
                let mut workspace = Workspace::new(kernel);
                workspace.begin(&pixels, |i, _| i * width);
                let mut sums = Buffer::uninit(pixels.len() * width);
                let output = Output { data: sums.as_mut_slice(), columns: width, epilogue: None };
                workspace.sum(&window, x, i * per_part..((i + 1) * per_part).min(tiles), output);
                sums
            });
            for (i, sums) in parts.iter().enumerate() {
                scatter(y, [cout, i * width], &pixels, sums.as_slice(), epilogue);
            }
        }
    }

    /// The windows of all phases.
    fn windows(&self) -> Vec<Window<'_>> {
        let phases = self.problem.phases().zip(&self.filters.phases);
        phases
            .map(|(phase, filters)| Window::new::<M>(phase, filters.as_slice(), self.problem.cout))
            .collect()
    }
}

/// x with margins of zeros.
pub(super) fn frame(problem: &ConvProblem, x: &[f32], margins: [[usize; 2]; 2]) -> Buffer {
    let ConvProblem { batch, cin, input: [h, w], .. } = *problem;
    let [[above, below], [left, right]] = margins;
    let row = (left + w + right) * cin;
    let mut framed = Buffer::uninit(batch * (above + h + below) * row);
    let rows = rows_per_chunk(row);
    for_chunks(framed.as_mut_slice(), rows * row, |i, framed| {
        for (number, to) in (i * rows..).zip(framed.chunks_exact_mut(row)) {
            let (image, line) = (number / (above + h + below), number % (above + h + below));
            if line < above || line >= above + h {
                to.fill(0.0);
                continue;
            }
            let from = &x[(image * h + line - above) * w * cin..][..w * cin];
            to[..left * cin].fill(0.0);
            to[left * cin..][..w * cin].copy_from_slice(from);
            to[(left + w) * cin..].fill(0.0);
        }
    });
    framed
}

/// A block size near `block_pixels` that divides `pixels` evenly.
fn even_block<M: Microkernel>(pixels: usize) -> usize {
    let blocks = pixels.div_ceil(block_pixels::<M>()).max(1);
    pixels.div_ceil(blocks).next_multiple_of(M::ROWS).max(M::ROWS)
}

/// Writes sums, a row for each of `pixels`, into the channels of y from `first`.
pub(super) fn scatter(
    y: &mut [f32],
    [cout, first]: [usize; 2],
    pixels: &[OutputPixel],
    sums: &[f32],
    epilogue: Option<Epilogue>,
) {
    let width = sums.len() / pixels.len().max(1);
    let columns = (cout - first).min(width);
    let epilogue = epilogue.map(|e| e.at(first, first));
    for (p, sums) in pixels.iter().zip(sums.chunks(width)) {
        let row = &mut y[p.output * cout + first..][..columns];
        row.copy_from_slice(&sums[..columns]);
        if let Some(epilogue) = &epilogue {
            epilogue.apply(row, p.output * cout);
        }
    }
}

// ---------------------------------------------------------------- windows by filters

/// One phase ready to run: its packed filters, and its window as groups of spans, whose packed filters stay in the first-level cache.
struct Window<'a> {
    phase: Phase,
    filters: &'a [f32],
    columns: usize,
    groups: Vec<Vec<RowSpan>>,
}

impl<'a> Window<'a> {
    fn new<M: Microkernel>(phase: Phase, filters: &'a [f32], columns: usize) -> Window<'a> {
        let depth = M::depth(vectors_of::<M>(0, columns) * M::LANES);
        Window { filters, columns, groups: groups(&phase, depth), phase }
    }
}

/// The window's rows in spans, and these in groups, of at most `most` elements.
fn groups(phase: &Phase, most: usize) -> Vec<Vec<RowSpan>> {
    let length = phase.row();
    let mut groups: Vec<Vec<RowSpan>> = Vec::new();
    if length == 0 {
        return groups;
    }
    let mut left = 0;
    for row in 0..phase.window[0] {
        let spans = length.div_ceil(most);
        for i in 0..spans {
            let span = RowSpan { row, elements: length * i / spans..length * (i + 1) / spans };
            if span.len() > left {
                groups.push(Vec::new());
                left = most;
            }
            left -= span.len();
            groups.last_mut().unwrap().push(span);
        }
    }
    groups
}

/// Where sums go: rows of `data`, which have room for `columns` columns.
struct Output<'a> {
    data: &'a mut [f32],
    columns: usize,
    epilogue: Option<Epilogue<'a>>,
}

/// What one thread works with, kept from block to block.
struct Workspace<M: Microkernel> {
    kernel: M,
    /// The pixels in tiles of `M::ROWS`; the last one is repeated to fill its tile.
    pixels: Vec<OutputPixel>,
    /// Where the rows of each tile begin in the output.
    rows: Vec<M::Rows>,
    /// Of each tile, the spans of its windows.
    segments: Vec<Segment<M::Rows>>,
    /// Copies of the windows.
    windows: Vec<f32>,
    /// A tile that is wider than its output.
    wide: Vec<f32>,
}

impl<M: Microkernel> Workspace<M> {
    fn new(kernel: M) -> Workspace<M> {
        let (pixels, rows, segments, windows) = Default::default();
        Workspace { kernel, pixels, rows, segments, windows, wide: vec![0.0; M::ROWS * M::WIDTH] }
    }

    /// Takes a block of pixels; `row(i, pixel)` is where the output of the i-th begins.
    fn begin(&mut self, pixels: &[OutputPixel], row: impl Fn(usize, &OutputPixel) -> usize) {
        self.pixels.clear();
        self.pixels.extend_from_slice(pixels);
        if let Some(last) = pixels.last() {
            self.pixels.resize(pixels.len().next_multiple_of(M::ROWS), *last);
        }
        let at = |i: usize| row(i.min(pixels.len() - 1), &self.pixels[i]);
        self.rows.clear();
        self.rows.extend((0..self.pixels.len()).step_by(M::ROWS).map(|tile| M::rows(|i| at(tile + i))));
    }

    /// Sums the windows of the block's pixels, for a range of column tiles.
    fn sum(&mut self, window: &Window, x: &[f32], tiles: Range<usize>, to: Output) {
        let Window { phase, filters, columns, groups } = window;
        if groups.is_empty() {
            return self.sum_nothing(to);
        }
        /// Column tiles for which copying the windows pays: in place, those of many channels lie so that they fall onto the same
        /// lines of the cache.
        const COPIED: usize = 4;
        let (depth, mut done) = (phase.depth(), 0);
        let mut windows = std::mem::take(&mut self.windows);
        for (number, group) in groups.iter().enumerate() {
            self.find(phase, group);
            let deep: usize = group.iter().map(RowSpan::len).sum();
            let (x, spans) = match tiles.len() >= COPIED {
                true => (self.copy(x, group.len(), deep, &mut windows), 1),
                false => (x, group.len()),
            };
            for tile in tiles.clone() {
                let vectors = vectors_of::<M>(tile, *columns);
                let (from, width) = ((tile - tiles.start) * M::WIDTH, vectors * M::LANES);
                let w = &filters[tile * M::WIDTH * depth + done * width..][..deep * width];
                let epilogue = to.epilogue.filter(|_| number + 1 == groups.len()).map(|e| e.at(from, from));
                let room = (to.columns - from).min(width);
                let output = Output { data: &mut to.data[from..], columns: room, epilogue };
                self.column_tile(x, spans, Strided { data: w, stride: width }, done > 0, output);
            }
            done += deep;
        }
        self.windows = windows;
    }

    /// Copies the spans of each window into a row of its own.
    fn copy<'w>(&mut self, x: &[f32], spans: usize, deep: usize, windows: &'w mut Vec<f32>) -> &'w [f32] {
        let pitch = odd_pitch(deep);
        windows.resize(self.pixels.len() * pitch, 0.0);
        for (tile, rows) in self.segments.chunks_exact(spans).zip(windows.chunks_exact_mut(M::ROWS * pitch)) {
            for (i, row) in rows.chunks_exact_mut(pitch).enumerate() {
                let mut to = 0;
                for Segment { at, len } in tile {
                    row[to..to + len].copy_from_slice(&x[at.as_ref()[i]..][..*len]);
                    to += len;
                }
            }
        }
        self.segments.clear();
        let row = |tile: usize| Segment { at: M::rows(|i| (tile * M::ROWS + i) * pitch), len: deep };
        self.segments.extend((0..self.rows.len()).map(row));
        windows
    }

    /// Where no tap reaches a phase, its sums are 0.
    fn sum_nothing(&self, to: Output) {
        for at in self.rows.iter().flat_map(|rows| rows.as_ref()) {
            let row = &mut to.data[*at..][..to.columns];
            row.fill(0.0);
            if let Some(epilogue) = &to.epilogue {
                epilogue.apply(row, *at);
            }
        }
    }

    /// Sums all tiles of pixels, whose windows are `spans` spans, for one tile of columns.
    fn column_tile(&mut self, x: &[f32], spans: usize, w: Strided, add: bool, to: Output) {
        let Output { data, columns, epilogue } = to;
        let (vectors, width) = (w.stride / M::LANES, w.stride);
        let source = Strided { data: x, stride: 1 };
        for (segments, rows) in self.segments.chunks_exact(spans).zip(&self.rows) {
            if columns == width {
                let mut sums = Sums { data, at: *rows, add, epilogue };
                self.kernel.tile(vectors, &mut sums, source, segments, w);
                continue;
            }
            for (wide, at) in self.wide.chunks_exact_mut(width).zip(rows.as_ref()).filter(|_| add) {
                wide[..columns].copy_from_slice(&data[*at..at + columns]);
            }
            let at = M::rows(|i| i * width);
            let mut sums = Sums { data: &mut self.wide, at, add, epilogue: None };
            self.kernel.tile(vectors, &mut sums, source, segments, w);
            for (wide, at) in self.wide.chunks_exact_mut(width).zip(rows.as_ref()) {
                if let Some(epilogue) = &epilogue {
                    epilogue.apply(&mut wide[..columns], *at);
                }
                data[*at..at + columns].copy_from_slice(&wide[..columns]);
            }
        }
    }

    /// Finds the rows of each tile for one group of the window's spans.
    fn find(&mut self, phase: &Phase, group: &[RowSpan]) {
        self.segments.clear();
        for tile in self.pixels.chunks_exact(M::ROWS) {
            self.segments.extend(group.iter().map(|span| Segment {
                at: M::rows(|i| phase.offset(&tile[i], span.row, span.elements.start)),
                len: span.len(),
            }));
        }
    }
}
