use super::Segment;

/// The tile in plain Rust, for processors without AVX2.
pub fn tile(width: usize, acc: &mut [f32], a: &[f32], segments: &[Segment], b: &[f32]) {
    let mut b = b.chunks_exact(width);
    for segment in segments {
        for (k, b) in (0..segment.len).zip(&mut b) {
            for (acc, at) in acc.chunks_exact_mut(width).zip(segment.at) {
                let x = a[at + k];
                acc.iter_mut().zip(b).for_each(|(acc, b)| *acc += x * b);
            }
        }
    }
}
