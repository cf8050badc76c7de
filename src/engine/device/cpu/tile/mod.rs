//! The register tile that all convolutions are made of: some rows by a few vectors, 6×64 with AVX-512, 6×16 with AVX2, 12×8 with
//! NEON. It needs nothing of the crate, so that it can be tested alone on another processor.
//!
//! `sums_i[LANES·V] += Σ_k a_i[k] · b[k][LANES·V]`, where rows a_i lie at equal distances, wherever that is, and so do the rows
//! of sums. Rows are broadcast, columns are vectors.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod squares;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vectors;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::Portable;
pub use squares::{OUTSIDE, Sources, Targets, vectors_over};
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// The tile for one kind of processor. Values exist only where the processor can run it.
pub trait Microkernel: Copy + Send + Sync {
    /// Rows of a tile.
    const ROWS: usize;
    /// Lanes of a vector.
    const LANES: usize;
    /// Vectors of the widest tile.
    const VECTORS: usize;
    /// Columns of the widest tile.
    const WIDTH: usize = Self::LANES * Self::VECTORS;
    /// Rows of the widest `b` that stay in the first-level cache, 24 KiB, beside what streams through it: terms to sum at a time.
    const DEPTH: usize = 6144 / Self::WIDTH;
    /// `LANES` numbers.
    type Vector: Copy;

    /// As [`DEPTH`](Microkernel::DEPTH), of tiles of `width` columns.
    fn depth(width: usize) -> usize {
        Self::DEPTH * Self::WIDTH / width
    }

    /// Runs loops over vectors, compiled for the processor: what they call must be inlined into them, so that closures, which
    /// `map` and `from_fn` take, are no good there.
    fn vectorized(self, loops: impl Loops);

    fn splat(self, value: f32) -> Self::Vector;

    /// The first `LANES` of `from`; what is beyond its end is 0.
    fn load(self, from: &[f32]) -> Self::Vector;

    /// Writes as many of the values as `to` has room for.
    fn store(self, values: Self::Vector, to: &mut [f32]);

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// a · b + c
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// x, no less than `least` and no more than `most`; NaN stays NaN.
    fn clamp(self, x: Self::Vector, least: f32, most: f32) -> Self::Vector;

    /// 2ⁿ for n + 1.5 · 2²³, where n is an integer from -126 to 127; 0 for -127 and infinite for 128.
    fn power_of_two(self, shifted: Self::Vector) -> Self::Vector;

    /// e^x = 2ⁿ · (1 + q) as 2ⁿ and q = e^r - 1 with r = x - n ln 2, |r| ≤ ½ ln 2, by a polynomial (Cephes). Ends as
    /// [`power_of_two`](Microkernel::power_of_two) does.
    #[inline(always)]
    fn exp_parts(self, x: Self::Vector) -> [Self::Vector; 2] {
        const ROUND: f32 = 12_582_912.0;
        const COEFFICIENTS: [f32; 5] = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
        let x = self.clamp(x, -88.0, 88.73);
        let shifted = self.mul_add(x, self.splat(std::f32::consts::LOG2_E), self.splat(ROUND));
        let n = self.sub(shifted, self.splat(ROUND));
        let r = self.mul_add(n, self.splat(-0.693_359_4), x);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for coefficient in COEFFICIENTS {
            p = self.mul_add(p, r, self.splat(coefficient));
        }
        [self.power_of_two(shifted), self.mul_add(p, self.mul(r, r), r)]
    }

    /// e^x within 2 ulp; 0 below -87.7 and infinite above 88.37, where f32 runs out.
    #[inline(always)]
    fn exp(self, x: Self::Vector) -> Self::Vector {
        let [power, q] = self.exp_parts(x);
        self.mul(power, self.add(q, self.splat(1.0)))
    }

    /// 1 / (1 + e^-x) within 3 ulp.
    #[inline(always)]
    fn logistic(self, x: Self::Vector) -> Self::Vector {
        let one = self.splat(1.0);
        self.div(one, self.add(one, self.exp(self.sub(self.splat(0.0), x))))
    }

    /// tanh(x) = t / (t + 2) within 3 ulp, where t = e^2x - 1 = 2ⁿ · q + (2ⁿ - 1) cancels nowhere.
    #[inline(always)]
    fn tanh(self, x: Self::Vector) -> Self::Vector {
        let x = self.clamp(x, -20.0, 20.0);
        let [power, q] = self.exp_parts(self.add(x, x));
        let t = self.mul_add(power, q, self.sub(power, self.splat(1.0)));
        self.div(t, self.add(t, self.splat(2.0)))
    }

    /// z or, where it is not positive, slope · z, at most `ceiling`; NaN stays NaN.
    fn rectified(self, z: Self::Vector, slope: Self::Vector, ceiling: Self::Vector) -> Self::Vector;

    /// `sums[rows, columns] (+)= a[rows, depth] · b[depth, columns]` for any number of rows at equal distances and up to `WIDTH` columns.
    /// Each sum is made term by term, whatever the rows and columns beside it. Rows of `b` reach to the end of a vector.
    fn multiply(self, size: [usize; 3], sums: Product, a: Matrix, b: Strided);
}

/// Asks for the line of the cache that holds number `at` of `data`; elsewhere than on x86-64 does nothing.
#[inline(always)]
pub fn prefetch(data: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if at < data.len() {
        // SAFETY: the address lies in `data`, and every x86-64 processor has the instruction.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(
                data.as_ptr().add(at).cast(),
            )
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, at);
}

/// An elementary function: of the same bits for every instruction set with fused products, so everywhere but in [`Portable`].
#[derive(Clone, Copy, Debug)]
pub enum Function {
    Exp,
    Logistic,
    Tanh,
}

/// x = f(x)
pub struct Map<'a> {
    pub function: Function,
    pub x: &'a mut [f32],
}

impl Loops for Map<'_> {
    #[inline(always)]
    fn run<M: Microkernel>(self, kernel: M) {
        macro_rules! each {
            ($function:ident) => {
                for x in self.x.chunks_mut(M::LANES) {
                    kernel.store(kernel.$function(kernel.load(x)), x);
                }
            };
        }
        match self.function {
            Function::Exp => each!(exp),
            Function::Logistic => each!(logistic),
            Function::Tanh => each!(tanh),
        }
    }
}

/// Loops over vectors, whose `run` is `#[inline(always)]`.
pub trait Loops {
    fn run<M: Microkernel>(self, kernel: M);
}

/// What becomes of a sum: z = sum + bias + residual, then z or, where it is not positive, slope · z, at most `ceiling`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// By column.
    pub bias: &'a [f32],
    /// Laid out as the sums are.
    pub residual: Option<&'a [f32]>,
    pub slope: f32,
    pub ceiling: f32,
}

impl<'a> Epilogue<'a> {
    /// The epilogue of what begins at column `column`, whose sums' data begin at `from`.
    pub fn at(self, column: usize, from: usize) -> Epilogue<'a> {
        Epilogue { bias: &self.bias[column..], residual: self.residual.map(|r| &r[from..]), ..self }
    }

    /// The result for a vector of sums, of the columns from `column` on, which begin at `at` of their data.
    #[inline(always)]
    pub fn of_vector<M: Microkernel>(
        &self,
        kernel: M,
        sums: M::Vector,
        column: usize,
        at: usize,
    ) -> M::Vector {
        let mut z = kernel.add(sums, kernel.load(&self.bias[column..]));
        if let Some(residual) = self.residual {
            z = kernel.add(z, kernel.load(&residual[at..]));
        }
        kernel.rectified(z, kernel.splat(self.slope), kernel.splat(self.ceiling))
    }

    /// The result for the sums of a row, which begin at `at` of their data.
    #[inline(always)]
    pub fn apply(&self, sums: &mut [f32], at: usize) {
        sums.iter_mut().zip(self.bias).for_each(|(z, bias)| *z += bias);
        if let Some(residual) = self.residual {
            sums.iter_mut().zip(&residual[at..]).for_each(|(z, r)| *z += r);
        }
        for z in sums {
            *z = if *z > 0.0 { *z } else { self.slope * *z };
            *z = if *z > self.ceiling { self.ceiling } else { *z };
        }
    }
}

/// The sums of a product: row i from `data[i · pitch]`.
pub struct Product<'a> {
    pub data: &'a mut [f32],
    pub pitch: usize,
    /// Whether they are added to what is there.
    pub add: bool,
}

/// Numbers, and the distances from one row and from one element of a row to the next.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub element: usize,
}

/// Panics unless a product's operands lie in their slices.
#[track_caller]
fn check_product<M: Microkernel>([rows, depth, columns]: [usize; 3], sums: &Product, a: Matrix, b: Strided) {
    let last = |n: usize, distance: usize| n.saturating_sub(1) * distance;
    let fits = depth == 0
        || last(rows, a.row) + last(depth, a.element) < a.data.len()
            && last(depth, b.stride) + columns.next_multiple_of(M::LANES) <= b.data.len();
    let holds = last(rows, sums.pitch) + columns <= sums.data.len() && columns <= M::WIDTH;
    assert!(
        fits && holds,
        "a product of {rows} rows, {depth} terms and {columns} columns leaves its buffers"
    );
}

/// Numbers, and the distance from one row to the next.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// The fastest microkernel of this processor, no wider than `ENGINE_SIMD` allows: avx512, avx2, neon or portable.
#[derive(Clone, Copy)]
pub enum Best {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Portable(Portable),
}

pub fn best() -> Best {
    static BEST: LazyLock<Best> =
        LazyLock::new(|| fastest(std::env::var("ENGINE_SIMD").unwrap_or_default().as_str()));
    *BEST
}

/// Which instructions [`best`] has: avx512, avx2, neon or portable.
pub fn instructions() -> &'static str {
    match best() {
        #[cfg(target_arch = "x86_64")]
        Best::Avx512(_) => "avx512",
        #[cfg(target_arch = "x86_64")]
        Best::Avx2(_) => "avx2",
        #[cfg(target_arch = "aarch64")]
        Best::Neon(_) => "neon",
        Best::Portable(_) => "portable",
    }
}

#[cfg(target_arch = "x86_64")]
fn fastest(limit: &str) -> Best {
    let avx512 = Avx512::detect().filter(|_| !["avx2", "portable"].contains(&limit));
    let avx2 = Avx2::detect().filter(|_| limit != "portable");
    avx512.map(Best::Avx512).or(avx2.map(Best::Avx2)).unwrap_or(Best::Portable(Portable))
}

#[cfg(target_arch = "aarch64")]
fn fastest(limit: &str) -> Best {
    Neon::detect().filter(|_| limit != "portable").map_or(Best::Portable(Portable), Best::Neon)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn fastest(_: &str) -> Best {
    Best::Portable(Portable)
}

/// Evaluates an expression that is generic over the microkernel with the fastest one: `with_microkernel!(m => f(m, x))`.
macro_rules! with_microkernel {
    ($kernel:ident => $body:expr) => {
        match $crate::engine::device::cpu::tile::best() {
            #[cfg(target_arch = "x86_64")]
            $crate::engine::device::cpu::tile::Best::Avx512($kernel) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::engine::device::cpu::tile::Best::Avx2($kernel) => $body,
            #[cfg(target_arch = "aarch64")]
            $crate::engine::device::cpu::tile::Best::Neon($kernel) => $body,
            $crate::engine::device::cpu::tile::Best::Portable($kernel) => $body,
        }
    };
}

pub(crate) use with_microkernel;

#[cfg(test)]
mod tests {
    use super::*;

    /// Products of every number of rows and columns, rows of `a` or their elements side by side, against sums in f64.
    fn check_products<M: Microkernel>(kernel: M) {
        const DEPTH: usize = 37;
        let value = |i: usize| ((i * 41) % 103) as f32 / 50.0 - 1.0;
        for columns in 1..=M::WIDTH {
            let width = columns.next_multiple_of(M::LANES);
            let b: Vec<f32> = (0..DEPTH * (width + 3)).map(value).collect();
            for rows in 1..=3 * M::ROWS {
                for ([row, element], add) in [([DEPTH + 2, 1], false), ([1, rows + 5], true)] {
                    let a: Vec<f32> =
                        (0..(rows - 1) * row + (DEPTH - 1) * element + 1).map(|i| value(i + 7)).collect();
                    let pitch = columns + 1;
                    let mut found = vec![0.5; (rows - 1) * pitch + columns];
                    let sums = Product { data: &mut found, pitch, add };
                    let b = Strided { data: &b, stride: width + 3 };
                    kernel.multiply([rows, DEPTH, columns], sums, Matrix { data: &a, row, element }, b);
                    for (at, found) in found.iter().enumerate() {
                        let (i, j) = (at / pitch, at % pitch);
                        let term = |k: usize| {
                            f64::from(a[i * row + k * element]) * f64::from(b.data[k * b.stride + j])
                        };
                        let exact = match (add, j == columns) {
                            (_, true) => 0.5,
                            (add, _) => (0..DEPTH).map(term).sum::<f64>() + if add { 0.5 } else { 0.0 },
                        };
                        let error = (f64::from(*found) - exact).abs();
                        assert!(
                            error < 1e-5,
                            "{rows} rows, {columns} columns: row {i}, column {j}: {found} {exact}"
                        );
                    }
                }
            }
        }
    }

    /// Whole vectors and the ends of slices.
    fn check_vectors<M: Microkernel>(kernel: M) {
        struct Sum<'a>([&'a [f32]; 2], &'a mut [f32]);
        impl Loops for Sum<'_> {
            #[inline(always)]
            fn run<M: Microkernel>(self, kernel: M) {
                let Sum([a, b], to) = self;
                for from in (0..to.len()).step_by(M::LANES) {
                    let (a, b) = (kernel.load(&a[from..]), kernel.load(&b[from..]));
                    let product = kernel.mul(kernel.sub(a, b), kernel.splat(2.0));
                    let rectified = kernel.rectified(product, kernel.splat(0.5), kernel.splat(3.0));
                    kernel.store(kernel.mul_add(rectified, kernel.splat(4.0), a), &mut to[from..]);
                }
            }
        }
        for len in [1, M::LANES, M::LANES + 3, 3 * M::LANES - 1] {
            let a: Vec<f32> = (0..len).map(|i| (i as f32 * 1.3).sin()).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).cos() * 2.0).collect();
            let mut to = vec![9.0; len];
            kernel.vectorized(Sum([&a, &b], &mut to));
            for ((a, b), found) in a.iter().zip(&b).zip(&to) {
                let z = (a - b) * 2.0;
                let exact = (if z > 0.0 { z } else { 0.5 * z }).min(3.0) * 4.0 + a;
                assert_eq!(*found, exact, "of {len}");
            }
        }
    }

    /// The epilogue of vectors against that of single numbers.
    fn check_epilogues<M: Microkernel>(kernel: M) {
        struct Finish<'a>(Epilogue<'a>, &'a mut [f32]);
        impl Loops for Finish<'_> {
            #[inline(always)]
            fn run<M: Microkernel>(self, kernel: M) {
                let Finish(epilogue, sums) = self;
                for column in (0..sums.len()).step_by(M::LANES) {
                    let sums = &mut sums[column..];
                    kernel.store(epilogue.of_vector(kernel, kernel.load(sums), column, column + 3), sums);
                }
            }
        }
        let values: Vec<f32> = (0..40).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
        for residual in [None, Some(&values[4..])] {
            for (slope, ceiling) in [(0.25, 1.5), (1.0, f32::INFINITY), (0.0, 6.0)] {
                let epilogue = Epilogue { bias: &values[7..], residual, slope, ceiling };
                let mut found: Vec<f32> = (0..29).map(|i| (i as f32).cos()).chain([f32::NAN]).collect();
                let mut expected = found.clone();
                kernel.vectorized(Finish(epilogue, &mut found));
                epilogue.apply(&mut expected, 3);
                assert!(found.pop().is_some_and(f32::is_nan), "NaN stays");
                assert_eq!(found, expected[..29], "slope {slope}, ceiling {ceiling}");
            }
        }
    }

    /// The elementary functions against f64, what they give at their ends, and that NaN stays.
    fn check_functions<M: Microkernel>(kernel: M) {
        type Exact = fn(f64) -> f64;
        let ends = [f32::NEG_INFINITY, -1e9, -87.7, 88.4, 1e9, f32::INFINITY];
        let small = (0..400).flat_map(|i| [1.0, -1.0].map(|sign: f32| sign * 1.07f32.powi(i - 400)));
        let xs = || (0..35_000).map(|i| (i as f32 - 17_450.0) * 0.005).chain(small.clone()).chain(ends);
        let exp: Exact = |x| match x {
            ..-87.69 => 0.0,
            88.39.. => f64::INFINITY,
            _ => x.exp(),
        };
        let logistic: Exact = |x| 1.0 / (1.0 + if x < -88.37 { f64::INFINITY } else { (-x).exp() });
        for (function, exact, ulps) in
            [(Function::Exp, exp, 2.0), (Function::Logistic, logistic, 3.0), (Function::Tanh, f64::tanh, 3.0)]
        {
            let mut found: Vec<f32> = xs().chain([f32::NAN]).collect();
            kernel.vectorized(Map { function, x: &mut found });
            assert!(found.pop().is_some_and(f32::is_nan), "{function:?}: NaN stays");
            for (x, found) in xs().zip(found) {
                let exact = exact(f64::from(x));
                let unit = exact.abs().log2().floor().exp2() * f64::from(f32::EPSILON);
                let close = (f64::from(found) - exact).abs() <= ulps * unit;
                assert!(f64::from(found) == exact || close, "{function:?} of {x} is {exact}, not {found}");
            }
        }
    }

    /// Calls a check with each microkernel that runs here.
    macro_rules! with_each {
        ($check:ident) => {
            $check(Portable);
            #[cfg(target_arch = "x86_64")]
            {
                Avx2::detect().into_iter().for_each($check);
                Avx512::detect().into_iter().for_each($check);
            }
            #[cfg(target_arch = "aarch64")]
            $check(Neon::detect().expect("NEON is part of this architecture"));
        };
    }

    #[test]
    fn vectors_of_every_processor_compute_alike() {
        with_each!(check_vectors);
        with_each!(check_epilogues);
        with_each!(check_functions);
    }

    /// Where the processor has both: those of NEON need another machine.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn functions_have_the_same_bits_with_every_fused_instruction_set() {
        fn bits<M: Microkernel>(kernel: M) -> Vec<u32> {
            let values = |function| {
                let mut x: Vec<f32> = (-20_000..20_000).map(|i| i as f32 * 0.0051).collect();
                kernel.vectorized(Map { function, x: &mut x });
                x
            };
            [Function::Exp, Function::Logistic, Function::Tanh]
                .into_iter()
                .flat_map(values)
                .map(f32::to_bits)
                .collect()
        }
        if let (Some(avx2), Some(avx512)) = (Avx2::detect(), Avx512::detect()) {
            assert!(bits(avx2) == bits(avx512), "AVX2 and AVX-512 differ");
        }
    }

    #[test]
    fn every_tile_of_this_processor_computes_the_sums() {
        with_each!(check_products);
    }

    #[test]
    #[should_panic(expected = "a product of 3 rows, 2 terms and 8 columns leaves its buffers")]
    fn a_product_beyond_its_buffers_is_refused() {
        let (a, b, mut sums) = ([0.0; 5], [0.0; 16], [0.0; 24]);
        let sums = Product { data: &mut sums, pitch: 8, add: false };
        check_product::<Portable>(
            [3, 2, 8],
            &sums,
            Matrix { data: &a, row: 2, element: 1 },
            Strided { data: &b, stride: 8 },
        );
    }
}
