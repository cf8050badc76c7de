//! Images [B,H,W,C] at another size, as PyTorch's `interpolate` makes them.

use super::Case;
use crate::engine::device::cpu::for_chunks;
use crate::engine::device::cuda::{Gpu, Grid, In, Out, k};
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{Tensor, run};

/// What one output row (or column) reads: two of the input's, and the weight of the second.
#[derive(Clone, Copy)]
struct Tap {
    at: [usize; 2],
    weight: f32,
}

/// y[i,j] = x[⌊i·H/h⌋, ⌊j·W/w⌋]: x [B,H,W,C] -> y [B,h,w,C].
#[track_caller]
pub fn nearest(x: &Tensor, h: usize, w: usize) -> Tensor {
    let taps = |from: usize, to: usize| -> Vec<Tap> {
        let scale = from as f32 / to as f32;
        let sources = (0..to).map(|i| ((i as f32 * scale) as usize).min(from - 1));
        sources.map(|at| Tap { at: [at; 2], weight: 0.0 }).collect()
    };
    let forward = Way { name: "nearest_fwd", launch: k::resample_nearest_fwd };
    let backward = Way { name: "nearest_bwd", launch: k::resample_nearest_bwd };
    resampled([forward, backward], x, [h, w], taps)
}

/// y[i,j] between the four pixels around ((i+½)·H/h - ½, (j+½)·W/w - ½), corners not aligned:
/// x [B,H,W,C] -> y [B,h,w,C].
#[track_caller]
pub fn bilinear(x: &Tensor, h: usize, w: usize) -> Tensor {
    let taps = |from: usize, to: usize| -> Vec<Tap> {
        let scale = from as f32 / to as f32;
        let places = (0..to).map(|i| ((i as f32 + 0.5) * scale - 0.5).max(0.0));
        let tap = |place: f32| {
            let at = (place as usize).min(from - 1);
            Tap { at: [at, (at + 1).min(from - 1)], weight: place - at as f32 }
        };
        places.map(tap).collect()
    };
    let forward = Way { name: "bilinear_fwd", launch: k::resample_bilinear_fwd };
    let backward = Way { name: "bilinear_bwd", launch: k::resample_bilinear_bwd };
    resampled([forward, backward], x, [h, w], taps)
}

/// Forward or backward: its name, and its kernel, which computes its own taps.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    launch: fn(&Gpu, Grid, Out, In, k::ResampleDims),
}

impl Way {
    fn cuda(self, c: usize, dims: k::ResampleDims) -> impl FnOnce(&Gpu, [Out; 1], [In; 1]) {
        move |g, [to], [from]| (self.launch)(g, Grid::per_pack(to.read(), c), to, from, dims)
    }
}

#[track_caller]
fn resampled(
    [forward, backward]: [Way; 2],
    x: &Tensor,
    [oh, ow]: [usize; 2],
    taps: impl Fn(usize, usize) -> Vec<Tap>,
) -> Tensor {
    let [b, h, w, c] = x.dims();
    let name = forward.name;
    assert!(h * w * oh * ow > 0, "{name}: no pixels between {:?} and [{oh}, {ow}]", x.shape());
    let (rows, cols) = (taps(h, oh), taps(w, ow));
    let mut y = x.new_empty([b, oh, ow, c]);
    let dims = {
        let scales = [h as f32 / oh as f32, w as f32 / ow as f32];
        let ([b, h, w, c, oh, ow], [rows, cols]) = ([b, h, w, c, oh, ow].map(|n| n as i32), scales);
        k::ResampleDims { b, h, w, c, oh, ow, rows, cols }
    };
    let cpu = |[y]: [&mut [f32]; 1], [x]: [&[f32]; 1]| {
        for_chunks(y, ow * c, |i, y| {
            let (mut line, Tap { at, weight }) = (vec![0.0; w * c], rows[i % oh]);
            let [first, second] = at.map(|row| &x[(i / oh * h + row) * w * c..][..w * c]);
            mix(&mut line, first, second, weight);
            for (y, Tap { at, weight }) in y.chunks_mut(c).zip(&cols) {
                let [first, second] = at.map(|col| &line[col * c..][..c]);
                mix(y, first, second, *weight);
            }
        });
    };
    run(name, [&mut y], [x], cpu, forward.cuda(c, dims));
    record1(y, [x], move |dy, _| {
        let mut dx = dy.new_empty([b, h, w, c]);
        let cpu = |[dx]: [&mut [f32]; 1], [dy]: [&[f32]; 1]| {
            let readers = readers(&rows, h);
            for_chunks(dx, w * c, |i, dx| {
                let mut line = vec![0.0; ow * c];
                for &(row, weight) in &readers[i % h] {
                    add(&mut line, &dy[(i / h * oh + row) * ow * c..][..ow * c], weight);
                }
                dx.fill(0.0);
                for (dy, Tap { at, weight }) in line.chunks(c).zip(&cols) {
                    add(&mut dx[at[0] * c..][..c], dy, 1.0 - weight);
                    add(&mut dx[at[1] * c..][..c], dy, *weight);
                }
            });
        };
        run(backward.name, [&mut dx], [&dy], cpu, backward.cuda(c, dims));
        [Some(dx)]
    })
}

/// For each of `n` inputs the outputs that read it, with their weights.
fn readers(taps: &[Tap], n: usize) -> Vec<Vec<(usize, f32)>> {
    let mut readers = vec![Vec::new(); n];
    for (output, Tap { at, weight }) in taps.iter().enumerate() {
        readers[at[0]].push((output, 1.0 - weight));
        if *weight != 0.0 {
            readers[at[1]].push((output, *weight));
        }
    }
    readers
}

/// y = (1 - weight) · first + weight · second
fn mix(y: &mut [f32], first: &[f32], second: &[f32], weight: f32) {
    if weight == 0.0 {
        return y.copy_from_slice(first);
    }
    let pairs = first.iter().zip(second);
    y.iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = (1.0 - weight) * a + weight * b);
}

/// sum += weight · x
fn add(sum: &mut [f32], x: &[f32], weight: f32) {
    if weight != 0.0 {
        sum.iter_mut().zip(x).for_each(|(s, x)| *s += weight * x);
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("nearest", "double", |x| vec![nearest(&x[0], 6, 8)]).input([2, 3, 4, 5]).bf16(&[0]),
        Case::new("nearest", "smaller", |x| vec![nearest(&x[0], 3, 4)]).input([1, 5, 7, 2]).bf16(&[0]),
        Case::new("nearest", "double in packs", |x| vec![nearest(&x[0], 32, 32)])
            .input([2, 16, 16, 32])
            .large()
            .bf16(&[0]),
        Case::new("nearest", "uneven", |x| vec![nearest(&x[0], 41, 29)])
            .input([2, 13, 37, 17])
            .large()
            .bf16(&[0]),
        Case::new("bilinear", "larger", |x| vec![bilinear(&x[0], 7, 6)]).input([2, 3, 4, 3]).bf16(&[0]),
        Case::new("bilinear", "smaller", |x| vec![bilinear(&x[0], 3, 2)]).input([2, 5, 7, 3]).bf16(&[0]),
        Case::new("bilinear", "256 to 299", |x| vec![bilinear(&x[0], 75, 75)])
            .input([2, 64, 64, 3])
            .large()
            .bf16(&[0]),
        Case::new("bilinear", "double in packs", |x| vec![bilinear(&x[0], 34, 30)])
            .input([2, 17, 15, 32])
            .large()
            .bf16(&[0]),
        Case::new("bilinear", "much smaller", |x| vec![bilinear(&x[0], 9, 14)])
            .input([2, 61, 50, 8])
            .large()
            .bf16(&[0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_changed_as_pytorch_does() {
        let x = Tensor::from_vec(vec![0.0, 1.0, 2.0, 3.0], [1, 1, 4, 1]);
        assert_eq!(nearest(&x, 2, 6).to_vec(), [0.0, 0.0, 1.0, 2.0, 2.0, 3.0, 0.0, 0.0, 1.0, 2.0, 2.0, 3.0]);
        assert_eq!(bilinear(&x, 1, 8).to_vec(), [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
        assert_eq!(bilinear(&x, 1, 2).to_vec(), [0.5, 2.5]);
        assert_eq!(bilinear(&x, 1, 4).to_vec(), x.to_vec());
    }
}
