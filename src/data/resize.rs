//! Pillow's antialiased bilinear resizing, to the bit.
//!
//! Each output pixel is the mean of the input about its center, weighted by a triangle that is one output pixel
//! wide either side where the picture shrinks, and one input pixel where it grows. Rows first, then columns, with
//! 8-bit values between and weights in fixed point. Source: `Resample.c` of Pillow. Written out here because a
//! resizer for one kind of pixel and one filter is a page, and a general one takes minutes to compile.

use super::picture::Picture;

/// Bits after the point of a weight: eight of a value and two spare fit an `i32` beside them.
const FRACTION: u32 = 22;

const CHANNELS: usize = 3;

/// The input pixels that one output pixel is made from.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Picture {
    /// This picture at another width and height, neither of them 0.
    pub fn resized(&self, width: usize, height: usize) -> Picture {
        let across =
            if width == self.width { self.clone() } else { resize_rows(self, &taps(self.width, width)) };
        if height == self.height { across } else { resize_columns(&across, &taps(self.height, height)) }
    }

    /// The shorter side scaled to `side`, the other one in proportion (torchvision's `Resize(side)`).
    pub fn shorter_side(&self, side: usize) -> Picture {
        let (width, height) = self.scaled_size(side);
        self.resized(width, height)
    }

    /// Width and height with the shorter side scaled to `side`.
    pub fn scaled_size(&self, side: usize) -> (usize, usize) {
        let along = |length: usize, shorter: usize| side.saturating_mul(length) / shorter;
        if self.width <= self.height {
            (side, along(self.height, self.width))
        } else {
            (along(self.width, self.height), side)
        }
    }
}

/// The taps of every output pixel when `from` pixels become `to`.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let tap = |out: usize| {
        let center = (out as f64 + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as usize;
        let last = ((center + reach + 0.5) as usize).min(from);
        let triangle = |at: usize| (1.0 - ((at as f64 - center + 0.5) / reach).abs()).max(0.0);
        let sum: f64 = (first..last).map(triangle).sum();
        let fixed = |at| (triangle(at) / sum * f64::from(1 << FRACTION)).round() as i32;
        Taps { first, weights: (first..last).map(fixed).collect() }
    };
    (0..to).map(tap).collect()
}

/// Resizes each row to `taps.len()` pixels.
fn resize_rows(picture: &Picture, taps: &[Taps]) -> Picture {
    let mut pixels = Vec::with_capacity(taps.len() * picture.height * CHANNELS);
    for row in picture.pixels.chunks_exact(picture.width * CHANNELS) {
        for Taps { first, weights } in taps {
            let mut sums = [HALF; CHANNELS];
            for (pixel, weight) in row[first * CHANNELS..].chunks_exact(CHANNELS).zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            pixels.extend(sums.map(rounded));
        }
    }
    Picture { width: taps.len(), height: picture.height, pixels }
}

/// Resizes each column to `taps.len()` pixels, a whole row of sums at a time.
fn resize_columns(picture: &Picture, taps: &[Taps]) -> Picture {
    let stride = picture.width * CHANNELS;
    let mut pixels = Vec::with_capacity(taps.len() * stride);
    let mut sums = vec![HALF; stride];
    for Taps { first, weights } in taps {
        sums.fill(HALF);
        for (row, weight) in picture.pixels[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        pixels.extend(sums.iter().copied().map(rounded));
    }
    Picture { width: picture.width, height: taps.len(), pixels }
}

/// Half a unit, so that the shift rounds to nearest.
const HALF: i32 = 1 << (FRACTION - 1);

fn rounded(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}
