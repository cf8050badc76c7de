//! Batch normalization on CUDA: the launches of kernels/norm.cu.

use super::{Activation, BatchNormSaved};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::DType;

/// Tiles that one launch can merge at once in good time; of more, groups are merged first.
const TILES: usize = 1024;

/// The moments of x [rows,C], then [`statistics`].
pub(super) fn moments_and_statistics(
    g: &Gpu,
    outs: [Out; 5],
    x: In,
    [rows, c]: [usize; 2],
    dtype: DType,
    affine: [In; 2],
    eps: f32,
) {
    let tiling = RowTiling::new(rows, c, pack(dtype, c), c);
    let mut moments = g.scratch(tiling.tiles * 3 * c);
    k::batch_norm_moments_fwd(g, tiling.sum_grid(), moments.out(), x, tiling.dims(Activation::None));
    statistics(g, outs, moments.view(), tiling.tiles, affine, eps);
}

/// From moments [tiles,3,C], γ and β to mean, variance, inv_std, scale and shift [C].
pub(super) fn statistics(
    g: &Gpu,
    [mean, variance, inv_std, scale, shift]: [Out; 5],
    moments: In,
    tiles: usize,
    [gamma, beta]: [In; 2],
    eps: f32,
) {
    let c = gamma.len();
    let dims = |tiles: usize| k::TileDims { tiles: tiles as i32, c: c as i32, eps };
    let last = |moments: In, tiles: usize| {
        let grid = Grid::new([c.div_ceil(8), 1, 1], 256);
        let d = dims(tiles);
        k::batch_norm_stats_fwd(g, grid, mean, variance, inv_std, scale, shift, moments, gamma, beta, d);
    };
    if tiles <= TILES {
        return last(moments, tiles);
    }
    let groups = TILES / 8;
    let mut fewer = g.scratch(groups * 3 * c);
    k::batch_norm_merge_fwd(g, Grid::new([c.div_ceil(8), groups, 1], 256), fewer.out(), moments, dims(tiles));
    last(fewer.view(), groups);
}

/// Channels that a thread takes at once: a pack of 16 bytes, or one where they do not divide into packs.
fn pack(dtype: DType, channels: usize) -> usize {
    let pack = 16 / dtype.bytes();
    if channels.is_multiple_of(pack) { pack } else { 1 }
}

/// How blocks of 256 threads tile rows and channels.
pub(super) struct RowTiling {
    rows: usize,
    c: usize,
    /// Channels that a thread takes at once.
    width: usize,
    /// Threads side by side in a block.
    columns: usize,
    /// Blocks side by side.
    across: usize,
    /// Rows that a block has at a time.
    lanes: usize,
    /// Rows that a block sums; the same on every device.
    depth: usize,
    /// Blocks that sum, one above the other.
    tiles: usize,
}

impl RowTiling {
    /// Over all channels, or over the pairs of channels that a gate joins.
    #[track_caller]
    pub(super) fn of(act: Activation, [rows, c]: [usize; 2], dtype: DType) -> RowTiling {
        let channels = if act == Activation::Glu { c / 2 } else { c };
        RowTiling::new(rows, c, pack(dtype, channels), channels)
    }

    /// For the backward kernels: behind a gate a thread takes four channels, for want of registers.
    #[track_caller]
    pub(super) fn of_backward(act: Activation, size: [usize; 2], dtype: DType) -> RowTiling {
        RowTiling::of(act, size, if act == Activation::Glu { DType::F32 } else { dtype })
    }

    /// Over `channels` of the c: all, or the first half of them.
    #[track_caller]
    fn new(rows: usize, c: usize, width: usize, channels: usize) -> RowTiling {
        const THREADS_ACROSS: usize = 32;
        const BLOCKS: usize = 528;
        assert!(rows * c < 1 << 31, "batch_norm: {rows} rows of {c} channels are more elements than a kernel counts");
        let packs = channels / width;
        let across = packs.div_ceil(THREADS_ACROSS);
        let columns = packs.div_ceil(across.max(1)).max(1);
        let lanes = 256 / columns;
        let blocks = (BLOCKS / across.max(1)).clamp(1, rows.div_ceil(8 * lanes).max(1));
        let depth = rows.div_ceil(blocks).next_multiple_of(lanes).max(1);
        RowTiling { rows, c, width, columns, across, lanes, depth, tiles: rows.div_ceil(depth) }
    }

    /// A block for each sum.
    fn sum_grid(&self) -> Grid {
        Grid::new([self.tiles, self.across, 1], 256)
    }

    /// Some rows for each thread, and enough blocks to fill the device.
    pub(super) fn grid(&self, g: &Gpu) -> Grid {
        let blocks = (8 * g.multiprocessors()).div_ceil(self.across.max(1));
        Grid::new([self.rows.div_ceil(4 * self.lanes).min(blocks), self.across, 1], 256)
    }

    pub(super) fn dims(&self, act: Activation) -> k::NormDims {
        let (slope, ceiling) = (act.slope().unwrap_or(1.0), act.ceiling());
        let [rows, c, columns, width, depth] =
            [self.rows, self.c, self.columns, self.width, self.depth].map(|n| n as i32);
        k::NormDims { rows, c, columns, width, depth, slope, ceiling }
    }
}

/// dγ and dβ [C].
#[allow(clippy::too_many_arguments)] // what the formula is made of
pub(super) fn sums(
    g: &Gpu,
    [dgamma, dbeta]: [Out; 2],
    dy: In,
    residual: Option<In>,
    saved: &BatchNormSaved<In>,
    act: Activation,
    size: [usize; 2],
    dtype: DType,
) {
    let &BatchNormSaved { x, mean, inv_std, scale, shift } = saved;
    let (tiling, c) = (RowTiling::of_backward(act, size, dtype), size[1]);
    let mut sums = g.scratch(tiling.tiles * 2 * c);
    let (grid, d) = (tiling.sum_grid(), tiling.dims(act));
    if act == Activation::Glu {
        k::batch_norm_glu_bwd_w(g, grid, sums.out(), dy, x, mean, scale, shift, d);
    } else {
        k::batch_norm_bwd_w(g, grid, sums.out(), dy, x, residual, mean, scale, shift, d);
    }
    let (grid, d) = (
        Grid::new([c.div_ceil(8), 1, 1], 256),
        k::TileDims { tiles: tiling.tiles as i32, c: c as i32, eps: 0.0 },
    );
    k::batch_norm_sum_tiles_bwd_w(g, grid, dgamma, dbeta, sums.view(), inv_std, d);
}

/// The gradients of x and of the residual; `sums` are dγ and dβ where the moments depend on x.
#[allow(clippy::too_many_arguments)] // what the formula is made of
pub(super) fn input_gradients(
    g: &Gpu,
    [dx, dr]: [Option<Out>; 2],
    dy: In,
    residual: Option<In>,
    saved: &BatchNormSaved<In>,
    sums: Option<[In; 2]>,
    act: Activation,
    tiling: &RowTiling,
) {
    let &BatchNormSaved { x, mean, inv_std, scale, shift } = saved;
    let (dgamma, dbeta) = sums.map(|[dgamma, dbeta]| (dgamma, dbeta)).unzip();
    let (grid, d) = (tiling.grid(g), tiling.dims(act));
    if act == Activation::Glu {
        let dx = dx.expect("a gate has no residual, so only dx is asked for");
        k::batch_norm_glu_bwd(g, grid, dx, dy, x, mean, inv_std, scale, shift, dgamma, dbeta, d);
    } else {
        k::batch_norm_bwd(
            g, grid, dx, dr, dy, x, residual, mean, inv_std, scale, shift, dgamma, dbeta, d,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "batch_norm: 2097152 rows of 1024 channels are more elements than a kernel counts")]
    fn more_elements_than_a_kernel_counts_are_refused() {
        RowTiling::of(Activation::Relu, [1 << 21, 1024], DType::F32);
    }
}
