//! Recurrent layers over padded captions of unequal length, in either direction.
//!
//! LSTM: Hochreiter and Schmidhuber, "Long short-term memory", 1997, with the forget gate of Gers et al., 2000.
//! GRU: Cho et al., EMNLP 2014, with the reset gate after the product, as PyTorch and cuDNN have it.

use crate::engine::ops::Case;
use crate::engine::ops::gemm::{MatrixIn, MatrixOut, product};
use crate::engine::ops::matmul::{Mat, column_sums, gemm, given};
use crate::engine::ops::pointwise::logistic;
use crate::engine::device::cpu::{Buffer, for_chunks};
use crate::engine::device::cuda::{self, Gpu, Grid, In, Out, k};
use crate::engine::tensor::{Device, IntTensor, Shape, Tensor, record, run};

/// The weights of one direction: G gates of H rows each, stacked in PyTorch's order (i f g o; r z n).
#[derive(Clone, Copy)]
pub struct Cell<'a> {
    /// [G·H, I]
    pub w_ih: &'a Tensor,
    /// [G·H, H]
    pub w_hh: &'a Tensor,
    /// [G·H]
    pub b_ih: &'a Tensor,
    /// [G·H]
    pub b_hh: &'a Tensor,
}

/// What [`lstm`] gives.
pub struct Lstm {
    /// h of every step [B,T,H], zero beyond a row's length.
    pub outputs: Tensor,
    /// h after each row's own last step [B,H].
    pub h: Tensor,
    /// c after each row's own last step [B,H].
    pub c: Tensor,
}

/// What [`gru`] gives.
pub struct Gru {
    /// h of every step [B,T,H], zero beyond a row's length.
    pub outputs: Tensor,
    /// h after each row's own last step [B,H].
    pub h: Tensor,
}

/// LSTM over x [B,T,I] from the state (h, c) [B,H] each, zero if none:
/// i, f, o = σ(·), g = tanh(·) of W_ih x + b_ih + W_hh h + b_hh;  c' = f·c + i·g;  h' = o·tanh(c').
/// `reverse` walks each row from its own last word to its first.
#[track_caller]
pub fn lstm(x: &Tensor, lengths: &IntTensor, cell: Cell, state: Option<(&Tensor, &Tensor)>, reverse: bool) -> Lstm {
    let walk = Walk::new("lstm", 4, x, lengths, cell, reverse);
    let none = zeros(x, walk.state());
    let (h0, c0) = state.unwrap_or((&none, &none));
    for state in state.iter().flat_map(|(h, c)| [h, c]) {
        walk.check_state("lstm", state);
    }
    let (mut outputs, mut cells) = (x.new_empty(walk.sequence(1)), x.new_empty_f32(walk.sequence(1)));
    let mut gates = x.new_empty_f32(walk.sequence(4));
    let (mut h, mut c) = (x.new_empty(walk.state()), x.new_empty(walk.state()));
    let Cell { w_ih, w_hh, b_ih, b_hh } = cell;
    run(
        "lstm_fwd",
        [&mut outputs, &mut h, &mut c, &mut gates, &mut cells],
        [x, w_ih, w_hh, b_ih, b_hh, h0, c0],
        |outs, ins| lstm_fwd(&walk, outs, ins),
        |g, [y, h, c, gates, cells], [x, w_ih, w_hh, b_ih, b_hh, h0, c0]| {
            walk.project_on(g, gates, x, w_ih, 4);
            let (w, ld) = walk.transposed_on(g, w_hh);
            let ((grid, d), h0, c0) = (walk.launch(2, ld), given(h0), given(c0));
            k::lstm_fwd(g, grid, y, h, c, gates, cells, w.view(), b_ih, b_hh, h0, c0, walk.ids.on(g), d);
        },
    );
    let saved = [x, w_ih, w_hh, &outputs, h0, c0].map(Tensor::detach);
    let ins = [x, w_ih, w_hh, b_ih, b_hh, h0, c0];
    let [outputs, h, c] =
        record([outputs, h, c], ins, move |[dy, dh, dc], [wx, wi, wh, bi, bh, wh0, wc0]| {
            let [x, w_ih, w_hh, outputs, h0, c0] = &saved;
            let dy = dy.unwrap_or_else(|| zeros(x, walk.sequence(1)));
            let [dh, dc] = [dh, dc].map(|d| d.unwrap_or_else(|| zeros(x, walk.state())));
            let mut sums = x.new_empty_f32(walk.sequence(4));
            let (mut dh0, mut dc0) = (x.new_empty(walk.state()), x.new_empty(walk.state()));
            run(
                "lstm_bwd",
                [&mut sums, &mut dh0, &mut dc0],
                [&dy, &dh, &dc, &gates, &cells, c0, w_hh],
                |outs, ins| lstm_bwd(&walk, outs, ins),
                |g, [sums, dh0, dc0], [dy, dh, dc, gates, cells, c0, w_hh]| {
                    let (grid, d) = walk.launch_bwd(4, 1);
                    let [dy, dh, dc, c0] = [dy, dh, dc, c0].map(given);
                    k::lstm_bwd(
                        g,
                        grid,
                        sums,
                        dh0,
                        dc0,
                        dy,
                        dh,
                        dc,
                        gates,
                        cells,
                        c0,
                        w_hh,
                        walk.ids.on(g),
                        d,
                    );
                },
            );
            let before = wh.then(|| walk.before(outputs, h0));
            let weights = weight_gradients([wx, wi, wh, bi, bh], &sums, &sums, x, w_ih, before.as_ref());
            let [dx, dw_ih, dw_hh, db_ih, db_hh] = weights;
            [dx, dw_ih, dw_hh, db_ih, db_hh, wh0.then_some(dh0), wc0.then_some(dc0)]
        });
    Lstm { outputs, h, c }
}

/// `gates` leaves as the activated i, f, g, o of every step, `cells` as every step's c.
fn lstm_fwd(
    walk: &Walk,
    [outputs, h, c, gates, cells]: [&mut [f32]; 5],
    [x, w_ih, w_hh, b_ih, b_hh, h0, c0]: [&[f32]; 7],
) {
    let n = walk.hidden;
    walk.project(gates, 4, x, w_ih, 4);
    outputs.fill(0.0);
    cells.fill(0.0);
    h.copy_from_slice(h0);
    c.copy_from_slice(c0);
    let bias: Vec<f32> = b_ih.iter().zip(b_hh).map(|(a, b)| a + b).collect();
    let (w_hh_t, mut recurrent) = (transposed(w_hh, n), vec![0.0; walk.batch() * 4 * n]);
    for step in 0..walk.longest() {
        walk.recur(&mut recurrent, h, w_hh_t.as_slice(), 4);
        for (b, at) in walk.running(step) {
            let (h, c) = (row_mut(h, b, n), row_mut(c, b, n));
            let gates = row_mut(gates, at, 4 * n);
            let terms = row(&recurrent, b, 4 * n).iter().zip(&bias);
            gates.iter_mut().zip(terms).for_each(|(g, (r, b))| *g += r + b);
            lstm_cell(gates, c, h);
            row_mut(outputs, at, n).copy_from_slice(h);
            row_mut(cells, at, n).copy_from_slice(c);
        }
    }
}

fn lstm_cell(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) {
    let [i, f, g, o] = parts_mut(gates, c.len());
    for gate in [&mut *i, &mut *f, &mut *o] {
        gate.iter_mut().for_each(|x| *x = logistic(*x));
    }
    g.iter_mut().for_each(|x| *x = tanh(*x));
    for ((c, f), (i, g)) in c.iter_mut().zip(f).zip(i.iter().zip(g)) {
        *c = *f * *c + i * *g;
    }
    for (h, (o, c)) in h.iter_mut().zip(o.iter().zip(c)) {
        *h = o * tanh(*c);
    }
}

/// Back through time: `sums` leaves as the gradient of what the gates' activations were taken of.
fn lstm_bwd(
    walk: &Walk,
    [sums, dh, dc]: [&mut [f32]; 3],
    [dy, dh_last, dc_last, gates, cells, c0, w_hh]: [&[f32]; 7],
) {
    let n = walk.hidden;
    sums.fill(0.0);
    dh.copy_from_slice(dh_last);
    dc.copy_from_slice(dc_last);
    let mut step_sums = vec![0.0; walk.batch() * 4 * n];
    for step in (0..walk.longest()).rev() {
        step_sums.fill(0.0);
        for (b, at) in walk.running(step) {
            let d = row_mut(&mut step_sums, b, 4 * n);
            let saved = [row(gates, at, 4 * n), row(cells, at, n), walk.previous(cells, c0, b, step)];
            lstm_cell_bwd(d, row_mut(dh, b, n), row_mut(dc, b, n), row(dy, at, n), saved);
            row_mut(sums, at, 4 * n).copy_from_slice(d);
        }
        walk.recur_bwd(dh, &step_sums, w_hh, 4);
    }
}

/// `dc` leaves as the gradient of the step before; `dh` leaves as zero, for the product with W_hh to be added.
fn lstm_cell_bwd(
    sums: &mut [f32],
    dh: &mut [f32],
    dc: &mut [f32],
    dy: &[f32],
    [gates, cells, before]: [&[f32]; 3],
) {
    let n = dh.len();
    let ([i, f, g, o], [di, df, dg, d_o]) = (parts(gates, n), parts_mut(sums, n));
    let (dc, dy, cells, before) = (&mut dc[..n], &dy[..n], &cells[..n], &before[..n]);
    for j in 0..n {
        let (dh_j, c) = (dh[j] + dy[j], tanh(cells[j]));
        let dc_j = dc[j] + dh_j * o[j] * (1.0 - c * c);
        di[j] = dc_j * g[j] * i[j] * (1.0 - i[j]);
        df[j] = dc_j * before[j] * f[j] * (1.0 - f[j]);
        dg[j] = dc_j * i[j] * (1.0 - g[j] * g[j]);
        d_o[j] = dh_j * c * o[j] * (1.0 - o[j]);
        dc[j] = dc_j * f[j];
        dh[j] = 0.0;
    }
}

/// GRU over x [B,T,I] from the state h [B,H], zero if none, with a = W_ih x + b_ih and q = W_hh h + b_hh:
/// r = σ(a_r + q_r);  z = σ(a_z + q_z);  n = tanh(a_n + r·q_n);  h' = (1 - z)·n + z·h.
/// `reverse` walks each row from its own last word to its first.
#[track_caller]
pub fn gru(x: &Tensor, lengths: &IntTensor, cell: Cell, state: Option<&Tensor>, reverse: bool) -> Gru {
    let walk = Walk::new("gru", 3, x, lengths, cell, reverse);
    let none = zeros(x, walk.state());
    let h0 = state.unwrap_or(&none);
    if let Some(state) = state {
        walk.check_state("gru", state);
    }
    let (mut outputs, mut h) = (x.new_empty(walk.sequence(1)), x.new_empty(walk.state()));
    let mut gates = x.new_empty_f32(walk.sequence(4));
    let Cell { w_ih, w_hh, b_ih, b_hh } = cell;
    let ins = [x, w_ih, w_hh, b_ih, b_hh, h0];
    run(
        "gru_fwd",
        [&mut outputs, &mut h, &mut gates],
        ins,
        |outs, ins| gru_fwd(&walk, outs, ins),
        |g, [y, h, gates], [x, w_ih, w_hh, b_ih, b_hh, h0]| {
            walk.project_on(g, gates, x, w_ih, 3);
            let (w, ld) = walk.transposed_on(g, w_hh);
            let ((grid, d), h0) = (walk.launch(1, ld), given(h0));
            k::gru_fwd(g, grid, y, h, gates, w.view(), b_ih, b_hh, h0, walk.ids.on(g), d);
        },
    );
    let saved = [x, w_ih, w_hh, &outputs, h0].map(Tensor::detach);
    let [outputs, h] = record([outputs, h], ins, move |[dy, dh], [wx, wi, wh, bi, bh, wh0]| {
        let [x, w_ih, w_hh, outputs, h0] = &saved;
        let dy = dy.unwrap_or_else(|| zeros(x, walk.sequence(1)));
        let dh = dh.unwrap_or_else(|| zeros(x, walk.state()));
        let (mut da, mut dq) = (x.new_empty_f32(walk.sequence(3)), x.new_empty_f32(walk.sequence(3)));
        let mut dh0 = x.new_empty(walk.state());
        run(
            "gru_bwd",
            [&mut da, &mut dq, &mut dh0],
            [&dy, &dh, &gates, outputs, h0, w_hh],
            |outs, ins| gru_bwd(&walk, outs, ins),
            |g, [da, dq, dh0], [dy, dh, gates, outputs, h0, w_hh]| {
                let (grid, d) = walk.launch_bwd(3, 1);
                let [dy, dh, h0] = [dy, dh, h0].map(given);
                k::gru_bwd(g, grid, da, dq, dh0, dy, dh, gates, outputs, h0, w_hh, walk.ids.on(g), d);
            },
        );
        let before = wh.then(|| walk.before(outputs, h0));
        let weights = weight_gradients([wx, wi, wh, bi, bh], &da, &dq, x, w_ih, before.as_ref());
        let [dx, dw_ih, dw_hh, db_ih, db_hh] = weights;
        [dx, dw_ih, dw_hh, db_ih, db_hh, wh0.then_some(dh0)]
    });
    Gru { outputs, h }
}

/// `gates` leaves as r, z, n and q_n of every step.
fn gru_fwd(walk: &Walk, [outputs, h, gates]: [&mut [f32]; 3], [x, w_ih, w_hh, b_ih, b_hh, h0]: [&[f32]; 6]) {
    let n = walk.hidden;
    walk.project(gates, 4, x, w_ih, 3);
    outputs.fill(0.0);
    h.copy_from_slice(h0);
    let (w_hh_t, mut recurrent) = (transposed(w_hh, n), vec![0.0; walk.batch() * 3 * n]);
    for step in 0..walk.longest() {
        walk.recur(&mut recurrent, h, w_hh_t.as_slice(), 3);
        for (b, at) in walk.running(step) {
            let (h, q) = (row_mut(h, b, n), row_mut(&mut recurrent, b, 3 * n));
            let gates = row_mut(gates, at, 4 * n);
            gates.iter_mut().zip(b_ih).for_each(|(a, b)| *a += b);
            q.iter_mut().zip(b_hh).for_each(|(q, b)| *q += b);
            gru_cell(gates, q, h);
            row_mut(outputs, at, n).copy_from_slice(h);
        }
    }
}

fn gru_cell(gates: &mut [f32], q: &[f32], h: &mut [f32]) {
    let width = h.len();
    let ([r, z, n, q_n], [qr, qz, qn]) = (parts_mut(gates, width), parts(q, width));
    q_n.copy_from_slice(qn);
    r.iter_mut().zip(qr).for_each(|(r, q)| *r = logistic(*r + q));
    z.iter_mut().zip(qz).for_each(|(z, q)| *z = logistic(*z + q));
    n.iter_mut().zip(r.iter().zip(qn)).for_each(|(n, (r, q))| *n = tanh(*n + r * q));
    h.iter_mut().zip(z.iter().zip(n)).for_each(|(h, (z, n))| *h = *n + z * (*h - *n));
}

/// Back through time: `da` and `dq` leave as the gradients of the two sums of every step.
fn gru_bwd(walk: &Walk, [da, dq, dh]: [&mut [f32]; 3], [dy, dh_last, gates, outputs, h0, w_hh]: [&[f32]; 6]) {
    let n = walk.hidden;
    da.fill(0.0);
    dq.fill(0.0);
    dh.copy_from_slice(dh_last);
    let mut step_dq = vec![0.0; walk.batch() * 3 * n];
    for step in (0..walk.longest()).rev() {
        step_dq.fill(0.0);
        for (b, at) in walk.running(step) {
            let d = row_mut(&mut step_dq, b, 3 * n);
            let saved = [row(gates, at, 4 * n), walk.previous(outputs, h0, b, step)];
            gru_cell_bwd(row_mut(da, at, 3 * n), d, row_mut(dh, b, n), row(dy, at, n), saved);
            row_mut(dq, at, 3 * n).copy_from_slice(d);
        }
        walk.recur_bwd(dh, &step_dq, w_hh, 3);
    }
}

/// `dh` leaves as the part that goes round the gates, for the product with W_hh to be added.
fn gru_cell_bwd(da: &mut [f32], dq: &mut [f32], dh: &mut [f32], dy: &[f32], [gates, before]: [&[f32]; 2]) {
    let width = dh.len();
    let [r, z, n, q_n] = parts(gates, width);
    let ([ar, az, an], [qr, qz, qn]) = (parts_mut(da, width), parts_mut(dq, width));
    let (dy, before) = (&dy[..width], &before[..width]);
    for j in 0..width {
        let d = dh[j] + dy[j];
        let dn = d * (1.0 - z[j]) * (1.0 - n[j] * n[j]);
        let dr = dn * q_n[j] * r[j] * (1.0 - r[j]);
        let dz = d * (before[j] - n[j]) * z[j] * (1.0 - z[j]);
        (ar[j], az[j], an[j]) = (dr, dz, dn);
        (qr[j], qz[j], qn[j]) = (dr, dz, dn * r[j]);
        dh[j] = d * z[j];
    }
}

/// How the rows of a padded batch are walked. Step k of a row is its k-th word from the front, or from the back.
struct Walk {
    lengths: Vec<usize>,
    /// T, of which a row uses its length.
    steps: usize,
    hidden: usize,
    reverse: bool,
    /// The lengths again, for a GPU.
    ids: IntTensor,
}

impl Walk {
    /// Checks all shapes of a cell with `gates` gates over x.
    #[track_caller]
    fn new(op: &str, gates: usize, x: &Tensor, lengths: &IntTensor, cell: Cell, reverse: bool) -> Walk {
        let ([b, steps, i], [g, hidden]) = (x.dims(), cell.w_hh.dims());
        let (w_ih, w_hh) = (cell.w_ih.shape(), cell.w_hh.shape());
        assert_eq!(g, gates * hidden, "{op}: w_hh {w_hh:?} does not stack {gates} gates of {hidden} rows");
        assert_eq!(
            *w_ih,
            [g, i],
            "{op}: w_ih {w_ih:?} does not fit the input {:?} and w_hh {w_hh:?}",
            x.shape()
        );
        for bias in [cell.b_ih.shape(), cell.b_hh.shape()] {
            assert_eq!(*bias, [g], "{op}: the bias {bias:?} does not fit w_hh {w_hh:?}");
        }
        let ids = lengths.clone();
        Walk { lengths: row_lengths(op, lengths, b, steps), steps, hidden, reverse, ids }
    }

    #[track_caller]
    fn check_state(&self, op: &str, state: &Tensor) {
        let (state, wanted) = (state.shape(), self.state());
        assert_eq!(state, wanted, "{op}: the state {state:?} is not of shape {wanted:?}");
    }

    fn batch(&self) -> usize {
        self.lengths.len()
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    fn state(&self) -> Shape {
        [self.batch(), self.hidden].into()
    }

    fn sequence(&self, gates: usize) -> Shape {
        [self.batch(), self.steps, gates * self.hidden].into()
    }

    /// Where in [B·T] a row's step stands.
    fn place(&self, b: usize, step: usize) -> usize {
        b * self.steps + if self.reverse { self.lengths[b] - 1 - step } else { step }
    }

    /// The rows that have not ended at a step, each with its place.
    fn running(&self, step: usize) -> impl Iterator<Item = (usize, usize)> {
        let rows = self.lengths.iter().enumerate();
        rows.filter(move |&(_, &length)| step < length).map(move |(b, _)| (b, self.place(b, step)))
    }

    /// A row's state before a step: of [B,T,H], or the first state.
    fn previous<'a>(&self, states: &'a [f32], first: &'a [f32], b: usize, step: usize) -> &'a [f32] {
        match step {
            0 => row(first, b, self.hidden),
            _ => row(states, self.place(b, step - 1), self.hidden),
        }
    }

    /// h before every step [B,T,H], zero beyond the length.
    fn before(&self, outputs: &Tensor, h0: &Tensor) -> Tensor {
        let mut before = outputs.new_empty(outputs.shape());
        run(
            "rnn_before",
            [&mut before],
            [outputs, h0],
            |[before], [outputs, h0]| {
                before.fill(0.0);
                for step in 0..self.longest() {
                    for (b, at) in self.running(step) {
                        row_mut(before, at, self.hidden).copy_from_slice(self.previous(outputs, h0, b, step));
                    }
                }
            },
            |g, [before], [outputs, h0]| {
                let grid = Grid::elements(before.len());
                k::rnn_before(g, grid, before, outputs, given(h0), self.ids.on(g), self.dims(1, 0));
            },
        );
        before
    }

    /// W_ih x of all steps at once, into the first `gates` of `room` gates.
    fn project(&self, out: &mut [f32], room: usize, x: &[f32], w_ih: &[f32], gates: usize) {
        let (rows, width) = (self.batch() * self.steps, gates * self.hidden);
        let (x, w) = (Mat::rows(x, rows, x.len() / rows), Mat::rows(w_ih, width, w_ih.len() / width));
        gemm(out, room * self.hidden, x, w.t(), false, true);
    }

    /// [`Walk::project`] on a GPU.
    fn project_on(&self, g: &Gpu, out: Out, x: In, w_ih: In, gates: usize) {
        let (rows, width) = (self.batch() * self.steps, gates * self.hidden);
        let inputs = x.len() / rows;
        let (x, w) = (MatrixIn::rows(x, inputs), MatrixIn::rows(w_ih, inputs).t());
        product(g, MatrixOut::rows(out, 4 * self.hidden), x, w, [rows, width, inputs], 1);
    }

    /// W_hhᵀ on a GPU, its rows padded to whole packs, and their length.
    fn transposed_on(&self, g: &Gpu, w_hh: In) -> (cuda::Buffer, usize) {
        let (rows, cols) = (w_hh.len() / self.hidden, self.hidden);
        let ld = rows.next_multiple_of(4);
        let mut turned = g.scratch(cols * ld);
        let grid = Grid::new([ld.div_ceil(32), cols.div_ceil(32), 1], 256);
        k::rnn_transpose(g, grid, turned.out(), w_hh, rows as i32, cols as i32, ld as i32);
        (turned, ld)
    }

    fn dims(&self, rows: usize, ld: usize) -> k::RnnDims {
        let [batch, steps, hidden, ld, rows] =
            [self.batch(), self.steps, self.hidden, ld, rows].map(|n| n as i32);
        k::RnnDims { batch, steps, hidden, ld, rows, reverse: i32::from(self.reverse) }
    }

    /// The grid of a walk whose steps multiply by a matrix of `rows` rows and `cols` columns, `pack` columns a thread;
    /// `states` numbers of a unit stay in shared memory. Few rows of the batch have a block each; many share one by
    /// fours, for reading the matrix is what takes the time, and one reading serves four.
    fn grid(&self, states: usize, [rows, cols]: [usize; 2], pack: usize) -> (Grid, k::RnnDims) {
        const THREADS: usize = 512;
        const FEW: usize = 64;
        const ROOM: usize = 48 << 10;
        let groups = cols / pack;
        let slices = (THREADS / groups).min(rows).max(1);
        let bytes = 4 * (states * self.hidden + slices * cols);
        let together = if self.batch() > FEW && pack == 4 && 4 * bytes <= ROOM { 4 } else { 1 };
        let grid = Grid::new([self.batch().div_ceil(together), 1, 1], THREADS).shared(together * bytes);
        (grid, self.dims(together, cols))
    }

    /// Forward, by W_hhᵀ with rows of `ld`.
    fn launch(&self, states: usize, ld: usize) -> (Grid, k::RnnDims) {
        self.grid(states, [self.hidden, ld], 4)
    }

    /// Back, by W_hh itself.
    fn launch_bwd(&self, gates: usize, states: usize) -> (Grid, k::RnnDims) {
        let pack = if self.hidden.is_multiple_of(4) { 4 } else { 1 };
        self.grid(gates + states, [gates * self.hidden, self.hidden], pack)
    }

    /// W_hh h of one step, from W_hhᵀ: a product that goes along its rows need not be packed anew for every step.
    fn recur(&self, out: &mut [f32], h: &[f32], w_hh_t: &[f32], gates: usize) {
        let (n, width) = (self.hidden, gates * self.hidden);
        gemm(out, width, Mat::rows(h, self.batch(), n), Mat::rows(w_hh_t, n, width), false, true);
    }

    /// dh += W_hhᵀ d; a row that has ended has d = 0 and keeps its gradient.
    fn recur_bwd(&self, dh: &mut [f32], d: &[f32], w_hh: &[f32], gates: usize) {
        let (n, width) = (self.hidden, gates * self.hidden);
        gemm(dh, n, Mat::rows(d, self.batch(), width), Mat::rows(w_hh, width, n), true, true);
    }
}

/// The gradients of x, w_ih, w_hh, b_ih and b_hh from `da` of W_ih x + b_ih and `dq` of W_hh h + b_hh at every step.
fn weight_gradients(
    [wx, wi, wh, bi, bh]: [bool; 5],
    da: &Tensor,
    dq: &Tensor,
    x: &Tensor,
    w_ih: &Tensor,
    before: Option<&Tensor>,
) -> [Option<Tensor>; 5] {
    [
        wx.then(|| input_gradient(da, w_ih, x)),
        wi.then(|| product_over_steps(da, x)),
        before.filter(|_| wh).map(|before| product_over_steps(dq, before)),
        bi.then(|| column_sums(da)),
        bh.then(|| column_sums(dq)),
    ]
}

/// dx = da · W_ih
fn input_gradient(da: &Tensor, w_ih: &Tensor, x: &Tensor) -> Tensor {
    let [g, i] = w_ih.dims();
    let (rows, mut dx) = (da.len() / g, x.new_empty(x.shape()));
    run(
        "rnn_bwd_x",
        [&mut dx],
        [da, w_ih],
        |[dx], [da, w]| gemm(dx, i, Mat::rows(da, rows, g), Mat::rows(w, g, i), false, true),
        |gpu, [dx], [da, w]| {
            product(gpu, MatrixOut::rows(dx, i), MatrixIn::rows(da, g), MatrixIn::rows(w, i), [rows, i, g], 1);
        },
    );
    dx
}

/// Σ a ⊗ b over all steps of all rows: [B,T,M], [B,T,N] -> [M,N].
fn product_over_steps(a: &Tensor, b: &Tensor) -> Tensor {
    let (m, n, steps) = (a.shape().last_dim(), b.shape().last_dim(), a.shape().rows());
    let mut sum = a.new_empty_f32([m, n]);
    run(
        "rnn_bwd_w",
        [&mut sum],
        [a, b],
        |[sum], [a, b]| gemm(sum, n, Mat::rows(a, steps, m).t(), Mat::rows(b, steps, n), false, true),
        |g, [sum], [a, b]| {
            product(g, MatrixOut::rows(sum, n), MatrixIn::rows(a, m).t(), MatrixIn::rows(b, n), [m, n, steps], 1);
        },
    );
    sum
}

/// The rows' lengths, each in 1..=T; panics at the caller where one is not, or where there are not B.
#[track_caller]
pub(super) fn row_lengths(op: &str, lengths: &IntTensor, b: usize, t: usize) -> Vec<usize> {
    assert_eq!(
        *lengths.shape(),
        [b],
        "{op}: lengths of shape {:?} for {b} rows of {t} words",
        lengths.shape()
    );
    for (row, &n) in lengths.as_slice().iter().enumerate() {
        let fits = usize::try_from(n).is_ok_and(|n| (1..=t).contains(&n));
        assert!(fits, "{op}: row {row} has length {n}, but a row has 1 to {t} words");
    }
    lengths.as_slice().iter().map(|&n| n as usize).collect()
}

/// [R,C] -> [C,R]
fn transposed(w: &[f32], cols: usize) -> Buffer {
    /// Columns taken together: each line of the cache is read once.
    const TOGETHER: usize = 8;
    let (rows, mut out) = (w.len() / cols, Buffer::uninit(w.len()));
    for_chunks(out.as_mut_slice(), TOGETHER * rows, |i, out| {
        for (row, w) in w.chunks_exact(cols).enumerate() {
            let columns = out.chunks_exact_mut(rows).zip(&w[i * TOGETHER..]);
            columns.for_each(|(column, w)| column[row] = *w);
        }
    });
    out
}

/// Zeros for an operator to read where x lives: written out on the CPU; on a GPU a tensor without elements, for a
/// kernel takes nothing for zeros.
pub(super) fn zeros(x: &Tensor, shape: Shape) -> Tensor {
    match x.device() {
        Device::Cpu => Tensor::zeros(shape),
        Device::Cuda(_) => x.new_empty([0]),
    }
}

/// By the logistic function, which vectorizes; exact to one unit in the last place of 1.
fn tanh(x: f32) -> f32 {
    2.0 * logistic(2.0 * x) - 1.0
}

fn row(x: &[f32], i: usize, width: usize) -> &[f32] {
    &x[i * width..][..width]
}

fn row_mut(x: &mut [f32], i: usize, width: usize) -> &mut [f32] {
    &mut x[i * width..][..width]
}

/// The gates of a row.
fn parts<const G: usize>(x: &[f32], width: usize) -> [&[f32]; G] {
    std::array::from_fn(|g| row(x, g, width))
}

fn parts_mut<const G: usize>(x: &mut [f32], width: usize) -> [&mut [f32]; G] {
    let mut gates = x.chunks_exact_mut(width);
    std::array::from_fn(|_| gates.next().expect("a row holds all its gates"))
}

/// A case whose inputs are x, the cell's weights, then `states` states.
fn case(
    op: &'static str,
    name: &'static str,
    [b, t, i, h]: [usize; 4],
    states: usize,
    run: impl Fn(&[Tensor]) -> Vec<Tensor> + Send + Sync + 'static,
) -> Case {
    let g = if op == "lstm" { 4 * h } else { 3 * h };
    // Many units have the weights that layers begin with: larger ones would make every rounding grow from step to step.
    let bound = if h < 16 { 1.0 } else { 1.0 / (h as f32).sqrt() };
    let inputs = Case::new(op, name, run).input([b, t, i]);
    let weights = [[g, i].into(), [g, h].into(), [g].into(), Shape::from([g])];
    let inputs = weights.into_iter().fold(inputs, |case, shape| case.input_in(shape, -bound, bound));
    (0..states).fold(inputs, |case, _| case.input([b, h])).flops((2 * b * t * g * (i + h)) as f64)
}

pub fn cases() -> Vec<Case> {
    fn cell(x: &[Tensor]) -> Cell<'_> {
        Cell { w_ih: &x[1], w_hh: &x[2], b_ih: &x[3], b_hh: &x[4] }
    }
    /// More rows than have a block each, of all lengths up to three.
    const LENGTHS: [i32; 70] = {
        let mut lengths = [1; 70];
        let mut i = 0;
        while i < 70 {
            lengths[i] = 1 + (i as i32 * 7) % 3;
            i += 1;
        }
        lengths
    };
    fn run_lstm(x: &[Tensor], lengths: &[i32], reverse: bool) -> Vec<Tensor> {
        let state = x.get(5).zip(x.get(6));
        let y = lstm(&x[0], &IntTensor::new(lengths.to_vec(), [lengths.len()]), cell(x), state, reverse);
        vec![y.outputs, y.h, y.c]
    }
    fn run_gru(x: &[Tensor], lengths: &[i32], reverse: bool) -> Vec<Tensor> {
        let y = gru(&x[0], &IntTensor::new(lengths.to_vec(), [lengths.len()]), cell(x), x.get(5), reverse);
        vec![y.outputs, y.h]
    }
    vec![
        case("lstm", "forwards", [3, 5, 4, 3], 0, |x| run_lstm(x, &[5, 1, 3], false)).bf16(&[0]),
        case("lstm", "backwards", [3, 5, 4, 3], 0, |x| run_lstm(x, &[5, 1, 3], true)),
        case("lstm", "from a state", [2, 3, 5, 7], 2, |x| run_lstm(x, &[1, 3], false)).bf16(&[0, 5, 6]),
        case("lstm", "backwards from a state", [2, 3, 5, 7], 2, |x| run_lstm(x, &[2, 3], true)),
        case("lstm", "one word", [3, 1, 4, 3], 2, |x| run_lstm(x, &[1, 1, 1], false)),
        case("lstm", "a text encoder", [5, 12, 300, 64], 0, |x| run_lstm(x, &[12, 1, 7, 3, 12], true))
            .bf16(&[0])
            .large(),
        case("lstm", "many rows", [70, 3, 8, 20], 2, |x| run_lstm(x, &LENGTHS, false))
            .bf16(&[0, 5, 6])
            .large(),
        case("lstm", "more units than threads", [2, 2, 5, 516], 0, |x| run_lstm(x, &[1, 2], false)).large(),
        case("lstm", "an odd number of many units", [2, 2, 5, 129], 0, |x| run_lstm(x, &[1, 2], true))
            .large(),
        case("gru", "forwards", [3, 5, 4, 3], 0, |x| run_gru(x, &[5, 1, 3], false)).bf16(&[0]),
        case("gru", "backwards", [3, 5, 4, 3], 0, |x| run_gru(x, &[5, 1, 3], true)),
        case("gru", "from a state", [2, 3, 5, 7], 1, |x| run_gru(x, &[1, 3], false)).bf16(&[0, 5]),
        case("gru", "backwards from a state", [2, 3, 5, 7], 1, |x| run_gru(x, &[2, 3], true)),
        case("gru", "one word", [3, 1, 4, 3], 1, |x| run_gru(x, &[1, 1, 1], false)),
        case("gru", "a text encoder", [5, 12, 32, 128], 0, |x| run_gru(x, &[12, 1, 7, 3, 12], false))
            .bf16(&[0])
            .large(),
        case("gru", "many rows", [70, 3, 8, 20], 1, |x| run_gru(x, &LENGTHS, true)).bf16(&[0, 5]).large(),
        case("gru", "more units than threads", [2, 2, 5, 516], 1, |x| run_gru(x, &[1, 2], true)).large(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    /// One LSTM step of one row, one number at a time.
    fn naive_lstm(x: &[f32], h: &mut [f32], c: &mut [f32], w: &[Tensor]) {
        let n = h.len();
        let sum = |g: usize| {
            let product = |m: &Tensor, v: &[f32]| {
                row(m.as_slice(), g, v.len()).iter().zip(v).map(|(a, b)| a * b).sum::<f32>()
            };
            product(&w[0], x) + product(&w[1], h) + w[2].as_slice()[g] + w[3].as_slice()[g]
        };
        let gates: Vec<f32> = (0..4 * n).map(sum).collect();
        for j in 0..n {
            let sigmoid = |g: usize| 1.0 / (1.0 + (-gates[g * n + j]).exp());
            c[j] = sigmoid(1) * c[j] + sigmoid(0) * gates[2 * n + j].tanh();
            h[j] = sigmoid(3) * c[j].tanh();
        }
    }

    #[test]
    fn the_lstm_walks_each_row_over_its_own_words() {
        let ([b, t, i, n], mut rng) = ([3, 4, 5, 6], Rng::new(1, 0));
        let x = rng.uniform([b, t, i], -1.0, 1.0);
        let w: [Tensor; 4] = [Shape::from([4 * n, i]), [4 * n, n].into(), [4 * n].into(), [4 * n].into()]
            .map(|shape| rng.uniform(shape, -1.0, 1.0));
        let cell = Cell { w_ih: &w[0], w_hh: &w[1], b_ih: &w[2], b_hh: &w[3] };
        let lengths = [2, 4, 1];
        for reverse in [false, true] {
            let y = lstm(&x, &IntTensor::new(lengths.map(|n| n as i32).to_vec(), [b]), cell, None, reverse);
            let mut expected = vec![0.0; b * t * n];
            for (r, &length) in lengths.iter().enumerate() {
                let (mut h, mut c) = (vec![0.0; n], vec![0.0; n]);
                for step in 0..length {
                    let at = r * t + if reverse { length - 1 - step } else { step };
                    naive_lstm(row(x.as_slice(), at, i), &mut h, &mut c, &w);
                    row_mut(&mut expected, at, n).copy_from_slice(&h);
                }
                close(row(y.h.as_slice(), r, n), &h);
                close(row(y.c.as_slice(), r, n), &c);
            }
            close(y.outputs.as_slice(), &expected);
        }
    }

    #[test]
    #[should_panic(expected = "gru: row 1 has length 0, but a row has 1 to 2 words")]
    fn a_row_without_words_is_refused() {
        let x = Tensor::zeros([2, 2, 3]);
        let (w, b) = (Tensor::zeros([3, 3]), Tensor::zeros([3]));
        let cell = Cell { w_ih: &w, w_hh: &Tensor::zeros([3, 1]), b_ih: &b, b_hh: &b };
        gru(&x, &IntTensor::new(vec![1, 0], [2]), cell, None, false);
    }

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} is not {b}"));
    }
}
