//! Convolutions on the CPU by the direct sum: register tiles over windows that are read in place.
//!
//! The rows of a product are output pixels side by side, its terms a span of their windows' consecutive elements, which are read
//! where they lie, after zeros were put around an input whose border windows cross. Sums are kept where the output has
//! them. filters.rs packs the filters, wgrad.rs has their gradient.

use std::ops::Range;

use super::sharing::{Sharing, block_pixels};
use super::filters::{PackedFilters, column_tiles, vectors_of};
use super::problem::{ConvProblem, OutputPixel, Phase, RowSpan};
use crate::engine::device::cpu::tile::{
    Epilogue, Loops, Matrix, Microkernel, Product, Strided, with_microkernel,
};
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
        let windows = self.windows(column_tiles::<M>(problem.cout));
        let (cout, per_row) = (problem.cout, problem.output[1]);
        let band = (problem.batch * problem.output[0]).div_ceil(bands);
        for_chunks(y, band * per_row * cout, |i, y| {
            let mut workspace = Workspace::new(kernel);
            let first = i * band * per_row;
            let rows = i * band..i * band + y.len() / (per_row * cout);
            for window in &windows {
                let pixels = window.phase.pixels_of_rows(rows.clone());
                for block in pixels.chunks(even_block::<M>(pixels.len())) {
                    workspace.begin(window, block, |_, p| (p.output - first) * cout);
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
        let window = Window::new::<M>(problem.joined(), filters.phases[0].as_slice(), columns, 1);
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
                workspace.begin(&window, block, |i, _| i * columns);
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
        for window in self.windows(per_part) {
            let pixels = window.phase.all_pixels();
            let parts = map(tiles.div_ceil(per_part), |i| {
                let mut workspace = Workspace::new(kernel);
                workspace.begin(&window, &pixels, |i, _| i * width);
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

    /// The windows of all phases, where a thread sums `tiles` column tiles at a time.
    fn windows(&self, tiles: usize) -> Vec<Window<'_>> {
        let phases = self.problem.phases().zip(&self.filters.phases);
        phases
            .map(|(phase, filters)| Window::new::<M>(phase, filters.as_slice(), self.problem.cout, tiles))
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
    /// Of windows that are copied, the distance of two.
    pitch: Option<usize>,
}

impl<'a> Window<'a> {
    fn new<M: Microkernel>(phase: Phase, filters: &'a [f32], columns: usize, tiles: usize) -> Window<'a> {
        /// Column tiles for which copying the windows pays: in place, those of many channels lie so that they fall onto the same
        /// lines of the cache.
        const COPIED: usize = 4;
        let depth = M::depth(vectors_of::<M>(0, columns) * M::LANES);
        let pitch = (tiles >= COPIED).then(|| odd_pitch(depth.min(phase.depth())));
        Window { filters, columns, groups: groups(&phase, depth), pitch, phase }
    }

    /// Where a span lies in the input, counted from the window's first element.
    fn elements(&self, span: &RowSpan) -> Range<usize> {
        let ConvProblem { input: [_, width], cin, .. } = self.phase.problem;
        let row = span.row * width * cin;
        row + span.elements.start..row + span.elements.end
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

/// Pixels whose windows lie at equal distances, and their outputs too.
struct Run {
    count: usize,
    window: usize,
    window_pitch: usize,
    output: usize,
    output_pitch: usize,
}

impl Run {
    /// Takes one more pixel if it is the next.
    fn takes(&mut self, window: usize, output: usize) -> bool {
        if self.count == 1 && window > self.window && output > self.output {
            (self.window_pitch, self.output_pitch) = (window - self.window, output - self.output);
        }
        let next = [self.window + self.count * self.window_pitch, self.output + self.count * self.output_pitch];
        let is_next = self.output_pitch > 0 && next == [window, output];
        self.count += usize::from(is_next);
        is_next
    }
}

/// What one thread works with, kept from block to block.
struct Workspace<M> {
    kernel: M,
    pixels: Vec<OutputPixel>,
    runs: Vec<Run>,
    /// Copies of the windows.
    windows: Vec<f32>,
}

impl<M: Microkernel> Workspace<M> {
    fn new(kernel: M) -> Workspace<M> {
        let (pixels, runs, windows) = Default::default();
        Workspace { kernel, pixels, runs, windows }
    }

    /// Takes a block of pixels; `output(i, pixel)` is where the sums of the i-th begin.
    fn begin(&mut self, window: &Window, pixels: &[OutputPixel], output: impl Fn(usize, &OutputPixel) -> usize) {
        self.pixels.clear();
        self.pixels.extend_from_slice(pixels);
        self.runs.clear();
        for (i, pixel) in pixels.iter().enumerate() {
            let from = match window.pitch {
                _ if window.groups.is_empty() => 0,
                Some(pitch) => i * pitch,
                None => window.phase.offset(pixel, 0, 0),
            };
            let to = output(i, pixel);
            if !self.runs.last_mut().is_some_and(|run| run.takes(from, to)) {
                self.runs.push(Run { count: 1, window: from, window_pitch: 0, output: to, output_pitch: 0 });
            }
        }
    }

    /// Sums the windows of the block's pixels, for a range of column tiles.
    fn sum(&mut self, window: &Window, x: &[f32], tiles: Range<usize>, mut to: Output) {
        let Window { ref phase, filters, columns, ref groups, pitch } = *window;
        let (depth, mut done) = (phase.depth(), 0);
        let mut windows = std::mem::take(&mut self.windows);
        for group in groups {
            let deep: usize = group.iter().map(RowSpan::len).sum();
            let mut spans = Vec::new();
            let x = match pitch {
                Some(pitch) => {
                    spans.push(0..deep);
                    self.copy(phase, group, x, pitch, &mut windows)
                }
                None => {
                    spans.extend(group.iter().map(|span| window.elements(span)));
                    x
                }
            };
            for tile in tiles.clone() {
                let width = vectors_of::<M>(tile, columns) * M::LANES;
                let w = &filters[tile * M::WIDTH * depth + done * width..][..deep * width];
                let part = Part { x, spans: &spans, w, width, is_first: done == 0, is_last: done + deep == depth };
                self.column_tile(part, (tile - tiles.start) * M::WIDTH, &mut to);
            }
            done += deep;
        }
        self.windows = windows;
        if groups.is_empty() {
            self.sum_nothing(to);
        }
    }

    /// Copies the spans of each window into a row of its own.
    fn copy<'w>(
        &self,
        phase: &Phase,
        group: &[RowSpan],
        x: &[f32],
        pitch: usize,
        windows: &'w mut Vec<f32>,
    ) -> &'w [f32] {
        windows.resize(self.pixels.len() * pitch, 0.0);
        for (pixel, row) in self.pixels.iter().zip(windows.chunks_exact_mut(pitch)) {
            let mut to = 0;
            for span in group {
                let from = phase.offset(pixel, span.row, span.elements.start);
                row[to..to + span.len()].copy_from_slice(&x[from..][..span.len()]);
                to += span.len();
            }
        }
        windows
    }

    /// Adds a part of the windows to the sums of all runs, for the columns from `first` on that one tile has.
    fn column_tile(&self, part: Part, first: usize, to: &mut Output) {
        let Part { x, spans, w, width, is_first, is_last } = part;
        let columns = (to.columns - first).min(width);
        let epilogue = to.epilogue.filter(|_| is_last);
        for &Run { count, window, window_pitch, output, output_pitch } in &self.runs {
            let from = output + first;
            let sums = &mut to.data[from..from + (count - 1) * output_pitch + columns];
            let mut done = 0;
            for span in spans {
                let size = [count, span.len(), columns];
                let sums = Product { data: &mut *sums, pitch: output_pitch, add: !is_first || done > 0 };
                let windows = Matrix { data: &x[window + span.start..], row: window_pitch, element: 1 };
                let filters = Strided { data: &w[done * width..], stride: width };
                self.kernel.multiply(size, sums, windows, filters);
                done += span.len();
            }
            if let Some(epilogue) = epilogue {
                let epilogue = epilogue.at(first, from);
                self.kernel.vectorized(Finish { sums, pitch: output_pitch, columns, epilogue });
            }
        }
    }

    /// Where no tap reaches a phase, its sums are 0.
    fn sum_nothing(&self, to: Output) {
        let Output { data, columns, epilogue } = to;
        for run in &self.runs {
            for at in (run.output..).step_by(run.output_pitch.max(1)).take(run.count) {
                let sums = &mut data[at..at + columns];
                sums.fill(0.0);
                if let Some(epilogue) = epilogue {
                    epilogue.apply(sums, at);
                }
            }
        }
    }
}

/// Spans of windows, and their filters.
struct Part<'a> {
    x: &'a [f32],
    /// Beginning at a window's first element.
    spans: &'a [Range<usize>],
    /// [terms of all spans, width]
    w: &'a [f32],
    width: usize,
    is_first: bool,
    is_last: bool,
}

/// The epilogue of a run's sums.
struct Finish<'a> {
    sums: &'a mut [f32],
    pitch: usize,
    columns: usize,
    epilogue: Epilogue<'a>,
}

impl Loops for Finish<'_> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        let Finish { sums, pitch, columns, epilogue } = self;
        for (row, sums) in sums.chunks_mut(pitch.max(columns)).enumerate() {
            for column in (0..columns).step_by(M::LANES) {
                let sums = &mut sums[column..columns];
                let z = epilogue.of_vector(kernel, kernel.load(sums), column, row * pitch + column);
                kernel.store(z, sums);
            }
        }
    }
}
