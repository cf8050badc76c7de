//! The transforms in one dimension, and their transposes. They follow from points whose powers stay near 1, so that rounding
//! stays small: 0, ±√½, ±√2, ∞ for three taps and ±½, ±5/4, ∞ for two.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::engine::device::cpu::tile::Microkernel;

/// Side of a tile of outputs.
pub const TILE: usize = 4;

/// Channels from which on a pass is computed so, and of which rows are made up.
pub const LANES: usize = 16;

/// F(4, R), whose patch has P = R + 3 inputs and as many points. Each number stands for a vector of channels.
pub trait Transforms<const R: usize, const P: usize>: Copy + Send + Sync {
    /// Bᵀ d
    fn patch_to_points<M: Microkernel>(self, kernel: M, d: [M::Vector; P]) -> [M::Vector; P];
    /// G g
    fn taps_to_points<M: Microkernel>(self, kernel: M, g: [M::Vector; R]) -> [M::Vector; P];
    /// Aᵀ m
    fn points_to_tile<M: Microkernel>(self, kernel: M, m: [M::Vector; P]) -> [M::Vector; TILE];
    /// A dy
    fn tile_to_points<M: Microkernel>(self, kernel: M, dy: [M::Vector; TILE]) -> [M::Vector; P];
    /// Gᵀ m
    fn points_to_taps<M: Microkernel>(self, kernel: M, m: [M::Vector; P]) -> [M::Vector; R];
}

/// F(4, 3)
#[derive(Clone, Copy)]
pub struct Three;

/// F(4, 2)
#[derive(Clone, Copy)]
pub struct Two;

/// a · x
#[inline(always)]
fn times<M: Microkernel>(k: M, x: M::Vector, a: f32) -> M::Vector {
    k.mul(x, k.splat(a))
}

/// x + a · y
#[inline(always)]
fn plus<M: Microkernel>(k: M, x: M::Vector, a: f32, y: M::Vector) -> M::Vector {
    k.mul_add(k.splat(a), y, x)
}

/// x + y and x - y
#[inline(always)]
fn both<M: Microkernel>(k: M, x: M::Vector, y: M::Vector) -> [M::Vector; 2] {
    [k.add(x, y), k.sub(x, y)]
}

/// even + a · odd and even - a · odd: the values at a point and its negative.
#[inline(always)]
fn both_of<M: Microkernel>(k: M, even: M::Vector, a: f32, odd: M::Vector) -> [M::Vector; 2] {
    [plus(k, even, a, odd), plus(k, even, -a, odd)]
}

impl Transforms<3, 6> for Three {
    #[inline(always)]
    fn patch_to_points<M: Microkernel>(self, k: M, [d0, d1, d2, d3, d4, d5]: [M::Vector; 6]) -> [M::Vector; 6] {
        let [m1, m2] = both_of(k, plus(k, d4, -2.0, d2), FRAC_1_SQRT_2, plus(k, d3, -2.0, d1));
        let [m3, m4] = both_of(k, plus(k, d4, -0.5, d2), SQRT_2, plus(k, d3, -0.5, d1));
        [k.add(plus(k, d4, -2.5, d2), d0), m1, m2, m3, m4, k.add(plus(k, d5, -2.5, d3), d1)]
    }

    #[inline(always)]
    fn taps_to_points<M: Microkernel>(self, k: M, [g0, g1, g2]: [M::Vector; 3]) -> [M::Vector; 6] {
        const NEAR: f32 = -2.0 / 3.0;
        const FAR: f32 = 1.0 / 6.0;
        let (even, even2) = (times(k, plus(k, g0, 0.5, g2), NEAR), times(k, plus(k, g0, 2.0, g2), FAR));
        let [m1, m2] = both_of(k, even, NEAR * FRAC_1_SQRT_2, g1);
        let [m3, m4] = both_of(k, even2, FAR * SQRT_2, g1);
        [g0, m1, m2, m3, m4, g2]
    }

    #[inline(always)]
    fn points_to_tile<M: Microkernel>(self, k: M, [m0, m1, m2, m3, m4, m5]: [M::Vector; 6]) -> [M::Vector; TILE] {
        let ([even, odd], [even2, odd2]) = (both(k, m1, m2), both(k, m3, m4));
        [
            k.add(k.add(m0, even), even2),
            plus(k, times(k, odd, FRAC_1_SQRT_2), SQRT_2, odd2),
            plus(k, times(k, even, 0.5), 2.0, even2),
            plus(k, plus(k, m5, 0.5 * FRAC_1_SQRT_2, odd), 2.0 * SQRT_2, odd2),
        ]
    }

    #[inline(always)]
    fn tile_to_points<M: Microkernel>(self, k: M, [y0, y1, y2, y3]: [M::Vector; TILE]) -> [M::Vector; 6] {
        let [m1, m2] = both_of(k, plus(k, y0, 0.5, y2), FRAC_1_SQRT_2, plus(k, y1, 0.5, y3));
        let [m3, m4] = both_of(k, plus(k, y0, 2.0, y2), SQRT_2, plus(k, y1, 2.0, y3));
        [y0, m1, m2, m3, m4, y3]
    }

    #[inline(always)]
    fn points_to_taps<M: Microkernel>(self, k: M, [m0, m1, m2, m3, m4, m5]: [M::Vector; 6]) -> [M::Vector; 3] {
        const NEAR: f32 = -2.0 / 3.0;
        const FAR: f32 = 1.0 / 6.0;
        let ([even, odd], [even2, odd2]) = (both(k, m1, m2), both(k, m3, m4));
        [
            plus(k, plus(k, m0, NEAR, even), FAR, even2),
            plus(k, times(k, odd, NEAR * FRAC_1_SQRT_2), FAR * SQRT_2, odd2),
            plus(k, plus(k, m5, 0.5 * NEAR, even), 2.0 * FAR, even2),
        ]
    }
}

/// The squares of the points ½ and 5/4, and the factors ±1 / (2a(a² - b²)) of their rows of G.
const SQUARES: [f32; 2] = [0.25, 1.5625];
const FACTORS: [f32; 2] = [-1.0 / 1.3125, 1.0 / 3.28125];

impl Transforms<2, 5> for Two {
    #[inline(always)]
    fn patch_to_points<M: Microkernel>(self, k: M, [d0, d1, d2, d3, d4]: [M::Vector; 5]) -> [M::Vector; 5] {
        let [near, far] = SQUARES;
        let [m0, m1] = both_of(k, plus(k, d3, -far, d1), 0.5, plus(k, d2, -far, d0));
        let [m2, m3] = both_of(k, plus(k, d3, -near, d1), 1.25, plus(k, d2, -near, d0));
        [m0, m1, m2, m3, plus(k, plus(k, d4, -(near + far), d2), near * far, d0)]
    }

    #[inline(always)]
    fn taps_to_points<M: Microkernel>(self, k: M, [g0, g1]: [M::Vector; 2]) -> [M::Vector; 5] {
        let [near, far] = FACTORS;
        let [m0, m1] = both_of(k, times(k, g1, 0.5 * near), near, g0);
        let [m2, m3] = both_of(k, times(k, g1, 1.25 * far), far, g0);
        [m0, m1, m2, m3, g1]
    }

    #[inline(always)]
    fn points_to_tile<M: Microkernel>(self, k: M, [m0, m1, m2, m3, m4]: [M::Vector; 5]) -> [M::Vector; TILE] {
        let [near, far] = SQUARES;
        let ([even, odd], [even2, odd2]) = (both(k, m0, m1), both(k, m2, m3));
        [
            k.add(even, even2),
            plus(k, times(k, odd, 0.5), 1.25, odd2),
            plus(k, times(k, even, near), far, even2),
            plus(k, plus(k, m4, 0.5 * near, odd), 1.25 * far, odd2),
        ]
    }

    #[inline(always)]
    fn tile_to_points<M: Microkernel>(self, k: M, [y0, y1, y2, y3]: [M::Vector; TILE]) -> [M::Vector; 5] {
        let [near, far] = SQUARES;
        let [m0, m1] = both_of(k, plus(k, y0, near, y2), 0.5, plus(k, y1, near, y3));
        let [m2, m3] = both_of(k, plus(k, y0, far, y2), 1.25, plus(k, y1, far, y3));
        [m0, m1, m2, m3, y3]
    }

    #[inline(always)]
    fn points_to_taps<M: Microkernel>(self, k: M, [m0, m1, m2, m3, m4]: [M::Vector; 5]) -> [M::Vector; 2] {
        let [near, far] = FACTORS;
        let ([even, odd], [even2, odd2]) = (both(k, m0, m1), both(k, m2, m3));
        [
            plus(k, times(k, odd, near), far, odd2),
            plus(k, plus(k, m4, 0.5 * near, even), 1.25 * far, even2),
        ]
    }
}

/// A transform of the columns of a square, then of its rows: `both_ways!(kernel, N => M, transforms.name, |r, s| load, |r, s, value| store)`
/// reads a column of N×N vectors at a time and gives a row of M×M at a time.
macro_rules! both_ways {
    (
        $kernel:expr, $n:expr => $m:expr, $transforms:ident.$transform:ident,
        |$r:ident, $s:ident| $load:expr, |$i:ident, $j:ident, $value:ident| $store:expr
    ) => {{
        let kernel = $kernel;
        let zero = kernel.splat(0.0);
        let mut across = [[zero; $n]; $m];
        for $s in 0..$n {
            let mut column = [zero; $n];
            for $r in 0..$n {
                column[$r] = $load;
            }
            let column = $transforms.$transform(kernel, column);
            for r in 0..$m {
                across[r][$s] = column[r];
            }
        }
        for $i in 0..$m {
            let row = $transforms.$transform(kernel, across[$i]);
            for $j in 0..$m {
                let $value = row[$j];
                $store;
            }
        }
    }};
}

pub(super) use both_ways;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::device::cpu::tile::Portable;

    /// Σ over the outputs of dy · (d ∗ g), by the definition and by the transforms in both directions.
    fn check<T: Transforms<R, P>, const R: usize, const P: usize>(t: T) {
        let d: [f32; P] = std::array::from_fn(|i| (i as f32 * 1.7).sin());
        let g: [f32; R] = std::array::from_fn(|i| (i as f32 * 2.3).cos());
        let dy: [f32; TILE] = std::array::from_fn(|i| (i as f32 * 0.9 + 1.0).cos());
        let y: [f32; TILE] = std::array::from_fn(|i| (0..R).map(|j| d[i + j] * g[j]).sum());
        let dg: [f32; R] = std::array::from_fn(|j| (0..TILE).map(|i| d[i + j] * dy[i]).sum());
        let all = |value: f32| Portable.splat(value);
        let points = t.patch_to_points(Portable, d.map(all));
        let product = |other: [[f32; 8]; P]| std::array::from_fn(|p| all(points[p][0] * other[p][0]));
        let found = t.points_to_tile(Portable, product(t.taps_to_points(Portable, g.map(all))));
        let found_dg = t.points_to_taps(Portable, product(t.tile_to_points(Portable, dy.map(all))));
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
