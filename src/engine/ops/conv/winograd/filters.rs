//! The filters of every point.

use super::transforms::{LANES, Three, Transforms, Two, both_ways, load, store};
use super::{pieces_of, planes, rows_of_points, taps};
use crate::engine::device::cpu::tile::{Loops, Microkernel, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_each, map, threads};
use crate::engine::ops::conv::filters::{PackedFilters, operator_filters, pack, pack_transposed};
use crate::engine::ops::conv::problem::{ConvProblem, Phase};

/// Of each phase and at each of its points the filters of all channels, packed for the tiles.
pub fn pack_filters(problem: &ConvProblem, w: &[f32]) -> PackedFilters {
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
    let (width, filter, offsets) = (planes * inputs, w.len() / outputs, tap_offsets(phase));
    let mut points = Buffer::uninit(P * P * outputs * width);
    let ranges = pieces_of(outputs, 4 * threads());
    for_each(rows_of_points(points.as_mut_slice(), P * P, width, &ranges), |(rows, points)| {
        let w = &w[rows.start * filter..rows.end * filter];
        kernel.vectorized(FilterTransform::<_, R, P> { transforms, w, filter, inputs, offsets: &offsets, points });
    });
    let of_point = |point: usize| &points.as_slice()[point * outputs * width..][..outputs * width];
    map(P * P, |point| match problem.transposed {
        true => {
            let all: Vec<usize> = (0..planes).collect();
            pack_transposed::<M>(of_point(point), [outputs, 1, planes, inputs], &[0], &all)
        }
        false => pack::<M>(width, outputs, of_point(point)),
    })
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

/// w[n, taps, inputs] to n rows of each point, [P²][n, planes·inputs].
struct FilterTransform<'a, T, const R: usize, const P: usize> {
    transforms: T,
    w: &'a [f32],
    /// Elements of one filter.
    filter: usize,
    inputs: usize,
    offsets: &'a [[[usize; R]; R]],
    points: Vec<&'a mut [f32]>,
}

impl<T: Transforms<R, P>, const R: usize, const P: usize> Loops for FilterTransform<'_, T, R, P> {
    #[inline(always)]
    fn run(mut self) {
        let FilterTransform { transforms, inputs, offsets, .. } = self;
        for (n, w) in self.w.chunks_exact(self.filter).enumerate() {
            for (plane, offsets) in offsets.iter().enumerate() {
                for c in (0..inputs).step_by(LANES) {
                    let taps = offsets.map(|row| row.map(|tap| load(&w[tap * inputs..][..inputs], c)));
                    let points = both_ways(&taps, |taps| transforms.taps_to_points(taps));
                    let to = (n * self.offsets.len() + plane) * inputs;
                    for (values, point) in points.as_flattened().iter().zip(&mut self.points) {
                        store(&mut point[to..][..inputs], c, *values);
                    }
                }
            }
        }
    }
}
