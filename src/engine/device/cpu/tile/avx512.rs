use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::{Microkernel, Segment, Strided};

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
        acc: &mut [f32],
        add: bool,
        a: Strided,
        segments: &[Segment<[usize; 14]>],
        b: Strided,
    ) {
        // SAFETY: `self` proves the feature; the caller keeps every address inside its slice.
        unsafe {
            match vectors {
                1 => sum::<1>(acc, add, a, segments, b),
                _ => sum::<2>(acc, add, a, segments, b),
            }
        }
    }
}

/// # Safety
/// AVX-512F is there; every segment lies in `a`; `acc` and `b` hold the tile and the segments' total depth.
#[target_feature(enable = "avx512f")]
unsafe fn sum<const V: usize>(
    acc: &mut [f32],
    add: bool,
    a: Strided,
    segments: &[Segment<[usize; 14]>],
    b: Strided,
) {
    let out = acc.as_mut_ptr();
    let (mut columns_at, b_stride) = (b.data.as_ptr(), b.stride);
    // SAFETY: see above.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; Avx512::ROWS];
        if add {
            for (i, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out.add((i * V + v) * Avx512::LANES));
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
        for (i, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                _mm512_storeu_ps(out.add((i * V + v) * Avx512::LANES), *sum);
            }
        }
    }
}
