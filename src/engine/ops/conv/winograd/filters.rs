//! The filters of every point.

use std::ops::Range;

use super::transforms::{Three, Transforms, Two, both_ways};
use super::{planes, taps};
use crate::engine::device::cpu::tile::{Loops, Microkernel, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_each, odd_pitch};
use crate::engine::ops::conv::filters::{PackedFilters, column_tiles, operator_filters, packed_len};
use crate::engine::ops::conv::problem::{ConvProblem, Phase};

/// Of each phase and at each of its points the filters of all channels, packed for the tiles.
pub(in crate::engine::ops::conv) fn pack_filters(problem: &ConvProblem, w: &[f32]) -> PackedFilters {
    let w = operator_filters(problem, w);
    with_microkernel!(kernel => {
        let of_phase = |phase: Phase| match taps(problem) {
            Some(2) => pack_phase(kernel, Two, &phase, &w),
            _ => pack_phase(kernel, Three, &phase, &w),
        };
        PackedFilters { phases: problem.phases().flat_map(of_phase).collect() }
    })
}

fn pack_phase<M: Microkernel, T: Transforms<R, P>, const R: usize, const P: usize>(
    kernel: M,
    transforms: T,
    phase: &Phase,
    w: &[f32],
) -> Vec<Buffer> {
    let problem = &phase.problem;
    let ([outputs, inputs], planes) = (problem.filter_channels(), planes(problem));
    let (terms, columns) = if problem.transposed { (outputs, inputs) } else { (inputs, outputs) };
    let (depth, offsets) = (planes * terms, tap_offsets(phase));
    let mut points: Vec<Buffer> = (0..P * P).map(|_| Buffer::uninit(odd_pitch(packed_len::<M>(depth, columns)))).collect();
    let mut tiles: Vec<Vec<&mut [f32]>> = (0..column_tiles::<M>(columns)).map(|_| Vec::new()).collect();
    for point in &mut points {
        let of_tiles = point.as_mut_slice().chunks_mut(depth * M::WIDTH);
        tiles.iter_mut().zip(of_tiles).for_each(|(tile, own)| tile.push(own));
    }
    let filter = w.len() / outputs;
    for_each(tiles.into_iter().enumerate().collect(), |(tile, points)| {
        let channels = tile * M::WIDTH..((tile + 1) * M::WIDTH).min(columns);
        let offsets = &offsets;
        let tile = FilterTile::<_, R, P> { transforms, w, filter, inputs, terms, offsets, channels, points };
        match problem.transposed {
            true => kernel.vectorized(Transposed(tile)),
            false => kernel.vectorized(Plain(tile)),
        }
    });
    points
}

/// Of each plane, which of the operator's taps are its R×R.
fn tap_offsets<const R: usize>(phase: &Phase) -> Vec<[[usize; R]; R]> {
    let ConvProblem { window, stride, .. } = phase.problem;
    let [rows, columns] = [phase.taps(0), phase.taps(1)];
    let of_plane = |plane: usize| {
        let [down, right] = [plane / stride[1], plane % stride[1]];
        let row = |r: usize| rows[stride[0] * r + down] * window[1];
        let column = |s: usize| columns[stride[1] * s + right];
        std::array::from_fn(|r| std::array::from_fn(|s| row(r) + column(s)))
    };
    (0..planes(&phase.problem)).map(of_plane).collect()
}

/// One column tile of the filters w[Cout, taps, Cin] at each point, [P²][planes·terms, width].
struct FilterTile<'a, T, const R: usize, const P: usize> {
    transforms: T,
    w: &'a [f32],
    /// Elements of one filter.
    filter: usize,
    inputs: usize,
    /// Channels that a product sums over.
    terms: usize,
    offsets: &'a [[[usize; R]; R]],
    /// The tile's columns.
    channels: Range<usize>,
    points: Vec<&'a mut [f32]>,
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> FilterTile<'_, T, R, P> {
    /// Filter n of a plane at all points, for the input channels from c on.
    #[inline(always)]
    fn transform<M: Microkernel>(&self, kernel: M, n: usize, plane: usize, c: usize) -> [[M::Vector; P]; P] {
        let (transforms, inputs) = (self.transforms, self.inputs);
        let mut points = [[kernel.splat(0.0); P]; P];
        both_ways!(kernel, R => P, transforms.taps_to_points,
            |r, s| {
                let from = n * self.filter + self.offsets[plane][r][s] * inputs;
                kernel.load(&self.w[from + c..from + inputs])
            },
            |i, j, value| points[i][j] = value);
        points
    }
}

/// Columns are the operator's inputs, which lie side by side.
struct Transposed<'a, T, const R: usize, const P: usize>(FilterTile<'a, T, R, P>);

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for Transposed<'_, T, R, P> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        let Transposed(mut tile) = self;
        let width = tile.channels.len().next_multiple_of(M::LANES);
        for plane in 0..tile.offsets.len() {
            for n in 0..tile.terms {
                let to = (plane * tile.terms + n) * width;
                for c in tile.channels.clone().step_by(M::LANES) {
                    let all = tile.transform(kernel, n, plane, c);
                    for (point, values) in tile.points.iter_mut().zip(all.as_flattened()) {
                        kernel.store(*values, &mut point[to + c - tile.channels.start..]);
                    }
                }
            }
        }
    }
}

/// Columns are the operator's outputs, each of which is a row of its own: a block of them is turned at a time.
struct Plain<'a, T, const R: usize, const P: usize>(FilterTile<'a, T, R, P>);

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for Plain<'_, T, R, P> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        /// Input channels of a block, and room for a vector beyond them.
        const TERMS: usize = 64;
        const PITCH: usize = TERMS + 16;
        let Plain(mut tile) = self;
        let width = tile.channels.len().next_multiple_of(M::LANES);
        let mut block = vec![0.0; P * P * width * PITCH];
        for plane in 0..tile.offsets.len() {
            for first in (0..tile.terms).step_by(TERMS) {
                let terms = first..(first + TERMS).min(tile.terms);
                for (row, n) in tile.channels.clone().enumerate() {
                    for c in terms.clone().step_by(M::LANES) {
                        let all = tile.transform(kernel, n, plane, c);
                        for (point, values) in all.as_flattened().iter().enumerate() {
                            let to = (point * width + row) * PITCH + c - first;
                            kernel.store(*values, &mut block[to..to + M::LANES]);
                        }
                    }
                }
                for (rows, point) in block.chunks_exact(width * PITCH).zip(&mut tile.points) {
                    let to = &mut point[(plane * tile.terms + first) * width..][..terms.len() * width];
                    for (c, to) in to.chunks_exact_mut(width).enumerate() {
                        to.iter_mut().zip(rows[c..].iter().step_by(PITCH)).for_each(|(to, value)| *to = *value);
                    }
                }
            }
        }
    }
}
