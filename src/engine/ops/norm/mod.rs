//! Batch normalization in one pass with what follows it: a residual, an activation or the gated linear unit.

use crate::engine::ops::Case;
use crate::engine::ops::pointwise::logistic;
use crate::engine::device::cpu::{for_chunks, map, rows_per_chunk};
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record_many;
use crate::engine::tensor::{DType, Tensor, run, same_shape};

/// What follows the normalization; `Glu` halves the channels: a · σ(b) of [a | b].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    None,
    Relu,
    LeakyRelu(f32),
    Glu,
}

/// The output, and the moments of the batch by channel (variance biased; both off the tape).
pub struct BatchNorm {
    pub y: Tensor,
    pub mean: Tensor,
    pub variance: Tensor,
}

/// y = act(γ · (x - mean) / √(variance + eps) + β + residual), with the moments of this batch over all but channels.
///
/// x, residual [.., C]; gamma, beta [C]; y [.., C], or [.., C/2] under `Glu`, which takes no residual.
#[track_caller]
pub fn batch_norm_train(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    act: Activation,
    residual: Option<&Tensor>,
    eps: f32,
) -> BatchNorm {
    batch_norm_train_from(x, None, gamma, beta, act, residual, eps)
}

/// [`batch_norm_train`] where whoever wrote x also summed it: `sums` [tiles,3,C] holds n, mean and Σ (x - mean)² of
/// each tile of rows, by channel.
#[track_caller]
#[allow(clippy::too_many_arguments)] // the formula has that many letters
pub fn batch_norm_train_from(
    x: &Tensor,
    sums: Option<&Tensor>,
    gamma: &Tensor,
    beta: &Tensor,
    act: Activation,
    residual: Option<&Tensor>,
    eps: f32,
) -> BatchNorm {
    let c = x.shape().last_dim();
    check_channels(x, [gamma, beta]);
    let [mut mean, mut variance, mut inv_std, mut scale, mut shift] = [(); 5].map(|()| x.new_empty_f32([c]));
    let outs = [&mut mean, &mut variance, &mut inv_std, &mut scale, &mut shift];
    let (rows, dtype) = (x.shape().rows(), x.dtype());
    if let Some(sums) = sums {
        let [tiles, three, channels] = sums.dims();
        assert!(
            three == 3 && channels == c,
            "batch_norm: sums of {:?} are not those of {:?}",
            sums.shape(),
            x.shape()
        );
        let cpu = |[mean, variance, rest @ ..]: [&mut [f32]; 5], [sums, gamma, beta]: [&[f32]; 3]| {
            joined(sums, mean, variance);
            affine(rest, gamma, beta, mean, variance, eps);
        };
        run("batch_norm_join", outs, [sums, gamma, beta], cpu, |g, outs, [sums, gamma, beta]| {
            finalize(g, outs, sums, tiles, gamma, beta, eps);
        });
    } else {
        let cpu = |[mean, variance, rest @ ..]: [&mut [f32]; 5], [x, gamma, beta]: [&[f32]; 3]| {
            moments(x, mean, variance);
            affine(rest, gamma, beta, mean, variance, eps);
        };
        run("batch_norm_moments", outs, [x, gamma, beta], cpu, |g, outs, [x, gamma, beta]| {
            let lay = Layout::new(rows, c, pack(dtype, c), c);
            let mut sums = g.scratch(lay.tiles * 3 * c);
            k::batch_norm_moments_fwd(g, lay.sum_grid(), sums.out(), x, lay.dims(1.0));
            finalize(g, outs, sums.view(), lay.tiles, gamma, beta, eps);
        });
    }
    let norm = Norm { x: x.clone(), mean: mean.clone(), inv_std, scale, shift };
    let y = norm.recorded(gamma, beta, act, residual, Moments::OfTheBatch);
    BatchNorm { y, mean, variance }
}

/// [`batch_norm_train`] with given moments [C], which are constants.
#[track_caller]
#[allow(clippy::too_many_arguments)] // the formula has that many letters
pub fn batch_norm_eval(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    act: Activation,
    residual: Option<&Tensor>,
    eps: f32,
) -> Tensor {
    check_channels(x, [gamma, beta, mean, variance]);
    let [mut inv_std, mut scale, mut shift] = [(); 3].map(|()| variance.new_empty(variance.shape()));
    run(
        "batch_norm_affine",
        [&mut inv_std, &mut scale, &mut shift],
        [gamma, beta, mean, variance],
        |outs, [gamma, beta, mean, variance]| affine(outs, gamma, beta, mean, variance, eps),
        |g, [inv_std, scale, shift], [gamma, beta, mean, variance]| {
            let (grid, c) = (Grid::elements(mean.len()), mean.len() as i32);
            k::batch_norm_affine_fwd(g, grid, inv_std, scale, shift, gamma, beta, mean, variance, c, eps);
        },
    );
    let norm = Norm { x: x.clone(), mean: mean.detach(), inv_std, scale, shift };
    norm.recorded(gamma, beta, act, residual, Moments::Given)
}

/// Mixes a batch into the running statistics [mean, variance, batches seen], in place:
/// mean = (1 - share) mean + share m, variance = (1 - share) variance + share · unbiased · v, batches += 1.
#[track_caller]
pub fn batch_norm_track(running: [&mut Tensor; 3], batch: [&Tensor; 2], share: f32, unbiased: f32) {
    same_shape("batch_norm_track", running[0], batch[0]);
    same_shape("batch_norm_track", running[1], batch[1]);
    same_shape("batch_norm_track", running[0], running[1]);
    let blend = |running: &mut [f32], new: &[f32], factor: f32| {
        running.iter_mut().zip(new).for_each(|(r, &n)| *r = (1.0 - share) * *r + share * factor * n);
    };
    let cpu = |[mean, variance, batches]: [&mut [f32]; 3], [m, v]: [&[f32]; 2]| {
        blend(mean, m, 1.0);
        blend(variance, v, unbiased);
        batches[0] += 1.0;
    };
    run("batch_norm_track", running, batch, cpu, |g, [mean, variance, batches], [m, v]| {
        let c = m.len();
        k::batch_norm_track(g, Grid::elements(c), mean, variance, batches, m, v, c as i32, share, unbiased);
    });
}

#[track_caller]
fn check_channels<const N: usize>(x: &Tensor, by_channel: [&Tensor; N]) {
    let shape = x.shape();
    for by_channel in by_channel.map(Tensor::shape) {
        assert_eq!(
            *by_channel,
            [shape.last_dim()],
            "batch_norm: {shape:?} has not the channels of {by_channel:?}"
        );
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Moments {
    OfTheBatch,
    Given,
}

/// Rows summed in f32 before f64 takes over.
const BLOCK: usize = 32;

fn chunk_rows(c: usize) -> usize {
    rows_per_chunk(c).max(BLOCK)
}

/// Adds up what `add` puts into `width` f32 sums for each of `rows`.
fn sum_rows(rows: std::ops::Range<usize>, width: usize, add: impl Fn(usize, &mut [f32])) -> Vec<f64> {
    let (mut total, mut part) = (vec![0.0; width], vec![0.0; width]);
    for block in rows.clone().step_by(BLOCK) {
        part.fill(0.0);
        (block..rows.end.min(block + BLOCK)).for_each(|row| add(row, &mut part));
        total.iter_mut().zip(&part).for_each(|(t, &p)| *t += p as f64);
    }
    total
}

fn nth(data: &[f32], row: usize, width: usize) -> &[f32] {
    &data[row * width..][..width]
}

/// Mean and biased variance by channel. Each chunk takes two passes, the second in cache, about its own mean;
/// chunks are joined by Chan's formula: no cancellation, however far the mean lies from 0.
fn moments(x: &[f32], mean: &mut [f32], variance: &mut [f32]) {
    let c = mean.len();
    let (rows, step) = (x.len() / c, chunk_rows(c));
    let chunks = map(rows.div_ceil(step), |i| {
        let rows = i * step..rows.min((i + 1) * step);
        let count = rows.len() as f64;
        let mut mean = sum_rows(rows.clone(), c, |row, sum| {
            sum.iter_mut().zip(nth(x, row, c)).for_each(|(s, x)| *s += x);
        });
        mean.iter_mut().for_each(|m| *m /= count);
        let about: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
        let squares = sum_rows(rows, c, |row, sum| {
            let rest = nth(x, row, c).iter().zip(&about);
            sum.iter_mut().zip(rest).for_each(|(s, (x, m))| *s += (x - m) * (x - m));
        });
        (count, mean, squares)
    });
    for j in 0..c {
        let (mut n, mut m, mut s) = (0.0, 0.0, 0.0);
        for (count, means, squares) in &chunks {
            let (delta, sum) = (means[j] - m, n + count);
            m += delta * count / sum;
            s += squares[j] + delta * delta * n * count / sum;
            n = sum;
        }
        (mean[j], variance[j]) = (m as f32, (s / n) as f32);
    }
}

/// The moments of all tiles of `sums` [tiles,3,C], by Chan's formula.
fn joined(sums: &[f32], mean: &mut [f32], variance: &mut [f32]) {
    let c = mean.len();
    for j in 0..c {
        let (mut n, mut m, mut s) = (0.0f64, 0.0, 0.0);
        for tile in sums.chunks_exact(3 * c) {
            let [count, tile_mean, squares] = [tile[j], tile[c + j], tile[2 * c + j]].map(f64::from);
            if count > 0.0 {
                let (delta, sum) = (tile_mean - m, n + count);
                m += delta * count / sum;
                s += squares + delta * delta * n * count / sum;
                n = sum;
            }
        }
        (mean[j], variance[j]) = (m as f32, (s / n) as f32);
    }
}

/// What x is multiplied by and what is added to it, and 1 / std on the way.
fn affine(
    [inv_std, scale, shift]: [&mut [f32]; 3],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    eps: f32,
) {
    for j in 0..mean.len() {
        inv_std[j] = (1.0 / (variance[j] as f64 + eps as f64).sqrt()) as f32;
        scale[j] = gamma[j] * inv_std[j];
        shift[j] = beta[j] - mean[j] * scale[j];
    }
}

/// Tiles that one launch can join at once in good time; of more, groups are joined first.
const TILES: usize = 1024;

/// From sums [tiles,3,C] to mean, variance, inv_std, scale and shift.
fn finalize(
    g: &Gpu,
    [mean, variance, inv_std, scale, shift]: [Out; 5],
    sums: In,
    tiles: usize,
    gamma: In,
    beta: In,
    eps: f32,
) {
    let c = gamma.len();
    let dims = |tiles: usize| k::TileDims { tiles: tiles as i32, c: c as i32, eps };
    let last = |sums: In, tiles: usize| {
        let grid = Grid::new([c.div_ceil(8), 1, 1], 256);
        let d = dims(tiles);
        k::batch_norm_finalize_fwd(g, grid, mean, variance, inv_std, scale, shift, sums, gamma, beta, d);
    };
    if tiles <= TILES {
        return last(sums, tiles);
    }
    let groups = TILES / 8;
    let mut fewer = g.scratch(groups * 3 * c);
    k::batch_norm_join_fwd(g, Grid::new([c.div_ceil(8), groups, 1], 256), fewer.out(), sums, dims(tiles));
    last(fewer.view(), groups);
}

/// Channels that a thread takes at once: a pack of 16 bytes, or one where they do not divide into packs.
fn pack(dtype: DType, channels: usize) -> usize {
    let pack = 16 / dtype.bytes();
    if channels.is_multiple_of(pack) { pack } else { 1 }
}

/// How a kernel's blocks of 256 threads lie over rows and channels.
struct Layout {
    rows: usize,
    c: usize,
    width: usize,
    /// Pieces of `width` channels side by side in a block.
    columns: usize,
    /// Blocks side by side.
    across: usize,
    /// Rows that a block has at a time.
    lanes: usize,
    /// Rows that a block sums, and blocks that it takes so; the same on every device.
    depth: usize,
    tiles: usize,
}

impl Layout {
    /// Over `channels` of the c: all, or the first half of them.
    fn new(rows: usize, c: usize, width: usize, channels: usize) -> Layout {
        const PIECES: usize = 32;
        const BLOCKS: usize = 528;
        let pieces = channels / width;
        let across = pieces.div_ceil(PIECES);
        let columns = pieces.div_ceil(across.max(1)).max(1);
        let lanes = 256 / columns;
        let blocks = (BLOCKS / across.max(1)).clamp(1, rows.div_ceil(8 * lanes).max(1));
        let depth = rows.div_ceil(blocks).next_multiple_of(lanes).max(1);
        Layout { rows, c, width, columns, across, lanes, depth, tiles: rows.div_ceil(depth) }
    }

    /// A block for each sum.
    fn sum_grid(&self) -> Grid {
        Grid::new([self.tiles, self.across, 1], 256)
    }

    /// Some rows for each thread, and enough blocks to fill the device.
    fn grid(&self, g: &Gpu) -> Grid {
        let blocks = (8 * g.multiprocessors()).div_ceil(self.across.max(1));
        Grid::new([self.rows.div_ceil(4 * self.lanes).min(blocks), self.across, 1], 256)
    }

    fn dims(&self, slope: f32) -> k::NormDims {
        let [rows, c, columns, width, depth] =
            [self.rows, self.c, self.columns, self.width, self.depth].map(|n| n as i32);
        k::NormDims { rows, c, columns, width, depth, slope }
    }
}

/// x, and by channel what it takes to normalize it: y = scale · x + shift before residual and activation.
struct Norm {
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    scale: Tensor,
    shift: Tensor,
}

impl Norm {
    #[track_caller]
    fn recorded(
        self,
        gamma: &Tensor,
        beta: &Tensor,
        act: Activation,
        residual: Option<&Tensor>,
        moments: Moments,
    ) -> Tensor {
        let shape = self.x.shape();
        if let Some(residual) = residual {
            same_shape("batch_norm with a residual", &self.x, residual);
            assert!(act != Activation::Glu, "batch_norm: a residual {:?} cannot be gated", residual.shape());
        }
        let halves = act != Activation::Glu || shape.last_dim().is_multiple_of(2);
        assert!(halves, "batch_norm: Glu splits the channels in two; {shape:?} is odd");
        let y = self.forward(act, residual);
        let mut ins = vec![self.x.clone(), gamma.clone(), beta.clone()];
        ins.extend(residual.cloned());
        // Without an activation the gradient does not ask what the residual was.
        let residual = residual.filter(|_| act != Activation::None).map(Tensor::detach);
        let saved = Norm { x: self.x.detach(), ..self };
        record_many(vec![y], &ins, move |dys, wanted| {
            let Some(dy) = &dys[0] else { return vec![None; wanted.len()] };
            saved.backward(dy, Gate { act, residual }, moments, wanted)
        })
        .swap_remove(0)
    }

    /// How kernels lie over x: over the pairs of channels that a gate joins, or over all channels.
    fn layout(&self, act: Activation, width: impl Fn(usize) -> usize) -> Layout {
        let (rows, c) = (self.x.shape().rows(), self.x.shape().last_dim());
        let channels = if act == Activation::Glu { c / 2 } else { c };
        Layout::new(rows, c, width(channels), channels)
    }

    fn forward(&self, act: Activation, residual: Option<&Tensor>) -> Tensor {
        let (x, c) = (&self.x, self.x.shape().last_dim());
        let (rows, dtype) = (chunk_rows(c), x.dtype());
        let c_out = if act == Activation::Glu { c / 2 } else { c };
        let mut y = x.new_empty(x.shape().with_last(c_out));
        let cpu = |[y]: [&mut [f32]; 1], [x, r, scale, shift]: [&[f32]; 4]| {
            let affine = Affine { scale, shift };
            for_chunks(y, rows * c_out, |i, y| {
                let mut z = vec![0.0; c];
                for (row, y) in (i * rows..).zip(y.chunks_exact_mut(c_out)) {
                    let residual = residual.map(|_| nth(r, row, c));
                    if act == Activation::Glu {
                        affine.apply(&mut z, nth(x, row, c), residual);
                        gated(y, &z);
                    } else {
                        affine.apply(y, nth(x, row, c), residual);
                        act.rectify(y);
                    }
                }
            });
        };
        let ins = [x, residual.unwrap_or(x), &self.scale, &self.shift];
        run("batch_norm_fwd", [&mut y], ins, cpu, |g, [y], [x, r, scale, shift]| {
            let lay = self.layout(act, |channels| pack(dtype, channels));
            let (grid, d) = (lay.grid(g), lay.dims(act.slope().unwrap_or(1.0)));
            if act == Activation::Glu {
                k::batch_norm_glu_fwd(g, grid, y, x, scale, shift, d);
            } else {
                k::batch_norm_fwd(g, grid, y, x, residual.map_or(In::NONE, |_| r), scale, shift, d);
            }
        });
        y
    }

    /// What the kernels of the way back take at once: behind a gate four channels, for want of registers.
    fn layout_back(&self, act: Activation) -> Layout {
        let dtype = if act == Activation::Glu { DType::F32 } else { self.x.dtype() };
        self.layout(act, |channels| pack(dtype, channels))
    }

    fn backward(&self, dy: &Tensor, gate: Gate, moments: Moments, wanted: &[bool]) -> Vec<Option<Tensor>> {
        let constant = moments == Moments::Given;
        let sums = (wanted[1] || wanted[2] || wanted[0] && !constant).then(|| self.sums(dy, &gate));
        // Without an activation the gradient before it is dy.
        let residual = wanted.get(3) == Some(&true) && gate.residual.is_some();
        let [dx, dr] = self.apply(dy, &gate, sums.as_ref().filter(|_| !constant), [wanted[0], residual]);
        let mut grads = vec![dx, None, None];
        if let Some([dgamma, dbeta]) = sums {
            grads[1..].clone_from_slice(&[wanted[1].then_some(dgamma), wanted[2].then_some(dbeta)]);
        }
        let plain = || Some(dy.clone()).filter(|_| gate.residual.is_none());
        grads.extend(wanted.get(3).map(|&wanted| dr.or_else(plain).filter(|_| wanted)));
        grads
    }

    /// dγ = Σ dz · x̂ and dβ = Σ dz over rows, with z what the activation sees and x̂ = (x - mean) / std.
    fn sums(&self, dy: &Tensor, gate: &Gate) -> [Tensor; 2] {
        let (x, c) = (&self.x, self.x.shape().last_dim());
        let (step, rows) = (chunk_rows(c), x.shape().rows());
        let (mut dgamma, mut dbeta) = (x.new_empty_f32([c]), x.new_empty_f32([c]));
        let residual = gate.residual.as_ref();
        let ins = [dy, x, residual.unwrap_or(x), &self.mean, &self.inv_std, &self.scale, &self.shift];
        let cpu = |[dgamma, dbeta]: [&mut [f32]; 2], [dy, x, r, mean, inv_std, scale, shift]: [&[f32]; 7]| {
            let (affine, c_out) = (Affine { scale, shift }, dy.len() / rows);
            let chunks = map(rows.div_ceil(step), |i| {
                let z = std::cell::RefCell::new(vec![0.0; c]);
                sum_rows(i * step..rows.min((i + 1) * step), 2 * c, |row, sums| {
                    let (mut z, x) = (z.borrow_mut(), nth(x, row, c));
                    let dz = gate.dz(&mut z, nth(dy, row, c_out), x, nth(r, row, c), &affine);
                    add_products(sums, dz, x, mean);
                })
            });
            for j in 0..c {
                dgamma[j] = (chunks.iter().map(|s| s[j]).sum::<f64>() * inv_std[j] as f64) as f32;
                dbeta[j] = chunks.iter().map(|s| s[c + j]).sum::<f64>() as f32;
            }
        };
        let cuda = |g: &Gpu, [dgamma, dbeta]: [Out; 2], [dy, x, r, mean, inv_std, scale, shift]: [In; 7]| {
            let lay = self.layout_back(gate.act);
            let mut sums = g.scratch(lay.tiles * 2 * c);
            let (grid, d) = (lay.sum_grid(), lay.dims(gate.act.slope().unwrap_or(1.0)));
            if gate.act == Activation::Glu {
                k::batch_norm_glu_bwd_w(g, grid, sums.out(), dy, x, mean, scale, shift, d);
            } else {
                let r = residual.map_or(In::NONE, |_| r);
                k::batch_norm_bwd_w(g, grid, sums.out(), dy, x, r, mean, scale, shift, d);
            }
            let (grid, d) = (
                Grid::new([c.div_ceil(8), 1, 1], 256),
                k::TileDims { tiles: lay.tiles as i32, c: c as i32, eps: 0.0 },
            );
            k::batch_norm_finalize_bwd_w(g, grid, dgamma, dbeta, sums.view(), inv_std, d);
        };
        run("batch_norm_bwd_w", [&mut dgamma, &mut dbeta], ins, cpu, cuda);
        [dgamma, dbeta]
    }

    /// dx = γ / std · (dz - (dβ + x̂ · dγ) / N), where constant moments leave out what is subtracted; and the
    /// residual's gradient, which is dz.
    fn apply(
        &self,
        dy: &Tensor,
        gate: &Gate,
        sums: Option<&[Tensor; 2]>,
        wanted: [bool; 2],
    ) -> [Option<Tensor>; 2] {
        if wanted == [false, false] {
            return [None, None];
        }
        let (x, c) = (&self.x, self.x.shape().last_dim());
        let (step, rows) = (chunk_rows(c), x.shape().rows());
        // What is not wanted is empty, and nothing is written to it.
        let [mut dx, mut dr] = wanted.map(|wanted| if wanted { x.new_empty(x.shape()) } else { x.new_empty([0]) });
        let residual = gate.residual.as_ref();
        let [dgamma, dbeta] = sums.map_or([&self.mean; 2], |[dgamma, dbeta]| [dgamma, dbeta]);
        let ins = [
            dy,
            x,
            residual.unwrap_or(x),
            &self.mean,
            &self.inv_std,
            &self.scale,
            &self.shift,
            dgamma,
            dbeta,
        ];
        let cpu = |[dx, dr]: [&mut [f32]; 2], ins: [&[f32]; 9]| {
            let [dy, x, r, mean, inv_std, scale, shift, dgamma, dbeta] = ins;
            let (affine, c_out, n) = (Affine { scale, shift }, dy.len() / rows, rows as f32);
            let [slope, offset]: [Vec<f32>; 2] = match sums {
                Some(_) => [
                    dgamma.iter().zip(inv_std).map(|(d, i)| d / n * i).collect(),
                    dbeta.iter().map(|d| d / n).collect(),
                ],
                None => [vec![0.0; c], vec![0.0; c]],
            };
            for_chunks(dx, step * c, |i, dx| {
                let mut z = vec![0.0; c];
                for (row, dx) in (i * step..).zip(dx.chunks_exact_mut(c)) {
                    let x = nth(x, row, c);
                    let dz = gate.dz(&mut z, nth(dy, row, c_out), x, nth(r, row, c), &affine);
                    center(dx, dz, x, mean, [scale, &slope, &offset]);
                }
            });
            for_chunks(dr, step * c, |i, dr| {
                for (row, dr) in (i * step..).zip(dr.chunks_exact_mut(c)) {
                    gate.dz(dr, nth(dy, row, c), nth(x, row, c), nth(r, row, c), &affine);
                }
            });
        };
        let cuda = |g: &Gpu, [dx, dr]: [Out; 2], ins: [In; 9]| {
            let [dy, x, r, mean, inv_std, scale, shift, dgamma, dbeta] = ins;
            let [dx, dr] =
                [(dx, wanted[0]), (dr, wanted[1])].map(|(d, wanted)| if wanted { d } else { Out::NONE });
            let [dgamma, dbeta] = if sums.is_some() { [dgamma, dbeta] } else { [In::NONE; 2] };
            let lay = self.layout_back(gate.act);
            let (grid, d) = (lay.grid(g), lay.dims(gate.act.slope().unwrap_or(1.0)));
            if gate.act == Activation::Glu {
                k::batch_norm_glu_bwd(g, grid, dx, dy, x, mean, inv_std, scale, shift, dgamma, dbeta, d);
            } else {
                let r = residual.map_or(In::NONE, |_| r);
                k::batch_norm_bwd(g, grid, dx, dr, dy, x, r, mean, inv_std, scale, shift, dgamma, dbeta, d);
            }
        };
        run("batch_norm_bwd", [&mut dx, &mut dr], ins, cpu, cuda);
        [wanted[0].then_some(dx), wanted[1].then_some(dr)]
    }
}

struct Affine<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
}

impl Affine<'_> {
    /// z = scale · x + shift + r
    fn apply(&self, z: &mut [f32], x: &[f32], r: Option<&[f32]>) {
        let rest = x.iter().zip(self.scale.iter().zip(self.shift));
        z.iter_mut().zip(rest).for_each(|(z, (x, (scale, shift)))| *z = x * scale + shift);
        if let Some(r) = r {
            z.iter_mut().zip(r).for_each(|(z, r)| *z += r);
        }
    }
}

impl Activation {
    /// What negative values are multiplied by, if the activation is a rectifier.
    fn slope(self) -> Option<f32> {
        match self {
            Activation::Relu => Some(0.0),
            Activation::LeakyRelu(slope) => Some(slope),
            Activation::None | Activation::Glu => None,
        }
    }

    fn rectify(self, z: &mut [f32]) {
        if let Some(slope) = self.slope() {
            z.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { slope * *z });
        }
    }
}

/// y = a · σ(b) with z = [a | b]
fn gated(y: &mut [f32], z: &[f32]) {
    let (a, b) = z.split_at(y.len());
    y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, &b))| *y = a * logistic(b));
}

/// The activation on the way back; it computes what it saw again instead of keeping it.
struct Gate {
    act: Activation,
    residual: Option<Tensor>,
}

impl Gate {
    /// The gradient of one row before the activation, in `z` unless it is `dy` itself.
    fn dz<'a>(
        &self,
        z: &'a mut [f32],
        dy: &'a [f32],
        x: &[f32],
        r: &[f32],
        affine: &Affine<'_>,
    ) -> &'a [f32] {
        if self.act == Activation::None {
            return dy;
        }
        affine.apply(z, x, self.residual.as_ref().map(|_| r));
        if let Some(slope) = self.act.slope() {
            z.iter_mut().zip(dy).for_each(|(z, dy)| *z = if *z > 0.0 { *dy } else { slope * dy });
        } else {
            let (a, b) = z.split_at_mut(dy.len());
            for ((a, b), dy) in a.iter_mut().zip(b).zip(dy) {
                let open = logistic(*b);
                *b = dy * *a * open * (1.0 - open);
                *a = dy * open;
            }
        }
        z
    }
}

/// sums += [dz · (x - mean) | dz]
fn add_products(sums: &mut [f32], dz: &[f32], x: &[f32], mean: &[f32]) {
    let (products, plain) = sums.split_at_mut(dz.len());
    plain.iter_mut().zip(dz).for_each(|(s, dz)| *s += dz);
    let rest = dz.iter().zip(x.iter().zip(mean));
    products.iter_mut().zip(rest).for_each(|(s, (dz, (x, m)))| *s += dz * (x - m));
}

/// dx = scale · (dz - offset - slope · (x - mean))
fn center(dx: &mut [f32], dz: &[f32], x: &[f32], mean: &[f32], [scale, slope, offset]: [&[f32]; 3]) {
    let rest = dz.iter().zip(x.iter().zip(mean)).zip(scale.iter().zip(slope.iter().zip(offset)));
    dx.iter_mut().zip(rest).for_each(|(dx, ((dz, (x, m)), (scale, (slope, offset))))| {
        *dx = scale * (dz - offset - slope * (x - m));
    });
}

/// Sums [tiles,3,C] of tiles of `depth` rows, as a convolution hands them on.
fn sums_of(x: &Tensor, depth: usize) -> Tensor {
    let (values, c) = (x.to_vec(), x.shape().last_dim());
    let tiles = values.chunks(depth * c).flat_map(|tile| {
        let n = (tile.len() / c) as f64;
        let channel = |j: usize| tile.iter().skip(j).step_by(c).map(|&x| f64::from(x));
        let mean: Vec<f64> = (0..c).map(|j| channel(j).sum::<f64>() / n).collect();
        let squares = (0..c).map(|j| channel(j).map(|x| (x - mean[j]).powi(2)).sum::<f64>());
        let all: Vec<f64> = vec![n; c].into_iter().chain(mean.iter().copied()).chain(squares).collect();
        all.into_iter().map(|x| x as f32)
    });
    let sums: Vec<f32> = tiles.collect();
    let shape = [sums.len() / (3 * c), 3, c];
    Tensor::from_vec(sums, shape)
}

pub fn cases() -> Vec<Case> {
    const EPS: f32 = 1e-5;
    const X: &[usize] = &[0];
    let stored = |case: Case, residual: Option<(&'static [usize], &[usize])>| match residual {
        Some((bf16, shape)) => case.input(shape).bf16(bf16),
        None => case.bf16(X),
    };
    // The moments are off the tape, so finite differences must not see them.
    let results = |batch: BatchNorm, large: bool| {
        if large { vec![batch.y, batch.mean, batch.variance] } else { vec![batch.y] }
    };
    let sized = |case: Case, large: bool| if large { case.large() } else { case };
    let train = |name, act: Activation, shape: &[usize], residual: bool| {
        let large = shape.iter().product::<usize>() > 1000;
        let run =
            move |x: &[Tensor]| results(batch_norm_train(&x[0], &x[1], &x[2], act, x.get(3), EPS), large);
        let c = *shape.last().unwrap();
        let case = Case::new("batch_norm_train", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        sized(stored(case, residual.then_some((&[0, 3], shape))), large)
    };
    let from = |name, act: Activation, shape: &[usize], depth: usize| {
        let large = shape.iter().product::<usize>() > 1000;
        let run = move |x: &[Tensor]| {
            let sums = sums_of(&x[0], depth);
            results(batch_norm_train_from(&x[0], Some(&sums), &x[1], &x[2], act, None, EPS), large)
        };
        let c = *shape.last().unwrap();
        let case =
            Case::new("batch_norm_train_from", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        sized(case.bf16(X), large)
    };
    let eval = |name, act: Activation, shape: &[usize], residual: bool| {
        let run =
            move |x: &[Tensor]| vec![batch_norm_eval(&x[0], &x[1], &x[2], &x[3], &x[4], act, x.get(5), EPS)];
        let c = *shape.last().unwrap();
        let case = Case::new("batch_norm_eval", name, run).input(shape).input_in([c], 0.5, 1.5).input([c]);
        let case = case.constant([c], -0.5, 0.5).constant([c], 0.5, 1.5);
        stored(case, residual.then_some((&[0, 5], shape)))
    };
    let track = |x: &[Tensor]| {
        let [mut mean, mut variance, mut batches] = [&x[0], &x[1], &x[4]].map(Tensor::detach);
        batch_norm_track([&mut mean, &mut variance, &mut batches], [&x[2], &x[3]], 0.1, 1.25);
        vec![mean, variance, batches]
    };
    let moments_alone = |x: &[Tensor]| {
        let batch = batch_norm_train(&x[0], &x[1], &x[1], Activation::None, None, EPS);
        vec![batch.mean, batch.variance]
    };
    let leaky = Activation::LeakyRelu(0.2);
    vec![
        Case::new("batch_norm_train", "moments far from zero", moments_alone)
            .constant([20_003, 4], 999.0, 1001.0)
            .constant([4], 0.5, 1.5)
            .bf16(X)
            .large(),
        train("plain", Activation::None, &[2, 3, 4, 5], false),
        train("residual", Activation::None, &[2, 3, 4, 5], true),
        train("relu", Activation::Relu, &[2, 3, 3, 4], false),
        train("leaky relu", leaky, &[2, 3, 3, 4], false),
        train("relu of a residual", Activation::Relu, &[2, 3, 3, 4], true),
        train("glu", Activation::Glu, &[2, 3, 3, 8], false),
        train("glu of rows", Activation::Glu, &[6, 10], false),
        train("3 channels", leaky, &[2, 41, 43, 3], false),
        train("17 channels", Activation::Relu, &[3, 29, 31, 17], true),
        train("32 channels", Activation::None, &[2, 32, 32, 32], true),
        train("64 channels", leaky, &[2, 45, 45, 64], false),
        train("128 channels gated", Activation::Glu, &[2, 24, 24, 128], false),
        train("34 channels gated", Activation::Glu, &[2, 31, 33, 34], false),
        train("24 channels gated", Activation::Glu, &[2, 31, 33, 24], false),
        train("1024 channels", Activation::Relu, &[4, 4, 4, 1024], false),
        train("16384 gated rows", Activation::Glu, &[20, 16384], false),
        from("plain", leaky, &[2, 3, 3, 4], 5),
        from("many tiles", Activation::Glu, &[1, 67, 61, 8], 3),
        eval("plain", Activation::None, &[2, 3, 4, 5], false),
        eval("residual", Activation::None, &[2, 3, 4, 5], true),
        eval("leaky relu of a residual", leaky, &[2, 3, 3, 4], true),
        eval("glu", Activation::Glu, &[2, 3, 3, 8], false),
        eval("large", Activation::Relu, &[2, 37, 37, 64], true).large(),
        eval("large glu", Activation::Glu, &[2, 37, 37, 64], false).large(),
        Case::new("batch_norm_track", "", track)
            .constant([300], -1.0, 1.0)
            .constant([300], 0.0, 1.0)
            .constant([300], -1.0, 1.0)
            .constant([300], 0.0, 1.0)
            .constant([], 7.0, 8.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::Rng;

    #[test]
    fn moments_stay_exact_far_from_zero() {
        let x = Rng::new(5, 0).normal([40_001, 3]).to_vec();
        let x: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + [0.0, 100.0, -1000.0][i % 3]).collect();
        let (mut mean, mut variance) = ([0.0; 3], [0.0; 3]);
        moments(&x, &mut mean, &mut variance);
        for j in 0..3 {
            let channel: Vec<f64> = x.iter().skip(j).step_by(3).map(|&x| x as f64).collect();
            let n = channel.len() as f64;
            let m = channel.iter().sum::<f64>() / n;
            let v = channel.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / n;
            assert!((mean[j] as f64 - m).abs() <= 1e-6 * m.abs().max(1.0), "mean {} {m}", mean[j]);
            assert!((variance[j] as f64 / v - 1.0).abs() <= 1e-6, "variance {} {v}", variance[j]);
        }
    }

    /// Output and gradients of x, gamma, beta by the textbook, channel by channel in f64.
    fn textbook(ins: &[Tensor], act: Activation, dy: &[f32]) -> [Vec<f64>; 4] {
        let v: Vec<Vec<f64>> = ins.iter().map(|t| t.to_vec().iter().map(|&x| x as f64).collect()).collect();
        let (x, c) = (&v[0], v[1].len());
        let (rows, n) = (x.len() / c, (x.len() / c) as f64);
        let mean_over = |f: &dyn Fn(usize) -> f64, j| (0..rows).map(|r| f(r * c + j)).sum::<f64>() / n;
        let mean: Vec<f64> = (0..c).map(|j| mean_over(&|i| x[i], j)).collect();
        let std: Vec<f64> =
            (0..c).map(|j| (mean_over(&|i| (x[i] - mean[j]).powi(2), j) + 1e-5).sqrt()).collect();
        let unit: Vec<f64> = (0..x.len()).map(|i| (x[i] - mean[i % c]) / std[i % c]).collect();
        let r = |i: usize| v.get(3).map_or(0.0, |r| r[i]);
        let z: Vec<f64> = (0..x.len()).map(|i| v[1][i % c] * unit[i] + v[2][i % c] + r(i)).collect();
        let (mut y, mut dz) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        for (i, &dy) in dy.iter().enumerate() {
            let dy = dy as f64;
            if act == Activation::Glu {
                let a = i / (c / 2) * c + i % (c / 2);
                let (b, open) = (a + c / 2, 1.0 / (1.0 + (-z[a + c / 2]).exp()));
                (y[i], dz[a], dz[b]) = (z[a] * open, dy * open, dy * z[a] * open * (1.0 - open));
            } else {
                let slope = if z[i] > 0.0 { 1.0 } else { act.slope().unwrap_or(1.0) as f64 };
                (y[i], dz[i]) = (slope * z[i], slope * dy);
            }
        }
        let dgamma: Vec<f64> = (0..c).map(|j| n * mean_over(&|i| dz[i] * unit[i], j)).collect();
        let dbeta: Vec<f64> = (0..c).map(|j| n * mean_over(&|i| dz[i], j)).collect();
        let centered = |i: usize, j: usize| dz[i] - (dbeta[j] + unit[i] * dgamma[j]) / n;
        let dx = (0..x.len()).map(|i| v[1][i % c] / std[i % c] * centered(i, i % c)).collect();
        [y, dx, dgamma, dbeta]
    }

    #[test]
    fn many_chunks_agree_with_the_textbook() {
        for (act, residual) in [
            (Activation::Glu, false),
            (Activation::LeakyRelu(0.2), true),
            (Activation::Relu, false),
            (Activation::None, true),
        ] {
            let shape = [2, 53, 37, 24];
            let draw = |stream| Rng::new(9, stream).normal(shape);
            let mut ins =
                vec![draw(0).leaf(), Rng::new(9, 1).normal([24]).leaf(), Rng::new(9, 2).normal([24]).leaf()];
            ins.extend(residual.then(|| draw(3).leaf()));
            let y = batch_norm_train(&ins[0], &ins[1], &ins[2], act, ins.get(3), 1e-5).y;
            let dy = Rng::new(9, 4).normal(y.shape());
            let expected = textbook(&ins, act, dy.as_slice());
            let loss = crate::engine::ops::reduce::sum(&crate::engine::ops::pointwise::mul(&y, &dy));
            let mut grads = crate::engine::tensor::backward(&loss, &ins.iter().collect::<Vec<_>>());
            let found =
                [y, grads.take(&ins[0]).unwrap(), grads.take(&ins[1]).unwrap(), grads.take(&ins[2]).unwrap()];
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let size = expected.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
                let errors = found.as_slice().iter().zip(expected).map(|(f, e)| (*f as f64 - e).abs());
                let worst = errors.fold(0.0, f64::max) / size;
                assert!(worst < 1e-6, "{act:?}: result {i} is off by {worst}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "[2, 3] has not the channels of [4]")]
    fn wrong_channels_are_named() {
        let (x, c) = (Tensor::zeros([2, 3]), Tensor::zeros([4]));
        batch_norm_train(&x, &c, &c, Activation::None, None, 1e-5);
    }
}
