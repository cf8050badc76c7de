//! The networks and losses of MirrorGAN (Qiao et al., "MirrorGAN: Learning Text-to-image Generation by
//! Redescription", CVPR 2019) and of AttnGAN (Xu et al., CVPR 2018), on which it builds; one file for each box:
//!
//! ```text
//! caption ── STEM ──┬─ words w, sentence s ──► GLAM ──► images I_0, I_1, I_2 ──► STREAM ──► caption again
//!            (stem) │                     (generator,        │                  (captioner)
//!                   │                        glam)           ├──► discriminators D_0, D_1, D_2
//!                   └─────────────────────────────────────── └──► DAMSM: does the image match the caption?
//! ```

pub mod backbone;
pub mod captioner;
pub mod damsm;
pub mod discriminator;
pub mod generator;
pub mod glam;
pub mod losses;
pub mod optional;
pub mod stem;

use crate::engine::nn::{Initializer, Policy};

// What people tune stands in the presets. What makes an architecture what it is, and what published weights were
// trained with, is a named constant beside the network, with its source.

/// Initial values of the generator and of the discriminators: weights orthogonal, biases zero, scales of batch norms
/// from N(1, 0.02). Source: `weights_init` of AttnGAN's code; the scales are DCGAN's (Radford et al., 2016).
const ADVERSARIAL_POLICY: Policy = Policy {
    weight: Initializer::Orthogonal,
    bias: Initializer::Constant(0.0),
    scale: Initializer::Normal { mean: 1.0, deviation: 0.02 },
};

/// LeakyReLU's slope below zero (Radford et al., 2016, section 4).
const LEAKY_SLOPE: f32 = 0.2;
