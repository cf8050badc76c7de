//! Convolutions on the CPU: which way a pass is computed.

use super::filters::PackedFilters;
use super::problem::ConvProblem;
use super::{direct, dots, few, winograd};
use crate::engine::device::cpu::tile::Epilogue;

/// The operator's filters w[Cout,R,S,Cin] as a pass reads them.
pub(super) fn pack(problem: &ConvProblem, w: &[f32]) -> PackedFilters {
    if dots::suits(problem) {
        PackedFilters::as_they_are(w)
    } else if winograd::suits(problem) {
        winograd::pack_filters(problem, w)
    } else {
        PackedFilters::of_phases(problem, w)
    }
}

/// y = the windows of x by the operator's filters w[Cout,R,S,Cin], through the epilogue.
pub(super) fn fprop_once(problem: &ConvProblem, y: &mut [f32], x: &[f32], w: &[f32], epilogue: Option<Epilogue>) {
    if dots::suits(problem) {
        dots::fprop(problem, y, x, w, epilogue);
    } else if few::suits(problem) {
        few::fprop(problem, y, x, w, epilogue);
    } else {
        fprop(problem, y, x, &pack(problem, w), epilogue);
    }
}

/// y = the windows of x by the filters, through the epilogue.
pub(super) fn fprop(
    problem: &ConvProblem,
    y: &mut [f32],
    x: &[f32],
    filters: &PackedFilters,
    epilogue: Option<Epilogue>,
) {
    if dots::suits(problem) {
        dots::fprop(problem, y, x, filters.phases[0].as_slice(), epilogue);
    } else if winograd::suits(problem) {
        winograd::fprop(problem, y, x, filters, epilogue);
    } else {
        direct::fprop(problem, y, x, filters, epilogue);
    }
}
