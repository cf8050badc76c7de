//! Filters packed for the CPU's tiles.

use std::borrow::Cow;

use super::sharing::Sharing;
use super::problem::{ConvProblem, Phase, SPREAD};
use crate::engine::device::cpu::tile::{Microkernel, with_microkernel};
use crate::engine::device::cpu::{Buffer, for_chunks};

/// The filters of each phase of a pass, or of all phases together, as [column tile][depth][tile width]; the last tile may be narrower, and its columns
/// beyond the last are zeros. The direct sum has filters of each phase, which do not depend on the
/// size of the images; Winograd's has filters of each phase's points.
pub(super) struct PackedFilters {
    pub phases: Vec<Buffer>,
}

impl PackedFilters {
    /// w, for passes that read it where it lies.
    pub fn as_they_are(w: &[f32]) -> PackedFilters {
        PackedFilters { phases: vec![Buffer::from_vec(w.to_vec())] }
    }

    /// From the operator's filters w[Cout,R,S,Cin].
    pub fn of_phases(problem: &ConvProblem, w: &[f32]) -> PackedFilters {
        let w = operator_filters(problem, w);
        with_microkernel!(kernel => PackedFilters { phases: pack_phases(kernel, problem, &w) })
    }
}

/// The filters that a problem's window is counted in.
pub(super) fn operator_filters<'w>(problem: &ConvProblem, w: &'w [f32]) -> Cow<'w, [f32]> {
    match problem.spread {
        true => Cow::Owned(spread_filters(w, problem.filter_channels()[1])),
        false => Cow::Borrowed(w),
    }
}

/// The 4×4 filters [Cout,4,4,Cin] that are sums of 3×3 taps.
fn spread_filters(w: &[f32], inputs: usize) -> Vec<f32> {
    let mut spread = vec![0.0; w.len() / 9 * 16];
    for_chunks(&mut spread, 16 * inputs, |n, spread| {
        let w = &w[n * 9 * inputs..][..9 * inputs];
        for (tap, spread) in spread.chunks_mut(inputs).enumerate() {
            for &r in SPREAD[tap / 4] {
                for &s in SPREAD[tap % 4] {
                    spread.iter_mut().zip(&w[(r * 3 + s) * inputs..]).for_each(|(f, w)| *f += w);
                }
            }
        }
    });
    spread
}

/// Tiles for so many columns.
pub(super) fn column_tiles<M: Microkernel>(columns: usize) -> usize {
    columns.div_ceil(M::WIDTH)
}

/// Vectors of column tile `tile` of a matrix of `columns` columns.
pub(super) fn vectors_of<M: Microkernel>(tile: usize, columns: usize) -> usize {
    (columns - tile * M::WIDTH).div_ceil(M::LANES).min(M::VECTORS)
}

/// Elements of a packed matrix.
pub(super) fn packed_len<M: Microkernel>(depth: usize, columns: usize) -> usize {
    depth * columns.next_multiple_of(M::LANES)
}

fn pack_phases<M: Microkernel>(kernel: M, problem: &ConvProblem, w: &[f32]) -> Vec<Buffer> {
    if Sharing::joins_phases::<M>(problem) {
        return vec![pack_joined(kernel, problem, w)];
    }
    problem.phases().map(|phase| pack_phase(kernel, &phase, w)).collect()
}

/// The filters w[Cout,R,S,Cin] of all phases of a transposed pass: columns are a block's pixels and their channels.
fn pack_joined<M: Microkernel>(_: M, problem: &ConvProblem, w: &[f32]) -> Buffer {
    let ([outputs, inputs], [r_all, s_all]) = (problem.filter_channels(), problem.window);
    let joined = problem.joined();
    let (depth, columns) = (joined.depth(), problem.step[0] * problem.step[1] * inputs);
    let mut filters = vec![0.0; columns * depth];
    for phase in problem.phases() {
        let [above, left] = [0, 1].map(|d| (phase.origin[d] - joined.origin[d]) as usize);
        let first = (phase.index[0] * problem.step[1] + phase.index[1]) * inputs;
        for (i, r) in phase.taps(0).into_iter().enumerate() {
            for (j, s) in phase.taps(1).into_iter().enumerate() {
                let at = ((above + i) * joined.window[1] + left + j) * outputs;
                for (n, c) in (0..outputs).flat_map(|n| (0..inputs).map(move |c| (n, c))) {
                    filters[(first + c) * depth + at + n] = w[((n * r_all + r) * s_all + s) * inputs + c];
                }
            }
        }
    }
    pack::<M>(depth, columns, &filters)
}

/// The filters w[Cout,R,S,Cin] of one phase.
fn pack_phase<M: Microkernel>(_: M, phase: &Phase, w: &[f32]) -> Buffer {
    let problem = &phase.problem;
    let ([outputs, inputs], [r, s]) = (problem.filter_channels(), problem.window);
    let [rows, columns] = [phase.taps(0), phase.taps(1)];
    if problem.transposed {
        return pack_transposed::<M>(w, [outputs, r, s, inputs], &rows, &columns);
    }
    if !problem.flipped() {
        return pack::<M>(phase.depth(), outputs, w);
    }
    let mut selected = Vec::with_capacity(outputs * phase.depth());
    for w in w.chunks(r * s * inputs) {
        for (r, s) in rows.iter().flat_map(|r| columns.iter().map(move |s| (r, s))) {
            selected.extend_from_slice(&w[(r * problem.window[1] + s) * inputs..][..inputs]);
        }
    }
    pack::<M>(phase.depth(), outputs, &selected)
}

/// Packs the row-major filters [Cout, depth].
fn pack<M: Microkernel>(depth: usize, cout: usize, w: &[f32]) -> Buffer {
    let mut data = Buffer::uninit(packed_len::<M>(depth, cout));
    for_chunks(data.as_mut_slice(), depth * M::WIDTH, |t, tile| {
        let columns = (cout - t * M::WIDTH).min(M::WIDTH);
        let width = tile.len() / depth;
        if columns < width {
            tile.fill(0.0);
        }
        const BLOCK: usize = 16;
        for from in (0..depth).step_by(BLOCK) {
            let block = &mut tile[from * width..(from + BLOCK).min(depth) * width];
            for j in 0..columns {
                let row = &w[(t * M::WIDTH + j) * depth + from..];
                block.chunks_exact_mut(width).zip(row).for_each(|(k, &w)| k[j] = w);
            }
        }
    });
    data
}

/// Packs the filters w[Cout,R,S,Cin] for windows of the given taps over Cout channels that give Cin columns.
fn pack_transposed<M: Microkernel>(
    w: &[f32],
    [cout, r, s, cin]: [usize; 4],
    taps_h: &[usize],
    taps_w: &[usize],
) -> Buffer {
    let depth = taps_h.len() * taps_w.len() * cout;
    let taps: Vec<usize> = taps_h.iter().flat_map(|&th| taps_w.iter().map(move |&tw| th * s + tw)).collect();
    let mut data = Buffer::uninit(packed_len::<M>(depth, cin));
    // Blocks of both sides are consecutive for a few lines at least: the filters may be far larger than a cache.
    const TILES: usize = 8;
    const ROWS: usize = 16;
    for_chunks(data.as_mut_slice(), TILES * depth * M::WIDTH, |g, tiles| {
        for (i, tap) in taps.iter().enumerate() {
            for n in (0..cout).step_by(ROWS) {
                for (t, tile) in tiles.chunks_mut(depth * M::WIDTH).enumerate() {
                    let (first, width) = ((g * TILES + t) * M::WIDTH, tile.len() / depth);
                    let columns = (cin - first).min(width);
                    let rows = &mut tile[(i * cout + n) * width..(i * cout + (n + ROWS).min(cout)) * width];
                    for (n, k) in (n..).zip(rows.chunks_exact_mut(width)) {
                        let from = (n * r * s + tap) * cin + first;
                        k[..columns].copy_from_slice(&w[from..from + columns]);
                        k[columns..].fill(0.0);
                    }
                }
            }
        }
    });
    data
}
