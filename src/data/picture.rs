//! 8-bit RGB pictures.

/// RGB, 8 bits a channel, rows from the top: `pixels.len() == width · height · 3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

/// A region in pixels: columns `left..right`, rows `top..bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

impl Picture {
    /// The pixels of `region`, which must lie inside.
    pub fn crop(&self, region: Region) -> Picture {
        let (width, height) = (region.right - region.left, region.bottom - region.top);
        let mut pixels = Vec::with_capacity(width * height * 3);
        for row in region.top..region.bottom {
            let start = (row * self.width + region.left) * 3;
            pixels.extend_from_slice(&self.pixels[start..start + width * 3]);
        }
        Picture { width, height, pixels }
    }

    /// Left and right exchanged.
    pub fn mirrored(&self) -> Picture {
        let mut pixels = vec![0; self.pixels.len()];
        let rows = pixels.chunks_exact_mut(self.width * 3).zip(self.pixels.chunks_exact(self.width * 3));
        for (to, from) in rows {
            let (to, _) = to.as_chunks_mut::<3>();
            for (to, from) in to.iter_mut().zip(from.as_chunks::<3>().0.iter().rev()) {
                *to = *from;
            }
        }
        Picture { pixels, ..*self }
    }

    /// Values `v / 127.5 − 1` appended to `out`: `[height, width, 3]` in [−1, 1].
    pub fn normalize_into(&self, out: &mut Vec<f32>) {
        out.extend(self.pixels.iter().map(|value| f32::from(*value) / 127.5 - 1.0));
    }
}
