//! Recurrent layers with the parameter names of PyTorch's one-layer `nn.LSTM` and `nn.GRU`.

use serde::{Deserialize, Serialize};

use super::init::Initializer;
use super::store::{Param, Scope};
use crate::engine::ops::rnn::{self, Cell};
use crate::engine::ops::shape::concat;
use crate::engine::tensor::{IntTensor, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellKind {
    Lstm,
    Gru,
}

impl CellKind {
    fn gates(self) -> usize {
        match self {
            CellKind::Lstm => 4,
            CellKind::Gru => 3,
        }
    }
}

/// The parameters of one direction.
struct Direction {
    w_ih: Param,
    w_hh: Param,
    b_ih: Param,
    b_hh: Param,
}

impl Direction {
    fn new(scope: &Scope, suffix: &str, gates: usize, input: usize, hidden: usize) -> Direction {
        let rows = gates * hidden;
        let bound = Initializer::Uniform(1.0 / (hidden as f32).sqrt());
        let param = |name, shape: &[usize]| scope.param(format!("{name}_l0{suffix}"), shape, hidden, bound);
        Direction {
            w_ih: param("weight_ih", &[rows, input]),
            w_hh: param("weight_hh", &[rows, hidden]),
            b_ih: param("bias_ih", &[rows]),
            b_hh: param("bias_hh", &[rows]),
        }
    }

    fn with_cell<R>(&self, f: impl FnOnce(Cell) -> R) -> R {
        let [w_ih, w_hh, b_ih, b_hh] = [&self.w_ih, &self.w_hh, &self.b_ih, &self.b_hh].map(Param::tensor);
        f(Cell { w_ih: &w_ih, w_hh: &w_hh, b_ih: &b_ih, b_hh: &b_hh })
    }

    /// (outputs [B,T,H], last hidden state [B,H])
    #[track_caller]
    fn run(&self, kind: CellKind, x: &Tensor, lengths: &IntTensor, reverse: bool) -> (Tensor, Tensor) {
        self.with_cell(|cell| match kind {
            CellKind::Lstm => {
                let run = rnn::lstm(x, lengths, cell, None, reverse);
                (run.outputs, run.h)
            }
            CellKind::Gru => {
                let run = rnn::gru(x, lengths, cell, None, reverse);
                (run.outputs, run.h)
            }
        })
    }
}

/// A bidirectional LSTM or GRU of one layer.
pub struct Bidirectional {
    kind: CellKind,
    forward: Direction,
    backward: Direction,
}

impl Bidirectional {
    pub fn new(scope: &Scope, kind: CellKind, input: usize, hidden: usize) -> Bidirectional {
        let direction = |suffix| Direction::new(scope, suffix, kind.gates(), input, hidden);
        Bidirectional { kind, forward: direction(""), backward: direction("_reverse") }
    }

    /// [B,T,I] -> outputs [B,T,2H], zero beyond each length, and last hidden states [B,2H].
    #[track_caller]
    pub fn forward(&self, x: &Tensor, lengths: &IntTensor) -> (Tensor, Tensor) {
        let (there, h_there) = self.forward.run(self.kind, x, lengths, false);
        let (back, h_back) = self.backward.run(self.kind, x, lengths, true);
        (concat(&[&there, &back], 2), concat(&[&h_there, &h_back], 1))
    }
}

/// A unidirectional LSTM of one layer.
pub struct Lstm {
    direction: Direction,
}

impl Lstm {
    pub fn new(scope: &Scope, input: usize, hidden: usize) -> Lstm {
        Lstm { direction: Direction::new(scope, "", CellKind::Lstm.gates(), input, hidden) }
    }

    /// [B,T,I] -> outputs [B,T,H] and the state (h, c), from `state` or from zeros.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, lengths: &IntTensor, state: Option<(&Tensor, &Tensor)>) -> rnn::Lstm {
        self.direction.with_cell(|cell| rnn::lstm(x, lengths, cell, state, false))
    }
}
