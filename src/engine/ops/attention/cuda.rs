//! Attention on CUDA: the launches of kernels/attention.cu.

use super::{ChannelAttention, CrossAttention};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};

pub(super) fn cross_attention_bwd(
    d: &CrossAttention,
    g: &Gpu,
    [dx, de]: [Option<Out>; 2],
    [x, e, weights, dy]: [In; 4],
) {
    let (launch, mut dscores) = (d.launch(), g.scratch(weights.len()));
    let (grid, dims) = launch.grid(g, 0);
    k::cross_attention_bwd(g, grid, dx, dscores.out(), dy, e, weights, d.on_device.on(g), dims);
    if let Some(de) = de {
        launch.sum_over_pixels(g, de, 20, |grid, partial, sums| {
            k::cross_attention_bwd_e(g, grid, partial, dscores.view(), x, weights, dy, sums);
        });
    }
}

pub(super) fn channel_attention_bwd(
    d: &ChannelAttention,
    g: &Gpu,
    [dx, ds, dw]: [Option<Out>; 3],
    [x, s, w, dy]: [In; 4],
) {
    let (c, launch, mut dlogits) = (d.channels, d.launch(), g.scratch(x.len()));
    let blocks = launch.blocks();
    let mut direct_parts = g.scratch(d.images * blocks * c);
    let (grid, dims) = launch.grid(g, c);
    k::channel_attention_bwd(g, grid, dx, dlogits.out(), direct_parts.out(), x, s, w, dy, dims);
    if ds.is_none() && dw.is_none() {
        return;
    }
    let (mut direct, mut m) = (g.scratch(d.images * c), g.scratch(d.images * c * c));
    sum_blocks(g, direct.out(), direct_parts.view(), [d.images, blocks, c]);
    launch.sum_over_pixels(g, m.out(), 32, |grid, partial, sums| {
        k::channel_attention_bwd_m(g, grid, partial, dlogits.view(), x, sums);
    });
    let (grid, [b, c]) = (Grid::elements((c + d.images) * c), [d.images as i32, c as i32]);
    k::channel_attention_bwd_w(g, grid, ds, dw, m.view(), direct.view(), s, w, b, c);
}

/// The sizes that the kernels of both attentions are launched over.
pub(super) struct AttentionLaunch {
    pub(super) images: usize,
    pub(super) pixels: usize,
    pub(super) channels: usize,
    pub(super) keys: usize,
}

impl AttentionLaunch {
    /// As in kernels/attention.cu: channels of a pixel that a thread holds, and pixels it works at.
    const CHANNELS: usize = 16;
    const PIXELS: usize = 2;

    /// Threads that share a pixel.
    fn lanes(&self) -> usize {
        self.channels.div_ceil(Self::CHANNELS).next_power_of_two().min(32)
    }

    /// Threads of a block: fewer where a column of weights is long, so that all columns fit in shared memory.
    fn threads(&self) -> usize {
        const SHARED_BYTES: usize = 32 << 10;
        let bytes = |threads: usize| 4 * self.keys * (threads / self.lanes() * Self::PIXELS + 1);
        [128, 64].into_iter().find(|&threads| bytes(threads) <= SHARED_BYTES).unwrap_or(32)
    }

    fn tile(&self) -> usize {
        self.threads() / self.lanes() * Self::PIXELS
    }

    /// Blocks of an image: enough to fill a device, few enough that each loads its keys for many pixels.
    fn blocks(&self) -> usize {
        const ALL: usize = 2048;
        self.pixels.div_ceil(self.tile()).min(ALL.div_ceil(self.images))
    }

    /// The grid of a kernel that keeps `sums` more numbers in shared memory for each slice of its threads.
    pub(super) fn grid(&self, g: &Gpu, sums: usize) -> (Grid, k::AttentionDims) {
        let (lanes, threads) = (self.lanes(), self.threads());
        let rounds = self.channels.div_ceil(lanes * Self::CHANNELS);
        let width = rounds * lanes * Self::CHANNELS;
        let room: usize = if g.arch() >= 80 { 64 << 10 } else { 24 << 10 };
        let together = (room / (4 * width)).clamp(1, self.keys);
        let slices = threads.checked_div(sums).map_or(0, |s| s.max(1));
        let numbers = together * width + self.keys * (self.tile() + 1) + slices * sums;
        let [pixels, channels, keys, lanes, rounds, together] =
            [self.pixels, self.channels, self.keys, lanes, rounds, together].map(|n| n as i32);
        let dims = k::AttentionDims { pixels, channels, keys, lanes, rounds, together };
        (Grid::new([self.blocks(), self.images, 1], threads).shared(4 * numbers), dims)
    }

    /// sum [B,T,C] of products over all pixels. `launch(grid, partial, dims)` sums over each block of pixels; a block of
    /// threads takes `together` keys and 32 channels.
    fn sum_over_pixels(
        &self,
        g: &Gpu,
        sum: Out,
        together: usize,
        launch: impl FnOnce(Grid, Out, k::PixelSums),
    ) {
        const BLOCKS: usize = 512;
        let block = (self.images * self.pixels / BLOCKS).next_power_of_two().clamp(128, 4096);
        let (blocks, n) = (self.pixels.div_ceil(block), self.keys * self.channels);
        let mut partial = g.scratch(self.images * blocks * n);
        let panels = self.keys.div_ceil(together) * self.channels.div_ceil(32);
        let [pixels, block, keys, channels] =
            [self.pixels, block, self.keys, self.channels].map(|n| n as i32);
        let dims = k::PixelSums { pixels, block, keys, channels };
        launch(Grid::new([blocks, panels, self.images], 128), partial.out(), dims);
        sum_blocks(g, sum, partial.view(), [self.images, blocks, n]);
    }
}

/// sum [B,N] of partial [B,blocks,N] over the blocks, in their order.
fn sum_blocks(g: &Gpu, sum: Out, partial: In, [images, blocks, n]: [usize; 3]) {
    let grid = Grid::elements(images * n);
    k::attention_sum(g, grid, sum, partial, images as i32, blocks as i32, n as i32);
}
