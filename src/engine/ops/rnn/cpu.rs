//! Recurrent layers on the CPU.

use super::steps::SequenceSteps;
use crate::engine::device::cpu::{Buffer, elementary, for_chunks};
use crate::engine::ops::matmul::{gemm, Mat};
use crate::engine::ops::rows::{add, row, row_mut};

impl SequenceSteps {
    /// W_ih x of all steps at once, into the first `gates` of the four gates that `out` has room for.
    fn project_inputs(&self, out: &mut [f32], x: &[f32], w_ih: &[f32], gates: usize) {
        let (rows, width) = (self.batch() * self.steps, gates * self.hidden);
        let (x, w) = (Mat::rows(x, rows, x.len() / rows), Mat::rows(w_ih, width, w_ih.len() / width));
        gemm(out, 4 * self.hidden, x, w.t(), false, true);
    }

    /// W_hh h of one step, from W_hhᵀ: a product along its rows need not be packed anew for every step.
    fn recurrent_product(&self, out: &mut [f32], h: &[f32], w_hh_t: &[f32], gates: usize) {
        let (n, width) = (self.hidden, gates * self.hidden);
        gemm(out, width, Mat::rows(h, self.batch(), n), Mat::rows(w_hh_t, n, width), false, true);
    }

    /// dh += W_hhᵀ d; a row that has ended has d = 0 and keeps its gradient.
    fn recurrent_product_bwd(&self, dh: &mut [f32], d: &[f32], w_hh: &[f32], gates: usize) {
        let (n, width) = (self.hidden, gates * self.hidden);
        gemm(dh, n, Mat::rows(d, self.batch(), width), Mat::rows(w_hh, width, n), true, true);
    }
}

/// to = from, zero if none
fn copy_or_zero(to: &mut [f32], from: Option<&[f32]>) {
    match from {
        Some(from) => to.copy_from_slice(from),
        None => to.fill(0.0),
    }
}

/// Writes i, f, g, o of every step to `gates`, and c of every step to `cells`.
pub(super) fn lstm_fwd(
    steps: &SequenceSteps,
    [outputs, h, c, gates, cells]: [&mut [f32]; 5],
    [x, w_ih, w_hh, b_ih, b_hh]: [&[f32]; 5],
    [h0, c0]: [Option<&[f32]>; 2],
) {
    let n = steps.hidden;
    steps.project_inputs(gates, x, w_ih, 4);
    outputs.fill(0.0);
    cells.fill(0.0);
    copy_or_zero(h, h0);
    copy_or_zero(c, c0);
    let bias: Vec<f32> = b_ih.iter().zip(b_hh).map(|(a, b)| a + b).collect();
    let (w_hh_t, mut recurrent) = (transposed(w_hh, n), vec![0.0; steps.batch() * 4 * n]);
    for step in 0..steps.longest() {
        steps.recurrent_product(&mut recurrent, h, w_hh_t.as_slice(), 4);
        for (b, at) in steps.active_rows(step) {
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
    let [i, f, g, o] = split_gates_mut(gates, c.len());
    for gate in [&mut *i, &mut *f, &mut *o] {
        elementary::logistic(gate);
    }
    elementary::tanh(g);
    for ((c, f), (i, g)) in c.iter_mut().zip(f).zip(i.iter().zip(g)) {
        *c = *f * *c + i * *g;
    }
    h.copy_from_slice(c);
    elementary::tanh(h);
    h.iter_mut().zip(o).for_each(|(h, o)| *h *= *o);
}

/// Backward through time; writes the gradients of the gates before their activations to `sums`.
pub(super) fn lstm_bwd(
    steps: &SequenceSteps,
    [sums, dh, dc]: [&mut [f32]; 3],
    [dy, dh_last, dc_last]: [Option<&[f32]>; 3],
    [gates, cells, w_hh]: [&[f32]; 3],
    c0: Option<&[f32]>,
) {
    let n = steps.hidden;
    let zeros = vec![0.0; n];
    sums.fill(0.0);
    copy_or_zero(dh, dh_last);
    copy_or_zero(dc, dc_last);
    let mut step_sums = vec![0.0; steps.batch() * 4 * n];
    for step in (0..steps.longest()).rev() {
        step_sums.fill(0.0);
        for (b, at) in steps.active_rows(step) {
            let d = row_mut(&mut step_sums, b, 4 * n);
            let previous = steps.previous(cells, c0, b, step).unwrap_or(&zeros);
            let saved = [row(gates, at, 4 * n), row(cells, at, n), previous];
            let dy = dy.map_or(&zeros[..], |dy| row(dy, at, n));
            lstm_cell_bwd(d, row_mut(dh, b, n), row_mut(dc, b, n), dy, saved);
            row_mut(sums, at, 4 * n).copy_from_slice(d);
        }
        steps.recurrent_product_bwd(dh, &step_sums, w_hh, 4);
    }
}

/// Turns `dc` into the gradient of the previous step's c, and `dh` into zero, to which the caller adds the product with
/// W_hh.
fn lstm_cell_bwd(
    sums: &mut [f32],
    dh: &mut [f32],
    dc: &mut [f32],
    dy: &[f32],
    [gates, cells, previous]: [&[f32]; 3],
) {
    let n = dh.len();
    let ([i, f, g, o], [di, df, dg, d_o]) = (split_gates(gates, n), split_gates_mut(sums, n));
    let (dc, dy, cells, previous) = (&mut dc[..n], &dy[..n], &cells[..n], &previous[..n]);
    d_o.copy_from_slice(cells);
    elementary::tanh(d_o);
    for j in 0..n {
        let (dh_j, c) = (dh[j] + dy[j], d_o[j]);
        let dc_j = dc[j] + dh_j * o[j] * (1.0 - c * c);
        di[j] = dc_j * g[j] * i[j] * (1.0 - i[j]);
        df[j] = dc_j * previous[j] * f[j] * (1.0 - f[j]);
        dg[j] = dc_j * i[j] * (1.0 - g[j] * g[j]);
        d_o[j] = dh_j * c * o[j] * (1.0 - o[j]);
        dc[j] = dc_j * f[j];
        dh[j] = 0.0;
    }
}


/// Writes r, z, n and q_n of every step to `gates`.
pub(super) fn gru_fwd(
    steps: &SequenceSteps,
    [outputs, h, gates]: [&mut [f32]; 3],
    [x, w_ih, w_hh, b_ih, b_hh]: [&[f32]; 5],
    h0: Option<&[f32]>,
) {
    let n = steps.hidden;
    steps.project_inputs(gates, x, w_ih, 3);
    outputs.fill(0.0);
    copy_or_zero(h, h0);
    let (w_hh_t, mut recurrent) = (transposed(w_hh, n), vec![0.0; steps.batch() * 3 * n]);
    for step in 0..steps.longest() {
        steps.recurrent_product(&mut recurrent, h, w_hh_t.as_slice(), 3);
        for (b, at) in steps.active_rows(step) {
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
    let ([r, z, n, q_n], [qr, qz, qn]) = (split_gates_mut(gates, width), split_gates(q, width));
    q_n.copy_from_slice(qn);
    for (gate, q) in [(&mut *r, qr), (&mut *z, qz)] {
        add(gate, q);
        elementary::logistic(gate);
    }
    n.iter_mut().zip(r.iter().zip(qn)).for_each(|(n, (r, q))| *n += r * q);
    elementary::tanh(n);
    h.iter_mut().zip(z.iter().zip(n)).for_each(|(h, (z, n))| *h = *n + z * (*h - *n));
}

/// Backward through time; writes the gradients of a and q of every step to `da` and `dq`.
pub(super) fn gru_bwd(
    steps: &SequenceSteps,
    [da, dq, dh]: [&mut [f32]; 3],
    [dy, dh_last]: [Option<&[f32]>; 2],
    [gates, outputs, w_hh]: [&[f32]; 3],
    h0: Option<&[f32]>,
) {
    let n = steps.hidden;
    let zeros = vec![0.0; n];
    da.fill(0.0);
    dq.fill(0.0);
    copy_or_zero(dh, dh_last);
    let mut step_dq = vec![0.0; steps.batch() * 3 * n];
    for step in (0..steps.longest()).rev() {
        step_dq.fill(0.0);
        for (b, at) in steps.active_rows(step) {
            let d = row_mut(&mut step_dq, b, 3 * n);
            let saved = [row(gates, at, 4 * n), steps.previous(outputs, h0, b, step).unwrap_or(&zeros)];
            let dy = dy.map_or(&zeros[..], |dy| row(dy, at, n));
            gru_cell_bwd(row_mut(da, at, 3 * n), d, row_mut(dh, b, n), dy, saved);
            row_mut(dq, at, 3 * n).copy_from_slice(d);
        }
        steps.recurrent_product_bwd(dh, &step_dq, w_hh, 3);
    }
}

/// Turns `dh` into z times itself, to which the caller adds the product with W_hh.
fn gru_cell_bwd(da: &mut [f32], dq: &mut [f32], dh: &mut [f32], dy: &[f32], [gates, previous]: [&[f32]; 2]) {
    let width = dh.len();
    let [r, z, n, q_n] = split_gates(gates, width);
    let ([ar, az, an], [qr, qz, qn]) = (split_gates_mut(da, width), split_gates_mut(dq, width));
    let (dy, previous) = (&dy[..width], &previous[..width]);
    for j in 0..width {
        let d = dh[j] + dy[j];
        let dn = d * (1.0 - z[j]) * (1.0 - n[j] * n[j]);
        let dr = dn * q_n[j] * r[j] * (1.0 - r[j]);
        let dz = d * (previous[j] - n[j]) * z[j] * (1.0 - z[j]);
        (ar[j], az[j], an[j]) = (dr, dz, dn);
        (qr[j], qz[j], qn[j]) = (dr, dz, dn * r[j]);
        dh[j] = d * z[j];
    }
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


/// The gates of a row.
fn split_gates<const G: usize>(x: &[f32], width: usize) -> [&[f32]; G] {
    std::array::from_fn(|g| row(x, g, width))
}

fn split_gates_mut<const G: usize>(x: &mut [f32], width: usize) -> [&mut [f32]; G] {
    let mut gates = x.chunks_exact_mut(width);
    std::array::from_fn(|_| gates.next().expect("a row holds all its gates"))
}

