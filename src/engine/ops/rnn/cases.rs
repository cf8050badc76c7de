//! The shapes that the tests and the benchmark run recurrent layers on.

use super::{Cell, gru, lstm};
use crate::engine::ops::Case;
use crate::engine::tensor::{IntTensor, Shape, Tensor};

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
