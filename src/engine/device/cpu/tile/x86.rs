//! The tile in AVX2 and AVX-512.

use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::vectors::vector_tile;
use super::{Loops, Matrix, Microkernel, Product, Strided, check_product};

// In both, a comparison is false for NaN, which stays NaN; so does the second operand of the minimum and the maximum.

/// z or, where it is not positive, slope · z, at most `ceiling`.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn rectified_256(z: __m256, slope: __m256, ceiling: __m256) -> __m256 {
    let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(z, _mm256_setzero_ps());
    _mm256_min_ps(ceiling, _mm256_blendv_ps(_mm256_mul_ps(z, slope), z, positive))
}

/// As [`rectified_256`].
#[target_feature(enable = "avx512f")]
#[inline]
fn rectified_512(z: __m512, slope: __m512, ceiling: __m512) -> __m512 {
    let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(z, _mm512_setzero_ps());
    _mm512_min_ps(ceiling, _mm512_mask_blend_ps(positive, _mm512_mul_ps(z, slope), z))
}

/// 2ⁿ for n + 1.5 · 2²³: n is in the last bits.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn power_256(shifted: __m256) -> __m256 {
    let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
    _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)))
}

/// As [`power_256`].
#[target_feature(enable = "avx512f")]
#[inline]
fn power_512(shifted: __m512) -> __m512 {
    let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f80_0000)))
}

/// The first of eight lanes.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn mask_256(count: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
}

/// The first `count` lanes; the others are 0.
///
/// # Safety
/// So many numbers, at most 8, can be read.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn load_first_256(from: *const f32, count: usize) -> __m256 {
    // SAFETY: lanes beyond the mask are not read.
    unsafe { _mm256_maskload_ps(from, mask_256(count)) }
}

/// Writes the first `count` lanes.
///
/// # Safety
/// So many numbers, at most 8, can be written.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn store_first_256(to: *mut f32, count: usize, values: __m256) {
    // SAFETY: lanes beyond the mask are not written.
    unsafe { _mm256_maskstore_ps(to, mask_256(count), values) }
}

/// As [`load_first_256`], of at most 16.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_first_512(from: *const f32, count: usize) -> __m512 {
    // SAFETY: lanes beyond the mask are not read.
    unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, from) }
}

/// As [`store_first_256`], of at most 16.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store_first_512(to: *mut f32, count: usize, values: __m512) {
    // SAFETY: lanes beyond the mask are not written.
    unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, values) }
}

vector_tile! {
    /// With two vectors its twelve accumulators and their operands just fit the sixteen registers of AVX2. A value is
    /// proof that the processor has AVX2 and FMA.
    Avx2 in avx2: 6 rows, 1|2 vectors of 8 lanes, features "avx2,fma"
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps,
    _mm256_div_ps, _mm256_fmadd_ps, _mm256_min_ps, _mm256_max_ps, power_256, rectified_256, load_first_256, store_first_256
}

vector_tile! {
    /// With four vectors its twenty-four accumulators, four columns and a row fit the thirty-two registers of AVX-512, and six rows' pointers
    /// the others. A value is proof that the processor has AVX-512F.
    Avx512 in avx512: 6 rows, 1|2|3|4 vectors of 16 lanes, features "avx512f"
    if is_x86_feature_detected!("avx512f");
    __m512, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps,
    _mm512_div_ps, _mm512_fmadd_ps, _mm512_min_ps, _mm512_max_ps, power_512, rectified_512, load_first_512, store_first_512
}
