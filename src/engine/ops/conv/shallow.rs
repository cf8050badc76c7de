//! The gradient of filters over few inputs on the CPU, as over the three of a picture: the rows of a product are a window's elements,
//! its columns the channels of dy, and both are read where they lie.

use super::direct::frame;
use super::filters::column_tiles;
use super::problem::{ConvProblem, Phase};
use super::sharing::PARTS;
use crate::engine::device::cpu::tile::{Matrix, Microkernel, Product, Strided};
use crate::engine::device::cpu::map;

/// Whether the gradient is summed so.
pub(super) fn suits(problem: &ConvProblem) -> bool {
    let ConvProblem { cin, cout, step, .. } = *problem;
    // Every row of dy ends with a vector.
    cin <= 4 && cout.is_multiple_of(16) && step == [1, 1]
}

/// dw[Cout, depth] = Σ over pixels of dy[pixel, Cout] ⊗ window[pixel, depth]; threads share the pixels.
pub(super) fn wgrad<M: Microkernel>(kernel: M, dw: &mut [f32], dy: &[f32], x: &[f32], phase: &Phase) {
    let (problem, depth) = (phase.problem, phase.depth());
    let margins = problem.margins([*phase].into_iter());
    let framed = frame(&problem, x, margins);
    let problem = problem.framed(margins);
    let phase = problem.phases().next().expect("a forward pass has one phase");
    let lines = problem.batch * problem.output[0];
    let parts = map(PARTS, |part| {
        let mut sums = vec![0.0; depth * problem.cout];
        for line in part * lines / PARTS..(part + 1) * lines / PARTS {
            add_line(kernel, &mut sums, dy, framed.as_slice(), &phase, line);
        }
        sums
    });
    for (n, dw) in dw.chunks_exact_mut(depth).enumerate() {
        for (k, dw) in dw.iter_mut().enumerate() {
            *dw = parts.iter().map(|part| part[k * problem.cout + n]).sum();
        }
    }
}

/// Adds the pixels of one line of the output, counted over the batch, to sums[depth, Cout].
fn add_line<M: Microkernel>(kernel: M, sums: &mut [f32], dy: &[f32], x: &[f32], phase: &Phase, line: usize) {
    let ConvProblem { cin, cout, output: [h, width], stride, window, .. } = phase.problem;
    for first in (0..width).step_by(M::DEPTH) {
        let count = M::DEPTH.min(width - first);
        let pixel = phase.pixel(line / h, line % h, first);
        for row in 0..window[0] {
            let x = &x[phase.offset(&pixel, row, 0)..];
            let windows = Matrix { data: x, row: 1, element: stride[1] * cin };
            for column in (0..column_tiles::<M>(cout)).map(|tile| tile * M::WIDTH) {
                let size = [phase.row(), count, M::WIDTH.min(cout - column)];
                let data = &mut sums[row * phase.row() * cout + column..];
                let dy = Strided { data: &dy[pixel.output * cout + column..], stride: cout };
                kernel.multiply(size, Product { data, pitch: cout, add: true }, windows, dy);
            }
        }
    }
}
