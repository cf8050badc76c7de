//! Rectifiers that a convolution ends with.

use crate::engine::device::cpu::for_chunks;
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::ops::norm::Activation;
use crate::engine::tensor::{Tensor, run};

/// Of the sums; of no activation, 1 and infinity.
#[track_caller]
pub(super) fn slope_and_ceiling(act: Activation) -> [f32; 2] {
    act.rectifier().unwrap_or_else(|| panic!("a convolution does not end with {act:?}"))
}

/// What the gradient asks for.
pub(super) fn saved(y: &Tensor, act: Activation) -> Option<Tensor> {
    (act != Activation::None).then(|| y.detach())
}

/// y = act(y + residual), after the kernel that made y.
pub(super) fn on_cuda(g: &Gpu, y: Out, residual: Option<In>, act: Activation) {
    if residual.is_some() || act != Activation::None {
        let ([slope, ceiling], n) = (slope_and_ceiling(act), y.len());
        k::conv_activation_fwd(g, Grid::packs(n), y, residual, slope, ceiling, n as i32);
    }
}

/// The gradient of what became y.
#[track_caller]
pub(super) fn before(dy: Tensor, y: Option<&Tensor>, act: Activation) -> Tensor {
    const CHUNK: usize = 16 * 1024;
    let Some(y) = y else { return dy };
    let ([slope, ceiling], n) = (slope_and_ceiling(act), y.len());
    let mut dz = dy.new_empty(dy.shape());
    let through = move |y: f32| if y > 0.0 { if y < ceiling { 1.0 } else { 0.0 } } else { slope };
    run(
        "conv2d_activation_bwd",
        &mut dz,
        (&dy, y),
        |dz, (dy, y)| {
            for_chunks(dz, CHUNK, |i, dz| {
                let rest = dy[i * CHUNK..].iter().zip(&y[i * CHUNK..]);
                dz.iter_mut().zip(rest).for_each(|(dz, (dy, y))| *dz = dy * through(*y));
            });
        },
        |g, dz, (dy, y)| k::conv_activation_bwd(g, Grid::packs(n), dz, dy, y, slope, ceiling, n as i32),
    );
    dz
}
