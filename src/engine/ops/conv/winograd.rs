//! 3×3 convolutions of stride 1 on the CPU by Winograd's minimal filtering F(4×4, 3×3): 36 products for 16 outputs in place
//! of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016).
//!
//! y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for each tile of 4×4 outputs and its patch d of 6×6 inputs. At each of the 36 points the
//! tiles by the filters are a matrix product over the channels. The transforms follow from the points 0, ±√½, ±√2, ∞,
//! whose powers stay near 1, so that rounding stays small.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::ops::Range;

use super::filters::{PackedFilters, column_tiles, pack, pack_transposed, vectors_of};
use super::problem::ConvProblem;
use crate::engine::device::cpu::tile::{
    Epilogue, Loops, Microkernel, Segment, Strided, Sums, with_microkernel,
};
use crate::engine::device::cpu::{Buffer, for_chunks, for_each, map, threads};

/// Side of a tile of outputs, and of the patch of inputs that it is made of.
const TILE: usize = 4;
const PATCH: usize = 6;
const POINTS: usize = PATCH * PATCH;

/// Numbers that the transforms take at a time.
const LANES: usize = 16;
type Lanes = [f32; LANES];

/// Whether a pass is computed so: a matter of its shape but for the batch, so that images do not depend on their number.
pub(super) fn suits(problem: &ConvProblem) -> bool {
    let ConvProblem { cin, cout, output, window, step, stride, spread, .. } = *problem;
    let [covered, outputs] =
        [output.map(|n| n.next_multiple_of(TILE)), output].map(|[h, w]| h * w);
    window == [3, 3]
        && step == [1, 1]
        && stride == [1, 1]
        && !spread
        && cin.min(cout) >= LANES
        // Smaller maps are mostly borders, and have too few tiles for what the filters of all points cost to read.
        && output.iter().all(|&n| n > TILE)
        && covered * 10 <= outputs * 16
}

// ---------------------------------------------------------------- one dimension

#[inline(always)]
fn lanes(f: impl FnMut(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    lanes(|i| a[i] + b[i])
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    lanes(|i| a[i] - b[i])
}

#[inline(always)]
fn times(a: Lanes, factor: f32) -> Lanes {
    lanes(|i| a[i] * factor)
}

/// Bᵀ d
#[inline(always)]
fn patch_to_points([d0, d1, d2, d3, d4, d5]: [Lanes; PATCH]) -> [Lanes; PATCH] {
    let (even, odd) = (sub(d4, times(d2, 2.0)), times(sub(d3, times(d1, 2.0)), FRAC_1_SQRT_2));
    let (even2, odd2) = (sub(d4, times(d2, 0.5)), times(sub(d3, times(d1, 0.5)), SQRT_2));
    [
        add(sub(d4, times(d2, 2.5)), d0),
        add(even, odd),
        sub(even, odd),
        add(even2, odd2),
        sub(even2, odd2),
        add(sub(d5, times(d3, 2.5)), d1),
    ]
}

/// G g
#[inline(always)]
fn taps_to_points([g0, g1, g2]: [Lanes; 3]) -> [Lanes; PATCH] {
    let (even, odd) = (times(add(g0, times(g2, 0.5)), -2.0 / 3.0), times(g1, -2.0 / 3.0 * FRAC_1_SQRT_2));
    let (even2, odd2) = (times(add(g0, times(g2, 2.0)), 1.0 / 6.0), times(g1, SQRT_2 / 6.0));
    [g0, add(even, odd), sub(even, odd), add(even2, odd2), sub(even2, odd2), g2]
}

/// Aᵀ m
#[inline(always)]
fn points_to_tile([m0, m1, m2, m3, m4, m5]: [Lanes; PATCH]) -> [Lanes; TILE] {
    let (sum, difference) = (add(m1, m2), times(sub(m1, m2), FRAC_1_SQRT_2));
    let (sum2, difference2) = (add(m3, m4), times(sub(m3, m4), SQRT_2));
    [
        add(add(m0, sum), sum2),
        add(difference, difference2),
        add(times(sum, 0.5), times(sum2, 2.0)),
        add(add(times(difference, 0.5), times(difference2, 2.0)), m5),
    ]
}

/// `LANES` numbers from `at`, zeros beyond the end.
#[inline(always)]
fn load(from: &[f32], at: usize) -> Lanes {
    match from.get(at..at + LANES) {
        Some(whole) => whole.try_into().expect("as many"),
        None => lanes(|i| from.get(at + i).copied().unwrap_or(0.0)),
    }
}

/// Writes as many of `values` as there is room for from `at`.
#[inline(always)]
fn store(to: &mut [f32], at: usize, values: Lanes) {
    match to.get_mut(at..at + LANES) {
        Some(whole) => whole.copy_from_slice(&values),
        None => to[at..].iter_mut().zip(values).for_each(|(to, value)| *to = value),
    }
}

// ---------------------------------------------------------------- filters

/// At each point the filters of all channels, packed for the tiles.
pub(super) fn pack_filters(problem: &ConvProblem, w: &[f32]) -> PackedFilters {
    with_microkernel!(kernel => pack_points(kernel, problem, w))
}

fn pack_points<M: Microkernel>(kernel: M, problem: &ConvProblem, w: &[f32]) -> PackedFilters {
    let [outputs, inputs] = problem.filter_channels();
    let mut points = Buffer::uninit(POINTS * w.len() / 9);
    let rows = rows_of_points(points.as_mut_slice(), inputs, &pieces_of(outputs, 4 * threads()));
    let flipped = problem.flipped();
    for_each(rows, |(filters, points)| {
        let w = &w[filters.start * 9 * inputs..filters.end * 9 * inputs];
        kernel.vectorized(FilterTransform { w, inputs, flipped, points });
    });
    let at_point = |point: usize| &points.as_slice()[point * outputs * inputs..][..outputs * inputs];
    let phases = map(POINTS, |point| match problem.transposed {
        true => pack_transposed::<M>(at_point(point), [outputs, 1, 1, inputs], &[0], &[0]),
        false => pack::<M>(inputs, outputs, at_point(point)),
    });
    PackedFilters { phases }
}

/// w[n,3,3,inputs] to n rows of each point, [36][n,inputs].
struct FilterTransform<'a> {
    w: &'a [f32],
    inputs: usize,
    flipped: bool,
    points: Vec<&'a mut [f32]>,
}

impl Loops for FilterTransform<'_> {
    #[inline(always)]
    fn run(mut self) {
        for (n, w) in self.w.chunks_exact(9 * self.inputs).enumerate() {
            for c in (0..self.inputs).step_by(LANES) {
                let tap = |r: usize, s: usize| {
                    let tap = if self.flipped { 8 - (3 * r + s) } else { 3 * r + s };
                    load(&w[tap * self.inputs..][..self.inputs], c)
                };
                let column = |s: usize| taps_to_points([tap(0, s), tap(1, s), tap(2, s)]);
                let [left, middle, right] = [column(0), column(1), column(2)];
                for i in 0..PATCH {
                    let points = taps_to_points([left[i], middle[i], right[i]]);
                    for (j, values) in points.into_iter().enumerate() {
                        let row = &mut self.points[i * PATCH + j][n * self.inputs..][..self.inputs];
                        store(row, c, values);
                    }
                }
            }
        }
    }
}

/// `0..count` in `parts` ranges of like length, or fewer.
fn pieces_of(count: usize, parts: usize) -> Vec<Range<usize>> {
    let each = count.div_ceil(parts).max(1);
    (0..count).step_by(each).map(|from| from..(from + each).min(count)).collect()
}

/// For each range of rows its rows at every point of `points`, [36][rows][width].
fn rows_of_points<'a>(
    points: &'a mut [f32],
    width: usize,
    ranges: &[Range<usize>],
) -> Vec<(Range<usize>, Vec<&'a mut [f32]>)> {
    let mut rows: Vec<_> = ranges.iter().map(|range| (range.clone(), Vec::with_capacity(POINTS))).collect();
    for mut point in points.chunks_exact_mut(points.len() / POINTS) {
        for (range, points) in &mut rows {
            let (own, rest) = std::mem::take(&mut point).split_at_mut(range.len() * width);
            points.push(own);
            point = rest;
        }
    }
    rows
}

// ---------------------------------------------------------------- images

/// A pass in one kind of tile.
pub(super) struct Winograd<'a, M> {
    pub kernel: M,
    pub problem: &'a ConvProblem,
    pub x: &'a [f32],
    pub filters: &'a PackedFilters,
    pub epilogue: Option<Epilogue<'a>>,
}

/// Consecutive tiles, counted over the batch, that make consecutive outputs: rows of tiles of one image, or whole images.
struct Piece {
    tiles: Range<usize>,
    outputs: Range<usize>,
}

impl<M: Microkernel> Winograd<'_, M> {
    pub fn run(&self, y: &mut [f32]) {
        /// Bytes of one block's points, inputs and outputs: they stay in the second-level cache.
        const BLOCK: usize = 1 << 20;
        let of_tile = POINTS * (self.problem.cin + self.columns()) * 4;
        let block = (BLOCK / of_tile / M::ROWS).clamp(2, 8) * M::ROWS;
        let pieces = self.pieces(block);
        let parts = split(y, pieces.iter().map(|piece| piece.outputs.len()));
        let total = pieces.last().map_or(0, |piece| piece.tiles.end);
        if total < 2 * threads() * block {
            return self.by_points(pieces.into_iter().zip(parts).collect());
        }
        for_each(pieces.into_iter().zip(parts).collect(), |(piece, y)| self.block(piece, y));
    }

    /// One thread makes the outputs of a piece.
    fn block(&self, piece: Piece, y: &mut [f32]) {
        let count = piece.tiles.len().next_multiple_of(M::ROWS);
        let (cin, columns) = (self.problem.cin, self.columns());
        let mut inputs = Buffer::uninit(POINTS * count * cin);
        let mut outputs = Buffer::uninit(POINTS * count * columns);
        let points = inputs.as_mut_slice().chunks_exact_mut(count * cin).collect();
        self.transform_inputs(piece.tiles.clone(), points);
        let per_point = inputs.as_slice().chunks_exact(count * cin);
        for ((point, x), sums) in
            per_point.enumerate().zip(outputs.as_mut_slice().chunks_exact_mut(count * columns))
        {
            self.multiply(point, x, sums);
        }
        self.transform_outputs(&piece, piece.tiles.start, outputs.as_slice(), y);
    }

    /// Threads share the points, so that the filters of each are read once: for few tiles.
    fn by_points(&self, pieces: Vec<(Piece, &mut [f32])>) {
        let tiles = pieces.last().map_or(0, |(piece, _)| piece.tiles.end);
        let count = tiles.next_multiple_of(M::ROWS);
        let (cin, columns) = (self.problem.cin, self.columns());
        let mut inputs = Buffer::uninit(POINTS * count * cin);
        let mut outputs = Buffer::uninit(POINTS * count * columns);
        // The last piece also has the rows that fill the last tile of the product.
        let ranges = pieces_of(count, 4 * threads());
        for_each(rows_of_points(inputs.as_mut_slice(), cin, &ranges), |(rows, points)| {
            self.transform_inputs(rows.start..rows.end.min(tiles).max(rows.start), points);
        });
        let inputs = inputs.as_slice();
        for_chunks(outputs.as_mut_slice(), count * columns, |point, sums| {
            self.multiply(point, &inputs[point * count * cin..][..count * cin], sums);
        });
        let outputs = outputs.as_slice();
        for_each(pieces, |(piece, y)| self.transform_outputs(&piece, 0, outputs, y));
    }

    /// Columns of the sums: whole vectors.
    fn columns(&self) -> usize {
        self.problem.cout.next_multiple_of(M::LANES)
    }

    fn tiles(&self) -> [usize; 2] {
        self.problem.output.map(|n| n.div_ceil(TILE))
    }

    /// Pieces of about `block` tiles.
    fn pieces(&self, block: usize) -> Vec<Piece> {
        let ConvProblem { batch, output: [h, width], cout, .. } = *self.problem;
        let [rows, columns] = self.tiles();
        let image = h * width * cout;
        let mut pieces = Vec::new();
        if rows * columns <= block {
            for images in pieces_of(batch, batch.div_ceil(block / (rows * columns))) {
                let tiles = images.start * rows * columns..images.end * rows * columns;
                pieces.push(Piece { tiles, outputs: images.start * image..images.end * image });
            }
            return pieces;
        }
        for b in 0..batch {
            for part in pieces_of(rows, rows.div_ceil((block / columns).max(1))) {
                let tiles = (b * rows + part.start) * columns..(b * rows + part.end) * columns;
                let row = |tile: usize| b * image + (tile * TILE).min(h) * width * cout;
                pieces.push(Piece { tiles, outputs: row(part.start)..row(part.end) });
            }
        }
        pieces
    }

    fn transform_inputs(&self, tiles: Range<usize>, points: Vec<&mut [f32]>) {
        let (problem, x) = (self.problem, self.x);
        self.kernel.vectorized(InputTransform { problem, x, tiles, across: self.tiles(), points });
    }

    fn transform_outputs(&self, piece: &Piece, first: usize, sums: &[f32], y: &mut [f32]) {
        let Winograd { problem, epilogue, .. } = *self;
        let (across, columns) = (self.tiles(), self.columns());
        self.kernel.vectorized(OutputTransform { problem, epilogue, piece, first, across, columns, sums, y });
    }

    /// At one point: x[rows,Cin] by the filters, rows a multiple of the tile's.
    fn multiply(&self, point: usize, x: &[f32], sums: &mut [f32]) {
        /// Channels summed at a time: the packed filters of so many stay in the first-level cache.
        const DEPTH: usize = 256;
        let (cin, cout, columns) = (self.problem.cin, self.problem.cout, self.columns());
        let filters = self.filters.phases[point].as_slice();
        let source = Strided { data: x, stride: 1 };
        let rows = x.len() / cin;
        for channels in pieces_of(cin, cin.div_ceil(DEPTH)) {
            for tile in 0..column_tiles::<M>(cout) {
                let (vectors, from) = (vectors_of::<M>(tile, cout), tile * M::WIDTH);
                let width = vectors * M::LANES;
                let w = &filters[from * cin + channels.start * width..][..channels.len() * width];
                for row in (0..rows).step_by(M::ROWS) {
                    let segment =
                        Segment { at: M::rows(|i| (row + i) * cin + channels.start), len: channels.len() };
                    let at = M::rows(|i| (row + i) * columns + from);
                    let mut sums = Sums { data: &mut *sums, at, add: channels.start > 0, epilogue: None };
                    self.kernel.tile(vectors, &mut sums, source, &[segment], Strided { data: w, stride: width });
                }
            }
        }
    }
}

/// Consecutive parts of `y`.
fn split(mut y: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let part = |length| {
        let (part, rest) = std::mem::take(&mut y).split_at_mut(length);
        y = rest;
        part
    };
    lengths.map(part).collect()
}

/// The patches of `tiles` to rows of each point; rows beyond the tiles become 0.
struct InputTransform<'a> {
    problem: &'a ConvProblem,
    x: &'a [f32],
    tiles: Range<usize>,
    across: [usize; 2],
    points: Vec<&'a mut [f32]>,
}

impl Loops for InputTransform<'_> {
    #[inline(always)]
    fn run(mut self) {
        let ConvProblem { cin, input: [h, width], window, pad, .. } = *self.problem;
        let [down, right] = self.across;
        let outside: &[f32] = &[];
        for (n, tile) in self.tiles.clone().enumerate() {
            let image = tile / (down * right);
            let corner = [tile / right % down, tile % right];
            let first = [0, 1].map(|d| (corner[d] * TILE) as isize + pad[d] - (window[d] as isize - 1));
            let pixel = |r: usize, s: usize| {
                let [row, column] = [first[0] + r as isize, first[1] + s as isize];
                let inside = (0..h as isize).contains(&row) && (0..width as isize).contains(&column);
                let at = ((image * h) as isize + row) * width as isize + column;
                if inside { &self.x[at as usize * cin..][..cin] } else { outside }
            };
            let mut patch = [outside; POINTS];
            for (at, pixels) in patch.iter_mut().enumerate() {
                *pixels = pixel(at / PATCH, at % PATCH);
            }
            for c in (0..cin).step_by(LANES) {
                let mut points = [[0.0; LANES]; POINTS];
                for (values, pixels) in points.iter_mut().zip(&patch) {
                    *values = load(pixels, c);
                }
                for s in 0..PATCH {
                    let at = |r: usize| points[r * PATCH + s];
                    let column = patch_to_points([at(0), at(1), at(2), at(3), at(4), at(5)]);
                    for (r, values) in column.into_iter().enumerate() {
                        points[r * PATCH + s] = values;
                    }
                }
                for (i, row) in points.as_chunks::<PATCH>().0.iter().enumerate() {
                    let points = patch_to_points(*row);
                    for (j, values) in points.into_iter().enumerate() {
                        store(&mut self.points[i * PATCH + j][n * cin..][..cin], c, values);
                    }
                }
            }
        }
        for point in &mut self.points {
            point[self.tiles.len() * cin..].fill(0.0);
        }
    }
}

/// The sums of a piece's tiles at each point, [36][tiles,columns], to its outputs.
struct OutputTransform<'a> {
    problem: &'a ConvProblem,
    epilogue: Option<Epilogue<'a>>,
    piece: &'a Piece,
    /// The tile of the first row of `sums`.
    first: usize,
    across: [usize; 2],
    columns: usize,
    sums: &'a [f32],
    y: &'a mut [f32],
}

impl Loops for OutputTransform<'_> {
    #[inline(always)]
    fn run(self) {
        let ConvProblem { cout, output: [h, width], .. } = *self.problem;
        let [down, right] = self.across;
        let of_point = self.sums.len() / POINTS;
        let start = self.piece.outputs.start;
        for tile in self.piece.tiles.clone() {
            let image = tile / (down * right);
            let [row, column] = [tile / right % down * TILE, tile % right * TILE];
            let at = |r: usize, s: usize| ((image * h + row + r) * width + column + s) * cout;
            let [rows, columns] = [TILE.min(h - row), TILE.min(width - column)];
            let from = (tile - self.first) * self.columns;
            for c in (0..cout).step_by(LANES) {
                let mut across = [[[0.0; LANES]; TILE]; PATCH];
                for (i, across) in across.iter_mut().enumerate() {
                    let sum = |j: usize| {
                        load(&self.sums[(i * PATCH + j) * of_point + from..][..self.columns], c)
                    };
                    *across = points_to_tile([sum(0), sum(1), sum(2), sum(3), sum(4), sum(5)]);
                }
                let [m0, m1, m2, m3, m4, m5] = &across;
                for s in 0..columns {
                    let outputs = points_to_tile([m0[s], m1[s], m2[s], m3[s], m4[s], m5[s]]);
                    for (r, values) in outputs.into_iter().enumerate().take(rows) {
                        store(&mut self.y[at(r, s) - start..][..cout], c, values);
                    }
                }
            }
            if let Some(epilogue) = self.epilogue {
                for (r, s) in (0..rows).flat_map(|r| (0..columns).map(move |s| (r, s))) {
                    epilogue.apply(&mut self.y[at(r, s) - start..][..cout], at(r, s));
                }
            }
        }
    }
}
