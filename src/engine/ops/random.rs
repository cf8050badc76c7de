//! Dropout.

use super::Case;
use crate::engine::device::cpu::for_chunks;
use crate::engine::device::cuda::{Grid, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Rng, Tensor, run};

/// y = x / (1 - p) with probability 1 - p, else 0: x [..] -> y [..].
///
/// Saves only the position of the random numbers: backward redraws the mask.
#[track_caller]
pub fn dropout(x: &Tensor, p: f32, rng: &mut Rng) -> Tensor {
    assert!((0.0..1.0).contains(&p), "dropout: {p} is no probability below 1");
    if p == 0.0 {
        return x.clone();
    }
    let from = rng.clone();
    rng.skip(x.len());
    let y = masked("dropout_fwd", x, p, &from);
    record1(y, [x], move |dy, _| [Some(masked("dropout_bwd", &dy, p, &from))])
}

fn masked(name: &'static str, x: &Tensor, p: f32, from: &Rng) -> Tensor {
    const CHUNK: usize = 16 * 1024;
    let (mut y, scale) = (x.new_empty(x.shape()), 1.0 / (1.0 - p));
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        from.write_uniform(y, 0.0, 1.0);
        for_chunks(y, CHUNK, |i, y| {
            let pairs = y.iter_mut().zip(&x[i * CHUNK..]);
            pairs.for_each(|(y, x)| *y = if *y < p { 0.0 } else { scale * x });
        });
    };
    run(name, [&mut y], [x], cpu, |g, [y], [x]| {
        k::dropout_fwd(g, Grid::packs(x.len()), y, x, from.place(x.len()), p, scale);
    });
    y
}

pub fn cases() -> Vec<Case> {
    let dropped = |name| {
        let run = |x: &[Tensor]| {
            let mut rng = Rng::new(11, 3);
            rng.skip(10);
            vec![dropout(&x[0], 0.4, &mut rng)]
        };
        Case::new("dropout", name, run).bf16(&[0])
    };
    vec![
        dropped("").input([6, 7]),
        dropped("a remainder").input([1001]).large(),
        dropped("large").input([40, 18, 256]).large(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_kept_keeps_the_mean() {
        let mut rng = Rng::new(2, 0);
        let y = dropout(&Tensor::full([100_000], 1.0), 0.3, &mut rng).to_vec();
        let kept = y.iter().filter(|&&y| y != 0.0).count() as f32 / y.len() as f32;
        assert!((kept - 0.7).abs() < 5e-3, "{kept}");
        assert!(y.iter().all(|&y| y == 0.0 || y == 1.0 / 0.7));
        let next = dropout(&Tensor::full([100_000], 1.0), 0.3, &mut rng).to_vec();
        assert_ne!(y, next);
    }
}
