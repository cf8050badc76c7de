//! Pillow's antialiased bilinear resizing, to the bit.
//!
//! Each output pixel is the mean of the input about its center, weighted by a triangle that is one output pixel
//! wide either side where the picture shrinks, and one input pixel where it grows. Rows first, then columns, with
//! 8-bit values between and weights in fixed point. Source: `Resample.c` of Pillow. Written out here because a
//! resizer for one kind of pixel and one filter is a page, and a general one takes minutes to compile. Halving and
//! quartering, which every batch needs for the smaller stages, go through [`Small`] sums, with the same result.

use std::ops::Range;

use super::picture::Picture;

/// Bits after the point of a weight: eight of a value and two spare fit an `i32` beside them.
const FRACTION: u32 = 22;

const CHANNELS: usize = 3;

type Pixel = [u8; CHANNELS];

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
    let mut pixels = vec![[0; CHANNELS]; taps.len() * picture.height];
    let even = Even::of(taps);
    let inside = even.as_ref().map_or(0..0, |even| even.outs.clone());
    let mut phases = Phases::default();
    for (y, row) in picture.pixels.chunks_exact(picture.width * CHANNELS).enumerate() {
        let (row, out) = (row.as_chunks().0, &mut pixels[y * taps.len()..][..taps.len()]);
        for at in (0..inside.start).chain(inside.end..taps.len()) {
            out[at] = weighted(row, &taps[at]);
        }
        if let Some(even) = &even {
            phases.resize(row, even, &mut out[inside.clone()]);
        }
    }
    Picture { width: taps.len(), height: picture.height, pixels: pixels.into_flattened() }
}

fn weighted(row: &[Pixel], Taps { first, weights }: &Taps) -> Pixel {
    let mut sums = [HALF; CHANNELS];
    for (pixel, weight) in row[*first..].iter().zip(weights) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += i32::from(*value) * weight;
        }
    }
    sums.map(rounded)
}

/// Resizes each column to `taps.len()` pixels, a whole row of sums at a time.
fn resize_columns(picture: &Picture, taps: &[Taps]) -> Picture {
    let stride = picture.width * CHANNELS;
    let mut pixels = Vec::with_capacity(taps.len() * stride);
    let (mut sums, mut small_sums) = (vec![HALF; stride], vec![0; stride]);
    for Taps { first, weights } in taps {
        let rows = picture.pixels[first * stride..].chunks_exact(stride);
        if let Some(small) = Small::of(weights) {
            small.sum(rows, &mut small_sums);
            pixels.extend(small_sums.iter().map(|sum| (sum >> small.fraction) as u8));
            continue;
        }
        sums.fill(HALF);
        for (row, weight) in rows.zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        pixels.extend(sums.iter().copied().map(rounded));
    }
    Picture { width: picture.width, height: taps.len(), pixels }
}

/// Weights with few bits, as halving and quartering have them away from the edges: sums of 16 bits give what those of
/// 32 bits do, and a processor makes eight of them at once.
struct Small {
    weights: Vec<u16>,
    /// Bits after the point.
    fraction: u32,
}

impl Small {
    fn of(weights: &[i32]) -> Option<Small> {
        let spare = weights.iter().map(|weight| weight.trailing_zeros()).min()?.min(FRACTION - 1);
        let (total, fraction) = (weights.iter().sum::<i32>() >> spare, FRACTION - spare);
        let fits = weights.iter().all(|weight| *weight >= 0)
            && total.saturating_mul(255).saturating_add(1 << (fraction - 1)) <= i32::from(u16::MAX)
            && total == 1 << fraction;
        let weights = || weights.iter().map(|weight| (weight >> spare) as u16).collect();
        fits.then(|| Small { weights: weights(), fraction })
    }

    /// Adds up rows of values; half a unit is in the sums, so that the shift rounds to nearest.
    fn sum<'a>(&self, rows: impl Iterator<Item = &'a [u8]>, sums: &mut [u16]) {
        sums.fill(1 << (self.fraction - 1));
        for (row, weight) in rows.zip(&self.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(u16::from(*value).wrapping_mul(*weight));
            }
        }
    }
}

/// Neighboring outputs of equal small weights, whose inputs are `step` pixels apart.
struct Even {
    outs: Range<usize>,
    first: usize,
    step: usize,
    small: Small,
}

impl Even {
    /// The outputs about the middle.
    fn of(taps: &[Taps]) -> Option<Even> {
        let middle = taps.len() / 2;
        let (model, next) = (&taps[middle], taps.get(middle + 1)?);
        let step = next.first.checked_sub(model.first).filter(|step| *step > 0)?;
        let small = Small::of(&model.weights)?;
        let like = |at: &usize| {
            let tap = &taps[*at];
            tap.weights == model.weights && tap.first + middle * step == model.first + at * step
        };
        let start = (0..=middle).rev().take_while(like).last()?;
        let end = (middle..taps.len()).take_while(like).last()? + 1;
        Some(Even { outs: start..end, first: taps[start].first, step, small })
    }
}

/// A row by phases: every `step`-th pixel from each of the first ones, so that what a weight applies to is contiguous.
#[derive(Default)]
struct Phases {
    pixels: Vec<Pixel>,
    sums: Vec<u16>,
}

impl Phases {
    fn resize(&mut self, row: &[Pixel], even: &Even, out: &mut [Pixel]) {
        let Even { first, step, small, .. } = even;
        let (taps, count) = (small.weights.len(), out.len());
        let length = count + (taps - 1) / step;
        self.pixels.resize(step * length, Pixel::default());
        self.sums.resize(count * CHANNELS, 0);
        let needed = &row[*first..first + (count - 1) * step + taps];
        for (phase, pixels) in self.pixels.chunks_exact_mut(length).enumerate() {
            for (to, group) in pixels.iter_mut().zip(needed[phase..].chunks(*step)) {
                *to = group[0];
            }
        }
        let slice = |tap: usize| self.pixels[(tap % step) * length + tap / step..][..count].as_flattened();
        small.sum((0..taps).map(slice), &mut self.sums);
        for (value, sum) in out.as_flattened_mut().iter_mut().zip(&self.sums) {
            *value = (sum >> small.fraction) as u8;
        }
    }
}

/// Half a unit, so that the shift rounds to nearest.
const HALF: i32 = 1 << (FRACTION - 1);

fn rounded(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each output by itself, as the formula says.
    fn plain(picture: &Picture, width: usize, height: usize) -> Picture {
        let at = |picture: &Picture, x: usize, y: usize| -> Pixel {
            picture.pixels[(y * picture.width + x) * CHANNELS..][..CHANNELS].try_into().unwrap()
        };
        let make = |width: usize, height: usize, pixel: &dyn Fn(usize, usize) -> Pixel| {
            let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
            Picture { width, height, pixels: places.flat_map(|(x, y)| pixel(x, y)).collect() }
        };
        let (across, down) = (taps(picture.width, width), taps(picture.height, height));
        let rows = make(width, picture.height, &|x, y| {
            let row: Vec<Pixel> = (0..picture.width).map(|x| at(picture, x, y)).collect();
            weighted(&row, &across[x])
        });
        let rows = if width == picture.width { picture } else { &rows };
        let columns = make(width, height, &|x, y| {
            let column: Vec<Pixel> = (0..rows.height).map(|y| at(rows, x, y)).collect();
            weighted(&column, &down[y])
        });
        if height == picture.height { rows.clone() } else { columns }
    }

    #[test]
    fn sums_of_16_bits_are_those_of_32() {
        let sizes = [
            ([64, 64], [32, 32]),
            ([64, 64], [16, 16]),
            ([32, 32], [4, 8]),
            ([48, 30], [16, 10]),
            ([9, 8], [9, 4]),
            ([6, 7], [3, 1]),
            ([33, 21], [17, 40]),
            ([2, 2], [1, 1]),
        ];
        for (at, ([w, h], [width, height])) in sizes.into_iter().enumerate() {
            for bright in [false, true] {
                let value = |i: usize| if bright { 255 } else { (i * i * 31 + i * 7 + at) as u8 };
                let picture =
                    Picture { width: w, height: h, pixels: (0..w * h * CHANNELS).map(value).collect() };
                assert!(
                    picture.resized(width, height) == plain(&picture, width, height),
                    "{w}×{h} to {width}×{height}"
                );
            }
        }
    }
}
