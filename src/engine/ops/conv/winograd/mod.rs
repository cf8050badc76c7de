//! Convolutions on the CPU by Winograd's minimal filtering F(4×4, R×R): (R + 3)² products for 16 outputs in place of 16·R²
//! (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016).
//!
//! y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for each tile of 4×4 outputs and its patch d of (R + 3)² inputs. At each of the (R + 3)²
//! points the tiles by the filters are a matrix product over the channels. R is 3 for 3×3 windows of stride 1. It is 2 for the
//! phases of 4×4 windows of stride 2: where outputs fall into 4 phases (the gradient of the input, and
//! nearest 2× and then 3×3), each is a pass of its own; where windows fall into 4 planes of every other pixel (forward, and the
//! gradient of nearest 2×'s input), these are channels side by side. The gradient of the filters is the same sum
//! transposed, dg = Gᵀ[Σ (A dy Aᵀ) ⊙ (Bᵀ d B)]G.

// Squares are indexed as their formulas are.
#![allow(clippy::needless_range_loop)]

mod filters;
mod images;
mod transforms;
mod wgrad;

pub(super) use filters::pack_filters;
pub(super) use images::{fprop, fprop_gated};
use transforms::{LANES, TILE};
pub(super) use wgrad::{wgrad, wgrad_suits};

use super::problem::{ConvProblem, Phase};
use crate::engine::device::cpu::exact;
use crate::engine::device::cpu::tile::OUTSIDE;

/// Whether a pass is computed so: a matter of its shape but for the batch, so that images do not depend on their number.
pub(super) fn suits(problem: &ConvProblem) -> bool {
    let ConvProblem { cin, cout, .. } = *problem;
    let output = problem.phase_output();
    let [covered, outputs] = [output.map(|n| n.next_multiple_of(TILE)), output].map(|[h, w]| h * w);
    // Smaller maps are mostly borders, and have too few tiles for what the filters of all points cost to make and read.
    let least = match taps(problem) {
        Some(3) => TILE + 1,
        Some(_) => 4 * TILE,
        None => return false,
    };
    !exact() && cin.min(cout) >= LANES && output.iter().all(|&n| n >= least) && covered * 10 <= outputs * 16
}

/// Whether the halves of a pass's outputs, of which one gates the other, fill vectors.
pub(super) fn gated_suits(problem: &ConvProblem) -> bool {
    suits(problem) && problem.cout >= 2 * LANES
}

/// R, where the windows have such a form.
fn taps(problem: &ConvProblem) -> Option<usize> {
    let ConvProblem { window, step, stride, spread, .. } = *problem;
    match (window, step, stride) {
        ([3, 3], [1, 1], [1, 1]) if !spread => Some(3),
        ([4, 4], [2, 2], [1, 1]) | ([4, 4], [1, 1], [2, 2]) => Some(2),
        _ => None,
    }
}

/// Where the input of one phase's tiles lies: plane (b, c) of each pixel block of stride² is channels of its own.
#[derive(Clone, Copy)]
struct Geometry {
    phase: Phase,
    /// Tiles down and across an image.
    across: [usize; 2],
}

impl Geometry {
    fn new(phase: Phase) -> Geometry {
        Geometry { phase, across: tiles(&phase.problem) }
    }

    /// Planes of the input.
    fn planes(&self) -> usize {
        planes(&self.phase.problem)
    }

    /// The image of a tile, and the tile's first row and column in the phase.
    fn place(&self, tile: usize) -> (usize, [usize; 2]) {
        let [down, right] = self.across;
        (tile / (down * right), [tile / right % down * TILE, tile % right * TILE])
    }

    /// Where the pixels of a tile's patch in `plane` begin in the input; [`OUTSIDE`] for those outside the image.
    #[inline(always)]
    fn patch<const P: usize>(&self, tile: usize, plane: usize) -> [[usize; P]; P] {
        let ConvProblem { cin, input: [h, width], stride, .. } = self.phase.problem;
        let (image, corner) = self.place(tile);
        let of_plane = [plane / stride[1], plane % stride[1]];
        let mut offsets = [[OUTSIDE; P]; P];
        for r in 0..P {
            let row = ((corner[0] + r) * stride[0] + of_plane[0]) as isize + self.phase.origin[0];
            if row < 0 || row >= h as isize {
                continue;
            }
            for s in 0..P {
                let column = ((corner[1] + s) * stride[1] + of_plane[1]) as isize + self.phase.origin[1];
                if column >= 0 && column < width as isize {
                    offsets[r][s] = ((image * h + row as usize) * width + column as usize) * cin;
                }
            }
        }
        offsets
    }

    /// Where the outputs of a tile begin, of so many channels; [`OUTSIDE`] for those outside the phase.
    #[inline(always)]
    fn outputs(&self, tile: usize, channels: usize) -> [[usize; TILE]; TILE] {
        let ConvProblem { output: [h, width], step, .. } = self.phase.problem;
        let (image, corner) = self.place(tile);
        let mut offsets = [[OUTSIDE; TILE]; TILE];
        for r in 0..TILE.min(self.phase.output[0].saturating_sub(corner[0])) {
            let row = image * h + (corner[0] + r) * step[0] + self.phase.index[0];
            for s in 0..TILE.min(self.phase.output[1].saturating_sub(corner[1])) {
                let column = (corner[1] + s) * step[1] + self.phase.index[1];
                offsets[r][s] = (row * width + column) * channels;
            }
        }
        offsets
    }
}

/// Tiles down and across an image.
fn tiles(problem: &ConvProblem) -> [usize; 2] {
    problem.phase_output().map(|n| n.div_ceil(TILE))
}

fn planes(problem: &ConvProblem) -> usize {
    problem.stride[0] * problem.stride[1]
}

/// `0..count` in `parts` ranges of like length, or fewer.
fn pieces_of(count: usize, parts: usize) -> Vec<std::ops::Range<usize>> {
    let each = count.div_ceil(parts.max(1)).max(1);
    (0..count).step_by(each).map(|from| from..(from + each).min(count)).collect()
}

/// For each range of rows its rows at every one of `points` matrices [rows][width].
fn rows_of_points<'a>(
    data: &'a mut [f32],
    points: usize,
    width: usize,
    ranges: &[std::ops::Range<usize>],
) -> Vec<(std::ops::Range<usize>, Vec<&'a mut [f32]>)> {
    let mut rows: Vec<_> = ranges.iter().map(|range| (range.clone(), Vec::with_capacity(points))).collect();
    for mut point in data.chunks_exact_mut(data.len() / points) {
        for (range, points) in &mut rows {
            let (own, rest) = std::mem::take(&mut point).split_at_mut(range.len() * width);
            points.push(own);
            point = rest;
        }
    }
    rows
}
