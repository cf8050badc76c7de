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
        let rows = (region.top..region.bottom).map(|row| (row * self.width + region.left) * 3);
        let pixels = rows.flat_map(|start| &self.pixels[start..start + width * 3]).copied().collect();
        Picture { width, height, pixels }
    }

    /// Left and right exchanged.
    pub fn mirrored(&self) -> Picture {
        let rows = self.pixels.chunks_exact(self.width * 3);
        let pixels = rows.flat_map(|row| row.chunks_exact(3).rev()).flatten().copied().collect();
        Picture { pixels, ..*self }
    }

    /// Values `v / 127.5 − 1` appended to `out`: `[height, width, 3]` in [−1, 1].
    pub fn normalize_into(&self, out: &mut Vec<f32>) {
        out.extend(self.pixels.iter().map(|value| f32::from(*value) / 127.5 - 1.0));
    }
}
