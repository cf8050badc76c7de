//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random numbers by counter,
//! the same on every device and for any number of threads.
//!
//! The transformations use only correctly rounded operations (add, multiply, square root), never a library's
//! logarithm or cosine, so that a kernel that does the same gets the same bits.

use serde::{Deserialize, Serialize};

use super::{Shape, Tensor, run};
use crate::engine::device::cpu::for_chunks;
use crate::engine::device::cuda::{Gpu, Grid, Out, k};

/// A stream of random numbers: a key, and how many blocks of four were drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    seed: u64,
    stream: u32,
    drawn: u64,
}

impl Rng {
    /// Streams of one seed are independent of each other.
    pub fn new(seed: u64, stream: u32) -> Rng {
        Rng { seed, stream, drawn: 0 }
    }

    /// Uniform in [lo, hi).
    pub fn uniform(&mut self, shape: impl Into<Shape>, lo: f32, hi: f32) -> Tensor {
        let from = self.clone();
        let cuda = |g: &Gpu, grid, y: Out, at| k::random_uniform(g, grid, y, at, lo, hi - lo);
        self.fill("random_uniform", shape, |y| from.write_uniform(y, lo, hi), cuda)
    }

    /// Standard normal, by Box and Muller's transformation.
    pub fn normal(&mut self, shape: impl Into<Shape>) -> Tensor {
        let from = self.clone();
        self.fill("random_normal", shape, |y| from.write(y, four_normals), k::random_normal)
    }

    /// The numbers of [`Rng::normal`], wherever that would draw them.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        self.write(&mut values, four_normals);
        self.skip(count);
        values
    }

    /// Uniform below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let [a, b, ..] = self.next_block();
        ((((a as u64) << 32 | b as u64) as u128 * n as u128) >> 64) as usize
    }

    /// A shuffle by Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    fn next_block(&mut self) -> [u32; 4] {
        let block = self.block(self.drawn);
        self.drawn += 1;
        block
    }

    fn block(&self, at: u64) -> [u32; 4] {
        philox([at as u32, (at >> 32) as u32, self.stream, 0], [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// Goes on as if a tensor of so many numbers had been drawn.
    pub fn skip(&mut self, numbers: usize) {
        self.drawn += numbers.div_ceil(4) as u64;
    }

    /// This place in the stream, for a kernel that draws `numbers` from it.
    pub fn place(&self, numbers: usize) -> k::RandomDims {
        k::RandomDims { seed: self.seed, drawn: self.drawn, stream: self.stream, n: numbers as i32 }
    }

    /// What [`Rng::uniform`] draws from here; the stream stays where it is.
    pub fn write_uniform(&self, out: &mut [f32], lo: f32, hi: f32) {
        self.write(out, move |bits| bits.map(|b| lo + (hi - lo) * unit(b)));
    }

    fn write(&self, out: &mut [f32], f: impl Fn([u32; 4]) -> [f32; 4] + Sync + Send) {
        const BLOCKS: usize = 1024;
        for_chunks(out, BLOCKS * 4, |i, chunk| {
            for (j, four) in chunk.chunks_mut(4).enumerate() {
                let values = f(self.block(self.drawn + (i * BLOCKS + j) as u64));
                four.copy_from_slice(&values[..four.len()]);
            }
        });
    }

    /// A tensor on the thread's device, drawn from here.
    fn fill(
        &mut self,
        name: &'static str,
        shape: impl Into<Shape>,
        cpu: impl FnOnce(&mut [f32]),
        cuda: impl FnOnce(&Gpu, Grid, Out, k::RandomDims),
    ) -> Tensor {
        let mut t = Tensor::uninit(shape);
        let at = self.place(t.len());
        run(name, [&mut t], (), |[t], ()| cpu(t), |g, [t], ()| cuda(g, Grid::packs(t.len()), t, at));
        self.skip(t.len());
        t
    }
}

fn four_normals([a, b, c, d]: [u32; 4]) -> [f32; 4] {
    let ([x, y], [z, w]) = (normal_pair(a, b), normal_pair(c, d));
    [x, y, z, w]
}

/// Ten rounds of Philox4x32.
pub fn philox(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (p0, p1) = (c[0] as u64 * 0xD251_1F53, c[2] as u64 * 0xCD9E_8D57);
        c = [(p1 >> 32) as u32 ^ c[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of x reaches every bit of the result.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 24 bits as a number in [0, 1).
fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

fn normal_pair(a: u32, b: u32) -> [f32; 2] {
    let radius = (-2.0 * ln(((a >> 8) as f32 + 1.0) * (1.0 / 16_777_216.0))).sqrt();
    let (sin, cos) = sin_cos_turns(unit(b));
    [radius * cos, radius * sin]
}

/// The natural logarithm of x in (0, 1]: exponent apart, ln(m) = 2 artanh((m-1)/(m+1)) by its series.
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let (mut m, mut e) = (f32::from_bits(bits & 0x007f_ffff | 0x3f80_0000), (bits >> 23) as i32 - 127);
    if m > std::f32::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let t = (m - 1.0) / (m + 1.0);
    let s = t * t;
    let series = 1.0 + s * (1.0 / 3.0 + s * (0.2 + s * (1.0 / 7.0 + s * (1.0 / 9.0))));
    2.0 * t * series + e as f32 * std::f32::consts::LN_2
}

/// Sine and cosine of 2πx for x in [0, 1): the nearest quarter turn apart, Taylor's series on the rest.
fn sin_cos_turns(x: f32) -> (f32, f32) {
    let quarter = (x * 4.0 + 0.5).floor();
    let y = (x * 4.0 - quarter) * std::f32::consts::FRAC_PI_2;
    let s = y * y;
    let sin = y * (1.0 - s * (1.0 / 6.0 - s * (1.0 / 120.0 - s * (1.0 / 5040.0 - s * (1.0 / 362_880.0)))));
    let cos = 1.0 - s * (0.5 - s * (1.0 / 24.0 - s * (1.0 / 720.0 - s * (1.0 / 40_320.0))));
    match quarter as i32 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of the authors' Random123 distribution.
    #[test]
    fn philox_gives_the_published_numbers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let x = Rng::new(7, 1).normal([400_000]).to_vec();
        let moment = |p: i32| x.iter().map(|&v| (v as f64).powi(p)).sum::<f64>() / x.len() as f64;
        assert!(moment(1).abs() < 5e-3 && (moment(2) - 1.0).abs() < 1e-2, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 3e-2 && (moment(4) - 3.0).abs() < 6e-2, "{} {}", moment(3), moment(4));
    }

    #[test]
    fn own_logarithm_and_sines_are_exact_to_f32() {
        for i in 1..=4096u32 {
            let x = i as f32 / 4096.0;
            assert!((ln(x) as f64 - (x as f64).ln()).abs() < 2e-6 * (1.0 + (x as f64).ln().abs()), "ln {x}");
            let (s, c) = sin_cos_turns(x - 1.0 / 4096.0);
            let (es, ec) = ((x as f64 - 1.0 / 4096.0) * std::f64::consts::TAU).sin_cos();
            assert!((s as f64 - es).abs() < 1e-6 && (c as f64 - ec).abs() < 1e-6, "sin {x}");
        }
    }

    #[test]
    fn a_stream_goes_on_from_where_it_was_saved() {
        let mut a = Rng::new(3, 0);
        a.normal([5]);
        let mut b: Rng = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
        assert_eq!(a.normal([9]).to_vec(), b.normal([9]).to_vec());
    }
}
