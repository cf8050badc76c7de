//! Pictures at another size without rounding to 8 bits, each as one library of evaluators computes it, to the bit where that is
//! defined: Pillow's bicubic filter on float channels, and the bilinear ones of TensorFlow 1 and of PyTorch.

use super::picture::Picture;

const CHANNELS: usize = 3;

/// The input pixels that one output pixel is made from.
struct Taps {
    first: usize,
    weights: Vec<f64>,
}

impl Picture {
    /// Pillow's antialiased bicubic filter on each channel as floats, clipped to 0..255: [height,width,3]. Source:
    /// `Resample.c` of Pillow (32 bits a channel), as clean-fid calls it.
    pub fn bicubic(&self, width: usize, height: usize) -> Vec<f32> {
        let mut values = self.floats();
        if width != self.width {
            values = bicubic_rows(&values, self.width, &cubic_taps(self.width, width));
        }
        if height != self.height {
            values = bicubic_columns(&values, width, &cubic_taps(self.height, height));
        }
        values.into_iter().map(|value| value.clamp(0.0, 255.0)).collect()
    }

    /// TensorFlow 1's bilinear resizing, whose corners are the input's and whose pixels have no centers, of values 0..255:
    /// [height,width,3]. Source: `interpolate_compat_tensorflow.py` of torch-fidelity.
    pub fn bilinear_of_tensorflow(&self, width: usize, height: usize) -> Vec<f32> {
        let place = |out: usize, scale: f32| out as f32 * scale;
        let mix = |a: f32, b: f32, Tap { weight, .. }: &Tap| a + (b - a) * weight;
        bilinear(&self.floats(), [self.width, self.height], [width, height], place, mix)
    }

    /// PyTorch's bilinear interpolation (corners not aligned, no antialiasing) of values in [0, 1]: [height,width,3]. Its sums are
    /// not defined to the bit: they differ by 2e-7.
    pub fn bilinear_of_torch(&self, width: usize, height: usize) -> Vec<f32> {
        let values: Vec<f32> = self.pixels.iter().map(|value| f32::from(*value) / 255.0).collect();
        // Rounded once, as PyTorch's fused instruction does.
        let place = |out: usize, scale: f32| ((f64::from(scale) * (out as f64 + 0.5) - 0.5) as f32).max(0.0);
        let mix = |a: f32, b: f32, Tap { weight, .. }: &Tap| (1.0 - weight) * a + weight * b;
        bilinear(&values, [self.width, self.height], [width, height], place, mix)
    }

    /// 0..255 as floats.
    fn floats(&self) -> Vec<f32> {
        self.pixels.iter().map(|value| f32::from(*value)).collect()
    }
}

/// The cubic of Keys with a = -1/2, which reaches two pixels either side.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// The taps of every output pixel when `from` pixels become `to`.
fn cubic_taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (reach, inverse) = (2.0 * stretch, 1.0 / stretch);
    let tap = |out: usize| {
        let center = (out as f64 + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as usize;
        let last = ((center + reach + 0.5) as usize).min(from);
        let weight = |at: usize| cubic((at as f64 - center + 0.5) * inverse);
        let weights: Vec<f64> = (first..last).map(weight).collect();
        let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        Taps { first, weights: weights.into_iter().map(|weight| weight / sum).collect() }
    };
    (0..to).map(tap).collect()
}

fn bicubic_rows(values: &[f32], width: usize, taps: &[Taps]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len() / width * taps.len());
    for row in values.chunks_exact(width * CHANNELS) {
        for Taps { first, weights } in taps {
            let mut sums = [0.0; CHANNELS];
            for (pixel, weight) in row[first * CHANNELS..].as_chunks::<CHANNELS>().0.iter().zip(weights) {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(*value) * weight);
            }
            out.extend(sums.map(|sum| sum as f32));
        }
    }
    out
}

fn bicubic_columns(values: &[f32], width: usize, taps: &[Taps]) -> Vec<f32> {
    let stride = width * CHANNELS;
    let (mut out, mut sums) = (Vec::with_capacity(taps.len() * stride), vec![0.0; stride]);
    for Taps { first, weights } in taps {
        sums.fill(0.0);
        for (row, weight) in values[first * stride..].chunks_exact(stride).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value) * weight);
        }
        out.extend(sums.iter().map(|sum| *sum as f32));
    }
    out
}

/// The two input pixels that one output lies between, and how far it is from the first.
struct Tap {
    at: [usize; 2],
    weight: f32,
}

/// Rows are mixed first, then the two rows.
fn bilinear(
    values: &[f32],
    from: [usize; 2],
    to: [usize; 2],
    place: impl Fn(usize, f32) -> f32,
    mix: impl Fn(f32, f32, &Tap) -> f32,
) -> Vec<f32> {
    let taps = |from: usize, to: usize| -> Vec<Tap> {
        let scale = (from as f64 / to as f64) as f32;
        let tap = |out: usize| {
            let place = place(out, scale);
            let first = (place as usize).min(from - 1);
            Tap { at: [first, (first + 1).min(from - 1)], weight: place - first as f32 }
        };
        (0..to).map(tap).collect()
    };
    let (across, down, stride) = (taps(from[0], to[0]), taps(from[1], to[1]), from[0] * CHANNELS);
    let mut out = Vec::with_capacity(to[0] * to[1] * CHANNELS);
    for vertical in &down {
        let rows = vertical.at.map(|at| &values[at * stride..][..stride]);
        for horizontal in &across {
            let [left, right] = horizontal.at.map(|at| at * CHANNELS);
            out.extend((0..CHANNELS).map(|channel| {
                let [upper, lower] =
                    rows.map(|row| mix(row[left + channel], row[right + channel], horizontal));
                mix(upper, lower, vertical)
            }));
        }
    }
    out
}
