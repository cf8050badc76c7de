use super::{Loops, Matrix, Microkernel, Product, Strided, check_product};

/// The tile in plain Rust, for processors without AVX2 and NEON.
#[derive(Clone, Copy)]
pub struct Portable;

impl Microkernel for Portable {
    const ROWS: usize = 6;
    const LANES: usize = 8;
    const VECTORS: usize = 2;
    type Vector = [f32; 8];

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
                for (i, tile) in tile[..count].iter_mut().enumerate() {
                    let x = a.data[(row + i) * a.row + k * a.element];
                    tile.iter_mut().zip(b).for_each(|(sum, b)| *sum += x * b);
                }
            }
            for (i, tile) in tile[..count].iter().enumerate() {
                data[(row + i) * pitch..][..columns].copy_from_slice(&tile[..columns]);
            }
        }
    }
}
