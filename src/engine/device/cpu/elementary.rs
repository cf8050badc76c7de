//! Elementary functions over slices, in the widest vectors of the processor.

use super::tile::{Function, Map, Microkernel, with_microkernel};

/// x = e^x within 2 ulp; 0 below -87.7 and infinite above 88.37, where f32 runs out.
pub fn exp(x: &mut [f32]) {
    map(Function::Exp, x)
}

/// x = 1 / (1 + e^-x) within 3 ulp.
pub fn logistic(x: &mut [f32]) {
    map(Function::Logistic, x)
}

/// x = tanh(x) within 3 ulp.
pub fn tanh(x: &mut [f32]) {
    map(Function::Tanh, x)
}

fn map(function: Function, x: &mut [f32]) {
    with_microkernel!(kernel => kernel.vectorized(Map { function, x }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(f: fn(&mut [f32]), x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        f(&mut y);
        y
    }

    /// The largest error of f over [lo, hi], as a part of the exact value.
    fn worst(lo: f64, hi: f64, f: fn(&mut [f32]), exact: impl Fn(f64) -> f64) -> f64 {
        let points: Vec<f32> =
            (0..=400_000).map(|i| (lo + (hi - lo) * f64::from(i) / 400_000.0) as f32).collect();
        let errors = all(f, &points)
            .into_iter()
            .zip(&points)
            .map(|(y, &x)| (f64::from(y) / exact(f64::from(x)) - 1.0).abs());
        errors.filter(|e| e.is_finite()).fold(0.0, f64::max)
    }

    #[test]
    fn own_exponential_is_exact_to_f32() {
        assert!(worst(-87.0, 88.0, exp, f64::exp) < 3e-7);
        assert!(worst(-20.0, 20.0, logistic, |x| 1.0 / (1.0 + (-x).exp())) < 5e-7);
        assert!(worst(-10.0, 10.0, tanh, f64::tanh) < 5e-7);
    }

    #[test]
    fn own_exponential_keeps_its_head_at_the_ends() {
        let inf = f32::INFINITY;
        assert_eq!(all(exp, &[-inf, -1e4, 0.0, 1e4, inf]), [0.0, 0.0, 1.0, inf, inf]);
        assert_eq!([all(logistic, &[-inf, inf]), all(tanh, &[-inf, inf])].concat(), [0.0, 1.0, -1.0, 1.0]);
        for f in [exp, logistic, tanh] {
            assert!(all(f, &[f32::NAN])[0].is_nan());
        }
    }
}
