use super::{Loops, Matrix, Microkernel, Product, Segment, Strided, Sums, check_product};

/// The tile in plain Rust, for processors without AVX2 and NEON.
#[derive(Clone, Copy)]
pub struct Portable;

impl Microkernel for Portable {
    const ROWS: usize = 6;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    type Rows = [usize; 6];
    type Vector = [f32; 8];

    fn rows(f: impl FnMut(usize) -> usize) -> [usize; 6] {
        std::array::from_fn(f)
    }

    fn vectorized(self, loops: impl Loops) {
        loops.run(self);
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 8] {
        [value; 8]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> [f32; 8] {
        let mut values = [0.0; 8];
        let count = from.len().min(8);
        values[..count].copy_from_slice(&from[..count]);
        values
    }

    #[inline(always)]
    fn store(self, values: [f32; 8], to: &mut [f32]) {
        let count = to.len().min(8);
        to[..count].copy_from_slice(&values[..count]);
    }

    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn clamp(self, x: [f32; 8], least: f32, most: f32) -> [f32; 8] {
        x.map(|x| x.clamp(least, most))
    }

    #[inline(always)]
    fn power_of_two(self, shifted: [f32; 8]) -> [f32; 8] {
        shifted.map(|n| f32::from_bits((n.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }

    #[inline(always)]
    fn rectified(self, z: [f32; 8], slope: [f32; 8], ceiling: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| {
            let z = if z[i] > 0.0 { z[i] } else { slope[i] * z[i] };
            if z > ceiling[i] { ceiling[i] } else { z }
        })
    }

    fn multiply(self, size: [usize; 3], sums: Product, a: Matrix, b: Strided) {
        check_product::<Portable>(size, &sums, a, b);
        let ([rows, depth, columns], Product { data, pitch, add }) = (size, sums);
        for row in (0..rows).step_by(Self::ROWS) {
            let count = Self::ROWS.min(rows - row);
            let mut tile = [[0.0; Self::WIDTH]; Self::ROWS];
            for (i, tile) in tile[..count].iter_mut().enumerate().filter(|_| add) {
                tile[..columns].copy_from_slice(&data[(row + i) * pitch..][..columns]);
            }
            for k in 0..depth {
                let b = &b.data[k * b.stride..][..columns];
                add_term(&mut tile[..count], b, |i| a.data[(row + i) * a.row + k * a.element]);
            }
            for (i, tile) in tile[..count].iter().enumerate() {
                data[(row + i) * pitch..][..columns].copy_from_slice(&tile[..columns]);
            }
        }
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
                add_term(&mut tile, columns, |i| a.data[segment.at[i] + k * a.stride]);
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

/// Adds x(i) · b to each row i of a tile.
#[inline(always)]
fn add_term(tile: &mut [[f32; Portable::WIDTH]], b: &[f32], x: impl Fn(usize) -> f32) {
    for (i, row) in tile.iter_mut().enumerate() {
        let x = x(i);
        row.iter_mut().zip(b).for_each(|(sum, b)| *sum += x * b);
    }
}
