//! Squares of rows of numbers: what a transform of squares reads and writes. Their places are checked once, and the columns of all
//! rows together, so that the loops are left with loads and stores.

use std::marker::PhantomData;

use super::Microkernel;

/// No place in a slice.
pub const OUTSIDE: usize = usize::MAX;

/// N×N rows to read, each of `len` numbers.
pub struct Sources<'a, const N: usize> {
    starts: [[*const f32; N]; N],
    len: usize,
    data: PhantomData<&'a [f32]>,
}

impl<'a, const N: usize> Sources<'a, N> {
    /// The `len` numbers of `data` from each offset on; those of `zeros` for an offset [`OUTSIDE`].
    #[inline(always)]
    pub fn new(data: &'a [f32], offsets: &[[usize; N]; N], len: usize, zeros: &'a [f32]) -> Sources<'a, N> {
        assert!(
            len <= data.len() && len <= zeros.len(),
            "rows of {len} numbers are longer than what they lie in"
        );
        let last = data.len() - len;
        let mut starts = [[zeros.as_ptr(); N]; N];
        for r in 0..N {
            for s in 0..N {
                let at = offsets[r][s];
                if at != OUTSIDE {
                    assert!(at <= last, "a row of {len} numbers from {at} on leaves its {}", data.len());
                    starts[r][s] = data.as_ptr().wrapping_add(at);
                }
            }
        }
        Sources { starts, len, data: PhantomData }
    }

    /// The N² equal parts of `data`.
    #[inline(always)]
    pub fn of_parts(data: &'a [f32]) -> Sources<'a, N> {
        let len = data.len() / (N * N);
        let mut starts = [[data.as_ptr(); N]; N];
        for (part, start) in starts.as_flattened_mut().iter_mut().enumerate() {
            *start = data.as_ptr().wrapping_add(part * len);
        }
        Sources { starts, len, data: PhantomData }
    }

    /// A vector of row (r, s) from column `from` on.
    #[inline(always)]
    pub fn load<M: Microkernel>(&self, kernel: M, r: usize, s: usize, from: usize) -> M::Vector {
        assert!(
            from.saturating_add(M::LANES) <= self.len,
            "a vector from {from} on leaves its row of {}",
            self.len
        );
        // SAFETY: every row has `len` numbers.
        kernel.load(unsafe { std::slice::from_raw_parts(self.starts[r][s].add(from), M::LANES) })
    }
}

/// N×N rows to write, of one length.
pub struct Targets<'a, const N: usize> {
    starts: [[*mut f32; N]; N],
    len: usize,
    data: PhantomData<&'a mut [f32]>,
}

impl<'a, const N: usize> Targets<'a, N> {
    /// The rows in reading order; of the shortest one's length.
    pub fn new(rows: Vec<&'a mut [f32]>) -> Targets<'a, N> {
        assert_eq!(rows.len(), N * N, "the rows of a square of {N} by {N}");
        let len = rows.iter().map(|row| row.len()).min().unwrap_or(0);
        let mut starts = [[std::ptr::null_mut(); N]; N];
        starts.as_flattened_mut().iter_mut().zip(rows).for_each(|(start, row)| *start = row.as_mut_ptr());
        Targets { starts, len, data: PhantomData }
    }

    /// Writes a vector to row (r, s) from column `from` on.
    #[inline(always)]
    pub fn store<M: Microkernel>(&mut self, kernel: M, values: M::Vector, r: usize, s: usize, from: usize) {
        assert!(
            from.saturating_add(M::LANES) <= self.len,
            "a vector from {from} on leaves its row of {}",
            self.len
        );
        // SAFETY: every row has `len` numbers, and nothing else refers to them.
        kernel
            .store(values, unsafe { std::slice::from_raw_parts_mut(self.starts[r][s].add(from), M::LANES) });
    }
}

/// Where vectors of `lanes` numbers begin that cover a row of `len`: the last one ends with it, and may lie over the one before.
/// The row has no fewer than `lanes`.
#[inline(always)]
pub fn vectors_over(len: usize, lanes: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(lanes)).map(move |i| (i * lanes).min(len - lanes))
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    use super::*;

    #[test]
    fn rows_are_read_and_written_to_their_ends() {
        let data: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let sources = Sources::new(&data, &[[0, 29], [OUTSIDE, 7]], 11, &[0.0; 11]);
        let mut written = vec![vec![9.0; 11]; 4];
        let mut targets = Targets::<2>::new(written.iter_mut().map(Vec::as_mut_slice).collect());
        for from in vectors_over(11, 8) {
            for (r, s) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                targets.store(Portable, sources.load(Portable, r, s, from), r, s, from);
            }
        }
        let row = |from: usize| -> Vec<f32> { (from..from + 11).map(|i| i as f32).collect() };
        assert_eq!(written, [row(0), row(29), vec![0.0; 11], row(7)]);
    }

    #[test]
    fn the_parts_of_a_slice_lie_one_after_the_other() {
        let data: Vec<f32> = (0..38).map(|i| i as f32).collect();
        let parts = Sources::<2>::of_parts(&data);
        let last = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(r, s)| parts.load(Portable, r, s, 1)[7]);
        assert_eq!(last, [8.0, 17.0, 26.0, 35.0]);
    }

    #[test]
    #[should_panic(expected = "a row of 11 numbers from 30 on leaves its 40")]
    fn a_row_beyond_the_end_is_refused() {
        Sources::new(&[0.0; 40], &[[30]], 11, &[0.0; 11]);
    }

    #[test]
    #[should_panic(expected = "a vector from 4 on leaves its row of 11")]
    fn a_vector_beyond_the_end_is_refused() {
        Sources::new(&[0.0; 40], &[[29]], 11, &[0.0; 11]).load(Portable, 0, 0, 4);
    }
}
