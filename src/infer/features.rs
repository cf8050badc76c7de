//! Runs networks over the held-out images, for metrics.

use crate::engine::Tensor;
use crate::error::Result;
use crate::run::{Context, Inputs};

/// Held-out images and their captions as vectors of DAMSM's space.
#[derive(Default)]
pub struct Codes {
    pub images: Vec<Vec<f32>>,
    pub captions: Vec<Vec<f32>>,
    pub classes: Vec<i32>,
}

/// Calls `f` with each batch of the held-out images.
pub fn for_held_out(context: &Context, batch: usize, mut f: impl FnMut(&Inputs)) -> Result<()> {
    let config = context.config;
    for batch in context.held_out(config.eval.images, batch)? {
        let batch = batch?;
        if !batch.is_empty() {
            f(&Inputs::new(batch, &[config.largest_side()]));
        }
    }
    Ok(())
}

/// The codes of the held-out images; `encode` gives those of a batch's images and of its captions, both [B,D].
pub fn codes(context: &Context, mut encode: impl FnMut(&Inputs) -> (Tensor, Tensor)) -> Result<Codes> {
    let mut codes = Codes::default();
    for_held_out(context, context.config.gan.schedule.batch, |batch| {
        codes.classes.extend(batch.classes.as_slice());
        let (images, captions) = encode(batch);
        codes.images.extend(rows(&images));
        codes.captions.extend(rows(&captions));
    })?;
    Ok(codes)
}

fn rows(t: &Tensor) -> Vec<Vec<f32>> {
    t.to_vec().chunks(t.shape().last_dim()).map(<[f32]>::to_vec).collect()
}
