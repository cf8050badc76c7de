use super::{Segment, Strided};

/// The tile in plain Rust, for processors without AVX2.
pub fn tile(width: usize, acc: &mut [f32], add: bool, a: Strided, segments: &[Segment], b: Strided) {
    if !add {
        acc.fill(0.0);
    }
    let mut from = 0;
    for segment in segments {
        for k in 0..segment.len {
            let columns = &b.data[from..from + width];
            from += b.stride;
            for (acc, at) in acc.chunks_exact_mut(width).zip(segment.at) {
                let x = a.data[at + k * a.stride];
                acc.iter_mut().zip(columns).for_each(|(acc, b)| *acc += x * b);
            }
        }
    }
}
