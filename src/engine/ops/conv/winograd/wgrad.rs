//! The gradient of the filters.

use std::ops::Range;

use super::images::InputTransform;
use super::transforms::{TILE, Three, Transforms, Two, both_ways};
use super::{Geometry, pieces_of, planes, rows_of_points, suits, taps, tiles};
use crate::engine::device::cpu::tile::{
    Loops, Matrix, Microkernel, Product, Sources, Strided, Targets, vectors_over, with_microkernel,
};
use crate::engine::device::cpu::{Buffer, odd_pitch, for_chunks, for_each, map, threads};
use crate::engine::ops::conv::problem::{ConvProblem, Phase};

/// Whether the gradient of a pass's filters is computed so: the sums at all points must be worth their memory.
pub(in crate::engine::ops::conv) fn wgrad_suits(problem: &ConvProblem) -> bool {
    /// Tiles from which on the products cost more than reading and writing their sums.
    const FEW: usize = 48;
    /// Bytes of the sums.
    const MOST: usize = 32 << 20;
    let [down, right] = tiles(problem);
    let points = taps(problem).map_or(0, |taps| (taps + 3) * (taps + 3));
    let sums = points * problem.cout * odd_pitch(planes(problem) * problem.cin) * 4;
    suits(problem) && problem.batch * down * right >= FEW && sums <= MOST
}

/// dw[Cout, window] of one phase, from dy and the windows of x, in the order of the window's taps.
pub(in crate::engine::ops::conv) fn wgrad(phase: &Phase, dw: &mut [f32], dy: &[f32], x: &[f32]) {
    with_microkernel!(kernel => match taps(&phase.problem) {
        Some(2) => Gradient { kernel, transforms: Two, geometry: Geometry::new(*phase), dy, x }.run(dw),
        _ => Gradient { kernel, transforms: Three, geometry: Geometry::new(*phase), dy, x }.run(dw),
    });
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
        // A fixed number: sums must not depend on the number of threads.
        const PARTS: usize = 8;
        /// Bytes of the sums of all parts.
        const MOST: usize = 32 << 20;
        let [down, right] = self.geometry.across;
        let tiles = self.geometry.phase.problem.batch * down * right;
        let len = P * P * odd_pitch(self.geometry.phase.problem.cout * self.pitches()[1]);
        if len * 4 * PARTS > MOST {
            let sums = self.by_points(len, tiles);
            return self.fold(dw, sums.as_slice());
        }
        let ranges = pieces_of(tiles, PARTS);
        let mut parts = map(ranges.len(), |part| self.part(len, ranges[part].clone()));
        let (sums, others) = parts.split_first_mut().expect("there are tiles");
        const CHUNK: usize = 1 << 14;
        for_chunks(sums.as_mut_slice(), CHUNK, |i, sums| {
            for part in &*others {
                sums.iter_mut().zip(&part.as_slice()[i * CHUNK..]).for_each(|(sum, part)| *sum += part);
            }
        });
        self.fold(dw, sums.as_slice());
    }

    /// The distances of the rows of dy and x at a point.
    fn pitches(&self) -> [usize; 2] {
        let ConvProblem { cin, cout, .. } = self.geometry.phase.problem;
        [cout, self.geometry.planes() * cin].map(odd_pitch)
    }

    /// The sums [P²][Cout, pitch] of a few tiles, by one thread: for small filters.
    fn part<const R: usize, const P: usize>(&self, len: usize, tiles: Range<usize>) -> Buffer
    where
        T: Transforms<R, P>,
    {
        /// Bytes of a block's points, near what the second-level cache holds.
        const BLOCK: usize = 1 << 20;
        let [left, right] = self.pitches();
        let block = (BLOCK / (P * P * 4 * (left + right))).clamp(32, 256);
        let mut sums = Buffer::uninit(len);
        let [outputs_each, inputs_each] = [left, right].map(|pitch| odd_pitch(block * pitch));
        let mut outputs = Buffer::uninit(P * P * outputs_each);
        let mut inputs = Buffer::uninit(P * P * inputs_each);
        for first in tiles.clone().step_by(block) {
            let own = first..(first + block).min(tiles.end);
            let (count, add) = (own.len(), first > tiles.start);
            let of_outputs = outputs.as_mut_slice().chunks_exact_mut(outputs_each);
            let of_inputs = inputs.as_mut_slice().chunks_exact_mut(inputs_each);
            let of_outputs = of_outputs.map(|point| &mut point[..count * left]).collect();
            self.transform(own, of_outputs, of_inputs.map(|point| &mut point[..count * right]).collect());
            let of_outputs = outputs.as_slice().chunks_exact(outputs_each);
            let of_points = of_outputs.zip(inputs.as_slice().chunks_exact(inputs_each));
            for (sums, (outputs, inputs)) in sums.as_mut_slice().chunks_exact_mut(len / (P * P)).zip(of_points) {
                self.multiply(count, sums, [outputs, inputs], add);
            }
        }
        sums
    }

    /// The same of all tiles; threads share the points.
    fn by_points<const R: usize, const P: usize>(&self, len: usize, tiles: usize) -> Buffer
    where
        T: Transforms<R, P>,
    {
        /// Bytes of one point's rows: they stay in the second-level cache.
        const BLOCK: usize = 512 << 10;
        let [left, right] = self.pitches();
        let block = (BLOCK / (4 * (left + right))).clamp(64, 1024);
        let mut sums = Buffer::uninit(len);
        for own in pieces_of(tiles, tiles.div_ceil(block)) {
            let (count, add) = (own.len(), own.start > 0);
            let [outputs_each, inputs_each] = [left, right].map(|pitch| odd_pitch(count * pitch));
            let mut outputs = Buffer::uninit(P * P * outputs_each);
            let mut inputs = Buffer::uninit(P * P * inputs_each);
            let ranges = pieces_of(count, 4 * threads());
            let of_outputs = rows_of_points(outputs.as_mut_slice(), P * P, left, &ranges);
            let of_inputs = rows_of_points(inputs.as_mut_slice(), P * P, right, &ranges);
            for_each(of_outputs.into_iter().zip(of_inputs).collect(), |((rows, outputs), (_, inputs))| {
                self.transform(own.start + rows.start..own.start + rows.end, outputs, inputs);
            });
            let (outputs, inputs) = (outputs.as_slice(), inputs.as_slice());
            for_chunks(sums.as_mut_slice(), len / (P * P), |point, sums| {
                let outputs = &outputs[point * outputs_each..][..count * left];
                let inputs = &inputs[point * inputs_each..][..count * right];
                self.multiply(count, sums, [outputs, inputs], add);
            });
        }
        sums
    }

    fn transform<const R: usize, const P: usize>(
        &self,
        tiles: Range<usize>,
        outputs: Vec<&mut [f32]>,
        inputs: Vec<&mut [f32]>,
    ) where
        T: Transforms<R, P>,
    {
        let Gradient { kernel, transforms, ref geometry, dy, x } = *self;
        let [left, right] = self.pitches();
        let (points, pitch, own) = (Targets::new(outputs), left, tiles.clone());
        kernel.vectorized(GradientTransform::<_, R, P> { transforms, geometry, dy, tiles: own, pitch, points });
        let (points, pitch) = (Targets::new(inputs), right);
        kernel.vectorized(InputTransform::<_, R, P> { transforms, geometry, x, tiles, pitch, points });
    }

    /// At one point: sums[Cout, pitch] (+)= Σ over tiles of dy[tile, Cout] ⊗ x[tile, pitch].
    fn multiply(&self, count: usize, sums: &mut [f32], [dy, x]: [&[f32]; 2], add: bool) {
        let cout = self.geometry.phase.problem.cout;
        let [left, pitch] = self.pitches();
        let dy = Matrix { data: dy, row: 1, element: left };
        for from in (0..pitch).step_by(M::WIDTH) {
            let size = [cout, count, (pitch - from).min(M::WIDTH)];
            let x = Strided { data: &x[from..], stride: pitch };
            self.kernel.multiply(size, Product { data: &mut sums[from..], pitch, add }, dy, x);
        }
    }

    /// The sums at all points to dw.
    fn fold<const R: usize, const P: usize>(&self, dw: &mut [f32], sums: &[f32])
    where
        T: Transforms<R, P>,
    {
        let cout = self.geometry.phase.problem.cout;
        let (filter, pitch, each) = (dw.len() / cout, self.pitches()[1], cout.div_ceil(4 * threads()));
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
    points: Targets<'a, P>,
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for GradientTransform<'_, T, R, P> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        let GradientTransform { transforms, geometry, dy, pitch, mut points, .. } = self;
        let cout = geometry.phase.problem.cout;
        let zeros = vec![0.0; cout];
        for (n, tile) in self.tiles.enumerate() {
            let outputs = Sources::new(dy, &geometry.outputs(tile, cout), cout, &zeros);
            for c in vectors_over(cout, M::LANES) {
                both_ways!(kernel, TILE => P, transforms.tile_to_points,
                    |r, s| outputs.load(kernel, r, s, c),
                    |i, j, value| points.store(kernel, value, i, j, n * pitch + c));
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
    fn run<M: Microkernel>(self, kernel: M) {
        let Fold { transforms, geometry, sums, pitch, .. } = self;
        let ConvProblem { cin, stride, .. } = geometry.phase.problem;
        let (sums, window) = (Sources::<P>::of_parts(sums), stride[1] * R);
        for (n, dw) in (self.first..).zip(self.dw.chunks_exact_mut(self.filter)) {
            for plane in 0..geometry.planes() {
                let [down, right] = [plane / stride[1], plane % stride[1]];
                let from = n * pitch + plane * cin;
                for c in vectors_over(cin, M::LANES) {
                    both_ways!(kernel, P => R, transforms.points_to_taps,
                        |r, s| sums.load(kernel, r, s, from + c),
                        |r, s, value| {
                            let tap = (stride[0] * r + down) * window + stride[1] * s + right;
                            kernel.store(value, &mut dw[tap * cin + c..(tap + 1) * cin]);
                        });
                }
            }
        }
    }
}
