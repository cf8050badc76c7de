//! The shapes that the tests and the benchmark run batch normalization on.

use super::{Activation, BatchNorm, batch_norm_eval, batch_norm_track, batch_norm_train, batch_norm_train_with_moments};
use crate::engine::ops::Case;
use crate::engine::tensor::Tensor;

/// The moments [tiles,3,C] of tiles of `depth` rows, as a convolution hands them on.
fn moments_of(x: &Tensor, depth: usize) -> Tensor {
    let (values, c) = (x.to_vec(), x.shape().last_dim());
    let tiles = values.chunks(depth * c).flat_map(|tile| {
        let n = (tile.len() / c) as f64;
        let channel = |j: usize| tile.iter().skip(j).step_by(c).map(|&x| f64::from(x));
        let mean: Vec<f64> = (0..c).map(|j| channel(j).sum::<f64>() / n).collect();
        let squares = (0..c).map(|j| channel(j).map(|x| (x - mean[j]).powi(2)).sum::<f64>());
        let all: Vec<f64> = vec![n; c].into_iter().chain(mean.iter().copied()).chain(squares).collect();
        all.into_iter().map(|x| x as f32)
    });
    let moments: Vec<f32> = tiles.collect();
    let shape = [moments.len() / (3 * c), 3, c];
    Tensor::from_vec(moments, shape)
}

pub fn cases() -> Vec<Case> {
    const EPS: f32 = 1e-5;
    const X: &[usize] = &[0];
    let stored = |case: Case, residual: Option<(&'static [usize], &[usize])>| match residual {
        Some((bf16, shape)) => case.input(shape).bf16(bf16),
        None => case.bf16(X),
    };
    // The moments are off the tape, so finite differences must not see them.
    let results = |batch: BatchNorm, large: bool| {
        if large { vec![batch.y, batch.mean, batch.variance] } else { vec![batch.y] }
    };
    let sized = |case: Case, large: bool| if large { case.large() } else { case };
    let train = |name, act: Activation, shape: &[usize], residual: bool| {
        let large = shape.iter().product::<usize>() > 1000;
        let run =
            move |x: &[Tensor]| results(batch_norm_train(&x[0], &x[1], &x[2], act, x.get(3), EPS), large);
        let c = *shape.last().unwrap();
        let case = Case::new("batch_norm_train", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        sized(stored(case, residual.then_some((&[0, 3], shape))), large)
    };
    let with_moments = |name, act: Activation, shape: &[usize], depth: usize| {
        let large = shape.iter().product::<usize>() > 1000;
        let run = move |x: &[Tensor]| {
            let moments = moments_of(&x[0], depth);
            results(batch_norm_train_with_moments(&x[0], Some(&moments), &x[1], &x[2], act, None, EPS), large)
        };
        let c = *shape.last().unwrap();
        let case =
            Case::new("batch_norm_train_with_moments", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        sized(case.bf16(X), large)
    };
    let eval = |name, act: Activation, shape: &[usize], residual: bool| {
        let run =
            move |x: &[Tensor]| vec![batch_norm_eval(&x[0], &x[1], &x[2], &x[3], &x[4], act, x.get(5), EPS)];
        let c = *shape.last().unwrap();
        let case = Case::new("batch_norm_eval", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        let case = case.constant([c], -0.5, 0.5).constant([c], 0.5, 1.5);
        stored(case, residual.then_some((&[0, 5], shape)))
    };
    let steep = |name, act: Activation, shape: &[usize]| {
        let run = move |x: &[Tensor]| vec![batch_norm_eval(&x[0], &x[1], &x[2], &x[3], &x[4], act, None, EPS)];
        let c = *shape.last().unwrap();
        let case = Case::new("batch_norm_eval", name, run).input(shape).input_in([c], 9.0, 12.0).input([c]);
        case.constant([c], -0.5, 0.5).constant([c], 0.5, 1.5).bf16(X)
    };
    let cut = Case::new("batch_norm_eval", "relu6, cut off", |x| {
        vec![batch_norm_eval(&x[0], &x[1], &x[2], &x[3], &x[4], Activation::Relu6, None, EPS)]
    });
    let cut = cut.input([2, 3, 4, 5]).input_in([5], 0.5, 1.5).input_in([5], 10.0, 12.0);
    let cut = cut.constant([5], -0.5, 0.5).constant([5], 0.5, 1.5).bf16(X);
    let track = |x: &[Tensor]| {
        let [mut mean, mut variance, mut batches] = [&x[0], &x[1], &x[4]].map(Tensor::detach);
        batch_norm_track([&mut mean, &mut variance, &mut batches], [&x[2], &x[3]], 0.1, 1.25);
        vec![mean, variance, batches]
    };
    let moments_alone = |x: &[Tensor]| {
        let batch = batch_norm_train(&x[0], &x[1], &x[1], Activation::None, None, EPS);
        vec![batch.mean, batch.variance]
    };
    let leaky = Activation::LeakyRelu(0.2);
    vec![
        Case::new("batch_norm_train", "moments far from zero", moments_alone)
            .constant([20_003, 4], 999.0, 1001.0)
            .constant([4], 0.5, 1.5)
            .bf16(X)
            .large(),
        train("plain", Activation::None, &[2, 3, 4, 5], false),
        train("residual", Activation::None, &[2, 3, 4, 5], true),
        train("relu", Activation::Relu, &[2, 3, 3, 4], false),
        train("relu6", Activation::Relu6, &[2, 3, 3, 4], false),
        train("leaky relu", leaky, &[2, 3, 3, 4], false),
        train("relu of a residual", Activation::Relu, &[2, 3, 3, 4], true),
        train("glu", Activation::Glu, &[2, 3, 3, 8], false),
        train("glu of rows", Activation::Glu, &[6, 10], false),
        train("3 channels", leaky, &[2, 41, 43, 3], false),
        train("17 channels", Activation::Relu, &[3, 29, 31, 17], true),
        train("32 channels", Activation::None, &[2, 32, 32, 32], true),
        train("64 channels", leaky, &[2, 45, 45, 64], false),
        train("128 channels gated", Activation::Glu, &[2, 24, 24, 128], false),
        train("34 channels gated", Activation::Glu, &[2, 31, 33, 34], false),
        train("24 channels gated", Activation::Glu, &[2, 31, 33, 24], false),
        train("1024 channels", Activation::Relu, &[4, 4, 4, 1024], false),
        train("16384 gated rows", Activation::Glu, &[20, 16384], false),
        with_moments("plain", leaky, &[2, 3, 3, 4], 5),
        with_moments("many tiles", Activation::Glu, &[1, 67, 61, 8], 3),
        eval("plain", Activation::None, &[2, 3, 4, 5], false),
        eval("residual", Activation::None, &[2, 3, 4, 5], true),
        eval("leaky relu of a residual", leaky, &[2, 3, 3, 4], true),
        eval("relu6", Activation::Relu6, &[2, 3, 4, 5], false),
        cut,
        steep("relu6, both ends, large", Activation::Relu6, &[2, 23, 21, 40]).large(),
        eval("glu", Activation::Glu, &[2, 3, 3, 8], false),
        eval("large", Activation::Relu, &[2, 37, 37, 64], true).large(),
        eval("large glu", Activation::Glu, &[2, 37, 37, 64], false).large(),
        Case::new("batch_norm_track", "", track)
            .constant([300], -1.0, 1.0)
            .constant([300], 0.0, 1.0)
            .constant([300], -1.0, 1.0)
            .constant([300], 0.0, 1.0)
            .constant([], 7.0, 8.0),
    ]
}
