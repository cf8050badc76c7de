//! Recurrent layers over padded sequences of unequal length, in either direction.
//!
//! LSTM: Hochreiter and Schmidhuber, "Long short-term memory", 1997, with the forget gate of Gers et al., 2000.
//! GRU: Cho et al., EMNLP 2014, with the reset gate after the product, as PyTorch and cuDNN have it.

mod cases;
mod cpu;
mod cuda;
mod steps;

pub use cases::cases;

use crate::engine::device::cuda::k;
use crate::engine::ops::gemm::{MatrixIn, MatrixOut, product};
use crate::engine::ops::matmul::{Mat, column_sums, gemm};
use crate::engine::tensor::{IntTensor, Tensor, record, run};
use steps::SequenceSteps;

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
/// `reverse` runs over each row from its own last element to its first.
#[track_caller]
pub fn lstm(x: &Tensor, lengths: &IntTensor, cell: Cell, state: Option<(&Tensor, &Tensor)>, reverse: bool) -> Lstm {
    let steps = SequenceSteps::new("lstm", 4, x, lengths, cell, reverse);
    for state in state.iter().flat_map(|(h, c)| [h, c]) {
        steps.check_state("lstm", state);
    }
    let (h0, c0) = state.unzip();
    let (mut outputs, mut cells) = (x.new_empty(steps.sequence(1)), x.new_empty_f32(steps.sequence(1)));
    let mut gates = x.new_empty_f32(steps.sequence(4));
    let (mut h, mut c) = (x.new_empty(steps.state()), x.new_empty(steps.state()));
    let Cell { w_ih, w_hh, b_ih, b_hh } = cell;
    run(
        "lstm_fwd",
        [&mut outputs, &mut h, &mut c, &mut gates, &mut cells],
        ([x, w_ih, w_hh, b_ih, b_hh], [h0, c0]),
        |outs, (ins, state)| cpu::lstm_fwd(&steps, outs, ins, state),
        |g, [y, h, c, gates, cells], ([x, w_ih, w_hh, b_ih, b_hh], [h0, c0])| {
            steps.project_inputs_on(g, gates, x, w_ih, 4);
            let (w, ld) = steps.transposed_on(g, w_hh);
            let (grid, d) = steps.launch(2, ld);
            k::lstm_fwd(g, grid, y, h, c, gates, cells, w.view(), b_ih, b_hh, h0, c0, steps.lengths_on(g), d);
        },
    );
    let saved = LstmSaved {
        x: x.detach(),
        w_ih: w_ih.detach(),
        w_hh: w_hh.detach(),
        outputs: outputs.detach(),
        gates,
        cells,
        h0: h0.map(Tensor::detach),
        c0: c0.map(Tensor::detach),
        steps,
    };
    let ins = [Some(x), Some(w_ih), Some(w_hh), Some(b_ih), Some(b_hh), h0, c0];
    let [outputs, h, c] = record([outputs, h, c], ins, move |dys, wanted| saved.backward(&dys, wanted));
    Lstm { outputs, h, c }
}

/// What the backward pass of an LSTM needs of its forward pass.
struct LstmSaved {
    steps: SequenceSteps,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    outputs: Tensor,
    /// i, f, g, o of every step [B,T,4H].
    gates: Tensor,
    /// c of every step [B,T,H].
    cells: Tensor,
    h0: Option<Tensor>,
    c0: Option<Tensor>,
}

impl LstmSaved {
    /// The gradients of x, w_ih, w_hh, b_ih, b_hh, h0 and c0 from those of the outputs, h and c.
    fn backward(&self, dys: &[Option<Tensor>; 3], wanted: [bool; 7]) -> [Option<Tensor>; 7] {
        let (x, steps) = (&self.x, &self.steps);
        let [wx, wi, wh, bi, bh, wh0, wc0] = wanted;
        let mut sums = x.new_empty_f32(steps.sequence(4));
        let (mut dh0, mut dc0) = (x.new_empty(steps.state()), x.new_empty(steps.state()));
        run(
            "lstm_bwd",
            [&mut sums, &mut dh0, &mut dc0],
            (dys.each_ref().map(Option::as_ref), [&self.gates, &self.cells, &self.w_hh], self.c0.as_ref()),
            |outs, (dys, saved, c0)| cpu::lstm_bwd(steps, outs, dys, saved, c0),
            |g, [sums, dh0, dc0], ([dy, dh, dc], [gates, cells, w_hh], c0)| {
                let ((grid, d), n) = (steps.launch_bwd(4, 1), steps.lengths_on(g));
                k::lstm_bwd(g, grid, sums, dh0, dc0, dy, dh, dc, gates, cells, c0, w_hh, n, d);
            },
        );
        let previous = wh.then(|| steps.previous_hidden(&self.outputs, self.h0.as_ref()));
        let weights = [wx, wi, wh, bi, bh];
        let [dx, dw_ih, dw_hh, db_ih, db_hh] =
            weight_gradients(weights, &sums, &sums, x, &self.w_ih, previous.as_ref());
        [dx, dw_ih, dw_hh, db_ih, db_hh, wh0.then_some(dh0), wc0.then_some(dc0)]
    }
}

/// GRU over x [B,T,I] from the state h [B,H], zero if none, with a = W_ih x + b_ih and q = W_hh h + b_hh:
/// r = σ(a_r + q_r);  z = σ(a_z + q_z);  n = tanh(a_n + r·q_n);  h' = (1 - z)·n + z·h.
/// `reverse` runs over each row from its own last element to its first.
#[track_caller]
pub fn gru(x: &Tensor, lengths: &IntTensor, cell: Cell, state: Option<&Tensor>, reverse: bool) -> Gru {
    let steps = SequenceSteps::new("gru", 3, x, lengths, cell, reverse);
    if let Some(state) = state {
        steps.check_state("gru", state);
    }
    let (mut outputs, mut h) = (x.new_empty(steps.sequence(1)), x.new_empty(steps.state()));
    let mut gates = x.new_empty_f32(steps.sequence(4));
    let Cell { w_ih, w_hh, b_ih, b_hh } = cell;
    run(
        "gru_fwd",
        [&mut outputs, &mut h, &mut gates],
        ([x, w_ih, w_hh, b_ih, b_hh], state),
        |outs, (ins, h0)| cpu::gru_fwd(&steps, outs, ins, h0),
        |g, [y, h, gates], ([x, w_ih, w_hh, b_ih, b_hh], h0)| {
            steps.project_inputs_on(g, gates, x, w_ih, 3);
            let (w, ld) = steps.transposed_on(g, w_hh);
            let (grid, d) = steps.launch(1, ld);
            k::gru_fwd(g, grid, y, h, gates, w.view(), b_ih, b_hh, h0, steps.lengths_on(g), d);
        },
    );
    let saved = GruSaved {
        x: x.detach(),
        w_ih: w_ih.detach(),
        w_hh: w_hh.detach(),
        outputs: outputs.detach(),
        gates,
        h0: state.map(Tensor::detach),
        steps,
    };
    let ins = [Some(x), Some(w_ih), Some(w_hh), Some(b_ih), Some(b_hh), state];
    let [outputs, h] = record([outputs, h], ins, move |dys, wanted| saved.backward(&dys, wanted));
    Gru { outputs, h }
}

/// What the backward pass of a GRU needs of its forward pass.
struct GruSaved {
    steps: SequenceSteps,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    outputs: Tensor,
    /// r, z, n, q_n of every step [B,T,4H].
    gates: Tensor,
    h0: Option<Tensor>,
}

impl GruSaved {
    /// The gradients of x, w_ih, w_hh, b_ih, b_hh and h0 from those of the outputs and h.
    fn backward(&self, dys: &[Option<Tensor>; 2], wanted: [bool; 6]) -> [Option<Tensor>; 6] {
        let (x, steps) = (&self.x, &self.steps);
        let [wx, wi, wh, bi, bh, wh0] = wanted;
        let (mut da, mut dq) = (x.new_empty_f32(steps.sequence(3)), x.new_empty_f32(steps.sequence(3)));
        let mut dh0 = x.new_empty(steps.state());
        run(
            "gru_bwd",
            [&mut da, &mut dq, &mut dh0],
            (dys.each_ref().map(Option::as_ref), [&self.gates, &self.outputs, &self.w_hh], self.h0.as_ref()),
            |outs, (dys, saved, h0)| cpu::gru_bwd(steps, outs, dys, saved, h0),
            |g, [da, dq, dh0], ([dy, dh], [gates, outputs, w_hh], h0)| {
                let ((grid, d), n) = (steps.launch_bwd(3, 1), steps.lengths_on(g));
                k::gru_bwd(g, grid, da, dq, dh0, dy, dh, gates, outputs, h0, w_hh, n, d);
            },
        );
        let previous = wh.then(|| steps.previous_hidden(&self.outputs, self.h0.as_ref()));
        let weights = [wx, wi, wh, bi, bh];
        let [dx, dw_ih, dw_hh, db_ih, db_hh] =
            weight_gradients(weights, &da, &dq, x, &self.w_ih, previous.as_ref());
        [dx, dw_ih, dw_hh, db_ih, db_hh, wh0.then_some(dh0)]
    }
}

/// The gradients of x, w_ih, w_hh, b_ih and b_hh from `da` of W_ih x + b_ih and `dq` of W_hh h + b_hh at every step.
fn weight_gradients(
    [wx, wi, wh, bi, bh]: [bool; 5],
    da: &Tensor,
    dq: &Tensor,
    x: &Tensor,
    w_ih: &Tensor,
    previous_hidden: Option<&Tensor>,
) -> [Option<Tensor>; 5] {
    [
        wx.then(|| input_gradient(da, w_ih, x)),
        wi.then(|| product_over_steps(da, x)),
        previous_hidden.filter(|_| wh).map(|h| product_over_steps(dq, h)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::rows::{row, row_mut};
    use crate::engine::tensor::{Rng, Shape};

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
