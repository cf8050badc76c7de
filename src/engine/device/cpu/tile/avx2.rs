use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::{LANES, ROWS, Segment, Strided};

pub fn available() -> bool {
    static FOUND: LazyLock<bool> =
        LazyLock::new(|| is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
    *FOUND
}

/// # Safety
/// AVX2 and FMA are there; every segment lies in `a`; `acc` and `b` hold the tile and the segments' total depth.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn tile<const V: usize>(acc: &mut [f32], add: bool, a: Strided, segments: &[Segment], b: Strided) {
    let out = acc.as_mut_ptr();
    let (mut columns_at, b_stride) = (b.data.as_ptr(), b.stride);
    // SAFETY: see above.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); V]; ROWS];
        if add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out.add((i * V + v) * LANES));
                }
            }
        }
        for segment in segments {
            let rows = segment.at.map(|at| a.data.as_ptr().add(at));
            let mut k = 0;
            for _ in 0..segment.len {
                let mut columns = [_mm256_setzero_ps(); V];
                for (v, column) in columns.iter_mut().enumerate() {
                    *column = _mm256_loadu_ps(columns_at.add(v * LANES));
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
                _mm256_storeu_ps(out.add((i * V + v) * LANES), *sum);
            }
        }
    }
}
