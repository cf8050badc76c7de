//! Convolutions over NHWC images: forward, and the gradients of input and filters, as implicit GEMMs.
//!
//! No pass writes its windows out (no im2col) and none writes an enlarged image. In NHWC the S taps of one window row lie
//! side by side, so a window is R runs of S·Cin consecutive elements that both devices read in place.
//!
//! | pass | windows over | phases | M | N | K |
//! | --- | --- | --- | --- | --- | --- |
//! | fprop | x | 1 | B·H'·W' | Cout | R·S·Cin |
//! | dgrad | dy | stride² | B·H·W / stride² | Cin | R·S·Cout / stride² |
//! | upsample2x fprop | x | 4 | B·H·W | Cout | 4·Cin |
//! | upsample2x dgrad | dy | 1 | B·H·W | Cin | 16·Cout |
//! | wgrad | x | 1, or 4 for upsample2x | Cout | R·S·Cin, or 4·Cin | B·H'·W', or B·H·W |
//!
//! dgrad splits x into stride² phases: all pixels of a phase are reached by the same taps. Nearest 2× and then 3×3 is a
//! transposed convolution of stride 2 whose 4×4 filters are sums of the 3×3 taps: four phases of 2×2 taps, 4/9 of the
//! multiplications. problem.rs has the geometry of all passes, cpu.rs and cuda.rs choose how to compute them. On the CPU most passes
//! over larger maps are computed with fewer multiplications, in winograd; passes to a picture's channels are in dots.rs.

mod cases;
mod cpu;
mod cuda;
mod direct;
mod dots;
mod few;
mod filters;
mod frozen;
mod problem;
mod rectified;
mod shallow;
mod sharing;
mod wgrad;
mod winograd;

pub use cases::cases;
pub use frozen::{FrozenFilters, conv2d_frozen};
use problem::ConvProblem;

use crate::engine::device::cpu::tile::Epilogue;
use crate::engine::ops::matmul::column_sums;
use crate::engine::ops::norm::Activation;
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Kernel, Tensor, run};

/// Stride and zero padding, vertical then horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    pub stride: [usize; 2],
    pub pad: [usize; 2],
}

impl Conv {
    /// The same stride and padding in both directions.
    pub fn new(stride: usize, pad: usize) -> Conv {
        Conv { stride: [stride; 2], pad: [pad; 2] }
    }
}

/// What a convolution's windows lie over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// An image.
    Image(Conv),
    /// An image enlarged to twice its size by nearest neighbor; 3×3 with padding 1.
    Upsampled2x,
}

impl From<Conv> for Windows {
    fn from(conv: Conv) -> Windows {
        Windows::Image(conv)
    }
}

impl Windows {
    #[track_caller]
    fn fprop(self, x: &Tensor, w: &Tensor) -> ConvProblem {
        match self {
            Windows::Image(conv) => {
                assert_fits(x, w, conv);
                ConvProblem::fprop(x.dims(), w.dims(), conv)
            }
            Windows::Upsampled2x => {
                assert_fits_upsampled(x, w);
                ConvProblem::upsample2x(x.dims(), w.dims::<4>()[0])
            }
        }
    }

    fn dgrad(self, fprop: &ConvProblem) -> ConvProblem {
        match self {
            Windows::Image(conv) => ConvProblem::dgrad(fprop, conv),
            Windows::Upsampled2x => ConvProblem::upsample2x_dgrad(fprop),
        }
    }
}

/// y[B,H',W',Cout] = x[B,H,W,Cin] ∗ w[Cout,R,S,Cin] + bias[Cout], with H' = (H + 2·pad − R) / stride + 1.
#[track_caller]
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, conv: Conv) -> Tensor {
    convolve(x, w, bias, conv, Activation::None, false).0
}

/// act([`conv2d`]); `Glu` is no such activation.
#[track_caller]
pub fn conv2d_rectified(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, conv: Conv, act: Activation) -> Tensor {
    convolve(x, w, bias, conv, act, false).0
}

/// [`conv2d`] without bias, and the moments of y's tiles for a normalization over B, H' and W': [tiles, 3, Cout] with n,
/// mean and Σ(y − mean)² of each channel, off the tape. None where the device does not compute them on the way.
#[track_caller]
pub fn conv2d_with_moments(x: &Tensor, w: &Tensor, conv: Conv) -> (Tensor, Option<Tensor>) {
    convolve(x, w, None, conv, Activation::None, true)
}

#[track_caller]
fn convolve(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    conv: Conv,
    act: Activation,
    with_moments: bool,
) -> (Tensor, Option<Tensor>) {
    assert_fits(x, w, conv);
    if let Some(bias) = bias {
        assert_eq!(*bias.shape(), [w.dims::<4>()[0]], "conv2d: bias {:?} does not fit weights {:?}", bias.shape(), w.shape());
    }
    let problem = ConvProblem::fprop(x.dims(), w.dims(), conv);
    let (y, moments) = fprop("conv2d_fwd", &problem, x, w, bias, act, with_moments);
    let (sx, sw, saved) = (x.detach(), w.detach(), rectified::saved(&y, act));
    let y = record1(y, [Some(x), Some(w), bias], move |dy, [wx, ww, wb]| {
        let dy = rectified::before(dy, saved.as_ref(), act);
        let dx = wx.then(|| dgrad("conv2d_bwd", &ConvProblem::dgrad(&problem, conv), &dy, &sw));
        let dw = ww.then(|| wgrad("conv2d_bwd_w", &problem, &dy, &sx, &sw));
        [dx, dw, wb.then(|| column_sums(&dy))]
    });
    (y, moments)
}

#[track_caller]
fn assert_fits(x: &Tensor, w: &Tensor, conv: Conv) {
    let ([_, h, width, cin], [_, r, s, wc]) = (x.dims(), w.dims());
    assert_eq!(cin, wc, "conv2d: the channels of {:?} and of the weights {:?} differ", x.shape(), w.shape());
    assert!(
        h + 2 * conv.pad[0] >= r && width + 2 * conv.pad[1] >= s,
        "conv2d: the window of {:?} is larger than the padded image {:?}",
        w.shape(),
        x.shape()
    );
}

#[track_caller]
fn assert_fits_upsampled(x: &Tensor, w: &Tensor) {
    let ([_, _, _, cin], [_, r, s, wc]) = (x.dims(), w.dims());
    assert_eq!(
        cin,
        wc,
        "upsample2x_conv3x3: the channels of {:?} and of the weights {:?} differ",
        x.shape(),
        w.shape()
    );
    assert_eq!([r, s], [3, 3], "upsample2x_conv3x3 wants 3×3 weights, not {:?}", w.shape());
}

/// y[B,2H,2W,Cout] = nearest-2×(x[B,H,W,Cin]) ∗ w[Cout,3,3,Cin], padding 1.
#[track_caller]
pub fn upsample2x_conv3x3(x: &Tensor, w: &Tensor) -> Tensor {
    upsample2x(x, w, false).0
}

/// [`upsample2x_conv3x3`], and the moments as in [`conv2d_with_moments`].
#[track_caller]
pub fn upsample2x_conv3x3_with_moments(x: &Tensor, w: &Tensor) -> (Tensor, Option<Tensor>) {
    upsample2x(x, w, true)
}

#[track_caller]
fn upsample2x(x: &Tensor, w: &Tensor, with_moments: bool) -> (Tensor, Option<Tensor>) {
    let problem = Windows::Upsampled2x.fprop(x, w);
    let (y, moments) = fprop("upsample2x_conv3x3_fwd", &problem, x, w, None, Activation::None, with_moments);
    let (sx, sw) = (x.detach(), w.detach());
    let y = record1(y, [x, w], move |dy, [wx, ww]| {
        let transposed = Windows::Upsampled2x.dgrad(&problem);
        let dx = wx.then(|| dgrad("upsample2x_conv3x3_bwd", &transposed, &dy, &sw));
        let dw = ww.then(|| wgrad("upsample2x_conv3x3_bwd_w", &problem, &dy, &sx, &sw));
        [dx, dw]
    });
    (y, moments)
}

/// Runs the forward pass: y, and its moments where they are wanted and at hand.
#[track_caller]
fn fprop(
    name: &'static str,
    problem: &ConvProblem,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    act: Activation,
    with_moments: bool,
) -> (Tensor, Option<Tensor>) {
    let [slope, ceiling] = rectified::slope_and_ceiling(act);
    let ConvProblem { batch, output: [h, width], cout, .. } = *problem;
    let mut y = x.new_empty([batch, h, width, cout]);
    let mut moments = if with_moments { cuda::moments(problem, &y) } else { None };
    run(
        Kernel::new(name, problem.flops()),
        (&mut y, moments.as_mut()),
        (x, w, bias),
        |(y, _), (x, w, bias)| {
            let none = vec![0.0; if bias.is_none() { cout } else { 0 }];
            let epilogue = Epilogue { bias: bias.unwrap_or(&none), residual: None, slope, ceiling };
            let does_something = bias.is_some() || act != Activation::None;
            cpu::fprop_once(problem, y, x, w, does_something.then_some(epilogue));
        },
        |g, (y, moments), (x, w, bias)| {
            cuda::fprop(problem, g, y, moments, x, w, bias);
            rectified::on_cuda(g, y, None, act);
        },
    );
    (y, moments)
}

/// Runs the pass that gives dx: on both devices the windows of dy by the transposed filters.
#[track_caller]
fn dgrad(name: &'static str, problem: &ConvProblem, dy: &Tensor, w: &Tensor) -> Tensor {
    let ConvProblem { batch, output: [h, width], cout, .. } = *problem;
    let mut dx = dy.new_empty([batch, h, width, cout]);
    run(
        Kernel::new(name, problem.flops()),
        &mut dx,
        (dy, w),
        |dx, (dy, w)| cpu::fprop_once(problem, dx, dy, w, None),
        |g, dx, (dy, w)| cuda::dgrad(problem, g, dx, dy, w),
    );
    dx
}

/// Runs the pass that gives dw, of w's shape.
#[track_caller]
fn wgrad(name: &'static str, problem: &ConvProblem, dy: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
    let mut dw = w.new_empty(w.shape());
    run(
        Kernel::new(name, problem.flops()),
        &mut dw,
        (dy, x),
        |dw, (dy, x)| wgrad::wgrad(problem, dw, dy, x),
        |g, dw, (dy, x)| cuda::wgrad(problem, g, dw, dy, x),
    );
    dw
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::{Rng, backward};

    /// The definition, in f64.
    fn naive(x: &Tensor, w: &Tensor, conv: Conv) -> Vec<f64> {
        let ([b, h, width, c], [n, r, s, _]) = (x.dims(), w.dims());
        let out = [(h + 2 * conv.pad[0] - r) / conv.stride[0] + 1, (width + 2 * conv.pad[1] - s) / conv.stride[1] + 1];
        let (xs, ws) = (x.to_vec(), w.to_vec());
        let mut y = Vec::new();
        for (b, i, j, n) in (0..b).flat_map(|b| {
            (0..out[0]).flat_map(move |i| (0..out[1]).flat_map(move |j| (0..n).map(move |n| (b, i, j, n))))
        }) {
            let mut sum = 0.0;
            for (p, q) in (0..r).flat_map(|p| (0..s).map(move |q| (p, q))) {
                let row = (i * conv.stride[0] + p).wrapping_sub(conv.pad[0]);
                let column = (j * conv.stride[1] + q).wrapping_sub(conv.pad[1]);
                if row < h && column < width {
                    let (at, wt) = (((b * h + row) * width + column) * c, ((n * r + p) * s + q) * c);
                    sum += (0..c).map(|k| xs[at + k] as f64 * ws[wt + k] as f64).sum::<f64>();
                }
            }
            y.push(sum);
        }
        y
    }

    fn relative(a: &[f32], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| *a as f64 - b)) / norm(&mut b.iter().copied())
    }

    /// <conv(x, w), dy> is linear in x and in w, so its gradients must give the same number back, in f64.
    fn check(x: [usize; 4], w: [usize; 4], conv: Conv, upsample: bool) {
        let mut rng = Rng::new(1, 0);
        let (x, w) = (rng.uniform(x, -1.0, 1.0).leaf(), rng.uniform(w, -1.0, 1.0).leaf());
        let y = if upsample { upsample2x_conv3x3(&x, &w) } else { conv2d(&x, &w, None, conv) };
        let enlarged = if upsample { enlarge(&x) } else { x.detach() };
        let reference = naive(&enlarged, &w, conv);
        // Winograd's transforms round to about twice what a plain sum over the channels does: 1.7e-6 of 300.
        let by_points = winograd::suits(&match upsample {
            true => ConvProblem::upsample2x(x.dims(), w.dims::<4>()[0]),
            false => ConvProblem::fprop(x.dims(), w.dims(), conv),
        });
        let (limit, error) = (if by_points { 2.5e-6 } else { 1e-6 }, relative(&y.to_vec(), &reference));
        assert!(error < limit, "{:?} {:?}: forward, {error:e}", x.shape(), w.shape());
        let probe = rng.uniform(y.shape(), -1.0, 1.0);
        let loss = crate::engine::ops::matmul::matmul(&y.reshape([1, y.len()]), &probe.reshape([probe.len(), 1]));
        let grads = backward(&loss, &[&x, &w]);
        for target in [&x, &w] {
            let gradient = grads.get(target).unwrap();
            for _ in 0..4 {
                let direction = rng.uniform(target.shape(), -1.0, 1.0);
                let along = |a: &Tensor, b: &Tensor| {
                    a.to_vec().iter().zip(b.to_vec()).map(|(a, b)| *a as f64 * b as f64).sum::<f64>()
                };
                let (dx, dw) = if std::ptr::eq(target, &x) {
                    (if upsample { enlarge(&direction) } else { direction.clone() }, w.detach())
                } else {
                    (enlarged.clone(), direction.clone())
                };
                let truth: f64 =
                    naive(&dx, &dw, conv).iter().zip(probe.to_vec()).map(|(y, p)| y * p as f64).sum();
                let size = (probe.len() as f64).sqrt() * (w.len() as f64 / w.dims::<4>()[0] as f64).sqrt();
                assert!((along(gradient, &direction) - truth).abs() < 1e-5 * size, "{:?}: gradient", target.shape());
            }
        }
    }

    fn enlarge(x: &Tensor) -> Tensor {
        let [b, h, w, c] = x.dims();
        let mut y = Vec::new();
        for (b, i, j) in (0..b).flat_map(|b| (0..2 * h).flat_map(move |i| (0..2 * w).map(move |j| (b, i, j)))) {
            y.extend_from_slice(&x.as_slice()[((b * h + i / 2) * w + j / 2) * c..][..c]);
        }
        Tensor::from_vec(y, [b, 2 * h, 2 * w, c])
    }

    #[test]
    fn convolutions_and_their_gradients_follow_the_definition() {
        for (x, w, conv) in [
            ([2, 24, 26, 16], [24, 3, 3, 16], Conv::new(1, 1)),
            ([1, 40, 40, 3], [20, 4, 4, 3], Conv::new(2, 1)),
            ([2, 12, 10, 40], [33, 4, 4, 40], Conv::new(2, 1)),
            ([2, 4, 4, 130], [70, 3, 3, 130], Conv::new(1, 1)),
            ([3, 9, 8, 66], [100, 4, 4, 66], Conv::new(2, 1)),
            ([2, 9, 7, 70], [64, 1, 1, 70], Conv::new(2, 0)),
            ([1, 88, 90, 16], [24, 3, 3, 16], Conv::new(1, 1)),
            ([120, 7, 6, 18], [17, 3, 3, 18], Conv::new(1, 1)),
            ([3, 9, 13, 300], [40, 3, 3, 300], Conv::new(1, 0)),
            ([6, 20, 22, 20], [17, 4, 4, 20], Conv::new(2, 1)),
            ([7, 21, 19, 18], [40, 4, 4, 18], Conv::new(2, 1)),
            ([2, 37, 34, 130], [24, 4, 4, 130], Conv::new(2, 0)),
            ([1, 33, 31, 7], [3, 3, 3, 7], Conv::new(1, 1)),
            ([2, 13, 19, 40], [3, 3, 3, 40], Conv::new(1, 1)),
            ([3, 9, 12, 16], [2, 4, 4, 16], Conv::new(2, 1)),
            ([1, 6, 5, 17], [1, 5, 5, 17], Conv::new(1, 2)),
            ([2, 7, 8, 33], [3, 2, 5, 33], Conv { stride: [1, 3], pad: [1, 3] }),
            ([2, 11, 9, 5], [9, 1, 1, 5], Conv::new(2, 0)),
            ([1, 12, 19, 6], [8, 1, 7, 6], Conv { stride: [1, 1], pad: [0, 3] }),
            ([1, 21, 20, 3], [18, 7, 7, 3], Conv::new(2, 3)),
            ([2, 6, 830, 3], [32, 3, 3, 3], Conv::new(2, 1)),
            ([1, 9, 20, 2], [80, 3, 5, 2], Conv { stride: [1, 1], pad: [2, 0] }),
        ] {
            check(x, w, conv, false);
        }
    }

    /// An image does not depend on how many are made, so filters that are read where they lie must give the bits of packed ones.
    #[test]
    fn few_pixels_change_no_bit() {
        let mut rng = Rng::new(3, 0);
        let conv3 = ConvProblem::fprop([2, 4, 4, 70], [100, 3, 3, 70], Conv::new(1, 1));
        let conv4 = ConvProblem::fprop([2, 9, 8, 300], [80, 4, 4, 300], Conv::new(2, 1));
        let conv1 = ConvProblem::fprop([2, 5, 6, 64], [90, 1, 1, 64], Conv::new(2, 0));
        let up = ConvProblem::upsample2x([1, 5, 4, 70], 100);
        for (problem, filters) in [
            (conv3, [100, 3, 3, 70]),
            (ConvProblem::dgrad(&conv3, Conv::new(1, 1)), [100, 3, 3, 70]),
            (conv4, [80, 4, 4, 300]),
            (ConvProblem::dgrad(&conv4, Conv::new(2, 1)), [80, 4, 4, 300]),
            (ConvProblem::dgrad(&conv1, Conv::new(2, 0)), [90, 1, 1, 64]),
            (up, [100, 3, 3, 70]),
            (ConvProblem::upsample2x_dgrad(&up), [100, 3, 3, 70]),
        ] {
            assert!(few::suits(&problem), "{problem:?}");
            let ConvProblem { batch, cin, cout, input: [h, w], output: [rows, columns], .. } = problem;
            let x = rng.uniform([batch, h, w, cin], -1.0, 1.0);
            let w = rng.uniform(filters, -1.0, 1.0);
            let [mut lying, mut packed] = [0, 1].map(|_| vec![9.0; batch * rows * columns * cout]);
            few::fprop(&problem, &mut lying, x.as_slice(), w.as_slice(), None);
            cpu::fprop(&problem, &mut packed, x.as_slice(), &cpu::pack(&problem, w.as_slice()), None);
            assert!(lying == packed, "{problem:?}");
        }
    }

    /// More threads than this machine may have: each shape is one of those that threads share in another way.
    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let results = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a few threads");
            pool.install(|| {
                let mut rng = Rng::new(6, 0);
                let mut all = Vec::new();
                for (x, w, conv) in [
                    ([2, 24, 26, 16], [24, 3, 3, 16], Some(Conv::new(1, 1))),
                    ([1, 40, 40, 3], [64, 4, 4, 3], Some(Conv::new(2, 1))),
                    ([3, 20, 19, 40], [130, 4, 4, 40], Some(Conv::new(2, 1))),
                    ([2, 4, 4, 130], [200, 3, 3, 130], Some(Conv::new(1, 1))),
                    ([2, 33, 31, 40], [200, 1, 1, 40], Some(Conv::new(1, 0))),
                    ([1, 33, 31, 32], [3, 3, 3, 32], Some(Conv::new(1, 1))),
                    ([1, 32, 32, 16], [40, 3, 3, 16], None),
                    ([2, 5, 4, 70], [100, 3, 3, 70], None),
                ] {
                    let (x, w) = (rng.uniform(x, -1.0, 1.0).leaf(), rng.uniform(w, -1.0, 1.0).leaf());
                    let y = conv.map_or_else(|| upsample2x_conv3x3(&x, &w), |conv| conv2d(&x, &w, None, conv));
                    let probe = rng.uniform(y.shape(), -1.0, 1.0);
                    let loss = crate::engine::ops::reduce::sum(&crate::engine::ops::pointwise::mul(&y, &probe));
                    let mut grads = backward(&loss, &[&x, &w]);
                    all.push([Some(y), grads.take(&x), grads.take(&w)].map(|t| t.expect("it is wanted").to_vec()));
                }
                all
            })
        };
        let one = results(1);
        for threads in [2, 3, 16] {
            for (shape, (found, expected)) in results(threads).iter().zip(&one).enumerate() {
                for (what, (found, expected)) in ["forward", "dx", "dw"].iter().zip(found.iter().zip(expected)) {
                    assert!(found == expected, "shape {shape}, {what}: {threads} threads differ from one");
                }
            }
        }
    }

    /// Where no gradient is asked for, the gate is part of the convolution.
    #[test]
    fn a_gate_within_the_convolution_is_the_gate_after_it() {
        use std::sync::Arc;

        use crate::engine::ops::pointwise::glu;

        let mut rng = Rng::new(4, 0);
        for (x, cout, windows) in [
            ([2, 9, 11, 24], 64, Windows::Image(Conv::new(1, 1))),
            ([1, 18, 17, 18], 44, Windows::Image(Conv::new(1, 1))),
            ([2, 17, 16, 40], 52, Windows::Upsampled2x),
            ([1, 4, 4, 40], 64, Windows::Upsampled2x),
        ] {
            let (x, w) = (rng.uniform(x, -1.0, 1.0), rng.uniform([cout, 3, 3, x[3]], -0.3, 0.3));
            let bias = rng.uniform([cout], -1.0, 1.0);
            let filters = Arc::new(FrozenFilters::new(&w, Some(&bias), windows));
            let within = conv2d_frozen(&x, &filters, None, Activation::Glu);
            let after = glu(&conv2d_frozen(&x, &filters, None, Activation::None));
            let after: Vec<f64> = after.to_vec().into_iter().map(f64::from).collect();
            let error = relative(&within.to_vec(), &after);
            assert!(error < 1e-7, "{:?} {windows:?}: {error:e}", x.shape());
        }
    }

    /// What `--exact` chooses: other roundings, and smaller errors.
    #[test]
    fn the_direct_sum_can_be_had_everywhere() {
        use crate::engine::device::cpu::set_exact;
        let mut rng = Rng::new(1, 0);
        let (x, w) = (rng.uniform([1, 24, 24, 64], -1.0, 1.0), rng.uniform([32, 3, 3, 64], -1.0, 1.0));
        let reference = naive(&x, &w, Conv::new(1, 1));
        let error = || relative(&conv2d(&x, &w, None, Conv::new(1, 1)).to_vec(), &reference);
        let fast = error();
        set_exact(true);
        let exact = error();
        set_exact(false);
        assert!(exact < 0.7 * fast && fast < 2.5e-6, "{exact:e} {fast:e}");
    }

    #[test]
    fn upsample2x_is_nearest_then_3x3() {
        check([2, 10, 9, 12], [20, 3, 3, 12], Conv::new(1, 1), true);
        check([1, 32, 32, 16], [16, 3, 3, 16], Conv::new(1, 1), true);
        check([6, 11, 9, 20], [40, 3, 3, 20], Conv::new(1, 1), true);
        check([2, 5, 4, 70], [100, 3, 3, 70], Conv::new(1, 1), true);
    }
}
