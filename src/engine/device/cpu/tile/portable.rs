use super::{Microkernel, Segment, Strided};

/// The tile in plain Rust, for processors without AVX2.
#[derive(Clone, Copy)]
pub struct Portable;

impl Microkernel for Portable {
    const ROWS: usize = 6;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    type Rows = [usize; 6];

    fn rows(f: impl FnMut(usize) -> usize) -> [usize; 6] {
        std::array::from_fn(f)
    }

    unsafe fn sum(
        self,
        vectors: usize,
        acc: &mut [f32],
        add: bool,
        a: Strided,
        segments: &[Segment<[usize; 6]>],
        b: Strided,
    ) {
        let width = vectors * Self::LANES;
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
}
