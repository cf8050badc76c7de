//! Floor 4: the paper. MirrorGAN (Qiao et al., "MirrorGAN: Learning Text-to-image Generation by Redescription",
//! CVPR 2019) and what it builds on, AttnGAN (Xu et al., CVPR 2018), one file a box of the figure:
//!
//! ```text
//! caption ── STEM ──┬─ words w, sentence s ──► GLAM ──► images I_0, I_1, I_2 ──► STREAM ──► caption again
//!            (stem) │                     (generator,        │                  (captioner)
//!                   │                        glam)           ├──► discriminators D_0, D_1, D_2
//!                   └─────────────────────────────────────── └──► DAMSM: does the image match the words?
//! ```

pub mod backbone;
pub mod captioner;
pub mod damsm;
pub mod discriminator;
pub mod generator;
pub mod glam;
pub mod losses;
pub mod stem;

use crate::engine::nn::{Initializer, Policy};

/// Weights orthogonal, biases zero, batch norm's scale from N(1, 0.02): the first values of the generator and of
/// the discriminators in the published code, after DCGAN (Radford et al., 2016, section 4).
const ADVERSARIAL_POLICY: Policy = Policy {
    weight: Initializer::Orthogonal,
    bias: Initializer::Constant(0.0),
    scale: Initializer::Normal { mean: 1.0, deviation: 0.02 },
};

/// The slope of LeakyReLU below zero in every network that has one (DCGAN, section 3).
const SLOPE: f32 = 0.2;
