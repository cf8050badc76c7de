//! Convolutions whose filters stay as they are: what follows from the filters alone is computed once.

use std::sync::{Arc, OnceLock};

use super::filters::PackedFilters;
use super::problem::ConvProblem;
use super::{Windows, cpu, cuda, rectified, winograd};
use crate::engine::device::cpu::for_chunks;
use crate::engine::device::cpu::tile::Epilogue;
use crate::engine::device::{Device, with};
use crate::engine::ops::norm::{Activation, ConstantNorm};
use crate::engine::ops::pointwise::glu;
use crate::engine::tensor::tape::{is_recorded, record1};
use crate::engine::tensor::{Kernel, Tensor, run, same_shape};

/// The packed filters of a pass: as they are, and for [`winograd`].
type Packed = [OnceLock<PackedFilters>; 2];

/// Filters w[Cout,R,S,Cin] · scale[Cout] and a bias[Cout] that stay as they are. On the CPU each pass keeps the filters as
/// it reads them, which doubles their memory for each; the products with scale are kept on CUDA alone.
pub struct FrozenFilters {
    w: Tensor,
    scale: Option<Vec<f32>>,
    bias: Tensor,
    windows: Windows,
    folded: OnceLock<Tensor>,
    forward: Packed,
    backward: Packed,
}

impl FrozenFilters {
    #[track_caller]
    pub fn new(w: &Tensor, bias: Option<&Tensor>, windows: impl Into<Windows>) -> FrozenFilters {
        let cout = w.dims::<4>()[0];
        let bias = bias.map_or_else(|| with(&w.device(), || Tensor::zeros([cout])), Tensor::detach);
        assert_eq!(*bias.shape(), [cout], "conv2d: bias {:?} does not fit weights {:?}", bias.shape(), w.shape());
        let (folded, forward, backward) = Default::default();
        FrozenFilters { w: w.detach(), scale: None, bias, windows: windows.into(), folded, forward, backward }
    }

    /// The filters whose outputs are those of w, normalized: w · γ/σ, and the bias β - mean · γ/σ.
    #[track_caller]
    pub fn normalized(w: &Tensor, norm: &ConstantNorm, windows: impl Into<Windows>) -> FrozenFilters {
        let (scale, shift) = norm.scale_and_shift();
        let bias = with(&w.device(), || Tensor::from_vec(shift, norm.gamma.shape()));
        FrozenFilters { scale: Some(scale), ..FrozenFilters::new(w, Some(&bias), windows) }
    }

    /// w · scale
    fn folded(&self) -> Tensor {
        let Some(scale) = &self.scale else { return self.w.clone() };
        let mut values = self.w.to_vec();
        let filter = values.len() / scale.len().max(1);
        for_chunks(&mut values, filter, |n, filter| filter.iter_mut().for_each(|w| *w *= scale[n]));
        with(&self.w.device(), || Tensor::from_vec(values, self.w.shape()))
    }

    /// The filters as a kernel of this device is given them.
    fn given(&self) -> &Tensor {
        match self.w.device() {
            Device::Cpu => &self.w,
            Device::Cuda(_) => self.folded.get_or_init(|| self.folded()),
        }
    }

    fn packed<'a>(&self, kept: &'a Packed, problem: &ConvProblem) -> &'a PackedFilters {
        kept[usize::from(winograd::suits(problem))].get_or_init(|| cpu::pack(problem, self.folded().as_slice()))
    }
}

/// y = act(conv2d(x[B,H,W,Cin]) + residual), y and residual [B,H',W',Cout]; under `Glu`, which takes no residual, y has Cout/2
/// channels.
#[track_caller]
pub fn conv2d_frozen(
    x: &Tensor,
    filters: &Arc<FrozenFilters>,
    residual: Option<&Tensor>,
    act: Activation,
) -> Tensor {
    let FrozenFilters { w, windows, .. } = &**filters;
    let problem = windows.fprop(x, w);
    if act == Activation::Glu {
        assert!(residual.is_none(), "conv2d_frozen: a gate takes no residual");
        return gated(&problem, x, filters);
    }
    let y = fprop(&problem, x, filters, residual, act);
    let (filters, saved) = (filters.clone(), rectified::saved(&y, act));
    record1(y, [Some(x), residual], move |dy, [wx, wr]| {
        let dz = rectified::before(dy, saved.as_ref(), act);
        let dx = wx.then(|| dgrad(&filters.windows.dgrad(&problem), &dz, &filters));
        [dx, wr.then_some(dz)]
    })
}

/// a · σ(b) of the channels [a | b]. What a gradient would ask for is not made where none is asked for.
#[track_caller]
fn gated(problem: &ConvProblem, x: &Tensor, filters: &Arc<FrozenFilters>) -> Tensor {
    let ConvProblem { batch, output: [h, width], cout, .. } = *problem;
    assert!(cout.is_multiple_of(2), "conv2d_frozen: a gate wants pairs of channels, not {cout}");
    if x.device() != Device::Cpu || is_recorded([x]) || !winograd::gated_suits(problem) {
        return glu(&conv2d_frozen(x, filters, None, Activation::None));
    }
    let mut y = x.new_empty([batch, h, width, cout / 2]);
    run(
        Kernel::new("conv2d_frozen_fwd", problem.flops()),
        &mut y,
        (x, &filters.bias),
        |y, (x, bias)| winograd::fprop_gated(problem, y, x, filters.packed(&filters.forward, problem), bias),
        |_, _, _| unreachable!("on the CPU alone"),
    );
    y
}

#[track_caller]
fn fprop(
    problem: &ConvProblem,
    x: &Tensor,
    filters: &FrozenFilters,
    residual: Option<&Tensor>,
    act: Activation,
) -> Tensor {
    let ConvProblem { batch, output: [h, width], cout, .. } = *problem;
    let mut y = x.new_empty([batch, h, width, cout]);
    if let Some(residual) = residual {
        same_shape("conv2d_frozen with a residual", &y, residual);
    }
    let [slope, ceiling] = rectified::slope_and_ceiling(act);
    run(
        Kernel::new("conv2d_frozen_fwd", problem.flops()),
        &mut y,
        (x, filters.given(), &filters.bias, residual),
        |y, (x, _, bias, residual)| {
            let epilogue = Epilogue { bias, residual, slope, ceiling };
            cpu::fprop(problem, y, x, filters.packed(&filters.forward, problem), Some(epilogue));
        },
        |g, y, (x, w, bias, residual)| {
            cuda::fprop(problem, g, y, None, x, w, Some(bias));
            rectified::on_cuda(g, y, residual, act);
        },
    );
    y
}

#[track_caller]
fn dgrad(problem: &ConvProblem, dz: &Tensor, filters: &FrozenFilters) -> Tensor {
    let ConvProblem { batch, output: [h, width], cout, .. } = *problem;
    let mut dx = dz.new_empty([batch, h, width, cout]);
    run(
        Kernel::new("conv2d_frozen_bwd", problem.flops()),
        &mut dx,
        (dz, filters.given()),
        |dx, (dz, _)| cpu::fprop(problem, dx, dz, filters.packed(&filters.backward, problem), None),
        |g, dx, (dz, w)| cuda::dgrad(problem, g, dx, dz, w),
    );
    dx
}
