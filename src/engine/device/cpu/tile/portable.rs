use super::{Loops, Microkernel, Segment, Strided, Sums};

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

    fn vectorized(self, loops: impl Loops) {
        loops.run();
    }

    unsafe fn sum(
        self,
        vectors: usize,
        sums: &mut Sums<[usize; 6]>,
        a: Strided,
        segments: &[Segment<[usize; 6]>],
        b: Strided,
    ) {
        let width = vectors * Self::LANES;
        let Sums { data, at, add, epilogue } = sums;
        let mut tile = [[0.0; Self::WIDTH]; Self::ROWS];
        if *add {
            tile.iter_mut()
                .zip(*at)
                .for_each(|(row, at)| row[..width].copy_from_slice(&data[at..at + width]));
        }
        let mut from = 0;
        for segment in segments {
            for k in 0..segment.len {
                let columns = &b.data[from..from + width];
                from += b.stride;
                for (row, at) in tile.iter_mut().zip(segment.at) {
                    let x = a.data[at + k * a.stride];
                    row.iter_mut().zip(columns).for_each(|(sum, b)| *sum += x * b);
                }
            }
        }
        for (row, at) in tile.iter_mut().zip(*at) {
            if let Some(epilogue) = epilogue {
                epilogue.apply(&mut row[..width], at);
            }
            data[at..at + width].copy_from_slice(&row[..width]);
        }
    }
}
