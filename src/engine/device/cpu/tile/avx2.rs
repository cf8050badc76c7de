use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::{Epilogue, Microkernel, Segment, Strided, Sums};

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
        sums: &mut Sums<[usize; 6]>,
        a: Strided,
        segments: &[Segment<[usize; 6]>],
        b: Strided,
    ) {
        // SAFETY: `self` proves the features; the caller keeps every address inside its slice.
        unsafe {
            match vectors {
                1 => sum::<1>(sums, a, segments, b),
                _ => sum::<2>(sums, a, segments, b),
            }
        }
    }
}

/// # Safety
/// AVX2 and FMA are there; every segment lies in `a`; `to` and `b` hold the tile and the segments' total depth; the epilogue's
/// bias and residual reach as far as the tile.
#[target_feature(enable = "avx2,fma")]
unsafe fn sum<const V: usize>(
    to: &mut Sums<[usize; 6]>,
    a: Strided,
    segments: &[Segment<[usize; 6]>],
    b: Strided,
) {
    let Sums { data, at, add, epilogue } = to;
    let out = data.as_mut_ptr();
    let (mut columns_at, b_stride) = (b.data.as_ptr(), b.stride);
    // SAFETY: see above.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); V]; Avx2::ROWS];
        if *add {
            for (sums, at) in sums.iter_mut().zip(&*at) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out.add(*at + v * Avx2::LANES));
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
        for (sums, at) in sums.iter().zip(&*at) {
            for (v, sum) in sums.iter().enumerate() {
                _mm256_storeu_ps(out.add(*at + v * Avx2::LANES), *sum);
            }
        }
        if let Some(epilogue) = epilogue {
            finish::<V>(data, at, epilogue);
        }
    }
}

/// The epilogue of the sums in `data`, apart from the loop that makes them: it must not take their registers.
///
/// # Safety
/// As of [`sum`].
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
unsafe fn finish<const V: usize>(data: &mut [f32], at: &[usize; 6], epilogue: &Epilogue) {
    let Epilogue { bias, residual, slope, ceiling } = *epilogue;
    let (slope, ceiling) = (_mm256_set1_ps(slope), _mm256_set1_ps(ceiling));
    for v in 0..V {
        // SAFETY: as of `sum`.
        let bias = unsafe { _mm256_loadu_ps(bias.as_ptr().add(v * Avx2::LANES)) };
        // Rows that coincide are finished once.
        for (_, from) in at.iter().enumerate().filter(|(i, from)| *i == 0 || **from != at[i - 1]) {
            let from = from + v * Avx2::LANES;
            // SAFETY: as of `sum`.
            let mut z = unsafe { _mm256_add_ps(_mm256_loadu_ps(data.as_ptr().add(from)), bias) };
            if let Some(residual) = residual {
                // SAFETY: as of `sum`.
                z = unsafe { _mm256_add_ps(z, _mm256_loadu_ps(residual.as_ptr().add(from))) };
            }
            // A comparison is false for NaN, which stays NaN; so does the minimum's second operand.
            let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(z, _mm256_setzero_ps());
            z = _mm256_blendv_ps(_mm256_mul_ps(z, slope), z, positive);
            z = _mm256_min_ps(ceiling, z);
            // SAFETY: as of `sum`.
            unsafe { _mm256_storeu_ps(data.as_mut_ptr().add(from), z) }
        }
    }
}
