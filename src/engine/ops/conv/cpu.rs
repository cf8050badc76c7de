//! Convolutions on the CPU: the algorithms of a pass, and their choice.

use super::filters::PackedFilters;
use super::problem::ConvProblem;
use super::{direct, dots, few, winograd};
use crate::engine::device::cpu::tile::Epilogue;

/// How a pass is computed. `Winograd` alone changes its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// Lanes run along the window: for few outputs.
    Dots,
    /// Fewer products, by minimal filtering.
    Winograd,
    /// Register tiles over windows that are read in place.
    Direct,
}

impl Algorithm {
    fn select(problem: &ConvProblem) -> Algorithm {
        if dots::suits(problem) {
            Algorithm::Dots
        } else if winograd::suits(problem) {
            Algorithm::Winograd
        } else {
            Algorithm::Direct
        }
    }
}

/// The operator's filters w[Cout,R,S,Cin] as a pass reads them.
pub(super) fn pack(problem: &ConvProblem, w: &[f32]) -> PackedFilters {
    match Algorithm::select(problem) {
        Algorithm::Dots => PackedFilters::as_they_are(w),
        Algorithm::Winograd => winograd::pack_filters(problem, w),
        Algorithm::Direct => PackedFilters::of_phases(problem, w),
    }
}

/// y = the windows of x by the operator's filters w[Cout,R,S,Cin], through the epilogue. For direct sums of few pixels the filters, which
/// serve this call alone, are not packed.
pub(super) fn fprop_once(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    w: &[f32],
    epilogue: Option<Epilogue>,
) {
    match Algorithm::select(problem) {
        Algorithm::Dots => dots::fprop(problem, y, x, w, epilogue),
        Algorithm::Direct if few::suits(problem) => few::fprop(problem, y, x, w, epilogue),
        _ => fprop(problem, y, x, &pack(problem, w), epilogue),
    }
}

/// y = the windows of x by the filters of [`pack`], through the epilogue.
pub(super) fn fprop(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    filters: &PackedFilters,
    epilogue: Option<Epilogue>,
) {
    match Algorithm::select(problem) {
        Algorithm::Dots => dots::fprop(problem, y, x, filters.phases[0].as_slice(), epilogue),
        Algorithm::Winograd => winograd::fprop(problem, y, x, filters, epilogue),
        Algorithm::Direct => direct::fprop(problem, y, x, filters, epilogue),
    }
}
