//! Steps of an optimizer, in place and off the tape.

use super::Case;
use super::rows::parallel_total;
use crate::engine::device::cpu::for_each;
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::{Tensor, run, same_shape};

const CHUNK: usize = 16 * 1024;
/// Elements that a block of the kernels takes (`CHUNK` there).
const BLOCK: usize = 8192;

/// Adam's constants; `step` counts from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub step: u64,
    /// What gradients are multiplied by first.
    pub factor: f32,
    /// The share of the old average in the new.
    pub decay: f64,
}

/// A parameter p, its gradient g, the gradient's running moments m and v, and the parameter's average: one shape.
pub struct Slot<'a> {
    pub p: &'a mut Tensor,
    pub g: Option<&'a Tensor>,
    pub m: &'a mut Tensor,
    pub v: &'a mut Tensor,
    pub average: Option<&'a mut Tensor>,
}

impl k::AdamDims {
    /// What [`AdamStep`] puts into the formula of both devices, named as in PyTorch's Adam.
    fn new(at: &AdamStep) -> k::AdamDims {
        let bias_correction = |beta: f64| 1.0 - beta.powf(at.step as f64);
        k::AdamDims {
            slots: 0,
            factor: at.factor,
            one_minus_beta1: (1.0 - at.beta1) as f32,
            beta2: at.beta2 as f32,
            one_minus_beta2: (1.0 - at.beta2) as f32,
            step_size: (at.lr / bias_correction(at.beta1)) as f32,
            bias_correction2_sqrt: bias_correction(at.beta2).sqrt() as f32,
            eps: at.eps as f32,
            decay: at.decay as f32,
            one_minus_decay: (1.0 - at.decay) as f32,
        }
    }

    fn update(&self, Chunk { p, m, v, g, average }: Chunk) {
        let c = *self;
        if let Some(g) = g {
            for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                let g = c.factor * g;
                *m += c.one_minus_beta1 * (g - *m);
                *v = c.beta2 * *v + c.one_minus_beta2 * g * g;
                *p -= c.step_size * (*m / (v.sqrt() / c.bias_correction2_sqrt + c.eps));
            }
        }
        if let Some(average) = average {
            let pairs = average.iter_mut().zip(p);
            pairs.for_each(|(average, p)| *average = c.decay * *average + c.one_minus_decay * *p);
        }
    }
}

/// A part of one parameter, small enough to stay in the cache for its average.
struct Chunk<'a> {
    p: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    g: Option<&'a [f32]>,
    average: Option<&'a mut [f32]>,
}

/// The chunks of one parameter.
fn chunks<'a>(
    ([p, m, v], average): OnCpu<'a>,
    g: Option<&'a [f32]>,
) -> impl Iterator<Item = Chunk<'a>> {
    let mut g = g.map(|g| g.chunks(CHUNK));
    let mut average = average.map(|average| average.chunks_mut(CHUNK));
    let moments = m.chunks_mut(CHUNK).zip(v.chunks_mut(CHUNK));
    p.chunks_mut(CHUNK).zip(moments).map(move |(p, (m, v))| Chunk {
        p,
        m,
        v,
        g: g.as_mut().and_then(Iterator::next),
        average: average.as_mut().and_then(Iterator::next),
    })
}

/// [p, m, v] and the average of one parameter.
type OnCpu<'a> = ([&'a mut [f32]; 3], Option<&'a mut [f32]>);
type OnCuda = ([Out; 3], Option<Out>);

/// One step of Adam for all slots, as PyTorch computes it, and of their averages; with g times the factor:
/// m += (1 - β₁)(g - m),  v = β₂ v + (1 - β₂) g²,  p -= lr / (1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + eps),
/// average = decay · average + (1 - decay) · p. Without a gradient only the average changes.
#[track_caller]
pub fn adam(slots: Vec<Slot<'_>>, at: &AdamStep) {
    let constants = k::AdamDims::new(at);
    let (mut outs, mut gradients) = (Vec::with_capacity(slots.len()), Vec::with_capacity(slots.len()));
    for Slot { p, g, m, v, average } in slots {
        for other in g.into_iter().chain([&*m, &*v]).chain(average.as_deref()) {
            same_shape("adam", p, other);
        }
        outs.push(([p, m, v], average));
        gradients.push(g);
    }
    let cpu = |outs: Vec<OnCpu>, gradients: Vec<Option<&[f32]>>| {
        let all = outs.into_iter().zip(gradients).flat_map(|(out, g)| chunks(out, g));
        for_each(all.collect(), |chunk| constants.update(chunk));
    };
    let cuda = |g: &Gpu, outs: Vec<OnCuda>, gradients: Vec<Option<In>>| {
        let (mut rows, mut first) = (Vec::with_capacity(outs.len()), 0);
        for (([p, m, v], average), g) in outs.into_iter().zip(gradients) {
            let row = k::AdamSlot {
                p: p.address(),
                g: g.map_or(0, |g| g.address()),
                m: m.address(),
                v: v.address(),
                average: average.map_or(0, |average| average.address()),
                len: p.len() as i32,
                first,
            };
            first += p.len().div_ceil(BLOCK) as i32;
            rows.extend((!p.is_empty()).then_some(row));
        }
        k::adam(g, Grid::new([first as usize, 1, 1], 256), &g.upload(&rows), k::AdamDims { slots: rows.len() as i32, ..constants });
    };
    run("adam", outs, gradients.as_slice(), cpu, cuda);
}

/// Σ x² over all of `xs`.
#[track_caller]
pub fn squared_norm(xs: &[&Tensor]) -> f64 {
    let Some(first) = xs.first() else { return 0.0 };
    let (mut parts, mut total) = (first.new_empty_f32([2]), None);
    let cpu = |_: Vec<&mut [f32]>, xs: Vec<&[f32]>| {
        total = Some(xs.iter().map(|x| parallel_total(x, |x| x * x)).sum());
    };
    run("squared_norm", vec![&mut parts], xs, cpu, |g, outs, xs| {
        let (mut rows, mut chunks) = (Vec::with_capacity(xs.len()), 0);
        for x in xs.iter().filter(|x| !x.is_empty()) {
            rows.push(k::NormSlot { x: x.address(), len: x.len() as i32, first: chunks });
            chunks += x.len().div_ceil(BLOCK) as i32;
        }
        let mut sums = g.scratch(2 * chunks as usize);
        let grid = Grid::new([chunks as usize, 1, 1], 256);
        k::squared_norm_parts(g, grid, sums.out(), &g.upload(&rows), rows.len() as i32);
        k::squared_norm_total(g, Grid::new([1, 1, 1], 256), outs[0], sums.view(), chunks);
    });
    total.unwrap_or_else(|| parts.to_vec().iter().map(|&x| f64::from(x)).sum())
}

pub fn cases() -> Vec<Case> {
    const AT: AdamStep =
        AdamStep { lr: 2e-4, beta1: 0.5, beta2: 0.999, eps: 1e-8, step: 3, factor: 1.0, decay: 0.999 };
    let step = |x: &[Tensor]| {
        let [mut p, mut m, mut v] = [&x[0], &x[2], &x[3]].map(Tensor::detach);
        adam(vec![Slot { p: &mut p, g: Some(&x[1]), m: &mut m, v: &mut v, average: None }], &AT);
        vec![p, m, v]
    };
    // p, g, m, v and an average of each size; the second has no gradient, the third no average.
    let sizes = [1, 3, 1000, 70_001, 8192];
    let many = |x: &[Tensor]| {
        let mut x: Vec<Tensor> = x.iter().map(Tensor::detach).collect();
        let slots = x.chunks_mut(5).enumerate().map(|(i, five)| {
            let [p, g, m, v, average] = five else { unreachable!() };
            let g = (i != 1).then_some(&*g);
            Slot { p, g, m, v, average: (i != 2).then_some(average) }
        });
        adam(slots.collect(), &AdamStep { lr: 0.1, factor: 0.3, decay: 0.9, ..AT });
        x
    };
    let many = sizes.iter().fold(Case::new("adam", "many", many), |case, &n| {
        let three = case.constant([n], -1.0, 1.0).constant([n], -1.0, 1.0).constant([n], -1.0, 1.0);
        three.constant([n], 0.0, 1.0).constant([n], -1.0, 1.0)
    });
    let norm = |x: &[Tensor]| vec![Tensor::scalar(squared_norm(&x.iter().collect::<Vec<_>>()) as f32)];
    let norms =
        sizes.iter().fold(Case::new("squared_norm", "many", norm), |case, &n| case.constant([n], -1.0, 1.0));
    vec![
        Case::new("adam", "", step)
            .constant([5, 7], -1.0, 1.0)
            .constant([5, 7], -1.0, 1.0)
            .constant([5, 7], -1.0, 1.0)
            .constant([5, 7], 0.0, 1.0),
        many.large(),
        Case::new("squared_norm", "", norm).constant([5, 7], -1.0, 1.0),
        norms.large(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    #[test]
    fn adam_follows_its_formula() {
        let at = AdamStep { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 0, factor: 1.0, decay: 0.0 };
        let start = Rng::new(1, 0).normal([40_000]);
        let (mut p, mut m, mut v) = (start.clone(), Tensor::zeros([40_000]), Tensor::zeros([40_000]));
        let grads: Vec<_> = (1..=5).map(|stream| Rng::new(1, stream).normal([40_000])).collect();
        for (step, g) in (1..).zip(&grads) {
            let slot = Slot { p: &mut p, g: Some(g), m: &mut m, v: &mut v, average: None };
            adam(vec![slot], &AdamStep { step, ..at });
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
        let [mut average, mut p] = [2.0, 4.0].map(|x| Tensor::full([3], x));
        let [mut m, mut v] = [0.0; 2].map(|x| Tensor::full([3], x));
        let at = AdamStep { lr: 1.0, beta1: 0.9, beta2: 0.9, eps: 1e-8, step: 1, factor: 1.0, decay: 0.75 };
        adam(vec![Slot { p: &mut p, g: None, m: &mut m, v: &mut v, average: Some(&mut average) }], &at);
        assert_eq!((average.to_vec(), p.to_vec()), (vec![2.5; 3], vec![4.0; 3]));
        assert_eq!(squared_norm(&[&p, &average]), 48.0 + 18.75);
    }
}
