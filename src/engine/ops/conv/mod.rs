//! Convolutions, all from one loop: a window of taps slid over an image.
//!
//! In NHWC the S taps of one window row lie side by side, so a window is R runs of S·Cin consecutive elements, and
//! the six pixels of a register tile read their runs in place; only windows that hang over the border are copied
//! first, with zeros. What differs between the passes is which window slides over what:
//!
//! * forward: the weights over x;
//! * input gradient: for each of the stride² phases of x, every stride-th tap, flipped, over dy;
//! * nearest 2× then 3×3: for each of the four phases of y, a 2×2 window of summed taps over the small x, so that
//!   the enlarged image never exists and 4/9 of the multiplications remain; its input gradient is a 4×4 window of
//!   stride 2 over dy;
//! * weight gradient: the tile over channels of dy and window elements, summed over pixels.
//!
//! On CUDA the same windows are operands of the tiled product of kernels/gemm.cuh; see kernels/conv.cu.

use std::ops::Range;

use crate::engine::ops::Case;
use crate::engine::ops::matmul::{Tile, add_bias, column_sums, given, plan, slice};
use crate::engine::device::cpu::{Buffer, for_chunks, map, threads};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::device::cpu::tile::{LANES, ROWS, Segment, Strided, tile};
use crate::engine::tensor::tape::{record, record1};
use crate::engine::tensor::{DType, Device, Kernel, Tensor, run};

/// Stride and zero padding, vertical then horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    pub stride: [usize; 2],
    pub pad: [usize; 2],
}

impl Conv {
    /// The same stride and padding in both directions.
    pub fn new(stride: usize, pad: usize) -> Conv {
        Conv { stride: [stride; 2], pad: [pad; 2] }
    }
}

/// y[B,H',W',Cout] = x[B,H,W,Cin] ∗ w[Cout,R,S,Cin] + bias[Cout], with H' = (H + 2·pad − R) / stride + 1.
#[track_caller]
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, conv: Conv) -> Tensor {
    convolved(x, w, bias, conv, false).0
}

/// [`conv2d`] without bias, and what a normalization over B, H' and W' wants to know of y where the device has it at
/// hand: [tiles, 3, Cout] with the number, the mean and Σ(y − mean)² of each channel in each tile of y, off the tape.
#[track_caller]
pub fn conv2d_sums(x: &Tensor, w: &Tensor, conv: Conv) -> (Tensor, Option<Tensor>) {
    convolved(x, w, None, conv, true)
}

#[track_caller]
fn convolved(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, conv: Conv, sums: bool) -> (Tensor, Option<Tensor>) {
    let ([b, h, width, cin], [cout, r, s, wc]) = (x.dims(), w.dims());
    let Conv { stride, pad } = conv;
    assert_eq!(cin, wc, "conv2d: the channels of {:?} and of the weights {:?} differ", x.shape(), w.shape());
    assert!(
        h + 2 * pad[0] >= r && width + 2 * pad[1] >= s,
        "conv2d: the window of {:?} is larger than the padded image {:?}",
        w.shape(),
        x.shape()
    );
    if let Some(bias) = bias {
        assert_eq!(*bias.shape(), [cout], "conv2d: bias {:?} does not fit weights {:?}", bias.shape(), w.shape());
    }
    let out = [(h + 2 * pad[0] - r) / stride[0] + 1, (width + 2 * pad[1] - s) / stride[1] + 1];
    let slide = Slide {
        batch: b,
        image: [h, width],
        cin,
        window: [r, s],
        stride,
        origin: pad.map(|p| -(p as isize)),
        out,
        canvas: out,
        step: [1, 1],
        phase: [0, 0],
        cout,
    };
    let no_bias = Tensor::zeros([0]);
    let pass = Pass::forward(&slide, pad, Weights { transposed: false, spread: false });
    let mut y = x.new_empty([b, out[0], out[1], cout]);
    let mut moments = pass.moments(&y, sums);
    let ins = [x, w, bias.unwrap_or(&no_bias)];
    let cpu = |[y, _]: [&mut [f32]; 2], [x, w, bias]: [&[f32]; 3]| {
        slide_over(y, x, &[(slide, pack(slide.depth(), cout, w))]);
        if !bias.is_empty() {
            add_bias(y, bias);
        }
    };
    run(slide.kernel("conv2d_fwd"), [&mut y, &mut moments], ins, cpu, |g, [y, moments], [x, w, bias]| {
        pass.run(g, y, moments, x, w, given(bias));
    });
    let (sx, sw) = (x.detach(), w.detach());
    let [y] = record([y], ins, move |[dy], [wx, ww, wb]| {
        let dy = dy.expect("the only output has a gradient");
        let dx = wx.then(|| input_gradient(&dy, &sw, &slide, pad));
        let dw = ww.then(|| {
            let mut dw = sw.new_empty(sw.shape());
            let cpu = |[dw]: [&mut [f32]; 1], [dy, x]: [&[f32]; 2]| weight_gradient(dw, dy, x, &slide);
            run(slide.kernel("conv2d_bwd_w"), [&mut dw], [&dy, &sx], cpu, |g, [dw], [dy, x]| {
                pass.weight_gradient(g, dw, dy, x);
            });
            dw
        });
        [dx, dw, wb.then(|| column_sums(&dy))]
    });
    (y, (moments.len() > 0).then_some(moments))
}

/// y[B,2H,2W,Cout] = nearest-2×(x[B,H,W,Cin]) ∗ w[Cout,3,3,Cin], padding 1.
#[track_caller]
pub fn conv2d_up2(x: &Tensor, w: &Tensor) -> Tensor {
    enlarged(x, w, false).0
}

/// [`conv2d_up2`], and the numbers of [`conv2d_sums`].
#[track_caller]
pub fn conv2d_up2_sums(x: &Tensor, w: &Tensor) -> (Tensor, Option<Tensor>) {
    enlarged(x, w, true)
}

#[track_caller]
fn enlarged(x: &Tensor, w: &Tensor, sums: bool) -> (Tensor, Option<Tensor>) {
    let ([b, h, width, cin], [cout, r, s, wc]) = (x.dims(), w.dims());
    assert_eq!(cin, wc, "conv2d_up2: the channels of {:?} and of the weights {:?} differ", x.shape(), w.shape());
    assert_eq!([r, s], [3, 3], "conv2d_up2 wants 3×3 weights, not {:?}", w.shape());
    let phases = [[0, 0], [0, 1], [1, 0], [1, 1]].map(|phase: [usize; 2]| Slide {
        batch: b,
        image: [h, width],
        cin,
        window: [2, 2],
        stride: [1, 1],
        origin: phase.map(|p| p as isize - 1),
        out: [h, width],
        canvas: [2 * h, 2 * width],
        step: [2, 2],
        phase,
        cout,
    });
    let pass = Pass::enlarging(&phases[0]);
    let flops = Kernel::new("conv2d_up2_fwd", 4.0 * phases[0].flops());
    let mut y = x.new_empty([b, 2 * h, 2 * width, cout]);
    let mut moments = pass.moments(&y, sums);
    let cpu = |[y, _]: [&mut [f32]; 2], [x, w]: [&[f32]; 2]| {
        let windows = phases.map(|p| (p, pack(p.depth(), cout, &phase_weights(w, cin, p.phase))));
        slide_over(y, x, &windows);
    };
    run(flops, [&mut y, &mut moments], [x, w], cpu, |g, [y, moments], [x, w]| {
        pass.run(g, y, moments, x, w, In::NONE);
    });
    let (sx, sw) = (x.detach(), w.detach());
    let y = record1(y, [x, w], move |dy, [wx, ww]| {
        let dx = wx.then(|| up2_input_gradient(&dy, &sw, sx.dims()));
        let dw = ww.then(|| {
            let mut dw = sw.new_empty(sw.shape());
            let kernel = Kernel::new("conv2d_up2_bwd_w", 4.0 * phases[0].flops());
            let cpu = |[dw]: [&mut [f32]; 1], [dy, x]: [&[f32]; 2]| {
                dw.fill(0.0);
                for p in &phases {
                    let mut part = Buffer::uninit(cout * p.depth());
                    weight_gradient(part.as_mut_slice(), dy, x, p);
                    fold_phase(dw, part.as_slice(), cin, p.phase);
                }
            };
            run(kernel, [&mut dw], [&dy, &sx], cpu, |g, [dw], [dy, x]| {
                pass.weight_gradient(g, dw, dy, x);
            });
            dw
        });
        [dx, dw]
    });
    (y, (moments.len() > 0).then_some(moments))
}

// ---------------------------------------------------------------- gradients as windows

/// dx of a convolution: per phase of x, the taps that reach it, flipped, slide over dy.
fn input_gradient(dy: &Tensor, w: &Tensor, forward: &Slide, pad: [usize; 2]) -> Tensor {
    let Slide { batch, image, cin, window: [r, s], stride, out, cout, .. } = *forward;
    let mut dx = dy.new_empty([batch, image[0], image[1], cin]);
    let cpu = |[dx]: [&mut [f32]; 1], [dy, w]: [&[f32]; 2]| {
        let mut windows = Vec::new();
        for phase in (0..stride[0]).flat_map(|p| (0..stride[1]).map(move |q| [p, q])) {
            let taps = [0, 1].map(|d| reaching_taps(phase[d], stride[d], pad[d], [r, s][d]));
            let slide = Slide {
                batch,
                image: out,
                cin: cout,
                window: [taps[0].taps.len(), taps[1].taps.len()],
                stride: [1, 1],
                origin: [taps[0].origin, taps[1].origin],
                out: [0, 1].map(|d| (image[d] + stride[d] - 1 - phase[d]) / stride[d]),
                canvas: image,
                step: stride,
                phase,
                cout: cin,
            };
            windows.push((slide, pack_transposed(w, [cout, r, s, cin], &taps[0].taps, &taps[1].taps)));
        }
        slide_over(dx, dy, &windows);
    };
    run(forward.kernel("conv2d_bwd"), [&mut dx], [dy, w], cpu, |g, [dx], [dy, w]| {
        Pass::input_gradient(forward, pad).run(g, dx, Out::NONE, dy, w, In::NONE);
    });
    dx
}

/// The taps that reach the positions ≡ `phase` of one dimension, in the order of the outputs they come from.
struct Taps {
    taps: Vec<usize>,
    /// Output that the first of them comes from, at position `phase`.
    origin: isize,
}

fn reaching_taps(phase: usize, stride: usize, pad: usize, window: usize) -> Taps {
    let taps: Vec<usize> = (0..window).filter(|t| (phase + pad) % stride == t % stride).rev().collect();
    let origin = taps.first().map_or(0, |&t| (phase as isize + pad as isize - t as isize) / stride as isize);
    Taps { taps, origin }
}

/// Which of the three taps fall together on a row of the small image: phase 0 sees rows i−1, i; phase 1 rows i, i+1.
const FOLDED: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
/// The same seen from the small image: the taps through which rows 2i−1 .. 2i+2 of the large one read row i.
const SPREAD: [&[usize]; 4] = [&[2], &[1, 2], &[0, 1], &[0]];

/// The 2×2 weights [Cout,2,2,Cin] of one phase: sums of the taps that fall together.
fn phase_weights(w: &[f32], cin: usize, phase: [usize; 2]) -> Vec<f32> {
    let mut folded = vec![0.0; w.len() / 9 * 4];
    for (f, w) in folded.chunks_mut(4 * cin).zip(w.chunks(9 * cin)) {
        for (tap, f) in f.chunks_mut(cin).enumerate() {
            for &r in FOLDED[phase[0]][tap / 2] {
                for &s in FOLDED[phase[1]][tap % 2] {
                    f.iter_mut().zip(&w[(r * 3 + s) * cin..]).for_each(|(f, w)| *f += w);
                }
            }
        }
    }
    folded
}

/// Adds the gradient of one phase's weights to the gradients of the taps they were summed from.
fn fold_phase(dw: &mut [f32], part: &[f32], cin: usize, phase: [usize; 2]) {
    for (dw, part) in dw.chunks_mut(9 * cin).zip(part.chunks(4 * cin)) {
        for (tap, part) in part.chunks(cin).enumerate() {
            for &r in FOLDED[phase[0]][tap / 2] {
                for &s in FOLDED[phase[1]][tap % 2] {
                    dw[(r * 3 + s) * cin..].iter_mut().zip(part).for_each(|(d, p)| *d += p);
                }
            }
        }
    }
}

fn up2_input_gradient(dy: &Tensor, w: &Tensor, [b, h, width, cin]: [usize; 4]) -> Tensor {
    let [_, h2, w2, cout] = dy.dims();
    let slide = Slide {
        batch: b,
        image: [h2, w2],
        cin: cout,
        window: [4, 4],
        stride: [2, 2],
        origin: [-1, -1],
        out: [h, width],
        canvas: [h, width],
        step: [1, 1],
        phase: [0, 0],
        cout: cin,
    };
    let mut dx = dy.new_empty([b, h, width, cin]);
    let cpu = |[dx]: [&mut [f32]; 1], [dy, w]: [&[f32]; 2]| {
        let mut spread = vec![0.0; cout * 16 * cin];
        for (spread, w) in spread.chunks_mut(16 * cin).zip(w.chunks(9 * cin)) {
            for (tap, spread) in spread.chunks_mut(cin).enumerate() {
                for &r in SPREAD[tap / 4] {
                    for &s in SPREAD[tap % 4] {
                        spread.iter_mut().zip(&w[(r * 3 + s) * cin..]).for_each(|(f, w)| *f += w);
                    }
                }
            }
        }
        let all = [0, 1, 2, 3];
        slide_over(dx, dy, &[(slide, pack_transposed(&spread, [cout, 4, 4, cin], &all, &all))]);
    };
    run(slide.kernel("conv2d_up2_bwd"), [&mut dx], [dy, w], cpu, |g, [dx], [dy, w]| {
        let weights = Weights { transposed: true, spread: true };
        Pass::forward(&slide, [1, 1], weights).run(g, dx, Out::NONE, dy, w, In::NONE);
    });
    dx
}

// ---------------------------------------------------------------- the sliding window

/// A window that slides over an image and writes every `step`-th pixel of a canvas.
#[derive(Clone, Copy)]
struct Slide {
    batch: usize,
    /// Height and width of what it slides over, and its channels.
    image: [usize; 2],
    cin: usize,
    window: [usize; 2],
    stride: [usize; 2],
    /// Where the window's first tap lies for the first output; negative over the border.
    origin: [isize; 2],
    /// Outputs down and across.
    out: [usize; 2],
    /// Height and width of what it writes; output (i, j) goes to (phase + i·step, phase + j·step).
    canvas: [usize; 2],
    step: [usize; 2],
    phase: [usize; 2],
    cout: usize,
}

/// Weights packed as [column tile][depth][tile width]; columns beyond the last are zeros.
struct Packed {
    data: Buffer,
    vectors: usize,
}

/// Part of a window: elements of one of its rows.
type Piece = (usize, Range<usize>);

/// A window ready to slide: its weights, and its pieces in groups of at most `DEPTH` elements.
struct Window<'a> {
    slide: &'a Slide,
    packed: &'a Packed,
    groups: Vec<Vec<Piece>>,
}

/// One window position.
#[derive(Clone, Copy)]
struct Place {
    /// Row and column of the first tap, possibly outside.
    first: [isize; 2],
    /// Offset of the first tap's pixel row 0 column 0 of its picture.
    picture: usize,
    /// Pixel of the canvas it writes, counted over the whole batch.
    target: usize,
}

/// Window elements summed at a time: the packed weights of so many stay in the first-level cache.
const DEPTH: usize = 384;
/// Pixels that share one pass over the weights.
const PIXELS: usize = 16 * ROWS;
/// Pixels a weight-gradient tile sums before it goes back to memory.
const SUMMED: usize = 256;
/// Columns of a weight-gradient tile.
const WIDTH: usize = 2 * LANES;
/// Distance of two rows of transposed dy: not a power of two, or they would fight for the same lines of the cache.
const LEFT_ROW: usize = SUMMED + 16;

impl Slide {
    /// Elements of one window.
    fn depth(&self) -> usize {
        self.window[0] * self.run()
    }

    /// Consecutive elements of one window row.
    fn run(&self) -> usize {
        self.window[1] * self.cin
    }

    fn pixels(&self) -> usize {
        self.batch * self.out[0] * self.out[1]
    }

    fn flops(&self) -> f64 {
        2.0 * (self.pixels() * self.depth() * self.cout) as f64
    }

    fn kernel(&self, name: &'static str) -> Kernel {
        Kernel::new(name, self.flops())
    }

    fn place(&self, b: usize, i: usize, j: usize) -> Place {
        let first = [i, j];
        let [row, column] = [0, 1].map(|d| self.phase[d] + first[d] * self.step[d]);
        Place {
            first: [0, 1].map(|d| self.origin[d] + (first[d] * self.stride[d]) as isize),
            picture: b * self.image[0] * self.image[1] * self.cin,
            target: (b * self.canvas[0] + row) * self.canvas[1] + column,
        }
    }

    /// The places that write the canvas rows `rows`, counted over the whole batch.
    fn places(&self, rows: Range<usize>) -> Vec<Place> {
        let mut places = Vec::new();
        for row in rows {
            let (b, row) = (row / self.canvas[0], row % self.canvas[0]);
            if row % self.step[0] == self.phase[0] {
                places.extend((0..self.out[1]).map(|j| self.place(b, row / self.step[0], j)));
            }
        }
        places
    }

    fn inside(&self, p: &Place) -> bool {
        (0..2).all(|d| p.first[d] >= 0 && p.first[d] as usize + self.window[d] <= self.image[d])
    }

    /// Offset of element `e` of window row `r` in the input; only for places inside.
    fn at(&self, p: &Place, r: usize, e: usize) -> usize {
        p.picture + ((p.first[0] as usize + r) * self.image[1] + p.first[1] as usize) * self.cin + e
    }

    /// The elements `piece` of window row `r`, zeros where they lie outside.
    fn gather(&self, to: &mut [f32], x: &[f32], p: &Place, r: usize, piece: Range<usize>) {
        let row = p.first[0] + r as isize;
        if row < 0 || row as usize >= self.image[0] {
            return to.fill(0.0);
        }
        let (c, width) = (self.cin as isize, self.image[1] as isize);
        let clip = |column: isize| ((column - p.first[1]) * c).clamp(piece.start as isize, piece.end as isize);
        let (lo, hi) = (clip(0), clip(width));
        if lo >= hi {
            return to.fill(0.0);
        }
        let from = p.picture as isize + (row * width + p.first[1]) * c;
        let (lo_in, hi_in) = (lo as usize - piece.start, hi as usize - piece.start);
        to[..lo_in].fill(0.0);
        to[hi_in..].fill(0.0);
        to[lo_in..hi_in].copy_from_slice(&x[(from + lo) as usize..(from + hi) as usize]);
    }

    /// The window cut into pieces of rows, grouped so that each group is at most `DEPTH` deep.
    fn groups(&self) -> Vec<Vec<Piece>> {
        let run = self.run();
        let mut groups: Vec<Vec<Piece>> = Vec::new();
        if run == 0 {
            return groups;
        }
        let mut room = 0;
        for r in 0..self.window[0] {
            let pieces = run.div_ceil(DEPTH);
            for i in 0..pieces {
                let piece = run * i / pieces..run * (i + 1) / pieces;
                if piece.len() > room {
                    groups.push(Vec::new());
                    room = DEPTH;
                }
                room -= piece.len();
                groups.last_mut().unwrap().push((r, piece));
            }
        }
        groups
    }
}

/// The tile width that wastes fewer columns.
fn vectors_for(columns: usize) -> usize {
    if columns <= LANES { 1 } else { 2 }
}

/// Packs the row-major weights [Cout, depth].
fn pack(depth: usize, cout: usize, w: &[f32]) -> Packed {
    let vectors = vectors_for(cout);
    let width = vectors * LANES;
    let mut data = Buffer::uninit(cout.div_ceil(width) * depth * width);
    for_chunks(data.as_mut_slice(), depth * width, |t, tile| {
        let columns = (cout - t * width).min(width);
        if columns < width {
            tile.fill(0.0);
        }
        const BLOCK: usize = 16;
        for from in (0..depth).step_by(BLOCK) {
            let block = &mut tile[from * width..(from + BLOCK).min(depth) * width];
            for j in 0..columns {
                let row = &w[(t * width + j) * depth + from..];
                block.chunks_exact_mut(width).zip(row).for_each(|(k, &w)| k[j] = w);
            }
        }
    });
    Packed { data, vectors }
}

/// Packs the weights w[Cout,R,S,Cin] for a window of the given taps over Cout channels that gives Cin columns.
fn pack_transposed(
    w: &[f32],
    [cout, r, s, cin]: [usize; 4],
    taps_h: &[usize],
    taps_w: &[usize],
) -> Packed {
    let vectors = vectors_for(cin);
    let (width, depth) = (vectors * LANES, taps_h.len() * taps_w.len() * cout);
    let taps: Vec<usize> = taps_h.iter().flat_map(|&th| taps_w.iter().map(move |&tw| th * s + tw)).collect();
    let mut data = Buffer::uninit(cin.div_ceil(width) * depth * width);
    // Blocks of both sides are consecutive for a few lines at least: the weights may be far larger than a cache.
    const TILES: usize = 8;
    const ROWS: usize = 16;
    for_chunks(data.as_mut_slice(), (TILES * depth * width).max(1), |g, tiles| {
        for (i, tap) in taps.iter().enumerate() {
            for n in (0..cout).step_by(ROWS) {
                for (t, tile) in tiles.chunks_exact_mut(depth * width).enumerate() {
                    let first = (g * TILES + t) * width;
                    let columns = (cin - first).min(width);
                    let rows = &mut tile[(i * cout + n) * width..(i * cout + (n + ROWS).min(cout)) * width];
                    for (n, k) in (n..).zip(rows.chunks_exact_mut(width)) {
                        let from = (n * r * s + tap) * cin + first;
                        k[..columns].copy_from_slice(&w[from..from + columns]);
                        k[columns..].fill(0.0);
                    }
                }
            }
        }
    });
    Packed { data, vectors }
}

/// Slides every window over `x`, together writing all of `y`.
fn slide_over(y: &mut [f32], x: &[f32], windows: &[(Slide, Packed)]) {
    let (slide, packed) = &windows[0];
    let (cout, width) = (slide.cout, packed.vectors * LANES);
    let row = slide.canvas[1] * cout;
    let rows = slide.batch * slide.canvas[0];
    let tiles = cout.div_ceil(width);
    let pixels: usize = windows.iter().map(|(s, _)| s.pixels()).sum();
    let windows: Vec<_> =
        windows.iter().map(|(slide, packed)| Window { slide, packed, groups: slide.groups() }).collect();
    if pixels >= 2 * PIXELS * threads() || tiles == 1 {
        let per_row = slide.out[1].max(1);
        let band = (2 * PIXELS).div_ceil(per_row) * slide.step[0];
        for_chunks(y, band * row, |i, y| {
            let mut top = Worktop::default();
            let rows = i * band..(i * band + y.len() / row);
            for window in &windows {
                let places = window.slide.places(rows.clone());
                let base = rows.start * slide.canvas[1];
                for block in places.chunks(even_share(places.len())) {
                    top.sum(window, x, block, 0..tiles);
                    scatter(y, base, &top.sums, block, cout, width, 0..tiles);
                }
            }
        });
        return;
    }
    // Few pixels, many channels: the threads share the columns instead, each reading its weights once.
    let share = tiles.div_ceil(4 * threads());
    for window in &windows {
        let places = window.slide.places(0..rows);
        let columns = |i: usize| i * share..((i + 1) * share).min(tiles);
        let parts = map(tiles.div_ceil(share), |i| {
            let mut top = Worktop::default();
            top.sum(window, x, &places, columns(i));
            top.sums
        });
        for (i, sums) in parts.iter().enumerate() {
            scatter(y, 0, sums, &places, cout, width, columns(i));
        }
    }
}

/// A block size near `PIXELS` that divides `places` evenly.
fn even_share(places: usize) -> usize {
    places.div_ceil(places.div_ceil(PIXELS).max(1)).next_multiple_of(ROWS).max(ROWS)
}

/// What one thread works with, kept from block to block.
#[derive(Default)]
struct Worktop {
    tiles: Vec<[Place; ROWS]>,
    segments: Vec<Segment>,
    /// Of each place tile, whether it lies inside the image, and its segments.
    sources: Vec<(bool, Range<usize>)>,
    /// Windows over the border, copied.
    border: Vec<f32>,
    /// As [column tile][place tile][ROWS][width].
    sums: Vec<f32>,
}

impl Worktop {
    /// Sums the windows at all places, for a range of column tiles.
    fn sum(&mut self, window: &Window, x: &[f32], places: &[Place], columns: Range<usize>) {
        let Window { slide, packed, groups } = window;
        let (vectors, depth) = (packed.vectors, slide.depth());
        let width = vectors * LANES;
        self.tiles.clear();
        self.tiles.extend(places.chunks(ROWS).map(|c| std::array::from_fn(|i| c[i.min(c.len() - 1)])));
        self.sums.resize(columns.len() * self.tiles.len() * ROWS * width, 0.0);
        if groups.is_empty() {
            self.sums.fill(0.0);
        }
        let mut done = 0;
        for group in groups {
            self.find(slide, group, x);
            let deep: usize = group.iter().map(|(_, piece)| piece.len()).sum();
            let per_column = self.tiles.len() * ROWS * width;
            for (c, sums) in columns.clone().zip(self.sums.chunks_mut(per_column)) {
                let weights = &packed.data.as_slice()[(c * depth + done) * width..][..deep * width];
                let weights = Strided { data: weights, stride: width };
                for ((inside, range), sums) in self.sources.iter().zip(sums.chunks_mut(ROWS * width)) {
                    let source = Strided { data: if *inside { x } else { &self.border }, stride: 1 };
                    tile(vectors, sums, done > 0, source, &self.segments[range.clone()], weights);
                }
            }
            done += deep;
        }
    }

    /// Finds where each tile's rows lie for one group of the window's pieces.
    fn find(&mut self, slide: &Slide, group: &[Piece], x: &[f32]) {
        let deep: usize = group.iter().map(|(_, piece)| piece.len()).sum();
        self.segments.clear();
        self.sources.clear();
        let outside = |tile: &&[Place; ROWS]| !tile.iter().all(|p| slide.inside(p));
        self.border.resize(self.tiles.iter().filter(outside).count() * ROWS * deep, 0.0);
        let mut start = 0;
        for tile in &self.tiles {
            let from = self.segments.len();
            let inside = !outside(&tile);
            if inside {
                self.segments.extend(group.iter().map(|(r, piece)| Segment {
                    at: tile.map(|p| slide.at(&p, *r, piece.start)),
                    len: piece.len(),
                }));
            } else {
                for (p, mut to) in tile.iter().zip(self.border[start..].chunks_mut(deep)) {
                    for (r, piece) in group {
                        let (here, rest) = to.split_at_mut(piece.len());
                        slide.gather(here, x, p, *r, piece.clone());
                        to = rest;
                    }
                }
                self.segments.push(Segment { at: std::array::from_fn(|i| start + i * deep), len: deep });
                start += ROWS * deep;
            }
            self.sources.push((inside, from..self.segments.len()));
        }
    }
}

/// Writes the sums of `places` to their pixels of `y`, whose first pixel is `base`.
fn scatter(
    y: &mut [f32],
    base: usize,
    sums: &[f32],
    places: &[Place],
    cout: usize,
    width: usize,
    columns: Range<usize>,
) {
    let per_column = places.len().div_ceil(ROWS) * ROWS * width;
    for (c, sums) in columns.zip(sums.chunks(per_column)) {
        let (from, n) = (c * width, (cout - c * width).min(width));
        for (p, sums) in places.iter().zip(sums.chunks(width)) {
            let at = (p.target - base) * cout + from;
            match (y[at..].first_chunk_mut::<{ 2 * LANES }>(), sums.first_chunk()) {
                // A copy of known size is two moves, any other a call.
                (Some(y), Some(sums)) if n == 2 * LANES => *y = *sums,
                _ => y[at..at + n].copy_from_slice(&sums[..n]),
            }
        }
    }
}

// ---------------------------------------------------------------- the weight gradient

/// dw[Cout, depth] = Σ over pixels of dy[pixel, Cout] ⊗ window[pixel, depth].
fn weight_gradient(dw: &mut [f32], dy: &[f32], x: &[f32], slide: &Slide) {
    let (depth, cout) = (slide.depth(), slide.cout);
    let places = slide.places(0..slide.batch * slide.canvas[0]);
    const SHARES: usize = 8;
    if dw.len() <= 1 << 18 && places.len() >= SHARES * SUMMED {
        // Small weights, many pixels: a fixed number of partial sums, added in order.
        let share = places.len().div_ceil(SHARES);
        let parts = map(SHARES, |i| {
            let mut part = Buffer::uninit(dw.len());
            let places = &places[(i * share).min(places.len())..((i + 1) * share).min(places.len())];
            outer_products(part.as_mut_slice(), dy, x, slide, places, 0..cout);
            part
        });
        dw.copy_from_slice(parts[0].as_slice());
        for part in &parts[1..] {
            let part = part.as_slice();
            for_chunks(dw, 1 << 14, |i, dw| dw.iter_mut().zip(&part[i << 14..]).for_each(|(d, p)| *d += p));
        }
        return;
    }
    let share = cout.div_ceil(4 * threads()).next_multiple_of(ROWS).max(2 * ROWS);
    for_chunks(dw, share * depth, |i, dw| {
        let n = dw.len() / depth;
        outer_products(dw, dy, x, slide, &places, i * share..i * share + n);
    });
}

/// dw[rows, depth] = Σ over `places` of dy[place, rows] ⊗ window[place]
fn outer_products(dw: &mut [f32], dy: &[f32], x: &[f32], slide: &Slide, places: &[Place], rows: Range<usize>) {
    dw.fill(0.0);
    let mut product = Outer { dw, dy, x, slide, rows };
    // Copying a block pays where many row tiles use it; where few do, runs inside the image are read in place.
    if product.row_tiles() >= 8 {
        return places.chunks(SUMMED).for_each(|block| product.add_copied(block));
    }
    let mut border = Vec::new();
    let joined = |a: &Place, b: &Place| {
        slide.inside(a) && slide.inside(b) && a.picture == b.picture && a.first[0] == b.first[0]
    };
    for run in places.chunk_by(joined) {
        if run.len() >= 2 * ROWS {
            run.chunks(SUMMED).for_each(|run| product.add_in_place(run));
        } else {
            border.extend_from_slice(run);
        }
    }
    border.chunks(SUMMED).for_each(|block| product.add_copied(block));
}

/// A weight gradient under way.
struct Outer<'a> {
    dw: &'a mut [f32],
    dy: &'a [f32],
    x: &'a [f32],
    slide: &'a Slide,
    /// Channels of dy, which are rows of dw.
    rows: Range<usize>,
}

impl Outer<'_> {
    fn row_tiles(&self) -> usize {
        self.rows.len().div_ceil(ROWS)
    }

    /// The window cut into tile widths.
    fn pieces(&self) -> impl Iterator<Item = Piece> + use<> {
        let (window, run) = (self.slide.window[0], self.slide.run());
        let cut = move |from: usize| from..(from + WIDTH).min(run);
        (0..window).flat_map(move |r| (0..run).step_by(WIDTH).map(move |from| (r, cut(from))))
    }

    /// Adds a block of any places, copied into rows of pixels.
    fn add_copied(&mut self, block: &[Place]) {
        let (slide, cout) = (self.slide, self.slide.cout);
        let mut left = vec![0.0; self.row_tiles() * ROWS * LEFT_ROW];
        let mut right = vec![0.0; SUMMED * WIDTH];
        for (i, p) in block.iter().enumerate() {
            let dy = &self.dy[p.target * cout..][self.rows.clone()];
            left.iter_mut().skip(i).step_by(LEFT_ROW).zip(dy).for_each(|(l, d)| *l = *d);
        }
        let inside: Vec<bool> = block.iter().map(|p| slide.inside(p)).collect();
        for (r, piece) in self.pieces() {
            for ((p, inside), to) in block.iter().zip(&inside).zip(right.chunks_exact_mut(WIDTH)) {
                if *inside && piece.len() == WIDTH {
                    let at = slide.at(p, r, piece.start);
                    to.copy_from_slice(&self.x[at..at + WIDTH]);
                } else {
                    slide.gather(&mut to[..piece.len()], self.x, p, r, piece.clone());
                }
            }
            for t in 0..self.row_tiles() {
                let at = std::array::from_fn(|i| (t * ROWS + i) * LEFT_ROW);
                let left = Strided { data: &left, stride: 1 };
                let right = Strided { data: &right, stride: WIDTH };
                self.add_tile(t, r, &piece, left, Segment { at, len: block.len() }, right);
            }
        }
    }

    /// Adds neighbors in one row of the canvas, all with their windows inside, read where they lie.
    fn add_in_place(&mut self, run: &[Place]) {
        let (slide, cout, x) = (self.slide, self.slide.cout, self.x);
        let dy = Strided { data: self.dy, stride: slide.step[1] * cout };
        let stride = slide.stride[1] * slide.cin;
        for (r, piece) in self.pieces() {
            // The last rows of the last picture: a full vector would reach over the end.
            let from = slide.at(&run[0], r, piece.start);
            let fits = (x.len() - from).saturating_sub(WIDTH) / stride + 1;
            let len = if from + WIDTH > x.len() { 0 } else { run.len().min(fits) };
            let right = Strided { data: &x[from..], stride };
            for t in 0..self.row_tiles() {
                let first = run[0].target * cout + self.rows.start + t * ROWS;
                let last = run[0].target * cout + self.rows.end - 1;
                let at = std::array::from_fn(|i| (first + i).min(last));
                self.add_tile(t, r, &piece, dy, Segment { at, len }, right);
            }
            for (i, p) in run.iter().enumerate().skip(len) {
                let window = &x[from + i * stride..][..piece.len()];
                for (row, d) in self.dy[p.target * cout..][self.rows.clone()].iter().enumerate() {
                    let at = row * slide.depth() + r * slide.run() + piece.start;
                    self.dw[at..].iter_mut().zip(window).for_each(|(dw, x)| *dw += d * x);
                }
            }
        }
    }

    fn add_tile(&mut self, t: usize, r: usize, piece: &Range<usize>, left: Strided, segment: Segment, right: Strided) {
        let (depth, run) = (self.slide.depth(), self.slide.run());
        let mut sums = [0.0; ROWS * WIDTH];
        tile(2, &mut sums, false, left, &[segment], right);
        let rows = (self.rows.len() - t * ROWS).min(ROWS);
        for (i, sums) in sums.chunks(WIDTH).take(rows).enumerate() {
            let at = (t * ROWS + i) * depth + r * run + piece.start;
            self.dw[at..at + piece.len()].iter_mut().zip(sums).for_each(|(d, s)| *d += s);
        }
    }
}

// ---------------------------------------------------------------- on CUDA

/// What the weights that slide are made from [Cout,R,S,Cin].
#[derive(Clone, Copy)]
struct Weights {
    /// Window elements are outputs, and inputs come out.
    transposed: bool,
    /// 4×4 taps summed from 3×3.
    spread: bool,
}

/// One launch over all phases: the window, its weights, and the flips and phases as kernels/conv.cu counts them.
#[derive(Clone, Copy)]
struct Pass {
    batch: usize,
    cin: usize,
    cout: usize,
    image: [usize; 2],
    canvas: [usize; 2],
    /// The taps of all phases together.
    window: [usize; 2],
    pad: [usize; 2],
    step: [usize; 2],
    stride: [usize; 2],
    weights: Weights,
}

impl Pass {
    /// The window of a forward convolution, in its own order.
    fn forward(slide: &Slide, pad: [usize; 2], weights: Weights) -> Pass {
        let Slide { batch, cin, cout, image, canvas, window, stride, .. } = *slide;
        Pass { batch, cin, cout, image, canvas, window, pad, step: [1, 1], stride, weights }
    }

    /// For each phase of x the taps that reach it, over dy.
    fn input_gradient(forward: &Slide, pad: [usize; 2]) -> Pass {
        let Slide { batch, cin, cout, image, out, window, stride, .. } = *forward;
        let weights = Weights { transposed: true, spread: false };
        let (step, stride) = (stride, [1, 1]);
        Pass { batch, cin: cout, cout: cin, image: out, canvas: image, window, pad, step, stride, weights }
    }

    /// Nearest 2×, then 3×3: as the input gradient of a 4×4 window of stride 2.
    fn enlarging(phase: &Slide) -> Pass {
        let Slide { batch, cin, cout, image, canvas, .. } = *phase;
        let weights = Weights { transposed: false, spread: true };
        let (window, pad, step, stride) = ([4, 4], [1, 1], [2, 2], [1, 1]);
        Pass { batch, cin, cout, image, canvas, window, pad, step, stride, weights }
    }

    /// Whether this is one window in its own order, not the phases of a flipped one.
    fn unflipped(&self) -> bool {
        self.weights.transposed == self.weights.spread
    }

    fn phases(&self) -> usize {
        self.step[0] * self.step[1]
    }

    /// Outputs of the largest phase.
    fn pixels(&self) -> usize {
        let out = [0, 1].map(|d| self.canvas[d].div_ceil(self.step[d]));
        self.batch * out[0] * out[1]
    }

    /// Taps of the largest phase.
    fn taps(&self) -> usize {
        self.window[0].div_ceil(self.step[0]) * self.window[1].div_ceil(self.step[1])
    }

    fn depth(&self) -> usize {
        self.taps() * self.cin
    }

    fn plan(&self, g: &Gpu, dtype: DType) -> (Tile, usize) {
        let tiles = [Tile::T128x128, Tile::T128x64, Tile::T64x64, Tile::T128x32];
        let slices = self.depth().div_ceil(slice(dtype));
        plan(g, &tiles, [self.pixels(), self.cout], self.phases(), slices)
    }

    /// Room for the sums of y's tiles; none where they are not wanted or come from shares.
    fn moments(&self, y: &Tensor, wanted: bool) -> Tensor {
        match y.device() {
            Device::Cuda(g) if wanted => match self.plan(&g, y.dtype()) {
                (tile, 1) => y.new_empty_f32([self.phases() * self.pixels().div_ceil(tile.rows()), 3, self.cout]),
                _ => y.new_empty_f32([0]),
            },
            _ => y.new_empty_f32([0]),
        }
    }

    fn dims(&self, weight_row: usize, splits: usize) -> k::SlideDims {
        let int = |x: [usize; 2]| x.map(|n| n as i32);
        // A forward window counted from its end, as the phases of a gradient are.
        let pad = [0, 1].map(|d| match self.unflipped() {
            true => self.window[d] as i32 - 1 - self.pad[d] as i32,
            false => self.pad[d] as i32,
        });
        let out = [0, 1].map(|d| self.canvas[d].div_ceil(self.step[d]));
        k::SlideDims {
            batch: self.batch as i32,
            cin: self.cin as i32,
            cout: self.cout as i32,
            image: int(self.image),
            canvas: int(self.canvas),
            window: int(self.window),
            pad,
            step: int(self.step),
            stride: int(self.stride),
            weight_row: weight_row as i32,
            weight_phase: (self.cout * weight_row) as i32,
            splits: splits as i32,
            down: divisor(out[0]),
            across: divisor(out[1]),
        }
    }

    /// y = bias + the windows of x by the weights; `moments` may be empty.
    fn run(&self, g: &Gpu, y: Out, moments: Out, x: In, w: In, bias: In) {
        let (dtype, n) = (x.dtype(), y.len());
        assert!(n.max(x.len()) < 1 << 31, "{} elements are more than a kernel counts", n.max(x.len()));
        if n == 0 {
            return;
        }
        let pack = 16 / dtype.bytes();
        let as_they_lie = self.unflipped() && !self.weights.transposed && dtype == DType::F32;
        let packed = !(as_they_lie && self.depth().is_multiple_of(pack));
        let row = self.depth().next_multiple_of(pack);
        let mut room = g.scratch_of(dtype, if packed { self.phases() * self.cout * row } else { 0 });
        if packed {
            self.pack_weights(g, room.out(), w, row);
        }
        let (tile, splits) = self.plan(g, dtype);
        let dims = self.dims(row, splits);
        let mut parts = g.scratch(if splits > 1 { splits * n } else { 0 });
        let (to, shares) = if splits > 1 { (Out::NONE, parts.out()) } else { (y, Out::NONE) };
        let moments = if moments.is_empty() { Out::NONE } else { moments };
        let grid = tile.grid([tile.count(self.pixels(), self.cout), 1, self.phases() * splits]);
        let w = if packed { room.view() } else { w };
        slide_kernel(tile, dtype == DType::F32 && g.tf32())(g, grid, to, shares, moments, x, w, bias, dims);
        if splits > 1 {
            let (n, cout, splits) = (n as i32, self.cout as i32, splits as i32);
            k::conv_join_fwd(g, Grid::elements(y.len()), y, parts.view(), bias, n, cout, splits);
        }
    }

    fn pack_weights(&self, g: &Gpu, to: Out, w: In, row: usize) {
        let Weights { transposed, spread } = self.weights;
        let (outputs, inputs) = if transposed { (self.cin, self.cout) } else { (self.cout, self.cin) };
        let dims = self.dims(row, 1);
        let pack = k::PackDims {
            outputs: outputs as i32,
            inputs: inputs as i32,
            window: dims.window,
            pad: dims.pad,
            step: dims.step,
            row: row as i32,
            phase: dims.weight_phase,
            transposed: transposed as i32,
            unflipped: self.unflipped() as i32,
            spread: spread as i32,
        };
        // One tap more fills the rows up.
        let taps = self.taps() + usize::from(row > self.depth());
        let blocks = [outputs.div_ceil(32) * inputs.div_ceil(32), taps, self.phases()];
        k::conv_pack(g, Grid::new(blocks, 256), to, w, pack);
    }

    /// dw from dy, which lies as this pass writes, and the windows of x; phases are folded into 3×3 taps.
    fn weight_gradient(&self, g: &Gpu, dw: Out, dy: In, x: In) {
        assert!(dy.len().max(x.len()) < 1 << 31, "{} elements are more than a kernel counts", dy.len().max(x.len()));
        let (dtype, depth, phases) = (x.dtype(), self.depth(), self.phases());
        let slices = self.pixels().div_ceil(slice(dtype));
        let (tile, splits) = plan(g, &[Tile::T128x128, Tile::T64x64], [self.cout, depth], phases, slices);
        let direct = splits * phases == 1;
        let mut parts = g.scratch(if direct { 0 } else { splits * phases * self.cout * depth });
        let to = if direct { dw } else { parts.out() };
        let grid = tile.grid([tile.count(self.cout, depth), 1, phases * splits]);
        let dims = self.dims(0, splits);
        match (tile, dtype == DType::F32 && g.tf32()) {
            (Tile::T128x128, false) => k::conv_outer_128x128_bwd_w(g, grid, to, dy, x, dims),
            (Tile::T128x128, true) => k::conv_outer_128x128_tf32_bwd_w(g, grid, to, dy, x, dims),
            (_, false) => k::conv_outer_64x64_bwd_w(g, grid, to, dy, x, dims),
            (_, true) => k::conv_outer_64x64_tf32_bwd_w(g, grid, to, dy, x, dims),
        }
        let grid = Grid::elements(dw.len());
        if phases > 1 {
            k::conv_fold_bwd_w(g, grid, dw, parts.view(), dims.cout, dims.cin, dims.splits);
        } else if splits > 1 {
            k::conv_join_bwd_w(g, grid, dw, parts.view(), dw.len() as i32, dims.splits);
        }
    }
}

type Launcher = fn(&Gpu, Grid, Out, Out, Out, In, In, In, k::SlideDims);

fn slide_kernel(tile: Tile, tf32: bool) -> Launcher {
    match (tile, tf32) {
        (Tile::T128x128, false) => k::conv_slide_128x128,
        (Tile::T128x128, true) => k::conv_slide_128x128_tf32,
        (Tile::T128x64, false) => k::conv_slide_128x64,
        (Tile::T128x64, true) => k::conv_slide_128x64_tf32,
        (Tile::T64x64, false) => k::conv_slide_64x64,
        (Tile::T64x64, true) => k::conv_slide_64x64_tf32,
        (Tile::T128x32, false) => k::conv_slide_128x32,
        (Tile::T128x32, true) => k::conv_slide_128x32_tf32,
    }
}

/// n, and factor and shift that divide by it (gemm.cuh, `quotient`).
fn divisor(n: usize) -> [u32; 3] {
    if n <= 1 {
        return [1, 0, 0];
    }
    let power = 31 + n.next_power_of_two().trailing_zeros();
    [n as u32, (1u64 << power).div_ceil(n as u64) as u32, power - 32]
}

pub fn cases() -> Vec<Case> {
    let conv = |name, x: [usize; 4], w: [usize; 4], conv: Conv| {
        Case::new("conv2d", name, move |t| vec![conv2d(&t[0], &t[1], None, conv)])
            .input(x)
            .input(w)
            .bf16(&[0])
    };
    let up2 = |name, x: [usize; 4], cout: usize| {
        let case = Case::new("conv2d_up2", name, |t| vec![conv2d_up2(&t[0], &t[1])]).input(x);
        case.input([cout, 3, 3, x[3]]).bf16(&[0])
    };
    vec![
        conv("3x3", [2, 5, 7, 3], [4, 3, 3, 3], Conv::new(1, 1)),
        conv("3x3 many channels", [1, 8, 9, 20], [19, 3, 3, 20], Conv::new(1, 1)),
        conv("3x3 no padding", [1, 6, 5, 2], [3, 3, 3, 2], Conv::new(1, 0)),
        conv("3x3 stride 2", [1, 9, 8, 3], [5, 3, 3, 3], Conv::new(2, 0)),
        conv("4x4 stride 2", [2, 8, 6, 3], [5, 4, 4, 3], Conv::new(2, 1)),
        conv("4x4 stride 4", [2, 4, 4, 6], [1, 4, 4, 6], Conv::new(4, 0)),
        conv("1x1", [2, 3, 5, 6], [4, 1, 1, 6], Conv::new(1, 0)),
        conv("1x1 stride 2", [1, 5, 6, 3], [4, 1, 1, 3], Conv::new(2, 0)),
        conv("1x7", [1, 4, 9, 3], [2, 1, 7, 3], Conv { stride: [1, 1], pad: [0, 3] }),
        conv("7x1", [1, 9, 4, 3], [2, 7, 1, 3], Conv { stride: [1, 1], pad: [3, 0] }),
        conv("7x7 stride 2", [1, 9, 11, 3], [2, 7, 7, 3], Conv::new(2, 3)),
        Case::new("conv2d", "bias", |t| vec![conv2d(&t[0], &t[1], Some(&t[2]), Conv::new(1, 1))])
            .input([1, 4, 4, 2])
            .input([3, 3, 3, 2])
            .input([3])
            .bf16(&[0]),
        up2("", [2, 4, 3, 5], 6),
        conv("3x3, 32 to 64", [2, 9, 8, 32], [64, 3, 3, 32], Conv::new(1, 1)).large(),
        conv("3x3, 64 to 128", [1, 8, 8, 64], [128, 3, 3, 64], Conv::new(1, 1)).large(),
        conv("3x3, 17 to 33", [2, 8, 9, 17], [33, 3, 3, 17], Conv::new(1, 1)).large(),
        conv("3x3, 32 to 3", [2, 20, 18, 32], [3, 3, 3, 32], Conv::new(1, 1)).large(),
        conv("3x3, many to few pixels", [1, 4, 4, 256], [48, 3, 3, 256], Conv::new(1, 1)).large(),
        conv("4x4 stride 2, 3 to 64", [2, 32, 32, 3], [64, 4, 4, 3], Conv::new(2, 1)).large(),
        conv("4x4 stride 2, 32 to 64", [2, 18, 16, 32], [64, 4, 4, 32], Conv::new(2, 1)).large(),
        conv("3x3 stride 2, odd canvas", [2, 11, 13, 16], [24, 3, 3, 16], Conv::new(2, 0)).large(),
        conv("7x7 stride 2, 3 to 32", [1, 33, 30, 3], [32, 7, 7, 3], Conv::new(2, 3)).large(),
        conv("1x1, many tiles", [1, 150, 140, 8], [160, 1, 1, 8], Conv::new(1, 0)).large(),
        conv("1x1, many tiles of 64", [1, 160, 150, 16], [64, 1, 1, 16], Conv::new(1, 0)).large(),
        conv("1x1, many tiles of 32", [1, 160, 150, 16], [24, 1, 1, 16], Conv::new(1, 0)).large(),
        conv("1x1, large tiles", [1, 132, 128, 8], [128, 1, 1, 8], Conv::new(1, 0)).large(),
        conv("1x1, large weights", [1, 2, 2, 1408], [1536, 1, 1, 1408], Conv::new(1, 0)).large(),
        conv("1x1 stride 2, 64 to 32", [2, 9, 9, 64], [32, 1, 1, 64], Conv::new(2, 0)).large(),
        conv("1x7, 24 to 40", [1, 12, 19, 24], [40, 1, 7, 24], Conv { stride: [1, 1], pad: [0, 3] }).large(),
        Case::new("conv2d", "bias, 16 to 40", |t| vec![conv2d(&t[0], &t[1], Some(&t[2]), Conv::new(1, 1))])
            .input([2, 10, 9, 16])
            .input([40, 3, 3, 16])
            .input([40])
            .bf16(&[0])
            .large(),
        up2("32 to 64", [2, 8, 7, 32], 64).large(),
        up2("17 to 5", [1, 9, 8, 17], 5).large(),
        up2("3 to 32", [1, 16, 16, 3], 32).large(),
        with_sums("conv2d_sums", "", [2, 11, 9, 16], [40, 3, 3, 16], false),
        with_sums("conv2d_sums", "odd", [1, 7, 5, 3], [5, 3, 3, 3], false),
        with_sums("conv2d_up2_sums", "", [2, 7, 6, 16], [72, 3, 3, 16], true),
    ]
}

/// y, and its channels' means and variances: joined from what the convolution counted, or from y where it did not.
fn with_sums(op: &'static str, name: &'static str, x: [usize; 4], w: [usize; 4], up2: bool) -> Case {
    let case = Case::new(op, name, move |t| {
        let (y, sums) =
            if up2 { conv2d_up2_sums(&t[0], &t[1]) } else { conv2d_sums(&t[0], &t[1], Conv::new(1, 1)) };
        let cout = y.shape().last_dim();
        let (mut means, mut variances) = (vec![0.0; cout], vec![0.0; cout]);
        let counted = sums.map_or_else(|| (y.to_vec(), 1), |s| (s.to_vec(), 3));
        for c in 0..cout {
            let (mut n, mut mean, mut square) = (0.0f64, 0.0f64, 0.0f64);
            for tile in counted.0.chunks(counted.1 * cout) {
                let part = |i: usize| tile[i * cout + c] as f64;
                let (more, other, own) = if counted.1 == 3 { (part(0), part(1), part(2)) } else { (1.0, part(0), 0.0) };
                let off = other - mean;
                square += own + off * off * n * more / (n + more);
                mean += off * more / (n + more);
                n += more;
            }
            assert_eq!(n as usize * cout, y.len(), "the tiles do not cover y");
            (means[c], variances[c]) = (mean as f32, (square / n) as f32);
        }
        let there = |v| crate::engine::device::with(&y.device(), || Tensor::from_vec(v, [cout]));
        vec![y.clone(), there(means), there(variances)]
    });
    case.input(x).input(w).bf16(&[0]).large()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::{Rng, backward};

    /// The definition, in f64.
    fn naive(x: &Tensor, w: &Tensor, conv: Conv) -> Vec<f64> {
        let ([b, h, width, c], [n, r, s, _]) = (x.dims(), w.dims());
        let out = [(h + 2 * conv.pad[0] - r) / conv.stride[0] + 1, (width + 2 * conv.pad[1] - s) / conv.stride[1] + 1];
        let (xs, ws) = (x.to_vec(), w.to_vec());
        let mut y = Vec::new();
        for (b, i, j, n) in (0..b).flat_map(|b| {
            (0..out[0]).flat_map(move |i| (0..out[1]).flat_map(move |j| (0..n).map(move |n| (b, i, j, n))))
        }) {
            let mut sum = 0.0;
            for (p, q) in (0..r).flat_map(|p| (0..s).map(move |q| (p, q))) {
                let row = (i * conv.stride[0] + p).wrapping_sub(conv.pad[0]);
                let column = (j * conv.stride[1] + q).wrapping_sub(conv.pad[1]);
                if row < h && column < width {
                    let (at, wt) = (((b * h + row) * width + column) * c, ((n * r + p) * s + q) * c);
                    sum += (0..c).map(|k| xs[at + k] as f64 * ws[wt + k] as f64).sum::<f64>();
                }
            }
            y.push(sum);
        }
        y
    }

    fn relative(a: &[f32], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| *a as f64 - b)) / norm(&mut b.iter().copied())
    }

    /// <conv(x, w), dy> is linear in x and in w, so its gradients must give the same number back, in f64.
    fn check(x: [usize; 4], w: [usize; 4], conv: Conv, up2: bool) {
        let mut rng = Rng::new(1, 0);
        let (x, w) = (rng.uniform(x, -1.0, 1.0).leaf(), rng.uniform(w, -1.0, 1.0).leaf());
        let y = if up2 { conv2d_up2(&x, &w) } else { conv2d(&x, &w, None, conv) };
        let enlarged = if up2 { enlarge(&x) } else { x.detach() };
        let reference = naive(&enlarged, &w, conv);
        assert!(relative(&y.to_vec(), &reference) < 1e-6, "{:?} {:?}: forward", x.shape(), w.shape());
        let probe = rng.uniform(y.shape(), -1.0, 1.0);
        let loss = crate::engine::ops::matmul::matmul(&y.reshape([1, y.len()]), &probe.reshape([probe.len(), 1]));
        let grads = backward(&loss, &[&x, &w]);
        for target in [&x, &w] {
            let gradient = grads.get(target).unwrap();
            for _ in 0..4 {
                let direction = rng.uniform(target.shape(), -1.0, 1.0);
                let along = |a: &Tensor, b: &Tensor| {
                    a.to_vec().iter().zip(b.to_vec()).map(|(a, b)| *a as f64 * b as f64).sum::<f64>()
                };
                let (dx, dw) = if std::ptr::eq(target, &x) {
                    (if up2 { enlarge(&direction) } else { direction.clone() }, w.detach())
                } else {
                    (enlarged.clone(), direction.clone())
                };
                let truth: f64 =
                    naive(&dx, &dw, conv).iter().zip(probe.to_vec()).map(|(y, p)| y * p as f64).sum();
                let size = (probe.len() as f64).sqrt() * (w.len() as f64 / w.dims::<4>()[0] as f64).sqrt();
                assert!((along(gradient, &direction) - truth).abs() < 1e-5 * size, "{:?}: gradient", target.shape());
            }
        }
    }

    fn enlarge(x: &Tensor) -> Tensor {
        let [b, h, w, c] = x.dims();
        let mut y = Vec::new();
        for (b, i, j) in (0..b).flat_map(|b| (0..2 * h).flat_map(move |i| (0..2 * w).map(move |j| (b, i, j)))) {
            y.extend_from_slice(&x.as_slice()[((b * h + i / 2) * w + j / 2) * c..][..c]);
        }
        Tensor::from_vec(y, [b, 2 * h, 2 * w, c])
    }

    #[test]
    fn convolutions_and_their_gradients_follow_the_definition() {
        for (x, w, conv) in [
            ([2, 24, 26, 16], [24, 3, 3, 16], Conv::new(1, 1)),
            ([1, 40, 40, 3], [20, 4, 4, 3], Conv::new(2, 1)),
            ([2, 12, 10, 40], [33, 4, 4, 40], Conv::new(2, 1)),
            ([2, 4, 4, 130], [70, 3, 3, 130], Conv::new(1, 1)),
            ([1, 33, 31, 7], [3, 3, 3, 7], Conv::new(1, 1)),
            ([2, 11, 9, 5], [9, 1, 1, 5], Conv::new(2, 0)),
            ([1, 12, 19, 6], [8, 1, 7, 6], Conv { stride: [1, 1], pad: [0, 3] }),
            ([1, 21, 20, 3], [18, 7, 7, 3], Conv::new(2, 3)),
        ] {
            check(x, w, conv, false);
        }
    }

    #[test]
    fn up2_is_nearest_then_3x3() {
        check([2, 10, 9, 12], [20, 3, 3, 12], Conv::new(1, 1), true);
        check([1, 32, 32, 16], [16, 3, 3, 16], Conv::new(1, 1), true);
    }
}
