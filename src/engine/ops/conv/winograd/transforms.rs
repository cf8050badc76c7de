//! The transforms in one dimension, and their transposes. They follow from points whose powers stay near 1, so that rounding
//! stays small: 0, ±√½, ±√2, ∞ for three taps and ±½, ±5/4, ∞ for two.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

/// Side of a tile of outputs.
pub const TILE: usize = 4;

/// Numbers that the transforms take at a time.
pub const LANES: usize = 16;
pub type Lanes = [f32; LANES];

/// F(4, R), whose patch has P = R + 3 inputs and as many points.
pub trait Transforms<const R: usize, const P: usize>: Copy + Send + Sync {
    /// Bᵀ d
    fn patch_to_points(self, d: [Lanes; P]) -> [Lanes; P];
    /// G g
    fn taps_to_points(self, g: [Lanes; R]) -> [Lanes; P];
    /// Aᵀ m
    fn points_to_tile(self, m: [Lanes; P]) -> [Lanes; TILE];
    /// A dy
    fn tile_to_points(self, dy: [Lanes; TILE]) -> [Lanes; P];
    /// Gᵀ m
    fn points_to_taps(self, m: [Lanes; P]) -> [Lanes; R];
}

/// F(4, 3)
#[derive(Clone, Copy)]
pub struct Three;

/// F(4, 2)
#[derive(Clone, Copy)]
pub struct Two;

#[inline(always)]
fn lanes(f: impl FnMut(usize) -> f32) -> Lanes {
    std::array::from_fn(f)
}

#[inline(always)]
fn add(a: Lanes, b: Lanes) -> Lanes {
    lanes(|i| a[i] + b[i])
}

#[inline(always)]
fn sub(a: Lanes, b: Lanes) -> Lanes {
    lanes(|i| a[i] - b[i])
}

#[inline(always)]
fn times(a: Lanes, factor: f32) -> Lanes {
    lanes(|i| a[i] * factor)
}

impl Transforms<3, 6> for Three {
    #[inline(always)]
    fn patch_to_points(self, [d0, d1, d2, d3, d4, d5]: [Lanes; 6]) -> [Lanes; 6] {
        let (even, odd) = (sub(d4, times(d2, 2.0)), times(sub(d3, times(d1, 2.0)), FRAC_1_SQRT_2));
        let (even2, odd2) = (sub(d4, times(d2, 0.5)), times(sub(d3, times(d1, 0.5)), SQRT_2));
        [
            add(sub(d4, times(d2, 2.5)), d0),
            add(even, odd),
            sub(even, odd),
            add(even2, odd2),
            sub(even2, odd2),
            add(sub(d5, times(d3, 2.5)), d1),
        ]
    }

    #[inline(always)]
    fn taps_to_points(self, [g0, g1, g2]: [Lanes; 3]) -> [Lanes; 6] {
        let (even, odd) = (times(add(g0, times(g2, 0.5)), -2.0 / 3.0), times(g1, -2.0 / 3.0 * FRAC_1_SQRT_2));
        let (even2, odd2) = (times(add(g0, times(g2, 2.0)), 1.0 / 6.0), times(g1, SQRT_2 / 6.0));
        [g0, add(even, odd), sub(even, odd), add(even2, odd2), sub(even2, odd2), g2]
    }

    #[inline(always)]
    fn points_to_tile(self, [m0, m1, m2, m3, m4, m5]: [Lanes; 6]) -> [Lanes; TILE] {
        let (sum, difference) = (add(m1, m2), times(sub(m1, m2), FRAC_1_SQRT_2));
        let (sum2, difference2) = (add(m3, m4), times(sub(m3, m4), SQRT_2));
        [
            add(add(m0, sum), sum2),
            add(difference, difference2),
            add(times(sum, 0.5), times(sum2, 2.0)),
            add(add(times(difference, 0.5), times(difference2, 2.0)), m5),
        ]
    }

    #[inline(always)]
    fn tile_to_points(self, [y0, y1, y2, y3]: [Lanes; TILE]) -> [Lanes; 6] {
        let (even, odd) = (add(y0, times(y2, 0.5)), times(add(y1, times(y3, 0.5)), FRAC_1_SQRT_2));
        let (even2, odd2) = (add(y0, times(y2, 2.0)), times(add(y1, times(y3, 2.0)), SQRT_2));
        [y0, add(even, odd), sub(even, odd), add(even2, odd2), sub(even2, odd2), y3]
    }

    #[inline(always)]
    fn points_to_taps(self, [m0, m1, m2, m3, m4, m5]: [Lanes; 6]) -> [Lanes; 3] {
        let (sum, difference) = (times(add(m1, m2), -2.0 / 3.0), sub(m1, m2));
        let (sum2, difference2) = (times(add(m3, m4), 1.0 / 6.0), sub(m3, m4));
        [
            add(add(m0, sum), sum2),
            add(times(difference, -2.0 / 3.0 * FRAC_1_SQRT_2), times(difference2, SQRT_2 / 6.0)),
            add(add(times(sum, 0.5), times(sum2, 2.0)), m5),
        ]
    }
}

/// The squares of the points ½ and 5/4, and the factors ±1 / (2a(a² - b²)) of their rows of G.
const SQUARES: [f32; 2] = [0.25, 1.5625];
const FACTORS: [f32; 2] = [-1.0 / 1.3125, 1.0 / 3.28125];

impl Transforms<2, 5> for Two {
    #[inline(always)]
    fn patch_to_points(self, [d0, d1, d2, d3, d4]: [Lanes; 5]) -> [Lanes; 5] {
        let [near, far] = SQUARES;
        let (even, odd) = (times(sub(d2, times(d0, far)), 0.5), sub(d3, times(d1, far)));
        let (even2, odd2) = (times(sub(d2, times(d0, near)), 1.25), sub(d3, times(d1, near)));
        [
            add(odd, even),
            sub(odd, even),
            add(odd2, even2),
            sub(odd2, even2),
            add(sub(d4, times(d2, near + far)), times(d0, near * far)),
        ]
    }

    #[inline(always)]
    fn taps_to_points(self, [g0, g1]: [Lanes; 2]) -> [Lanes; 5] {
        let [near, far] = FACTORS;
        let (even, odd) = (times(g0, near), times(g1, 0.5 * near));
        let (even2, odd2) = (times(g0, far), times(g1, 1.25 * far));
        [add(odd, even), sub(odd, even), add(odd2, even2), sub(odd2, even2), g1]
    }

    #[inline(always)]
    fn points_to_tile(self, [m0, m1, m2, m3, m4]: [Lanes; 5]) -> [Lanes; TILE] {
        let [near, far] = SQUARES;
        let (sum, difference) = (add(m0, m1), times(sub(m0, m1), 0.5));
        let (sum2, difference2) = (add(m2, m3), times(sub(m2, m3), 1.25));
        [
            add(sum, sum2),
            add(difference, difference2),
            add(times(sum, near), times(sum2, far)),
            add(add(times(difference, near), times(difference2, far)), m4),
        ]
    }

    #[inline(always)]
    fn tile_to_points(self, [y0, y1, y2, y3]: [Lanes; TILE]) -> [Lanes; 5] {
        let [near, far] = SQUARES;
        let (even, odd) = (add(y0, times(y2, near)), times(add(y1, times(y3, near)), 0.5));
        let (even2, odd2) = (add(y0, times(y2, far)), times(add(y1, times(y3, far)), 1.25));
        [add(even, odd), sub(even, odd), add(even2, odd2), sub(even2, odd2), y3]
    }

    #[inline(always)]
    fn points_to_taps(self, [m0, m1, m2, m3, m4]: [Lanes; 5]) -> [Lanes; 2] {
        let [near, far] = FACTORS;
        let (sum, difference) = (times(add(m0, m1), 0.5 * near), times(sub(m0, m1), near));
        let (sum2, difference2) = (times(add(m2, m3), 1.25 * far), times(sub(m2, m3), far));
        [add(difference, difference2), add(add(sum, sum2), m4)]
    }
}

/// The transform `f` of the columns of a square, then of its rows.
#[inline(always)]
pub fn both_ways<const N: usize, const M: usize>(
    square: &[[Lanes; N]; N],
    f: impl Fn([Lanes; N]) -> [Lanes; M],
) -> [[Lanes; M]; M] {
    let mut across = [[[0.0; LANES]; N]; M];
    for s in 0..N {
        let column = f(std::array::from_fn(|r| square[r][s]));
        for (r, values) in column.into_iter().enumerate() {
            across[r][s] = values;
        }
    }
    let mut out = [[[0.0; LANES]; M]; M];
    for (out, row) in out.iter_mut().zip(&across) {
        *out = f(*row);
    }
    out
}

/// `LANES` numbers from `at`, zeros beyond the end.
#[inline(always)]
pub fn load(from: &[f32], at: usize) -> Lanes {
    match from.get(at..at + LANES) {
        Some(whole) => whole.try_into().expect("as many"),
        None => lanes(|i| from.get(at + i).copied().unwrap_or(0.0)),
    }
}

/// Writes as many of `values` as there is room for from `at`.
#[inline(always)]
pub fn store(to: &mut [f32], at: usize, values: Lanes) {
    match to.get_mut(at..at + LANES) {
        Some(whole) => whole.copy_from_slice(&values),
        None => to[at..].iter_mut().zip(values).for_each(|(to, value)| *to = value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(value: f32) -> Lanes {
        [value; LANES]
    }

    /// Σ over the outputs of dy · (d ∗ g), by the definition and by the transforms in both directions.
    fn check<T: Transforms<R, P>, const R: usize, const P: usize>(transforms: T) {
        let d: [f32; P] = std::array::from_fn(|i| (i as f32 * 1.7).sin());
        let g: [f32; R] = std::array::from_fn(|i| (i as f32 * 2.3).cos());
        let dy: [f32; TILE] = std::array::from_fn(|i| (i as f32 * 0.9 + 1.0).cos());
        let y: [f32; TILE] = std::array::from_fn(|i| (0..R).map(|j| d[i + j] * g[j]).sum());
        let dg: [f32; R] = std::array::from_fn(|j| (0..TILE).map(|i| d[i + j] * dy[i]).sum());
        let points = transforms.patch_to_points(d.map(all));
        let product = |other: [Lanes; P]| std::array::from_fn(|p| all(points[p][0] * other[p][0]));
        let found = transforms.points_to_tile(product(transforms.taps_to_points(g.map(all))));
        let found_dg = transforms.points_to_taps(product(transforms.tile_to_points(dy.map(all))));
        for (found, exact) in found.iter().zip(y).chain(found_dg.iter().zip(dg)) {
            assert!(found.iter().all(|found| (found - exact).abs() < 2e-6), "{found:?} {exact}");
        }
    }

    #[test]
    fn the_transforms_give_the_sums_and_their_gradient() {
        check(Two);
        check(Three);
    }
}
