//! The steps over the rows of a padded batch.

use super::Cell;
use crate::engine::device::cuda::{Gpu, Grid, Ints, k};
use crate::engine::ops::rows::{check_lengths, row, row_mut};
use crate::engine::tensor::{IntTensor, Shape, Tensor, run};

/// In which order the elements of each row of a padded batch [B,T,..] are taken. Step k of a row is its k-th element
/// from the front, or from the back.
pub(super) struct SequenceSteps {
    lengths: Vec<usize>,
    /// T, of which a row uses its length.
    pub(super) steps: usize,
    pub(super) hidden: usize,
    pub(super) reverse: bool,
    /// The lengths again, for a GPU.
    on_device: IntTensor,
}

impl SequenceSteps {
    /// Checks all shapes of a cell with `gates` gates over x.
    #[track_caller]
    pub(super) fn new(
        op: &str,
        gates: usize,
        x: &Tensor,
        lengths: &IntTensor,
        cell: Cell,
        reverse: bool,
    ) -> SequenceSteps {
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
        let on_device = lengths.clone();
        SequenceSteps { lengths: check_lengths(op, lengths, b, steps), steps, hidden, reverse, on_device }
    }

    #[track_caller]
    pub(super) fn check_state(&self, op: &str, state: &Tensor) {
        let (state, wanted) = (state.shape(), self.state());
        assert_eq!(state, wanted, "{op}: the state {state:?} is not of shape {wanted:?}");
    }

    pub(super) fn batch(&self) -> usize {
        self.lengths.len()
    }

    pub(super) fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    pub(super) fn lengths_on(&self, g: &Gpu) -> Ints {
        self.on_device.on(g)
    }

    /// [B,H]
    pub(super) fn state(&self) -> Shape {
        [self.batch(), self.hidden].into()
    }

    /// [B,T,gates·H]
    pub(super) fn sequence(&self, gates: usize) -> Shape {
        [self.batch(), self.steps, gates * self.hidden].into()
    }

    /// The index into [B·T] of a row's step.
    fn index(&self, b: usize, step: usize) -> usize {
        b * self.steps + if self.reverse { self.lengths[b] - 1 - step } else { step }
    }

    /// The rows that have not ended at a step, each with the index of the step.
    pub(super) fn active_rows(&self, step: usize) -> impl Iterator<Item = (usize, usize)> {
        let rows = self.lengths.iter().enumerate();
        rows.filter(move |&(_, &length)| step < length).map(move |(b, _)| (b, self.index(b, step)))
    }

    /// A row's state before a step: of `states` [B,T,H], or at step 0 of `first` [B,H]; none is zero.
    pub(super) fn previous<'a>(
        &self,
        states: &'a [f32],
        first: Option<&'a [f32]>,
        b: usize,
        step: usize,
    ) -> Option<&'a [f32]> {
        match step {
            0 => first.map(|first| row(first, b, self.hidden)),
            _ => Some(row(states, self.index(b, step - 1), self.hidden)),
        }
    }

    /// h before every step [B,T,H], zero beyond the length.
    pub(super) fn previous_hidden(&self, outputs: &Tensor, h0: Option<&Tensor>) -> Tensor {
        let mut previous = outputs.new_empty(outputs.shape());
        run(
            "rnn_previous_hidden",
            [&mut previous],
            (outputs, h0),
            |[previous], (outputs, h0)| {
                previous.fill(0.0);
                for step in 0..self.longest() {
                    for (b, at) in self.active_rows(step) {
                        if let Some(h) = self.previous(outputs, h0, b, step) {
                            row_mut(previous, at, self.hidden).copy_from_slice(h);
                        }
                    }
                }
            },
            |g, [previous], (outputs, h0)| {
                let grid = Grid::elements(previous.len());
                k::rnn_previous_hidden(g, grid, previous, outputs, h0, self.lengths_on(g), self.dims(1, 0));
            },
        );
        previous
    }
}
