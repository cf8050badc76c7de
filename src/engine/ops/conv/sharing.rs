//! How threads share a convolution's direct sums on the CPU.

use super::problem::ConvProblem;
use crate::engine::device::cpu::threads;
use crate::engine::device::cpu::tile::Microkernel;

/// Of a pass in register tiles over windows that are read in place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sharing {
    /// Threads share the output rows in so many bands; each reads all filters.
    Rows { bands: usize },
    /// As `Rows`, with the phases as one whose channels are those of a block of pixels: for a few channels, of which
    /// the phases together fill a vector that each would fill in part.
    Blocks { bands: usize },
    /// Threads share the output channels, so that each filter is read once: for few pixels and many channels.
    Channels,
}

/// Output pixels that share one pass over the filters.
pub(super) const fn block_pixels<M: Microkernel>() -> usize {
    16 * M::ROWS
}

impl Sharing {
    /// Every output is summed in one order, so the choice changes no bit.
    pub fn select<M: Microkernel>(problem: &ConvProblem, column_tiles: usize) -> Sharing {
        /// Tiles of pixels for which reading the filters pays.
        const FEW: usize = 6;
        let pixels = problem.batch * problem.output[0] * problem.output[1];
        let fair = pixels / (FEW * M::ROWS);
        if fair < threads() && column_tiles > 1 {
            return Sharing::Channels;
        }
        let bands = pixels.div_ceil(2 * block_pixels::<M>()).max(fair.min(2 * threads())).max(1);
        let bands = bands.next_multiple_of(threads());
        if Sharing::joins_phases::<M>(problem) {
            Sharing::Blocks { bands }
        } else {
            Sharing::Rows { bands }
        }
    }

    /// Whether [`Blocks`](Sharing::Blocks) is chosen: a matter of the filters alone, which are packed
    /// for it.
    pub fn joins_phases<M: Microkernel>(problem: &ConvProblem) -> bool {
        let phases = problem.step[0] * problem.step[1];
        problem.transposed && problem.stride == [1, 1] && phases > 1 && phases * problem.cout <= M::LANES
    }
}

/// Partial sums that pixels are shared in: a fixed number, so that sums do not depend on the number of threads.
pub(super) const PARTS: usize = 8;

/// Of the gradient of the filters, where it is summed directly.
#[derive(Clone, Copy, Debug)]
pub(super) enum WgradSharing {
    /// Threads share the pixels and make so many partial sums, which are added in order: for small filters.
    PartialSums(usize),
    /// Threads share the filters' outputs; each reads all pixels.
    ByChannels,
}

impl WgradSharing {
    /// `block` is the number of pixels that are summed at a time.
    pub fn select(problem: &ConvProblem, filter_elements: usize, block: usize) -> WgradSharing {
        if filter_elements <= 1 << 18 && problem.pixels() >= PARTS * block {
            WgradSharing::PartialSums(PARTS)
        } else {
            WgradSharing::ByChannels
        }
    }
}
