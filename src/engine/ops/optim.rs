//! Steps of an optimiser, in place and off the tape.

use rayon::prelude::*;

use super::Case;
use super::reduce::parallel_total;
use crate::engine::device::cpu::for_chunks;
use crate::engine::tensor::{Tensor, run, same_shape};

const CHUNK: usize = 16 * 1024;

/// Adam's constants; `step` counts from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub step: u64,
}

/// One step of Adam, as PyTorch computes it:
/// m += (1 - β₁)(g - m),  v = β₂ v + (1 - β₂) g²,  p -= lr / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + eps).
#[track_caller]
pub fn adam(p: &mut Tensor, g: &Tensor, m: &mut Tensor, v: &mut Tensor, at: &AdamStep) {
    for other in [g, m, v] {
        same_shape("adam", p, other);
    }
    let bias = |beta: f64| 1.0 - beta.powf(at.step as f64);
    let (rate, root) = ((at.lr / bias(at.beta1)) as f32, bias(at.beta2).sqrt() as f32);
    let (new1, new2) = ((1.0 - at.beta1) as f32, (1.0 - at.beta2) as f32);
    let (keep2, eps) = (at.beta2 as f32, at.eps as f32);
    run("adam", [p, m, v], [g], |[p, m, v], [g]| {
        let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(moments).for_each(|((p, g), (m, v))| {
            for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                *m += new1 * (g - *m);
                *v = keep2 * *v + new2 * g * g;
                *p -= rate * (*m / (v.sqrt() / root + eps));
            }
        });
    });
}

/// avg = decay · avg + (1 - decay) · p
#[track_caller]
pub fn ema(avg: &mut Tensor, p: &Tensor, decay: f64) {
    same_shape("ema", avg, p);
    let (keep, new) = (decay as f32, (1.0 - decay) as f32);
    run("ema", [avg], [p], |[avg], [p]| {
        for_chunks(avg, CHUNK, |i, avg| {
            avg.iter_mut().zip(&p[i * CHUNK..]).for_each(|(avg, p)| *avg = keep * *avg + new * p);
        });
    });
}

/// Σ x²
pub fn squared_norm(x: &Tensor) -> f64 {
    parallel_total(x.as_slice(), |x| x * x)
}

pub fn cases() -> Vec<Case> {
    let at = AdamStep { lr: 2e-4, beta1: 0.5, beta2: 0.999, eps: 1e-8, step: 3 };
    let step = move |x: &[Tensor]| {
        let [mut p, mut m, mut v] = [&x[0], &x[2], &x[3]].map(Tensor::detach);
        adam(&mut p, &x[1], &mut m, &mut v, &at);
        vec![p, m, v]
    };
    let average = |x: &[Tensor]| {
        let mut avg = x[0].detach();
        ema(&mut avg, &x[1], 0.999);
        vec![avg]
    };
    vec![
        Case::new("adam", "", step)
            .constant([5, 7], -1.0, 1.0)
            .constant([5, 7], -1.0, 1.0)
            .constant([5, 7], -1.0, 1.0)
            .constant([5, 7], 0.0, 1.0),
        Case::new("ema", "", average).constant([5, 7], -1.0, 1.0).constant([5, 7], -1.0, 1.0),
        Case::new("squared_norm", "", |x| vec![Tensor::scalar(squared_norm(&x[0]) as f32)])
            .constant([5, 7], -1.0, 1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    #[test]
    fn adam_follows_its_formula() {
        let at = AdamStep { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 0 };
        let start = Rng::new(1, 0).normal([40_000]);
        let (mut p, mut m, mut v) = (start.clone(), Tensor::zeros([40_000]), Tensor::zeros([40_000]));
        let grads: Vec<_> = (1..=5).map(|stream| Rng::new(1, stream).normal([40_000])).collect();
        for (step, g) in (1..).zip(&grads) {
            adam(&mut p, g, &mut m, &mut v, &AdamStep { step, ..at });
        }
        for i in (0..40_000).step_by(997) {
            let (mut x, mut m, mut v) = (start.as_slice()[i] as f64, 0.0, 0.0);
            for (t, g) in (1..).zip(&grads) {
                let g = g.as_slice()[i] as f64;
                m = at.beta1 * m + (1.0 - at.beta1) * g;
                v = at.beta2 * v + (1.0 - at.beta2) * g * g;
                let (m, v) = (m / (1.0 - at.beta1.powi(t)), v / (1.0 - at.beta2.powi(t)));
                x -= at.lr * m / (v.sqrt() + at.eps);
            }
            assert!((p.as_slice()[i] as f64 - x).abs() < 1e-6, "{} {x}", p.as_slice()[i]);
        }
    }

    #[test]
    fn an_average_and_a_norm() {
        let (mut avg, p) = (Tensor::full([3], 2.0), Tensor::full([3], 4.0));
        ema(&mut avg, &p, 0.75);
        assert_eq!(avg.to_vec(), [2.5; 3]);
        assert_eq!(squared_norm(&p), 48.0);
    }
}
