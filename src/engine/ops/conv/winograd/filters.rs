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
        let transposed = problem.transposed;
        kernel.vectorized(FilterTile::<_, R, P> {
            transforms,
            w,
            filter,
            inputs,
            terms,
            offsets,
            transposed,
            channels,
            points,
        });
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
    /// Whether columns are the operator's inputs, which lie side by side. Otherwise they are its outputs, each of which is a row of its own.
    transposed: bool,
    /// The tile's columns.
    channels: Range<usize>,
    points: Vec<&'a mut [f32]>,
}

/// Terms whose taps are turned at a time.
const TERMS: usize = 16;

impl<T: Transforms<R, P>, const R: usize, const P: usize> FilterTile<'_, T, R, P> {
    /// Tap `offset` of some terms from `first` on, with the outputs side by side: [term, width].
    #[inline(always)]
    fn turn(&self, turned: &mut [f32], width: usize, offset: usize, first: usize) {
        for (column, n) in self.channels.clone().enumerate() {
            let from = n * self.filter + offset * self.inputs + first;
            let row = &self.w[from..from + TERMS.min(self.terms - first)];
            turned[column..].iter_mut().step_by(width).zip(row).for_each(|(to, w)| *to = *w);
        }
    }
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for FilterTile<'_, T, R, P> {
    #[inline(always)]
    fn run<M: Microkernel>(mut self, kernel: M) {
        let (transforms, columns) = (self.transforms, self.channels.len());
        let width = columns.next_multiple_of(M::LANES);
        let mut turned = if self.transposed { Vec::new() } else { vec![0.0; R * R * TERMS * width] };
        for (plane, offsets) in self.offsets.iter().enumerate() {
            for first in (0..self.terms).step_by(TERMS) {
                let mut starts = [[0; R]; R];
                for (tap, start) in starts.as_flattened_mut().iter_mut().enumerate() {
                    let offset = offsets[tap / R][tap % R];
                    if self.transposed {
                        *start = first * self.filter + offset * self.inputs + self.channels.start;
                    } else {
                        *start = tap * TERMS * width;
                        self.turn(&mut turned[*start..][..TERMS * width], width, offset, first);
                    }
                }
                let (taps, row, len) = match self.transposed {
                    true => (self.w, self.filter, columns),
                    false => (&turned[..], width, width),
                };
                for term in 0..TERMS.min(self.terms - first) {
                    for column in (0..width).step_by(M::LANES) {
                        let to = (plane * self.terms + first + term) * width + column;
                        both_ways!(kernel, R => P, transforms.taps_to_points,
                            |r, s| {
                                let from = starts[r][s] + term * row;
                                kernel.load(&taps[from + column..from + len])
                            },
                            |i, j, value| kernel.store(value, &mut self.points[i * P + j][to..]));
                    }
                }
            }
        }
    }
}
