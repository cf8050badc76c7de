//! How much work a step of each phase is, to tell the time that is left beyond the phase at hand.

use crate::config::Config;
use crate::mirrorgan::backbone::{BackboneConfig, BackboneKind};
use crate::run::Phase;

/// Multiplications of one step, roughly: convolutions alone, in all passes of each network.
pub fn of_step(phase: Phase, config: &Config) -> f64 {
    let side = config.largest_side();
    let captioner = &config.captioner.network;
    let captioner = backbone(&captioner.backbone, captioner.resize.unwrap_or(side));
    let damsm = backbone(&config.damsm.backbone, side);
    let image = match phase {
        // Forward, and backward for inputs and for weights.
        Phase::Damsm => 3.0 * damsm,
        Phase::Captioner => 3.0 * captioner,
        // Each discriminator learns from two images, and passes its verdict on a third back to the generator.
        Phase::Gan => {
            let frozen = |weight: f32, work: f64| if weight > 0.0 { 2.0 * work } else { 0.0 };
            3.0 * generator(config)
                + 8.0 * discriminators(config)
                + frozen(config.loss.lambda_captioner, captioner)
                + frozen(config.loss.lambda_damsm, damsm)
        }
    };
    image * phase.schedule(config).batch as f64
}

/// A convolution of `kernel`² over a map of `side`².
fn conv(kernel: usize, inputs: usize, outputs: usize, side: usize) -> f64 {
    (kernel * kernel * inputs * outputs) as f64 * (side * side) as f64
}

/// Multiplications of the published networks on an image of their own size.
const INCEPTION_V3: f64 = 5.7e9;
const RESNET_152: f64 = 11.5e9;
const EFFICIENTNET_LITE0: f64 = 0.4e9;
const EFFICIENTNET_LITE2: f64 = 0.9e9;

fn backbone(config: &BackboneConfig, side: usize) -> f64 {
    match config.kind {
        BackboneKind::Small => {
            let inputs = [3].into_iter().chain(config.widths.iter().copied());
            let layers = inputs.zip(&config.widths).zip(1..);
            layers.map(|((inputs, &outputs), layer)| conv(4, inputs, outputs, side >> layer)).sum()
        }
        BackboneKind::InceptionV3 => INCEPTION_V3,
        BackboneKind::Resnet152 => RESNET_152,
        BackboneKind::EfficientnetLite0 => EFFICIENTNET_LITE0,
        BackboneKind::EfficientnetLite2 => EFFICIENTNET_LITE2,
    }
}

fn generator(config: &Config) -> f64 {
    let sizes = &config.generator;
    let width = sizes.width;
    // An UpBlock doubles the side, then maps 2c channels to 2c, which a gate halves.
    let first = (0..sizes.first_ups).map(|up| {
        let channels = width << (sizes.first_ups - up);
        conv(3, channels, channels, 8 << up)
    });
    let stages = (1..sizes.stages).map(|stage| {
        let side = sizes.stage_side(stage - 1);
        let block = conv(3, 2 * width, 4 * width, side) + conv(3, 2 * width, 2 * width, side);
        sizes.residual_blocks as f64 * block + conv(3, 2 * width, 2 * width, 2 * side)
    });
    let heads = sizes.image_sides().into_iter().map(|side| conv(3, width, 3, side));
    first.chain(stages).chain(heads).sum()
}

fn discriminators(config: &Config) -> f64 {
    let width = config.discriminator.width;
    let of = |side: usize| {
        let halvings = (side / 4).ilog2() as usize;
        let layers = (1..halvings).map(|i| conv(4, width << (i - 1), width << i, side >> (i + 1)));
        conv(4, 3, width, side / 2) + layers.sum::<f64>()
    };
    config.generator.image_sides().into_iter().map(of).sum()
}
