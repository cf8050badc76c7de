//! The register tile that all convolutions are made of: some rows by one or two vectors, 6×16 with AVX2.
//!
//! `acc[ROWS][LANES·V] += Σ_k a_i[k] · b[k][LANES·V]`, where each row a_i is read in place, segment by segment. Rows are
//! broadcast, columns are vectors.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
pub use portable::Portable;

/// The tile for one kind of processor. Values exist only where the processor can run it.
pub trait Microkernel: Copy + Send + Sync {
    /// Rows of a tile.
    const ROWS: usize;
    /// Lanes of a vector.
    const LANES: usize;
    /// Vectors of the widest tile.
    const VECTORS: usize;
    /// Columns of the widest tile.
    const WIDTH: usize = Self::LANES * Self::VECTORS;
    /// One number a row: `[usize; ROWS]`.
    type Rows: Copy + Send + Sync + AsRef<[usize]>;

    fn rows(f: impl FnMut(usize) -> usize) -> Self::Rows;

    /// [`tile`](Microkernel::tile) without its checks.
    ///
    /// # Safety
    /// Every segment lies in `a`; `acc` and `b` hold the tile and the segments' total depth.
    unsafe fn sum(
        self,
        vectors: usize,
        acc: &mut [f32],
        add: bool,
        a: Strided,
        segments: &[Segment<Self::Rows>],
        b: Strided,
    );

    /// Sums the products of the segments' rows in `a` with the rows of `b` into the tile `acc` of `vectors` vectors; with
    /// `add`, `acc` keeps what it holds.
    #[inline]
    fn tile(
        self,
        vectors: usize,
        acc: &mut [f32],
        add: bool,
        a: Strided,
        segments: &[Segment<Self::Rows>],
        b: Strided,
    ) {
        let width = vectors * Self::LANES;
        let mut depth = 0;
        for s in segments.iter().filter(|s| s.len > 0) {
            let last = s.at.as_ref().iter().max().unwrap() + (s.len - 1) * a.stride;
            assert!(last < a.data.len(), "a segment up to {last} leaves its {} elements", a.data.len());
            depth += s.len;
        }
        let fits = depth == 0 || (depth - 1) * b.stride + width <= b.data.len();
        assert!(acc.len() >= Self::ROWS * width && fits, "a tile of depth {depth} leaves its buffers");
        assert!((1..=Self::VECTORS).contains(&vectors), "a tile of {vectors} vectors");
        // SAFETY: the assertions above keep every address inside its slice.
        unsafe { self.sum(vectors, acc, add, a, segments, b) }
    }
}

/// `len` elements of each row, beginning at `at[row]`.
#[derive(Clone, Copy)]
pub struct Segment<Rows> {
    pub at: Rows,
    pub len: usize,
}

/// Numbers, and the distance from one element (of `a`) or row (of `b`) to the next.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

/// The fastest microkernel of this processor.
pub enum Best {
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable(Portable),
}

pub fn best() -> Best {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = Avx2::detect() {
        return Best::Avx2(avx2);
    }
    Best::Portable(Portable)
}

/// Evaluates an expression that is generic over the microkernel with the fastest one: `with_microkernel!(m => f(m, x))`.
macro_rules! with_microkernel {
    ($kernel:ident => $body:expr) => {
        match $crate::engine::device::cpu::tile::best() {
            #[cfg(target_arch = "x86_64")]
            $crate::engine::device::cpu::tile::Best::Avx2($kernel) => $body,
            $crate::engine::device::cpu::tile::Best::Portable($kernel) => $body,
        }
    };
}

pub(crate) use with_microkernel;

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
                let mut fast = vec![0.5; Portable::ROWS * Portable::LANES * vectors];
                let mut slow = fast.clone();
                with_microkernel!(m => m.tile(vectors, &mut fast, add, a, &segments, b));
                Portable.tile(vectors, &mut slow, add, a, &segments, b);
                for (f, s) in fast.iter().zip(&slow) {
                    assert!((f - s).abs() < 1e-5, "{f} {s}");
                }
            }
        }
    }
}
