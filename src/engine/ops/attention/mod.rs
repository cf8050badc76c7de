//! Attention of the pixels of an image: to a sequence of keys, and over the channels.

mod cases;
mod cpu;
mod cuda;

pub use cases::cases;

use crate::engine::device::cuda::k;
use crate::engine::ops::gemm::{MatrixIn, MatrixOut, product};
use crate::engine::ops::matmul::{Mat, gemm};
use crate::engine::ops::rows::check_lengths;
use crate::engine::tensor::tape::record1;
use crate::engine::tensor::{IntTensor, Kernel, Tensor, run};
use cuda::AttentionLaunch;

/// Cross attention: x [B,H,W,C], keys [B,T,D], w [C,D], lengths [B] -> context [B,H,W,C], weights [B,H,W,T].
///
/// e_t = w·key_t;  weights_n = softmax_t <x_n, e_t> over the row's own keys;  context_n = Σ_t weights_nt e_t.
/// Xu et al., "AttnGAN", CVPR 2018, F_attn of section 3.1, where the keys are words. The weights are off the tape, zero
/// beyond the length.
#[track_caller]
pub fn cross_attention(x: &Tensor, keys: &Tensor, w: &Tensor, lengths: &IntTensor) -> (Tensor, Tensor) {
    let d = CrossAttention::new(x, keys, w, lengths);
    let e = d.project(x, keys, w);
    let (mut context, mut weights) = (x.new_empty(x.shape()), x.new_empty(x.shape().with_last(d.keys)));
    run(
        Kernel::new("cross_attention_fwd", 4.0 * (x.len() * d.keys) as f64),
        [&mut context, &mut weights],
        [x, &e],
        |[context, weights], [x, e]| cpu::cross_attention(&d, context, weights, x, e),
        |g, [context, weights], [x, e]| {
            let (grid, dims) = d.launch().grid(g, 0);
            k::cross_attention_fwd(g, grid, context, weights, x, e, d.on_device.on(g), dims);
        },
    );
    let (saved, saved_weights) = ([x, keys, w].map(Tensor::detach), weights.clone());
    let context = record1(context, [x, keys, w], move |dy, [wanted_x, wanted_keys, wanted_w]| {
        let [x, keys, w] = &saved;
        let [dx, de] = d.backward(x, &e, &saved_weights, &dy, [wanted_x, wanted_keys || wanted_w]);
        let de = de.as_ref();
        [
            dx,
            de.filter(|_| wanted_keys).map(|de| d.keys_gradient(de, keys, w)),
            de.filter(|_| wanted_w).map(|de| d.projection_gradient(de, keys, w)),
        ]
    });
    (context, weights)
}

/// The sizes of a cross attention.
struct CrossAttention {
    images: usize,
    pixels: usize,
    channels: usize,
    /// Keys that a row has room for, T.
    keys: usize,
    /// Numbers of a key, D.
    dim: usize,
    lengths: Vec<usize>,
    /// The lengths again, for a GPU.
    on_device: IntTensor,
}

impl CrossAttention {
    #[track_caller]
    fn new(x: &Tensor, keys: &Tensor, w: &Tensor, lengths: &IntTensor) -> CrossAttention {
        let ([b, height, width, c], [rows, t, dim]) = (x.dims(), keys.dims());
        let (x, keys, w) = (x.shape(), keys.shape(), w.shape());
        assert_eq!(b, rows, "cross_attention: {x:?} and keys {keys:?} differ in their number of rows");
        assert_eq!(*w, [c, dim], "cross_attention: weights {w:?} do not take keys {keys:?} to {x:?}");
        let on_device = lengths.clone();
        let lengths = check_lengths("cross_attention", lengths, b, t);
        CrossAttention { images: b, pixels: height * width, channels: c, keys: t, dim, lengths, on_device }
    }

    fn launch(&self) -> AttentionLaunch {
        AttentionLaunch { images: self.images, pixels: self.pixels, channels: self.channels, keys: self.keys }
    }

    /// e [B,T,C] = keys [B,T,D] wᵀ. Beyond the length it is zero on the CPU; on a GPU it is never read there.
    fn project(&self, x: &Tensor, keys: &Tensor, w: &Tensor) -> Tensor {
        let (rows, t, c, dim) = (self.images * self.keys, self.keys, self.channels, self.dim);
        let mut e = x.new_empty_f32([self.images, t, c]);
        run(
            "cross_attention_project",
            [&mut e],
            [keys, w],
            |[e], [keys, w]| {
                gemm(e, c, Mat::rows(keys, rows, dim), Mat::rows(w, c, dim).t(), false, true);
                for (e, &length) in e.chunks_mut(t * c).zip(&self.lengths) {
                    e[length * c..].fill(0.0);
                }
            },
            |g, [e], [keys, w]| {
                let (keys, w) = (MatrixIn::rows(keys, dim), MatrixIn::rows(w, dim).t());
                product(g, MatrixOut::rows(e, c), keys, w, [rows, c, dim], 1);
            },
        );
        e
    }

    /// The gradients of x and, summed over the blocks in their order, of e.
    fn backward(
        &self,
        x: &Tensor,
        e: &Tensor,
        weights: &Tensor,
        dy: &Tensor,
        [wanted_x, wanted_e]: [bool; 2],
    ) -> [Option<Tensor>; 2] {
        let mut dx = wanted_x.then(|| x.new_empty(x.shape()));
        let mut de = wanted_e.then(|| e.new_empty(e.shape()));
        run(
            Kernel::new("cross_attention_bwd", 10.0 * (x.len() * self.keys) as f64),
            [dx.as_mut(), de.as_mut()],
            [x, e, weights, dy],
            |outs, ins| cpu::cross_attention_bwd(self, outs, ins),
            |g, outs, ins| cuda::cross_attention_bwd(self, g, outs, ins),
        );
        [dx, de]
    }

    /// dkeys [B,T,D] = de [B,T,C] w. Beyond the length the weights are zero, and so is de.
    fn keys_gradient(&self, de: &Tensor, keys: &Tensor, w: &Tensor) -> Tensor {
        let (rows, mut dkeys) = (self.images * self.keys, keys.new_empty(keys.shape()));
        let (c, dim) = (self.channels, self.dim);
        run(
            "cross_attention_bwd_keys",
            [&mut dkeys],
            [de, w],
            |[dkeys], [de, w]| gemm(dkeys, dim, Mat::rows(de, rows, c), Mat::rows(w, c, dim), false, true),
            |g, [dkeys], [de, w]| {
                let (de, w) = (MatrixIn::rows(de, c), MatrixIn::rows(w, dim));
                product(g, MatrixOut::rows(dkeys, dim), de, w, [rows, dim, c], 1);
            },
        );
        dkeys
    }

    /// dw [C,D] = deᵀ keys
    fn projection_gradient(&self, de: &Tensor, keys: &Tensor, w: &Tensor) -> Tensor {
        let (rows, mut dw) = (self.images * self.keys, w.new_empty(w.shape()));
        let (c, dim) = (self.channels, self.dim);
        run(
            "cross_attention_bwd_w",
            [&mut dw],
            [de, keys],
            |[dw], [de, keys]| {
                gemm(dw, dim, Mat::rows(de, rows, c).t(), Mat::rows(keys, rows, dim), false, true);
            },
            |g, [dw], [de, keys]| {
                let (de, keys) = (MatrixIn::rows(de, c).t(), MatrixIn::rows(keys, dim));
                product(g, MatrixOut::rows(dw, dim), de, keys, [c, dim, rows], 1);
            },
        );
        dw
    }
}

/// Channel attention: x [B,H,W,C], s [B,C], w [C,C] -> y [B,H,W,C].
///
/// y_n = s · softmax_channels(w (x_n · s)), products element by element.
/// Qiao et al., "MirrorGAN", CVPR 2019, the sentence level of equation 4, where s is the projected sentence. The
/// backward pass recomputes the softmax, which is as large as x.
#[track_caller]
pub fn channel_attention(x: &Tensor, s: &Tensor, w: &Tensor) -> Tensor {
    let d = ChannelAttention::new(x, s, w);
    let mut y = x.new_empty(x.shape());
    run(
        Kernel::new("channel_attention_fwd", 2.0 * (x.len() * d.channels) as f64),
        [&mut y],
        [x, s, w],
        |[y], ins| cpu::channel_attention(&d, y, ins),
        |g, [y], [x, s, w]| {
            let (grid, dims) = d.launch().grid(g, 0);
            k::channel_attention_fwd(g, grid, y, x, s, w, dims);
        },
    );
    let saved = [x, s, w].map(Tensor::detach);
    record1(y, [x, s, w], move |dy, [wanted_x, wanted_s, wanted_w]| {
        let [x, s, w] = &saved;
        let mut dx = wanted_x.then(|| x.new_empty(x.shape()));
        let mut ds = wanted_s.then(|| s.new_empty(s.shape()));
        let mut dw = wanted_w.then(|| w.new_empty(w.shape()));
        run(
            Kernel::new("channel_attention_bwd", 6.0 * (x.len() * d.channels) as f64),
            [dx.as_mut(), ds.as_mut(), dw.as_mut()],
            [x, s, w, &dy],
            |outs, ins| cpu::channel_attention_bwd(&d, outs, ins),
            |g, outs, ins| cuda::channel_attention_bwd(&d, g, outs, ins),
        );
        [dx, ds, dw]
    })
}

/// The sizes of a channel attention.
struct ChannelAttention {
    images: usize,
    pixels: usize,
    channels: usize,
}

impl ChannelAttention {
    #[track_caller]
    fn new(x: &Tensor, s: &Tensor, w: &Tensor) -> ChannelAttention {
        let [b, height, width, c] = x.dims();
        let (x, s, w) = (x.shape(), s.shape(), w.shape());
        assert_eq!(*s, [b, c], "channel_attention: the gate {s:?} does not fit {x:?}");
        assert_eq!(*w, [c, c], "channel_attention: weights {w:?} do not fit {x:?}");
        ChannelAttention { images: b, pixels: height * width, channels: c }
    }

    /// A key is a row of w, times s.
    fn launch(&self) -> AttentionLaunch {
        let &ChannelAttention { images, pixels, channels } = self;
        AttentionLaunch { images, pixels, channels, keys: channels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tensor::{Rng, backward};

    fn softmax(x: &[f32]) -> Vec<f32> {
        let sum: f32 = x.iter().map(|x| x.exp()).sum();
        x.iter().map(|x| x.exp() / sum).collect()
    }

    fn product(w: &[f32], x: &[f32]) -> Vec<f32> {
        w.chunks(x.len()).map(|w| w.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    /// More pixels than a block, in an image whose last block is not full.
    const SIDES: [usize; 2] = [23, 31];

    #[test]
    fn keys_are_weighed_within_the_length() {
        let (mut rng, [height, width]) = (Rng::new(3, 0), SIDES);
        let (h, words) = (rng.uniform([2, height, width, 5], -1.0, 1.0), rng.uniform([2, 4, 6], -1.0, 1.0));
        let w = rng.uniform([5, 6], -1.0, 1.0);
        let lengths = [3, 4];
        let (context, beta) = cross_attention(&h, &words, &w, &IntTensor::new(vec![3, 4], [2]));
        for n in 0..2 * height * width {
            let (b, h) = (n / (height * width), &h.as_slice()[n * 5..][..5]);
            let e: Vec<Vec<f32>> = (0..lengths[b])
                .map(|t| product(w.as_slice(), &words.as_slice()[(b * 4 + t) * 6..][..6]))
                .collect();
            let scores: Vec<f32> = e.iter().map(|e| product(e, h)[0]).collect();
            let mut expected = softmax(&scores);
            for c in 0..5 {
                let value: f32 = expected.iter().zip(&e).map(|(p, e)| p * e[c]).sum();
                assert!((context.as_slice()[n * 5 + c] - value).abs() < 1e-5);
            }
            expected.resize(4, 0.0);
            let row = &beta.as_slice()[n * 4..][..4];
            row.iter()
                .zip(&expected)
                .for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{row:?} {expected:?}"));
        }
    }

    #[test]
    fn the_gate_is_weighed_over_channels() {
        let (mut rng, [height, width]) = (Rng::new(4, 0), SIDES);
        let (h, s) = (rng.uniform([2, height, width, 5], -1.0, 1.0), rng.uniform([2, 5], -1.0, 1.0));
        let w = rng.uniform([5, 5], -1.0, 1.0);
        let y = channel_attention(&h, &s, &w);
        for n in 0..2 * height * width {
            let s = &s.as_slice()[n / (height * width) * 5..][..5];
            let x: Vec<f32> = h.as_slice()[n * 5..][..5].iter().zip(s).map(|(h, s)| h * s).collect();
            for (c, p) in softmax(&product(w.as_slice(), &x)).iter().enumerate() {
                assert!((y.as_slice()[n * 5 + c] - p * s[c]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn gradients_do_not_depend_on_how_pixels_fall_into_blocks() {
        let (mut rng, [height, width]) = (Rng::new(5, 0), SIDES);
        let half = rng.uniform([1, height, width, 4], -1.0, 1.0);
        let twice = Tensor::from_vec([half.to_vec(), half.to_vec()].concat(), [1, 2 * height, width, 4]);
        let (words, w) = (rng.uniform([1, 3, 6], -1.0, 1.0).leaf(), rng.uniform([4, 6], -1.0, 1.0).leaf());
        let (s, v) = (rng.uniform([1, 4], -1.0, 1.0).leaf(), rng.uniform([4, 4], -1.0, 1.0).leaf());
        let targets = [&words, &w, &s, &v];
        let gradients = |h: &Tensor| {
            let probe = Tensor::full([h.len(), 1], 1.0);
            let (context, _) = cross_attention(h, &words, &w, &IntTensor::new(vec![2], [1]));
            let both = crate::engine::ops::pointwise::add(
                &crate::engine::ops::pointwise::mul(&context, h),
                &channel_attention(h, &s, &v),
            );
            let sum = crate::engine::ops::matmul::matmul(&both.reshape([1, h.len()]), &probe).reshape([]);
            let grads = backward(&sum, &targets);
            targets.map(|t| grads.get(t).expect("the sum depends on it").to_vec())
        };
        for (once, twice) in gradients(&half).iter().flatten().zip(gradients(&twice).iter().flatten()) {
            assert!((2.0 * once - twice).abs() < 1e-4 * twice.abs().max(1.0), "{once} {twice}");
        }
    }

    #[test]
    #[should_panic(expected = "cross_attention: row 1 has length 0, but a row has 1 to 4 words")]
    fn a_row_without_keys_is_refused() {
        let (h, words) = (Tensor::zeros([2, 3, 3, 5]), Tensor::zeros([2, 4, 6]));
        cross_attention(&h, &words, &Tensor::zeros([5, 6]), &IntTensor::new(vec![4, 0], [2]));
    }
}
