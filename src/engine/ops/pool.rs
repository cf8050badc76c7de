//! Pooling of images [B,H,W,C] over windows.

use std::ops::Range;

use super::Case;
use super::reduce::mean_rows;
use crate::engine::device::cpu::for_chunks;
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Tensor, run};

/// The part of the input that each output reads, by axis.
struct Windows {
    rows: Vec<Range<usize>>,
    cols: Vec<Range<usize>>,
    /// The same for the kernels.
    dims: k::PoolDims,
}

impl Windows {
    #[track_caller]
    fn sliding(op: &str, x: &Tensor, k: usize, stride: usize, pad: usize) -> Windows {
        let [_, h, w, _] = x.dims();
        let fits = h + 2 * pad >= k && w + 2 * pad >= k && 2 * pad <= k && stride > 0;
        assert!(fits, "{op}: a window of {k}, stride {stride}, pad {pad} does not fit {:?}", x.shape());
        let along = |n: usize| -> Vec<Range<usize>> {
            let starts = (0..=(n + 2 * pad - k) / stride).map(|i| i * stride);
            starts.map(|s| s.saturating_sub(pad)..(s + k - pad).min(n)).collect()
        };
        Windows::new(x, along(h), along(w), [k, stride, pad])
    }

    /// Averages divide by the pixels that a window has inside of the image.
    fn without_border(mut self) -> Windows {
        self.dims.inside = 1;
        self
    }

    /// PyTorch's bins: from ⌊i·n/m⌋ to ⌈(i+1)·n/m⌉.
    fn adaptive(x: &Tensor, [oh, ow]: [usize; 2]) -> Windows {
        let [_, h, w, _] = x.dims();
        let along =
            |n: usize, m: usize| (0..m).map(|i| i * n / m..((i + 1) * n).div_ceil(m)).collect::<Vec<_>>();
        Windows::new(x, along(h, oh), along(w, ow), [0; 3])
    }

    fn new(x: &Tensor, rows: Vec<Range<usize>>, cols: Vec<Range<usize>>, sliding: [usize; 3]) -> Windows {
        let ([b, h, w, c], [k, stride, pad]) = (x.dims::<4>().map(|n| n as i32), sliding.map(|n| n as i32));
        let dims = k::PoolDims { b, h, w, c, oh: rows.len() as i32, ow: cols.len() as i32, k, stride, pad, inside: i32::from(k == 0) };
        Windows { rows, cols, dims }
    }

    fn size(&self) -> [usize; 2] {
        [self.rows.len(), self.cols.len()]
    }
}

/// y = max of x over k×k windows; the pad never wins: x [B,H,W,C] -> [B,(H+2·pad-k)/stride+1,..,C].
#[track_caller]
pub fn max_pool(x: &Tensor, k: usize, stride: usize, pad: usize) -> Tensor {
    let windows = Windows::sliding("max_pool", x, k, stride, pad);
    let ([b, h, w, c], [oh, ow]) = (x.dims(), windows.size());
    let mut y = x.new_empty([b, oh, ow, c]);
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        for_chunks(y, ow * c, |i, y| {
            let image = &x[i / oh * h * w * c..][..h * w * c];
            for (y, cols) in y.chunks_mut(c).zip(&windows.cols) {
                y.fill(f32::NEG_INFINITY);
                for at in pixels(&windows.rows[i % oh], cols, w) {
                    let taps = y.iter_mut().zip(&image[at * c..][..c]);
                    taps.for_each(|(y, &x)| *y = if x > *y || x.is_nan() { x } else { *y });
                }
            }
        });
    };
    run("max_pool_fwd", [&mut y], [x], cpu, |g, [y], [x]| {
        k::pool_max_fwd(g, Grid::per_pack(y.read(), c), y, x, windows.dims);
    });
    let saved = x.detach();
    record1(y, [x], move |dy, _| {
        let mut dx = saved.new_empty(saved.shape());
        let cpu = |[dx]: [&mut [f32]; 1], [dy, x]: [&[f32]; 2]| {
            for_chunks(dx, h * w * c, |i, dx| {
                let (x, dy) = (&x[i * h * w * c..][..h * w * c], &dy[i * oh * ow * c..][..oh * ow * c]);
                max_pool_image_gradient(dx, x, dy, &windows, w, c);
            });
        };
        let cuda = |g: &Gpu, [dx]: [Out; 1], [dy, x]: [In; 2]| {
            // Half a number for each output.
            let mut argmax = g.scratch(dy.len().div_ceil(2));
            k::pool_argmax_bwd(g, Grid::per_pack(dy, c), argmax.out(), x, windows.dims);
            k::pool_max_bwd(g, Grid::per_pack(dx.read(), c), dx, dy, argmax.view(), windows.dims);
        };
        run("max_pool_bwd", [&mut dx], [&dy, &saved], cpu, cuda);
        [Some(dx)]
    })
}

/// The pixels of a window in an image of width `w`, row by row.
fn pixels(rows: &Range<usize>, cols: &Range<usize>, w: usize) -> impl Iterator<Item = usize> {
    let cols = cols.clone();
    rows.clone().flat_map(move |row| cols.clone().map(move |col| row * w + col))
}

/// All bits, or none: a choice between numbers that the compiler turns into no jump.
fn mask(is_chosen: bool) -> u32 {
    u32::from(is_chosen).wrapping_neg()
}

/// Adds each gradient to the first maximum of its window. Every tap is visited for all channels at once, which takes
/// vectors where a jump to each channel's maximum does not.
fn max_pool_image_gradient(dx: &mut [f32], x: &[f32], dy: &[f32], windows: &Windows, w: usize, c: usize) {
    dx.fill(0.0);
    let (mut top, mut winner) = (vec![0.0; c], vec![0_u32; c]);
    let each = windows.rows.iter().flat_map(|rows| windows.cols.iter().map(move |cols| (rows, cols)));
    for ((rows, cols), dy) in each.zip(dy.chunks(c)) {
        top.fill(f32::NEG_INFINITY);
        winner.fill(0);
        for (tap, at) in (0..).zip(pixels(rows, cols, w)) {
            let best = top.iter_mut().zip(winner.iter_mut());
            for ((top, winner), &x) in best.zip(&x[at * c..][..c]) {
                let best = mask((x > *top) | x.is_nan());
                *top = f32::from_bits(x.to_bits() & best | top.to_bits() & !best);
                *winner = tap & best | *winner & !best;
            }
        }
        for (tap, at) in (0..).zip(pixels(rows, cols, w)) {
            let of_tap = dx[at * c..][..c].iter_mut().zip(winner.iter().zip(dy));
            of_tap.for_each(|(dx, (winner, dy))| *dx += f32::from_bits(dy.to_bits() & mask(*winner == tap)));
        }
    }
}

/// Whether the zeros around an image count in an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// PyTorch's default.
    Counts,
    /// TensorFlow's way; `count_include_pad=False` in PyTorch.
    Ignored,
}

/// y = mean of x over k×k windows: x [B,H,W,C] -> [B,(H+2·pad-k)/stride+1,..,C]. Zeros of the pad count, or a window's
/// mean is that of its pixels inside of the image.
#[track_caller]
pub fn avg_pool(x: &Tensor, k: usize, stride: usize, pad: usize, border: Border) -> Tensor {
    let windows = Windows::sliding("avg_pool", x, k, stride, pad);
    match border {
        Border::Counts => average(x, windows, move |_| (k * k) as f32),
        Border::Ignored => average(x, windows.without_border(), |area| area as f32),
    }
}

/// y = mean of x over bins that divide the image into oh×ow: x [B,H,W,C] -> [B,oh,ow,C].
#[track_caller]
pub fn adaptive_avg_pool(x: &Tensor, size: [usize; 2]) -> Tensor {
    average(x, Windows::adaptive(x, size), |area| area as f32)
}

/// y = mean over all pixels: x [B,H,W,C] -> [B,C].
#[track_caller]
pub fn global_avg_pool(x: &Tensor) -> Tensor {
    let [b, h, w, c] = x.dims();
    mean_rows(&x.reshape([b, h * w, c]))
}

/// y = Σ x over each window / divisor(its pixels)
#[track_caller]
fn average(x: &Tensor, windows: Windows, divisor: impl Fn(usize) -> f32 + Send + Sync + 'static) -> Tensor {
    let ([b, h, w, c], [oh, ow]) = (x.dims(), windows.size());
    let mut y = x.new_empty([b, oh, ow, c]);
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        for_chunks(y, ow * c, |i, y| {
            let (image, rows) = (&x[i / oh * h * w * c..][..h * w * c], &windows.rows[i % oh]);
            for (y, cols) in y.chunks_mut(c).zip(&windows.cols) {
                y.fill(0.0);
                for at in pixels(rows, cols, w) {
                    y.iter_mut().zip(&image[at * c..][..c]).for_each(|(y, x)| *y += x);
                }
                let factor = 1.0 / divisor(rows.len() * cols.len());
                y.iter_mut().for_each(|y| *y *= factor);
            }
        });
    };
    run("avg_pool_fwd", [&mut y], [x], cpu, |g, [y], [x]| {
        k::pool_average_fwd(g, Grid::per_pack(y.read(), c), y, x, windows.dims);
    });
    record1(y, [x], move |dy, _| {
        let mut dx = dy.new_empty([b, h, w, c]);
        let cpu = |[dx]: [&mut [f32]; 1], [dy]: [&[f32]; 1]| {
            for_chunks(dx, w * c, |i, dx| {
                dx.fill(0.0);
                let dy = &dy[i / h * oh * ow * c..][..oh * ow * c];
                for (rows, dy) in windows.rows.iter().zip(dy.chunks(ow * c)) {
                    if rows.contains(&(i % h)) {
                        for (cols, dy) in windows.cols.iter().zip(dy.chunks(c)) {
                            let factor = 1.0 / divisor(rows.len() * cols.len());
                            for dx in dx[cols.start * c..cols.end * c].chunks_mut(c) {
                                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += factor * dy);
                            }
                        }
                    }
                }
            });
        };
        run("avg_pool_bwd", [&mut dx], [&dy], cpu, |g, [dx], [dy]| {
            k::pool_average_bwd(g, Grid::per_pack(dx.read(), c), dx, dy, windows.dims);
        });
        [Some(dx)]
    })
}

pub fn cases() -> Vec<Case> {
    let max =
        |name, k, stride, pad| Case::new("max_pool", name, move |x| vec![max_pool(&x[0], k, stride, pad)]);
    let avg = |name, k, stride, pad, border| {
        Case::new("avg_pool", name, move |x| vec![avg_pool(&x[0], k, stride, pad, border)])
    };
    let adaptive =
        |name, size| Case::new("adaptive_avg_pool", name, move |x| vec![adaptive_avg_pool(&x[0], size)]);
    let global = |name| Case::new("global_avg_pool", name, |x| vec![global_avg_pool(&x[0])]);
    let small = vec![
        max("overlapping", 3, 2, 0).input([2, 7, 5, 3]),
        max("padded", 3, 2, 1).input([2, 6, 5, 3]),
        avg("padded", 3, 1, 1, Border::Counts).input([2, 5, 4, 3]),
        avg("border ignored", 3, 1, 1, Border::Ignored).input([2, 5, 4, 3]),
        avg("border ignored at stride 2", 3, 2, 1, Border::Ignored).input([2, 6, 5, 2]),
        avg("apart", 2, 2, 0, Border::Counts).input([2, 5, 4, 3]),
        adaptive("uneven bins", [3, 4]).input([2, 7, 6, 3]),
        adaptive("more bins than pixels", [3, 5]).input([1, 2, 3, 2]),
        global("").input([3, 4, 5, 2]),
    ];
    let large = vec![
        max("overlapping in packs", 3, 2, 0).input([2, 19, 23, 64]),
        max("padded in packs", 3, 2, 1).input([2, 28, 24, 32]),
        max("odd channels", 3, 1, 1).input([2, 14, 17, 17]),
        max("gaps", 2, 3, 0).input([2, 20, 23, 5]),
        avg("padded in packs", 3, 1, 1, Border::Counts).input([2, 17, 15, 32]),
        avg("border ignored in packs", 3, 1, 1, Border::Ignored).input([2, 17, 15, 32]),
        avg("border ignored, odd channels", 5, 2, 2, Border::Ignored).input([2, 16, 23, 17]),
        avg("overlapping", 5, 3, 0, Border::Counts).input([2, 17, 23, 17]),
        adaptive("uneven bins in packs", [6, 5]).input([2, 17, 16, 64]),
        adaptive("more bins than pixels, odd", [11, 23]).input([3, 7, 13, 5]),
        global("in packs").input([3, 8, 8, 192]),
        global("three channels").input([2, 40, 41, 3]),
    ];
    let all = small.into_iter().chain(large.into_iter().map(Case::large));
    all.map(|case| case.bf16(&[0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize) -> Tensor {
        Tensor::from_vec((0..n * n).map(|i| i as f32).collect(), [1, n, n, 1])
    }

    #[test]
    fn windows_are_those_of_pytorch() {
        assert_eq!(max_pool(&ramp(4), 3, 2, 1).to_vec(), [5.0, 7.0, 13.0, 15.0]);
        assert_eq!(avg_pool(&ramp(2), 3, 1, 1, Border::Counts).to_vec(), [6.0 / 9.0; 4]);
        assert_eq!(avg_pool(&ramp(2), 3, 1, 1, Border::Ignored).to_vec(), [1.5; 4]);
        assert_eq!(avg_pool(&ramp(4), 3, 2, 1, Border::Ignored).to_vec(), [2.5, 4.0, 8.5, 10.0]);
        assert_eq!(adaptive_avg_pool(&ramp(3), [2, 2]).to_vec(), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(global_avg_pool(&ramp(3)).to_vec(), [4.0]);
    }

    #[test]
    fn of_equal_values_the_first_has_the_gradient() {
        let x = Tensor::zeros([1, 2, 2, 1]).leaf();
        let y = max_pool(&x, 2, 2, 0).reshape([]);
        let grads = crate::engine::tensor::backward(&y, &[&x]);
        assert_eq!(grads.get(&x).unwrap().to_vec(), [1.0, 0.0, 0.0, 0.0]);
    }
}
