use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::{Microkernel, Segment, Strided};

/// The tile in AVX2: with two vectors its twelve accumulators and their operands just fit the sixteen registers. A value
/// is proof that the processor has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Avx2> {
        static FOUND: LazyLock<bool> =
            LazyLock::new(|| is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
        FOUND.then_some(Avx2(()))
    }
}

impl Microkernel for Avx2 {
    const ROWS: usize = 6;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    type Rows = [usize; 6];

    fn rows(f: impl FnMut(usize) -> usize) -> [usize; 6] {
        std::array::from_fn(f)
    }

    #[inline]
    unsafe fn sum(
        self,
        vectors: usize,
        acc: &mut [f32],
        add: bool,
        a: Strided,
        segments: &[Segment<[usize; 6]>],
        b: Strided,
    ) {
        // SAFETY: `self` proves the features; the caller keeps every address inside its slice.
        unsafe {
            match vectors {
                1 => sum::<1>(acc, add, a, segments, b),
                _ => sum::<2>(acc, add, a, segments, b),
            }
        }
    }
}

/// # Safety
/// AVX2 and FMA are there; every segment lies in `a`; `acc` and `b` hold the tile and the segments' total depth.
#[target_feature(enable = "avx2,fma")]
unsafe fn sum<const V: usize>(
    acc: &mut [f32],
    add: bool,
    a: Strided,
    segments: &[Segment<[usize; 6]>],
    b: Strided,
) {
    let out = acc.as_mut_ptr();
    let (mut columns_at, b_stride) = (b.data.as_ptr(), b.stride);
    // SAFETY: see above.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); V]; Avx2::ROWS];
        if add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out.add((i * V + v) * Avx2::LANES));
                }
            }
        }
        for segment in segments {
            let rows = segment.at.map(|at| a.data.as_ptr().add(at));
            let mut k = 0;
            for _ in 0..segment.len {
                let mut columns = [_mm256_setzero_ps(); V];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = _mm256_loadu_ps(columns_at.add(v * Avx2::LANES));
                }
                columns_at = columns_at.wrapping_add(b_stride);
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let x = _mm256_broadcast_ss(&*row.add(k));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm256_fmadd_ps(x, column, *sum);
                    }
                }
                k += a.stride;
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                _mm256_storeu_ps(out.add((i * V + v) * Avx2::LANES), *sum);
            }
        }
    }
}
