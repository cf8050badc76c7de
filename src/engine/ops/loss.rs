//! Losses that are means over their inputs: cross-entropy, its binary kind, the hinge loss, the Kullback-Leibler divergence.

use super::Case;
use super::reduce::{sum_blocks, sum_partials};
use super::rows::{exp_shifted, largest, parallel_total, total};
use crate::engine::device::cpu::{elementary, for_chunks, map, rows_per_chunk};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{IntTensor, Tensor, run, same_shape};

/// y = mean of ln Σ e^x - x[target] over the rows with a target >= 0: logits [N,V], targets [N] -> a scalar.
/// Without any such row it is 0.
#[track_caller]
pub fn cross_entropy(logits: &Tensor, targets: &IntTensor) -> Tensor {
    let [n, v] = logits.dims();
    let (shape, of) = (logits.shape(), targets.shape());
    assert_eq!(*of, [n], "cross_entropy: logits {shape:?} want one target a row, not {of:?}");
    if let Some(target) = targets.as_slice().iter().find(|&&t| t >= v as i32) {
        panic!("cross_entropy: {target} is no column of the logits {shape:?} (targets {of:?})");
    }
    let counted = targets.as_slice().iter().filter(|&&t| t >= 0).count().max(1);
    let dims = k::CrossEntropyDims { n: n as i32, v: v as i32, counted: counted as i32 };
    let (mut y, mut log_sums) = (logits.new_empty_f32([]), logits.new_empty_f32([n]));
    let cpu = |[y, log_sums]: [&mut [f32]; 2], [x]: [&[f32]; 1]| {
        log_sums.copy_from_slice(&map(n, |i| log_sum_exp(&x[i * v..(i + 1) * v])));
        let rows = targets.as_slice().iter().zip(log_sums.iter()).zip(x.chunks(v));
        let losses = rows.filter(|((t, _), _)| **t >= 0).map(|((&t, &l), x)| (l - x[t as usize]) as f64);
        y[0] = (losses.sum::<f64>() / counted as f64) as f32;
    };
    run("cross_entropy_fwd", [&mut y, &mut log_sums], [logits], cpu, |g, [y, log_sums], [x]| {
        let mut partial = g.scratch(2 * n);
        let grid = Grid::new([n, 1, 1], 256);
        k::loss_cross_entropy_fwd(g, grid, partial.out(), log_sums, x, targets.on(g), dims);
        sum_partials(g, y, partial.view(), 1.0, counted);
    });
    let (saved, targets) = (logits.detach(), targets.clone());
    record1(y, [logits], move |dy, _| {
        let mut dx = saved.new_empty([n, v]);
        let cpu = |[dx]: [&mut [f32]; 1], [dy, x, log_sums]: [&[f32]; 3]| {
            let (rows, factor) = (rows_per_chunk(v), (dy[0] as f64 / counted as f64) as f32);
            for_chunks(dx, rows * v, |i, dx| {
                let rest = targets.as_slice().iter().zip(log_sums).zip(x.chunks(v)).skip(i * rows);
                for (dx, ((&target, &log_sum), x)) in dx.chunks_mut(v).zip(rest) {
                    cross_entropy_row_gradient(dx, x, target, log_sum, factor);
                }
            });
        };
        run(
            "cross_entropy_bwd",
            [&mut dx],
            [&dy, &saved, &log_sums],
            cpu,
            |g, [dx], [dy, x, log_sums]| {
                k::loss_cross_entropy_bwd(g, Grid::elements(n * v), dx, dy, x, log_sums, targets.on(g), dims);
            },
        );
        [Some(dx)]
    })
}

fn log_sum_exp(x: &[f32]) -> f32 {
    let top = largest(x);
    let mut e = vec![0.0; x.len()];
    exp_shifted(&mut e, x, top);
    top + total(&e, |e| e).ln() as f32
}

/// dx = factor · (softmax(x) - onehot(target)); 0 for a row that is left out.
fn cross_entropy_row_gradient(dx: &mut [f32], x: &[f32], target: i32, log_sum: f32, factor: f32) {
    if target < 0 {
        return dx.fill(0.0);
    }
    exp_shifted(dx, x, log_sum);
    dx.iter_mut().for_each(|dx| *dx *= factor);
    dx[target as usize] -= factor;
}

/// y = mean of max(x,0) - x · target + ln(1 + e^-|x|), the binary cross-entropy of σ(x): logits [..] -> a scalar.
pub fn bce_with_logits(logits: &Tensor, target: f32) -> Tensor {
    let (mut y, n) = (logits.new_empty_f32([]), logits.len());
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        let mut losses: Vec<f32> = x.iter().map(|x| -x.abs()).collect();
        elementary::exp(&mut losses);
        losses.iter_mut().zip(x).for_each(|(l, x)| *l = x.max(0.0) - x * target + l.ln_1p());
        y[0] = (parallel_total(&losses, |l| l) / n as f64) as f32;
    };
    run("bce_with_logits_fwd", [&mut y], [logits], cpu, |g, [y], [x]| {
        let (grid, mut partial) = sum_blocks(g, n);
        k::loss_bce_fwd(g, grid, partial.out(), x, n as i32, target);
        sum_partials(g, y, partial.view(), 1.0, n);
    });
    let saved = logits.detach();
    record1(y, [logits], move |dy, _| {
        let cuda = |g: &Gpu, [dx]: [Out; 1], [x, dy]: [In; 2]| {
            k::loss_bce_bwd(g, Grid::packs(n), dx, dy, x, n as i32, target);
        };
        let cpu = |x: &mut [f32], factor: f32| {
            elementary::logistic(x);
            x.iter_mut().for_each(|x| *x = factor * (*x - target));
        };
        [Some(each("bce_with_logits_bwd", &saved, &dy, cpu, cuda))]
    })
}

/// y = mean of max(0, 1 - sign · x), the hinge loss: logits [..] -> a scalar; sign is 1 for what is to score high, else -1.
pub fn hinge(logits: &Tensor, sign: f32) -> Tensor {
    let (mut y, n) = (logits.new_empty_f32([]), logits.len());
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        y[0] = (parallel_total(x, |x| (1.0 - sign * x).max(0.0)) / n as f64) as f32;
    };
    run("hinge_fwd", [&mut y], [logits], cpu, |g, [y], [x]| {
        let (grid, mut partial) = sum_blocks(g, n);
        k::loss_hinge_fwd(g, grid, partial.out(), x, n as i32, sign);
        sum_partials(g, y, partial.view(), 1.0, n);
    });
    let saved = logits.detach();
    record1(y, [logits], move |dy, _| {
        let cuda = |g: &Gpu, [dx]: [Out; 1], [x, dy]: [In; 2]| {
            k::loss_hinge_bwd(g, Grid::packs(n), dx, dy, x, n as i32, sign);
        };
        let cpu = |x: &mut [f32], factor: f32| {
            x.iter_mut().for_each(|x| *x = if sign * *x < 1.0 { -sign * factor } else { 0.0 });
        };
        [Some(each("hinge_bwd", &saved, &dy, cpu, cuda))]
    })
}

/// y = -½ · mean(1 + logvar - mu² - e^logvar): mu, logvar [..] of one shape -> a scalar.
#[track_caller]
pub fn kl(mu: &Tensor, logvar: &Tensor) -> Tensor {
    same_shape("kl", mu, logvar);
    let (mut y, n) = (mu.new_empty_f32([]), mu.len());
    let cpu = |[y]: [&mut [f32]; 1], [mu, logvar]: [&[f32]; 2]| {
        let mut e = logvar.to_vec();
        elementary::exp(&mut e);
        e.iter_mut().zip(logvar).for_each(|(e, l)| *e = 1.0 + l - *e);
        let spread = parallel_total(&e, |e| e);
        y[0] = (-0.5 * (spread - parallel_total(mu, |m| m * m)) / n as f64) as f32;
    };
    run("kl_fwd", [&mut y], [mu, logvar], cpu, |g, [y], [mu, logvar]| {
        let (grid, mut partial) = sum_blocks(g, n);
        k::loss_kl_fwd(g, grid, partial.out(), mu, logvar, n as i32);
        sum_partials(g, y, partial.view(), -0.5, n);
    });
    let saved = [mu.detach(), logvar.detach()];
    record1(y, [mu, logvar], move |dy, [want_mu, want_logvar]| {
        let [mu, logvar] = &saved;
        let grid = Grid::packs(n);
        let dmu = want_mu.then(|| {
            each(
                "kl_bwd",
                mu,
                &dy,
                |m: &mut [f32], factor| m.iter_mut().for_each(|m| *m *= factor),
                |g, [dmu], [mu, dy]| {
                    k::loss_kl_mu_bwd(g, grid, dmu, dy, mu, n as i32);
                },
            )
        });
        let dlogvar = want_logvar.then(|| {
            let cpu = |l: &mut [f32], factor: f32| {
                elementary::exp(l);
                l.iter_mut().for_each(|l| *l = 0.5 * factor * (*l - 1.0));
            };
            each("kl_bwd", logvar, &dy, cpu, |g, [dlogvar], [logvar, dy]| {
                k::loss_kl_logvar_bwd(g, grid, dlogvar, dy, logvar, n as i32);
            })
        });
        [dmu, dlogvar]
    })
}

/// dx[i] = f(x[i], dy / n): the gradient of a mean of n terms, one an element of x.
fn each(
    name: &'static str,
    x: &Tensor,
    dy: &Tensor,
    f: impl Fn(&mut [f32], f32) + Sync + Send,
    cuda: impl FnOnce(&Gpu, [Out; 1], [In; 2]),
) -> Tensor {
    const CHUNK: usize = 16 * 1024;
    let mut dx = x.new_empty(x.shape());
    let cpu = |[dx]: [&mut [f32]; 1], [x, dy]: [&[f32]; 2]| {
        let factor = (dy[0] as f64 / x.len() as f64) as f32;
        for_chunks(dx, CHUNK, |i, dx| {
            dx.copy_from_slice(&x[i * CHUNK..][..dx.len()]);
            f(dx, factor);
        });
    };
    run(name, [&mut dx], [x, dy], cpu, cuda);
    dx
}

pub fn cases() -> Vec<Case> {
    let classes = IntTensor::new(vec![2, -1, 0, 6, 3], [5]);
    let drawn = |n: i32, v: i32| {
        IntTensor::new((0..n).map(|i| if i % 7 == 3 { -1 } else { i * 113 % v }).collect(), [n as usize])
    };
    let (text, few) = (drawn(54, 1450), drawn(17, 2112));
    vec![
        Case::new("cross_entropy", "one row left out", move |x| vec![cross_entropy(&x[0], &classes)])
            .input_in([5, 7], -3.0, 3.0)
            .bf16(&[0]),
        Case::new("cross_entropy", "many words", move |x| vec![cross_entropy(&x[0], &text)])
            .input_in([54, 1450], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("cross_entropy", "whole packs", move |x| vec![cross_entropy(&x[0], &few)])
            .input_in([17, 2112], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("bce_with_logits", "real", |x| vec![bce_with_logits(&x[0], 1.0)])
            .input_in([3, 5], -3.0, 3.0)
            .bf16(&[0]),
        Case::new("bce_with_logits", "fake", |x| vec![bce_with_logits(&x[0], 0.0)])
            .input_in([9], -3.0, 3.0)
            .bf16(&[0]),
        Case::new("bce_with_logits", "several blocks", |x| vec![bce_with_logits(&x[0], 1.0)])
            .input_in([33, 307], -3.0, 3.0)
            .large()
            .bf16(&[0]),
        // Each logit lies on one side of the kink.
        Case::new("hinge", "within the margin", |x| vec![hinge(&x[0], 1.0)]).input_in([3, 5], -3.0, 0.9).bf16(&[0]),
        Case::new("hinge", "beyond it", |x| vec![hinge(&x[0], 1.0)]).input_in([3, 5], 1.1, 3.0).bf16(&[0]),
        Case::new("hinge", "fake", |x| vec![hinge(&x[0], -1.0)]).input_in([9], -0.9, 3.0).bf16(&[0]),
        Case::new("hinge", "several blocks", |x| vec![hinge(&x[0], -1.0)])
            .input_in([33, 307], -0.9, 3.0)
            .large()
            .bf16(&[0]),
        Case::new("kl", "", |x| vec![kl(&x[0], &x[1])]).input([4, 5]).input([4, 5]).bf16(&[0, 1]),
        Case::new("kl", "several blocks", |x| vec![kl(&x[0], &x[1])])
            .input([101, 103])
            .input([101, 103])
            .large()
            .bf16(&[0, 1]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_is_stable_and_leaves_rows_out() {
        let x = Tensor::from_vec(vec![1e4, 0.0, 0.0, -1e4, 5.0, 5.0], [3, 2]);
        let loss = |targets: [i32; 3]| cross_entropy(&x, &IntTensor::new(targets.into(), [3])).item();
        assert_eq!(loss([0, 0, -1]), 0.0);
        assert_eq!(loss([1, -1, -1]), 1e4);
        assert!((loss([-1, -1, 0]) - std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(loss([-1; 3]), 0.0);
    }

    #[test]
    fn over_many_chunks_the_gradient_is_softmax_less_the_target() {
        let (n, v) = (500, 301);
        let x = crate::engine::tensor::Rng::new(4, 0).normal([n, v]).leaf();
        let targets =
            IntTensor::new((0..n as i32).map(|i| if i % 5 == 0 { -1 } else { i * 7 % 301 }).collect(), [n]);
        let grads = crate::engine::tensor::backward(&cross_entropy(&x, &targets), &[&x]);
        let p = crate::engine::ops::softmax::softmax(&x.detach());
        for (i, g) in grads.get(&x).unwrap().as_slice().iter().enumerate() {
            let target = targets.as_slice()[i / v];
            let onehot = if target == (i % v) as i32 { 1.0 } else { 0.0 };
            let expected = if target < 0 { 0.0 } else { (p.as_slice()[i] - onehot) / 400.0 };
            assert!((g - expected).abs() < 1e-8, "{i}: {g} {expected}");
        }
    }

    #[test]
    fn binary_cross_entropy_is_stable() {
        let x = Tensor::from_vec(vec![200.0, -200.0], [2]);
        assert_eq!([bce_with_logits(&x, 1.0).item(), bce_with_logits(&x, 0.0).item()], [100.0, 100.0]);
    }
}
