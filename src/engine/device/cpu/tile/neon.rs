//! The tile in NEON.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;
use std::sync::LazyLock;

use super::vectors::vector_tile;
use super::{Loops, Matrix, Microkernel, Product, Strided, check_product};

#[target_feature(enable = "neon")]
#[inline]
fn zero() -> float32x4_t {
    vdupq_n_f32(0.0)
}

/// a · b + c
#[target_feature(enable = "neon")]
#[inline]
fn fused(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmaq_f32(c, a, b)
}

/// z or, where it is not positive, slope · z, at most `ceiling`: the comparison is false for NaN, which the minimum keeps.
#[target_feature(enable = "neon")]
#[inline]
fn rectified(z: float32x4_t, slope: float32x4_t, ceiling: float32x4_t) -> float32x4_t {
    vminq_f32(ceiling, vbslq_f32(vcgtzq_f32(z), z, vmulq_f32(z, slope)))
}

/// 2ⁿ for n + 1.5 · 2²³: n is in the last bits.
#[target_feature(enable = "neon")]
#[inline]
fn power(shifted: float32x4_t) -> float32x4_t {
    let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted));
    vreinterpretq_f32_s32(vaddq_s32(exponent, vdupq_n_s32(0x3f80_0000)))
}

/// The first `count` lanes; the others are 0.
///
/// # Safety
/// So many numbers, at most 4, can be read.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn load_first(from: *const f32, count: usize) -> float32x4_t {
    let mut all = [0.0f32; 4];
    // SAFETY: the caller's.
    unsafe {
        std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count);
        vld1q_f32(all.as_ptr())
    }
}

/// Writes the first `count` lanes.
///
/// # Safety
/// So many numbers, at most 4, can be written.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn store_first(to: *mut f32, count: usize, values: float32x4_t) {
    let mut all = [0.0f32; 4];
    // SAFETY: the caller's.
    unsafe {
        vst1q_f32(all.as_mut_ptr(), values);
        std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
    }
}

vector_tile! {
    /// With two vectors its twenty-four accumulators, two columns and a row fit the thirty-two registers. A value is proof that the
    /// processor has NEON.
    Neon in neon: 12 rows, 1|2 vectors of 4 lanes, features "neon"
    if is_aarch64_feature_detected!("neon");
    float32x4_t, zero, vld1q_f32, vst1q_f32, vdupq_n_f32, vaddq_f32, vsubq_f32, vmulq_f32, vdivq_f32,
    fused, vminq_f32, vmaxq_f32, power, rectified, load_first, store_first
}
