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
    /// Filters are read where they lie: for few pixels of one call.
    Few,
    /// Fewer products, by minimal filtering.
    Winograd,
    /// Register tiles over windows that are read in place.
    Direct,
}

/// How often a pass reads its filters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filters {
    /// They are packed ahead, for any number of calls.
    Packed,
    /// They serve one call.
    Once,
}

impl Algorithm {
    fn select(problem: &ConvProblem, filters: Filters) -> Algorithm {
        if dots::suits(problem) {
            Algorithm::Dots
        } else if winograd::suits(problem) {
            Algorithm::Winograd
        } else if filters == Filters::Once && few::suits(problem) {
            Algorithm::Few
        } else {
            Algorithm::Direct
        }
    }
}

/// The operator's filters w[Cout,R,S,Cin] as a pass reads them.
pub(super) fn pack(problem: &ConvProblem, w: &[f32]) -> PackedFilters {
    match Algorithm::select(problem, Filters::Packed) {
        Algorithm::Dots | Algorithm::Few => PackedFilters::as_they_are(w),
        Algorithm::Winograd => winograd::pack_filters(problem, w),
        Algorithm::Direct => PackedFilters::of_phases(problem, w),
    }
}

/// y = the windows of x by the operator's filters w[Cout,R,S,Cin], through the epilogue.
pub(super) fn fprop_once(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    w: &[f32],
    epilogue: Option<Epilogue>,
) {
    match Algorithm::select(problem, Filters::Once) {
        Algorithm::Dots => dots::fprop(problem, y, x, w, epilogue),
        Algorithm::Few => few::fprop(problem, y, x, w, epilogue),
        Algorithm::Winograd | Algorithm::Direct => fprop(problem, y, x, &pack(problem, w), epilogue),
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
    match Algorithm::select(problem, Filters::Packed) {
        Algorithm::Dots | Algorithm::Few => {
            dots::fprop(problem, y, x, filters.phases[0].as_slice(), epilogue);
        }
        Algorithm::Winograd => winograd::fprop(problem, y, x, filters, epilogue),
        Algorithm::Direct => direct::fprop(problem, y, x, filters, epilogue),
    }
}
