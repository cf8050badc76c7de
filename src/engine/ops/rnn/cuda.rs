//! Recurrent layers on CUDA: the products and grids around the kernels of kernels/rnn.cu.

use super::steps::SequenceSteps;
use crate::engine::device::cuda::{Buffer, Gpu, Grid, In, Out, k};
use crate::engine::ops::gemm::{MatrixIn, MatrixOut, product};

impl SequenceSteps {
    /// W_ih x of all steps at once, into the first `gates` of the four gates that `out` has room for.
    pub(super) fn project_inputs_on(&self, g: &Gpu, out: Out, x: In, w_ih: In, gates: usize) {
        let (rows, width) = (self.batch() * self.steps, gates * self.hidden);
        let inputs = x.len() / rows;
        let (x, w) = (MatrixIn::rows(x, inputs), MatrixIn::rows(w_ih, inputs).t());
        product(g, MatrixOut::rows(out, 4 * self.hidden), x, w, [rows, width, inputs], 1);
    }

    /// W_hhᵀ with its rows padded to whole packs, and the length of a row.
    pub(super) fn transposed_on(&self, g: &Gpu, w_hh: In) -> (Buffer, usize) {
        let (rows, cols) = (w_hh.len() / self.hidden, self.hidden);
        let ld = rows.next_multiple_of(4);
        let mut transposed = g.scratch(cols * ld);
        let grid = Grid::new([ld.div_ceil(32), cols.div_ceil(32), 1], 256);
        k::rnn_transpose(g, grid, transposed.out(), w_hh, rows as i32, cols as i32, ld as i32);
        (transposed, ld)
    }

    pub(super) fn dims(&self, rows: usize, ld: usize) -> k::RnnDims {
        let [batch, steps, hidden, ld, rows] =
            [self.batch(), self.steps, self.hidden, ld, rows].map(|n| n as i32);
        k::RnnDims { batch, steps, hidden, ld, rows, reverse: i32::from(self.reverse) }
    }

    /// The grid of a kernel whose steps multiply by a matrix [rows,cols], `pack` columns a thread, and keep `states`
    /// numbers of a unit in shared memory. Reading the matrix takes the time: where the batch is large, four rows
    /// share a block and one reading of it.
    fn grid(&self, states: usize, [rows, cols]: [usize; 2], pack: usize) -> (Grid, k::RnnDims) {
        const THREADS: usize = 512;
        const SMALL_BATCH: usize = 64;
        const SHARED_BYTES: usize = 48 << 10;
        let groups = cols / pack;
        let slices = (THREADS / groups).min(rows).max(1);
        let bytes = 4 * (states * self.hidden + slices * cols);
        let fits = self.batch() > SMALL_BATCH && pack == 4 && 4 * bytes <= SHARED_BYTES;
        let block_rows = if fits { 4 } else { 1 };
        let grid = Grid::new([self.batch().div_ceil(block_rows), 1, 1], THREADS).shared(block_rows * bytes);
        (grid, self.dims(block_rows, cols))
    }

    /// Forward, by W_hhᵀ with rows of `ld`.
    pub(super) fn launch(&self, states: usize, ld: usize) -> (Grid, k::RnnDims) {
        self.grid(states, [self.hidden, ld], 4)
    }

    /// Backward, by W_hh itself.
    pub(super) fn launch_bwd(&self, gates: usize, states: usize) -> (Grid, k::RnnDims) {
        let pack = if self.hidden.is_multiple_of(4) { 4 } else { 1 };
        self.grid(gates + states, [gates * self.hidden, self.hidden], pack)
    }
}
