//! Depthwise convolution of images [B,H,W,C]: each channel has its own square filter of 3 or 5.

use super::Case;
use crate::engine::device::cpu::{for_chunks, map, rows_per_chunk};
use crate::engine::device::cuda::{Buffer, Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Kernel, Tensor, run};

/// Stride, and zero padding above, left, below and right: TensorFlow's "SAME" is uneven at stride 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    pub stride: usize,
    pub padding: [usize; 4],
}

impl Depthwise {
    /// TensorFlow's "SAME" padding: ⌈n / stride⌉ outputs, the odd zero below and on the right.
    pub fn same([h, w]: [usize; 2], window: usize, stride: usize) -> Depthwise {
        let total = |n: usize| ((n.div_ceil(stride).max(1) - 1) * stride + window).saturating_sub(n);
        let ([v, u], halves) = ([total(h), total(w)], |n: usize| [n / 2, n - n / 2]);
        let ([top, bottom], [left, right]) = (halves(v), halves(u));
        Depthwise { stride, padding: [top, left, bottom, right] }
    }
}

/// y[b,i,j,c] = Σ x[b, i·stride + r - top, j·stride + s - left, c] · w[c,r,s]: x [B,H,W,C], w [C,R,R] ->
/// [B,(H+top+bottom-R)/stride+1,..,C].
#[track_caller]
pub fn depthwise_conv2d(x: &Tensor, w: &Tensor, depthwise: Depthwise) -> Tensor {
    let problem = Problem::new(x, w, depthwise);
    let mut y = x.new_empty([problem.batch, problem.output[0], problem.output[1], problem.c]);
    run(
        Kernel::new("depthwise_conv2d_fwd", problem.flops()),
        [&mut y],
        (x, w),
        |[y], (x, w)| problem.forward(y, x, w),
        |g, [y], (x, w)| {
            let taps = problem.taps_cuda(g, w);
            k::depthwise_fwd(g, Grid::per_pack(y.read(), problem.c), y, x, taps.view(), problem.dims());
        },
    );
    let (sx, sw) = (x.detach(), w.detach());
    record1(y, [x, w], move |dy, [wx, ww]| {
        [
            wx.then(|| input_gradient(problem, &dy, &sx, &sw)),
            ww.then(|| filter_gradient(problem, &dy, &sx, &sw)),
        ]
    })
}

#[track_caller]
fn input_gradient(problem: Problem, dy: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
    let mut dx = x.new_empty(x.shape());
    run(
        Kernel::new("depthwise_conv2d_bwd", problem.flops()),
        [&mut dx],
        (dy, w),
        |[dx], (dy, w)| problem.input_gradient(dx, dy, w),
        |g, [dx], (dy, w)| {
            let taps = problem.taps_cuda(g, w);
            k::depthwise_bwd(g, Grid::per_pack(dx.read(), problem.c), dx, dy, taps.view(), problem.dims());
        },
    );
    dx
}

#[track_caller]
fn filter_gradient(problem: Problem, dy: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
    let mut dw = w.new_empty(w.shape());
    run(
        Kernel::new("depthwise_conv2d_bwd_w", problem.flops()),
        [&mut dw],
        (dy, x),
        |[dw], (dy, x)| problem.filter_gradient(dw, dy, x),
        |g, [dw], (dy, x)| problem.filter_gradient_cuda(g, dw, dy, x),
    );
    dw
}

/// The geometry of one convolution, by height and width.
#[derive(Clone, Copy)]
struct Problem {
    batch: usize,
    c: usize,
    input: [usize; 2],
    output: [usize; 2],
    window: usize,
    stride: usize,
    /// Padding above and on the left.
    pad: [usize; 2],
}

/// Channels that are summed at once.
const LANES: usize = 16;

impl Problem {
    #[track_caller]
    fn new(x: &Tensor, w: &Tensor, Depthwise { stride, padding }: Depthwise) -> Problem {
        let ([batch, h, width, c], [channels, r, s]) = (x.dims(), w.dims());
        assert_eq!(
            c,
            channels,
            "depthwise_conv2d: the channels of {:?} and of the weights {:?} differ",
            x.shape(),
            w.shape()
        );
        assert!(
            r == s && [3, 5].contains(&r),
            "depthwise_conv2d wants 3×3 or 5×5 weights, not {:?}",
            w.shape()
        );
        assert!([1, 2].contains(&stride), "depthwise_conv2d: stride {stride} is not 1 or 2");
        let [top, left, bottom, right] = padding;
        let padded = [h + top + bottom, width + left + right];
        let fits = padded.iter().all(|&n| n >= r) && padding.iter().all(|&p| p < r);
        assert!(fits, "depthwise_conv2d: a window of {r}, padding {padding:?} does not fit {:?}", x.shape());
        let output = padded.map(|n| (n - r) / stride + 1);
        Problem { batch, c, input: [h, width], output, window: r, stride, pad: [top, left] }
    }

    fn flops(&self) -> f64 {
        2.0 * (self.batch * self.output[0] * self.output[1] * self.c * self.window * self.window) as f64
    }

    fn dims(&self) -> k::DepthwiseDims {
        let [b, c, h, w, oh, ow, k, stride, top, left] = [
            self.batch,
            self.c,
            self.input[0],
            self.input[1],
            self.output[0],
            self.output[1],
            self.window,
            self.stride,
            self.pad[0],
            self.pad[1],
        ]
        .map(|n| n as i32);
        k::DepthwiseDims { b, h, w, c, oh, ow, k, stride, top, left }
    }

    /// [C,R·R] -> [R·R,C]
    fn taps(&self, w: &[f32]) -> Vec<f32> {
        let n = self.window * self.window;
        (0..n * self.c).map(|i| w[i % self.c * n + i / self.c]).collect()
    }

    fn taps_cuda(&self, g: &Gpu, w: In) -> Buffer {
        let n = self.window * self.window;
        let mut taps = g.scratch(n * self.c);
        k::depthwise_taps_fwd(g, Grid::elements(n * self.c), taps.out(), w, n as i32, self.c as i32);
        taps
    }

    /// The input along `axis` that output `o` reads through tap `t`.
    fn reads(&self, axis: usize, o: usize, t: usize) -> Option<usize> {
        (o * self.stride + t).checked_sub(self.pad[axis]).filter(|&i| i < self.input[axis])
    }

    /// The output along `axis` that reads input `i` through tap `t`.
    fn read_by(&self, axis: usize, i: usize, t: usize) -> Option<usize> {
        let from = (i + self.pad[axis]).checked_sub(t).filter(|n| n.is_multiple_of(self.stride))?;
        Some(from / self.stride).filter(|&o| o < self.output[axis])
    }

    fn forward(&self, y: &mut [f32], x: &[f32], w: &[f32]) {
        self.gather(y, self.output, x, self.input, w, |axis, o, t| self.reads(axis, o, t));
    }

    fn input_gradient(&self, dx: &mut [f32], dy: &[f32], w: &[f32]) {
        self.gather(dx, self.input, dy, self.output, w, |axis, i, t| self.read_by(axis, i, t));
    }

    /// Each pixel of `to` is the sum over the taps of what `source` (axis, position, tap) names in `from`.
    fn gather(
        &self,
        to: &mut [f32],
        [height, width]: [usize; 2],
        from: &[f32],
        [from_height, from_width]: [usize; 2],
        w: &[f32],
        source: impl Fn(usize, usize, usize) -> Option<usize> + Sync + Send,
    ) {
        let (c, n, taps) = (self.c, self.window, self.taps(w));
        for_chunks(to, width * c, |line, to| {
            let image = &from[line / height * from_height * from_width * c..][..from_height * from_width * c];
            let mut terms = Vec::with_capacity(n * n);
            for (col, to) in to.chunks_mut(c).enumerate() {
                terms.clear();
                for (r, row) in (0..n).filter_map(|r| Some((r, source(0, line % height, r)?))) {
                    let across = (0..n).filter_map(|s| Some((s, source(1, col, s)?)));
                    terms.extend(across.map(|(s, at)| ((row * from_width + at) * c, (r * n + s) * c)));
                }
                sum_products(to, &terms, image, &taps);
            }
        });
    }

    /// dw [C,R,R]: lines of outputs in pieces of fixed size, each line in f32, their sums in f64.
    fn filter_gradient(&self, dw: &mut [f32], dy: &[f32], x: &[f32]) {
        const PIECES: usize = 64;
        let ([h, w], [oh, ow], c, n) = (self.input, self.output, self.c, self.window);
        let lines = self.batch * oh;
        let share = rows_per_chunk(ow * c).max(lines.div_ceil(PIECES));
        let pieces = map(lines.div_ceil(share), |piece| {
            let (mut total, mut part) = (vec![0.0f64; n * n * c], vec![0.0f32; n * n * c]);
            for line in piece * share..lines.min((piece + 1) * share) {
                part.fill(0.0);
                let image = &x[line / oh * h * w * c..][..h * w * c];
                for (r, row) in (0..n).filter_map(|r| Some((r, self.reads(0, line % oh, r)?))) {
                    for (o, dy) in dy[line * ow * c..][..ow * c].chunks(c).enumerate() {
                        for (s, col) in (0..n).filter_map(|s| Some((s, self.reads(1, o, s)?))) {
                            let rest = dy.iter().zip(&image[(row * w + col) * c..][..c]);
                            let part = part[(r * n + s) * c..][..c].iter_mut();
                            part.zip(rest).for_each(|(p, (dy, x))| *p += dy * x);
                        }
                    }
                }
                total.iter_mut().zip(&part).for_each(|(t, &p)| *t += f64::from(p));
            }
            total
        });
        for (i, dw) in dw.iter_mut().enumerate() {
            let at = i % (n * n) * c + i / (n * n);
            *dw = pieces.iter().map(|piece| piece[at]).sum::<f64>() as f32;
        }
    }

    fn filter_gradient_cuda(&self, g: &Gpu, dw: Out, dy: In, x: In) {
        const SHARES: usize = 256;
        let (n, lines) = (self.window * self.window, self.batch * self.output[0]);
        let share = lines.div_ceil(SHARES).max(1).next_multiple_of(8);
        let shares = lines.div_ceil(share);
        let mut partial = g.scratch(shares * n * self.c);
        let grid = Grid::new([self.c.div_ceil(32), shares, 1], 256);
        k::depthwise_bwd_w(g, grid, partial.out(), dy, x, share as i32, self.dims());
        let all = Grid::elements(n * self.c);
        k::depthwise_sum_bwd_w(g, all, dw, partial.view(), shares as i32, n as i32, self.c as i32);
    }
}

/// y[C] = Σ x[at..][C] · taps[tap..][C] over the terms (at, tap), `LANES` channels at once.
fn sum_products(y: &mut [f32], terms: &[(usize, usize)], x: &[f32], taps: &[f32]) {
    let (whole, rest) = y.as_chunks_mut::<LANES>();
    let first = whole.len() * LANES;
    for (i, y) in whole.iter_mut().enumerate() {
        let mut sum = [0.0; LANES];
        for (at, tap) in terms.iter().map(|(at, tap)| (at + i * LANES, tap + i * LANES)) {
            let pairs = x[at..at + LANES].iter().zip(&taps[tap..tap + LANES]);
            sum.iter_mut().zip(pairs).for_each(|(sum, (x, t))| *sum += x * t);
        }
        *y = sum;
    }
    for (j, y) in (first..).zip(rest) {
        *y = terms.iter().map(|(at, tap)| x[at + j] * taps[tap + j]).sum();
    }
}

pub fn cases() -> Vec<Case> {
    let case = |name, x: [usize; 4], window: usize, stride: usize, padding: [usize; 4]| {
        let depthwise = Depthwise { stride, padding };
        Case::new("depthwise_conv2d", name, move |t| vec![depthwise_conv2d(&t[0], &t[1], depthwise)])
            .input(x)
            .input([x[3], window, window])
            .bf16(&[0])
    };
    vec![
        case("3x3", [2, 5, 7, 3], 3, 1, [1; 4]),
        case("5x5", [1, 6, 5, 3], 5, 1, [2; 4]),
        case("3x3 stride 2, even", [2, 6, 8, 3], 3, 2, [0, 0, 1, 1]),
        case("3x3 stride 2, odd", [1, 7, 5, 2], 3, 2, [1; 4]),
        case("5x5 stride 2, even", [1, 8, 6, 3], 5, 2, [1, 1, 2, 2]),
        case("5x5, no padding", [1, 6, 7, 2], 5, 1, [0; 4]),
        case("3x3, one side each", [1, 4, 5, 20], 3, 1, [2, 0, 0, 1]),
        case("3x3, 64 channels", [2, 19, 21, 64], 3, 1, [1; 4]).large(),
        case("5x5, 40 channels", [2, 14, 15, 40], 5, 1, [2; 4]).large(),
        case("3x3 stride 2, 96 channels", [2, 28, 26, 96], 3, 2, [0, 0, 1, 1]).large(),
        case("5x5 stride 2, 33 channels", [2, 21, 28, 33], 5, 2, [2, 1, 2, 2]).large(),
        case("3x3, 1152 channels", [3, 7, 7, 1152], 3, 1, [1; 4]).large(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_is_that_of_tensorflow() {
        assert_eq!(Depthwise::same([224, 224], 3, 2).padding, [0, 0, 1, 1]);
        assert_eq!(Depthwise::same([28, 7], 5, 2).padding, [1, 2, 2, 2]);
        assert_eq!(Depthwise::same([14, 14], 5, 1).padding, [2; 4]);
    }

    #[test]
    fn windows_lie_where_the_padding_puts_them() {
        let x = Tensor::from_vec((0..16).map(|i| i as f32).collect(), [1, 4, 4, 1]);
        let mut w = vec![0.0; 9];
        w[0] = 1.0;
        let y = depthwise_conv2d(&x, &Tensor::from_vec(w, [1, 3, 3]), Depthwise::same([4, 4], 3, 2));
        assert_eq!(y.to_vec(), [0.0, 2.0, 8.0, 10.0]);
    }
}
