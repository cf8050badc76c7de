//! Convolutions on the CPU by Winograd's minimal filtering F(4×4, R×R): (R + 3)² products for 16 outputs in place of 16·R²
//! (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016).
//!
//! y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A for each tile of 4×4 outputs and its patch d of (R + 3)² inputs. At each of the (R + 3)²
//! points the tiles by the filters are a matrix product over the channels. R is 3 for 3×3 windows of stride 1. It is 2 for the
//! phases of 4×4 windows of stride 2: where outputs fall into 4 phases (the gradient of the input, and
//! nearest 2× and then 3×3), each is a pass of its own; where windows fall into 4 planes of every other pixel (forward, and the
//! gradient of nearest 2×'s input), these are channels side by side. The gradient of the filters is the same sum
//! transposed, dg = Gᵀ[Σ (A dy Aᵀ) ⊙ (Bᵀ d B)]G.

mod filters;
mod images;
mod transforms;
mod wgrad;

pub(super) use filters::pack_filters;
pub(super) use images::fprop;
use transforms::{LANES, TILE};
pub(super) use wgrad::{wgrad, wgrad_suits};

use super::problem::{ConvProblem, Phase};

/// Whether a pass is computed so: a matter of its shape but for the batch, so that images do not depend on their number.
pub(super) fn suits(problem: &ConvProblem) -> bool {
    let ConvProblem { cin, cout, .. } = *problem;
    let output = problem.phase_output();
    let [covered, outputs] = [output.map(|n| n.next_multiple_of(TILE)), output].map(|[h, w]| h * w);
    taps(problem).is_some()
        && cin.min(cout) >= LANES
        // Smaller maps are mostly borders, and have too few tiles for what the filters of all points cost to read.
        && output.iter().all(|&n| n > TILE)
        && covered * 10 <= outputs * 16
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

    /// The pixels of a tile's patch in `plane`, row by row; empty where they lie outside the image.
    #[inline(always)]
    fn patch<'x, const P: usize>(&self, x: &'x [f32], tile: usize, plane: usize) -> [[&'x [f32]; P]; P] {
        let ConvProblem { cin, input: [h, width], stride, .. } = self.phase.problem;
        let (image, corner) = self.place(tile);
        let of_plane = [plane / stride[1], plane % stride[1]];
        let at = |d: usize, i: usize| {
            ((corner[d] + i) * stride[d] + of_plane[d]) as isize + self.phase.origin[d]
        };
        std::array::from_fn(|r| {
            let row = at(0, r);
            std::array::from_fn(|s| {
                let column = at(1, s);
                let inside = (0..h as isize).contains(&row) && (0..width as isize).contains(&column);
                let pixel = ((image * h) as isize + row) * width as isize + column;
                if inside { &x[pixel as usize * cin..][..cin] } else { &[][..] }
            })
        })
    }

    /// The rows and columns of a tile that lie in the phase, and the number of output pixel (r, s) among them.
    fn outputs(&self, tile: usize) -> ([usize; 2], impl Fn(usize, usize) -> usize + use<>) {
        let ConvProblem { output: [h, width], step, .. } = self.phase.problem;
        let (image, corner) = self.place(tile);
        let count = [0, 1].map(|d| TILE.min(self.phase.output[d].saturating_sub(corner[d])));
        let index = self.phase.index;
        let at = move |r: usize, s: usize| {
            let [row, column] = [(corner[0] + r) * step[0] + index[0], (corner[1] + s) * step[1] + index[1]];
            (image * h + row) * width + column
        };
        (count, at)
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
