//! How each network is built from its values, and networks from checkpoints, whose parameters are frozen, so that the tape
//! records nothing for them.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::engine::nn::{Archive, Scope, Source, Store};
use crate::error::{Error, Result};
use crate::mirrorgan::captioner::Captioner;
use crate::mirrorgan::damsm::ImageEncoder;
use crate::mirrorgan::discriminator::Discriminator;
use crate::mirrorgan::generator::Generator;
use crate::mirrorgan::stem::TextEncoder;

/// File stems of a checkpoint, as published.
pub const TEXT_ENCODER: &str = "text_encoder";
pub const IMAGE_ENCODER: &str = "image_encoder";
pub const CAPTION_CNN: &str = "caption_cnn";
pub const CAPTION_RNN: &str = "caption_rnn";
/// The average of the generator's weights.
pub const GENERATOR: &str = "netG";
/// The generator's weights as trained.
pub const RAW_GENERATOR: &str = "netG_raw";

/// The file stem of a discriminator, from that of the smallest image, as published.
pub fn discriminator_stem(index: usize) -> String {
    format!("netD{index}")
}

/// The weight file of a network in a checkpoint.
pub fn weight_file(checkpoint: &Path, network: &str) -> PathBuf {
    checkpoint.join(format!("{network}.safetensors"))
}

fn archive(checkpoint: &Path, network: &str) -> Result<Source> {
    let file = weight_file(checkpoint, network);
    if !file.exists() {
        let why = format!("there is no {network} in this checkpoint; import it together with the others");
        return Err(Error::data(checkpoint, why));
    }
    Ok(Source::Archive(Archive::read(file)?))
}

/// STEM from a checkpoint of the DAMSM phase.
pub fn text_encoder(checkpoint: &Path, words: usize, config: &Config) -> Result<TextEncoder> {
    let (text, store) = build_text_encoder(archive(checkpoint, TEXT_ENCODER)?, words, config)?;
    store.freeze();
    Ok(text)
}

/// DAMSM's image encoder from a checkpoint of the DAMSM phase.
pub fn image_encoder(checkpoint: &Path, config: &Config) -> Result<ImageEncoder> {
    let (image, store) = build_image_encoder(archive(checkpoint, IMAGE_ENCODER)?, config)?;
    store.freeze();
    Ok(image)
}

/// The captioner from a checkpoint of its phase.
pub fn captioner(checkpoint: &Path, words: usize, config: &Config) -> Result<Captioner> {
    let sources = [archive(checkpoint, CAPTION_CNN)?, archive(checkpoint, CAPTION_RNN)?];
    let (captioner, stores) = build_captioner(sources, words, config)?;
    stores.cnn.freeze();
    stores.rnn.freeze();
    Ok(captioner)
}

/// The generator from a checkpoint of the GAN phase; `network` is [`GENERATOR`] or [`RAW_GENERATOR`].
pub fn generator(checkpoint: &Path, network: &str, config: &Config) -> Result<Generator> {
    let (generator, store) = build_generator(archive(checkpoint, network)?, config)?;
    store.freeze();
    Ok(generator)
}

pub fn build_text_encoder(source: Source, words: usize, config: &Config) -> Result<(TextEncoder, Store)> {
    Store::build(source, |scope| TextEncoder::new(scope, words, &config.text_encoder))
}

pub fn build_image_encoder(source: Source, config: &Config) -> Result<(ImageEncoder, Store)> {
    let Config { text_encoder, damsm, .. } = config;
    Store::build(source, |scope| ImageEncoder::new(scope, text_encoder.features, &damsm.backbone))
}

pub fn build_generator(source: Source, config: &Config) -> Result<(Generator, Store)> {
    let Config { text_encoder, generator, .. } = config;
    Store::build(source, |scope| Generator::new(scope, text_encoder.features, generator))
}

/// The discriminator of images of `side`.
pub fn build_discriminator(source: Source, side: usize, config: &Config) -> Result<(Discriminator, Store)> {
    let Config { text_encoder, discriminator, .. } = config;
    Store::build(source, |scope| Discriminator::new(scope, side, text_encoder.features, discriminator))
}

/// The parameters of the captioner: two files, as published.
pub struct CaptionerStores {
    pub cnn: Store,
    pub rnn: Store,
}

/// Builds the captioner from the values of its image network and of its LSTM.
pub fn build_captioner(
    [cnn, rnn]: [Source; 2],
    words: usize,
    config: &Config,
) -> Result<(Captioner, CaptionerStores)> {
    let network = &config.captioner.network;
    let inner = |cnn: &Scope| Store::build(rnn, |rnn| Captioner::new(cnn, rnn, words, network));
    let (built, cnn) = Store::build(cnn, inner)?;
    let (captioner, rnn) = built?;
    Ok((captioner, CaptionerStores { cnn, rnn }))
}
