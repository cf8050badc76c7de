use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::{Epilogue, Microkernel, Segment, Strided, Sums};

/// The tile in AVX-512: twenty-eight accumulators, two columns, and rows that are broadcast from memory fill the thirty-two
/// registers. A value is proof that the processor has AVX-512F.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    pub fn detect() -> Option<Avx512> {
        static FOUND: LazyLock<bool> = LazyLock::new(|| is_x86_feature_detected!("avx512f"));
        FOUND.then_some(Avx512(()))
    }
}

impl Microkernel for Avx512 {
    const ROWS: usize = 14;
    const LANES: usize = 16;
    const VECTORS: usize = 2;
    type Rows = [usize; 14];

    fn rows(f: impl FnMut(usize) -> usize) -> [usize; 14] {
        std::array::from_fn(f)
    }

    #[inline]
    unsafe fn sum(
        self,
        vectors: usize,
        sums: &mut Sums<[usize; 14]>,
        a: Strided,
        segments: &[Segment<[usize; 14]>],
        b: Strided,
    ) {
        // SAFETY: `self` proves the feature; the caller keeps every address inside its slice.
        unsafe {
            match vectors {
                1 => sum::<1>(sums, a, segments, b),
                _ => sum::<2>(sums, a, segments, b),
            }
        }
    }
}

/// # Safety
/// AVX-512F is there; every segment lies in `a`; `to` and `b` hold the tile and the segments' total depth; the epilogue's
/// bias and residual reach as far as the tile.
#[target_feature(enable = "avx512f")]
unsafe fn sum<const V: usize>(
    to: &mut Sums<[usize; 14]>,
    a: Strided,
    segments: &[Segment<[usize; 14]>],
    b: Strided,
) {
    let Sums { data, at, add, epilogue } = to;
    let out = data.as_mut_ptr();
    let (mut columns_at, b_stride) = (b.data.as_ptr(), b.stride);
    // SAFETY: see above.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; Avx512::ROWS];
        if *add {
            for (sums, at) in sums.iter_mut().zip(&*at) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out.add(*at + v * Avx512::LANES));
                }
            }
        }
        for segment in segments {
            let rows = segment.at.map(|at| a.data.as_ptr().add(at));
            let mut k = 0;
            for _ in 0..segment.len {
                let mut columns = [_mm512_setzero_ps(); V];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = _mm512_loadu_ps(columns_at.add(v * Avx512::LANES));
                }
                columns_at = columns_at.wrapping_add(b_stride);
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let x = _mm512_set1_ps(*row.add(k));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_fmadd_ps(x, column, *sum);
                    }
                }
                k += a.stride;
            }
        }
        for (sums, at) in sums.iter().zip(&*at) {
            for (v, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.add(*at + v * Avx512::LANES), *sum);
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
#[target_feature(enable = "avx512f")]
#[inline(never)]
unsafe fn finish<const V: usize>(data: &mut [f32], at: &[usize; 14], epilogue: &Epilogue) {
    let Epilogue { bias, residual, slope, ceiling } = *epilogue;
    let (slope, ceiling) = (_mm512_set1_ps(slope), _mm512_set1_ps(ceiling));
    for v in 0..V {
        // SAFETY: as of `sum`.
        let bias = unsafe { _mm512_loadu_ps(bias.as_ptr().add(v * Avx512::LANES)) };
        // Rows that coincide are finished once.
        for (_, from) in at.iter().enumerate().filter(|(i, from)| *i == 0 || **from != at[i - 1]) {
            let from = from + v * Avx512::LANES;
            // SAFETY: as of `sum`.
            let mut z = unsafe { _mm512_add_ps(_mm512_loadu_ps(data.as_ptr().add(from)), bias) };
            if let Some(residual) = residual {
                // SAFETY: as of `sum`.
                z = unsafe { _mm512_add_ps(z, _mm512_loadu_ps(residual.as_ptr().add(from))) };
            }
            // A comparison is false for NaN, which stays NaN; so does the minimum's second operand.
            let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(z, _mm512_setzero_ps());
            z = _mm512_mask_blend_ps(positive, _mm512_mul_ps(z, slope), z);
            z = _mm512_min_ps(ceiling, z);
            // SAFETY: as of `sum`.
            unsafe { _mm512_storeu_ps(data.as_mut_ptr().add(from), z) }
        }
    }
}
