//! The register tile that all convolutions are made of: six rows by one or two vectors of eight.
//!
//! `acc[6][8·V] += Σ_k a_i[k] · b[k][8·V]`, where the six rows are read in place, segment by segment, from wherever
//! they lie. Rows are broadcast, columns are vectors; with V = 2 the twelve accumulators and their operands just fit
//! the sixteen registers of AVX2.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

/// Rows of a tile.
pub const ROWS: usize = 6;
/// Lanes of a vector.
pub const LANES: usize = 8;

/// `len` elements of each row, beginning at `at[row]`.
#[derive(Clone, Copy)]
pub struct Segment {
    pub at: [usize; ROWS],
    pub len: usize,
}

/// Numbers, and the distance from one element (of `a`) or row (of `b`) to the next.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// Sums the products of the segments' rows in `a` with the rows of `b` into the tile `acc` of `vectors` (1 or 2)
/// vectors; with `add`, on top of what is there.
#[inline]
pub fn tile(vectors: usize, acc: &mut [f32], add: bool, a: Strided, segments: &[Segment], b: Strided) {
    let width = vectors * LANES;
    let mut depth = 0;
    for s in segments.iter().filter(|s| s.len > 0) {
        let last = s.at.iter().max().unwrap() + (s.len - 1) * a.stride;
        assert!(last < a.data.len(), "a segment up to {last} leaves its {} elements", a.data.len());
        depth += s.len;
    }
    let fits = depth == 0 || (depth - 1) * b.stride + width <= b.data.len();
    assert!(acc.len() >= ROWS * width && fits, "a tile of depth {depth} leaves its buffers");
    #[cfg(target_arch = "x86_64")]
    if avx2::available() {
        // SAFETY: the features were found, and the assertions above keep every address inside its slice.
        return unsafe {
            match vectors {
                1 => avx2::tile::<1>(acc, add, a, segments, b),
                2 => avx2::tile::<2>(acc, add, a, segments, b),
                _ => unreachable!("a tile has one or two vectors"),
            }
        };
    }
    portable::tile(width, acc, add, a, segments, b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_tile_computes_what_the_portable_one_does() {
        let value = |i: usize| ((i * 37) % 101) as f32 / 50.0 - 1.0;
        let data: Vec<f32> = (0..600).map(value).collect();
        let columns: Vec<f32> = (0..20 * 60).map(|i| value(i + 5)).collect();
        let segments = [
            Segment { at: [0, 30, 60, 90, 120, 120], len: 29 },
            Segment { at: [200, 3, 250, 7, 300, 1], len: 31 },
        ];
        for (vectors, a_stride, b_stride) in [(1, 1, 8), (2, 1, 16), (2, 3, 20), (1, 2, 9)] {
            let (a, b) =
                (Strided { data: &data, stride: a_stride }, Strided { data: &columns, stride: b_stride });
            for add in [false, true] {
                let mut fast = vec![0.5; ROWS * LANES * vectors];
                let mut slow = fast.clone();
                tile(vectors, &mut fast, add, a, &segments, b);
                portable::tile(vectors * LANES, &mut slow, add, a, &segments, b);
                for (f, s) in fast.iter().zip(&slow) {
                    assert!((f - s).abs() < 1e-5, "{f} {s}");
                }
            }
        }
    }
}
