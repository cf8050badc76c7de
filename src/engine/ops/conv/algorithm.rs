//! How a convolution is computed: the algorithms of each device and their choice.

use super::problem::ConvProblem;
use crate::engine::device::cpu::threads;
use crate::engine::device::cpu::tile::Microkernel;
use crate::engine::device::cuda::{Gpu, k};
use crate::engine::ops::gemm;
use crate::engine::tensor::DType;

/// On the CPU: register tiles over windows that are read in place.
#[derive(Clone, Copy, Debug)]
pub(super) enum CpuAlgorithm {
    /// Threads share the output rows; each reads all filters.
    DirectByRows,
    /// Threads share the output channels, so that each filter is read once: for few pixels and many channels.
    DirectByChannels,
}

/// Output pixels that share one pass over the filters.
pub(super) const fn block_pixels<M: Microkernel>() -> usize {
    16 * M::ROWS
}

impl CpuAlgorithm {
    pub fn select<M: Microkernel>(problem: &ConvProblem, column_tiles: usize) -> CpuAlgorithm {
        let pixels: usize = problem.phases().map(|p| p.pixels()).sum();
        if pixels >= 2 * block_pixels::<M>() * threads() || column_tiles == 1 {
            CpuAlgorithm::DirectByRows
        } else {
            CpuAlgorithm::DirectByChannels
        }
    }
}

/// The gradient of the filters on the CPU.
#[derive(Clone, Copy, Debug)]
pub(super) enum CpuWgradAlgorithm {
    /// Threads share the pixels and make so many partial sums, which are added in order: for small filters.
    PartialSums(usize),
    /// Threads share the filters' outputs; each reads all pixels.
    ByChannels,
}

impl CpuWgradAlgorithm {
    /// `block` is the number of pixels that are summed at a time.
    pub fn select(problem: &ConvProblem, filter_elements: usize, block: usize) -> CpuWgradAlgorithm {
        // A fixed number: sums must not depend on the number of threads.
        const PARTS: usize = 8;
        if filter_elements <= 1 << 18 && problem.pixels() >= PARTS * block {
            CpuWgradAlgorithm::PartialSums(PARTS)
        } else {
            CpuWgradAlgorithm::ByChannels
        }
    }
}

/// On CUDA.
#[derive(Clone, Copy, Debug)]
pub(super) enum CudaAlgorithm {
    /// The tiled product of kernels/gemm.cuh, whose operands read windows in place.
    ImplicitGemm(gemm::Algorithm),
}

impl CudaAlgorithm {
    pub fn select(problem: &ConvProblem, g: &Gpu, dtype: DType) -> CudaAlgorithm {
        CudaAlgorithm::ImplicitGemm(gemm::select(g, problem.fprop_gemm(dtype), k::CONV_FPROP))
    }

    pub fn select_wgrad(problem: &ConvProblem, g: &Gpu, dtype: DType) -> CudaAlgorithm {
        CudaAlgorithm::ImplicitGemm(gemm::select(g, problem.wgrad_gemm(dtype), k::CONV_WGRAD))
    }
}
