//! Spectral normalization (Miyato et al., 2018).

use crate::engine::ops::Case;
use crate::engine::ops::matmul::matmul;
use crate::engine::ops::pointwise::{div_by, mul, sqrt};
use crate::engine::ops::reduce::sum;
use crate::engine::tensor::{Tensor, no_grad};

/// y = w / σ of filters w[Cout,..], where σ = ‖wᵀu‖ is near the largest singular value of w as a matrix of Cout rows if u [Cout], of
/// norm 1, is near its left singular vector. Gradients take u for a constant (algorithm 1 there).
#[track_caller]
pub fn spectral_norm(w: &Tensor, u: &Tensor) -> Tensor {
    div_by(w, &norm(&right(w, u)))
}

/// u after a power iteration: nearer to the left singular vector.
#[track_caller]
pub fn power_iteration(w: &Tensor, u: &Tensor) -> Tensor {
    no_grad(|| {
        let v = right(w, u);
        let next = matmul(&matrix(w), &v.reshape([v.len(), 1]));
        div_by(&next, &norm(&next)).reshape(u.shape())
    })
}

/// wᵀu [1, ..]
#[track_caller]
fn right(w: &Tensor, u: &Tensor) -> Tensor {
    matmul(&u.reshape([1, u.len()]), &matrix(w))
}

/// w as a matrix of Cout rows.
fn matrix(w: &Tensor) -> Tensor {
    let outputs = w.shape()[0];
    w.reshape([outputs, w.len() / outputs])
}

/// ‖x‖, a scalar.
fn norm(x: &Tensor) -> Tensor {
    sqrt(&sum(&mul(x, x)))
}

pub fn cases() -> Vec<Case> {
    let normalized = |name, w: [usize; 4]| {
        Case::new("spectral_norm", name, |x| vec![spectral_norm(&x[0], &x[1])]).input(w).constant([w[0]], 0.2, 0.6)
    };
    vec![
        normalized("", [3, 2, 2, 4]),
        normalized("large", [48, 4, 4, 33]).large(),
        Case::new("power_iteration", "", |x| vec![power_iteration(&x[0], &x[1])])
            .constant([5, 3, 3, 4], -1.0, 1.0)
            .constant([5], 0.2, 0.6),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    #[test]
    fn iterations_find_the_largest_singular_value() {
        // u sᵀ + small noise has one large singular value.
        let mut rng = Rng::new(2, 0);
        let (u, s) = (rng.normal([12, 1]), rng.normal([1, 45]));
        let noise = rng.normal([12, 45]);
        let w: Vec<f32> = matmul(&u, &s).to_vec().iter().zip(noise.to_vec()).map(|(a, b)| a + 0.2 * b).collect();
        let w = Tensor::from_vec(w, [12, 3, 3, 5]);
        let mut left = Tensor::full([12], (12f32).sqrt().recip());
        for _ in 0..60 {
            left = power_iteration(&w, &left);
        }
        let y = spectral_norm(&w, &left);
        let gain = |w: &Tensor, v: &[f64]| -> f64 {
            let rows = w.to_vec();
            let squares = rows.chunks(45).map(|row| row.iter().zip(v).map(|(w, v)| f64::from(*w) * v).sum::<f64>().powi(2));
            squares.sum::<f64>().sqrt() / v.iter().map(|v| v * v).sum::<f64>().sqrt()
        };
        let along: Vec<f64> = right(&w, &left).to_vec().into_iter().map(f64::from).collect();
        assert!((gain(&y, &along) - 1.0).abs() < 1e-5, "{}", gain(&y, &along));
        for _ in 0..50 {
            let any: Vec<f64> = rng.normal([45]).to_vec().into_iter().map(f64::from).collect();
            assert!(gain(&y, &any) < 1.0 + 1e-5);
        }
    }
}
