//! Element by element: sums, products, scales, activations, the gated linear unit, reparameterization.

use super::Case;
use super::reduce::sum;
use super::rows::{glu_rows, glu_rows_bwd};
use crate::engine::device::cpu::{elementary, for_chunks};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::{record_many, record1};
use crate::engine::tensor::{Tensor, run, same_shape};

const CHUNK: usize = 16 * 1024;

/// y = f(x), where f changes what it is given in place.
#[track_caller]
fn map1(
    name: &'static str,
    x: &Tensor,
    f: impl Fn(&mut [f32]) + Sync + Send,
    cuda: impl FnOnce(&Gpu, Grid, Out, In, i32),
) -> Tensor {
    let mut y = x.new_empty(x.shape());
    let n = x.len();
    run(
        name,
        [&mut y],
        [x],
        |[y], [x]| {
            for_chunks(y, CHUNK, |i, y| {
                y.copy_from_slice(&x[i * CHUNK..][..y.len()]);
                f(y);
            });
        },
        |g, [y], [x]| cuda(g, Grid::packs(n), y, x, n as i32),
    );
    y
}

/// y[i] = f(a[i], b[i])
#[track_caller]
fn map2(
    name: &'static str,
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Sync + Send,
    cuda: impl FnOnce(&Gpu, Grid, Out, In, In, i32),
) -> Tensor {
    let mut y = a.new_empty(a.shape());
    let n = a.len();
    let cpu = |[y]: [&mut [f32]; 1], [a, b]: [&[f32]; 2]| {
        for_chunks(y, CHUNK, |i, y| {
            let rest = a[i * CHUNK..].iter().zip(&b[i * CHUNK..]);
            y.iter_mut().zip(rest).for_each(|(y, (&a, &b))| *y = f(a, b));
        });
    };
    run(name, [&mut y], [a, b], cpu, |g, [y], [a, b]| cuda(g, Grid::packs(n), y, a, b, n as i32));
    y
}

/// y = a + b
#[track_caller]
pub fn add(a: &Tensor, b: &Tensor) -> Tensor {
    same_shape("add", a, b);
    let y = map2("add_fwd", a, b, |a, b| a + b, k::add_fwd);
    record1(y, [a, b], |dy, _| [Some(dy.clone()), Some(dy)])
}

/// y = Σ terms, all of one shape.
#[track_caller]
pub fn add_all(terms: &[&Tensor]) -> Tensor {
    let (first, rest) = terms.split_first().expect("add_all wants at least one term");
    let mut y = first.detach();
    for term in rest {
        same_shape("add_all", first, term);
        y = map2("add_fwd", &y, &term.detach(), |a, b| a + b, k::add_fwd);
    }
    let n = terms.len();
    record_many(vec![y], terms.iter().copied(), move |mut dys, _| vec![dys.swap_remove(0); n]).swap_remove(0)
}

/// y = a · b
#[track_caller]
pub fn mul(a: &Tensor, b: &Tensor) -> Tensor {
    same_shape("mul", a, b);
    let y = map2("mul_fwd", a, b, |a, b| a * b, k::mul_fwd);
    let (sa, sb) = (a.detach(), b.detach());
    record1(y, [a, b], move |dy, [wa, wb]| {
        let product = |x: &Tensor| map2("mul_bwd", &dy, x, |d, x| d * x, k::mul_fwd);
        [wa.then(|| product(&sb)), wb.then(|| product(&sa))]
    })
}

/// y = factor · x
pub fn scale(x: &Tensor, factor: f32) -> Tensor {
    let times = move |name, x: &Tensor| {
        let cpu = |x: &mut [f32]| x.iter_mut().for_each(|x| *x *= factor);
        map1(name, x, cpu, |g, grid, y, x, n| k::scale_fwd(g, grid, y, x, factor, n))
    };
    record1(times("scale_fwd", x), [x], move |dy, _| [Some(times("scale_bwd", &dy))])
}

/// y[..,C] = x[..,C] · scale[C] + shift[C], both constants in f32.
#[track_caller]
pub fn affine_channels(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Tensor {
    let c = x.shape().last_dim();
    for by_channel in [scale.shape(), shift.shape()] {
        assert_eq!(*by_channel, [c], "affine_channels: {by_channel:?} are not the channels of {:?}", x.shape());
    }
    let scale = scale.detach();
    let y = scaled_channels("affine_channels_fwd", x, &scale, Some(shift));
    record1(y, [x], move |dy, _| [Some(scaled_channels("affine_channels_bwd", &dy, &scale, None))])
}

/// y = x · scale + shift by channel; an absent shift is none.
#[track_caller]
fn scaled_channels(name: &'static str, x: &Tensor, scale: &Tensor, shift: Option<&Tensor>) -> Tensor {
    let (mut y, n, c) = (x.new_empty(x.shape()), x.len(), scale.len());
    let rows = (CHUNK / c.max(1)).max(1);
    run(
        name,
        [&mut y],
        (x, scale, shift),
        |[y], (x, scale, shift)| {
            for_chunks(y, rows * c, |i, y| {
                for (y, x) in y.chunks_mut(c).zip(x[i * rows * c..].chunks(c)) {
                    y.iter_mut().zip(x.iter().zip(scale)).for_each(|(y, (x, scale))| *y = x * scale);
                    if let Some(shift) = shift {
                        y.iter_mut().zip(shift).for_each(|(y, shift)| *y += shift);
                    }
                }
            });
        },
        |g, [y], (x, scale, shift)| {
            k::affine_channels_fwd(g, Grid::packs(n), y, x, scale, shift, n as i32, c as i32);
        },
    );
    y
}

/// y = tanh(x)
pub fn tanh(x: &Tensor) -> Tensor {
    let y = map1("tanh_fwd", x, elementary::tanh, k::tanh_fwd);
    let saved = y.detach();
    record1(y, [x], move |dy, _| [Some(map2("tanh_bwd", &dy, &saved, |d, y| d * (1.0 - y * y), k::tanh_bwd))])
}

/// y = √x; its gradient at 0 is infinite.
pub fn sqrt(x: &Tensor) -> Tensor {
    let cpu = |x: &mut [f32]| x.iter_mut().for_each(|x| *x = x.sqrt());
    let y = map1("sqrt_fwd", x, cpu, k::sqrt_fwd);
    let saved = y.detach();
    record1(y, [x], move |dy, _| [Some(map2("sqrt_bwd", &dy, &saved, |d, y| 0.5 * d / y, k::sqrt_bwd))])
}

/// y = x / s, s a scalar in f32.
#[track_caller]
pub fn div_by(x: &Tensor, s: &Tensor) -> Tensor {
    assert_eq!(s.len(), 1, "div_by: {:?} is no scalar", s.shape());
    let y = divided("div_by_fwd", x, s);
    let (saved, s) = ([y.detach(), s.detach()], s);
    record1(y, [x, s], move |dy, [want_x, want_s]| {
        let [y, s] = &saved;
        let ds = || scale(&divided("div_by_bwd", &sum(&mul(&dy, y)), s), -1.0).reshape(s.shape());
        [want_x.then(|| divided("div_by_bwd", &dy, s)), want_s.then(ds)]
    })
}

fn divided(name: &'static str, x: &Tensor, s: &Tensor) -> Tensor {
    let (mut y, n) = (x.new_empty(x.shape()), x.len());
    let cpu = |[y]: [&mut [f32]; 1], [x, s]: [&[f32]; 2]| {
        for_chunks(y, CHUNK, |i, y| y.iter_mut().zip(&x[i * CHUNK..]).for_each(|(y, x)| *y = x / s[0]));
    };
    run(name, [&mut y], [x, s], cpu, |g, [y], [x, s]| k::div_by_fwd(g, Grid::packs(n), y, x, s, n as i32));
    y
}

/// y = σ(x) = 1 / (1 + e^-x)
pub fn sigmoid(x: &Tensor) -> Tensor {
    let y = map1("sigmoid_fwd", x, elementary::logistic, k::sigmoid_fwd);
    let saved = y.detach();
    record1(y, [x], move |dy, _| {
        [Some(map2("sigmoid_bwd", &dy, &saved, |d, y| d * y * (1.0 - y), k::sigmoid_bwd))]
    })
}

/// GLU over the last dimension: y = a · σ(b) with x = [a | b].
#[track_caller]
pub fn glu(x: &Tensor) -> Tensor {
    let wide = x.shape().last_dim();
    assert!(wide.is_multiple_of(2), "glu splits the last dimension in two; {:?} is odd", x.shape());
    let (c, rows) = (wide / 2, (CHUNK / wide).max(1));
    let (all, half) = (x.shape().rows() as i32, c as i32);
    let mut y = x.new_empty(x.shape().with_last(c));
    let grid = Grid::packs(y.len());
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        for_chunks(y, rows * c, |i, y| {
            glu_rows(y, &x[i * rows * wide..][..2 * y.len()], c);
        });
    };
    run("glu_fwd", [&mut y], [x], cpu, |g, [y], [x]| k::glu_fwd(g, grid, y, x, all, half));
    let saved = x.detach();
    record1(y, [x], move |dy, _| {
        let mut dx = saved.new_empty(saved.shape());
        let cpu = |[dx]: [&mut [f32]; 1], [dy, x]: [&[f32]; 2]| {
            for_chunks(dx, rows * wide, |i, dx| {
                dx.copy_from_slice(&x[i * rows * wide..][..dx.len()]);
                glu_rows_bwd(dx, &dy[i * rows * c..][..dx.len() / 2], c);
            });
        };
        run("glu_bwd", [&mut dx], [&dy, &saved], cpu, |g, [dx], [dy, x]| {
            k::glu_bwd(g, grid, dx, dy, x, all, half);
        });
        [Some(dx)]
    })
}

/// Reparameterization: c = mu + e^(logvar/2) · eps; eps is noise, always f32.
#[track_caller]
pub fn reparameterize(mu: &Tensor, logvar: &Tensor, eps: &Tensor) -> Tensor {
    same_shape("reparameterize", mu, logvar);
    same_shape("reparameterize", mu, eps);
    let (mut y, mut spread) = (mu.new_empty(mu.shape()), mu.new_empty(mu.shape()));
    let n = mu.len();
    let cpu = |[y, spread]: [&mut [f32]; 2], [mu, logvar, eps]: [&[f32]; 3]| {
        for_chunks(spread, CHUNK, |i, s| {
            s.iter_mut().zip(&logvar[i * CHUNK..]).for_each(|(s, l)| *s = 0.5 * l);
            elementary::exp(s);
            s.iter_mut().zip(&eps[i * CHUNK..]).for_each(|(s, e)| *s *= e);
        });
        for_chunks(y, CHUNK, |i, y| {
            let rest = mu[i * CHUNK..].iter().zip(&spread[i * CHUNK..]);
            y.iter_mut().zip(rest).for_each(|(y, (m, s))| *y = m + s);
        });
    };
    run(
        "reparameterize_fwd",
        [&mut y, &mut spread],
        [mu, logvar, eps],
        cpu,
        |g, [y, s], [mu, logvar, eps]| {
            k::reparameterize_fwd(g, Grid::elements(n), y, s, mu, logvar, eps, n as i32);
        },
    );
    record1(y, [mu, logvar], move |dy, _| {
        let dl = map2("reparameterize_bwd", &dy, &spread, |d, s| 0.5 * d * s, k::reparameterize_bwd);
        [Some(dy), Some(dl)]
    })
}

pub fn cases() -> Vec<Case> {
    const BOTH: &[usize] = &[0, 1];
    const ONE: &[usize] = &[0];
    let reparameterized =
        |name| Case::new("reparameterize", name, |x| vec![reparameterize(&x[0], &x[1], &x[2])]);
    let affine = |name| Case::new("affine_channels", name, |x| vec![affine_channels(&x[0], &x[1], &x[2])]);
    vec![
        Case::new("add", "", |x| vec![add(&x[0], &x[1])]).input([3, 5]).input([3, 5]).bf16(BOTH),
        Case::new("add", "large", |x| vec![add(&x[0], &x[1])])
            .input([40_003])
            .input([40_003])
            .bf16(BOTH)
            .large(),
        Case::new("add_all", "three terms", |x| vec![add_all(&[&x[0], &x[1], &x[0]])])
            .input([7])
            .input([7])
            .bf16(BOTH),
        Case::new("mul", "", |x| vec![mul(&x[0], &x[1])]).input([2, 3, 4]).input([2, 3, 4]).bf16(BOTH),
        Case::new("mul", "large", |x| vec![mul(&x[0], &x[1])])
            .input([2, 33, 33, 17])
            .input([2, 33, 33, 17])
            .bf16(BOTH)
            .large(),
        Case::new("scale", "", |x| vec![scale(&x[0], -1.7)]).input([11]).bf16(ONE),
        Case::new("scale", "large", |x| vec![scale(&x[0], -1.7)]).input([123, 457]).bf16(ONE).large(),
        affine("three channels").input([2, 5, 7, 3]).constant([3], 0.5, 2.0).constant([3], -1.0, 1.0).bf16(ONE),
        affine("many channels")
            .input([2, 17, 19, 40])
            .constant([40], 0.5, 2.0)
            .constant([40], -1.0, 1.0)
            .bf16(ONE)
            .large(),
        Case::new("tanh", "", |x| vec![tanh(&x[0])]).input_in([4, 9], -2.0, 2.0).bf16(ONE),
        Case::new("tanh", "image", |x| vec![tanh(&x[0])])
            .input_in([2, 64, 64, 3], -6.0, 6.0)
            .bf16(ONE)
            .large(),
        Case::new("sqrt", "", |x| vec![sqrt(&x[0])]).input_in([4, 9], 0.2, 3.0).bf16(ONE),
        Case::new("sqrt", "large", |x| vec![sqrt(&x[0])]).input_in([20_003], 0.2, 3.0).bf16(ONE).large(),
        Case::new("div_by", "", |x| vec![div_by(&x[0], &x[1])]).input([3, 7]).input_in([1, 1], 0.5, 2.0).bf16(ONE),
        Case::new("div_by", "large", |x| vec![div_by(&x[0], &x[1])])
            .input([16, 4, 4, 81])
            .input_in([], 0.5, 2.0)
            .bf16(ONE)
            .large(),
        Case::new("sigmoid", "", |x| vec![sigmoid(&x[0])]).input_in([4, 9], -3.0, 3.0).bf16(ONE),
        Case::new("sigmoid", "large", |x| vec![sigmoid(&x[0])])
            .input_in([20_001], -30.0, 30.0)
            .bf16(ONE)
            .large(),
        Case::new("glu", "image", |x| vec![glu(&x[0])]).input([2, 3, 3, 8]).bf16(ONE),
        Case::new("glu", "row", |x| vec![glu(&x[0])]).input([3, 10]).bf16(ONE),
        Case::new("glu", "large", |x| vec![glu(&x[0])]).input([2, 16, 16, 128]).bf16(ONE).large(),
        Case::new("glu", "odd", |x| vec![glu(&x[0])]).input([1023, 34]).bf16(ONE).large(),
        reparameterized("").input([3, 5]).input([3, 5]).constant([3, 5], -2.0, 2.0).bf16(BOTH),
        reparameterized("large")
            .input([20, 100])
            .input([20, 100])
            .constant([20, 100], -2.0, 2.0)
            .bf16(BOTH)
            .large(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affine_map_by_channel_is_a_norm_of_given_moments() {
        use crate::engine::ops::norm::{Activation, batch_norm_eval};
        use crate::engine::tensor::{Rng, backward};
        let x = Rng::new(4, 0).normal([3, 50, 70, 3]).leaf();
        let [mean, variance] = [[-0.03, -0.088, -0.188], [0.209_764, 0.200_704, 0.2025]]
            .map(|by_channel| Tensor::from_vec(by_channel.to_vec(), [3]));
        let scale: Vec<f32> = variance.as_slice().iter().map(|&v| (1.0 / f64::from(v).sqrt()) as f32).collect();
        let shift: Vec<f32> = mean.as_slice().iter().zip(&scale).map(|(m, s)| -(m * s)).collect();
        let affine = affine_channels(&x, &Tensor::from_vec(scale, [3]), &Tensor::from_vec(shift, [3]));
        let (one, zero) = (Tensor::full([3], 1.0), Tensor::zeros([3]));
        let norm = batch_norm_eval(&x, &one, &zero, &mean, &variance, Activation::None, None, 0.0);
        assert_eq!(affine.to_vec(), norm.to_vec());
        let probe = Rng::new(4, 1).normal(x.shape());
        let [found, expected] = [affine, norm].map(|y| {
            let loss = crate::engine::ops::reduce::sum(&mul(&y, &probe));
            backward(&loss, &[&x]).take(&x).expect("the sum depends on x").to_vec()
        });
        assert_eq!(found, expected);
    }
}
