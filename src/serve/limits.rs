//! How much a client may ask for.

/// The most bytes of a body.
pub(super) const BYTES: usize = 64 * 1024;
/// The most characters of a caption.
pub(super) const CHARACTERS: usize = 1000;
/// The most pictures of a request.
pub(super) const SAMPLES: usize = 16;
/// The most frames of an animation.
pub(super) const FRAMES: usize = 48;
/// The most that noise, condition and sentence may be multiplied by.
pub(super) const FACTOR: f32 = 3.0;
