//! Convolutions on CUDA: implicit GEMMs, see kernels/conv.cu.

use super::problem::ConvProblem;
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::ops::gemm::{self, GemmProblem};
use crate::engine::tensor::{DType, Device, Tensor};

/// How a convolution is computed.
#[derive(Clone, Copy, Debug)]
enum Algorithm {
    /// The tiled product of kernels/gemm.cuh, whose operands read windows in place.
    ImplicitGemm(gemm::Algorithm),
}

impl Algorithm {
    fn select(problem: &ConvProblem, g: &Gpu, dtype: DType) -> Algorithm {
        Algorithm::ImplicitGemm(gemm::select(g, problem.fprop_gemm(dtype), k::CONV_FPROP))
    }

    fn select_wgrad(problem: &ConvProblem, g: &Gpu, dtype: DType) -> Algorithm {
        Algorithm::ImplicitGemm(gemm::select(g, problem.wgrad_gemm(dtype), k::CONV_WGRAD))
    }
}

/// y = bias + the windows of x by the filters.
pub(super) fn fprop(problem: &ConvProblem, g: &Gpu, y: Out, moments: Option<Out>, x: In, w: In, bias: Option<In>) {
    convolve(problem, g, y, [x, w], bias, |(algorithm, gemm), y, workspace, [x, w], bias, dims| {
        let launch = algorithm.launcher(g, gemm, k::CONV_FPROP);
        launch(g, algorithm.grid(gemm), y, workspace, moments, x, w, bias, dims);
    });
}

/// dx, the windows of dy by the transposed filters: as [`fprop`], under names that a profiler tells apart.
pub(super) fn dgrad(problem: &ConvProblem, g: &Gpu, dx: Out, dy: In, w: In) {
    convolve(problem, g, dx, [dy, w], None, |(algorithm, gemm), dx, workspace, [dy, w], _, dims| {
        let launch = algorithm.launcher(g, gemm, k::CONV_DGRAD);
        launch(g, algorithm.grid(gemm), dx, workspace, dy, w, dims);
    });
}

/// Packs the filters, launches the product into y or, where the sum over K is split, into a workspace that is then
/// reduced.
fn convolve(
    problem: &ConvProblem,
    g: &Gpu,
    y: Out,
    [x, w]: [In; 2],
    bias: Option<In>,
    launch: impl FnOnce((gemm::Algorithm, GemmProblem), Option<Out>, Option<Out>, [In; 2], Option<In>, k::ConvDims),
) {
    let (dtype, n) = (x.dtype(), y.len());
    assert_countable(n.max(x.len()));
    if n == 0 {
        return;
    }
    let pack = 16 / dtype.bytes();
    let in_order = !problem.flipped() && !problem.transposed && dtype == DType::F32;
    let packed = !(in_order && problem.depth().is_multiple_of(pack));
    let row = problem.depth().next_multiple_of(pack);
    let gemm = problem.fprop_gemm(dtype);
    let mut filters = g.scratch_of(dtype, if packed { gemm.count * problem.cout * row } else { 0 });
    if packed {
        pack_filters(problem, g, filters.out(), w, row);
    }
    let w = if packed { filters.view() } else { w };
    let Algorithm::ImplicitGemm(algorithm) = Algorithm::select(problem, g, dtype);
    let splits = algorithm.splits;
    let dims = dims(problem, row, splits);
    if splits == 1 {
        return launch((algorithm, gemm), Some(y), None, [x, w], bias, dims);
    }
    let mut workspace = g.scratch(splits * n);
    launch((algorithm, gemm), None, Some(workspace.out()), [x, w], bias, dims);
    let (n, cout, splits) = (n as i32, problem.cout as i32, splits as i32);
    k::conv_reduce_splits_fprop(g, Grid::elements(y.len()), y, workspace.view(), bias, n, cout, splits);
}

/// Memory for the moments of y's tiles; none on the CPU, and none where the sum over K is split.
pub(super) fn moments(problem: &ConvProblem, y: &Tensor) -> Option<Tensor> {
    let Device::Cuda(g) = y.device() else { return None };
    let Algorithm::ImplicitGemm(algorithm) = Algorithm::select(problem, &g, y.dtype());
    let gemm = problem.fprop_gemm(y.dtype());
    let tiles = gemm.count * gemm.m.div_ceil(algorithm.tile.rows);
    (algorithm.splits == 1).then(|| y.new_empty_f32([tiles, 3, problem.cout]))
}

/// dw from dy and the windows of x; the gradients of the phases' filters are folded into 3×3 taps.
pub(super) fn wgrad(problem: &ConvProblem, g: &Gpu, dw: Out, dy: In, x: In) {
    assert_countable(dy.len().max(x.len()));
    let dtype = x.dtype();
    let gemm = problem.wgrad_gemm(dtype);
    let Algorithm::ImplicitGemm(algorithm) = Algorithm::select_wgrad(problem, g, dtype);
    let splits = algorithm.splits;
    let parts = splits * gemm.count;
    let mut workspace = g.scratch(if parts == 1 { 0 } else { parts * gemm.m * gemm.n });
    let to = if parts == 1 { dw } else { workspace.out() };
    let dims = dims(problem, 0, splits);
    algorithm.launcher(g, gemm, k::CONV_WGRAD)(g, algorithm.grid(gemm), to, dy, x, dims);
    let grid = Grid::elements(dw.len());
    if gemm.count > 1 {
        k::conv_fold_phases(g, grid, dw, workspace.view(), dims.cout, dims.cin, dims.splits);
    } else if splits > 1 {
        k::conv_reduce_splits_wgrad(g, grid, dw, workspace.view(), dw.len() as i32, dims.splits);
    }
}

fn assert_countable(n: usize) {
    assert!(n < 1 << 31, "{n} elements are more than a kernel counts");
}

/// The filters in the order of each phase's windows, rows of `row` elements.
fn pack_filters(problem: &ConvProblem, g: &Gpu, to: Out, w: In, row: usize) {
    let [outputs, inputs] = problem.filter_channels();
    let dims = dims(problem, row, 1);
    let filter = k::FilterDims {
        outputs: outputs as i32,
        inputs: inputs as i32,
        window: dims.window,
        pad: dims.pad,
        step: dims.step,
        row: row as i32,
        phase: dims.filter_phase,
        transposed: problem.transposed as i32,
        flipped: problem.flipped() as i32,
        spread: problem.spread as i32,
    };
    // One tap more fills the rows up.
    let taps = problem.taps() + usize::from(row > problem.depth());
    let blocks = [outputs.div_ceil(32) * inputs.div_ceil(32), taps, problem.step[0] * problem.step[1]];
    k::conv_pack_filters(g, Grid::new(blocks, 256), to, w, filter);
}

fn dims(problem: &ConvProblem, filter_row: usize, splits: usize) -> k::ConvDims {
    let int = |x: [usize; 2]| x.map(|n| n as i32);
    let [height, width] = problem.phase_output();
    k::ConvDims {
        batch: problem.batch as i32,
        cin: problem.cin as i32,
        cout: problem.cout as i32,
        input: int(problem.input),
        output: int(problem.output),
        window: int(problem.window),
        pad: problem.pad.map(|p| p as i32),
        step: int(problem.step),
        stride: int(problem.stride),
        filter_row: filter_row as i32,
        filter_phase: (problem.cout * filter_row) as i32,
        splits: splits as i32,
        height: divisor(height),
        width: divisor(width),
    }
}

/// n, and factor and shift that divide by it (gemm.cuh, `quotient`).
fn divisor(n: usize) -> [u32; 3] {
    if n <= 1 {
        return [1, 0, 0];
    }
    let power = 31 + n.next_power_of_two().trailing_zeros();
    [n as u32, (1u64 << power).div_ceil(n as u64) as u32, power - 32]
}
