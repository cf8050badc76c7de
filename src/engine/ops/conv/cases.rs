use std::sync::Arc;

use super::*;
use crate::engine::ops::Case;
use crate::engine::ops::norm::{Activation, ConstantNorm};

pub fn cases() -> Vec<Case> {
    let conv = |name, x: [usize; 4], w: [usize; 4], conv: Conv| {
        Case::new("conv2d", name, move |t| vec![conv2d(&t[0], &t[1], None, conv)])
            .input(x)
            .input(w)
            .bf16(&[0])
    };
    let upsample = |name, x: [usize; 4], cout: usize| {
        let case = Case::new("upsample2x_conv3x3", name, |t| vec![upsample2x_conv3x3(&t[0], &t[1])]).input(x);
        case.input([cout, 3, 3, x[3]]).bf16(&[0])
    };
    vec![
        conv("3x3", [2, 5, 7, 3], [4, 3, 3, 3], Conv::new(1, 1)),
        conv("3x3 many channels", [1, 8, 9, 20], [19, 3, 3, 20], Conv::new(1, 1)),
        conv("3x3 no padding", [1, 6, 5, 2], [3, 3, 3, 2], Conv::new(1, 0)),
        conv("3x3 stride 2", [1, 9, 8, 3], [5, 3, 3, 3], Conv::new(2, 0)),
        conv("4x4 stride 2", [2, 8, 6, 3], [5, 4, 4, 3], Conv::new(2, 1)),
        conv("4x4 stride 4", [2, 4, 4, 6], [1, 4, 4, 6], Conv::new(4, 0)),
        conv("1x1", [2, 3, 5, 6], [4, 1, 1, 6], Conv::new(1, 0)),
        conv("1x1 stride 2", [1, 5, 6, 3], [4, 1, 1, 3], Conv::new(2, 0)),
        conv("1x7", [1, 4, 9, 3], [2, 1, 7, 3], Conv { stride: [1, 1], pad: [0, 3] }),
        conv("7x1", [1, 9, 4, 3], [2, 7, 1, 3], Conv { stride: [1, 1], pad: [3, 0] }),
        conv("7x7 stride 2", [1, 9, 11, 3], [2, 7, 7, 3], Conv::new(2, 3)),
        Case::new("conv2d", "bias", |t| vec![conv2d(&t[0], &t[1], Some(&t[2]), Conv::new(1, 1))])
            .input([1, 4, 4, 2])
            .input([3, 3, 3, 2])
            .input([3])
            .bf16(&[0]),
        rectified("leaky relu", [2, 6, 5, 3], [4, 4, 4, 3], Conv::new(2, 1), Activation::LeakyRelu(0.2)),
        rectified("relu6", [1, 5, 4, 2], [3, 3, 3, 2], Conv::new(1, 1), Activation::Relu6),
        rectified("leaky relu, 3 to 64", [2, 32, 32, 3], [64, 4, 4, 3], Conv::new(2, 1), Activation::LeakyRelu(0.2)).large(),
        upsample("", [2, 4, 3, 5], 6),
        conv("3x3, 32 to 64", [2, 9, 8, 32], [64, 3, 3, 32], Conv::new(1, 1)).large(),
        conv("3x3, 64 to 128", [1, 8, 8, 64], [128, 3, 3, 64], Conv::new(1, 1)).large(),
        conv("3x3, 17 to 33", [2, 8, 9, 17], [33, 3, 3, 17], Conv::new(1, 1)).large(),
        conv("3x3, 32 to 3", [2, 20, 18, 32], [3, 3, 3, 32], Conv::new(1, 1)).large(),
        conv("3x3, many to few pixels", [1, 4, 4, 256], [48, 3, 3, 256], Conv::new(1, 1)).large(),
        conv("4x4 stride 2, 3 to 64", [2, 32, 32, 3], [64, 4, 4, 3], Conv::new(2, 1)).large(),
        conv("4x4 stride 2, 32 to 64", [2, 18, 16, 32], [64, 4, 4, 32], Conv::new(2, 1)).large(),
        conv("3x3 stride 2, odd image", [2, 11, 13, 16], [24, 3, 3, 16], Conv::new(2, 0)).large(),
        conv("7x7 stride 2, 3 to 32", [1, 33, 30, 3], [32, 7, 7, 3], Conv::new(2, 3)).large(),
        conv("1x1, many tiles", [1, 150, 140, 8], [160, 1, 1, 8], Conv::new(1, 0)).large(),
        conv("1x1, many tiles of 64", [1, 160, 150, 16], [64, 1, 1, 16], Conv::new(1, 0)).large(),
        conv("1x1, many tiles of 32", [1, 160, 150, 16], [24, 1, 1, 16], Conv::new(1, 0)).large(),
        conv("1x1, large tiles", [1, 132, 128, 8], [128, 1, 1, 8], Conv::new(1, 0)).large(),
        conv("1x1, large weights", [1, 2, 2, 1408], [1536, 1, 1, 1408], Conv::new(1, 0)).large(),
        conv("1x1 stride 2, 64 to 32", [2, 9, 9, 64], [32, 1, 1, 64], Conv::new(2, 0)).large(),
        conv("1x1 stride 2, 64 to 96", [2, 9, 9, 64], [96, 1, 1, 64], Conv::new(2, 0)).large(),
        conv("4x4 stride 2, 64 to 80, few pixels", [2, 8, 8, 64], [80, 4, 4, 64], Conv::new(2, 1)).large(),
        conv("1x7, 24 to 40", [1, 12, 19, 24], [40, 1, 7, 24], Conv { stride: [1, 1], pad: [0, 3] }).large(),
        Case::new("conv2d", "bias, 16 to 40", |t| vec![conv2d(&t[0], &t[1], Some(&t[2]), Conv::new(1, 1))])
            .input([2, 10, 9, 16])
            .input([40, 3, 3, 16])
            .input([40])
            .bf16(&[0])
            .large(),
        upsample("32 to 64", [2, 8, 7, 32], 64).large(),
        upsample("17 to 5", [1, 9, 8, 17], 5).large(),
        upsample("64 to 72, few pixels", [1, 4, 5, 64], 72).large(),
        upsample("3 to 32", [1, 16, 16, 3], 32).large(),
        frozen("norm of a residual", [1, 5, 4, 3], [4, 3, 3, 3], Conv::new(1, 1), Activation::None),
        frozen("relu", [1, 4, 4, 2], [3, 1, 1, 2], Conv::new(1, 0), Activation::Relu),
        frozen("leaky relu, stride 2", [2, 7, 6, 3], [5, 3, 3, 3], Conv::new(2, 1), Activation::LeakyRelu(0.2)),
        frozen("relu, 40 to 72", [2, 13, 12, 40], [72, 3, 3, 40], Conv::new(1, 1), Activation::Relu).large(),
        frozen("relu, deep", [1, 4, 4, 512], [80, 3, 3, 512], Conv::new(1, 1), Activation::Relu).large(),
        frozen("1x1", [2, 29, 27, 64], [48, 1, 1, 64], Conv::new(1, 0), Activation::LeakyRelu(0.2)).large(),
        frozen("7x7 stride 2, 3 to 32", [1, 33, 30, 3], [32, 7, 7, 3], Conv::new(2, 3), Activation::Relu).large(),
        frozen("relu6, stride 2", [2, 19, 17, 16], [24, 3, 3, 16], Conv::new(2, 0), Activation::Relu6).large(),
        gated("gate", [2, 7, 6, 16], [40, 3, 3, 16], Conv::new(1, 1).into(), Activation::Glu).large(),
        gated("nearest 2x", [2, 3, 4, 18], [20, 3, 3, 18], Windows::Upsampled2x, Activation::None),
        gated("nearest 2x, gate", [1, 16, 17, 20], [36, 3, 3, 20], Windows::Upsampled2x, Activation::Glu).large(),
        with_moments_of("conv2d_with_moments", "", [2, 11, 9, 16], [40, 3, 3, 16], false),
        with_moments_of("conv2d_with_moments", "odd", [1, 7, 5, 3], [5, 3, 3, 3], false),
        with_moments_of("upsample2x_conv3x3_with_moments", "", [2, 7, 6, 16], [72, 3, 3, 16], true),
    ]
}

/// As [`frozen`], with a gate or an enlarged image.
fn gated(name: &'static str, x: [usize; 4], w: [usize; 4], windows: Windows, act: Activation) -> Case {
    let cout = w[0];
    let case = Case::new("conv2d_frozen", name, move |t| {
        let [gamma, beta, mean, variance] = [&t[2], &t[3], &t[4], &t[5]].map(Tensor::detach);
        let norm = ConstantNorm { gamma, beta, mean, variance, eps: 1e-3 };
        let filters = Arc::new(FrozenFilters::normalized(&t[1], &norm, windows));
        vec![conv2d_frozen(&t[0], &filters, None, act)]
    });
    let small = 0.5 / ((9 * w[3]) as f32).sqrt();
    let case = case.input(x).constant(w, -small, small);
    case.constant([cout], 0.5, 1.5).constant([cout], -0.5, 0.5).constant([cout], -0.2, 0.2).constant([cout], 0.5, 1.5).bf16(&[0])
}

/// Frozen filters with a norm folded into them, a residual and an activation. Each channel lies on one side of the kinks, by
/// its beta: where factors are rounded, others would come to lie on the other side.
fn frozen(name: &'static str, x: [usize; 4], w: [usize; 4], conv: Conv, act: Activation) -> Case {
    let [batch, height, width, cout] = {
        let problem = ConvProblem::fprop(x, w, conv);
        [problem.batch, problem.output[0], problem.output[1], problem.cout]
    };
    let case = Case::new("conv2d_frozen", name, move |t| {
        let beta = (0..cout).map(|channel| [-3.0, 3.0, 9.0][channel % 3]).collect();
        let beta = Tensor::from_vec(beta, [cout]);
        let [gamma, mean, variance] = [&t[3], &t[4], &t[5]].map(Tensor::detach);
        let norm = ConstantNorm { gamma, beta, mean, variance, eps: 1e-3 };
        let filters = Arc::new(FrozenFilters::normalized(&t[2], &norm, conv));
        vec![conv2d_frozen(&t[0], &filters, Some(&t[1]), act)]
    });
    let small = 0.5 / ((w[1] * w[2] * w[3]) as f32).sqrt();
    let case = case.input(x).input_in([batch, height, width, cout], -0.5, 0.5).constant(w, -small, small);
    case.constant([cout], 0.5, 1.5).constant([cout], -0.2, 0.2).constant([cout], 0.5, 1.5).bf16(&[0, 1])
}

/// Each channel lies on one side of the kinks, by its bias.
fn rectified(name: &'static str, x: [usize; 4], w: [usize; 4], conv: Conv, act: Activation) -> Case {
    let cout = w[0];
    let case = Case::new("conv2d_rectified", name, move |t| {
        let bias = (0..cout).map(|channel| [-3.0, 3.0, 9.0][channel % 3]).collect();
        let bias = crate::engine::device::with(&t[0].device(), || Tensor::from_vec(bias, [cout]));
        vec![conv2d_rectified(&t[0], &t[1], Some(&bias), conv, act)]
    });
    let small = 0.5 / ((w[1] * w[2] * w[3]) as f32).sqrt();
    case.input(x).input_in(w, -small, small).bf16(&[0])
}

/// y, and its channels' means and variances: merged from the moments of its tiles, or from y where there are none.
fn with_moments_of(op: &'static str, name: &'static str, x: [usize; 4], w: [usize; 4], upsample: bool) -> Case {
    let case = Case::new(op, name, move |t| {
        let (y, moments) =
            if upsample { upsample2x_conv3x3_with_moments(&t[0], &t[1]) } else { conv2d_with_moments(&t[0], &t[1], Conv::new(1, 1)) };
        let cout = y.shape().last_dim();
        let (mut means, mut variances) = (vec![0.0; cout], vec![0.0; cout]);
        let counted = moments.map_or_else(|| (y.to_vec(), 1), |s| (s.to_vec(), 3));
        for c in 0..cout {
            let (mut n, mut mean, mut square) = (0.0f64, 0.0f64, 0.0f64);
            for tile in counted.0.chunks(counted.1 * cout) {
                let part = |i: usize| tile[i * cout + c] as f64;
                let (more, other, own) = if counted.1 == 3 { (part(0), part(1), part(2)) } else { (1.0, part(0), 0.0) };
                let off = other - mean;
                square += own + off * off * n * more / (n + more);
                mean += off * more / (n + more);
                n += more;
            }
            assert_eq!(n as usize * cout, y.len(), "the tiles do not cover y");
            (means[c], variances[c]) = (mean as f32, (square / n) as f32);
        }
        let there = |v| crate::engine::device::with(&y.device(), || Tensor::from_vec(v, [cout]));
        vec![y.clone(), there(means), there(variances)]
    });
    case.input(x).input(w).bf16(&[0]).large()
}
