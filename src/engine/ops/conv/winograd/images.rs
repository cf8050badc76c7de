//! Images to points, products, and points to images.

use std::ops::Range;

use super::transforms::{LANES, TILE, Three, Transforms, Two, both_ways, load, store};
use super::{Geometry, pieces_of, planes, rows_of_points, taps, tiles};
use crate::engine::device::cpu::tile::{
    Epilogue, Loops, Microkernel, Segment, Strided, Sums, with_microkernel,
};
use crate::engine::device::cpu::{Buffer, for_chunks, for_each, threads};
use crate::engine::ops::conv::filters::{PackedFilters, column_tiles, vectors_of};
use crate::engine::ops::conv::problem::ConvProblem;

/// y = the windows of x by the filters, through the epilogue.
pub fn fprop(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    filters: &PackedFilters,
    epilogue: Option<Epilogue>,
) {
    with_microkernel!(kernel => match taps(problem) {
        Some(2) => Pass { kernel, transforms: Two, problem, x, filters, epilogue }.run(y),
        _ => Pass { kernel, transforms: Three, problem, x, filters, epilogue }.run(y),
    });
}

/// A pass in one kind of tile.
struct Pass<'a, M, T> {
    kernel: M,
    transforms: T,
    problem: &'a ConvProblem,
    x: &'a [f32],
    filters: &'a PackedFilters,
    epilogue: Option<Epilogue<'a>>,
}

/// Consecutive tiles, counted over the batch, whose outputs in all phases are consecutive: rows of tiles of one image, or whole
/// images.
struct Piece<'a> {
    tiles: Range<usize>,
    /// The first output.
    start: usize,
    outputs: &'a mut [f32],
}

impl<M: Microkernel, T> Pass<'_, M, T> {
    fn run<const R: usize, const P: usize>(&self, y: &mut [f32])
    where
        T: Transforms<R, P>,
    {
        /// Bytes of one block's points, inputs and outputs: they stay in the second-level cache.
        const BLOCK: usize = 1 << 20;
        let of_tile = P * P * (self.depth() + self.columns()) * 4;
        let block = (BLOCK / of_tile / M::ROWS).clamp(2, 8) * M::ROWS;
        let pieces = self.pieces(y, block);
        let total = pieces.last().map_or(0, |piece| piece.tiles.end);
        match total < 2 * threads() * block {
            true => self.by_points(pieces),
            false => for_each(pieces, |piece| self.block(piece)),
        }
    }

    /// One thread makes the outputs of a piece.
    fn block<const R: usize, const P: usize>(&self, mut piece: Piece)
    where
        T: Transforms<R, P>,
    {
        let count = piece.tiles.len().next_multiple_of(M::ROWS);
        let (depth, columns) = (self.depth(), self.columns());
        let mut inputs = Buffer::uninit(P * P * count * depth);
        let mut outputs = Buffer::uninit(P * P * count * columns);
        for (phase, geometry) in self.geometries().enumerate() {
            let points = inputs.as_mut_slice().chunks_exact_mut(count * depth).collect();
            self.transform_inputs(&geometry, piece.tiles.clone(), points);
            let of_points = inputs.as_slice().chunks_exact(count * depth);
            let sums = outputs.as_mut_slice().chunks_exact_mut(count * columns);
            for ((point, x), sums) in of_points.enumerate().zip(sums) {
                self.multiply(phase * P * P + point, x, sums);
            }
            self.transform_outputs(&geometry, &mut piece, None, outputs.as_slice());
        }
    }

    /// Threads share the points, so that the filters of each are read once: for few tiles.
    fn by_points<const R: usize, const P: usize>(&self, mut pieces: Vec<Piece>)
    where
        T: Transforms<R, P>,
    {
        let tiles = pieces.last().map_or(0, |piece| piece.tiles.end);
        let count = tiles.next_multiple_of(M::ROWS);
        let (depth, columns) = (self.depth(), self.columns());
        let mut inputs = Buffer::uninit(P * P * count * depth);
        let mut outputs = Buffer::uninit(P * P * count * columns);
        // The last range also has the rows that fill the last tile of the product.
        let ranges = pieces_of(count, 4 * threads());
        for (phase, geometry) in self.geometries().enumerate() {
            for_each(rows_of_points(inputs.as_mut_slice(), P * P, depth, &ranges), |(rows, points)| {
                let own = rows.start.min(tiles)..rows.end.min(tiles);
                self.transform_inputs(&geometry, own, points);
            });
            let inputs = inputs.as_slice();
            for_chunks(outputs.as_mut_slice(), count * columns, |point, sums| {
                self.multiply(phase * P * P + point, &inputs[point * count * depth..][..count * depth], sums);
            });
            let outputs = outputs.as_slice();
            for_each(pieces.iter_mut().collect(), |piece| {
                self.transform_outputs(&geometry, piece, Some(0), outputs);
            });
        }
    }

    fn geometries(&self) -> impl Iterator<Item = Geometry> + use<M, T> {
        self.problem.phases().map(Geometry::new)
    }

    /// Elements that a product sums over.
    fn depth(&self) -> usize {
        planes(self.problem) * self.problem.cin
    }

    /// Columns of the sums: whole vectors.
    fn columns(&self) -> usize {
        self.problem.cout.next_multiple_of(M::LANES)
    }

    /// Pieces of about `block` tiles.
    fn pieces<'y>(&self, mut y: &'y mut [f32], block: usize) -> Vec<Piece<'y>> {
        let ConvProblem { batch, output: [h, width], cout, step, .. } = *self.problem;
        let [rows, columns] = tiles(self.problem);
        let image = h * width * cout;
        let mut start = 0;
        let mut piece = |tiles: Range<usize>, end: usize| {
            let (outputs, rest) = std::mem::take(&mut y).split_at_mut(end - start);
            y = rest;
            let begin = std::mem::replace(&mut start, end);
            Piece { tiles, start: begin, outputs }
        };
        if rows * columns <= block {
            let each = batch.div_ceil(block / (rows * columns));
            let of_images = |images: Range<usize>| {
                piece(images.start * rows * columns..images.end * rows * columns, images.end * image)
            };
            return pieces_of(batch, each).into_iter().map(of_images).collect();
        }
        let parts = pieces_of(rows, rows.div_ceil((block / columns).max(1)));
        let of_rows = |(b, part): (usize, &Range<usize>)| {
            let end = b * image + (part.end * TILE * step[0]).min(h) * width * cout;
            piece((b * rows + part.start) * columns..(b * rows + part.end) * columns, end)
        };
        (0..batch).flat_map(|b| parts.iter().map(move |part| (b, part))).map(of_rows).collect()
    }

    fn transform_inputs<const R: usize, const P: usize>(
        &self,
        geometry: &Geometry,
        tiles: Range<usize>,
        points: Vec<&mut [f32]>,
    ) where
        T: Transforms<R, P>,
    {
        let pitch = self.depth();
        self.kernel.vectorized(InputTransform::<_, R, P> {
            transforms: self.transforms,
            geometry,
            x: self.x,
            tiles,
            pitch,
            points,
        });
    }

    /// `first` is the tile of the first row of `sums`, where that is not the piece's own first.
    fn transform_outputs<const R: usize, const P: usize>(
        &self,
        geometry: &Geometry,
        piece: &mut Piece,
        first: Option<usize>,
        sums: &[f32],
    ) where
        T: Transforms<R, P>,
    {
        let first = first.unwrap_or(piece.tiles.start);
        self.kernel.vectorized(OutputTransform::<_, R, P> {
            transforms: self.transforms,
            geometry,
            epilogue: self.epilogue,
            tiles: piece.tiles.clone(),
            first,
            columns: self.columns(),
            sums,
            start: piece.start,
            y: &mut *piece.outputs,
        });
    }

    /// At one point: x[rows,depth] by the filters, rows a multiple of the tile's.
    fn multiply(&self, point: usize, x: &[f32], sums: &mut [f32]) {
        /// Elements summed at a time: the packed filters of so many stay in the first-level cache.
        const DEPTH: usize = 256;
        let (depth, cout, columns) = (self.depth(), self.problem.cout, self.columns());
        let filters = self.filters.phases[point].as_slice();
        let source = Strided { data: x, stride: 1 };
        let rows = x.len() / depth;
        for span in pieces_of(depth, depth.div_ceil(DEPTH)) {
            for tile in 0..column_tiles::<M>(cout) {
                let (vectors, from) = (vectors_of::<M>(tile, cout), tile * M::WIDTH);
                let width = vectors * M::LANES;
                let w = &filters[from * depth + span.start * width..][..span.len() * width];
                for row in (0..rows).step_by(M::ROWS) {
                    let segment = Segment { at: M::rows(|i| (row + i) * depth + span.start), len: span.len() };
                    let at = M::rows(|i| (row + i) * columns + from);
                    let mut sums = Sums { data: &mut *sums, at, add: span.start > 0, epilogue: None };
                    self.kernel.tile(vectors, &mut sums, source, &[segment], Strided { data: w, stride: width });
                }
            }
        }
    }
}

/// The patches of `tiles` to rows of each point, [P²][rows, pitch]; rows beyond the tiles become 0.
pub(super) struct InputTransform<'a, T, const R: usize, const P: usize> {
    pub transforms: T,
    pub geometry: &'a Geometry,
    pub x: &'a [f32],
    pub tiles: Range<usize>,
    pub pitch: usize,
    pub points: Vec<&'a mut [f32]>,
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for InputTransform<'_, T, R, P> {
    #[inline(always)]
    fn run(mut self) {
        let InputTransform { transforms, geometry, pitch, .. } = self;
        let cin = geometry.phase.problem.cin;
        for (n, tile) in self.tiles.clone().enumerate() {
            for plane in 0..geometry.planes() {
                let patch = geometry.patch::<P>(self.x, tile, plane);
                for c in (0..cin).step_by(LANES) {
                    let values = patch.map(|row| row.map(|pixel| load(pixel, c)));
                    let points = both_ways(&values, |d| transforms.patch_to_points(d));
                    for (values, point) in points.as_flattened().iter().zip(&mut self.points) {
                        store(&mut point[n * pitch + plane * cin..][..cin], c, *values);
                    }
                }
            }
        }
        for point in &mut self.points {
            point[self.tiles.len() * pitch..].fill(0.0);
        }
    }
}

/// The sums of tiles at each point, [P²][rows, columns], to outputs.
struct OutputTransform<'a, T, const R: usize, const P: usize> {
    transforms: T,
    geometry: &'a Geometry,
    epilogue: Option<Epilogue<'a>>,
    tiles: Range<usize>,
    /// The tile of the first row of `sums`.
    first: usize,
    columns: usize,
    sums: &'a [f32],
    /// The first output of `y`.
    start: usize,
    y: &'a mut [f32],
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for OutputTransform<'_, T, R, P> {
    #[inline(always)]
    fn run(self) {
        let OutputTransform { transforms, geometry, start, y, .. } = self;
        let cout = geometry.phase.problem.cout;
        let of_point = self.sums.len() / (P * P);
        for tile in self.tiles {
            let ([rows, columns], pixel) = geometry.outputs(tile);
            let from = (tile - self.first) * self.columns;
            for c in (0..cout).step_by(LANES) {
                let sums: [[_; P]; P] = std::array::from_fn(|i| {
                    std::array::from_fn(|j| {
                        load(&self.sums[(i * P + j) * of_point + from..][..self.columns], c)
                    })
                });
                let outputs = both_ways(&sums, |m| transforms.points_to_tile(m));
                for (r, outputs) in outputs.iter().enumerate().take(rows) {
                    for (s, values) in outputs.iter().enumerate().take(columns) {
                        store(&mut y[pixel(r, s) * cout - start..][..cout], c, *values);
                    }
                }
            }
            let Some(epilogue) = self.epilogue else { continue };
            for (r, s) in (0..rows).flat_map(|r| (0..columns).map(move |s| (r, s))) {
                let at = pixel(r, s) * cout;
                epilogue.apply(&mut y[at - start..][..cout], at);
            }
        }
    }
}
