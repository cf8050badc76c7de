//! Runs networks over the held-out images, for metrics.

use crate::data::Skip;
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

/// Follows a pass over the held-out images.
pub trait Watch {
    /// `done` of `total` images have been seen. Whether to go on.
    fn seen(&mut self, done: usize, total: usize) -> bool;
    /// An image cannot be used.
    fn skipped(&mut self, skip: &Skip);
}

/// Calls `f` with each batch of at most `count` held-out images. Whether all were seen: `watch` may end it.
pub fn for_held_out(
    context: &Context,
    count: usize,
    batch: usize,
    watch: &mut dyn Watch,
    mut f: impl FnMut(&Inputs),
) -> Result<bool> {
    let config = context.config;
    let total = context.held_out_count(count);
    let mut done = 0;
    if !watch.seen(done, total) {
        return Ok(false);
    }
    for batch in context.held_out(count, batch)? {
        let batch = batch?;
        batch.skipped.iter().for_each(|skip| watch.skipped(skip));
        done += batch.len() + batch.skipped.len();
        if !batch.is_empty() {
            f(&Inputs::new(batch, &[config.largest_side()]));
        }
        if !watch.seen(done, total) && done < total {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The codes of at most `count` held-out images, seen in batches of `batch`; `encode` gives those of a batch's images and of its captions, both [B,D]. None
/// where `watch` ended it.
pub fn codes(
    context: &Context,
    count: usize,
    batch: usize,
    watch: &mut dyn Watch,
    mut encode: impl FnMut(&Inputs) -> (Tensor, Tensor),
) -> Result<Option<Codes>> {
    let mut codes = Codes::default();
    let whole = for_held_out(context, count, batch, watch, |batch| {
        codes.classes.extend(batch.classes.as_slice());
        let (images, captions) = encode(batch);
        codes.images.extend(rows(&images));
        codes.captions.extend(rows(&captions));
    })?;
    Ok(whole.then_some(codes))
}

fn rows(t: &Tensor) -> Vec<Vec<f32>> {
    t.to_vec().chunks(t.shape().last_dim()).map(<[f32]>::to_vec).collect()
}
