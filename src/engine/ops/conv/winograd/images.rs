//! Images to points, products, and points to images.

use std::ops::Range;

use super::transforms::{TILE, Three, Transforms, Two, both_ways};
use super::{Geometry, pieces_of, planes, rows_of_points, taps, tiles};
use crate::engine::device::cpu::tile::{
    Epilogue, Loops, Matrix, Microkernel, OUTSIDE, Product, Sources, Strided, Targets, prefetch, vectors_over, with_microkernel,
};
use crate::engine::device::cpu::{Buffer, odd_pitch, for_chunks, for_each, threads};
use crate::engine::ops::conv::filters::{PackedFilters, column_tiles, vectors_of};
use crate::engine::ops::conv::problem::ConvProblem;

/// y = the windows of x by the filters, through the epilogue.
pub(in crate::engine::ops::conv) fn fprop(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    filters: &PackedFilters,
    epilogue: Option<Epilogue>,
) {
    pass(problem, y, x, filters, epilogue, false);
}

/// y = a · σ(b), half as many channels, where [a | b] are the windows of x by the filters, and the bias.
pub(in crate::engine::ops::conv) fn fprop_gated(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    filters: &PackedFilters,
    bias: &[f32],
) {
    let epilogue = Epilogue { bias, residual: None, slope: 1.0, ceiling: f32::INFINITY };
    pass(problem, y, x, filters, Some(epilogue), true);
}

fn pass(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    filters: &PackedFilters,
    epilogue: Option<Epilogue>,
    gated: bool,
) {
    with_microkernel!(kernel => match taps(problem) {
        Some(2) => Pass { kernel, transforms: Two, problem, x, filters, epilogue, gated }.run(y),
        _ => Pass { kernel, transforms: Three, problem, x, filters, epilogue, gated }.run(y),
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
    gated: bool,
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
        /// Bytes of one block's points, near what the second-level cache holds.
        const BLOCK: usize = 1 << 19;
        /// Bytes of the points of the tiles that threads share.
        const SHARED: usize = 32 << 20;
        let of_tile = P * P * (self.pitch() + self.columns()) * 4;
        let block = (BLOCK / of_tile / M::ROWS).clamp(4, 8) * M::ROWS;
        let [down, right] = tiles(self.problem);
        let total = self.problem.batch * down * right;
        // What would go to memory and back: the filters for each block, or all points once.
        let filters = P * P * self.depth() * self.columns() * 4;
        let is_shared = total < 2 * threads() * block || total.div_ceil(block) * filters > filters + 2 * total * of_tile;
        let mut pieces = self.pieces(y, block);
        match is_shared {
            true => pieces.chunks_mut((SHARED / of_tile / block).max(1)).for_each(|pieces| self.by_points(pieces)),
            false => for_each(pieces, |piece| self.block(piece)),
        }
    }

    /// One thread makes the outputs of a piece.
    fn block<const R: usize, const P: usize>(&self, mut piece: Piece)
    where
        T: Transforms<R, P>,
    {
        let (count, pitch) = (piece.tiles.len(), self.pitch());
        let groups = self.groups();
        let widest = groups.iter().map(|group| group.columns).max().unwrap_or(0);
        let [inputs_each, outputs_each] = [pitch, widest].map(|width| odd_pitch(count * width));
        let mut inputs = Buffer::uninit(P * P * inputs_each);
        let mut outputs = Buffer::uninit(P * P * outputs_each);
        for (phase, geometry) in self.geometries().enumerate() {
            let points = inputs.as_mut_slice().chunks_exact_mut(inputs_each);
            let points = points.map(|point| &mut point[..count * pitch]).collect();
            self.transform_inputs(&geometry, piece.tiles.clone(), points);
            for group in &groups {
                let points = inputs.as_slice().chunks_exact(inputs_each);
                let sums = outputs.as_mut_slice().chunks_exact_mut(outputs_each);
                for ((point, x), sums) in points.enumerate().zip(sums) {
                    self.multiply(phase * P * P + point, &x[..count * pitch], sums, group);
                }
                let first = piece.tiles.start;
                self.transform_outputs(&geometry, &mut piece, first, outputs.as_slice(), group);
            }
        }
    }

    /// Threads share the points, so that the filters of each are read once: for few tiles, or many filters.
    fn by_points<const R: usize, const P: usize>(&self, pieces: &mut [Piece])
    where
        T: Transforms<R, P>,
    {
        let (first, end) = (pieces[0].tiles.start, pieces[pieces.len() - 1].tiles.end);
        let (count, pitch) = (end - first, self.pitch());
        let all = self.all_columns();
        let [inputs_each, outputs_each] = [pitch, all.columns].map(|width| odd_pitch(count * width));
        let mut inputs = Buffer::uninit(P * P * inputs_each);
        let mut outputs = Buffer::uninit(P * P * outputs_each);
        let ranges = pieces_of(count, 4 * threads());
        for (phase, geometry) in self.geometries().enumerate() {
            for_each(rows_of_points(inputs.as_mut_slice(), P * P, pitch, &ranges), |(rows, points)| {
                self.transform_inputs(&geometry, first + rows.start..first + rows.end, points);
            });
            let inputs = inputs.as_slice();
            for_chunks(outputs.as_mut_slice(), outputs_each, |point, sums| {
                let x = &inputs[point * inputs_each..][..count * pitch];
                self.multiply(phase * P * P + point, x, sums, &all);
            });
            let outputs = outputs.as_slice();
            for_each(pieces.iter_mut().collect(), |piece| {
                self.transform_outputs(&geometry, piece, first, outputs, &all);
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

    /// The distance of the inputs' rows at a point.
    fn pitch(&self) -> usize {
        odd_pitch(self.depth())
    }

    /// Channels of the output.
    fn channels(&self) -> usize {
        self.problem.cout / if self.gated { 2 } else { 1 }
    }

    /// Columns of the sums: whole vectors.
    fn columns(&self) -> usize {
        self.problem.cout.next_multiple_of(M::LANES)
    }

    fn all_columns(&self) -> Group {
        Group {
            tiles: (0..column_tiles::<M>(self.problem.cout)).collect(),
            channels: 0..self.channels(),
            columns: self.columns(),
        }
    }

    /// The columns in groups, whose sums of a block stay in the second-level cache beside its inputs.
    fn groups(&self) -> Vec<Group> {
        /// Column tiles of a group; the last one also has what would be less than a vector.
        const TILES: usize = 2;
        let (channels, cout) = (self.channels(), self.problem.cout);
        if self.gated && !channels.is_multiple_of(M::WIDTH) {
            return vec![self.all_columns()];
        }
        let tiles = column_tiles::<M>(channels);
        let count = (tiles / TILES).max(1);
        let group = |i: usize| {
            let own = i * TILES..if i + 1 == count { tiles } else { (i + 1) * TILES };
            let gates = own.clone().map(|tile| tile + tiles).filter(|_| self.gated);
            let tiles: Vec<usize> = own.clone().chain(gates).collect();
            let columns = tiles.iter().map(|&tile| vectors_of::<M>(tile, cout) * M::LANES).sum();
            Group { tiles, channels: own.start * M::WIDTH..(own.end * M::WIDTH).min(channels), columns }
        };
        (0..count).map(group).collect()
    }

    /// Pieces of about `block` tiles.
    fn pieces<'y>(&self, mut y: &'y mut [f32], block: usize) -> Vec<Piece<'y>> {
        let ConvProblem { batch, output: [h, width], step, .. } = *self.problem;
        let ([rows, columns], channels) = (tiles(self.problem), self.channels());
        let image = h * width * channels;
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
            let end = b * image + (part.end * TILE * step[0]).min(h) * width * channels;
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
        let pitch = self.pitch();
        self.kernel.vectorized(InputTransform::<_, R, P> {
            transforms: self.transforms,
            geometry,
            x: self.x,
            tiles,
            pitch,
            points: Targets::new(points),
        });
    }

    /// `first` is the tile of the first row of `sums`.
    fn transform_outputs<const R: usize, const P: usize>(
        &self,
        geometry: &Geometry,
        piece: &mut Piece,
        first: usize,
        sums: &[f32],
        group: &Group,
    ) where
        T: Transforms<R, P>,
    {
        self.kernel.vectorized(OutputTransform::<_, R, P> {
            transforms: self.transforms,
            geometry,
            epilogue: self.epilogue,
            gated: self.gated,
            channels: self.channels(),
            group,
            tiles: piece.tiles.clone(),
            first,
            sums,
            start: piece.start,
            y: &mut *piece.outputs,
        });
    }

    /// At one point: x[rows, pitch] by the filters of a group.
    fn multiply(&self, point: usize, x: &[f32], sums: &mut [f32], group: &Group) {
        let (depth, pitch, cout) = (self.depth(), self.pitch(), self.problem.cout);
        let filters = self.filters.phases[point].as_slice();
        let rows = x.len() / pitch;
        for span in pieces_of(depth, depth.div_ceil(M::DEPTH)) {
            let mut to = 0;
            for &tile in &group.tiles {
                let width = vectors_of::<M>(tile, cout) * M::LANES;
                let w = &filters[tile * M::WIDTH * depth + span.start * width..][..span.len() * width];
                let sums = Product { data: &mut sums[to..], pitch: group.columns, add: span.start > 0 };
                let x = Matrix { data: &x[span.start..], row: pitch, element: 1 };
                self.kernel.multiply([rows, span.len(), width], sums, x, Strided { data: w, stride: width });
                to += width;
            }
        }
    }
}

/// Columns of the sums that are made together.
struct Group {
    /// Column tiles of the filters, side by side: those of the outputs, then those of their gates.
    tiles: Vec<usize>,
    /// The channels of the output that follow.
    channels: Range<usize>,
    /// Columns of the sums: whole vectors.
    columns: usize,
}

/// The patches of `tiles` to rows of each point, [P²][rows, pitch].
pub(super) struct InputTransform<'a, T, const R: usize, const P: usize> {
    pub transforms: T,
    pub geometry: &'a Geometry,
    pub x: &'a [f32],
    pub tiles: Range<usize>,
    pub pitch: usize,
    pub points: Targets<'a, P>,
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for InputTransform<'_, T, R, P> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        /// Numbers of a line of the cache.
        const LINE: usize = 16;
        let InputTransform { transforms, geometry, x, pitch, mut points, .. } = self;
        let ConvProblem { cin, stride, .. } = geometry.phase.problem;
        // From a patch to that of the tile on its right, whose columns from R - 1 on are yet unread.
        let next = TILE * stride[1] * cin;
        let zeros = vec![0.0; cin];
        for (n, tile) in self.tiles.enumerate() {
            for plane in 0..geometry.planes() {
                let offsets = geometry.patch::<P>(tile, plane);
                let patch = Sources::new(x, &offsets, cin, &zeros);
                let to = n * pitch + plane * cin;
                for c in vectors_over(cin, M::LANES) {
                    if c % LINE == 0 {
                        for r in 0..P {
                            for s in R - 1..P {
                                prefetch(x, offsets[r][s].saturating_add(next + c));
                            }
                        }
                    }
                    both_ways!(kernel, P => P, transforms.patch_to_points,
                        |r, s| patch.load(kernel, r, s, c),
                        |i, j, value| points.store(kernel, value, i, j, to + c));
                }
            }
        }
    }
}

/// The sums of tiles at each point, [P²][rows, columns], to outputs.
struct OutputTransform<'a, T, const R: usize, const P: usize> {
    transforms: T,
    geometry: &'a Geometry,
    epilogue: Option<Epilogue<'a>>,
    /// The sums are [a | b], and a · σ(b) is the output.
    gated: bool,
    /// Of the output.
    channels: usize,
    group: &'a Group,
    tiles: Range<usize>,
    /// The tile of the first row of `sums`.
    first: usize,
    sums: &'a [f32],
    /// The first output of `y`.
    start: usize,
    y: &'a mut [f32],
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for OutputTransform<'_, T, R, P> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        let OutputTransform { transforms, geometry, epilogue, gated, channels, group, start, y, .. } = self;
        let (sums, own) = (Sources::<P>::of_parts(self.sums), group.channels.len());
        for tile in self.tiles {
            let offsets = geometry.outputs(tile, channels);
            let row = (tile - self.first) * group.columns;
            for from in vectors_over(own, M::LANES) {
                let c = group.channels.start + from;
                let mut outputs = to_tile(kernel, transforms, &sums, row + from);
                if let (true, Some(Epilogue { bias, .. })) = (gated, &epilogue) {
                    let gates = to_tile(kernel, transforms, &sums, row + own + from);
                    let (of_output, of_gate) = (kernel.load(&bias[c..]), kernel.load(&bias[channels + c..]));
                    for r in 0..TILE {
                        for s in 0..TILE {
                            let gate = kernel.logistic(kernel.add(gates[r][s], of_gate));
                            outputs[r][s] = kernel.mul(kernel.add(outputs[r][s], of_output), gate);
                        }
                    }
                }
                for r in 0..TILE {
                    for s in 0..TILE {
                        let at = offsets[r][s];
                        if at == OUTSIDE {
                            continue;
                        }
                        let z = match &epilogue {
                            Some(epilogue) if !gated => epilogue.of_vector(kernel, outputs[r][s], c, at + c),
                            _ => outputs[r][s],
                        };
                        kernel.store(z, &mut y[at - start + c..at - start + channels]);
                    }
                }
            }
        }
    }
}

/// The outputs of one tile for a vector of channels, whose sums begin at `from` of each point.
#[inline(always)]
fn to_tile<M: Microkernel, T: Transforms<R, P>, const R: usize, const P: usize>(
    kernel: M,
    transforms: T,
    sums: &Sources<P>,
    from: usize,
) -> [[M::Vector; TILE]; TILE] {
    let mut outputs = [[kernel.splat(0.0); TILE]; TILE];
    both_ways!(kernel, P => TILE, transforms.points_to_tile,
        |r, s| sums.load(kernel, r, s, from),
        |i, j, value| outputs[i][j] = value);
    outputs
}
