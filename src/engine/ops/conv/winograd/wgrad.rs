//! The gradient of the filters.

use std::ops::Range;

use super::images::InputTransform;
use super::transforms::{LANES, TILE, Three, Transforms, Two, both_ways, load, store};
use super::{Geometry, pieces_of, planes, rows_of_points, suits, taps, tiles};
use crate::engine::device::cpu::tile::{Loops, Microkernel, Segment, Strided, Sums, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_chunks, for_each, threads};
use crate::engine::ops::conv::problem::{ConvProblem, Phase};

/// Whether the gradient of a pass's filters is computed so: the sums at all points must be worth their memory.
pub fn wgrad_suits(problem: &ConvProblem) -> bool {
    /// Tiles from which on the products cost more than reading and writing their sums.
    const FEW: usize = 48;
    /// Bytes of the sums.
    const MOST: usize = 64 << 20;
    let [down, right] = tiles(problem);
    let points = taps(problem).map_or(0, |taps| (taps + 3) * (taps + 3));
    let sums = points * problem.cout * pitch(planes(problem) * problem.cin) * 4;
    suits(problem) && problem.batch * down * right >= FEW && sums <= MOST
}

/// dw[Cout, window] of one phase, from dy and the windows of x, in the order of the window's taps.
pub fn wgrad(phase: &Phase, dw: &mut [f32], dy: &[f32], x: &[f32]) {
    with_microkernel!(kernel => match taps(&phase.problem) {
        Some(2) => Gradient { kernel, transforms: Two, geometry: Geometry::new(*phase), dy, x }.run(dw),
        _ => Gradient { kernel, transforms: Three, geometry: Geometry::new(*phase), dy, x }.run(dw),
    });
}

/// The distance of rows of so many numbers: whole lanes, and an odd number of them, so that the same columns of many rows
/// do not fall onto the same lines of the cache.
fn pitch(width: usize) -> usize {
    let lanes = width.div_ceil(LANES);
    (lanes + 1 - lanes % 2) * LANES
}

struct Gradient<'a, M, T> {
    kernel: M,
    transforms: T,
    geometry: Geometry,
    dy: &'a [f32],
    x: &'a [f32],
}

impl<M: Microkernel, T> Gradient<'_, M, T> {
    fn run<const R: usize, const P: usize>(&self, dw: &mut [f32])
    where
        T: Transforms<R, P>,
    {
        /// Bytes of one point's rows: they stay in the second-level cache.
        const BLOCK: usize = 512 << 10;
        let ConvProblem { batch, cin, cout, .. } = self.geometry.phase.problem;
        let [down, right] = self.geometry.across;
        let planes = self.geometry.planes();
        let [left, right_pitch] = [cout, planes * cin].map(pitch);
        let total = batch * down * right;
        let block = (BLOCK / (4 * (left + right_pitch))).clamp(64, 1024);
        let mut sums = Buffer::uninit(P * P * cout * right_pitch);
        for tiles in pieces_of(total, total.div_ceil(block)) {
            let count = tiles.len();
            let mut outputs = Buffer::uninit(P * P * count * left);
            let mut inputs = Buffer::uninit(P * P * count * right_pitch);
            let ranges = pieces_of(count, 4 * threads());
            let of_outputs = rows_of_points(outputs.as_mut_slice(), P * P, left, &ranges);
            let of_inputs = rows_of_points(inputs.as_mut_slice(), P * P, right_pitch, &ranges);
            for_each(of_outputs.into_iter().zip(of_inputs).collect(), |((rows, outputs), (_, inputs))| {
                let tiles = tiles.start + rows.start..tiles.start + rows.end;
                self.transform(tiles, [left, right_pitch], outputs, inputs);
            });
            let (outputs, inputs) = (outputs.as_slice(), inputs.as_slice());
            for_chunks(sums.as_mut_slice(), cout * right_pitch, |point, sums| {
                let left = Strided { data: &outputs[point * count * left..][..count * left], stride: left };
                let right = &inputs[point * count * right_pitch..][..count * right_pitch];
                self.multiply(count, sums, left, Strided { data: right, stride: right_pitch }, tiles.start > 0);
            });
        }
        self.fold(dw, sums.as_slice(), right_pitch);
    }

    fn transform<const R: usize, const P: usize>(
        &self,
        tiles: Range<usize>,
        [left, right]: [usize; 2],
        outputs: Vec<&mut [f32]>,
        inputs: Vec<&mut [f32]>,
    ) where
        T: Transforms<R, P>,
    {
        let Gradient { kernel, transforms, ref geometry, dy, x } = *self;
        kernel.vectorized(GradientTransform::<_, R, P> {
            transforms,
            geometry,
            dy,
            tiles: tiles.clone(),
            pitch: left,
            points: outputs,
        });
        kernel.vectorized(InputTransform::<_, R, P> {
            transforms,
            geometry,
            x,
            tiles,
            pitch: right,
            points: inputs,
        });
    }

    /// At one point: sums[Cout, depth] (+)= Σ over tiles of dy[tile, Cout] ⊗ x[tile, depth].
    fn multiply(&self, count: usize, sums: &mut [f32], left: Strided, right: Strided, add: bool) {
        let cout = self.geometry.phase.problem.cout;
        let pitch = right.stride;
        for from in (0..pitch).step_by(M::WIDTH) {
            let vectors = ((pitch - from) / M::LANES).min(M::VECTORS);
            let columns = Strided { data: &right.data[from..], stride: pitch };
            for row in (0..cout).step_by(M::ROWS) {
                let channel = |i: usize| (row + i).min(cout - 1);
                let segment = Segment { at: M::rows(channel), len: count };
                let at = M::rows(|i| channel(i) * pitch + from);
                let mut sums = Sums { data: &mut *sums, at, add, epilogue: None };
                self.kernel.tile(vectors, &mut sums, left, &[segment], columns);
            }
        }
    }

    /// The sums at all points to dw.
    fn fold<const R: usize, const P: usize>(&self, dw: &mut [f32], sums: &[f32], pitch: usize)
    where
        T: Transforms<R, P>,
    {
        let filter = dw.len() / self.geometry.phase.problem.cout;
        let each = self.geometry.phase.problem.cout.div_ceil(4 * threads());
        for_chunks(dw, each * filter, |i, dw| {
            let (transforms, geometry, first) = (self.transforms, &self.geometry, i * each);
            self.kernel.vectorized(Fold::<_, R, P> { transforms, geometry, sums, pitch, first, filter, dw });
        });
    }
}

/// The tiles of dy to rows of each point, [P²][rows, pitch].
struct GradientTransform<'a, T, const R: usize, const P: usize> {
    transforms: T,
    geometry: &'a Geometry,
    dy: &'a [f32],
    tiles: Range<usize>,
    pitch: usize,
    points: Vec<&'a mut [f32]>,
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for GradientTransform<'_, T, R, P> {
    #[inline(always)]
    fn run(mut self) {
        let GradientTransform { transforms, geometry, dy, pitch, .. } = self;
        let cout = geometry.phase.problem.cout;
        for (n, tile) in self.tiles.clone().enumerate() {
            let ([rows, columns], pixel) = geometry.outputs(tile);
            let outside: &[f32] = &[];
            let mut of_tile = [[outside; TILE]; TILE];
            for (r, row) in of_tile.iter_mut().enumerate().take(rows) {
                for (s, output) in row.iter_mut().enumerate().take(columns) {
                    *output = &dy[pixel(r, s) * cout..][..cout];
                }
            }
            for c in (0..cout).step_by(LANES) {
                let values = of_tile.map(|row| row.map(|output| load(output, c)));
                let points = both_ways(&values, |dy| transforms.tile_to_points(dy));
                for (values, point) in points.as_flattened().iter().zip(&mut self.points) {
                    store(&mut point[n * pitch..][..cout], c, *values);
                }
            }
        }
    }
}

/// Sums [P²][Cout, pitch] to the filters of dw, which begin at channel `first`.
struct Fold<'a, T, const R: usize, const P: usize> {
    transforms: T,
    geometry: &'a Geometry,
    sums: &'a [f32],
    pitch: usize,
    first: usize,
    /// Elements of one filter.
    filter: usize,
    dw: &'a mut [f32],
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for Fold<'_, T, R, P> {
    #[inline(always)]
    fn run(self) {
        let Fold { transforms, geometry, sums, pitch, .. } = self;
        let ConvProblem { cin, stride, .. } = geometry.phase.problem;
        let (of_point, window) = (sums.len() / (P * P), stride[1] * R);
        for (n, dw) in (self.first..).zip(self.dw.chunks_exact_mut(self.filter)) {
            for plane in 0..geometry.planes() {
                let [down, right] = [plane / stride[1], plane % stride[1]];
                for c in (0..cin).step_by(LANES) {
                    let at = n * pitch + plane * cin;
                    let values: [[_; P]; P] = std::array::from_fn(|i| {
                        std::array::from_fn(|j| load(&sums[(i * P + j) * of_point + at..][..cin], c))
                    });
                    let taps = both_ways(&values, |m| transforms.points_to_taps(m));
                    for (r, s) in (0..R).flat_map(|r| (0..R).map(move |s| (r, s))) {
                        let tap = (stride[0] * r + down) * window + stride[1] * s + right;
                        store(&mut dw[tap * cin..][..cin], c, taps[r][s]);
                    }
                }
            }
        }
    }
}
