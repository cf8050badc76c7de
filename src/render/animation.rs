//! Animated GIFs.

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, RgbaImage};

use super::canvas::scaled;
use crate::data::Picture;

/// A picture and how long it is shown, in milliseconds.
pub struct Frame {
    pub picture: Picture,
    pub milliseconds: u32,
}

/// The frames of an interpolation; its ends are held.
pub fn with_held_ends(pictures: Vec<Picture>) -> Vec<Frame> {
    const MOVING: u32 = 100;
    const HELD: u32 = 700;
    let last = pictures.len().saturating_sub(1);
    let frame = |(i, picture): (usize, Picture)| Frame {
        picture,
        milliseconds: if i == 0 || i == last { HELD } else { MOVING },
    };
    pictures.into_iter().enumerate().map(frame).collect()
}

/// The bytes of a GIF that plays for ever. Colors are reduced to 256 of each frame's own.
///
/// # Panics
/// Where a picture is larger than the format's 65,535 pixels a side.
pub fn gif(frames: Vec<Frame>) -> Vec<u8> {
    /// Smaller frames are enlarged to this side.
    const LEAST: usize = 256;
    /// From 1, slow, to 30.
    const SPEED: i32 = 10;
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, SPEED);
    encoder.set_repeat(Repeat::Infinite).expect("memory can be written");
    for Frame { picture, milliseconds } in frames {
        let picture =
            if picture.width.max(picture.height) < LEAST { scaled(&picture, LEAST) } else { picture };
        let pixels = picture.pixels.chunks(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
        let image = RgbaImage::from_raw(picture.width as u32, picture.height as u32, pixels);
        let image = image.expect("a picture has three bytes a pixel");
        let delay = Delay::from_numer_denom_ms(milliseconds, 1);
        encoder.encode_frame(image::Frame::from_parts(image, 0, 0, delay)).expect("memory can be written");
    }
    drop(encoder);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::AnimationDecoder;
    use image::codecs::gif::GifDecoder;

    #[test]
    fn a_gif_has_its_frames_and_their_colors() {
        let flat = |value: u8| Picture { width: 5, height: 4, pixels: vec![value; 60] };
        let frames = [10, 200, 90].map(|value| Frame { picture: flat(value), milliseconds: 120 });
        let bytes = gif(frames.into());
        let decoder = GifDecoder::new(std::io::Cursor::new(&bytes)).unwrap();
        let frames = decoder.into_frames().collect_frames().unwrap();
        let first: Vec<u8> = frames.iter().map(|frame| frame.buffer().get_pixel(2, 2)[0]).collect();
        assert_eq!(first, [10, 200, 90]);
        assert_eq!(frames[0].delay().numer_denom_ms(), (120, 1));
    }
}
