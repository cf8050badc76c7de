//! The networks of a run, recognized by the keys of their files.

use crate::config::Config;
use crate::engine::nn::{Archive, Source, Store};
use crate::error::Result;
use crate::infer::frozen::{
    CAPTION_CNN, CAPTION_RNN, GENERATOR, IMAGE_ENCODER, TEXT_ENCODER, build_captioner, build_discriminator,
    build_generator, build_image_encoder, build_text_encoder, discriminator_stem,
};
use crate::run::Phase;

/// What a file's keys tell without a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    TextEncoder,
    ImageEncoder,
    CaptionCnn,
    CaptionRnn,
    Generator,
    Discriminator,
}

/// A network of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    TextEncoder,
    ImageEncoder,
    CaptionCnn,
    CaptionRnn,
    Generator,
    /// Of the image with this number, the smallest first.
    Discriminator(usize),
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Generator,
        Kind::TextEncoder,
        Kind::ImageEncoder,
        Kind::CaptionCnn,
        Kind::CaptionRnn,
        Kind::Discriminator,
    ];

    /// As messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Generator => GENERATOR,
            Kind::TextEncoder => TEXT_ENCODER,
            Kind::ImageEncoder => IMAGE_ENCODER,
            Kind::CaptionCnn => CAPTION_CNN,
            Kind::CaptionRnn => CAPTION_RNN,
            Kind::Discriminator => "netD",
        }
    }

    /// Keys that together occur in no other network.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Generator => &["ca_net.fc.weight"],
            Kind::TextEncoder => &["encoder.weight", "rnn.weight_ih_l0"],
            Kind::ImageEncoder => &["emb_features.weight"],
            Kind::CaptionCnn => &["linear.weight", "bn.running_mean"],
            Kind::CaptionRnn => &["embed.weight", "lstm.weight_ih_l0"],
            Kind::Discriminator => &["img_code_s16.0.weight"],
        }
    }
}

/// Takes every network out of an archive. Its keys may have any prefix (`module.`, `netG.`), as forks write them.
pub fn take_networks(archive: &mut Archive) -> Vec<(Kind, Archive)> {
    let mut places: Vec<(String, Kind)> = Vec::new();
    for kind in Kind::ALL {
        let (first, others) = kind.keys().split_first().expect("every kind has a key");
        for name in archive.names() {
            let Some(prefix) = name.strip_suffix(first) else { continue };
            let is_whole = prefix.is_empty() || prefix.ends_with('.');
            if is_whole && others.iter().all(|key| archive.get(&format!("{prefix}{key}")).is_some()) {
                places.push((prefix.to_string(), kind));
            }
        }
    }
    // The keys of a network without a prefix are all that the others leave.
    places.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    places.into_iter().map(|(prefix, kind)| (kind, archive.take_prefixed(&prefix))).collect()
}

impl Network {
    /// The stem of its file.
    pub fn name(self) -> String {
        match self {
            Network::TextEncoder => TEXT_ENCODER.to_string(),
            Network::ImageEncoder => IMAGE_ENCODER.to_string(),
            Network::CaptionCnn => CAPTION_CNN.to_string(),
            Network::CaptionRnn => CAPTION_RNN.to_string(),
            Network::Generator => GENERATOR.to_string(),
            Network::Discriminator(index) => discriminator_stem(index),
        }
    }

    pub fn phase(self) -> Phase {
        match self {
            Network::TextEncoder | Network::ImageEncoder => Phase::Damsm,
            Network::CaptionCnn | Network::CaptionRnn => Phase::Captioner,
            Network::Generator | Network::Discriminator(_) => Phase::Gan,
        }
    }

    /// Which network of a configuration an archive of a kind is.
    pub fn of(kind: Kind, archive: &Archive, config: &Config) -> Result<Network> {
        Ok(match kind {
            Kind::TextEncoder => Network::TextEncoder,
            Kind::ImageEncoder => Network::ImageEncoder,
            Kind::CaptionCnn => Network::CaptionCnn,
            Kind::CaptionRnn => Network::CaptionRnn,
            Kind::Generator => Network::Generator,
            Kind::Discriminator => Network::Discriminator(discriminator(archive, config)?),
        })
    }

    /// Its names and shapes with a vocabulary of `words`.
    pub fn shapes(self, words: usize, config: &Config) -> Result<Store> {
        let captioner = || Ok(build_captioner([Source::Shapes, Source::Shapes], words, config)?.1);
        Ok(match self {
            Network::TextEncoder => build_text_encoder(Source::Shapes, words, config)?.1,
            Network::ImageEncoder => build_image_encoder(Source::Shapes, config)?.1,
            Network::CaptionCnn => captioner().map(|stores| stores.cnn)?,
            Network::CaptionRnn => captioner().map(|stores| stores.rnn)?,
            Network::Generator => build_generator(Source::Shapes, config)?.1,
            Network::Discriminator(index) => {
                let side = config.generator.image_sides()[index];
                build_discriminator(Source::Shapes, side, config)?.1
            }
        })
    }
}

/// The image that a discriminator scores: that whose discriminator has most keys of these, and fewest others.
fn discriminator(archive: &Archive, config: &Config) -> Result<usize> {
    let mut best = (usize::MAX, 0);
    for index in 0..config.generator.image_sides().len() {
        let store = Network::Discriminator(index).shapes(1, config)?;
        let shared = store.entries().iter().filter(|param| archive.get(param.name()).is_some()).count();
        best = best.min((store.entries().len() + archive.len() - 2 * shared, index));
    }
    Ok(best.1)
}
